//! What is kept of each attempt, how it is put together, and attempts that take too long.

use super::*;
use crate::item::attempts::{Attempt, attempts};
use crate::item::timeline::Ended;

/// Of an attempt: its number, robot, outcome, reason, deliveries and delay in seconds.
type Row<'a> = (u32, Option<&'a str>, Option<&'a str>, Option<&'a str>, u32, Option<u64>);

/// An item with everything that was written of it.
struct Told {
    item: Item,
    lines: Vec<Line>,
}

impl Told {
    fn new() -> Self {
        Self { item: waiting(), lines: Vec::new() }
    }

    fn goes_out(&mut self, at: i64) -> &mut Self {
        claim(&mut self.item);
        self.item.place = Place::Broker;
        self.item.dispatched_at = Some(second(at));
        self
    }

    fn add(&mut self, step: Step) -> &mut Self {
        self.lines.extend(step.line);
        self
    }

    fn says(&mut self, at: i64, robot: &str, attempt: u32, saying: Saying) -> &mut Self {
        let report = Report { robot: Some(robot.to_owned()), ..says(saying, attempt) };
        let step = super::report(&mut self.item, &report, &RULES, &moment(at));
        self.add(step)
    }

    fn dies(&mut self, at: i64, reason: DeathReason, counted: Option<(u32, u32)>) -> &mut Self {
        let (deliveries, failures) = counted.unzip();
        let attempt = Some(self.item.attempt);
        let death = Death { reason, queue: "wq.q.q".to_owned(), attempt, deliveries, failures };
        let step = super::death(&mut self.item, &death, second(at));
        self.add(step)
    }

    fn judged(&mut self, at: i64) -> &mut Self {
        let step = judge(&mut self.item, &RULES, &moment(at)).expect("it is judged");
        self.add(step)
    }

    fn times_out(&mut self, at: i64) -> &mut Self {
        let step = time_out(&mut self.item, TIMEOUT, second(at), &RULES, &moment(at)).expect("it is over");
        self.add(step)
    }

    fn attempts(&self) -> Vec<Attempt> {
        attempts(&self.item, &self.lines)
    }

