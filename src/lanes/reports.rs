//! Reports of robots and dead letters of the broker, from `wq.reports` into the mirror.
//!
//! Order of effects, per batch:
//! 1. read each message (nothing is written);
//! 2. commit: state changes with their timeline lines, what chains to other queues, breakers, requests of people that are
//!    settled by it, parked messages, answers, events, the count of explained acks;
//! 3. ack the batch; 4. wake dispatch (retries, room in the window), timers, answers and events.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | 1 | messages in `wq.reports` | delivered again |
//! | 2 | changes committed, messages still there | delivered again: an outcome finds its attempt ended and is noted, a dead letter adds nothing, a `started` of the same robot counts no delivery; only a dead letter without `message-id` opens a second item |
//! | 3 | everything | dispatch, timers, answers and events look for themselves when they start |
//!
//! A bare reject is not judged at once. `wq.reports` is read by priority on RabbitMQ 4.3, so a dead letter may come
//! before the report its robot sent first. The item only remembers when it came (`rejected_at`, committed). It is
//! judged once the queue was seen empty after that moment and all that had been delivered by then was committed, at
//! most `control.report_grace` later.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::{BATCH, Context, LaneError, new_id, now};
use crate::broker::connection::Session;
use crate::broker::consume::{Batch, Batches};
use crate::definition::{Definitions, Keep};
use crate::failpoint;
use crate::item::direct;
use crate::item::door::{self, Identity, Known, Problem};
use crate::item::lifecycle;
use crate::item::message::Message;
use crate::item::report::{self, Death, DeathReason, Report, Saying};
use crate::item::spent::Spent;
use crate::item::{Item, ItemId, Kind, Lane, Place, State, Timestamp};
use crate::metrics;
use crate::mirror::{MirrorError, Tx, items, retention};
use crate::topology::names::Names;

/// Items judged in one transaction.
const JUDGED: u32 = 500;

/// How many deliveries may be at hand at once: two full batches, and what a consumer before this one had.
const UNACKED: usize = 4 * BATCH as usize;

/// How often a queue that is never seen empty is judged by the grace.
const JUDGE_AGAIN: Duration = Duration::from_secs(1);

/// Reads `wq.reports` until it is stopped.
///
/// # Errors
/// The first failure of broker or mirror; nothing that is not committed was acked.
pub async fn run(context: Context, session: Arc<Session>, stop: CancellationToken) -> Result<(), LaneError> {
    let mut reports = Batches::open(&session, &context.names.reports(), BATCH).await?;
    // A former session may have left rejects that nobody judged.
    let mut unjudged = true;
    loop {
        let judge_again =
            async { if unjudged { tokio::time::sleep(JUDGE_AGAIN).await } else { std::future::pending().await } };
        let mut asked = false;
        let batch = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            batch = reports.next() => Some(batch?),
            () = context.wakes.read_reports.asked() => { asked = true; None }
            () = judge_again => None,
        };
        let drained = match batch {
            Some(batch) => {
                reports.adapt(&batch).await?;
                let drained = batch.drained;
                unjudged |= take(&context, batch).await?;
                drained
            }
            None => true,
        };
        if unjudged || asked {
            let until = if drained { seen_empty(&context, &mut reports).await? } else { None };
            if let Some(until) = until {
                context.wakes.read_reports.answer(until);
            }
            let until = until.or_else(|| now().checked_sub(context.report_grace).ok());
            if let Some(until) = until {
                unjudged = judge(&context, until).await?;
            }
        }
    }
}

/// The moment up to which every report that was sent before its dead letter has been committed; `None` while the
/// queue is not empty.
async fn seen_empty(context: &Context, reports: &mut Batches) -> Result<Option<Timestamp>, LaneError> {
    let before = now();
    let waiting = reports.waiting().await?;
    // What the broker delivered before it answered is at hand by now: at most what was unacked.
    let mut left = UNACKED;
    while left > 0 {
        let Some(batch) = reports.at_hand()? else { break };
        left = left.saturating_sub(batch.messages.len());
        take(context, batch).await?;
    }
    Ok((waiting == 0 && context.wakes.read_reports.is_trusted()).then_some(before))
}

