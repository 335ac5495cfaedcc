//! What people may ask, and what becomes of it.

use super::super::people::{self, Refusal, Verdict};
use super::*;
use crate::item::request::{Action, Changes, Content, Order, Verb};

fn order(verb: Verb) -> Order {
    Order { verb, who: "ann".to_owned(), why: Some("because".to_owned()), on_sight: false }
}

fn ask(item: &mut Item, verb: Verb) -> Verdict {
    people::order(item, &order(verb), true, second(100))
}

fn done(item: &mut Item, verb: Verb) -> Item {
    match ask(item, verb.clone()) {
        Verdict::Done(_) => item.clone(),
        other => panic!("{verb:?} of {}: {other:?}", item.state),
    }
}

fn processing() -> Item {
    let mut item = out(1);
    tell(&mut item, started());
    item
}

#[test]
fn what_a_robot_has_is_left_to_it_and_what_is_dispatched_is_asked_for() {
    for verb in [Verb::Hold, Verb::Cancel, Verb::Edit(Box::default())] {
        let refused = Verdict::Refused(Refusal::InProgress { worker: Some("r".to_owned()) });
        assert_eq!(ask(&mut processing(), verb.clone()), refused, "{verb:?}");
        let mut item = out(1);
        assert!(matches!(ask(&mut item, verb.clone()), Verdict::Recall(_)), "{verb:?}");
        assert_eq!((item.state, item.place, item.pending.is_some()), (State::Queued, Place::Broker, true));
        assert!(matches!(ask(&mut item, verb.clone()), Verdict::Refused(Refusal::Pending { .. })), "{verb:?} twice");
        // Beside it stands whatever does not concern its message.
        assert!(matches!(ask(&mut item, Verb::Note("n".to_owned())), Verdict::Done(_)));
        assert!(matches!(ask(&mut item, Verb::Assign(Some("bob".to_owned()))), Verdict::Done(_)));
    }
    for verb in [Verb::Release, Verb::Restore, Verb::Requeue(Box::default())] {
        assert!(matches!(ask(&mut out(1), verb.clone()), Verdict::Refused(Refusal::WrongState { .. })), "{verb:?}");
    }
}

#[test]
fn an_attempt_that_was_taken_back_did_not_happen_unless_somebody_heard_of_it() {
    for (mut item, redelivered, attempt) in [(out(3), false, 2), (out(3), true, 3), (processing(), false, 1)] {
        let newest = item.attempt;
        let step = people::recalled(&mut item, newest, redelivered, second(100)).expect("it is out");
        assert_eq!((step.acks, item.place, item.attempt, item.state), (1, Place::Ready, attempt, State::Queued));
    }
    // A message of an attempt that is over, or of an item that came back already, says nothing.
    assert_eq!(people::recalled(&mut out(3), 2, false, second(100)), None);
    assert_eq!(people::recalled(&mut waiting(), 0, false, second(100)), None);
}

#[test]
fn what_waits_is_carried_out_once_it_is_back_and_a_robots_word_wins() {
    let asked = |verb: Verb| {
        let mut item = out(1);
        assert!(matches!(ask(&mut item, verb), Verdict::Recall(_)));
        item
    };
    assert_eq!(people::carry_out(&mut asked(Verb::Hold), second(100)), None, "not while it is dispatched");
    let changes = Changes { priority: Some(9), ..Changes::default() };
    for (verb, state) in
        [(Verb::Hold, State::OnHold), (Verb::Cancel, State::Cancelled), (Verb::Edit(Box::new(changes)), State::Queued)]
    {
        let mut item = asked(verb.clone());
        people::recalled(&mut item, 1, false, second(100));
        let line = people::carry_out(&mut item, second(100)).and_then(|step| step.line).expect("a line");
        assert_eq!((item.state, people::outcome(&line), line.actor.as_str()), (state, Some(true), "ann"), "{verb:?}");
        assert!(item.pending.is_none());
        assert_eq!(item.priority == 9, matches!(verb, Verb::Edit(_)));

        let mut item = asked(verb.clone());
        tell(&mut item, super::done());
        let line = people::carry_out(&mut item, second(100)).and_then(|step| step.line).expect("a line");
        assert_eq!((item.state, people::outcome(&line)), (State::Processed, Some(false)), "{verb:?}");
        assert!(item.pending.is_none());

        // It would be tried again: then it is theirs.
        let mut item = asked(verb.clone());
        tell(&mut item, failing(Failure::It));
        people::carry_out(&mut item, second(100)).expect("it is back");
        assert_eq!(item.state, state, "{verb:?}");
    }
    let mut item = asked(Verb::Hold);
    if let Some(pending) = &mut item.pending {
        (pending.taken, item.place) = (true, Place::Ready);
    }
    assert_eq!(people::carry_out(&mut item, second(100)), None, "it was, and is only waited for the broker");
}

