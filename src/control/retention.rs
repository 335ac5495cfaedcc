//! What is finished goes after its time (`keep`): items with their timelines and payloads, or payloads alone. Needs no broker.
//!
//! Order of effects: one transaction per bounded batch, then a pause in which whoever moves items gets the writer. Everything that
//! belongs to an item goes in one transaction, and under `unique` its reference is noted as spent in it. A crash leaves what was not
//! committed as it was, and the next pass finds it.
//!
//! Only what is finished goes: processed, exceptions, cancelled; never what is queued, processing or on hold. An item goes by the
//! definition its queue has now, also a retired one; of a queue that nobody defines any more nothing goes. What `wq.events` is still to
//! tell of stays until it is told, and while very much waits to be told nothing goes at all.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::definition::{Definitions, Keep, QueueDefinition};
use crate::failpoint;
use crate::item::Timestamp;
use crate::lanes::live::Live;
use crate::lanes::now;
use crate::mirror::retention::{What, remove};
use crate::mirror::{Mirror, MirrorError, Tx};

/// Between two transactions.
const PAUSE: Duration = Duration::from_millis(50);

/// Between two passes: a tenth of the shortest time that anything is kept, within these.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_mins(1);

/// After a failure of the mirror.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Between two passes while something stays only until it is told.
const UNTIL_TOLD: Duration = Duration::from_secs(2);

/// With more changes than this untold each batch would look through them all.
const UNTOLD: i64 = 10_000;

/// Runs until it is stopped. A mirror that fails is tried again.
pub async fn run(mirror: Mirror, live: Live, stop: CancellationToken) {
    let mut changes = live.changes();
    loop {
        changes.mark_unchanged();
        let definitions = live.definitions();
        let passed = tokio::select! {
            () = stop.cancelled() => return,
            passed = pass(&mirror, &live, &definitions) => passed,
        };
        let wait = match passed {
            Ok(Left::Redefined) => continue,
            Ok(Left::Untold) => Some(UNTIL_TOLD),
            Ok(Left::Nothing) => between_passes(&definitions),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "what is not kept could not be removed");
                Some(AFTER_FAILURE)
            }
        };
        let sleep = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = changes.changed() => {}
            () = sleep => {}
        }
    }
}

/// `None` where everything is kept for ever.
fn between_passes(definitions: &Definitions) -> Option<Duration> {
    let all = definitions.queues.values().chain(definitions.retired.values());
    let shortest = all.flat_map(|definition| times(&definition.keep)).map(|(_, keep)| keep).min()?;
    Some((shortest / 10).clamp(SOONEST, LATEST))
}

/// What of a queue goes after which time: a state, or the payloads of all states that are an end.
fn times(keep: &Keep) -> impl Iterator<Item = (Option<&'static str>, Duration)> {
    let states = [("processed", keep.processed), ("exception", keep.exception), ("cancelled", keep.cancelled)];
    let states = states.into_iter().filter_map(|(state, time)| Some((Some(state), time?)));
    states.chain(keep.payload.map(|time| (None, time)))
}

/// The states that are an end.
const ENDS: [&str; 3] = ["processed", "exception", "cancelled"];

/// What is to be looked for in a queue at a moment: what, in which state, finished by when.
fn due(definition: &QueueDefinition, now: Timestamp) -> Vec<(What, &'static str, Timestamp)> {
    let mut due = Vec::new();
    for (state, time) in times(&definition.keep) {
        // Longer than there has been time: for ever.
        let Ok(until) = now.checked_sub(time) else { continue };
        match state {
            Some(state) => due.push((What::Items { unique: definition.unique }, state, until)),
            None => due.extend(ENDS.map(|state| (What::Payloads, state, until))),
        }
    }
    due
}

/// What a pass leaves that should have gone.
enum Left {
    Nothing,
    /// Items of which something is still to be told.
    Untold,
    /// Whatever other definitions say.
    Redefined,
}

/// By these definitions, for as long as they are in force: who keeps more after all keeps what is left.
async fn pass(mirror: &Mirror, live: &Live, definitions: &Arc<Definitions>) -> Result<Left, MirrorError> {
    let redefined = || !Arc::ptr_eq(&live.definitions(), definitions);
    let mut left = Left::Nothing;
    for definition in definitions.queues.values().chain(definitions.retired.values()) {
        for (what, state, until) in due(definition, now()) {
            let mut removed = 0;
            while !redefined() && mirror.anything_to_remove(&definition.key, state, until, what).await? {
                if mirror.untold().await? > UNTOLD {
                    left = Left::Untold;
                    break;
                }
                let queue = definition.key.clone();
                let batch = mirror
                    .write(move |tx: &mut Tx| {
                        Box::pin(async move { remove(tx, &queue, state, until, what, now()).await })
                    })
                    .await?;
                failpoint::reach("retention.removed").await;
                removed += batch.items;
                if batch.items == 0 {
                    left = Left::Untold;
                }
                if !batch.more {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            if removed > 0 {
                let what = if what == What::Payloads { "payloads" } else { "items" };
                tracing::info!(
                    queue = definition.key,
                    state,
                    removed,
                    "{what} that are not kept any more were removed"
                );
            }
            if redefined() {
                return Ok(Left::Redefined);
            }
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn definition(keep: Keep) -> QueueDefinition {
        QueueDefinition { keep, unique: true, ..QueueDefinition::with_defaults("a") }
    }

    #[test]
    fn what_goes_when() {
        let now = Timestamp::from_second(10 * 86_400).unwrap();
        let day = |day: i64| Timestamp::from_second(day * 86_400).unwrap();
        let items = What::Items { unique: true };
        for (keep, expected) in [
            (Keep::default(), vec![]),
            (Keep { processed: Some(DAY), ..Keep::default() }, vec![(items, "processed", day(9))]),
            (
                Keep { exception: Some(2 * DAY), cancelled: Some(3 * DAY), ..Keep::default() },
                vec![(items, "exception", day(8)), (items, "cancelled", day(7))],
            ),
            (
                Keep { payload: Some(4 * DAY), ..Keep::default() },
                ENDS.map(|state| (What::Payloads, state, day(6))).to_vec(),
            ),
            // Before the beginning of time nothing ended.
            (Keep { processed: Some(Duration::MAX), ..Keep::default() }, vec![]),
        ] {
            assert_eq!(due(&definition(keep), now), expected, "{keep:?}");
        }
    }

    #[test]
    fn passes_are_as_often_as_it_takes() {
        for (shortest, wait) in [(None, None), (Some(Duration::from_mins(1)), Some(6)), (Some(90 * DAY), Some(60))] {
            let queues = [
                definition(Keep { processed: shortest, payload: shortest.map(|time| 2 * time), ..Keep::default() }),
                definition(Keep::default()),
            ];
            let queues = (0..).zip(queues).map(|(n, queue): (u8, _)| (n.to_string(), queue.into())).collect();
            let definitions = Definitions { queues, ..Definitions::default() };
            assert_eq!(between_passes(&definitions), wait.map(Duration::from_secs));
        }
    }
}
