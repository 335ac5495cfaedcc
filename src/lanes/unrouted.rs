//! Items for a queue that lets nothing in, because nobody has defined it or its intake is paused: kept in `wq.unrouted`,
//! counted, and let in once it does.
//!
//! Order of effects, per batch: what a managed queue takes is committed to the mirror, as at the door, then acked; what a
//! direct queue takes is published to `wq.items` with confirm, then acked.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | the commit | items in the mirror, messages in `wq.unrouted` | let in again: by `message-id` and content they are the same items as long as those are open; without one marked `possible_repeat` |
//! | the confirm | messages in both places | published again; by their `message-id` the rules of identity see the second one |
//!
//! What still has no queue is given back when the pass is over, in the order in which it was there.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::live::InForce;
use super::{Context, LaneError, intake};
use crate::broker::connection::Session;
use crate::broker::consume::{Batch, Batches, Lookout};
use crate::broker::publish::{Outgoing, Published, Publisher};
use crate::failpoint;
use crate::item::Lane;
use crate::item::message::Message;

/// How often the queue is counted.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What the broker has ready comes to a consumer that may hold more; it is not waited for any longer.
const COMES: Duration = Duration::from_secs(10);

const BATCH: u16 = 1000;

/// Items without a queue that one consumer looks past; then another one looks on behind it.
const HELD: usize = 2 * BATCH as usize;

/// What a pass looks past in all. More than that waits for a pass that finds fewer of them in its way.
const MOST_HELD: usize = 100_000;

/// So many that come while a pass is made are looked at as well: a flood does not make it endless.
const NEWER: u64 = 10_000;

/// Passes over what came without a change of what is in force: a lost connection gave it back, or it came while ways were
/// changed.
const PASSES: u32 = 5;

