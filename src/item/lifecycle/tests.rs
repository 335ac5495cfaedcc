//! The moves of an item, told as behaviours. `chart` holds docs/lifecycle.md to them, `histories` tries any sequence.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::definition::QueueDefinition;
use crate::item::ItemId;
use crate::item::door::{self, Arrival};
use crate::item::retry::Backoff;

mod attempts;
mod chart;
mod histories;
mod leases;
mod people;

const RULES: Rules<'static> = Rules { retry: &POLICY, crash_limit: 5 };
const BACKOFF: Backoff =
    Backoff { first: Duration::from_secs(30), factor: 2.0, max: Duration::from_secs(3600), jitter: 0.2 };
const ONCE: Retry = Retry { limit: 1, backoff: BACKOFF };
const NEVER: Retry = Retry { limit: 0, backoff: BACKOFF };
/// Something of everything, so that both sides of every limit are near.
const POLICY: RetryPolicy =
    RetryPolicy { it: Retry { limit: 2, backoff: BACKOFF }, generic: ONCE, timeout: ONCE, requeue_limit: 2 };
const TIMEOUT: Duration = Duration::from_secs(60);
const NO_RETRIES: Rules<'static> =
    Rules { retry: &RetryPolicy { it: NEVER, generic: NEVER, timeout: NEVER, requeue_limit: 0 }, crash_limit: 5 };

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn moment(at: i64) -> Moment {
    Moment { now: second(at), chance: 0.5 }
}

/// An item that nobody dispatched yet.
fn waiting() -> Item {
    let arrival = Arrival::default();
    let hash = door::content_hash(b"");
    let id = ItemId::new(Uuid::from_u128(1));
    door::admit(&QueueDefinition::with_defaults("q"), &arrival, 4, hash, id, second(0))
}

/// What claiming does in the mirror (mirror::dispatch::claim).
fn claim(item: &mut Item) {
    assert!(matches!(item.place, Place::Delayed | Place::Ready), "only what waits is claimed");
    item.place = Place::Claimed;
    item.attempt += 1;
    (item.deliveries, item.silent, item.rejected_at, item.progress) = (0, false, None, None);
    item.revision += 1;
}

/// An item in its n-th attempt, with the broker or a robot.
fn out(attempt: u32) -> Item {
    let mut item = waiting();
    item.attempt = attempt - 1;
    claim(&mut item);
    item.place = Place::Broker;
    item
}

/// An item whose n-th attempt somebody claimed.
fn leased(attempt: u32) -> Item {
    let mut item = waiting();
    item.attempt = attempt - 1;
    lease::claim_ready(&mut item, "w", second(10)).expect("it waits");
    item
}

fn settled(state: State) -> Item {
    let mut item = out(1);
    settle(&mut item, state, second(1));
    if state == State::OnHold {
        item.finished_at = None;
    }
    item
}

fn says(saying: Saying, attempt: u32) -> Report {
    Report { saying, attempt: Some(attempt), robot: Some("r".to_owned()), user: None, problems: Vec::new() }
}

fn started() -> Saying {
    Saying::Started { note: None, percent: None }
}

fn done() -> Saying {
    Saying::Processed { result: Some(json!(7)), note: None, started_at: None }
}

fn failing(failure: Failure) -> Saying {
    let reason = Some("broken".to_owned());
    Saying::Exception { failure, code: Some("E1".to_owned()), reason, details: None, started_at: None }
}

fn again() -> Saying {
    Saying::Requeue { wait: Wait::None, note: None, priority: None, expires_at: None }
}

fn hold() -> Saying {
    Saying::Hold { note: Some("ask Ida".to_owned()) }
}

/// Every outcome but `processed`.
fn other_outcomes() -> Vec<Saying> {
    let failures = [Failure::Business, Failure::It, Failure::Generic].map(failing);
    failures.into_iter().chain([again(), hold()]).collect()
}

