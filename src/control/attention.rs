//! What deserves a look at a queue and stops nothing: items that come back again and again, robots that hang.
//!
//! The rules are functions of values. [`Watch`] asks them with each look of reconciliation at the broker's numbers, which
//! are some seconds old and say how many, never which. Order of effects where a loop is noticed: the event is committed,
//! then it is shown; a crash between them tells of it once more.

use std::collections::HashMap;
use std::time::Duration;

use crate::broker::management::QueueStats;
use crate::definition::QueueDefinition;
use crate::item::Timestamp;
use crate::lanes::Context;
use crate::mirror::control::{Event, add_events};
use crate::mirror::{MirrorError, Tx};
use crate::status::{Attention, Held};
use crate::units::format_duration;

/// Items come back to the queue again and again.
pub(super) const NACK_LOOP: &str = "nack_loop";
/// Robots said that they started, and then nothing.
pub(super) const HANGING: &str = "hanging";
/// Robots hold items of which nobody said anything, and nothing moves.
pub(super) const STALLED: &str = "stalled";
/// `processing_timeout` cannot see what robots hold.
pub(super) const UNSEEN: &str = "unseen";

/// So often has each message that robots hold come back, on average, where it is a loop. Robots that are restarted give
/// back each once.
const TIMES_BACK: u64 = 10;

/// A robot is silent for so many times of what is usual before it is said to hang ...
const TIMES_USUAL: u32 = 10;
/// ... but not before this long, ...
pub(super) const SHORTEST: Duration = Duration::from_mins(10);
/// ... and where nobody knows what is usual, not before this.
const UNKNOWN: Duration = Duration::from_hours(1);
/// What is usual is known from so many items.
const ENOUGH: usize = 5;

/// What the broker counted of a robots' queue at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Numbers {
    at: Timestamp,
    /// Deliveries since the queue was made, those that came back among them.
    delivered: u64,
    redelivered: u64,
    acks: u64,
    unacked: u64,
    consumers: u64,
}

impl Numbers {
    fn of(stats: &QueueStats, at: Timestamp) -> Self {
        Self {
            at,
            delivered: stats.delivered(),
            redelivered: stats.redelivered(),
            acks: stats.acks(),
            unacked: stats.unacked,
            consumers: stats.consumers,
        }
    }

    /// Nothing went out, came back or was acked between the two.
    const fn same_as(&self, other: &Self) -> bool {
        self.delivered == other.delivered && self.acks == other.acks && self.unacked == other.unacked
    }
}

/// Redeliveries and deliveries between two looks, where that many came back that robots do not just die: each message
/// that they hold came back [`TIMES_BACK`] times, and at least every second delivery was of one that came back.
fn looping(before: &Numbers, then: &Numbers) -> Option<(u64, u64)> {
    let back = then.redelivered.checked_sub(before.redelivered)?;
    let out = then.delivered.checked_sub(before.delivered)?;
    let robots = then.unacked.max(then.consumers).max(1);
    (back >= TIMES_BACK * robots && back >= out / 2).then_some((back, out))
}

fn nack_loop(before: &Numbers, then: &Numbers) -> Option<Attention> {
    let (back, out) = looping(before, then)?;
    let seconds = then.at.duration_since(before.at).as_secs().max(1);
    let text = format!(
        "{back} of {out} deliveries within {seconds} s were of items that had come back: a robot gives them back with \
         nack or reject and requeue, or dies on each; it should report requeue instead. Which items they are the broker \
         does not tell ({} consumers)",
        then.consumers
    );
    Some(Attention { since: then.at, text, held: Vec::new() })
}

/// The middle one; `None` where they are too few to say what is usual.
pub(super) fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied().filter(|_| times.len() >= ENOUGH)
}

/// How long a robot may say nothing before it is said to hang.
pub(super) fn patience(usual: Option<Duration>) -> Duration {
    usual.map_or(UNKNOWN, |usual| usual.saturating_mul(TIMES_USUAL).max(SHORTEST))
}

/// Who hangs, and with which items; `None` where nobody does.
pub(super) fn hanging(held: Vec<Held>, usual: Option<Duration>, at: Timestamp) -> Option<Attention> {
    let first = held.first()?;
    let usual = usual.map_or("what is usual is not known".to_owned(), |usual| {
        let usual = Duration::from_secs(usual.as_secs() + u64::from(usual.subsec_nanos() > 0));
        format!("half of the items are done within {}", format_duration(usual))
    });
    let text = format!(
        "{} item(s) were started and nothing was said of them since {:.0} or longer, though {usual}. Look after the \
         robots; the item goes to another one when its robot is stopped",
        held.len(),
        first.since
    );
    Some(Attention { since: at, text, held })
}

