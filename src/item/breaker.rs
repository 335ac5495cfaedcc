//! The breaker of a queue: after so many alike failures in a row nothing goes out for a while, then one item is tried.
//!
//! ```text
//! closed --`after` alike failures in a row--> open --the pause is over--> trying
//! trying --what was tried is processed--> closed          people close it at any time
//! trying --what was tried fails alike--> open
//! ```
//!
//! - A failed attempt counts once, whether it is retried or not, where robots or systems failed: `it`, `generic`,
//!   `timeout`, `poison`. `processed` ends a row. Everything else (`business`, a requeue, a hold, the end of a life) says
//!   nothing of the systems, and changes nothing.
//! - While it is open, and of what went out before it was tried, an alike failure adds to the count and that is all.
//! - A tried item that fails otherwise begins a row of its own, and the next one is tried.
//!
//! `trying` is not noted anywhere: it is what an open breaker is from `until` on. So nothing has to happen at that moment,
//! and a crash cannot fall into it.

use super::Timestamp;
use crate::definition::Breaker as Policy;

/// The breaker of one queue, as the mirror keeps it. What is not kept is [`Breaker::closed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// What failed last, or what it opened for; `None`: nothing since the last success.
    pub fingerprint: Option<String>,
    /// Failures like it in a row.
    pub failures: u32,
    /// When it opened, or was closed.
    pub since: Timestamp,
    /// Open: nothing goes out before this moment. `None`: closed.
    pub until: Option<Timestamp>,
}

/// Where it stands at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Closed,
    /// Nothing goes out.
    Open,
    /// One item goes out at a time, until one tells. It began at this moment.
    Trying(Timestamp),
}

impl Standing {
    /// The word used outside.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Trying(_) => "trying",
        }
    }
}

/// How an attempt ended, as far as a breaker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The fingerprint of its failure; `None`: it was processed.
    pub failure: Option<String>,
    /// When the attempt went out.
    pub dispatched_at: Option<Timestamp>,
}

/// What an end made of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Opened,
    Closed,
}

impl Breaker {
    /// Nothing failed.
    #[must_use]
    pub const fn closed(since: Timestamp) -> Self {
        Self { fingerprint: None, failures: 0, since, until: None }
    }

    #[must_use]
    pub fn at(&self, now: Timestamp) -> Standing {
        match self.until {
            None => Standing::Closed,
            Some(until) if now < until => Standing::Open,
            Some(until) => Standing::Trying(until),
        }
    }