fn tell(item: &mut Item, saying: Saying) -> Step {
    let attempt = item.attempt;
    report(item, &says(saying, attempt), &RULES, &moment(100))
}

fn dies(item: &mut Item, reason: DeathReason) -> Step {
    let death =
        Death { reason, queue: "wq.q.q".to_owned(), attempt: Some(item.attempt), deliveries: None, failures: None };
    super::death(item, &death, second(100))
}

fn rejected(item: &mut Item) -> Step {
    dies(item, DeathReason::Rejected)
}

fn event(step: &Step) -> &str {
    step.line.as_ref().map_or("", |line| &line.event)
}

fn why(step: &Step) -> &str {
    step.line.as_ref().and_then(|line| line.why.as_deref()).unwrap_or_default()
}

/// Nothing but the revision moved, and the line says what was found.
#[track_caller]
fn assert_noted(before: &Item, item: &Item, step: &Step) {
    assert_eq!((event(step), step.acks), ("noted", 0));
    assert!(why(step).contains("the item was "), "{}", why(step));
    assert_eq!(item, &Item { revision: before.revision + 1, ..before.clone() });
}

#[test]
fn an_outcome_ends_the_attempt_it_is_about() {
    let exception = State::Exception;
    for (saying, state, place, word) in [
        (done(), State::Processed, Place::Settled, "processed"),
        (failing(Failure::Business), exception(Kind::Business), Place::Settled, "exception"),
        (failing(Failure::It), State::Queued, Place::Delayed, "retry"),
        (failing(Failure::Generic), State::Queued, Place::Delayed, "retry"),
        (again(), State::Queued, Place::Ready, "requeued"),
        (hold(), State::OnHold, Place::Settled, "hold"),
    ] {
        for with_a_robot in [false, true] {
            let mut item = out(1);
            if with_a_robot {
                tell(&mut item, started());
            }
            let step = tell(&mut item, saying.clone());
            assert_eq!((item.state, item.place, event(&step), step.acks), (state, place, word, 1), "{saying:?}");
            assert_eq!((item.attempt, item.worker.as_deref()), (1, Some("r")));
        }
    }
}

#[test]
fn the_first_outcome_wins() {
    for first in [done(), failing(Failure::Business), failing(Failure::It), again(), hold()] {
        for second in other_outcomes() {
            let mut item = out(1);
            tell(&mut item, first.clone());
            let before = item.clone();
            let step = tell(&mut item, second);
            assert_noted(&before, &item, &step);
        }
    }
}

#[test]
fn outcomes_and_news_of_an_attempt_that_is_not_open_are_noted() {
    let all = || other_outcomes().into_iter().chain([started(), Saying::Progress { note: None, percent: Some(3) }]);
    let states = Kind::ALL.iter().map(|kind| State::Exception(*kind));
    let places = states.chain([State::Processed, State::OnHold, State::Cancelled]).map(settled).chain([waiting()]);
    for before in places {
        for saying in all() {
            let mut item = before.clone();
            let step = tell(&mut item, saying);
            assert_noted(&before, &item, &step);
        }
    }
    for (open, reported) in [(2, 1), (2, 3), (1, 0)] {
        for saying in all() {
            let before = out(open);
            let mut item = before.clone();
            let step = report(&mut item, &says(saying, reported), &RULES, &moment(100));
            assert_noted(&before, &item, &step);
        }
    }
}

#[test]
fn processed_is_taken_from_every_state_for_any_attempt() {
    let states = Kind::ALL.iter().map(|kind| State::Exception(*kind));
    let places = states.chain([State::OnHold, State::Cancelled]).map(settled);
    for before in places.chain([waiting(), out(1), out(3)]) {
        for attempt in 0..4 {
            let mut item = before.clone();
            let step = report(&mut item, &says(done(), attempt), &RULES, &moment(100));
            assert_eq!((item.state, item.place, event(&step)), (State::Processed, Place::Settled, "processed"));
            assert_eq!((item.result.clone(), &item.code, &item.reason), (Some(json!(7)), &None, &None));
            assert_eq!(item.finished_at, Some(second(100)));
            assert_eq!(step.acks, i8::from(is_out(&before)), "the newest attempt, where out, will be acked");
            let anyway = matches!(before.state, State::OnHold | State::Cancelled);
            assert_eq!(item.ran_anyway, anyway, "{}", before.state);
        }
    }
}

