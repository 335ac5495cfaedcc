//! How often: a bucket of requests per token, and one of failed tries per source address.
//!
//! Whoever shows what is good is never held up by others who do not, also from the same address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::item::Timestamp;

/// Failed tries that an address may make at once, and how many it gets back per second.
const TRIES: f64 = 20.0;
const TRIES_PER_SECOND: f64 = 1.0;

/// Addresses that are remembered.
const MOST_ADDRESSES: usize = 10_000;

/// A bucket that fills steadily and from which each request takes one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bucket {
    left: f64,
    at: Timestamp,
}

impl Bucket {
    pub(super) const fn full(burst: f64, at: Timestamp) -> Self {
        Self { left: burst, at }
    }

    /// Takes one.
    ///
    /// # Errors
    /// After how long there is one again.
    pub(super) fn take(&mut self, now: Timestamp, per_second: f64, burst: f64) -> Result<(), Duration> {
        // A clock that goes back gives nothing and takes nothing.
        let passed = now.duration_since(self.at).as_secs_f64().max(0.0);
        self.left = passed.mul_add(per_second, self.left).min(burst);
        self.at = now;
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64(((1.0 - self.left) / per_second).clamp(0.001, 3600.0)))
    }

    fn is_full(&self, now: Timestamp, per_second: f64, burst: f64) -> bool {
        now.duration_since(self.at).as_secs_f64().mul_add(per_second, self.left) >= burst
    }
}

/// Failed tries by source address.
#[derive(Debug, Default)]
pub(super) struct Tries(Mutex<HashMap<IpAddr, Bucket>>);

impl Tries {
    /// Notes a failed try.
    ///
    /// # Errors
    /// After how long this address may try again, where it tried too often.
    pub(super) fn failed(&self, from: Option<IpAddr>, now: Timestamp) -> Result<(), Duration> {
        let Some(from) = from.map(network) else { return Ok(()) };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_ADDRESSES && !all.contains_key(&from) {
            all.retain(|_, bucket| !bucket.is_full(now, TRIES_PER_SECOND, TRIES));
            if all.len() >= MOST_ADDRESSES {
                // A crowd like that is no single source; memory goes first.
                return Ok(());
            }
        }
        let bucket = all.entry(from).or_insert_with(|| Bucket::full(TRIES, now));
        bucket.take(now, TRIES_PER_SECOND, TRIES)
    }
}

/// Whom an address stands for: in IPv6 somebody has a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::full(3.0, at(0));
        for _ in 0..3 {
            assert_eq!(bucket.take(at(0), 2.0, 3.0), Ok(()));
        }
        assert_eq!(bucket.take(at(0), 2.0, 3.0), Err(Duration::from_millis(500)));
        assert_eq!(bucket.take(at(500), 2.0, 3.0), Ok(()));
        assert!(bucket.take(at(400), 2.0, 3.0).is_err(), "a clock that goes back");
        for _ in 0..3 {
            assert_eq!(bucket.take(at(60_000), 2.0, 3.0), Ok(()));
        }
        assert!(bucket.take(at(60_000), 2.0, 3.0).is_err(), "no more than its burst");
    }

    #[test]
    fn failed_tries_are_counted_by_network_and_forgotten() {
        let tries = Tries::default();
        let address = |text: &str| Some(text.parse().unwrap());
        for _ in 0..20 {
            assert_eq!(tries.failed(address("2001:db8::1"), at(0)), Ok(()));
        }
        assert!(tries.failed(address("2001:db8::ffff"), at(0)).is_err());
        assert!(tries.failed(address("2001:db8::2"), at(0)).is_err());
        assert_eq!(tries.failed(address("2001:db9::1"), at(0)), Ok(()));
        assert_eq!(tries.failed(address("::ffff:10.0.0.1"), at(0)), Ok(()));
        assert_eq!(tries.failed(address("2001:db8::2"), at(2_000)), Ok(()));
        assert_eq!(tries.failed(None, at(0)), Ok(()));
    }

    #[test]
    fn many_addresses_take_bounded_memory() {
        let tries = Tries::default();
        for number in 0..30_000_u32 {
            let _ = tries.failed(Some(IpAddr::V4(number.into())), at(0));
        }
        assert_eq!(tries.0.lock().unwrap().len(), MOST_ADDRESSES);
        let _ = tries.failed(Some(IpAddr::V4(1_000_000.into())), at(60_000));
        assert_eq!(tries.0.lock().unwrap().len(), 1);
    }
}
