//! After the mirror was lost: a new one learns what is in the robots' queues. The daemon does not run meanwhile.
//!
//! Order of effects, per queue and batch:
//! 1. take messages out of the robots' queue; 2. commit their items, waiting for the attempt that each message was; 3. ack.
//!
//! When all is learnt: 4. commit that the mirror is not older any more, and that its accounts of acks are void; 5. commit a
//! number; 6. take `wq.meta` over.
//!
//! Then the daemon may be started: dispatch sends everything out again, in its order, and the tap is read from its first
//! copy. Copies of what was learnt fill it in, whatever became of it by then.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | 1 | messages in the queue | the next rebuild finds them |
//! | 2 | items, and their messages | the same, and finds the items: an item without `message-id` may be there twice |
//! | 3 | a part that is learnt; beside the note of another mirror no daemon starts, an older copy's starts paused | the next rebuild learns the rest; what a daemon does not know meanwhile is parked |
//! | 4, 5 | the old note | the next rebuild has nothing to learn, and takes it over |

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::conductor::ConductError;
use super::keeper;
use super::migrate::STATISTICS;
use super::witness::{OLDER, note, standing, take};
use crate::broker::BrokerError;
use crate::broker::connection::Session;
use crate::broker::consume::{Batches, Lookout};
use crate::broker::management::Management;
use crate::broker::ownership;
use crate::broker::publish::Publisher;
use crate::definition::{Definitions, QueueDefinition};
use crate::failpoint;
use crate::item::message::Message;
use crate::item::{ItemId, door, lifecycle, relearn};
use crate::lanes::ledger::Ledger;
use crate::lanes::{new_id, now};
use crate::mirror::standing::{Standing, forget_older};
use crate::mirror::{Mirror, MirrorError, Tx, acks, items};
use crate::topology::names::Names;

/// Messages in one transaction.
const BATCH: u16 = 256;

/// A queue that gives nothing for this long is looked at.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often a daemon is looked for that may be gone already.
const LOOKS: u32 = 20;

/// What a rebuild works with.
pub struct Site<'s> {
    pub mirror: &'s Mirror,
    pub definitions: Definitions,
    pub names: &'s Names,
    pub session: &'s Session,
    /// Says what robots hold; without it nobody does.
    pub management: Option<&'s Management>,
    pub confirm_timeout: Duration,
}

/// What was learnt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// What `wq.meta` told of the mirror before; `None` where nothing lay there.
    pub before: Option<Standing>,
    /// That was another mirror than the one that was rebuilt.
    pub taken_over: bool,
    /// By queue key.
    pub queues: BTreeMap<String, Learnt>,
}

/// What was learnt of one queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Learnt {
    /// Items that the mirror did not know.
    pub items: u64,
    /// Messages of items that it knew.
    pub known: u64,
    /// Messages that robots hold, which nobody can look at; `None` where nobody could say.
    pub held: Option<u64>,
}

/// Learns what is in the robots' queues of all definitions, and takes `wq.meta` over.
///
/// # Errors
/// The first failure of broker or mirror; what was learnt by then stays learnt.
pub async fn run(site: Site<'_>) -> Result<Rebuilt, ConductError> {
    let Site { mirror, names, session, .. } = site;
    let mut definitions = site.definitions;
    definitions.retired = keeper::retired(mirror).await?;
    definitions.retired.retain(|key, _| !definitions.queues.contains_key(key));
    let definitions = Arc::new(definitions);
    nobody_works_here(session, names).await?;
    let left = match ownership::read(session, names).await {
        Ok(left) => left,
        Err(error) if error.is_missing() => None,
        Err(error) => return Err(error.into()),
    };
    let before = left.as_ref().map(standing);
    let mut rebuilt = Rebuilt { before, ..Rebuilt::default() };
    for definition in definitions.queues.values().chain(definitions.retired.values()) {
        let mut learnt = Learnt::default();
        // The second holds its items while it is moved.
        for queue in [names.robots(&definition.key), names.moving(&definition.key)] {
            drain(mirror, session, &definitions, definition, &queue, &mut learnt).await?;
        }
        if let Some(management) = site.management {
            let stats = management.queue(&names.robots(&definition.key)).await.ok().flatten();
            learnt.held = stats.map(|stats| stats.unacked);
        }
        rebuilt.queues.insert(definition.key.clone(), learnt);
    }

    let mut own = mirror.standing(now()).await?;
    rebuilt.taken_over = rebuilt.before.as_ref().is_some_and(|before| before.mirror != own.mirror);
    let older = rebuilt.before.as_ref().is_some_and(|before| before.sequence > own.sequence);
    let acked = rebuilt.queues.values().any(|learnt| learnt.items + learnt.known > 0);
    let strange = older || rebuilt.taken_over || rebuilt.queues.values().any(|learnt| learnt.items > 0);
    if strange && acked && site.management.is_some() {
        // Our own acks are to be in the broker's counters when the daemon begins its accounts with them.
        tokio::time::sleep(STATISTICS).await;
    }
    own.sequence = own.sequence.max(rebuilt.before.as_ref().map_or(0, |before| before.sequence) + 1);
    mirror
        .write(move |tx: &mut Tx| {
            Box::pin(async move {
                if strange {
                    acks::forget_all(tx).await?;
                }
                forget_older(tx, OLDER).await
            })
        })
        .await?;
    take(mirror, &own).await?;
    failpoint::reach("rebuild.learnt").await;
    if left.is_some() {
        let mut publisher = Publisher::open(session, site.confirm_timeout).await?;
        ownership::write(names, &note(&own), &mut publisher).await?;
    }
    Ok(rebuilt)
}