/// Robots hold something and nothing moved since `unmoved`; `known` of it is said to be started.
fn stalled(unmoved: Timestamp, then: &Numbers, known: u64, timeout: Option<Duration>) -> Option<Attention> {
    let patience = jiff::SignedDuration::try_from(timeout.unwrap_or(UNKNOWN)).ok()?;
    let stands = then.unacked > known && then.consumers > 0 && then.at.duration_since(unmoved) >= patience;
    stands.then(|| Attention {
        since: then.at,
        text: format!(
            "robots hold {} item(s), and nothing was delivered or acked since {unmoved:.0}; of {} of them nobody said \
             that they started: which they are, and who has them, is not known",
            then.unacked,
            then.unacked - known
        ),
        held: Vec::new(),
    })
}

/// Robots hold more than they said they started: `processing_timeout` counts from that word.
fn unseen(before: &Numbers, then: &Numbers, known: u64, timeout: Option<Duration>) -> Option<Attention> {
    timeout?;
    // One look alone may lie between a delivery and its `started`.
    let hidden = then.unacked.min(before.unacked).checked_sub(known).filter(|hidden| *hidden > 0)?;
    Some(Attention {
        since: then.at,
        text: format!(
            "robots hold {} item(s), and of {hidden} no open attempt is known to be started: processing_timeout cannot \
             see those. They did not report 'started', or their time was up and the robot still has them",
            then.unacked
        ),
        held: Vec::new(),
    })
}

/// Notes what deserves a look, and writes into the log where it begins and ends. Answers whether it begins.
pub(super) fn tell(context: &Context, queue: &str, what: &'static str, attention: Option<Attention>) -> bool {
    let text = attention.as_ref().map(|attention| attention.text.clone());
    let news = context.status.attend(queue, what, attention);
    match text {
        Some(text) if news => tracing::warn!(queue, what, "{text}"),
        None if news => tracing::info!(queue, what, "it is over"),
        _ => {}
    }
    news
}

/// What was seen of each queue before.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: HashMap<String, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    numbers: Numbers,
    /// Since when nothing moved.
    unmoved: Timestamp,
}

impl Watch {
    /// Looks at a queue's numbers. Two looks that are judged by are at least `gap` apart, for the numbers lag.
    pub(super) async fn see(
        &mut self,
        context: &Context,
        definition: &QueueDefinition,
        (stats, at): (&QueueStats, Timestamp),
        gap: Duration,
    ) -> Result<(), MirrorError> {
        let (key, then) = (definition.key.as_str(), Numbers::of(stats, at));
        let Some(Seen { numbers: before, unmoved }) = self.seen.get(key).copied() else {
            self.seen.insert(key.to_owned(), Seen { numbers: then, unmoved: at });
            return Ok(());
        };
        if at.duration_since(before.at) < jiff::SignedDuration::try_from(gap).unwrap_or_default() {
            return Ok(());
        }
        let unmoved = if then.same_as(&before) { unmoved } else { at };
        self.seen.insert(key.to_owned(), Seen { numbers: then, unmoved });

        let known = if then.unacked > 0 { context.mirror.counts_of(key).await?.processing } else { 0 };
        let timeout = definition.processing_timeout;
        tell(context, key, STALLED, stalled(unmoved, &then, known, timeout));
        tell(context, key, UNSEEN, unseen(&before, &then, known, timeout));
        let looping = nack_loop(&before, &then);
        if looping.is_some() && !context.status.attends(key, NACK_LOOP) {
            let body = serde_json::json!({
                "queue": key,
                "redelivered": then.redelivered - before.redelivered,
                "delivered": then.delivered - before.delivered,
                "seconds": then.at.duration_since(before.at).as_secs(),
                "consumers": then.consumers,
            });
            let event = Event { kind: format!("queue.nack_loop.{key}"), at, body };
            context.mirror.write(move |tx: &mut Tx| Box::pin(async move { add_events(tx, &[event]).await })).await?;
            context.wakes.events.notify_one();
        }
        tell(context, key, NACK_LOOP, looping);
        Ok(())
    }

