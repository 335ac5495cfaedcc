//! The managed lane's door: from `wq.intake`, or from the HTTP API, into the mirror.
//!
//! Order of effects, per batch:
//! 1. read, check size, schema and headers (nothing is written);
//! 2. commit to the mirror: new items, kept refusals and what they chain to, parked messages, answers to producers;
//! 3. ack the batch; 4. wake dispatch (of queues chained to as well), timers, answers and events.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | 1 | messages in `wq.intake` | delivered again |
//! | 2 | items committed, messages still in `wq.intake` | delivered again, marked redelivered: same `message-id` and content is the same item; without `message-id` admitted again as `possible_repeat` |
//! | 3 | everything; acks that died on their way leave what 2 does | all of these look for themselves when they start |
//!
//! Over HTTP there is no message: what is committed and not answered is there, and the caller does not know. Sent again
//! with the same reference it is the same item under `unique`, else a second one; sent again with the same idempotency key it gets the answer
//! that was committed with the item.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::ledger::Written;
use super::{BATCH, Context, LaneError, Wakes, chain, new_id, now};
use crate::broker::connection::Session;
use crate::broker::consume::{Batch, Batches};
use crate::definition::{Definitions, QueueDefinition};
use crate::failpoint;
use crate::item::door::{self, Arrival, Identity, Known, NewItem, Problem};
use crate::item::failures::{self, Seen};
use crate::item::message::Message;
use crate::item::spent::Spent;
use crate::item::timeline::Line;
use crate::item::{Item, ItemId, Kind, Lane, State, Timestamp, answer};
use crate::metrics;
use crate::mirror::keys::{self, Told};
use crate::mirror::{self, Mirror, MirrorError, Tx, items, records, retention};

/// Messages that the reader of the intake holds at most, beside what is ready there.
pub const MOST_HELD: u64 = 2 * BATCH as u64;

/// What the door said to one item.
#[derive(Debug, Clone)]
pub enum Admission {
    /// A new item.
    Admitted(Box<Item>),
    /// The identity rules say this item is there already.
    Same(Box<Item>),
    /// The identity rules say it was there, with the same content, and is not kept any more.
    Gone(Box<Spent>),
    /// `Invalid`, `Duplicate` or `Expired`, with every reason.
    Refused { kind: Kind, code: &'static str, reasons: Vec<String> },
}

/// Reads `wq.intake` until it is stopped.
///
/// # Errors
/// The first failure of broker or mirror; nothing that is not committed was acked.
pub async fn run(context: Context, session: Arc<Session>, stop: CancellationToken) -> Result<(), LaneError> {
    let mut intake = Batches::open(&session, &context.names.intake(), BATCH).await?;
    loop {
        let batch = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            batch = intake.next() => batch?,
            () = context.wakes.read_intake.asked() => {
                if let Some(moment) = seen_empty(&context, &mut intake).await? {
                    context.wakes.read_intake.answer(moment);
                }
                continue;
            }
        };
        intake.adapt(&batch).await?;
        take(&context, batch).await?;
    }
}

/// The moment up to which everything was read and committed; `None` while something waits.
async fn seen_empty(context: &Context, intake: &mut Batches) -> Result<Option<Timestamp>, LaneError> {
    let before = now();
    let waiting = intake.waiting().await?;
    // What the broker delivered before it answered is at hand by now.
    while let Some(batch) = intake.at_hand()? {
        take(context, batch).await?;
    }
    Ok((waiting == 0).then_some(before))
}

async fn take(context: &Context, batch: Batch) -> Result<(), LaneError> {
    let turn = context.wakes.door.lock().await;
    let woken = let_in(context, &batch.messages, "intake").await?;
    drop(turn);
    failpoint::reach("intake.committed").await;
    let taken = batch.messages.len();
    context.wakes.taken_in.send_modify(|taken_in| *taken_in += taken as u64);
    batch.ack().await?;
    failpoint::reach("intake.acked").await;
    metrics::taken("intake", taken);
    woken.wake(&context.wakes);
    Ok(())
}