/// Commits one batch and acks it. Answers whether a bare reject waits to be judged.
async fn take(context: &Context, batch: Batch) -> Result<bool, LaneError> {
    let taken = batch.messages.len();
    let entries = read_batch(&context.names, &batch.messages);
    failpoint::reach("reports.read").await;
    let definitions = context.definitions();
    let (unjudged, written) = context
        .mirror
        .write(move |tx: &mut Tx| {
            Box::pin(async move {
                let mut reading = Reading::load(tx, &definitions, &entries).await?;
                for entry in entries {
                    reading.enter(entry);
                }
                Ok((reading.unjudged, reading.ledger.write(tx).await?))
            })
        })
        .await?;
    failpoint::reach("reports.committed").await;
    batch.ack().await?;
    failpoint::reach("reports.acked").await;
    metrics::taken("reports", taken);
    written.wake(&context.wakes);
    Ok(unjudged)
}

/// Judges bare rejects that came at `until` or before. Answers whether some are left for later.
async fn judge(context: &Context, until: Timestamp) -> Result<bool, LaneError> {
    loop {
        let definitions = context.definitions();
        let (judged, left, written) = context
            .mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    let due = items::unjudged(tx, until, JUDGED).await?;
                    let judged = due.len();
                    let mut ledger = Ledger::of(&definitions, due);
                    ledger.step_all(lifecycle::judge);
                    let written = ledger.write(tx).await?;
                    let left = !items::unjudged(tx, Timestamp::MAX, 1).await?.is_empty();
                    Ok((judged, left, written))
                })
            })
            .await?;
        failpoint::reach("reports.judged").await;
        written.wake(&context.wakes);
        if judged < JUDGED as usize {
            return Ok(left);
        }
    }
}

/// A message of `wq.reports`, read.
enum Entry {
    Report {
        queue: String,
        about: String,
        report: Report,
        message: Message,
    },
    Death {
        queue: String,
        death: Death,
        message: Message,
    },
    /// Its life ended in `wq.intake` or `wq.unrouted`, before the door.
    ExpiredOutside {
        message: Message,
    },
    Unreadable {
        message: Message,
        reason: String,
    },
}

fn read_batch(names: &Names, messages: &[Message]) -> Vec<Entry> {
    messages.iter().map(|message| read(names, message)).collect()
}

fn read(names: &Names, message: &Message) -> Entry {
    let message = message.clone();
    if message.exchange != names.dead() {
        return match (report::read_report(&message), message.properties.correlation_id.clone()) {
            (Ok(report), Some(about)) => Entry::Report { queue: message.routing_key.clone(), about, report, message },
            (Ok(_), None) => {
                let reason = "the report has no correlation-id: it says of no item".to_owned();
                Entry::Unreadable { message, reason }
            }
            (Err(reason), _) => Entry::Unreadable { message, reason },
        };
    }
    match report::read_death(&message) {
        Ok(death) => {
            match names.key_of(&death.queue).or_else(|| names.key_of_moving(&death.queue)).map(str::to_owned) {
                Some(queue) => Entry::Death { queue, death, message },
                None if death.reason == DeathReason::Expired => Entry::ExpiredOutside { message },
                None => {
                    let reason = format!("a dead letter of {} that is not about its life", death.queue);
                    Entry::Unreadable { message, reason }
                }
            }
        }
        Err(reason) => Entry::Unreadable { message, reason },
    }
}

impl Entry {
    /// Queue and `message-id` of the delivery it is about.
    fn about(&self) -> Option<(&str, &str)> {
        match self {
            Self::Report { queue, about, .. } => Some((queue, about)),
            Self::Death { queue, message, .. } => Some((queue, message.properties.message_id.as_deref()?)),
            Self::ExpiredOutside { message } => Some((&message.routing_key, message.properties.message_id.as_deref()?)),
            Self::Unreadable { .. } => None,
        }
    }
}

/// A batch on its way into the mirror: its items, found by id or reference, and what is written of them.
struct Reading {
    ledger: Ledger,
    /// Items by (queue, reference), oldest first.
    by_reference: HashMap<(String, String), Vec<ItemId>>,
    /// References of what expired before the door whose items are gone.
    spent: HashMap<(String, String), Spent>,
    /// A bare reject waits to be judged.
    unjudged: bool,
}

