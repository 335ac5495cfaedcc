//! The tap: copies of what takes the direct lane, from the stream `wq.tap` into the mirror.
//!
//! Order of effects, per batch:
//! 1. read each copy (nothing is written);
//! 2. commit: new items, stubs filled in, what ended stubs chain to now, and the offset to read next, in one transaction;
//! 3. ack, which only asks the stream for more; 4. wake dispatch and events, which look for themselves when they start.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | 1 | nothing | the stream is read again from the committed offset |
//! | 2 | rows and offset | the stream is read on: each copy counted exactly once |
//!
//! A report or dead letter may come ahead of its copy; it opens a stub (lanes::reports) that the copy fills in and
//! never re-opens.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{BATCH, Context, LaneError, chain, new_id, now};
use crate::broker::connection::Session;
use crate::broker::consume::Batches;
use crate::definition::{Definitions, QueueDefinition};
use crate::failpoint;
use crate::item::chaining;
use crate::item::direct;
use crate::item::door::{self, Arrival};
use crate::item::message::{Header, Message};
use crate::item::timeline::Line;
use crate::item::{Item, ItemId, Lane, Timestamp};
use crate::metrics;
use crate::mirror::{MirrorError, Tx, acks, items, records, tap};

/// Reads the tap until it is stopped.
///
/// # Errors
/// The first failure of broker or mirror; the committed offset says where to go on.
pub async fn run(context: Context, session: Arc<Session>, stop: CancellationToken) -> Result<(), LaneError> {
    let ended = read(&context, &session, &stop).await;
    // A reader that is gone has nothing to read either, but knows nothing.
    context.status.update(|status| status.tap_idle_since = None);
    ended
}

async fn read(context: &Context, session: &Session, stop: &CancellationToken) -> Result<(), LaneError> {
    let stream = context.names.tap();
    let position = context.mirror.tap_position(&stream).await?;
    context.status.update(|status| status.tap_lost = position.lost);
    let mut next_offset = position.next_offset.unwrap_or(0);
    let mut copies = Batches::open_stream(session, &stream, BATCH, position.next_offset).await?;
    loop {
        context.status.update(|status| status.tap_idle_since = Some(now()));
        let batch = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            batch = copies.next() => batch?,
        };
        context.status.update(|status| status.tap_idle_since = None);
        copies.adapt(&batch).await?;
        let taken = batch.messages.len();
        let definitions = context.definitions();
        let page = Page::read(&definitions, &batch.messages, next_offset, now());
        failpoint::reach("tap.read").await;
        next_offset = page.next_offset;
        let (lost, stream) = (page.lost, stream.clone());
        let direct: Vec<String> = definitions.direct().map(|definition| definition.key.clone()).collect();
        let definitions = Arc::clone(&definitions);
        let woken: HashSet<String> = page.copies.iter().map(|copy| copy.definition.key.clone()).collect();
        let chained = context
            .mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    let ended = page.write(tx, &stream, &direct, now()).await?;
                    chain::ended(tx, &definitions, ended).await
                })
            })
            .await?;
        failpoint::reach("tap.committed").await;
        if lost > 0 {
            tracing::warn!(lost, "the tap dropped copies before they were read; raise tap.max_bytes");
            context.status.update(|status| status.tap_lost += lost);
        }
        batch.ack().await?;
        failpoint::reach("tap.acked").await;
        metrics::taken("tap", taken);
        if let Some(chained) = chained {
            chained.wake(&context.wakes);
        }
        for queue in woken {
            context.wakes.dispatch(&queue);
        }
        context.wakes.events.notify_one();
    }
}

/// A batch of copies, read.
struct Page {
    copies: Vec<Copy>,
    next_offset: u64,
    lost: u64,
    /// Copies without `message-id`, by queue: counted, no row.
    anonymous: BTreeMap<String, i64>,
}

struct Copy {
    definition: Arc<QueueDefinition>,
    reference: String,
    arrival: Arc<Arrival>,
    content_hash: String,
}

impl Page {
    fn read(definitions: &Definitions, messages: &[Message], next_offset: u64, at: Timestamp) -> Self {
        let mut page = Self { copies: Vec::new(), next_offset, lost: 0, anonymous: BTreeMap::new() };
        for message in messages {
            let offset = match message.properties.header("x-stream-offset") {
                Some(Header::Int(offset)) => offset.cast_unsigned(),
                _ => page.next_offset,
            };
            // The broker may begin with the chunk that holds the offset asked for.
            if offset < page.next_offset {
                continue;
            }
            page.lost += lost_in(offset - page.next_offset);
            page.next_offset = offset + 1;
            let mut arrival = direct::read(message, at);
            arrival.ignored.retain(|line| !line.starts_with("x-stream-offset"));
            let arrival = Arc::new(arrival);
            for key in queues_of(definitions, message, &arrival) {
                match arrival.new.reference.clone() {
                    Some(reference) => {
                        let definition = definitions.get(key).cloned();
                        page.copies.push(Copy {
                            definition: definition.unwrap_or_else(|| Arc::new(QueueDefinition::with_defaults(key))),
                            content_hash: door::content_hash(&arrival.new.payload),
                            reference,
                            arrival: Arc::clone(&arrival),
                        });
                    }
                    None => *page.anonymous.entry(key.to_owned()).or_default() += 1,
                }
            }
        }
        page
    }

