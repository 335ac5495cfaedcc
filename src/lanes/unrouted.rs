//! Items for a queue that lets nothing in, because nobody has defined it or its intake is paused: kept in `wq.unrouted`,
//! counted, and let in once it does.
//!
//! Order of effects, per round of a pass: what a managed queue takes is committed to the mirror, as at the door; what a direct
//! queue takes is published to `wq.items` with confirm; batch after batch, and then both are acked.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | the commit | items in the mirror, messages in `wq.unrouted` | let in again: by `message-id` and content they are the same items as long as those are open; without one marked `possible_repeat` |
//! | the confirm | messages in both places | published again; by their `message-id` the rules of identity see the second one |
//!
//! What still has no queue is given back when the pass is over, in the order in which it was there.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::MutexGuard;
use tokio_util::sync::CancellationToken;

use super::live::InForce;
use super::{Context, LaneError, intake};
use crate::broker::connection::Session;
use crate::broker::consume::{Batch, Batches, Dealt, Lookout};
use crate::broker::publish::{Outgoing, Published, Publisher};
use crate::failpoint;
use crate::item::Lane;
use crate::item::message::Message;

/// How often the queue is counted.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What the broker has ready comes to a consumer that may hold more, and what was given back is ready again; neither is
/// waited for any longer.
const COMES: Duration = Duration::from_secs(10);

/// How often it is looked whether it is.
const GIVEN_BACK: Duration = Duration::from_millis(5);

const BATCH: u16 = 1000;

/// What one consumer takes; then another one looks on behind it.
const ROUND: u64 = 2 * BATCH as u64;

/// Consumers that hold what a pass looks past. More than that waits for a pass that finds fewer of them in its way.
const MOST_PAST: usize = 50;

/// Consumers that look on for what was there and is behind what came since, by its priority: each time there is less of it.
const MORE: u32 = 5;

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
            left = ready.saturating_sub(pass(&context, &session, Until::AsManyAsThere, &stop).await?);
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

/// Lets in what has a queue right now, and answers how many that were. Whoever is next waits for its end.
///
/// # Errors
/// The first failure of broker or mirror.
pub async fn pass(
    context: &Context,
    session: &Session,
    until: Until,
    stop: &CancellationToken,
) -> Result<u64, LaneError> {
    let mut pass = Pass::begin(context, session).await?;
    let routed = pass.let_in(None, until, stop).await?;
    pass.end().await?;
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

/// When enough was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// All that was there was looked at, whatever came meanwhile.
    AllOfIt,
    /// As many were looked at as were there: of producers that do not rest that may be others.
    AsManyAsThere,
}

/// A look through all of it, from its turn to its end. What it looks past it holds until then, so that it sees what comes
/// meanwhile.
///
/// Order is kept by these: a consumer takes as many as are ready and not one more, so that nothing is on its way to it when
/// it is told to take no more; and the next one begins once the broker counts it no more, which is when everything that it
/// acked is gone and everything that it gave back is in its place.
pub struct Pass<'p> {
    context: &'p Context,
    session: &'p Session,
    _turn: MutexGuard<'p, ()>,
    lookout: Lookout,
    /// Consumers that are not ours.
    others: u64,
    /// What got a way since waits for the next pass: older ones of its queue may be among those that were looked past.
    began_with: Arc<InForce>,
    publisher: Publisher,
    /// Consumers that take no more and hold what was looked past.
    past: Vec<Batches>,
}

