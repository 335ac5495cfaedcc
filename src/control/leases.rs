//! Leases that end: whoever had the item is taken for dead. Needs no broker.
//!
//! A daemon that was away could hear no heartbeat, and whoever asked it for a dispatched item does not wait any more. So when it
//! starts, each lease goes on for its own length, at most [`MOST_GRACE`], before anything ends, and what was asked before is
//! given up.
//!
//! Order of effects: one transaction per bounded batch, the items and their leases together, then wake dispatch and those who wait for
//! items. A crash leaves what was not committed due, and the next pass finds it: a second pass has nothing to do.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | ended | items that wait again, or are exceptions | dispatch looks for itself when it starts |

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::failpoint;
use crate::item::lifecycle::{lease, people};
use crate::item::{Item, Timestamp};
use crate::lanes::ledger::Ledger;
use crate::lanes::{Context, now};
use crate::metrics;
use crate::mirror::{MirrorError, Tx, items, leases, requests};

/// Leases ended in one transaction.
const BATCH: u32 = 500;

/// The longest sleep between two looks.
const LONGEST: Duration = Duration::from_secs(1);

/// After a failure of the mirror.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What a lease is given after a start, at most.
const MOST_GRACE: Duration = Duration::from_secs(300);

/// Runs until it is stopped. A mirror that fails is tried again: this is no reason to stop the daemon.
pub async fn run(context: Context, stop: CancellationToken) {
    let mut granted = false;
    let began = now();
    loop {
        let passed = tokio::select! {
            () = stop.cancelled() => return,
            passed = pass(&context, began, &mut granted) => passed,
        };
        let wait = passed.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "leases could not be looked after");
            AFTER_FAILURE
        });
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Ends what is due, and answers how long to wait.
async fn pass(context: &Context, began: Timestamp, granted: &mut bool) -> Result<Duration, MirrorError> {
    if !*granted {
        if context.mirror.next_lease_end().await?.is_some() {
            let granted = context.mirror.write(|tx: &mut Tx| Box::pin(leases::grant_grace(tx, MOST_GRACE, now())));
            let leases = granted.await?;
            tracing::info!(leases, "leases that would have ended go on for a while: nobody could keep them up");
        }
        give_up_asked(context, began).await?;
        *granted = true;
    }
    while let Some(end) = context.mirror.next_lease_end().await? {
        let left = Duration::try_from(end.duration_since(now())).unwrap_or_default();
        if !left.is_zero() {
            return Ok(left.min(LONGEST));
        }
        end_due(context).await?;
    }
    Ok(LONGEST)
}

/// Nobody waits any more for what was asked before the daemon started: a lease would have no holder.
async fn give_up_asked(context: &Context, began: Timestamp) -> Result<(), MirrorError> {
    let definitions = context.definitions();
    let given_up = context.mirror.write(move |tx: &mut Tx| {
        Box::pin(async move {
            let asked = requests::claims_asked(tx).await?;
            let ids = asked.iter().copied().collect();
            let mut ledger = Ledger::of(&definitions, items::by_id(tx, &ids).await?);
            let from_before = |item: &Item| item.pending.as_ref().is_some_and(|pending| pending.at < began);
            for id in asked {
                // What was asked since somebody waits for.
                if !ledger.item(id).is_some_and(from_before) {
                    continue;
                }
                ledger.refuse_request(id, people::REFUSED, "the daemon was started again meanwhile");
            }
            ledger.write(tx).await
        })
    });
    given_up.await?.wake(&context.wakes);
    Ok(())
}

async fn end_due(context: &Context) -> Result<(), MirrorError> {
    let definitions = context.definitions();
    let (ended, written) = context
        .mirror
        .write(move |tx: &mut Tx| {
            Box::pin(async move {
                let due = leases::due(tx, now(), BATCH).await?;
                let ids = due.iter().map(|lease| lease.item).collect();
                let mut ledger = Ledger::of(&definitions, items::by_id(tx, &ids).await?);
                for due in &due {
                    // Whatever becomes of it: it is over.
                    ledger.lease_ended(due.item, due.attempt, "over");
                    let lost = due.lost.saturating_add(1);
                    ledger.step(due.item, |item, rules, moment| {
                        lease::lose(item, due.attempt, lost, due.length, rules, moment.now)
                    });
                }
                Ok((due.len(), ledger.write(tx).await?))
            })
        })
        .await?;
    failpoint::reach("leases.ended").await;
    metrics::leases_lost(ended);
    written.wake(&context.wakes);
    Ok(())
}