    #[track_caller]
    fn are(&self, expected: &[Row<'_>]) {
        let attempts = self.attempts();
        let found: Vec<_> = attempts
            .iter()
            .map(|attempt| {
                let delay = attempt.delay_ms.map(|delay| delay / 1000);
                let [robot, outcome, reason] =
                    [&attempt.robot, &attempt.outcome, &attempt.reason].map(|text| text.as_deref());
                (attempt.number, robot, outcome, reason, attempt.deliveries, delay)
            })
            .collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn every_attempt_is_kept_with_who_had_it_when_and_how_it_ended() {
    let mut told = Told::new();
    told.are(&[]);
    told.goes_out(10).says(11, "ann", 1, started()).says(20, "ann", 1, failing(Failure::It));
    told.goes_out(50).says(
        60,
        "bob",
        2,
        Saying::Requeue { wait: Wait::For(Duration::from_secs(5)), note: None, priority: None, expires_at: None },
    );
    told.goes_out(70).says(80, "cy", 3, done());
    told.are(&[
        (1, Some("ann"), Some("it"), Some("broken"), 1, Some(30)),
        (2, Some("bob"), Some("requeue"), None, 1, Some(5)),
        (3, Some("cy"), Some("processed"), None, 1, None),
    ]);
    let first = &told.attempts()[0];
    let times = [first.dispatched_at, first.started_at, first.ended_at, first.corrected_at];
    assert_eq!(times, [Some(second(10)), Some(second(11)), Some(second(20)), None]);
    assert_eq!((first.code.as_deref(), first.starts.len()), (Some("E1"), 1));
    assert_eq!(told.attempts()[1].started_at, None, "nobody said so");
}

#[test]
fn the_open_attempt_comes_last() {
    let mut told = Told::new();
    told.goes_out(10).says(20, "ann", 1, failing(Failure::It)).goes_out(50);
    told.are(&[(1, Some("ann"), Some("it"), Some("broken"), 1, Some(30)), (2, None, None, None, 0, None)]);
    told.says(51, "bob", 2, started());
    let open = told.attempts().remove(1);
    assert_eq!((open.robot.as_deref(), open.started_at), (Some("bob"), Some(second(51))));
    assert_eq!((open.dispatched_at, open.ended_at), (Some(second(50)), None));
}

#[test]
fn a_robot_says_afterwards_when_it_started() {
    let Saying::Exception { failure, code, reason, details, .. } = failing(Failure::It) else { panic!() };
    let mut told = Told::new();
    told.goes_out(10);
    told.says(20, "ann", 1, Saying::Exception { failure, code, reason, details, started_at: Some(second(12)) });
    assert_eq!(told.attempts()[0].started_at, Some(second(12)), "though the item waits again");
}

#[test]
fn an_end_in_silence_is_corrected_by_its_report() {
    let mut told = Told::new();
    told.goes_out(10).dies(20, DeathReason::Rejected, None).judged(30);
    told.are(&[(1, None, Some("generic"), Some("rejected without a report"), 1, Some(30))]);
    assert!(told.attempts()[0].silent);
    told.says(40, "ann", 1, failing(Failure::Business));
    told.are(&[(1, Some("ann"), Some("business"), Some("broken"), 1, None)]);
    let attempt = &told.attempts()[0];
    assert_eq!((attempt.ended_at, attempt.corrected_at), (Some(second(30)), Some(second(40))));
    assert_eq!((attempt.dispatched_at, attempt.silent), (Some(second(10)), false));
}

#[test]
fn an_inferred_end_that_was_none_is_open_again() {
    let mut told = Told::new();
    told.goes_out(10);
    let step = infer_processed(&mut told.item, second(20)).unwrap();
    told.add(step).are(&[(1, None, Some("processed"), None, 1, None)]);
    assert!(told.attempts()[0].silent);
    told.dies(30, DeathReason::Rejected, None).are(&[(1, None, None, None, 0, None)]);
    told.judged(40).are(&[(1, None, Some("generic"), Some("rejected without a report"), 1, Some(30))]);
    assert_eq!((told.attempts()[0].ended_at, told.attempts()[0].corrected_at), (Some(second(40)), None));
}

#[test]
fn work_done_by_an_earlier_attempt_drops_the_one_that_is_out() {
    let mut told = Told::new();
    told.goes_out(10).says(20, "ann", 1, failing(Failure::It)).goes_out(50).says(51, "bob", 2, started());
    told.says(60, "ann", 1, done());
    told.are(&[(1, Some("ann"), Some("processed"), None, 1, None), (2, Some("bob"), Some("dropped"), None, 1, None)]);
    let attempts = told.attempts();
    assert_eq!((attempts[0].dispatched_at, attempts[0].corrected_at), (Some(second(10)), Some(second(60))));
    assert_eq!((attempts[1].dispatched_at, attempts[1].ended_at), (Some(second(50)), Some(second(60))));
}

#[test]
fn what_ends_no_attempt_is_none() {
    let mut told = Told::new();
    told.goes_out(10).says(11, "ann", 1, Saying::Progress { note: None, percent: Some(3) });
    told.says(12, "ann", 7, hold());
    assert!(told.lines.iter().all(|line| line.ended.is_none()));

    let mut told = Told::new();
    told.item.expires_at = Some(second(5));
    let step = expire(&mut told.item, second(5)).unwrap();
    told.add(step).are(&[]);

    let mut told = Told::new();
    claim(&mut told.item);
    let step = returned(&mut told.item, "no queue", second(5)).unwrap();
    told.add(step).are(&[]);

    // Waiting after an attempt that ended: only that one did.
    let mut told = Told::new();
    told.goes_out(10).says(20, "ann", 1, failing(Failure::It));
    let step = cancel(&mut told.item, "eve", "gone", second(30)).unwrap();
    told.add(step).are(&[(1, Some("ann"), Some("it"), Some("broken"), 1, Some(30))]);
    let mut told = Told::new();
    told.goes_out(10);
    let step = cancel(&mut told.item, "eve", "gone", second(30)).unwrap();
    told.add(step).are(&[(1, None, Some("cancelled"), None, 0, None)]);
}

#[test]
fn of_poison_everything_is_kept_that_was_said_of_the_deaths() {
    let mut told = Told::new();
    told.goes_out(10);
    for (at, robot) in [(11, "ann"), (12, "bob"), (13, "ann"), (14, "cy"), (15, "dot"), (16, "eve")] {
        told.says(at, robot, 1, started());
    }
    let reason = "robots died in 5 deliveries of this attempt; the last known is dot, which started at \
                  1970-01-01T00:00:15Z";
    told.are(&[(1, Some("eve"), Some("poison"), Some(reason), 6, None)]);
    let starts: Vec<String> = told.attempts()[0].starts.iter().map(|start| start.robot.clone()).collect();
    assert_eq!(starts, ["ann", "bob", "ann", "cy", "dot", "eve"]);

    for (counted, started_by, reason) in [
        (None, None, "robots died in 1 deliveries of this attempt"),
        (Some((5, 5)), None, "robots died in 5 deliveries of this attempt"),
        (
            Some((1_700, 5)),
            Some("bob"),
            "robots died in 5 of 1700 deliveries of this attempt; the last known is bob, which started at \
             1970-01-01T00:00:12Z",
        ),
    ] {
        let mut told = Told::new();
        told.goes_out(10);
        if let Some(robot) = started_by {
            told.says(12, robot, 1, started());
        }
        told.dies(20, DeathReason::DeliveryLimit, counted);
        assert_eq!(told.item.reason.as_deref(), Some(reason));
        told.are(&[(1, started_by, Some("poison"), Some(reason), counted.map_or(0, |counted| counted.0), None)]);
    }
}

#[test]
fn an_attempt_that_takes_too_long_ends_and_is_tried_again_as_the_definition_says() {
    let mut told = Told::new();
    told.goes_out(10).says(20, "ann", 1, started());
    assert_eq!(time_out(&mut told.item, TIMEOUT, second(79), &RULES, &moment(100)), None, "not over");
    let step = time_out(&mut told.item, TIMEOUT, second(80), &RULES, &moment(100)).unwrap();
    assert_eq!((told.item.state, told.item.retries, step.acks), (State::Queued, 1, 1));
    let reason = "not done within processing_timeout (1m): ann started at 1970-01-01T00:00:20Z";
    told.add(step).are(&[(1, Some("ann"), Some("timeout"), Some(reason), 1, Some(30))]);

    told.goes_out(200).says(210, "bob", 2, started()).times_out(300);
    assert_eq!(told.item.state, State::Exception(Kind::Timeout));
    assert!(told.item.retries_used_up() && told.item.reason.as_deref().unwrap().contains("bob started"));
    assert!(told.lines.last().unwrap().why.as_deref().unwrap().ends_with("retries are used up: 1 of 1"));
}

#[test]
fn only_a_robot_that_said_it_started_and_has_the_item_runs_out_of_time() {
    let begun = || {
        let mut item = out(1);
        tell(&mut item, started());
        item
    };
    let (mut dead, mut ended) = (begun(), begun());
    rejected(&mut dead);
    tell(&mut ended, hold());
    for mut item in [waiting(), out(1), dead, ended, settled(State::Processed)] {
        let before = item.clone();
        assert_eq!(time_out(&mut item, TIMEOUT, second(9_000), &RULES, &moment(9_000)), None);
        assert_eq!(item, before);
    }
    let mut item = begun();
    assert_eq!(time_out(&mut item, Duration::MAX, Timestamp::MAX, &RULES, &moment(9_000)), None);
}

#[test]
fn a_late_word_of_a_lost_attempt_changes_nothing_unless_the_work_is_done() {
    for newer_is_out in [false, true] {
        for saying in other_outcomes() {
            let mut told = Told::new();
            told.goes_out(10).says(20, "ann", 1, started()).times_out(100);
            if newer_is_out {
                told.goes_out(200);
            }
            let mut item = told.item.clone();
            let step = report(&mut item, &says(saying, 1), &RULES, &moment(300));
            assert_noted(&told.item, &item, &step);
            let step = report(&mut item, &says(done(), 1), &RULES, &moment(300));
            assert_eq!((item.state, step.acks), (State::Processed, i8::from(newer_is_out)));
        }
    }
}

#[test]
fn the_message_of_a_lost_attempt_is_accounted_for_once() {
    let lost = || {
        let mut told = Told::new();
        told.goes_out(10).says(20, "ann", 1, started());
        let acks = time_out(&mut told.item, TIMEOUT, second(100), &RULES, &moment(100)).unwrap().acks;
        (told, acks)
    };
    // The robot rejects it after all, or it dies otherwise: no ack will come.
    for reason in [DeathReason::Rejected, DeathReason::Expired, DeathReason::DeliveryLimit, DeathReason::MaxLength] {
        let (mut told, mut acks) = lost();
        let before = told.item.clone();
        for _ in 0..3 {
            let step = dies(&mut told.item, reason);
            assert_eq!(step.line, None);
            acks += step.acks;
        }
        assert_eq!((acks, told.item.state), (0, before.state));
    }
    // It comes back to a robot that says so, again and again: no delivery of the newer attempt, no poison.
    let (mut told, _) = lost();
    told.goes_out(200);
    for at in 0..9 {
        told.says(300 + at, "bob", 1, started());
    }
    assert_eq!((told.item.state, told.item.deliveries), (State::Queued, 0));
}

#[test]
fn retries_that_are_used_up_are_told_from_other_ends() {
    for (state, retries, code, expected) in [
        (State::Exception(Kind::It), 3, None, true),
        (State::Exception(Kind::It), 0, None, false),
        (State::Exception(Kind::Generic), 1, Some("E1"), true),
        (State::Exception(Kind::Generic), 1, Some(REQUEUE_LIMIT), false),
        (State::Exception(Kind::Generic), 1, Some(MAXLEN), false),
        (State::Exception(Kind::Timeout), 1, None, true),
        (State::Exception(Kind::Business), 2, None, false),
        (State::Exception(Kind::Poison), 2, None, false),
        (State::Queued, 2, None, false),
        (State::Processed, 2, None, false),
    ] {
        let item = Item { state, retries, code: code.map(str::to_owned), ..waiting() };
        assert_eq!(item.retries_used_up(), expected, "{state} {retries} {code:?}");
    }
}

#[test]
fn what_is_written_of_an_end_is_read_again_and_leaves_out_what_is_not_known() {
    let mut told = Told::new();
    told.goes_out(10).says(11, "ann", 1, started()).says(20, "ann", 1, failing(Failure::It));
    let ended = told.lines.last().and_then(|line| line.ended.clone()).unwrap();
    let text = serde_json::to_string(&ended).unwrap();
    assert_eq!(serde_json::from_str::<Ended>(&text).unwrap(), *ended);
    let short = Ended { attempt: 2, outcome: "processed".to_owned(), ..Ended::default() };
    assert_eq!(serde_json::to_string(&short).unwrap(), r#"{"attempt":2,"outcome":"processed"}"#);
}