#[test]
fn what_was_given_up_comes_back_as_it_was() {
    let mut item = settled(State::Exception(Kind::Business));
    (item.code, item.reason) = (Some("E1".to_owned()), Some("broken".to_owned()));
    let cancelled = done(&mut item, Verb::Cancel);
    assert_eq!((cancelled.state, cancelled.reason.as_deref()), (State::Cancelled, Some("broken")));
    let restored = done(&mut item, Verb::Restore);
    assert_eq!((restored.state, restored.code.as_deref()), (State::Exception(Kind::Business), Some("E1")));
    assert_eq!(restored.cancelled_from, None);

    let mut item = waiting();
    item.not_before = Some(second(500));
    done(&mut item, Verb::Cancel);
    let restored = done(&mut item, Verb::Restore);
    assert_eq!((restored.state, restored.place, restored.ready_at), (State::Queued, Place::Delayed, second(500)));
}

#[test]
fn a_requeue_begins_anew_with_what_is_changed() {
    let mut item = settled(State::Exception(Kind::It));
    (item.retries, item.requeues, item.expires_at) = (2, 2, Some(second(50)));
    assert_eq!(
        ask(&mut item, Verb::Requeue(Box::default())),
        Verdict::Refused(Refusal::LifeOver(second(50))),
        "it would end at once"
    );
    let content = Content { size: 7, hash: "h".to_owned(), content_type: None };
    let changes = Changes { expires_at: Some(None), content: Some(content), ..Changes::default() };
    let without = people::order(
        &mut item.clone(),
        &order(Verb::Requeue(Box::new(Changes { expires_at: Some(None), ..Changes::default() }))),
        false,
        second(100),
    );
    assert_eq!(without, Verdict::Refused(Refusal::NoPayload));
    let verdict = people::order(&mut item, &order(Verb::Requeue(Box::new(changes))), false, second(100));
    assert!(matches!(verdict, Verdict::Done(_)), "{verdict:?}");
    assert_eq!((item.state, item.place, item.attempt), (State::Queued, Place::Ready, 1));
    assert_eq!((item.retries, item.requeues, item.size, item.expires_at), (0, 0, Some(7), None));
}

#[test]
fn an_edit_moves_nothing_but_the_time_it_waits_for() {
    let mut item = waiting();
    let later = Changes { not_before: Some(Some(second(500))), ..Changes::default() };
    let edited = done(&mut item, Verb::Edit(Box::new(later)));
    assert_eq!((edited.place, edited.ready_at), (Place::Delayed, second(500)));
    let now = Changes { not_before: Some(None), name: Some(Some("n".to_owned())), ..Changes::default() };
    let edited = done(&mut item, Verb::Edit(Box::new(now)));
    assert_eq!((edited.place, edited.ready_at, edited.name.as_deref()), (Place::Ready, second(100), Some("n")));
    for state in [State::Processed, State::Cancelled] {
        let verdict = ask(&mut settled(state), Verb::Edit(Box::default()));
        assert!(matches!(verdict, Verdict::Refused(Refusal::WrongState { .. })), "{state}: {verdict:?}");
    }
}

#[test]
fn requests_read_back_as_they_were_written() {
    let mut item = out(1);
    let changes = Changes { name: Some(None), due_at: Some(Some(second(7))), ..Changes::default() };
    ask(&mut item, Verb::Edit(Box::new(changes)));
    let pending = item.pending.expect("it waits");
    let text = serde_json::to_string(&pending).unwrap();
    assert_eq!(serde_json::from_str::<crate::item::Request>(&text).unwrap(), pending, "{text}");
    assert_eq!(pending.action, Action::Edit);
}
