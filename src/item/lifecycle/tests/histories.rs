//! Any sequence of events over any item keeps what is promised of it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::people::{self, Verdict};
use super::*;
use crate::item::request::{Changes, Order, Verb};

const MIRROR: &str = include_str!("../../../../migrations/sqlite/0001_mirror.sql");
/// What a later migration makes of the check.
const CLAIMS: &str = include_str!("../../../../migrations/sqlite/0006_claims.sql");

/// Few deaths are enough, so that poison comes up often.
const RULES: Rules<'static> = Rules { crash_limit: 1, ..super::RULES };

#[derive(Debug, Clone)]
enum Event {
    Report {
        saying: Saying,
        attempt: Option<u32>,
    },
    Death {
        reason: DeathReason,
        attempt: Option<u32>,
        deliveries: Option<u32>,
    },
    Judge,
    Expire,
    Infer,
    TimeOut,
    Unreported,
    /// The runners' own moves, as far as decisions meet them.
    Claim,
    Dispatched,
    Returned,
    /// What is done with leases.
    ClaimedReady,
    ClaimedDelivery {
        earlier: bool,
    },
    ClaimedNamed,
    LeaseLost {
        in_a_row: u32,
    },
    GivenBack,
    /// Its message was taken back out of the robots' queue.
    Recalled {
        redelivered: bool,
    },
    /// What people ask, and what waited of it.
    Asked(Verb),
    CarriedOut,
    GivenUp,
}

fn verb() -> impl Strategy<Value = Verb> {
    let times = || proptest::option::of(proptest::option::of((0..5_000_i64).prop_map(second)));
    let changes = || {
        (proptest::option::of(0..=31_u8), times(), times()).prop_map(|(priority, expires_at, not_before)| {
            Box::new(Changes { priority, expires_at, not_before, ..Changes::default() })
        })
    };
    prop_oneof![
        Just(Verb::Hold),
        Just(Verb::Release),
        Just(Verb::Cancel),
        Just(Verb::Restore),
        changes().prop_map(Verb::Requeue),
        changes().prop_map(Verb::Edit),
        Just(Verb::Note("n".to_owned())),
        Just(Verb::Assign(None)),
    ]
}

