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
//! 3. ack all of them; 4. answer those who waited, wake dispatch, timers and events.
//!
//! Of what waits in the mirror: 1. commit: attempt + 1, leased; 2. answer.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | 1 | messages that go back to the queue, ahead of all else on 4.3 | robots or others get them; the attempts go on |
//! | 2 | leases without a holder, and the messages | each lease ends by itself, and the item is worked again. Its message, should a robot get it before, is a repeat of the same id and attempt; met here it is dropped |
//! | 3 | leases without a holder | each ends by itself |
//!
//! Whoever hangs up while they wait is out of the line. Where they do while they are served, what was committed for them is given
//! back at once; where their answer is lost on its way, the lease ends by itself.

mod desk;
mod runner;
pub(super) mod take;

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Context, LaneError};
use crate::broker::connection::Session;
pub use desk::{Ask, Claimed, Desk, Offer};
use runner::Runner;

/// Serves whoever comes, until it is stopped; then those who wait get nothing. Needs no broker.
pub async fn run(context: Context, stop: CancellationToken) {
    let desk = &context.wakes.claims;
    let mut runners = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            queue = desk.unserved() => {
                drop(runners.spawn(Runner::new(context.clone(), queue).run(stop.child_token())));
            }
            Some(ended) = runners.join_next() => if let Err(error) = ended {
                tracing::error!(error = &error as &dyn std::error::Error, "a runner of claims ended badly");
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
