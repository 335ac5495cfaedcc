//! What follows an attempt to send. Pure.
//!
//! The waits of webhooks are those that Standard Webhooks recommends, as far as they make up a day: an endpoint that takes nothing for so
//! long is left alone until somebody says that it works again. Nobody can say so of whom notices go to, so they are tried again soon
//! enough, for as long as somebody waits for them: each for a day.

use std::time::Duration;

use crate::item::Timestamp;

/// Before the second attempt, the third, and so on.
const WAITS: [Duration; 7] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
];

/// Whom notices go to waits no longer than this many of them say.
const WAITS_OF_NOTICES: usize = 3;

/// How old a notice becomes that is not taken.
pub const LIFE_OF_NOTICES: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// The longest that an endpoint may ask to be left alone for.
const LONGEST_WISH: Duration = Duration::from_hours(24);

/// How an attempt went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With a status of the 200s, or by the mail server.
    Taken {
        status: Option<u16>,
    },
    /// Not taken, and nothing is wanted there any more: 410.
    Gone,
    Failed {
        status: Option<u16>,
        error: String,
        retry_after: Option<Duration>,
    },
}

/// What is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The next message.
    Done,
    /// The same message, not before.
    Again(Timestamp),
    /// Nothing more by itself.
    GiveUp,
}

/// What follows for a webhook, after `failures` attempts that failed before this one. `chance` is 0..1.
#[must_use]
pub fn after(outcome: &Outcome, failures: u32, now: Timestamp, chance: f64) -> Next {
    let wait = WAITS.get(usize::try_from(failures).unwrap_or(usize::MAX));
    match (outcome, wait) {
        (Outcome::Taken { .. }, _) => Next::Done,
        (Outcome::Failed { retry_after, .. }, Some(wait)) => Next::Again(at(*wait, *retry_after, now, chance)),
        _ => Next::GiveUp,
    }
}

/// The same for whom notices go to: never given up, only what is [too old](LIFE_OF_NOTICES) is.
#[must_use]
pub fn after_notice(outcome: &Outcome, failures: u32, now: Timestamp, chance: f64) -> Next {
    let wait = WAITS[usize::try_from(failures).unwrap_or(usize::MAX).min(WAITS_OF_NOTICES - 1)];
    match outcome {
        Outcome::Taken { .. } => Next::Done,
        Outcome::Gone => Next::Again(at(wait, None, now, chance)),
        Outcome::Failed { retry_after, .. } => Next::Again(at(wait, *retry_after, now, chance)),
    }
}

fn at(wait: Duration, wish: Option<Duration>, now: Timestamp, chance: f64) -> Timestamp {
    let wait = wait.mul_f64(0.9 + 0.2 * chance.clamp(0.0, 1.0));
    let wait = wait.max(wish.unwrap_or_default().min(LONGEST_WISH));
    now.checked_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(retry_after: Option<u64>) -> Outcome {
        Outcome::Failed { status: Some(503), error: String::new(), retry_after: retry_after.map(Duration::from_secs) }
    }

    #[test]
    fn waits_grow_for_a_day_and_then_end() {
        let now = Timestamp::UNIX_EPOCH;
        let waits: Vec<i64> = (0..)
            .map_while(|failures| match after(&failed(None), failures, now, 0.5) {
                Next::Again(at) => Some(at.as_second()),
                _ => None,
            })
            .collect();
        assert_eq!(waits, [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400]);
        let total: i64 = waits.iter().sum();
        assert!((24 * 3_600..48 * 3_600).contains(&total), "{total}");
        assert_eq!(after(&failed(None), u32::MAX, now, 0.5), Next::GiveUp);
    }

    #[test]
    fn whom_notices_go_to_is_tried_again_within_half_an_hour() {
        let now = Timestamp::UNIX_EPOCH;
        for (failures, seconds) in [(0, 5), (1, 300), (2, 1_800), (3, 1_800), (u32::MAX, 1_800)] {
            for outcome in [failed(None), Outcome::Gone] {
                let Next::Again(at) = after_notice(&outcome, failures, now, 0.5) else { panic!("{outcome:?}") };
                assert_eq!(at.as_second(), seconds, "{failures} {outcome:?}");
            }
        }
        let Next::Again(at) = after_notice(&failed(Some(7_200)), 9, now, 0.5) else { panic!("it is tried again") };
        assert_eq!(at.as_second(), 7_200);
        assert_eq!(after_notice(&Outcome::Taken { status: None }, 9, now, 0.5), Next::Done);
    }

    #[test]
    fn chance_and_the_endpoints_wish_move_it() {
        let now = Timestamp::UNIX_EPOCH;
        for (retry_after, chance, millis) in [
            (None, 0.0, 4_500),
            (None, 1.0, 5_500),
            (Some(60), 0.0, 60_000),
            (Some(1), 0.0, 4_500),
            (Some(u64::MAX), 0.0, 86_400_000),
        ] {
            let Next::Again(at) = after(&failed(retry_after), 0, now, chance) else { panic!("it is tried again") };
            assert_eq!(at.as_millisecond(), millis, "{retry_after:?} {chance}");
        }
        assert_eq!(after(&Outcome::Taken { status: Some(204) }, 5, now, 0.5), Next::Done);
        assert_eq!(after(&Outcome::Gone, 0, now, 0.5), Next::GiveUp);
    }
}
