//! What becomes of items that somebody claims over HTTP.

use super::super::lease::{Delivery, claim_delivered, claim_named, claim_ready, give_back, lose};
use super::super::people::{Refusal, recalled};
use super::*;

fn delivered(attempt: u32) -> Delivery {
    Delivery { attempt, before: 0 }
}

fn lost(item: &mut Item, in_a_row: u32) -> Option<Step> {
    lose(item, item.attempt, in_a_row, TIMEOUT, &RULES, second(200))
}

#[test]
fn a_message_that_is_claimed_goes_on_as_the_attempt_it_was() {
    let mut item = out(3);
    item.lane = Lane::Direct;
    let step = claim_delivered(&mut item, delivered(3), "ann", &RULES, second(10)).unwrap();
    assert_eq!((event(&step), step.acks), ("claimed", 1), "its ack is ours");
    assert_eq!((item.state, item.place, item.attempt), (State::Processing, Place::Leased, 3));
    assert_eq!((item.worker.as_deref(), item.started_at), (Some("ann"), Some(second(10))));
    assert_eq!((item.deliveries, item.lane), (1, Lane::Managed));
    // As its message was handed over, and nobody saw the confirm.
    let mut item = Item { place: Place::Claimed, ..out(1) };
    assert!(claim_delivered(&mut item, delivered(1), "ann", &RULES, second(10)).is_some());
}

#[test]
fn a_message_of_an_attempt_that_is_over_is_nobodys() {
    let rejected = {
        let mut item = out(2);
        rejected(&mut item);
        item
    };
    let timed_out = {
        let mut item = out(2);
        tell(&mut item, started());
        time_out(&mut item, TIMEOUT, second(900), &RULES, &moment(900)).unwrap();
        item
    };
    for (item, attempt) in
        [(out(2), 1), (out(2), 3), (rejected, 2), (timed_out, 2), (leased(2), 2), (settled(State::Processed), 1)]
    {
        let mut after = item.clone();
        assert_eq!(claim_delivered(&mut after, delivered(attempt), "ann", &RULES, second(999)), None);
        assert_eq!(after, item);
    }
}

#[test]
fn what_robots_died_on_too_often_is_given_to_nobody() {
    let mut item = out(1);
    for _ in 0..RULES.crash_limit {
        tell(&mut item, started());
    }
    let step = claim_delivered(&mut item, delivered(1), "ann", &RULES, second(200)).unwrap();
    assert_eq!((item.state, step.acks), (State::Exception(Kind::Poison), 1));
    assert_eq!(
        why(&step),
        "robots died in 5 deliveries of this attempt; the last known is r, which started at 1970-01-01T00:01:40Z"
    );
    assert!(step.failure.is_some());
}

#[test]
fn what_waits_is_claimed_as_its_next_attempt() {
    let mut item = waiting();
    let step = claim_ready(&mut item, "ann", second(10)).unwrap();
    assert_eq!((event(&step), step.acks, item.attempt), ("claimed", 0, 1), "there is no message to be acked");
    for item in [
        Item { expires_at: Some(second(10)), ..waiting() },
        Item { place: Place::Delayed, ..waiting() },
        out(1),
        leased(1),
        settled(State::OnHold),
    ] {
        let mut after = item.clone();
        assert_eq!(claim_ready(&mut after, "ann", second(10)), None);
        assert_eq!(after, item);
    }
}

#[test]
fn a_person_may_have_what_waits_and_is_told_why_not() {
    let retried = Item { place: Place::Delayed, ready_at: second(500), retries: 1, attempt: 1, ..waiting() };
    for mut item in [waiting(), retried] {
        let attempt = item.attempt;
        claim_named(&mut item, "ann", true, second(10)).unwrap();
        assert_eq!((item.place, item.attempt), (Place::Leased, attempt + 1));
    }
    let not_before = Item { not_before: Some(second(50)), ..waiting() };
    let over = Item { expires_at: Some(second(5)), ..waiting() };
    for (mut item, has_payload, expected) in [
        (not_before, true, Refusal::NotYet(second(50))),
        (over, true, Refusal::LifeOver(second(5))),
        (waiting(), false, Refusal::NoPayload),
        (leased(1), true, Refusal::InProgress { worker: Some("w".to_owned()) }),
    ] {
        assert_eq!(claim_named(&mut item, "ann", has_payload, second(10)), Err(expected));
    }
    for state in [State::OnHold, State::Exception(Kind::It), State::Processed, State::Cancelled] {
        let refused = claim_named(&mut settled(state), "ann", true, second(10)).unwrap_err();
        assert!(refused.to_string().contains("requeue or release it first"), "{refused}");
    }
}