impl<'p> Pass<'p> {
    /// Waits for its turn.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn begin(context: &'p Context, session: &'p Session) -> Result<Self, LaneError> {
        let turn = context.wakes.unrouted.lock().await;
        let lookout = Lookout::open(session).await?;
        let (_, others) = lookout.look(&context.names.unrouted()).await?;
        Ok(Self {
            context,
            session,
            _turn: turn,
            lookout,
            others,
            began_with: context.live.now(),
            publisher: Publisher::open(session, context.confirm_timeout).await?,
            past: Vec::new(),
        })
    }

    /// Lets in what has a queue, and answers how many that were; of the queue `door` by way of the door, whatever its lane.
    ///
    /// # Errors
    /// The first failure of broker or mirror.
    pub async fn let_in(
        &mut self,
        door: Option<&str>,
        until: Until,
        stop: &CancellationToken,
    ) -> Result<u64, LaneError> {
        let queue = self.context.names.unrouted();
        let (there, _) = self.lookout.look(&queue).await?;
        let (mut ready, mut more) = (there, if until == Until::AllOfIt { MORE } else { 0 });
        let (mut seen, mut routed) = (0, 0);
        while ready > 0 && self.past.len() < MOST_PAST && !stop.is_cancelled() {
            if seen >= there {
                if more == 0 {
                    break;
                }
                more -= 1;
            }
            let (looked_at, taken) = self.round(ready.min(ROUND), door, stop).await?;
            if looked_at == 0 {
                break;
            }
            seen += looked_at;
            routed += taken;
            (ready, _) = self.lookout.look(&queue).await?;
        }
        if routed > 0 {
            tracing::info!(routed, "let in items that had been waiting for their queue");
        }
        Ok(routed)
    }

    /// Takes so many: how many were looked at, and how many of them were let in.
    async fn round(
        &mut self,
        ready: u64,
        door: Option<&str>,
        stop: &CancellationToken,
    ) -> Result<(u64, u64), LaneError> {
        let most = u16::try_from(ready).unwrap_or(u16::MAX);
        let mut batches = Batches::open_for(self.session, &self.context.names.unrouted(), BATCH, most).await?;
        let (mut looked_at, mut routed, mut dealt_with) = (0, 0, Vec::new());
        let looked = loop {
            if looked_at >= ready || stop.is_cancelled() {
                break Ok(());
            }
            let batch = match next(&mut batches, stop).await {
                Ok(Some(batch)) => batch,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            looked_at += batch.messages.len() as u64;
            match self.take(batch, door).await {
                Ok((taken, dealt)) => {
                    routed += taken;
                    dealt_with.push(dealt);
                }
                Err(error) => break Err(error),
            }
        };
        batches.take_no_more().await?;
        for dealt in dealt_with {
            dealt.ack().await?;
        }
        if routed > 0 {
            failpoint::reach("unrouted.acked").await;
        }
        looked?;
        // An ack may get lost with its channel, as long as the broker has not got to it.
        if routed == looked_at && self.past_are_all(self.past.len()).await? {
            batches.close().await?;
        } else {
            self.past.push(batches);
        }
        Ok((looked_at, routed))
    }

    /// The direct way of a queue was opened: of this one nothing was looked past.
    pub fn straight_is_open(&mut self, key: &str) {
        Arc::make_mut(&mut self.began_with).open.insert(key.to_owned());
    }

    /// Gives back what it looked past, in its order.
    ///
    /// # Errors
    /// Where the connection is gone, with the same effect but for the order.
    pub async fn end(mut self) -> Result<(), LaneError> {
        let past = std::mem::take(&mut self.past);
        let (count, mut in_time) = (past.len(), true);
        for (index, batches) in past.into_iter().enumerate() {
            batches.give_back().await?;
            in_time = in_time && self.past_are_all(count - index - 1).await?;
            batches.close().await?;
        }
        Ok(())
    }

    /// Waits until the broker counts no more than so many consumers of ours; answers whether that was in time.
    async fn past_are_all(&self, ours: usize) -> Result<bool, LaneError> {
        let expected = self.others + ours as u64;
        let waiting = async {
            while self.lookout.look(&self.context.names.unrouted()).await?.1 > expected {
                tokio::time::sleep(GIVEN_BACK).await;
            }
            Ok(())
        };
        tokio::time::timeout(COMES, waiting).await.map_or(Ok(false), |counted| counted.map(|()| true))
    }

    /// How many of a batch were let in, and what of it is dealt with.
    async fn take(&mut self, batch: Batch, door: Option<&str>) -> Result<(u64, Dealt), LaneError> {
        let now = self.context.live.now();
        let way = |message: &Message| match way_of(&self.began_with, door, message) {
            way if way == way_of(&now, door, message) => way,
            _ => Way::None,
        };
        let places = |wanted: Way| -> Vec<usize> {
            let messages = batch.messages.iter().enumerate();
            messages.filter(|(_, message)| way(message) == wanted).map(|(index, _)| index).collect()
        };
        // While the broker blocks publishers only the door is open.
        let blocked = self.publisher.is_blocked();
        let straight = if blocked { Vec::new() } else { places(Way::Straight) };
        let through = places(Way::Door);
        if straight.is_empty() && through.is_empty() {
            return Ok((0, batch.dealt_with(&[])));
        }

        let exchange = self.context.names.items();
        let outgoing: Vec<Outgoing> = straight.iter().map(|index| again(&batch.messages[*index], &exchange)).collect();
        let published = self.publisher.publish(&outgoing).await?;
        failpoint::reach("unrouted.published").await;
        let confirmed = straight.into_iter().zip(published).filter(|(_, published)| *published == Published::Confirmed);
        let mut taken: Vec<usize> = confirmed.map(|(index, _)| index).collect();

        let messages: Vec<Message> = through.iter().map(|index| as_new(&batch.messages[*index])).collect();
        let let_in =
            if messages.is_empty() { None } else { Some(intake::let_in(self.context, &messages, "unrouted").await?) };
        failpoint::reach("unrouted.committed").await;
        taken.extend(through);
        if let Some(let_in) = let_in {
            let_in.wake(&self.context.wakes);
        }
        Ok((taken.len() as u64, batch.dealt_with(&taken)))
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
    let paused = in_force.paused(key).dispatch || in_force.broken.contains(key);
    let held = paused || in_force.closed.contains(key) || door == Some(key);
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
