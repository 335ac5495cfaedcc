//! Every sentence, and which of several things is told.

use uuid::Uuid;

use super::*;
use crate::definition::QueueDefinition;
use crate::item::ItemId;
use crate::item::door::{self, Arrival};
use crate::item::request::Request;

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

const NOW: i64 = 1_000;

fn ready() -> Item {
    let hash = door::content_hash(b"");
    let id = ItemId::new(Uuid::from_u128(1));
    door::admit(&QueueDefinition::with_defaults("q"), &Arrival::default(), 4, hash, id, second(0))
}

fn delayed() -> Item {
    Item { place: Place::Delayed, ready_at: second(2_000), not_before: Some(second(2_000)), ..ready() }
}

fn out() -> Item {
    Item { place: Place::Broker, attempt: 1, dispatched_at: Some(second(900)), ..ready() }
}

fn processing() -> Item {
    let worker = Some("intake-7".to_owned());
    Item { state: State::Processing, worker, started_at: Some(second(950)), progress: Some(40), ..out() }
}

fn settled(state: State) -> Item {
    Item { state, place: Place::Settled, attempt: 1, finished_at: Some(second(990)), ..ready() }
}

fn facts() -> Facts {
    Facts { defined: true, consumers: Some(2), ready: Some(5), window: 200, ..Facts::default() }
}

#[expect(clippy::unnecessary_wraps, reason = "as the facts have it")]
const fn few(count: u64) -> Option<Ahead> {
    Some(Ahead { count, at_least: false })
}

fn told(item: &Item, facts: &Facts) -> (&'static str, String, Option<i64>) {
    let why = why(item, facts, second(NOW));
    assert!(WORDS.contains(&why.word), "{}", why.word);
    let one_sentence = why.text.ends_with('.') && !why.text.contains("..") && !why.text.contains("  ");
    assert!(one_sentence, "{}", why.text);
    (why.word, why.text, why.until.map(Timestamp::as_second))
}

#[test]
fn what_is_finished_waits_for_nobody_or_for_people() {
    let said = |reason: &str| Some(reason.to_owned());
    let worker = said("ann");
    for (item, word, sentence) in [
        (
            Item { worker: worker.clone(), ..settled(State::Processed) },
            "nothing",
            "ann processed it, and it waits for nothing.",
        ),
        (settled(State::Processed), "nothing", "It is processed and waits for nothing."),
        (
            Item { silent: true, worker, ..settled(State::Processed) },
            "nothing",
            "It counts as processed, because the broker's numbers say so, and waits for nothing.",
        ),
        (settled(State::Cancelled), "nothing", "It was cancelled and waits for nothing; restore brings it back."),
        (
            Item { reason: said("no such vendor."), ..settled(State::Exception(Kind::Business)) },
            "person",
            "The data is wrong, so it is not tried again (no such vendor); it waits for a person to edit and requeue it, or to cancel it.",
        ),
        (
            Item { retries: 3, code: said("E1"), ..settled(State::Exception(Kind::It)) },
            "person",
            "A system failed and all retries are used up (3) (E1); it waits for a person to see to the cause and requeue it, or to cancel it.",
        ),
        (
            settled(State::Exception(Kind::Missing)),
            "person",
            "It vanished from the robots' queue and nobody reported it; it waits for a late report, or for a person to look whether the work was done and requeue or cancel it.",
        ),
        (
            Item { payload_gone: true, ..settled(State::Exception(Kind::Timeout)) },
            "person",
            "It took longer than processing_timeout; its payload is not kept any more, so it can only be cancelled.",
        ),
    ] {
        assert_eq!(told(&item, &facts()), (word, sentence.to_owned(), None));
    }
    for kind in Kind::ALL {
        let (word, text, _) = told(&settled(State::Exception(*kind)), &facts());
        assert!(word == "person" && text.contains("; it waits for"), "{text}");
    }
}

#[test]
fn what_is_on_hold_says_who_did_it() {
    let held = Facts { held: Some(("ida".to_owned(), second(500))), ..facts() };
    let sentence = "It is on hold by ida since 1970-01-01T00:08:20Z and waits to be released.";
    assert_eq!(told(&settled(State::OnHold), &held), ("person", sentence.to_owned(), None));
    assert_eq!(told(&settled(State::OnHold), &facts()).1, "It is on hold and waits to be released.");
}

#[test]
fn what_waits_in_the_mirror_says_for_what() {
    let many = Facts { ahead: Some(Ahead { count: 10_000, at_least: true }), ..facts() };
    let full = Facts { ready: Some(200), ahead: few(41), ..facts() };
    let retry = Item { not_before: None, attempt: 2, ..delayed() };
    for (item, facts, word, sentence, until) in [
        (delayed(), facts(), "delay", "It is not to go out before 1970-01-01T00:33:20Z.", Some(2_000)),
        (
            retry,
            facts(),
            "retry",
            "Attempt 2 failed or gave it back; attempt 3 begins at 1970-01-01T00:33:20Z or later.",
            Some(2_000),
        ),
        (
            Item { size: None, place: Place::Delayed, ..ready() },
            facts(),
            "payload",
            "Only a report or dead letter of it came so far; it waits for its copy with the payload.",
            None,
        ),
        (ready(), facts(), "turn", "It is ready and goes out next.", None),
        (
            ready(),
            Facts { ahead: few(1), ..facts() },
            "turn",
            "It is ready and goes out in its turn (priority 4); 1 item goes before it.",
            None,
        ),
        (
            ready(),
            many,
            "turn",
            "It is ready and goes out in its turn (priority 4); more than 10000 items go before it.",
            None,
        ),
        (
            ready(),
            full.clone(),
            "window",
            "The window of 200 ready items is full; it goes out as robots take them; 41 items go before it.",
            None,
        ),
        (
            ready(),
            Facts { consumers: Some(0), ahead: few(0), ..full },
            "robots",
            "No robot is connected to its queue, and the window is full; nothing goes before it.",
            None,
        ),
        (
            ready(),
            Facts { working: Some((5, 5)), ahead: few(2), ..facts() },
            "max_working",
            "5 items of its queue are being worked on, and max_working lets no more out than 5; 2 items go before it.",
            None,
        ),
    ] {
        assert_eq!(told(&item, &facts), (word, sentence.to_owned(), until));
    }
}