#[test]
fn a_waiting_attempt_is_dropped_when_an_earlier_one_was_processed() {
    let mut item = out(1);
    tell(&mut item, failing(Failure::It));
    let step = tell(&mut item, done());
    assert_eq!((item.state, item.place, step.acks), (State::Processed, Place::Settled, 0));

    let mut item = out(2);
    let step = report(&mut item, &says(done(), 1), &RULES, &moment(100));
    assert_eq!((item.state, step.acks), (State::Processed, 1));
    assert!(why(&step).contains("by attempt 1"));
    assert_eq!(rejected(&mut item).acks, -1, "the dropped attempt was rejected, not acked");
}

#[test]
fn processed_twice_is_noted_and_keeps_the_first_result() {
    let mut item = out(1);
    tell(&mut item, done());
    let before = item.clone();
    let step = tell(&mut item, Saying::Processed { result: Some(json!(8)), note: None, started_at: None });
    assert_noted(&before, &item, &step);
}

#[test]
fn a_report_without_a_number_is_about_the_newest_attempt() {
    let mut item = out(3);
    let report = Report { attempt: None, robot: None, ..says(failing(Failure::Business), 0) };
    let step = super::report(&mut item, &report, &RULES, &moment(100));
    assert_eq!(item.state, State::Exception(Kind::Business));
    let line = step.line.unwrap();
    assert_eq!((line.attempt, line.actor.as_str()), (3, "robot"));
}

#[test]
fn what_could_not_be_read_in_a_report_stands_in_its_line() {
    for (saying, expected) in [(started(), "a; b"), (failing(Failure::Business), "E1: broken (a; b)")] {
        let mut item = out(1);
        let report = Report { problems: vec!["a".to_owned(), "b".to_owned()], ..says(saying, 1) };
        assert_eq!(why(&super::report(&mut item, &report, &RULES, &moment(100))), expected);
    }
}

#[test]
fn started_means_processing_and_progress_only_tells() {
    let mut item = out(1);
    let step = tell(&mut item, Saying::Progress { note: Some("page 3".to_owned()), percent: Some(40) });
    assert_eq!((item.state, item.progress, item.note.as_deref()), (State::Queued, Some(40), Some("page 3")));
    assert_eq!((event(&step), step.acks), ("progress", 0));
    tell(&mut item, started());
    assert_eq!((item.state, item.started_at, item.deliveries), (State::Processing, Some(second(100)), 1));
    assert_eq!(item.progress, Some(40));
}

#[test]
fn an_attempt_that_more_robots_started_than_may_die_of_it_is_poison() {
    let mut item = out(1);
    for delivery in 1..=5 {
        assert_eq!((tell(&mut item, started()).acks, item.deliveries), (0, delivery));
    }
    let step = tell(&mut item, started());
    assert_eq!((item.state, step.acks), (State::Exception(Kind::Poison), 1));
    assert!(why(&step).contains("5 deliveries"));
    let before = item.clone();
    let step = tell(&mut item, failing(Failure::Business));
    assert_noted(&before, &item, &step);
    assert_eq!(rejected(&mut item).acks, -1);
}

#[test]
fn forged_delivery_counts_do_not_overflow() {
    let mut item = out(1);
    let death = Death {
        reason: DeathReason::Rejected,
        queue: "wq.q.q".to_owned(),
        attempt: None,
        deliveries: Some(u32::MAX),
        failures: None,
    };
    super::death(&mut item, &death, second(1));
    tell(&mut item, started());
    assert_eq!((item.deliveries, item.state), (u32::MAX, State::Exception(Kind::Poison)));
}