    /// Takes what is told of an attempt. Answers whether it opened or closed.
    pub fn tell(&mut self, policy: Policy, told: &Told, now: Timestamp) -> Option<Change> {
        let alike = told.failure.is_some() && told.failure == self.fingerprint;
        let standing = self.at(now);
        let tried = matches!(standing, Standing::Trying(since) if told.dispatched_at.is_some_and(|at| at >= since));
        if standing != Standing::Closed && !tried {
            self.failures = self.failures.saturating_add(u32::from(alike));
            return None;
        }
        let Some(failure) = &told.failure else {
            (self.fingerprint, self.failures) = (None, 0);
            return self.close(now).then_some(Change::Closed);
        };
        if !alike {
            (self.fingerprint, self.failures) = (Some(failure.clone()), 0);
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < policy.after && !(tried && alike) {
            return None;
        }
        self.since = now;
        self.until = Some(now.checked_add(policy.pause).unwrap_or(Timestamp::MAX));
        Some(Change::Opened)
    }

    /// Closes it, whatever failed. Answers whether it was open.
    pub fn close(&mut self, now: Timestamp) -> bool {
        let was_open = self.until.is_some();
        if was_open {
            *self = Self::closed(now);
        }
        was_open
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const POLICY: Policy = Policy { after: 3, pause: Duration::from_secs(60) };

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Tells of ends, each `(when, when it went out, failure)`, and writes down where each left the breaker.
    fn history(policy: Policy, ends: &[(i64, i64, Option<&str>)]) -> (Vec<String>, Breaker) {
        let mut breaker = Breaker::closed(second(0));
        let mut seen = Vec::new();
        for (now, out, failure) in ends {
            let told = Told { failure: failure.map(str::to_owned), dispatched_at: Some(second(*out)) };
            let change = breaker.tell(policy, &told, second(*now));
            let standing = breaker.at(second(*now)).word();
            let change = change.map(|change| format!(", {change:?}")).unwrap_or_default();
            seen.push(format!("{standing} {}{change}", breaker.failures));
        }
        (seen, breaker)
    }

    #[test]
    fn only_alike_failures_in_a_row_open_it() {
        let (a, b) = (Some("a"), Some("b"));
        for (ends, expected) in [
            (vec![a, a, a], "open 3, Opened"),
            (vec![a, a, b], "closed 1"),
            (vec![a, a, None, a], "closed 1"),
            (vec![a, b, a, b, a], "closed 1"),
            (vec![a, a, b, b, b], "open 3, Opened"),
            (vec![None, None], "closed 0"),
        ] {
            let ends: Vec<_> = ends.into_iter().zip(10..).map(|(failure, now)| (now, now - 5, failure)).collect();
            assert_eq!(history(POLICY, &ends).0.last().unwrap(), expected, "{ends:?}");
        }
        let (seen, breaker) = history(Policy { after: 1, ..POLICY }, &[(10, 1, Some("a"))]);
        assert_eq!((seen[0].as_str(), breaker.since, breaker.until), ("open 1, Opened", second(10), Some(second(70))));
    }

    #[test]
    fn what_was_out_before_only_counts_while_it_is_open_and_while_one_is_tried() {
        let opened = [(10, 1, Some("a")), (11, 1, Some("a")), (12, 1, Some("a"))];
        for (end, expected) in [
            ((13, 1, Some("a")), "open 4"),
            ((13, 1, Some("b")), "open 3"),
            ((13, 1, None), "open 3"),
            ((72, 11, Some("a")), "trying 4"),
            ((72, 11, Some("b")), "trying 3"),
            ((72, 11, None), "trying 3"),
        ] {
            let (seen, breaker) = history(POLICY, &[&opened[..], &[end]].concat());
            assert_eq!(seen[3], expected, "{end:?}");
            assert_eq!((breaker.fingerprint.as_deref(), breaker.until), (Some("a"), Some(second(72))));
        }
    }

    #[test]
    fn what_is_tried_closes_it_or_opens_it_again() {
        let opened = [(10, 1, Some("a")), (11, 1, Some("a")), (12, 1, Some("a"))];
        for (ends, expected) in [
            (vec![(75, 72, None)], "closed 0, Closed"),
            (vec![(75, 72, Some("a"))], "open 4, Opened"),
            // It fails otherwise: the next is tried, and whatever fails like it opens it again.
            (vec![(75, 72, Some("b"))], "trying 1"),
            (vec![(75, 72, Some("b")), (80, 76, Some("c"))], "trying 1"),
            (vec![(75, 72, Some("b")), (80, 76, Some("b"))], "open 2, Opened"),
            (vec![(75, 72, Some("b")), (80, 76, None)], "closed 0, Closed"),
            // Opened again it waits as long again.
            (vec![(75, 72, Some("a")), (134, 72, None)], "open 4"),
            (vec![(75, 72, Some("a")), (135, 135, None)], "closed 0, Closed"),
        ] {
            let (seen, _) = history(POLICY, &[&opened[..], &ends].concat());
            assert_eq!(seen.last().unwrap(), expected, "{ends:?}");
        }
    }

    #[test]
    fn people_close_what_is_open() {
        let (_, mut breaker) = history(Policy { after: 1, ..POLICY }, &[(10, 1, Some("a"))]);
        assert!(breaker.close(second(20)));
        assert_eq!(breaker, Breaker::closed(second(20)));
        assert!(!breaker.close(second(30)));
        assert_eq!(breaker.since, second(20));
    }
}
