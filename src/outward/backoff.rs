//! What follows an attempt to send. Pure.
//!
//! The waits are those that Standard Webhooks recommends, as far as they make up a day: an endpoint that takes nothing for so long is
//! left alone until somebody says that it works again.

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

/// What follows, after `failures` attempts that failed before this one. `chance` is 0..1.
#[must_use]
pub fn after(outcome: &Outcome, failures: u32, now: Timestamp, chance: f64) -> Next {
    match outcome {
        Outcome::Taken { .. } => Next::Done,
        Outcome::Gone => Next::GiveUp,
        Outcome::Failed { retry_after, .. } => {
            let Some(wait) = WAITS.get(usize::try_from(failures).unwrap_or(usize::MAX)) else { return Next::GiveUp };
            let wait = wait.mul_f64(0.9 + 0.2 * chance.clamp(0.0, 1.0));
            let wait = wait.max(retry_after.unwrap_or_default().min(LONGEST_WISH));
            Next::Again(now.checked_add(wait).unwrap_or(Timestamp::MAX))
        }
    }
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