impl Reading {
    async fn load(tx: &mut Tx, definitions: &Arc<Definitions>, entries: &[Entry]) -> Result<Self, MirrorError> {
        let about: Vec<(&str, &str)> = entries.iter().filter_map(Entry::about).collect();
        let ids: HashSet<ItemId> = about.iter().filter_map(|(_, about)| about.parse().ok()).collect();
        let ledger = Ledger::of(definitions, items::by_id(tx, &ids).await?);
        let outside = entries.iter().filter(|entry| matches!(entry, Entry::ExpiredOutside { .. }));
        let unique = outside.filter_map(Entry::about).filter(|(queue, _)| ledger.definition(queue).unique);
        let unique = unique.map(|(queue, reference)| (queue.to_owned(), reference.to_owned())).collect();
        let spent = retention::spent(tx, &unique).await?;
        let mut reading = Self { ledger, by_reference: HashMap::new(), spent, unjudged: false };
        let references: HashSet<(String, String)> = about
            .into_iter()
            .filter(|(queue, about)| reading.by_id(queue, about).is_none())
            .map(|(queue, about)| (queue.to_owned(), about.to_owned()))
            .collect();
        for (reference, found) in items::by_reference(tx, &references).await? {
            reading.by_reference.insert(reference, found.iter().map(|item| item.id).collect());
            reading.ledger.take_in(found);
        }
        Ok(reading)
    }

    fn by_id(&self, queue: &str, about: &str) -> Option<ItemId> {
        let id = about.parse().ok()?;
        self.ledger.item(id).filter(|item| item.queue == queue).map(|item| item.id)
    }

    /// The direct item whose first delivery carried this `message-id`: of several the oldest that is out, else the
    /// newest. What the daemon dispatched carries the item's id instead.
    fn find_direct(&self, queue: &str, about: &str) -> Option<ItemId> {
        let ids = self.by_reference.get(&(queue.to_owned(), about.to_owned()))?;
        let mut direct = ids.iter().copied().filter(|id| {
            self.ledger.is_direct(queue) || self.ledger.item(*id).is_some_and(|item| item.lane == Lane::Direct)
        });
        // One that came back is out under its own id.
        let is_out =
            |id: &ItemId| self.ledger.item(*id).is_some_and(|item| item.place == Place::Broker && item.attempt == 1);
        direct.clone().find(is_out).or_else(|| direct.next_back())
    }

    fn enter(&mut self, entry: Entry) {
        match entry {
            Entry::Report { queue, about, report, message } => self.enter_report(&queue, &about, report, message),
            Entry::Death { queue, death, message } => self.enter_death(&queue, death, message),
            Entry::ExpiredOutside { message } => self.enter_expired(message),
            Entry::Unreadable { message, reason } => self.ledger.park(message, reason),
        }
    }

    fn enter_report(&mut self, queue: &str, about: &str, mut report: Report, message: Message) {
        let id = match self.by_id(queue, about) {
            Some(id) => id,
            None => match self.find_direct(queue, about) {
                Some(id) => {
                    // A first direct delivery carries no attempt number of ours, whatever its producer wrote there.
                    report.attempt = Some(1);
                    id
                }
                // With a number and an id of ours it is about a dispatch, whose item would be here: a lost mirror, or
                // somebody's invention.
                None if self.ledger.was_direct(queue)
                    && (report.attempt.is_none() || about.parse::<ItemId>().is_err()) =>
                {
                    report.attempt = Some(1);
                    self.open_stub(queue, Some(about), None)
                }
                None => {
                    let reason = if self.ledger.is_defined(queue) {
                        let kept_for_ever = self.ledger.definition(queue).keep == Keep::default();
                        let or = if kept_for_ever { "" } else { ", or one that is not kept any more" };
                        format!("the report is about '{about}', which is no item of the queue {queue}{or}")
                    } else {
                        format!("the report is for the queue '{queue}', which nobody defined")
                    };
                    self.ledger.park(message, reason);
                    return;
                }
            },
        };
        // A repeat of a `started` that was committed counts no delivery.
        let repeated = matches!(report.saying, Saying::Started { .. }) && message.redelivered;
        self.ledger.step(id, |item, rules, moment| {
            let known = repeated && item.state == State::Processing && item.worker == report.robot;
            (!known).then(|| lifecycle::report(item, &report, rules, moment))
        });
    }