/// Lets in what by now has a queue, with each change of what is in force, and counts what waits, until it is stopped.
///
/// # Errors
/// The first failure of broker or mirror; what was not acked is still in `wq.unrouted`.
pub async fn run(context: Context, session: Arc<Session>, stop: CancellationToken) -> Result<(), LaneError> {
    let lookout = Lookout::open(&session).await?;
    let queue = context.names.unrouted();
    let mut changes = context.live.changes();
    let mut left = 0;
    let mut passes = 0;
    loop {
        let (ready, _) = lookout.look(&queue).await?;
        if ready > left && passes < PASSES {
            left = ready.saturating_sub(pass(&context, &session, None, &stop).await?);
            passes += 1;
        }
        context.status.update(|status| status.unrouted = Some(ready));
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Ok(()) = changes.changed() => (left, passes) = (0, 0),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

/// Lets in what has a queue right now, and answers how many that were; of the queue `door` by way of the door, whatever its
/// lane. Whoever is next waits for its end.
///
/// # Errors
/// The first failure of broker or mirror.
pub async fn pass(
    context: &Context,
    session: &Session,
    door: Option<&str>,
    stop: &CancellationToken,
) -> Result<u64, LaneError> {
    let _turn = context.wakes.unrouted.lock().await;
    let lookout = Lookout::open(session).await?;
    let (ready, _) = lookout.look(&context.names.unrouted()).await?;
    let mut pass = Pass {
        context,
        began_with: context.live.now(),
        door,
        publisher: Publisher::open(session, context.confirm_timeout).await?,
        full: Vec::new(),
        waiting: Batches::open_wide(session, &context.names.unrouted(), BATCH).await?,
        held: 0,
    };
    let (mut seen, mut routed) = (0, 0);
    // Not the first `ready` of them: what came since may be ahead of what was there, by its priority.
    while seen < ready + NEWER && !stop.is_cancelled() {
        if pass.held >= HELD {
            if HELD * (pass.full.len() + 1) >= MOST_HELD {
                break;
            }
            let next = Batches::open_wide(session, &context.names.unrouted(), BATCH).await?;
            pass.full.push(std::mem::replace(&mut pass.waiting, next));
            pass.held = 0;
        }
        let Some(batch) = next(&mut pass.waiting, stop).await? else { break };
        let (looked_at, taken) = pass.take(batch).await?;
        seen += looked_at;
        routed += taken;
    }
    if routed > 0 {
        tracing::info!(routed, "let in items that had been waiting for their queue");
    }
    // The first first: what is given back goes ahead in the order in which it comes. None of us may take it again.
    for batches in pass.full.iter().chain([&pass.waiting]) {
        batches.take_no_more().await?;
    }
    for batches in pass.full {
        batches.give_back().await?;
    }
    pass.waiting.give_back().await?;
    Ok(routed)
}

/// The next batch; `None` where the broker has nothing more for us.
async fn next(waiting: &mut Batches, stop: &CancellationToken) -> Result<Option<Batch>, LaneError> {
    if let Some(batch) = waiting.at_hand()? {
        return Ok(Some(batch));
    }
    let none_is_ready = waiting.waiting().await? == 0;
    // What was on its way to us at the first answer came before the second one.
    waiting.waiting().await?;
    if let Some(batch) = waiting.at_hand()? {
        return Ok(Some(batch));
    }
    if none_is_ready {
        return Ok(None);
    }
    tokio::select! {
        () = stop.cancelled() => Ok(None),
        () = tokio::time::sleep(COMES) => Ok(None),
        batch = waiting.next() => Ok(Some(batch?)),
    }
}

struct Pass<'p> {
    context: &'p Context,
    /// What got a way since waits for the next pass: older ones of its queue may be among those that were looked past.
    began_with: Arc<InForce>,
    door: Option<&'p str>,
    publisher: Publisher,
    /// Consumers that hold all they may, none of which has a queue.
    full: Vec<Batches>,
    waiting: Batches,
    /// By the current one.
    held: usize,
}

impl Pass<'_> {
    /// Lets in what has a queue: how many were looked at, and how many of them were let in.
    async fn take(&mut self, batch: Batch) -> Result<(u64, u64), LaneError> {
        let now = self.context.live.now();
        let way = |message: &Message| match way_of(&self.began_with, self.door, message) {
            way if way == way_of(&now, self.door, message) => way,
            _ => Way::None,
        };
        let places = |wanted: Way| -> Vec<usize> {
            let messages = batch.messages.iter().enumerate();
            messages.filter(|(_, message)| way(message) == wanted).map(|(index, _)| index).collect()
        };
        // While the broker blocks publishers only the door is open.
        let blocked = self.publisher.is_blocked();
        let straight = if blocked { Vec::new() } else { places(Way::Straight) };
        let door = places(Way::Door);
        let looked_at = batch.messages.len();
        if straight.is_empty() && door.is_empty() {
            self.held += looked_at;
            return Ok((looked_at as u64, 0));
        }

        let exchange = self.context.names.items();
        let outgoing: Vec<Outgoing> = straight.iter().map(|index| again(&batch.messages[*index], &exchange)).collect();
        let published = self.publisher.publish(&outgoing).await?;
        failpoint::reach("unrouted.published").await;
        let confirmed = straight.into_iter().zip(published).filter(|(_, published)| *published == Published::Confirmed);
        let mut taken: Vec<usize> = confirmed.map(|(index, _)| index).collect();

        let messages: Vec<Message> = door.iter().map(|index| as_new(&batch.messages[*index])).collect();
        let let_in =
            if messages.is_empty() { None } else { Some(intake::let_in(self.context, &messages, "unrouted").await?) };
        failpoint::reach("unrouted.committed").await;
        taken.extend(door);
        self.held += looked_at - taken.len();
        let routed = taken.len() as u64;
        batch.ack_some(&taken).await?;
        failpoint::reach("unrouted.acked").await;
        if let Some(let_in) = let_in {
            let_in.wake(&self.context.wakes);
        }
        Ok((looked_at as u64, routed))
    }
}

/// Where an item goes that had no queue when it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Through the door, into the mirror.
    Door,
    /// To the robots' queue and the tap.
    Straight,
    /// Nowhere yet.
    None,
}

fn way_of(in_force: &InForce, door: Option<&str>, message: &Message) -> Way {
    let key = message.routing_key.as_str();
    let Some(definition) = in_force.definitions.queues.get(key).filter(|_| in_force.takes_in(key)) else {
        return Way::None;
    };
    let held = in_force.paused(key).dispatch || in_force.closed.contains(key) || door == Some(key);
    match definition.lane {
        Lane::Direct if !held && in_force.open.contains(key) => Way::Straight,
        // It would come back, behind what comes meanwhile.
        Lane::Direct if !held => Way::None,
        _ => Way::Door,
    }
}

/// What the broker counts of a message that was given back; nobody asked for it.
const COUNTS: [&str; 2] = ["x-acquired-count", "x-delivery-count"];

/// Every pass that gave a message back has marked it redelivered, and says nothing of the door by it: with a `message-id`
/// the rules of identity do without. Without one the mark stays, since a crash may have let it in before.
fn as_new(message: &Message) -> Message {
    let redelivered = message.redelivered && message.properties.message_id.is_none();
    let mut message = Message { redelivered, ..message.clone() };
    message.properties.headers.retain(|name, _| !COUNTS.contains(&name.as_str()));
    message
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