#[test]
fn outcomes_end_a_lease_and_explain_no_ack() {
    for saying in other_outcomes().into_iter().chain([done()]) {
        let mut item = leased(2);
        let step = tell(&mut item, saying.clone());
        assert_ne!(item.place, Place::Leased, "{saying:?}");
        assert_eq!(step.acks, 0, "its message was acked with the claim, or there was none");
        assert_eq!(step.line.unwrap().ended.unwrap().robot.as_deref(), Some("r"));
        // A dead letter of that attempt is another message's.
        assert_eq!(rejected(&mut item), Step::default());
    }
}

#[test]
fn a_dead_letter_beside_a_lease_adds_nothing() {
    for reason in [DeathReason::Rejected, DeathReason::Expired, DeathReason::DeliveryLimit] {
        let mut item = leased(1);
        let before = item.clone();
        assert_eq!(dies(&mut item, reason), Step::default());
        assert_eq!(item, before);
    }
}

#[test]
fn what_looks_for_messages_leaves_a_lease_alone() {
    let item = leased(1);
    let mut after = item.clone();
    assert_eq!(infer_processed(&mut after, second(100)), None);
    assert_eq!(unreported(&mut after, second(100)), None);
    assert_eq!(missing(&mut after, "gone", second(100)), None);
    assert_eq!(dispatch_again(&mut after, second(100)), None);
    assert_eq!(found_again(&mut after, 1, second(100)), None);
    assert_eq!(recalled(&mut after, 1, false, second(100)), None);
    assert_eq!(judge(&mut after, &RULES, &moment(100)), None);
    let mut over = Item { expires_at: Some(second(1)), ..after.clone() };
    assert_eq!(expire(&mut over, second(100)), None, "whoever claimed it has it");
    assert_eq!(after, item);
}

#[test]
fn a_lease_that_ends_is_a_dead_robot() {
    let mut item = Item { retries: 1, ..leased(2) };
    let step = lost(&mut item, 1).unwrap();
    assert_eq!((event(&step), step.acks), ("lease_lost", 0));
    assert_eq!((item.state, item.place, item.attempt), (State::Queued, Place::Ready, 2));
    assert_eq!((item.retries, item.started_at), (1, None), "no retry is used");
    assert_eq!(step.line.unwrap().ended.unwrap().outcome, "lease_lost");
    assert_eq!(lost(&mut item, 1), None, "once");
    // Work done is never refused.
    report(&mut item, &says(done(), 2), &RULES, &moment(300));
    assert_eq!(item.state, State::Processed);
}

#[test]
fn leases_lost_in_a_row_are_poison_after_crash_limit() {
    for (in_a_row, poison) in [(1, false), (4, false), (5, true), (6, true)] {
        let mut item = leased(7);
        let step = lost(&mut item, in_a_row).unwrap();
        assert_eq!(item.state == State::Exception(Kind::Poison), poison, "{in_a_row}");
        assert_eq!(step.failure.is_some(), poison);
        assert_eq!(step.acks, 0);
    }
    let mut item = leased(1);
    assert_eq!(lose(&mut item, 2, 9, TIMEOUT, &RULES, second(200)), None, "of another attempt");
}

#[test]
fn what_is_given_back_waits_again_at_once() {
    let mut item = Item { retries: 1, ..leased(2) };
    let step = give_back(&mut item, 2, "ann", Some("not mine".to_owned()), second(100)).unwrap();
    assert_eq!((event(&step), step.acks, why(&step)), ("returned", 0, "not mine"));
    assert_eq!((item.state, item.place, item.attempt, item.retries), (State::Queued, Place::Ready, 2, 1));
    assert_eq!(step.line.unwrap().ended.unwrap().outcome, "returned");
    assert_eq!(give_back(&mut item, 2, "ann", None, second(100)), None);
}

#[test]
fn processing_timeout_counts_from_the_claim() {
    let mut item = leased(1);
    assert_eq!(time_out(&mut item, TIMEOUT, second(69), &RULES, &moment(69)), None);
    let step = time_out(&mut item, TIMEOUT, second(70), &RULES, &moment(70)).unwrap();
    assert_eq!((event(&step), step.acks, item.retries), ("retry", 0, 1));
    assert!(why(&step).contains("w started at"), "{}", why(&step));
}

#[test]
fn who_claimed_it_started_with_that() {
    let mut item = leased(1);
    let from = |robot: &str, saying| Report { robot: Some(robot.to_owned()), ..says(saying, 1) };
    let progress = Saying::Progress { note: Some("half".to_owned()), percent: Some(50) };
    for (told, event_told, worker) in [
        (from("w", started()), "started", "w"),
        (from("w", progress), "progress", "w"),
        (from("r", started()), "noted", "w"),
    ] {
        let step = report(&mut item, &told, &RULES, &moment(100));
        assert_eq!((event(&step), item.worker.as_deref()), (event_told, Some(worker)));
        assert_eq!((item.started_at, item.deliveries, item.place), (Some(second(10)), 1, Place::Leased));
    }
    assert_eq!((item.progress, item.note.as_deref()), (Some(50), Some("half")));
}