    /// Answers the items that had ended before their copy came.
    async fn write(
        self,
        tx: &mut Tx,
        stream: &str,
        direct: &[String],
        at: Timestamp,
    ) -> Result<Vec<Item>, MirrorError> {
        let references: HashSet<_> =
            self.copies.iter().map(|copy| (copy.definition.key.clone(), copy.reference.clone())).collect();
        let mut known = items::by_reference(tx, &references).await?;
        let mut new: Vec<Item> = Vec::new();
        let mut changed: HashMap<ItemId, Item> = HashMap::new();
        let mut payloads: Vec<(ItemId, &[u8])> = Vec::new();
        let mut lines = Vec::new();
        let mut ended: HashSet<ItemId> = HashSet::new();
        let mut explained: BTreeMap<&str, i64> = BTreeMap::new();
        for copy in &self.copies {
            let known = known.entry((copy.definition.key.clone(), copy.reference.clone())).or_default();
            let item = match place_copy(known, copy) {
                Placed::Fills(item) => {
                    direct::fill_in(item, copy.item(at), at);
                    if chaining::end(item.state, item.silent).is_some() {
                        ended.insert(item.id);
                    }
                    lines.push((item.id, copy.line(item, "copied", None, at)));
                    item
                }
                Placed::Repeats(item) => {
                    item.revision += 1;
                    item.possible_repeat = true;
                    let why = Some("sent again with the same content: the same item, delivered twice".to_owned());
                    lines.push((item.id, copy.line(item, "noted", why, at)));
                    // Two messages, one row: one ack more than items has to be expected.
                    *explained.entry(copy.definition.key.as_str()).or_default() += 1;
                    item
                }
                Placed::New => {
                    let item = copy.item(at);
                    lines.push((item.id, copy.line(&item, "admitted", None, at)));
                    payloads.push((item.id, &copy.arrival.new.payload));
                    known.push(item.clone());
                    new.push(item);
                    continue;
                }
            };
            payloads.push((item.id, &copy.arrival.new.payload));
            match new.iter_mut().find(|new| new.id == item.id) {
                Some(new) => new.clone_from(item),
                None => drop(changed.insert(item.id, item.clone())),
            }
        }
        items::insert(tx, &new.iter().map(|item| (item, false)).collect::<Vec<_>>()).await?;
        items::save(tx, &changed.values().collect::<Vec<_>>()).await?;
        records::insert_payloads(tx, &payloads).await?;
        records::append_lines(tx, &lines).await?;
        for (queue, count) in &self.anonymous {
            acks::explain(tx, queue, *count).await?;
        }
        for (queue, count) in explained {
            acks::explain(tx, queue, count).await?;
        }
        // A lost copy is an ack without a row, in whichever queue it was: none of them may count it for another item.
        for queue in direct {
            acks::explain(tx, queue, self.lost.cast_signed()).await?;
        }
        let anonymous = self.anonymous.values().sum::<i64>().cast_unsigned();
        tap::advance(tx, stream, self.next_offset, self.lost, anonymous).await?;
        Ok(changed.into_values().filter(|item| ended.contains(&item.id)).collect())
    }
}

/// How many copies are missing in a gap between two offsets. A stream has entries of its own that nobody is given: it
/// begins each segment with one, once in some hundred megabytes. What it drops are whole segments, never one message.
const fn lost_in(gap: u64) -> u64 {
    if gap == 1 { 0 } else { gap }
}

/// The direct queues that a message is in: the stream holds one copy, however many keys (`CC`) lead to it. A key that
/// leads to none by now did when the message came.
fn queues_of<'m>(definitions: &Definitions, message: &'m Message, arrival: &'m Arrival) -> Vec<&'m str> {
    let is_direct = |key: &str| definitions.get(key).is_some_and(|definition| definition.lane == Lane::Direct);
    let mut keys: Vec<&str> = Vec::new();
    for key in std::iter::once(&message.routing_key).chain(&arrival.copies_for) {
        if is_direct(key) && !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    if keys.is_empty() { vec![&message.routing_key] } else { keys }
}

enum Placed<'i> {
    Fills(&'i mut Item),
    Repeats(&'i mut Item),
    New,
}

/// What a copy means beside the items of its reference, oldest first.
fn place_copy<'i>(known: &'i mut [Item], copy: &Copy) -> Placed<'i> {
    let same = |item: &Item| item.content_hash.as_ref() == Some(&copy.content_hash);
    let fills = |item: &Item| item.stub && (item.size.is_none() || same(item));
    let Some(index) =
        known.iter().position(fills).or_else(|| known.iter().position(|item| item.state.is_open() && same(item)))
    else {
        return Placed::New;
    };
    let item = &mut known[index];
    if fills(item) { Placed::Fills(item) } else { Placed::Repeats(item) }
}

impl Copy {
    fn item(&self, at: Timestamp) -> Item {
        direct::item(&self.definition, &self.arrival, new_id(), at)
    }

    fn line(&self, item: &Item, event: &'static str, why: Option<String>, at: Timestamp) -> Line {
        let actor = self.arrival.producer.as_deref().unwrap_or("producer");
        Line { user: self.arrival.user.clone(), ..Line::of(item, at, actor, event, why) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(offset: i64) -> Message {
        let mut message = Message { routing_key: "d".to_owned(), ..Message::default() };
        message.properties.headers.insert("x-stream-offset".to_owned(), Header::Int(offset));
        message
    }

    #[test]
    fn gaps_are_lost_copies_but_for_the_entries_of_the_stream_itself() {
        for (offsets, lost) in [
            (vec![0, 1, 2], 0),
            // A segment begins.
            (vec![0, 1, 3, 4], 0),
            (vec![0, 500], 499),
            (vec![100], 100),
            // The broker begins ahead of what was asked for.
            (vec![0, 0, 1], 0),
        ] {
            let messages: Vec<Message> = offsets.iter().copied().map(copy).collect();
            let page = Page::read(&Definitions::default(), &messages, 0, Timestamp::UNIX_EPOCH);
            let last = offsets.last().unwrap().cast_unsigned();
            assert_eq!((page.lost, page.next_offset), (lost, last + 1), "{offsets:?}");
        }
    }
}