#[test]
fn retries_wait_longer_each_time_and_end_in_an_exception() {
    let mut item = waiting();
    for (chance, seconds) in [(0.0, 24), (1.0, 72)] {
        claim(&mut item);
        let attempt = item.attempt;
        let moment = Moment { now: second(100), chance };
        let step = report(&mut item, &says(failing(Failure::It), attempt), &RULES, &moment);
        assert_eq!((item.state, item.place, item.ready_at), (State::Queued, Place::Delayed, second(100 + seconds)));
        assert_eq!((event(&step), item.retries), ("retry", attempt));
        assert!(why(&step).contains("after it exception: broken"), "{}", why(&step));
        assert_eq!((&item.code, &item.reason, item.finished_at), (&None, &None, None), "never seen as an exception");
    }
    claim(&mut item);
    let step = tell(&mut item, failing(Failure::It));
    assert_eq!((item.state, item.retries, step.acks), (State::Exception(Kind::It), 2, 1));
    assert_eq!((item.code.as_deref(), item.reason.as_deref()), (Some("E1"), Some("broken")));
    assert_eq!(why(&step), "E1: broken; retries are used up: 2 of 2");
    assert!(item.retries_used_up());
}

#[test]
fn a_retry_without_a_wait_is_ready_at_once_unless_its_payload_is_missing() {
    let backoff = Backoff { first: Duration::ZERO, ..BACKOFF };
    let retry = RetryPolicy { it: Retry { limit: 1, backoff }, ..POLICY };
    for (size, place) in [(Some(0), Place::Ready), (None, Place::Delayed)] {
        let mut item = Item { size, lane: Lane::Direct, ..out(1) };
        let rules = Rules { retry: &retry, crash_limit: 5 };
        report(&mut item, &says(failing(Failure::It), 1), &rules, &moment(100));
        assert_eq!((item.place, item.lane), (place, Lane::Managed));
    }
}

#[test]
fn a_requeue_waits_as_long_as_the_robot_asked() {
    for (wait, ready_at, place) in [
        (Wait::None, 100, Place::Ready),
        (Wait::For(Duration::from_secs(60)), 160, Place::Delayed),
        (Wait::Until(second(500)), 500, Place::Delayed),
        (Wait::Until(second(50)), 50, Place::Ready),
    ] {
        let mut item = out(1);
        let note = Some("later".to_owned());
        tell(&mut item, Saying::Requeue { wait, note, priority: Some(9), expires_at: Some(second(900)) });
        assert_eq!((item.state, item.place, item.ready_at), (State::Queued, place, second(ready_at)));
        assert_eq!((item.requeues, item.retries, item.priority), (1, 0, 9));
        assert_eq!((item.expires_at, item.note.as_deref()), (Some(second(900)), Some("later")));
    }
    let mut item = out(1);
    tell(&mut item, Saying::Requeue { wait: Wait::For(Duration::MAX), note: None, priority: None, expires_at: None });
    assert_eq!(item.ready_at, Timestamp::MAX);
}

#[test]
fn requeues_above_the_limit_are_a_generic_exception() {
    let mut item = waiting();
    for _ in 0..2 {
        claim(&mut item);
        tell(&mut item, again());
    }
    claim(&mut item);
    let step = tell(&mut item, again());
    assert_eq!((item.state, item.requeues, step.acks), (State::Exception(Kind::Generic), 2, 1));
    assert_eq!(item.code.as_deref(), Some("requeue_limit"));
}