/// Whose mirror it would be behind the back of: a daemon reads reports for as long as it runs.
async fn nobody_works_here(session: &Session, names: &Names) -> Result<(), BrokerError> {
    let mut looks = 0;
    loop {
        let consumers = match Lookout::open(session).await?.look(&names.reports()).await {
            Ok((_, consumers)) => consumers,
            Err(error) if error.is_missing() => 0,
            Err(error) => return Err(error),
        };
        match (consumers, looks) {
            (0, _) => return Ok(()),
            (consumers, LOOKS) => return Err(BrokerError::InUse { queue: names.reports(), consumers }),
            _ => tokio::time::sleep(PATIENCE).await,
        }
        looks += 1;
    }
}

/// Takes out of one queue all that is ready in it; one that is not there has nothing.
async fn drain(
    mirror: &Mirror,
    session: &Session,
    definitions: &Arc<Definitions>,
    definition: &Arc<QueueDefinition>,
    queue: &str,
    learnt: &mut Learnt,
) -> Result<(), ConductError> {
    let mut batches = match Batches::open(session, queue, BATCH).await {
        Ok(batches) => batches,
        Err(error) if error.is_missing() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    loop {
        let Ok(batch) = tokio::time::timeout(PATIENCE, batches.next()).await else {
            // What was delivered before the answer is at hand, and the next turn takes it.
            if batches.waiting().await? == 0 && batches.nothing_at_hand() {
                break;
            }
            continue;
        };
        let batch = batch?;
        batches.adapt(&batch).await?;
        let messages = batch.messages.clone();
        let (items, known) = learn(mirror, definitions, definition, messages).await?;
        failpoint::reach("rebuild.committed").await;
        batch.ack().await?;
        failpoint::reach("rebuild.acked").await;
        learnt.items += items;
        learnt.known += known;
    }
    batches.take_no_more().await?;
    batches.close().await.map_err(BrokerError::into)
}

/// Commits the items of these messages. Answers how many are new, and how many messages were of items that are there.
async fn learn(
    mirror: &Mirror,
    definitions: &Arc<Definitions>,
    definition: &Arc<QueueDefinition>,
    messages: Vec<Message>,
) -> Result<(u64, u64), MirrorError> {
    let (definitions, definition) = (Arc::clone(definitions), Arc::clone(definition));
    mirror
        .write(move |tx: &mut Tx| {
            Box::pin(async move {
                let queue = definition.key.as_str();
                let ids: HashSet<ItemId> =
                    messages.iter().filter_map(relearn::dispatched_as).map(|(id, _)| id).collect();
                let mut ledger = Ledger::of(&definitions, items::by_id(tx, &ids).await?);
                let direct = messages.iter().filter(|message| relearn::dispatched_as(message).is_none());
                let references = direct
                    .filter_map(|message| Some((queue.to_owned(), message.properties.message_id.clone()?)))
                    .collect();
                let mut open: BTreeMap<(String, String), ItemId> = BTreeMap::new();
                for ((_, reference), found) in items::by_reference(tx, &references).await? {
                    for item in found.into_iter().filter(|item| item.state.is_open()) {
                        open.insert((reference.clone(), item.content_hash.clone().unwrap_or_default()), item.id);
                        ledger.take_in(vec![item]);
                    }
                }
                let (mut new, mut known) = (0, 0);
                for message in messages {
                    let identity = message.properties.message_id.clone().unwrap_or_default();
                    let identity = (identity, door::content_hash(&message.body));
                    let (there, attempt) = match relearn::dispatched_as(&message) {
                        Some((id, attempt)) => {
                            (ledger.item(id).filter(|item| item.queue == queue).map(|item| item.id), attempt)
                        }
                        None => (open.get(&identity).copied().filter(|_| !identity.0.is_empty()), 1),
                    };
                    if let Some(id) = there {
                        ledger.learn_payload(id, &message);
                        ledger.step(id, |item, _, moment| lifecycle::found_again(item, attempt, moment.now));
                        known += 1;
                        continue;
                    }
                    let mut item = relearn::item(&definition, &message, new_id(), ledger.moment().now);
                    if ledger.item(item.id).is_some() {
                        // Somebody sent on what another queue's robot got.
                        item.id = new_id();
                    }
                    // Without an identity a rebuild that broke off may have learnt it before.
                    item.possible_repeat = item.reference.is_none() && message.redelivered;
                    open.insert(identity, item.id);
                    let why = Some("its message was found in the robots' queue".to_owned());
                    ledger.add(item, Some(message.body), "rebuild", "found", why);
                    new += 1;
                }
                // Our acks are nobody's work.
                acks::explain(tx, queue, new + known).await?;
                let _ = ledger.write(tx).await?;
                Ok((new.cast_unsigned(), known.cast_unsigned()))
            })
        })
        .await
}