/// Whom to wake once messages were let in.
#[must_use]
pub(super) struct LetIn {
    queues: HashSet<String>,
    answers: bool,
    /// What refusals made in other queues.
    chained: Option<Written>,
}

impl LetIn {
    pub(super) fn wake(self, wakes: &Wakes) {
        if let Some(chained) = self.chained {
            chained.wake(wakes);
        }
        for queue in self.queues {
            wakes.dispatch(&queue);
        }
        wakes.timers.notify_one();
        wakes.events.notify_one();
        if self.answers {
            wakes.answers.notify_one();
        }
    }
}

/// Steps 1 and 2: messages that came to the door, by way of the queue `source`, are read and committed.
pub(super) async fn let_in(context: &Context, messages: &[Message], source: &'static str) -> Result<LetIn, LaneError> {
    let (candidates, parked) = read_batch(context, messages, now());
    failpoint::reach("intake.read").await;
    let queues: HashSet<String> = candidates.iter().map(|candidate| candidate.definition.key.clone()).collect();
    let definitions = context.definitions();
    let (answers, chained) = context
        .mirror
        .write(move |tx: &mut Tx| {
            Box::pin(async move {
                for (message, reason) in &parked {
                    records::park(tx, source, message, reason, now()).await?;
                }
                let refused = admit_all(tx, &candidates, Refusals::Keep, now(), |_| ()).await?;
                let answers = candidates.iter().any(|candidate| candidate.arrival.reply_to.is_some());
                Ok((answers, chain::ended(tx, &definitions, refused).await?))
            })
        })
        .await?;
    Ok(LetIn { queues, answers, chained })
}

/// Puts one item through the checks and into the mirror. A refusal is the answer and is not kept. What `tell` makes of the door's
/// word is kept as the answer under the request's idempotency key, where it has one, in the transaction that lets the item in.
///
/// # Errors
/// Where the mirror cannot be written.
pub async fn enqueue(
    mirror: &Mirror,
    definition: &Arc<QueueDefinition>,
    new: NewItem,
    by: &str,
    tell: impl FnOnce(&Admission) -> Option<Told> + Send + 'static,
) -> Result<Admission, MirrorError> {
    let mark = keys::current();
    let arrival = Arrival { new, producer: Some(by.to_owned()), ..Arrival::default() };
    let candidate = Candidate::new(Arc::clone(definition), Arc::new(arrival));
    let admission = mirror
        .write(move |tx: &mut Tx| {
            Box::pin(async move {
                let mut admission = None;
                admit_all(tx, &[candidate], Refusals::Drop, now(), |said| admission = Some(said.into())).await?;
                let admission =
                    admission.ok_or_else(|| MirrorError::Unreadable("an admission without an answer".to_owned()))?;
                if let Some(mark) = mark
                    && let Some(told) = tell(&admission)
                {
                    keys::keep(tx, &mark, &told).await?;
                }
                Ok(admission)
            })
        })
        .await?;
    failpoint::reach("enqueue.committed").await;
    Ok(admission)
}

/// An arrival that was read and checked, for one queue.
pub(super) struct Candidate {
    definition: Arc<QueueDefinition>,
    /// Shared by the copies for several queues.
    arrival: Arc<Arrival>,
    priority: u8,
    problems: Vec<Problem>,
    content_hash: String,
    id: ItemId,
}

impl Candidate {
    pub(super) fn new(definition: Arc<QueueDefinition>, arrival: Arc<Arrival>) -> Self {
        let (priority, checked) = door::check(&definition, &arrival.new);
        let problems = arrival.problems.iter().cloned().chain(checked).collect();
        let content_hash = door::content_hash(&arrival.new.payload);
        Self { definition, arrival, priority, problems, content_hash, id: new_id() }
    }

    /// The key under which the identity rules look for earlier items.
    pub(super) fn identity(&self) -> Option<(String, String)> {
        Some((self.definition.key.clone(), self.arrival.new.reference.clone()?))
    }
}

type Parked = Vec<(Message, String)>;

