//! How much of a queue may go out now: decisions of dispatch, without the runner.

use std::collections::BTreeMap;
use std::time::Duration;

/// Items claimed and published together.
pub(super) const BATCH: u32 = 500;

/// How soon to look again while items wait for room in the window: robots' acks cannot be seen, only their effect. The
/// faster they are, the sooner.
const SOONEST: Duration = Duration::from_millis(4);
pub(super) const LATEST: Duration = Duration::from_millis(50);

/// How fast robots take what is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// Until the next look while the window is full.
    pub(super) wait: Duration,
    /// What should be ready if nobody took anything.
    pub(super) ready: u64,
}

impl Pace {
    /// So many were seen ready.
    pub(super) fn seen(&mut self, ready: u64) {
        let taken = ready < self.ready;
        self.wait = if taken { self.wait / 2 } else { self.wait * 2 }.clamp(SOONEST, LATEST);
        self.ready = ready;
    }

    /// Whether robots wait for nothing: small top-ups cost a commit each.
    pub(super) fn is_slow(self) -> bool {
        self.wait == LATEST
    }
}

/// Which priorities the ready messages have: priority is strict, so what is still ready is what robots take last,
/// from the lowest level up. `out` counts the mirror's unfinished items by level; rows that were acked without a report
/// are among them, so no level is taken to have more than its window.
pub(super) fn ready_by_level(ready: u64, window: u32, out: &BTreeMap<u8, u64>) -> BTreeMap<u8, u64> {
    let mut left = ready;
    let mut levels = BTreeMap::new();
    for (level, count) in out {
        let here = left.min(*count).min(u64::from(window));
        left -= here;
        levels.insert(*level, here);
    }
    // Messages the mirror knows nothing of (yet) count as the lowest.
    if let Some(mut lowest) = levels.first_entry() {
        *lowest.get_mut() += left;
    }
    levels
}

pub(super) fn room(window: u32, ready: u64) -> u32 {
    u64::from(window).saturating_sub(ready).try_into().unwrap_or(u32::MAX)
}

/// The wishes of all levels together go no further than the room there is, highest first.
pub(super) fn within(wishes: Vec<(u8, u32)>, room: Option<u32>) -> Vec<(u8, u32)> {
    let Some(mut left) = room else { return wishes };
    let cut = |(level, wish): (u8, u32)| {
        let wish = wish.min(left);
        left -= wish;
        (level, wish)
    };
    wishes.into_iter().map(cut).collect()
}

/// Whether it is time for a round: while robots are fast, once a level wants half a window; every round costs a commit.
pub(super) fn worth_it(wishes: &[(u8, u32)], window: u32, slow: bool) -> bool {
    wishes.iter().any(|(_, room)| *room > 0 && (slow || *room >= window.div_ceil(2).min(BATCH)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ready_is_what_robots_take_last() {
        for (ready, out, expected) in [
            (0, vec![(4, 200), (8, 200)], vec![(4, 0), (8, 0)]),
            (250, vec![(4, 200), (8, 200)], vec![(4, 200), (8, 50)]),
            (150, vec![(1, 10), (4, 200)], vec![(1, 10), (4, 140)]),
            (30, vec![(4, 10)], vec![(4, 30)]),
            (300, vec![(1, 1000), (8, 200)], vec![(1, 200), (8, 100)]),
            (30, vec![], vec![]),
        ] {
            let out: BTreeMap<u8, u64> = out.into_iter().collect();
            let expected: BTreeMap<u8, u64> = expected.into_iter().collect();
            assert_eq!(ready_by_level(ready, 200, &out), expected);
        }
    }

    #[test]
    fn the_window_never_goes_below_nothing() {
        assert_eq!((room(200, 0), room(200, 150), room(200, 900)), (200, 50, 0));
    }

    #[test]
    fn all_levels_share_what_room_there_is() {
        let wishes = vec![(8, 3), (4, 200), (1, 200)];
        for (room, expected) in [
            (None, wishes.clone()),
            (Some(0), vec![(8, 0), (4, 0), (1, 0)]),
            (Some(2), vec![(8, 2), (4, 0), (1, 0)]),
            (Some(5), vec![(8, 3), (4, 2), (1, 0)]),
            (Some(1000), wishes.clone()),
        ] {
            assert_eq!(within(wishes.clone(), room), expected, "{room:?}");
        }
    }

    #[test]
    fn fast_robots_get_half_a_window_at_a_time() {
        for (wishes, window, fast, slow) in [
            (vec![(4, 200)], 200, true, true),
            (vec![(4, 100)], 200, true, true),
            (vec![(4, 99)], 200, false, true),
            (vec![(8, 150), (4, 1)], 200, true, true),
            (vec![(4, 1)], 1, true, true),
            (vec![(4, 1)], 3, false, true),
            (vec![(4, BATCH)], 5000, true, true),
            (vec![(4, 0)], 200, false, false),
            (vec![], 200, false, false),
        ] {
            assert_eq!((worth_it(&wishes, window, false), worth_it(&wishes, window, true)), (fast, slow), "{wishes:?}");
        }
    }

    #[test]
    fn the_faster_robots_are_the_sooner_we_look() {
        let mut pace = Pace { wait: LATEST, ready: 200 };
        for ready in [150, 100, 50, 20, 10, 5] {
            pace.seen(ready);
        }
        assert_eq!(pace, Pace { wait: SOONEST, ready: 5 });
        for _ in 0..5 {
            pace.seen(5);
        }
        assert!(pace.is_slow());
    }
}
