//! The mirror's clock: delayed items become ready, waiting items expire. Needs no broker.
//!
//! Order of effects: one transaction per bounded batch, then wake dispatch. A crash leaves what was not committed due,
//! and the next pass finds it: a second pass has nothing to do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::failpoint;
use crate::item::lifecycle;
use crate::lanes::ledger::Ledger;
use crate::lanes::live::Live;
use crate::lanes::{Wakes, now};
use crate::mirror::dispatch::promote_due;
use crate::mirror::{Mirror, MirrorError, Tx, items};

/// Items moved in one transaction.
const BATCH: u32 = 1000;

/// The longest sleep between two looks.
const LONGEST: Duration = Duration::from_secs(1);

/// After a failure of the mirror.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Runs until it is stopped. A mirror that fails is tried again: this is no reason to stop the daemon.
pub async fn run(mirror: Mirror, live: Live, wakes: Arc<Wakes>, stop: CancellationToken) {
    loop {
        let passed = tokio::select! {
            () = stop.cancelled() => return,
            passed = pass(&mirror, &live, &wakes) => passed,
        };
        let wait = match passed {
            Ok(()) => until_next(&mirror).await,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the timers could not work");
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = wakes.timers.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn until_next(mirror: &Mirror) -> Duration {
    match mirror.next_due().await {
        Ok(Some(due)) => Duration::try_from(due.duration_since(now())).unwrap_or_default().min(LONGEST),
        Ok(None) | Err(_) => LONGEST,
    }
}

async fn pass(mirror: &Mirror, live: &Live, wakes: &Wakes) -> Result<(), MirrorError> {
    // First what is over: it is not to go out.
    while mirror.next_expiry().await?.is_some_and(|due| due <= now()) {
        let definitions = live.definitions();
        let written = mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    let mut ledger = Ledger::of(&definitions, items::expired(tx, now(), BATCH).await?);
                    ledger.step_all(|item, _, moment| lifecycle::expire(item, moment.now));
                    ledger.write(tx).await
                })
            })
            .await?;
        failpoint::reach("timers.expired").await;
        written.wake(wakes);
    }
    while mirror.next_due().await?.is_some_and(|due| due <= now()) {
        let queues = mirror.write(|tx: &mut Tx| Box::pin(promote_due(tx, now(), BATCH))).await?;
        failpoint::reach("timers.promoted").await;
        for queue in queues.into_iter().collect::<BTreeSet<_>>() {
            wakes.dispatch(&queue);
        }
    }
    Ok(())
}