/// One candidate per managed queue a message is for (`CC` is expanded); what is for no queue is parked.
fn read_batch(context: &Context, messages: &[Message], at: Timestamp) -> (Vec<Candidate>, Parked) {
    let definitions = context.definitions();
    let mut candidates = Vec::with_capacity(messages.len());
    let mut parked = Vec::new();
    for message in messages {
        let arrival = Arc::new(door::read(message, at, |queue| context.replies.may_go_to(queue)));
        match destinations(&definitions, &message.routing_key, &arrival.copies_for) {
            Ok(definitions) => {
                candidates
                    .extend(definitions.into_iter().map(|definition| Candidate::new(definition, Arc::clone(&arrival))));
            }
            Err((definitions, reason)) => {
                candidates
                    .extend(definitions.into_iter().map(|definition| Candidate::new(definition, Arc::clone(&arrival))));
                parked.push((message.clone(), reason));
            }
        }
    }
    (candidates, parked)
}

type Destinations = Vec<Arc<QueueDefinition>>;

/// The queues a message in the intake is for. Of several keys the broker itself served those of direct queues; a
/// single key of a direct queue was managed when the message came, and the item goes on as managed.
fn destinations(
    definitions: &Definitions,
    routing_key: &str,
    copies_for: &[String],
) -> Result<Destinations, (Destinations, String)> {
    let mut keys: Vec<&str> = vec![routing_key];
    for key in copies_for {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let unknown: Vec<&str> = keys.iter().copied().filter(|key| definitions.get(key).is_none()).collect();
    let known: Destinations = keys.iter().filter_map(|key| definitions.get(key).cloned()).collect();
    let any_managed = known.iter().any(|definition| definition.lane == Lane::Managed);
    let mine = known.into_iter().filter(|definition| definition.lane == Lane::Managed || !any_managed).collect();
    if unknown.is_empty() { Ok(mine) } else { Err((mine, format!("nobody defined the queue {}", unknown.join(", ")))) }
}

/// Whether a refused item stays in the mirror or is only answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusals {
    Keep,
    Drop,
}