    fn enter_death(&mut self, queue: &str, mut death: Death, message: Message) {
        let about = message.properties.message_id.clone();
        let known = about.as_deref().and_then(|about| self.by_id(queue, about));
        let id = known.unwrap_or_else(|| {
            let direct = about.as_deref().and_then(|about| self.find_direct(queue, about));
            death.attempt = Some(1);
            if let Some(id) = direct {
                self.ledger.learn_payload(id, &message);
                id
            } else {
                if about.is_none() && !message.redelivered {
                    // The tap counted its copy as one ack to come.
                    self.ledger.explain(queue, -1);
                }
                self.open_stub(queue, about.as_deref(), Some(message))
            }
        });
        self.ledger.step(id, |item, _, moment| Some(lifecycle::death(item, &death, moment.now)));
        let waits = |item: &Item| item.rejected_at.is_some() && item.state.is_open();
        self.unjudged |= self.ledger.item(id).is_some_and(waits);
    }

    /// Before the door: the item is made as the door would have made it, expired, and is one with those before it as
    /// the door would have had it.
    fn enter_expired(&mut self, message: Message) {
        let queue = message.routing_key.clone();
        let reference = message.properties.message_id.clone().unwrap_or_default();
        let at = self.ledger.moment().now;
        let hash = door::content_hash(&message.body);
        let definition = self.ledger.definition(&queue);
        let identity = (queue, reference.clone());
        let known = self.by_reference.get(&identity).map_or(&[][..], Vec::as_slice);
        let known = known.iter().filter_map(|id| self.ledger.item(*id)).map(Known::of);
        let known: Vec<Known> = self.spent.get(&identity).map(Spent::known).into_iter().chain(known).collect();
        // It may have come through the door and into the mirror, and only our ack got lost before its life ended.
        let redelivered = message.redelivered || report::deliveries_of(&message).is_some_and(|count| count > 0);
        let (kind, problem) = match door::identify(definition.unique, &known, &hash, redelivered) {
            Identity::Same(_) if message.redelivered => return,
            Identity::Same(id) => {
                self.ledger.note(id, "broker", "sent again with the same content, which expired: the same item");
                return;
            }
            Identity::Duplicate(id) => (Kind::Duplicate, door::duplicate(&reference, id)),
            Identity::New => {
                let text = "its life ended before it reached the door".to_owned();
                (Kind::Expired, Problem { code: "expired", text })
            }
        };
        let mut arrival = door::read(&message, at, |_| false);
        arrival.new.expires_at = Some(at);
        arrival.redelivered = redelivered;
        let (priority, _) = door::check(&definition, &arrival.new);
        let mut item = door::admit(&definition, &arrival, priority, hash, new_id(), at);
        door::refuse(&mut item, kind, &[problem], at);
        let (id, why) = (item.id, item.reason.clone());
        self.add(item, Some(message.body), "broker", "refused", why);
        self.ledger.ended(id);
    }

    /// Direct lane: opens the row of an item whose copy did not come yet.
    fn open_stub(&mut self, queue: &str, reference: Option<&str>, dead: Option<Message>) -> ItemId {
        let definition = self.ledger.definition(queue);
        let item = direct::stub(&definition, reference, dead.as_ref(), new_id(), self.ledger.moment().now);
        let id = item.id;
        let what = if dead.is_some() { "a dead letter" } else { "a report" };
        let why = Some(format!("{what} came ahead of its copy"));
        self.add(item, dead.map(|message| message.body), "daemon", "seen", why);
        id
    }

    fn add(&mut self, item: Item, payload: Option<Vec<u8>>, actor: &str, event: &'static str, why: Option<String>) {
        if let Some(reference) = &item.reference {
            self.by_reference.entry((item.queue.clone(), reference.clone())).or_default().push(item.id);
        }
        self.ledger.add(item, payload, actor, event, why);
    }
}
