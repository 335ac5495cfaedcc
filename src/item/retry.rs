//! When a failed item is tried again: limits and growing delays, by exception kind.

use std::time::Duration;

use super::Kind;

/// What a queue's definition says about retries.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    pub it: Retry,
    pub generic: Retry,
    pub timeout: Retry,
    /// Requeues a robot may ask for before the item becomes `exception: generic`.
    pub requeue_limit: u32,
}

impl RetryPolicy {
    /// How often this kind is tried again; `None` where it never is by itself.
    #[must_use]
    pub const fn of(&self, kind: Kind) -> Option<Retry> {
        match kind {
            Kind::It => Some(self.it),
            Kind::Generic => Some(self.generic),
            Kind::Timeout => Some(self.timeout),
            _ => None,
        }
    }
}

/// Retries of one exception kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    /// Retries after the first attempt; 0: none.
    pub limit: u32,
    pub backoff: Backoff,
}

/// The wait before retry n: `first * factor^(n-1)`, at most `max`, spread by `jitter`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    pub first: Duration,
    /// At least 1.
    pub factor: f64,
    pub max: Duration,
    /// Share of the wait, 0..=1, by which it is made longer or shorter at random.
    pub jitter: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let backoff = Backoff::default();
        Self {
            it: Retry { limit: 3, backoff },
            generic: Retry { limit: 0, backoff },
            timeout: Retry { limit: 0, backoff },
            requeue_limit: 100,
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(30), factor: 2.0, max: Duration::from_hours(1), jitter: 0.2 }
    }
}

impl Backoff {
    /// The wait before retry number `retry` (from 1); `chance` is a random number in 0..1.
    #[must_use]
    pub fn delay(&self, retry: u32, chance: f64) -> Duration {
        let exponent = i32::try_from(retry.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.first.as_secs_f64() * self.factor.powi(exponent);
        let capped = grown.min(self.max.as_secs_f64());
        let spread = 1.0 + self.jitter * (2.0 * chance - 1.0);
        Duration::try_from_secs_f64((capped * spread).max(0.0)).unwrap_or(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_limit() {
        let backoff = Backoff { jitter: 0.0, ..Backoff::default() };
        let seconds: Vec<u64> = [1, 2, 3, 8, 9, u32::MAX].iter().map(|n| backoff.delay(*n, 0.5).as_secs()).collect();
        assert_eq!(seconds, [30, 60, 120, 3600, 3600, 3600]);
    }

    #[test]
    fn jitter_spreads_by_its_share_in_both_directions() {
        let backoff = Backoff::default();
        assert_eq!(backoff.delay(1, 0.0), Duration::from_secs(24));
        assert_eq!(backoff.delay(1, 1.0), Duration::from_secs(36));
    }
}