#[test]
fn a_dead_letter_after_its_report_adds_nothing_but_takes_the_ack_back_once() {
    for first in other_outcomes().into_iter().chain([done()]) {
        for reason in [DeathReason::Rejected, DeathReason::Expired, DeathReason::DeliveryLimit, DeathReason::MaxLength]
        {
            let mut item = out(1);
            let mut acks = tell(&mut item, first.clone()).acks;
            let before = item.clone();
            for expected in [-1, 0, 0] {
                let step = dies(&mut item, reason);
                assert_eq!((step.line.is_none(), step.acks), (true, expected), "{first:?}");
                acks += step.acks;
            }
            assert_eq!(acks, 0);
            let revision = before.revision + 1;
            assert_eq!(item, Item { rejected_at: Some(second(100)), revision, ..before });
            assert_eq!(judge(&mut item, &RULES, &moment(200)), None);
        }
    }
}

#[test]
fn a_report_after_its_dead_letter_decides_as_if_it_had_come_first() {
    for saying in other_outcomes().into_iter().chain([done()]) {
        let (mut after, mut first) = (out(1), out(1));
        assert_eq!(rejected(&mut after), Step::default());
        assert_eq!((after.state, after.place, after.rejected_at), (State::Queued, Place::Broker, Some(second(100))));
        let step = tell(&mut after, saying.clone());
        assert_eq!(tell(&mut first, saying.clone()).acks, 1);
        assert_eq!(step.acks, 0, "no ack will come: {saying:?}");
        assert_eq!(after, Item { rejected_at: after.rejected_at, revision: after.revision, ..first });
        assert_eq!(rejected(&mut after), Step::default(), "the same dead letter again");
        assert_eq!(judge(&mut after, &RULES, &moment(200)), None);
    }
}

#[test]
fn a_bare_reject_is_judged_generic() {
    let mut item = out(1);
    assert_eq!(judge(&mut item, &RULES, &moment(100)), None, "nothing died");
    rejected(&mut item);
    let step = judge(&mut item, &RULES, &moment(200)).unwrap();
    assert_eq!((item.state, item.retries, item.silent, step.acks), (State::Queued, 1, true, 0));
    assert_eq!(judge(&mut item, &RULES, &moment(200)), None);

    claim(&mut item);
    rejected(&mut item);
    judge(&mut item, &RULES, &moment(200)).unwrap();
    assert_eq!((item.state, item.silent), (State::Exception(Kind::Generic), true));
    assert_eq!(item.reason.as_deref(), Some("rejected without a report"));
}

#[test]
fn a_late_report_explains_an_attempt_that_ended_without_a_word() {
    let silent_retry = || {
        let mut item = out(1);
        rejected(&mut item);
        judge(&mut item, &RULES, &moment(200));
        item
    };
    let silent_end = || {
        let mut item = out(1);
        rejected(&mut item);
        judge(&mut item, &NO_RETRIES, &moment(200));
        item
    };
    let inferred = || {
        let mut item = out(1);
        infer_processed(&mut item, second(200));
        item
    };
    let of_kind = |kind| Item { silent: true, ..settled(State::Exception(kind)) };
    for (what, silent) in [
        ("retry", silent_retry()),
        ("exception", silent_end()),
        ("inferred", inferred()),
        ("missing", of_kind(Kind::Missing)),
        ("unreported", of_kind(Kind::Unreported)),
    ] {
        for saying in other_outcomes().into_iter().chain([done()]) {
            let (mut late, mut first) = (silent.clone(), out(1));
            let step = tell(&mut late, saying.clone());
            tell(&mut first, saying.clone());
            assert_eq!(step.acks, 0, "{what} was counted already");
            assert!(!late.silent);
            let waits_until = |item: &Item| (item.state == State::Queued).then_some(item.ready_at);
            let told = |item: &Item| (item.state, item.place, item.requeues, waits_until(item), item.reason.clone());
            assert_eq!(told(&late), told(&first), "{what}, then {saying:?}");
            if saying != done() {
                assert_eq!(late.retries, first.retries, "the retry given in silence is given back: {saying:?}");
            }
            let before = late.clone();
            let step = tell(&mut late, hold());
            assert_noted(&before, &late, &step);
        }
    }
}