/// What the door says to one candidate.
pub(super) enum Said<'i> {
    Admitted(&'i Item),
    Same(&'i Item),
    Gone(&'i Spent),
    Refused(Kind, Vec<Problem>),
}

impl From<Said<'_>> for Admission {
    fn from(said: Said<'_>) -> Self {
        match said {
            Said::Admitted(item) => Self::Admitted(Box::new(item.clone())),
            Said::Same(item) => Self::Same(Box::new(item.clone())),
            Said::Gone(spent) => Self::Gone(Box::new(spent.clone())),
            Said::Refused(kind, problems) => Self::Refused {
                kind,
                code: problems.first().map_or("refused", |problem| problem.code),
                reasons: problems.into_iter().map(|problem| problem.text).collect(),
            },
        }
    }
}

/// Decides over every candidate in order, each seeing those before it, tells `say` each decision, and writes what
/// follows. Answers the refusals that chain.
async fn admit_all(
    tx: &mut Tx,
    candidates: &[Candidate],
    refusals: Refusals,
    at: Timestamp,
    say: impl FnMut(Said<'_>) + Send,
) -> Result<Vec<Item>, MirrorError> {
    judge_all(tx, candidates, refusals, &Rehearsed::default(), at, say).await?.write(tx).await
}

/// What a rehearsal would have admitted: of a reference one item where it is unique, else one of each content.
pub(super) type Rehearsed = HashMap<(String, String), Known>;

/// Under what a rehearsal remembers an item.
pub(super) fn remembered(unique: bool, reference: &str, content_hash: &str) -> (String, String) {
    (reference.to_owned(), if unique { String::new() } else { content_hash.to_owned() })
}

/// As [`admit_all`], and what follows is not written yet. `rehearsed` is what would be there too.
pub(super) async fn judge_all<'c>(
    tx: &mut Tx,
    candidates: &'c [Candidate],
    refusals: Refusals,
    rehearsed: &Rehearsed,
    at: Timestamp,
    mut say: impl FnMut(Said<'_>) + Send,
) -> Result<Book<'c>, MirrorError> {
    let mut references = HashSet::with_capacity(candidates.len());
    // Only these have to see each other; everybody else is spared the copies.
    let mut repeated = HashSet::new();
    for identity in candidates.iter().filter_map(Candidate::identity) {
        if let Some(identity) = references.replace(identity) {
            repeated.insert(identity);
        }
    }
    let mut before = items::by_reference(tx, &references).await?;
    let unique = candidates.iter().filter(|candidate| candidate.definition.unique);
    let spent = retention::spent(tx, &unique.filter_map(Candidate::identity).collect()).await?;
    let mut book = Book::default();
    for candidate in candidates {
        let identity = candidate.identity();
        let known = identity.as_ref().and_then(|identity| before.get_mut(identity));
        let spent = identity.as_ref().and_then(|identity| spent.get(identity));
        let rehearsed = identity.as_ref().filter(|_| !rehearsed.is_empty()).and_then(|(_, reference)| {
            rehearsed.get(&remembered(candidate.definition.unique, reference, &candidate.content_hash))
        });
        match decide(candidate, spent, known.as_deref().map_or(&[], Vec::as_slice), rehearsed) {
            Decision::Same(id) if rehearsed.is_some_and(|rehearsed| rehearsed.id == id) => {
                say(Said::Same(&Item { id, ..candidate.item(at) }));
            }
            Decision::Same(id) => match (known.and_then(|items| items.iter_mut().find(|item| item.id == id)), spent) {
                (Some(item), _) => {
                    book.sent_again(item, candidate, at);
                    say(Said::Same(item));
                }
                (None, Some(spent)) => {
                    book.accepted_before(spent, candidate, at);
                    say(Said::Gone(spent));
                }
                (None, None) => {
                    return Err(MirrorError::Unreadable(format!("item {id} vanished while it was compared")));
                }
            },
            Decision::Refuse(kind, problems) => {
                if refusals == Refusals::Keep {
                    let mut item = candidate.item(at);
                    door::refuse(&mut item, kind, &problems, at);
                    book.add(item, candidate, false, at);
                }
                say(Said::Refused(kind, problems));
            }
            Decision::Admit => {
                let mut item = candidate.item(at);
                if item.expires_at.is_some_and(|expires_at| expires_at <= at) {
                    let text = "its life ended before it reached the door".to_owned();
                    let problems = vec![Problem { code: "expired", text }];
                    if refusals == Refusals::Keep {
                        door::refuse(&mut item, Kind::Expired, &problems, at);
                        if let Some(identity) = identity.filter(|identity| repeated.contains(identity)) {
                            before.entry(identity).or_default().push(item.clone());
                        }
                        book.add(item, candidate, candidate.definition.unique, at);
                    }
                    say(Said::Refused(Kind::Expired, problems));
                } else {
                    if let Some(identity) = identity.filter(|identity| repeated.contains(identity)) {
                        before.entry(identity).or_default().push(item.clone());
                    }
                    say(Said::Admitted(&item));
                    book.add(item, candidate, candidate.definition.unique, at);
                }
            }
        }
    }
    Ok(book)
}

enum Decision {
    Admit,
    Same(ItemId),
    Refuse(Kind, Vec<Problem>),
}

fn decide(candidate: &Candidate, spent: Option<&Spent>, known: &[Item], rehearsed: Option<&Known>) -> Decision {
    // Where a reference is not unique there may be many under it, and only the same content is looked for.
    let content = Some(candidate.content_hash.as_str());
    let known = known.iter().filter(|item| candidate.definition.unique || item.content_hash.as_deref() == content);
    // What is gone was there before everything that is there.
    let known = spent.map(Spent::known).into_iter().chain(known.map(Known::of));
    let known: Vec<Known> = known.chain(rehearsed.cloned()).collect();
    let identity =
        door::identify(candidate.definition.unique, &known, &candidate.content_hash, candidate.arrival.redelivered);
    match identity {
        Identity::Same(id) => Decision::Same(id),
        _ if !candidate.problems.is_empty() => Decision::Refuse(Kind::Invalid, candidate.problems.clone()),
        Identity::Duplicate(id) => {
            let reference = candidate.arrival.new.reference.as_deref().unwrap_or_default();
            Decision::Refuse(Kind::Duplicate, vec![door::duplicate(reference, id)])
        }
        Identity::New => Decision::Admit,
    }
}

impl Candidate {
    fn item(&self, at: Timestamp) -> Item {
        door::admit(&self.definition, &self.arrival, self.priority, self.content_hash.clone(), self.id, at)
    }

    fn line(&self, item: &Item, event: &'static str, why: Option<String>, at: Timestamp) -> Line {
        let actor = self.arrival.producer.as_deref().unwrap_or("producer");
        Line { user: self.arrival.user.clone(), attempt: 0, ..Line::of(item, at, actor, event, why) }
    }
}

/// What a batch of admissions writes.
#[derive(Default)]
pub(super) struct Book<'c> {
    new: Vec<(Item, bool)>,
    again: HashMap<ItemId, Item>,
    payloads: Vec<(ItemId, &'c [u8])>,
    lines: Vec<(ItemId, Line)>,
    answers: Vec<answer::Answer>,
    failed: Vec<Seen>,
    /// Refusals that make an item in another queue.
    chains: HashSet<ItemId>,
}

impl<'c> Book<'c> {
    fn add(&mut self, item: Item, candidate: &'c Candidate, unique: bool, at: Timestamp) {
        let refused = matches!(item.state, State::Exception(_));
        let (event, why) = if refused { ("refused", item.reason.clone()) } else { ("admitted", None) };
        self.lines.push((item.id, candidate.line(&item, event, why, at)));
        self.answers.extend(answer::at_the_door(&item));
        self.payloads.push((item.id, &candidate.arrival.new.payload));
        self.failed.extend(self.lines.last().and_then(|(_, line)| failures::seen(&item, line)));
        if item.state.kind().is_some_and(|kind| candidate.definition.on_exception.contains_key(&kind)) {
            self.chains.insert(item.id);
        }
        self.new.push((item, unique));
    }

    /// The same item once more: noted, and answered as it was the first time.
    fn sent_again(&mut self, item: &mut Item, candidate: &Candidate, at: Timestamp) {
        item.revision += 1;
        let why = Some("sent again with the same content: the same item".to_owned());
        self.lines.push((item.id, candidate.line(item, "noted", why, at)));
        if let Some(reply_to) = &candidate.arrival.reply_to {
            let asked = Item {
                reply_to: Some(reply_to.clone()),
                correlation_id: candidate.arrival.correlation_id.clone(),
                state: if item.attempt == 0 { item.state } else { State::Queued },
                ..item.clone()
            };
            self.answers.extend(answer::at_the_door(&asked));
        }
        match self.new.iter_mut().find(|(new, _)| new.id == item.id) {
            Some((new, _)) => *new = item.clone(),
            None => drop(self.again.insert(item.id, item.clone())),
        }
    }

    /// The same once more, of an item that is gone: answered as it was the first time.
    fn accepted_before(&mut self, spent: &Spent, candidate: &Candidate, at: Timestamp) {
        self.answers.extend(answer::at_the_door(&Item { id: spent.item, ..candidate.item(at) }));
    }

    /// Writes it, and answers the refusals that chain.
    pub(super) async fn write(self, tx: &mut Tx) -> Result<Vec<Item>, MirrorError> {
        let new: Vec<(&Item, bool)> = self.new.iter().map(|(item, unique)| (item, *unique)).collect();
        items::insert(tx, &new).await?;
        let again: Vec<&Item> = self.again.values().collect();
        items::save(tx, &again).await?;
        records::insert_payloads(tx, &self.payloads).await?;
        records::append_lines(tx, &self.lines).await?;
        records::add_answers(tx, &self.answers).await?;
        mirror::failures::see(tx, &self.failed).await?;
        Ok(self.new.into_iter().map(|(item, _)| item).filter(|item| self.chains.contains(&item.id)).collect())
    }
}

#[cfg(test)]
mod tests;