    /// The queue is not there, or not what robots work at.
    pub(super) fn forget(&mut self, context: &Context, queue: &str) {
        self.seen.remove(queue);
        for what in [NACK_LOOP, STALLED, UNSEEN] {
            tell(context, queue, what, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::ItemId;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn numbers(at: i64, [delivered, redelivered, unacked, consumers]: [u64; 4]) -> Numbers {
        Numbers { at: second(at), delivered, redelivered, acks: 0, unacked, consumers }
    }

    #[test]
    fn a_loop_is_told_from_robots_that_die() {
        for (what, before, then, expected) in [
            ("nothing goes on", [100, 5, 0, 1], [100, 5, 0, 1], false),
            ("work goes on", [100, 0, 4, 4], [5_000, 3, 4, 4], false),
            ("one item is nacked as fast as it comes", [1, 0, 1, 1], [8_000, 7_999, 1, 1], true),
            ("it is nacked once a second", [1, 0, 1, 1], [31, 30, 1, 1], true),
            ("200 robots were restarted, once", [300, 0, 200, 200], [500, 200, 200, 200], false),
            ("ten of them, with a hundred items each", [1_000, 0, 1_000, 10], [2_000, 1_000, 1_000, 10], false),
            ("one nacks among many that work", [0, 0, 9, 9], [40_000, 30_000, 9, 9], true),
            ("some items come back among many", [0, 0, 9, 9], [40_000, 300, 9, 9], false),
            ("the counters began anew", [9_000, 8_000, 1, 1], [50, 40, 1, 1], false),
            ("seen before any consumer was counted", [0, 0, 0, 0], [100, 99, 0, 0], true),
        ] {
            assert_eq!(looping(&numbers(0, before), &numbers(10, then)).is_some(), expected, "{what}");
        }
    }

    #[test]
    fn what_is_usual_says_when_a_robot_hangs() {
        let seconds = |times: &[u64]| times.iter().map(|second| Duration::from_secs(*second)).collect::<Vec<_>>();
        for (times, expected) in [
            (&[][..], UNKNOWN),
            (&[1, 1, 1, 1], UNKNOWN),
            (&[1, 1, 1, 1, 9_000], SHORTEST),
            (&[300, 60, 1, 120, 9_000], Duration::from_mins(20)),
        ] {
            assert_eq!(patience(median(seconds(times))), expected, "{times:?}");
        }
        assert_eq!(patience(Some(Duration::MAX)), Duration::MAX);
        assert_eq!(hanging(Vec::new(), None, second(9)), None);
        let held = Held { item: ItemId::new(uuid::Uuid::nil()), robot: Some("r".to_owned()), since: second(1) };
        let shown = hanging(vec![held], Some(Duration::from_millis(300)), second(9)).unwrap();
        assert!(
            shown.text.contains("since 1970-01-01T00:00:01Z") && shown.text.contains("within 1s"),
            "{}",
            shown.text
        );
    }

    #[test]
    fn what_robots_hold_without_a_word_stands_out_after_an_hour_or_the_timeout() {
        let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
        for (what, at, [unacked, consumers, known], timeout, expected) in [
            ("for an hour", 3_600, [1, 1, 0], None, true),
            ("for less", 3_599, [1, 1, 0], None, false),
            ("for its timeout", 600, [1, 1, 0], minutes(10), true),
            ("it is with nobody", 9_000, [0, 1, 0], None, false),
            ("nobody is there", 9_000, [1, 0, 0], None, false),
            ("a robot said that it works", 9_000, [1, 1, 1], None, false),
            ("one of two did", 9_000, [2, 2, 1], None, true),
        ] {
            let then = numbers(at, [5, 0, unacked, consumers]);
            assert_eq!(stalled(second(0), &then, known, timeout).is_some(), expected, "{what}");
        }
    }

    #[test]
    fn a_timeout_says_what_it_cannot_see() {
        let timeout = Some(Duration::from_secs(60));
        for (what, [before, then, known], timeout, expected) in [
            ("a robot says nothing", [1, 1, 0], timeout, true),
            ("no timeout is asked for", [1, 1, 0], None, false),
            ("it said so", [1, 1, 1], timeout, false),
            ("it was just delivered", [0, 1, 0], timeout, false),
            ("it is with nobody any more", [1, 0, 0], timeout, false),
            ("the numbers lag", [1, 1, 2], timeout, false),
        ] {
            let seen = unseen(&numbers(0, [0, 0, before, 1]), &numbers(9, [0, 0, then, 1]), known, timeout);
            assert_eq!(seen.is_some(), expected, "{what}");
        }
    }
}