fn saying() -> impl Strategy<Value = Saying> {
    let percent = proptest::option::of(0..=100_u8);
    let wait = prop_oneof![
        Just(Wait::None),
        (0..5_000_u64).prop_map(|wait| Wait::For(Duration::from_secs(wait))),
        (0..5_000_i64).prop_map(|at| Wait::Until(second(at))),
    ];
    let expires_at = proptest::option::of((0..5_000_i64).prop_map(second));
    prop_oneof![
        4 => percent.prop_map(|percent| Saying::Started { note: None, percent }),
        1 => Just(Saying::Progress { note: Some("n".to_owned()), percent: None }),
        2 => Just(done()),
        3 => proptest::sample::select(vec![Failure::Business, Failure::It, Failure::Generic]).prop_map(failing),
        2 => (wait, expires_at).prop_map(|(wait, expires_at)| {
            Saying::Requeue { wait, note: None, priority: None, expires_at }
        }),
        1 => Just(hold()),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    // Mostly of the newest attempt, also of former ones and of some that never were.
    let attempt = || prop_oneof![2 => Just(None), 1 => (0..5_u32).prop_map(Some)];
    let reasons = vec![
        DeathReason::Rejected,
        DeathReason::Rejected,
        DeathReason::Expired,
        DeathReason::DeliveryLimit,
        DeathReason::MaxLength,
    ];
    prop_oneof![
        8 => (saying(), attempt()).prop_map(|(saying, attempt)| Event::Report { saying, attempt }),
        4 => (proptest::sample::select(reasons), attempt(), proptest::option::of(0..9_u32))
            .prop_map(|(reason, attempt, deliveries)| Event::Death { reason, attempt, deliveries }),
        2 => Just(Event::Judge),
        1 => Just(Event::Expire),
        1 => Just(Event::Infer),
        2 => Just(Event::TimeOut),
        1 => Just(Event::Unreported),
        4 => Just(Event::Claim),
        2 => Just(Event::Dispatched),
        1 => Just(Event::Returned),
        2 => Just(Event::ClaimedReady),
        3 => (0..6_u8).prop_map(|chance| Event::ClaimedDelivery { earlier: chance == 0 }),
        2 => Just(Event::ClaimedNamed),
        2 => (1..3_u32).prop_map(|in_a_row| Event::LeaseLost { in_a_row }),
        1 => Just(Event::GivenBack),
        1 => any::<bool>().prop_map(|redelivered| Event::Recalled { redelivered }),
        5 => verb().prop_map(Event::Asked),
        1 => Just(Event::CarriedOut),
        1 => Just(Event::GivenUp),
    ]
}

fn any_item() -> impl Strategy<Value = Item> {
    let states = [State::Processed, State::OnHold, State::Cancelled];
    let ends: Vec<State> = Kind::ALL.iter().map(|kind| State::Exception(*kind)).chain(states).collect();
    let silent = |state: State| match state {
        State::Processed => true,
        State::Exception(kind) => matches!(kind, Kind::Generic | Kind::Missing | Kind::Unreported),
        _ => false,
    };
    let end = (proptest::sample::select(ends), any::<bool>())
        .prop_map(move |(state, quiet)| Item { silent: quiet && silent(state), ..settled(state) });
    prop_oneof![
        2 => Just(waiting()),
        4 => (1..4_u32).prop_map(out),
        1 => end,
    ]
}

fn take(item: &mut Item, event: &Event, now: i64) -> Option<Step> {
    let moment = moment(now);
    match event.clone() {
        Event::Report { saying, attempt } => {
            Some(report(item, &Report { attempt, ..says(saying, 0) }, &RULES, &moment))
        }
        Event::Death { reason, attempt, deliveries } => {
            let death = Death { reason, queue: "wq.q.q".to_owned(), attempt, deliveries, failures: None };
            Some(super::super::death(item, &death, moment.now))
        }
        Event::Judge => judge(item, &RULES, &moment),
        Event::Expire => expire(item, moment.now),
        Event::Infer => infer_processed(item, moment.now),
        Event::TimeOut => time_out(item, TIMEOUT, moment.now, &RULES, &moment),
        Event::Unreported => unreported(item, moment.now),
        Event::Claim => {
            if matches!(item.place, Place::Delayed | Place::Ready) {
                claim(item);
            }
            None
        }
        Event::Dispatched => {
            if item.place == Place::Claimed {
                item.place = Place::Broker;
            }
            None
        }
        Event::ClaimedReady => lease::claim_ready(item, "w", moment.now),
        Event::ClaimedDelivery { earlier } => {
            let attempt = item.attempt.saturating_sub(u32::from(earlier));
            lease::claim_delivered(item, lease::Delivery { attempt, before: 0 }, "w", &RULES, moment.now)
        }
        Event::ClaimedNamed => lease::claim_named(item, "w", true, moment.now).ok(),
        Event::LeaseLost { in_a_row } => lease::lose(item, item.attempt, in_a_row, TIMEOUT, &RULES, moment.now),
        Event::GivenBack => lease::give_back(item, item.attempt, "w", None, moment.now),
        Event::Returned => returned(item, "no queue", moment.now),
        Event::Recalled { redelivered } => people::recalled(item, item.attempt, redelivered, moment.now),
        Event::Asked(verb) => {
            let order = Order { verb, who: "ann".to_owned(), why: None, on_sight: false };
            match people::order(item, &order, true, moment.now) {
                Verdict::Done(step) | Verdict::Recall(step) => Some(step),
                Verdict::Refused(_) => None,
            }
        }
        Event::CarriedOut => people::carry_out(item, moment.now),
        Event::GivenUp => people::refuse(item, people::REFUSED, "no", moment.now),
    }
}

/// The attempt a report names.
fn says_of(event: &Event) -> Option<u32> {
    match event {
        Event::Report { attempt, .. } => *attempt,
        _ => None,
    }
}

/// The places that the mirror's check allows a state.
fn places_in_the_mirror() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let (_, changed) = CLAIMS.split_once("'WHEN ''processing'' THEN").unwrap().1.split_once(", 'WHEN").unwrap();
    let changed = format!("WHEN{}", changed.split_once("')\n").unwrap().0.replace("''", "'"));
    let check = MIRROR.split_once("CHECK (CASE state").unwrap().1.split_once("END)").unwrap().0;
    let check = check.lines().map(|line| if line.contains("'processing'") { changed.as_str() } else { line });
    let check: &'static str = check.collect::<Vec<_>>().join("\n").leak();
    let words = |text: &'static str| -> Vec<&'static str> { text.split('\'').skip(1).step_by(2).collect() };
    let mut places = BTreeMap::new();
    for line in check.lines().filter(|line| !line.trim().is_empty()) {
        let words = words(line);
        if line.contains("WHEN") {
            places.insert(words[0], words[1..].iter().copied().collect());
        } else {
            for state in State::WORDS {
                places.entry(state).or_insert_with(|| words.iter().copied().collect());
            }
        }
    }
    places
}