#[test]
fn once_a_newer_attempt_is_out_only_processed_still_counts() {
    for saying in other_outcomes() {
        let mut item = out(1);
        rejected(&mut item);
        judge(&mut item, &RULES, &moment(200));
        claim(&mut item);
        let before = item.clone();
        let step = report(&mut item, &says(saying, 1), &RULES, &moment(300));
        assert_noted(&before, &item, &step);
        report(&mut item, &says(done(), 1), &RULES, &moment(300));
        assert_eq!(item.state, State::Processed);
    }
}

#[test]
fn exceptions_with_a_word_are_not_explained_again() {
    for kind in [Kind::Business, Kind::It, Kind::Timeout, Kind::Expired, Kind::Poison, Kind::Invalid, Kind::Duplicate] {
        let before = Item { silent: true, ..settled(State::Exception(kind)) };
        let mut item = before.clone();
        let step = tell(&mut item, hold());
        assert_noted(&before, &item, &step);
    }
}

#[test]
fn deaths_that_need_no_report_are_exceptions_at_once() {
    for (reason, kind, code) in [
        (DeathReason::Expired, Kind::Expired, None),
        (DeathReason::DeliveryLimit, Kind::Poison, None),
        (DeathReason::MaxLength, Kind::Generic, Some("maxlen")),
    ] {
        let mut item = out(1);
        let step = dies(&mut item, reason);
        assert_eq!((item.state, event(&step), step.acks), (State::Exception(kind), "exception", 0));
        assert_eq!((item.code.as_deref(), item.silent), (code, false));
        assert_eq!(dies(&mut item, reason), Step::default());
    }
}

#[test]
fn dead_letters_of_other_attempts_add_nothing() {
    for (mut item, attempt) in [(out(2), Some(1)), (out(2), Some(3)), (waiting(), None), (waiting(), Some(1))] {
        let before = item.clone();
        let death = Death {
            reason: DeathReason::Rejected,
            queue: "wq.q.q".to_owned(),
            attempt,
            deliveries: Some(3),
            failures: None,
        };
        assert_eq!(super::death(&mut item, &death, second(100)), Step::default());
        assert_eq!(item, before);
    }
}

#[test]
fn an_inferred_ack_whose_dead_letter_comes_is_judged_like_any_other() {
    let mut item = out(1);
    assert_eq!(infer_processed(&mut item, second(50)).unwrap().acks, 1);
    assert_eq!((item.state, item.silent), (State::Processed, true));
    let step = rejected(&mut item);
    assert_eq!((item.state, item.place, step.acks), (State::Queued, Place::Broker, -1));
    assert_eq!((item.silent, item.finished_at, event(&step)), (false, None, "reopened"));
    assert_eq!(infer_processed(&mut item, second(60)), None);
    assert_eq!(judge(&mut item, &RULES, &moment(200)).unwrap().acks, 0);
    assert_eq!((item.state, item.retries, item.silent), (State::Queued, 1, true));

    for (reason, kind) in [
        (DeathReason::Expired, Kind::Expired),
        (DeathReason::DeliveryLimit, Kind::Poison),
        (DeathReason::MaxLength, Kind::Generic),
    ] {
        let mut item = out(1);
        infer_processed(&mut item, second(50));
        let step = dies(&mut item, reason);
        assert_eq!((item.state, item.silent, step.acks), (State::Exception(kind), false, -1));
    }
}

#[test]
fn a_report_confirms_an_inferred_end() {
    let mut item = out(1);
    infer_processed(&mut item, second(50));
    let step = tell(&mut item, done());
    assert_eq!((item.state, item.silent, item.result.clone(), step.acks), (State::Processed, false, Some(json!(7)), 0));
    assert_eq!(rejected(&mut item).acks, -1);
    assert_eq!(item.state, State::Processed);
}

