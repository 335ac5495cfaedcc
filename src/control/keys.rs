//! Idempotency keys are forgotten after a day, a bounded batch at a time. Needs no broker; what a crash leaves the next look finds.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::lanes::now;
use crate::mirror::Mirror;

/// How long a key and its answer are kept.
pub const KEPT: Duration = Duration::from_hours(24);

/// Between two looks, and between two batches.
const LOOK: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(50);

/// Runs until it is stopped. A mirror that fails is tried again.
pub async fn run(mirror: Mirror, stop: CancellationToken) {
    loop {
        let more = match now().checked_sub(KEPT) {
            Ok(before) => mirror.forget_keys(before).await.unwrap_or_else(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "old idempotency keys could not be forgotten");
                false
            }),
            Err(_) => false,
        };
        let wait = tokio::time::sleep(if more { PAUSE } else { LOOK });
        if stop.run_until_cancelled(wait).await.is_none() {
            return;
        }
    }
}