/// Each of these would hold it up alone; whatever stands above is told first.
#[test]
fn what_stops_a_queue_is_told_before_its_order() {
    let since = second(400);
    let mut facts = Facts { ready: Some(500), consumers: Some(0), ..facts() };
    let mut expected: Vec<(&str, &str)> = Vec::new();
    let mut note = |facts: &Facts, word, part| {
        expected.push((word, part));
        let (told, text, _) = told(&ready(), facts);
        assert!(told == word && text.contains(part), "{told} {text}, not {word} {part}");
    };
    note(&facts, "robots", "No robot is connected");
    facts.recalling = true;
    note(&facts, "recall", "are being taken back");
    facts.unready = true;
    note(&facts, "topology", "is not there yet");
    facts.broker_blocked = Some("memory".to_owned());
    note(&facts, "broker_alarm", "takes nothing for the moment (memory)");
    facts.broker_away = Some("refused".to_owned());
    note(&facts, "broker", "cannot be reached (refused)");
    facts.breaker = Some((Standing::Trying(since), None));
    note(&facts, "breaker_trial", "one item at a time");
    facts.breaker = Some((Standing::Open, Some(second(3_000))));
    note(&facts, "breaker", "is open until 1970-01-01T00:50:00Z after alike failures");
    facts.migrating = Some(("draining".to_owned(), since));
    note(&facts, "migration", "is being made anew (draining)");
    facts.paused_by = Some(("ida".to_owned(), since));
    note(&facts, "resume", "paused by ida since 1970-01-01T00:06:40Z");
    facts.paused_by_definition = true;
    note(&facts, "resume", "paused by the definition");
    facts.defined = false;
    note(&facts, "definition", "Nobody defines its queue any more");
    facts.lease = Some(("ann".to_owned(), second(4_000)));
    note(&facts, "lease", "ann has it, with a lease until 1970-01-01T01:06:40Z");
    assert_eq!(expected.len(), 12);
    // Its own time goes before all that.
    assert_eq!(told(&delayed(), &Facts { lease: None, ..facts }).0, "delay");
}

#[test]
fn what_is_out_says_where() {
    let away = Some("refused".to_owned());
    for (item, facts, word, sentence) in [
        (
            processing(),
            facts(),
            "robot",
            "intake-7 works on it since 1970-01-01T00:15:50Z, 40 % done; it waits for the report.",
        ),
        (
            processing(),
            Facts { broker_away: away.clone(), ..facts() },
            "robot",
            "intake-7 works on it since 1970-01-01T00:15:50Z, 40 % done; it waits for the report (the broker cannot be reached: refused).",
        ),
        (
            Item { rejected_at: Some(second(960)), ..out() },
            facts(),
            "judgement",
            "A robot rejected it without a word; it waits for a report that may still be on its way.",
        ),
        (Item { place: Place::Claimed, ..out() }, facts(), "confirm", "It is on its way to the robots' queue."),
        (
            Item { place: Place::Claimed, ..out() },
            Facts { broker_away: away, ..facts() },
            "broker",
            "It is on its way to the robots' queue, and the broker cannot be reached (refused).",
        ),
        (
            out(),
            facts(),
            "robot_free",
            "It is in the robots' queue and waits for a robot; whether one has it already is not known, for nobody reported 'started'.",
        ),
        (
            Item { lane: Lane::Direct, ..out() },
            Facts { ahead: few(7), ..facts() },
            "robot_free",
            "It is in the robots' queue (direct) with about 7 items before it; whether one has it already is not known, for nobody reported 'started'.",
        ),
        (
            out(),
            Facts { consumers: Some(0), ..facts() },
            "robots",
            "It is in the robots' queue, and no robot is connected to that.",
        ),
        (
            out(),
            Facts { migrating: Some(("draining".to_owned(), second(400))), ..facts() },
            "migration",
            "Its robots' queue is being made anew (draining) since 1970-01-01T00:06:40Z, and it is among what is kept meanwhile.",
        ),
    ] {
        assert_eq!(told(&item, &facts), (word, sentence.to_owned(), None));
    }
}

#[test]
fn what_somebody_asked_for_is_told_with_what_it_waits_for() {
    let request = |action, on_sight, taken| Request {
        action,
        who: "ida".to_owned(),
        why: None,
        at: second(970),
        on_sight,
        taken,
        carried: None,
        lease: None,
        changes: None,
    };
    let item = Item { pending: Some(request(Action::Cancel, false, false)), ..processing() };
    let (word, text, _) = told(&item, &facts());
    assert_eq!(word, "recall");
    assert!(text.starts_with("ida asked to cancel it, which waits until its message is out of the robots' queue; until then: intake-7 works"), "{text}");
    let item = Item { pending: Some(request(Action::Hold, true, false)), ..out() };
    assert!(
        told(&item, &facts())
            .1
            .contains("hold it, which is done when it next passes the daemon; until then: it is in the robots' queue")
    );
    // What is carried out waits for nothing any more.
    let item = Item { pending: Some(request(Action::Hold, false, true)), ..settled(State::OnHold) };
    assert_eq!(told(&item, &facts()).0, "person");
}
