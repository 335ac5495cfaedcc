//! Items for a queue that nobody had defined: kept in `wq.unrouted`, counted, and routed again once it is defined.
//!
//! Order of effects, per item: publish to `wq.items` with confirm, then ack. A crash between leaves it in both places:
//! it is routed again, and by its `message-id` the rules of identity see the second one. What still has no queue is given back, in order,
//! when the pass is over.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Context, LaneError};
use crate::broker::connection::Session;
use crate::broker::consume::{Batches, Lookout};
use crate::broker::publish::{Outgoing, Published, Publisher};
use crate::failpoint;
use crate::item::message::Message;

/// How often the queue is counted.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A pass is over when nothing more comes for this long; what waits behind 2,000 items without a queue waits on.
const NOTHING_MORE: Duration = Duration::from_secs(1);

const BATCH: u16 = 1000;

/// Passes of one session. Definitions do not change in it, so later arrivals have no queue either.
const PASSES: u32 = 5;

/// Routes again what the definitions of this session have a queue for, then counts what waits, until it is stopped.
///
/// # Errors
/// The first failure of the broker; what was not acked is still in `wq.unrouted`.
pub async fn run(context: Context, session: Arc<Session>, stop: CancellationToken) -> Result<(), LaneError> {
    let lookout = Lookout::open(&session).await?;
    let queue = context.names.unrouted();
    let mut left = 0;
    let mut passes = 0;
    loop {
        let (ready, _) = lookout.look(&queue).await?;
        // More than the last pass left: it broke off, or a lost connection gave back what it had held.
        if ready > left && passes < PASSES {
            left = ready.saturating_sub(pass(&context, &session, ready, &stop).await?);
            passes += 1;
        }
        context.status.update(|status| status.unrouted = Some(ready));
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

/// Answers how many were routed again.
async fn pass(context: &Context, session: &Session, ready: u64, stop: &CancellationToken) -> Result<u64, LaneError> {
    let mut waiting = Batches::open_wide(session, &context.names.unrouted(), BATCH).await?;
    let mut publisher = Publisher::open(session, context.confirm_timeout).await?;
    let (mut seen, mut routed) = (0, 0);
    while seen < ready && !stop.is_cancelled() {
        let Ok(batch) = tokio::time::timeout(NOTHING_MORE, waiting.next()).await else { break };
        let batch = batch?;
        seen += batch.messages.len() as u64;
        let exchange = context.names.items();
        let in_force = context.live.now();
        let (indices, outgoing): (Vec<usize>, Vec<Outgoing>) = (batch.messages.iter().enumerate())
            .filter(|(_, message)| in_force.takes_in(&message.routing_key))
            .map(|(index, message)| (index, again(message, &exchange)))
            .unzip();
        let published = publisher.publish(&outgoing).await?;
        failpoint::reach("unrouted.published").await;
        let taken: Vec<usize> = indices
            .into_iter()
            .zip(published)
            .filter_map(|(index, published)| (published == Published::Confirmed).then_some(index))
            .collect();
        routed += taken.len() as u64;
        batch.ack_some(&taken).await?;
        failpoint::reach("unrouted.acked").await;
    }
    if routed > 0 {
        tracing::info!(routed, "routed items again whose queue is defined now");
    }
    waiting.give_back().await?;
    Ok(routed)
}

/// The message as its producer sent it, but for what a broker of 3.x would read as the traces of a cycle. It cannot be
/// returned: what `wq.items` has no binding for goes to `wq.unrouted`, so it needs no `message-id`.
fn again(message: &Message, exchange: &str) -> Outgoing {
    let mut properties = message.properties.clone();
    properties.headers.retain(|name, _| !name.starts_with("x-"));
    Outgoing {
        exchange: exchange.to_owned(),
        routing_key: message.routing_key.clone(),
        properties,
        body: message.body.clone(),
    }
}