#[test]
fn the_mirror_allows_each_state_its_places() {
    let places = places_in_the_mirror();
    assert_eq!(places["queued"], BTreeSet::from(["delayed", "ready", "claimed", "broker"]));
    assert_eq!(places["processing"], BTreeSet::from(["claimed", "broker", "leased"]));
    for state in ["processed", "on_hold", "exception", "cancelled"] {
        assert_eq!(places[state], BTreeSet::from(["settled"]));
    }
}

fn holds_together(item: &Item) -> Result<(), TestCaseError> {
    let places = places_in_the_mirror();
    prop_assert!(places[item.state.word()].contains(item.place.word()), "{} in {}", item.state, item.place);
    prop_assert_eq!(item.state.word() == "exception", item.state.kind().is_some());
    let finished = matches!(item.state, State::Processed | State::Exception(_) | State::Cancelled);
    prop_assert_eq!(item.finished_at.is_some(), finished, "{}", item.state);
    let was_exception = matches!(item.cancelled_from, Some(State::Exception(_)));
    if !matches!(item.state, State::Exception(_)) && !was_exception {
        prop_assert_eq!((&item.code, &item.reason, &item.fingerprint), (&None, &None, &None));
    }
    if item.silent {
        let may = matches!(item.state, State::Queued | State::Processed | State::Exception(_));
        prop_assert!(may && !is_out(item), "nothing was said of an attempt that is open");
    }
    prop_assert!(item.cancelled_from.is_none() || item.state == State::Cancelled, "{:?}", item.cancelled_from);
    if item.place == Place::Ready {
        prop_assert!(item.size.is_some());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_an_item_whole(
        mut item in any_item(),
        events in proptest::collection::vec(any_event(), 1..30),
    ) {
        for (event, now) in events.iter().zip((200..).step_by(97)) {
            let before = item.clone();
            let step = take(&mut item, event, now);
            holds_together(&item)?;

            prop_assert!(item.revision == before.revision || item.revision == before.revision + 1);
            if item != before && !matches!(event, Event::Dispatched) {
                prop_assert!(item.revision > before.revision, "a change that would not be saved");
            }
            if let Some(line) = step.as_ref().and_then(|step| step.line.as_ref()) {
                prop_assert_eq!(line.revision, item.revision);
                prop_assert_eq!(&line.state, &item.state.to_string());
                prop_assert!(item.revision > before.revision, "a line without a number of its own");
            }
            let ended = step.as_ref().and_then(|step| step.line.as_ref()?.ended.as_deref());
            if is_out(&before) && !is_out(&item) && item.attempt == before.attempt {
                let attempt = ended.map(|ended| ended.dropped.as_deref().unwrap_or(ended).attempt);
                // A `processed` that nobody was handed out ends what is out, and has no number to be noted under.
                prop_assert!(attempt == Some(before.attempt) || says_of(event) == Some(0), "nobody notes the end");
            }
            if item.state != before.state {
                prop_assert!(step.is_some_and(|step| step.line.is_some()), "a move that nobody can read");
            }
            match event {
                Event::Claim | Event::ClaimedReady | Event::ClaimedNamed => prop_assert!(item.attempt >= before.attempt),
                Event::Returned | Event::Recalled { .. } => prop_assert!(item.attempt <= before.attempt),
                _ => prop_assert_eq!(item.attempt, before.attempt),
            }
            let by_people = matches!(event, Event::Asked(Verb::Hold | Verb::Requeue(_)));
            if before.state == State::Processed && !before.silent && !by_people {
                prop_assert_eq!(item.state, State::Processed, "work done was undone");
            }
            if matches!(event, Event::Report { saying: Saying::Processed { .. }, .. }) {
                prop_assert_eq!(item.state, State::Processed, "work done was refused");
            }
            prop_assert!(item.retries <= POLICY.it.limit.max(POLICY.generic.limit));
            prop_assert!(item.requeues <= POLICY.requeue_limit);
        }
    }

    /// An attempt in the robots' queue explains one ack once it ended, none where its dead letter came.
    #[test]
    fn an_attempt_never_explains_more_or_less_than_its_own_ack(
        events in proptest::collection::vec(any_event(), 1..30),
    ) {
        let mut item = out(1);
        let mut explained: BTreeMap<u32, i32> = BTreeMap::new();
        let mut died: BTreeSet<u32> = BTreeSet::new();
        let mut returned: BTreeSet<u32> = BTreeSet::new();
        let mut leased: BTreeSet<u32> = BTreeSet::new();
        let mut never_sent: BTreeSet<u32> = BTreeSet::new();
        for (event, now) in events.iter().zip((200..).step_by(97)) {
            let newest = item.attempt;
            let was_out = is_out(&item);
            let acks = take(&mut item, event, now).map_or(0, |step| i32::from(step.acks));
            *explained.entry(newest).or_default() += acks;
            if item.place == Place::Leased {
                leased.insert(item.attempt);
                if !was_out {
                    never_sent.insert(item.attempt);
                }
            }
            if matches!(event, Event::Death { attempt, .. } if attempt.is_none_or(|attempt| attempt == newest)) {
                died.insert(newest);
            }
            if item.attempt < newest {
                returned.insert(item.attempt);
                if matches!(event, Event::Recalled { .. }) {
                    // The next of this number is another message, with an ack of its own.
                    prop_assert_eq!(explained.remove(&newest), Some(1));
                }
            }
            if was_out && matches!(event, Event::Recalled { .. }) {
                // The ack is ours, so no dead letter can come of that message.
                returned.insert(newest);
            }
            let ended = !is_out(&item) || item.attempt != newest;
            for (attempt, explained) in &explained {
                prop_assert!((0..=1).contains(explained), "attempt {} explains {}", attempt, explained);
            }
            // Of an attempt that the broker gave back later nobody knows any more whether its dead letter was counted.
            if item.attempt == newest && newest > 0 && !returned.contains(&newest) {
                let expected = if never_sent.contains(&newest) {
                    0
                } else if leased.contains(&newest) {
                    // Its message was taken and acked.
                    1
                } else {
                    i32::from(ended && !died.contains(&newest))
                };
                prop_assert_eq!(explained[&newest], expected, "attempt {}", newest);
            }
        }
    }
}
