//! Attempts that take too long: those above `processing_timeout` are ended, and where a queue has none, robots that hang are
//! shown. Both are known only of robots that say when they start; a claim over HTTP says so for the first, and its lease is
//! what shows the second.
//!
//! A timeout is said only once every report sent before it was read: the outcome may have come in time, while the daemon was
//! away or behind. So nothing times out while the broker is away, no claim either.
//!
//! Order of effects: one transaction per bounded batch, then wake dispatch and answers. A crash leaves what was not
//! committed over, and the next pass finds it: a second pass has nothing to do.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::attention::{self, HANGING};
use crate::definition::{Definitions, QueueDefinition};
use crate::failpoint;
use crate::item::{Timestamp, lifecycle};
use crate::lanes::ledger::Ledger;
use crate::lanes::{Context, now};
use crate::mirror::working::overdue;
use crate::mirror::{MirrorError, Tx};
use crate::status::Held;

/// Items ended in one transaction.
const BATCH: u32 = 500;

/// The longest sleep between two looks for attempts that are over.
const LONGEST: Duration = Duration::from_secs(1);

/// After a failure of the mirror.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Between two looks for robots that hang.
const LOOK: Duration = Duration::from_secs(30);

/// Robots that hang are shown so many of a queue.
const SHOWN: u32 = 20;

/// How many of the latest items say what is usual.
const SAMPLE: u32 = 100;

/// Runs until it is stopped. A mirror that fails is tried again: this is no reason to stop the daemon.
pub async fn run(context: Context, stop: CancellationToken) {
    let mut looked_at = Timestamp::MIN;
    loop {
        let passed = tokio::select! {
            () = stop.cancelled() => return,
            passed = pass(&context, &mut looked_at) => passed,
        };
        let wait = passed.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "timeouts could not be looked for");
            AFTER_FAILURE
        });
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Ends what is over, looks for robots that hang where that is due, and answers how long to wait.
async fn pass(context: &Context, looked_at: &mut Timestamp) -> Result<Duration, MirrorError> {
    let definitions = context.definitions();
    let look = now().duration_since(*looked_at) >= jiff::SignedDuration::try_from(LOOK).unwrap_or_default();
    let (mut wait, mut over) = (LONGEST, Vec::new());
    for definition in definitions.queues.values().chain(definitions.retired.values()) {
        let Some(timeout) = definition.processing_timeout else {
            if look {
                show_who_hangs(context, definition).await?;
            }
            continue;
        };
        context.status.attend(&definition.key, HANGING, None);
        let Some(first) = context.mirror.first_started(&definition.key).await? else { continue };
        let left = first
            .checked_add(timeout)
            .map_or(LONGEST, |due| Duration::try_from(due.duration_since(now())).unwrap_or_default());
        if left.is_zero() {
            over.push(definition.key.clone());
        }
        wait = wait.min(left.max(Duration::from_millis(1)));
    }
    if look {
        *looked_at = now();
        let served = |queue: &String| definitions.get(queue).is_some();
        context.status.update(|status| status.attention.retain(|(queue, _), _| served(queue)));
    }
    if !over.is_empty() {
        let read_until = now();
        context.wakes.read_reports.up_to(read_until).await;
        // That may have taken long: they go by what is defined by now.
        let definitions = context.definitions();
        for queue in over {
            let timeout = definitions.get(&queue).and_then(|definition| definition.processing_timeout);
            if let Some(timeout) = timeout {
                time_out(context, &definitions, &queue, timeout, read_until).await?;
            }
        }
    }
    Ok(wait)
}

async fn time_out(
    context: &Context,
    definitions: &Arc<Definitions>,
    queue: &str,
    timeout: Duration,
    read_until: Timestamp,
) -> Result<(), MirrorError> {
    let Ok(started_by) = read_until.checked_sub(timeout) else { return Ok(()) };
    loop {
        let (definitions, queue) = (Arc::clone(definitions), queue.to_owned());
        let (found, written) = context
            .mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    let over = overdue(tx, &queue, started_by, BATCH).await?;
                    let found = over.len();
                    let mut ledger = Ledger::of(&definitions, over);
                    ledger
                        .step_all(|item, rules, moment| lifecycle::time_out(item, timeout, read_until, rules, moment));
                    Ok((found, ledger.write(tx).await?))
                })
            })
            .await?;
        failpoint::reach("timeouts.ended").await;
        written.wake(&context.wakes);
        if found < BATCH as usize {
            return Ok(());
        }
    }
}

/// Robots that said nothing for much longer than items of this queue usually take.
async fn show_who_hangs(context: &Context, definition: &QueueDefinition) -> Result<(), MirrorError> {
    let (key, at) = (definition.key.as_str(), now());
    let Ok(by) = at.checked_sub(attention::SHORTEST) else { return Ok(()) };
    let mut found = None;
    if !context.mirror.long_silent(key, by, 1).await?.is_empty() {
        let usual = attention::median(context.mirror.handling_times(key, SAMPLE).await?);
        let patience = attention::patience(usual);
        let Ok(by) = at.checked_sub(patience) else { return Ok(()) };
        let started = context.mirror.long_silent(key, by, SHOWN).await?;
        let held = started.into_iter().map(|started| Held {
            item: started.item,
            robot: started.robot,
            since: started.heard_at,
        });
        found = attention::hanging(held.collect(), usual, at);
    }
    attention::tell(context, key, HANGING, found);
    Ok(())
}
