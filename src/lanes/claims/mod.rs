//! Claims over HTTP: whoever waits at a queue gets its next item, with a lease. One runner for each queue that somebody waits at.
//!
//! The next item is the front of the robots' queue; where nothing is there, or there is no broker, what waits in the mirror. While
//! somebody waits, a runner listens at the robots' queue for as many messages as are wanted, like any robot; while nobody does, it
//! holds nothing, and soon it is gone. Nothing is given out while dispatch is paused or the breaker is open; one item at a time
//! while it tries.
//!
//! Order of effects, of messages of the robots' queue:
//! 1. they are delivered, for those who wait and were not gone;
//! 2. commit: the attempts as dispatched, now leased; the leases; what nobody wants any more waits in the mirror again; requests
//!    of people that waited for one of the messages; messages of attempts that are over are noted;
//! 3. ack all of them; 4. answer those who waited, wake dispatch, timers and events;
//! 5. once the broker has heard of the acks, commit: what was asked of people's items is over, and whoever asked is told.
//!
//! Of what waits in the mirror: 1. commit: attempt + 1, leased; 2. answer.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | 1 | messages that go back to the queue, ahead of all else on 4.3 | robots or others get them; the attempts go on |
//! | 2 | leases without a holder, and the messages | each lease ends by itself, and the item is worked again. Its message, should a robot get it before, is a repeat of the same id and attempt; met here it is dropped, of a direct item as long as that is open. A nameless direct one is learnt again: it is there twice, marked `possible_repeat` |
//! | 3, 4 | leases without a holder; requests that are marked *taken* | each lease ends by itself; the next recall of the queue ends the marks ([`super::recall`]) |
//!
//! Whoever hangs up while they wait is out of the line. Where they do while they are served, what was committed for them is given
//! back at once; where their answer is lost on its way, the lease ends by itself. What a request with an idempotency key got is
//! committed together with its key.

mod desk;
mod runner;
pub(super) mod take;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Context, LaneError};
use crate::broker::connection::Session;
pub use desk::{Ask, Claimed, Desk, Offer};
use runner::Runner;

/// How long nobody serves a queue whose runner broke down: what broke it may be there still.
const AFTER_A_BREAKDOWN: Duration = Duration::from_secs(1);

/// Serves whoever comes, until it is stopped; then those who wait get nothing. Needs no broker.
pub async fn run(context: Context, stop: CancellationToken) {
    let desk = &context.wakes.claims;
    let mut runners = JoinSet::new();
    let mut served = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            queue = desk.unserved() => {
                let runner = runners.spawn(Runner::new(context.clone(), queue.clone()).run(stop.child_token()));
                served.insert(runner.id(), queue);
            }
            Some(ended) = runners.join_next_with_id() => match ended {
                Ok((id, ())) => drop(served.remove(&id)),
                Err(error) => {
                    let queue = served.remove(&error.id()).unwrap_or_default();
                    tracing::error!(queue, error = &error as &dyn std::error::Error, "a runner of claims ended badly");
                    let context = context.clone();
                    runners.spawn(async move {
                        tokio::time::sleep(AFTER_A_BREAKDOWN).await;
                        context.wakes.claims.broke_down(&queue);
                    });
                }
            }
        }
    }
    while runners.join_next().await.is_some() {}
    desk.close();
}

/// Lets runners use a broker session, until it is told to stop; ends once none of them holds anything of it.
///
/// # Errors
/// None; pipelines of a session may.
pub async fn attend(context: Context, session: Arc<Session>, stop: CancellationToken) -> Result<(), LaneError> {
    let desk = &context.wakes.claims;
    desk.session.send_replace(Some(session));
    stop.cancelled().await;
    desk.session.send_replace(None);
    let _ = desk.holding.subscribe().wait_for(|holding| *holding == 0).await;
    Ok(())
}
