//! What is kept of failures and robots does not grow for ever: names and reasons come from outside. Needs no broker.
//!
//! Order of effects: one transaction per queue. A crash leaves what was not committed as it was, and the next pass finds it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::lanes::now;
use crate::mirror::{Mirror, MirrorError, Tx, failures, robots};

/// Between two passes.
const PERIOD: Duration = Duration::from_mins(10);

/// A failure that was not seen for so long, and that no item is, is forgotten.
const FAILURES: Duration = Duration::from_hours(24 * 400);

/// A robot that was not heard of for so long is.
const ROBOTS: Duration = Duration::from_hours(24 * 90);

/// Runs until it is stopped. A mirror that fails is tried again at the next pass.
pub async fn run(mirror: Mirror, stop: CancellationToken) {
    loop {
        let passed = tokio::select! {
            () = stop.cancelled() => return,
            passed = pass(&mirror) => passed,
        };
        if let Err(error) = passed {
            tracing::error!(error = &error as &dyn std::error::Error, "old failures and robots could not be forgotten");
        }
        if stop.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_none() {
            return;
        }
    }
}

async fn pass(mirror: &Mirror) -> Result<(), MirrorError> {
    let now = now();
    // Before there was any time nothing was seen.
    let (Ok(failed_before), Ok(heard_before)) = (now.checked_sub(FAILURES), now.checked_sub(ROBOTS)) else {
        return Ok(());
    };
    for queue in mirror.remembered_queues().await? {
        let key = queue.clone();
        let gone = mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    let failures = failures::forget(tx, &queue, failed_before).await?;
                    Ok((failures, robots::forget(tx, &queue, heard_before).await?))
                })
            })
            .await?;
        if gone != (0, 0) {
            let (failures, robots) = gone;
            tracing::info!(
                queue = key,
                failures,
                robots,
                "failures and robots that were not seen for long are forgotten"
            );
        }
    }
    mirror.write(|tx: &mut Tx| Box::pin(failures::forget_counts(tx))).await
}
