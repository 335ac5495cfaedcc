//! One dispatch per queue that goes out to robots, started and stopped as what is in force changes. No other queue notices.
//!
//! Whoever wants a queue's dispatch to be over tells [`crate::lanes::live::Live`] and waits until the queue is gone from
//! `Wakes::dispatching`: then nothing is in hand, and all that was confirmed is marked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::broker_side::{Missing, while_connected};
use super::crew::Crew;
use crate::broker::connection::Session;
use crate::lanes::live::InForce;
use crate::lanes::{Context, dispatch};

/// Serves every queue that is to be served, until it is stopped.
///
/// # Errors
/// The first failure of a dispatch that ends the session.
pub(super) async fn run(
    context: Context,
    session: Arc<Session>,
    missing: Missing,
    unreachable: BTreeSet<String>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut changes = context.live.changes();
    let mut running = Running { crew: Crew::default(), stops: BTreeMap::new(), missing };
    let ended = loop {
        let in_force = Arc::clone(&changes.borrow_and_update());
        running.adjust(&context, &session, &unreachable, &in_force, &stop);
        context.wakes.dispatching.send_replace(running.stops.keys().cloned().collect());
        tokio::select! {
            () = stop.cancelled() => break Ok(()),
            Ok(()) = changes.changed() => {}
            Some((queue, ended)) = running.crew.next() => {
                let told = running.stops.remove(&queue).is_some_and(|token| token.is_cancelled());
                match ended {
                    Ok(()) if told => {}
                    Ok(()) => break Err(anyhow::anyhow!("the dispatch of {queue} ended without a reason")),
                    Err(error) => break Err(error.context(format!("dispatch of {queue}"))),
                }
            }
        }
    };
    for token in running.stops.values() {
        token.cancel();
    }
    while let Some((queue, ended)) = running.crew.next().await {
        if let Err(error) = ended {
            tracing::warn!(queue, "a dispatch ended badly: {error:#}");
        }
    }
    context.wakes.dispatching.send_replace(BTreeSet::new());
    ended
}

struct Running {
    /// Named by their queues.
    crew: Crew,
    stops: BTreeMap<String, CancellationToken>,
    /// What it means that a queue is missing which was there at the session's start.
    missing: Missing,
}

impl Running {
    /// Starts what is missing and tells the others to stop. One that is still stopping is started again once it has ended.
    fn adjust(
        &mut self,
        context: &Context,
        session: &Arc<Session>,
        unreachable: &BTreeSet<String>,
        in_force: &InForce,
        stop: &CancellationToken,
    ) {
        for (queue, token) in &self.stops {
            if !in_force.dispatches(queue) {
                token.cancel();
            }
        }
        for queue in in_force.served().filter(|queue| in_force.dispatches(queue)) {
            if self.stops.contains_key(queue) {
                continue;
            }
            let token = stop.child_token();
            let (context, own, key) = (context.clone(), Arc::clone(session), queue.clone());
            // A retired queue that is gone nobody makes again.
            let retired = in_force.definitions.retired.contains_key(queue);
            let missing = if retired || unreachable.contains(queue) { Missing::TryAgain } else { self.missing };
            let wakes = Arc::clone(&context.wakes);
            let work = while_connected(Arc::clone(&own), token.clone(), missing, {
                let token = token.clone();
                move || {
                    let run = dispatch::run(context.clone(), key.clone(), Arc::clone(&own), token.clone());
                    let wakes = Arc::clone(&wakes);
                    async move { run.await.inspect_err(|_| missing.tell(&wakes)) }
                }
            });
            self.crew.spawn(queue.clone(), work);
            self.stops.insert(queue.clone(), token);
        }
    }
}