#[test]
fn only_what_is_out_and_did_not_die_is_inferred() {
    let mut dead = out(1);
    rejected(&mut dead);
    for mut item in [waiting(), settled(State::OnHold), settled(State::Cancelled), dead] {
        let before = item.clone();
        assert_eq!(infer_processed(&mut item, second(50)), None);
        assert_eq!(item, before);
    }
}

#[test]
fn only_what_waits_in_the_mirror_expires_by_its_clock() {
    let mut item = Item { expires_at: Some(second(10)), ..waiting() };
    assert_eq!(expire(&mut item, second(9)), None);
    let step = expire(&mut item, second(10)).unwrap();
    assert_eq!((item.state, item.place, step.acks), (State::Exception(Kind::Expired), Place::Settled, 0));
    for item in [out(1), settled(State::OnHold), waiting()] {
        let expires_at = (item.attempt > 0).then_some(second(10));
        assert_eq!(expire(&mut Item { expires_at, ..item }, second(10)), None);
    }
}

#[test]
fn a_returned_dispatch_did_not_happen() {
    let mut item = waiting();
    claim(&mut item);
    let step = returned(&mut item, "no queue", second(5)).unwrap();
    assert_eq!((item.state, item.place, item.attempt, step.acks), (State::Queued, Place::Ready, 0, 0));
    assert_eq!(why(&step), "could not be dispatched: no queue");
    assert_eq!(returned(&mut item, "no queue", second(5)), None);
}

#[test]
fn a_refused_dispatch_that_somebody_has_heard_of_did_happen() {
    let claimed = || {
        let mut item = waiting();
        claim(&mut item);
        item
    };
    let (mut begun, mut dead, mut ended) = (claimed(), claimed(), claimed());
    tell(&mut begun, started());
    rejected(&mut dead);
    tell(&mut ended, hold());
    for mut item in [begun, dead, ended, out(1)] {
        let before = item.clone();
        assert_eq!(returned(&mut item, "no confirm", second(5)), None);
        assert_eq!(item, before);
    }
}

#[test]
fn a_returned_dispatch_does_not_count_the_dead_letter_before_it_twice() {
    let mut item = out(1);
    let mut acks = tell(&mut item, failing(Failure::It)).acks;
    acks += rejected(&mut item).acks;
    claim(&mut item);
    returned(&mut item, "no queue", second(5)).unwrap();
    acks += rejected(&mut item).acks;
    assert_eq!(acks, 0);
}

#[test]
fn every_line_says_who_when_and_where_the_item_stands_now() {
    let mut item = out(2);
    let report = Report { user: Some("u".to_owned()), ..says(failing(Failure::Business), 2) };
    let line = super::report(&mut item, &report, &RULES, &moment(100)).line.unwrap();
    assert_eq!((line.actor.as_str(), line.user.as_deref(), line.attempt), ("r", Some("u"), 2));
    assert_eq!((line.revision, line.at, line.state.as_str()), (item.revision, second(100), "exception: business"));
    let note = tell(&mut item, hold());
    assert_eq!(why(&note), "hold was reported for attempt 2; the item was exception: business after attempt 2");
}

#[test]
fn what_is_not_kept_does_not_go_out_again() {
    // It was taken for done and its payload went; then a late word would send it out once more.
    let gone = || {
        let mut item = out(1);
        let _ = infer_processed(&mut item, second(1)).expect("it is inferred");
        item.payload_gone = true;
        item
    };
    for (saying, code) in [(failing(Failure::It), "E1"), (again(), "payload_gone")] {
        let mut item = gone();
        let _ = tell(&mut item, saying);
        assert!(matches!(item.state, State::Exception(_)), "{}", item.state);
        assert_eq!((item.code.as_deref(), item.retries, item.requeues), (Some(code), 0, 0));
    }
    let mut item = gone();
    let _ = rejected(&mut item);
    let _ = judge(&mut item, &RULES, &moment(200)).expect("it is judged");
    assert_eq!((item.state, item.retries), (State::Exception(Kind::Generic), 0));
}
