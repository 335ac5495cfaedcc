//! From the feed to what waits for each target: events that a webhook wants, and what notice rules let out.
//!
//! Order of effects, per batch: 1. read what is committed; 2. one transaction: what is wanted waits for its target, limits of notices are
//! where they stand now, and everything up to there is had; 3. wake the courier. Where nothing of a batch is wanted the note that it is
//! had may wait for the next.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | read | rows that are not had | read again, and up to 2,000 of which nothing was wanted: who came meanwhile may hear those too |
//! | distributed | messages that wait | the courier looks for itself when it starts |
//!
//! While there is neither a webhook nor a rule nothing is read, and no row waits for this reader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Outward, text};
use crate::definition::{Definitions, Notice, QueueDefinition};
use crate::failpoint;
use crate::item::Timestamp;
use crate::item::event::Event;
use crate::item::notice::{self, Limit, Told};
use crate::lanes::now;
use crate::mirror::changes::{self, Reader, WaitingChange};
use crate::mirror::outward::{self, Message};
use crate::mirror::{MirrorError, Tx, webhooks};

/// Rows read together.
const ROWS: u32 = 500;

/// What is committed within this time is read together.
const GATHER: Duration = Duration::from_millis(20);

/// So many rows of which nothing is wanted are had without a note.
const UNNOTED: i64 = 2_000;

/// The longest sleep between two looks, and how old such a note becomes.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// After a failure of the mirror.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

pub(super) async fn run(outward: Outward, stop: CancellationToken) {
    let mut changed = outward.live.changes();
    let mut commits = outward.mirror.commits();
    let mut distributor = Distributor { outward, limits: None, definitions: None, position: 0, noted: 0 };
    loop {
        changed.mark_unchanged();
        commits.mark_unchanged();
        let round = tokio::select! {
            () = stop.cancelled() => return,
            round = distributor.round() => round,
        };
        let bells = std::sync::Arc::clone(&distributor.outward.bells);
        let wait = async {
            match round {
                Ok(Round::More) => {}
                Ok(Round::Nobody) => std::future::pending().await,
                Ok(Round::All(wait)) => tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    Ok(()) = commits.changed() => tokio::time::sleep(GATHER).await,
                },
                Err(error) => {
                    distributor.limits = None;
                    if error.trouble().is_none() {
                        tracing::error!(error = &error as &dyn std::error::Error, "events could not be handed on");
                    }
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = wait => {}
            () = bells.webhooks.notified() => {}
            Ok(()) = changed.changed() => {}
        }
    }
}

enum Round {
    /// There may be more.
    More,
    /// Look again after this long at the latest.
    All(Duration),
    /// Nobody wants anything until webhooks or definitions change.
    Nobody,
}

struct Distributor {
    outward: Outward,
    /// Where each rule stands; `None`: to be read from the mirror.
    limits: Option<BTreeMap<String, Limit>>,
    /// Whose rules were looked through last.
    definitions: Option<std::sync::Arc<Definitions>>,
    /// Everything up to this number was read.
    position: i64,
    /// Everything up to this number is noted as had.
    noted: i64,
}

/// What rules make of events.
#[derive(Default)]
struct Notices {
    /// By target.
    messages: BTreeMap<String, Vec<Message>>,
    /// Limits that moved.
    moved: BTreeMap<String, Limit>,
}

impl Distributor {
    async fn round(&mut self) -> Result<Round, MirrorError> {
        let definitions = self.outward.live.definitions();
        self.take_over(&definitions).await?;
        let rules = rules(&definitions).next().is_some();
        let Some(had) = self.outward.mirror.read_up_to(Reader::Outward).await? else {
            if !rules {
                return Ok(Round::Nobody);
            }
            self.write(|tx| Box::pin(changes::follow(tx, Reader::Outward))).await?;
            return Ok(Round::More);
        };
        // Looked at beside the writer first: a commit for nothing would wake this task again.
        let enabled = rules || self.outward.mirror.webhooks().await?.iter().any(|webhook| webhook.disabled.is_none());
        if !enabled && !self.write(|tx| Box::pin(stay(tx))).await? {
            return Ok(Round::Nobody);
        }
        // Somebody else may have come back to it meanwhile.
        self.noted = had;
        self.position = self.position.max(had);
        let rows = self.outward.mirror.changes_after(self.position, ROWS).await?;
        let full = rows.len() == ROWS as usize;
        let now = now();
        let due = self.limits.as_ref().is_some_and(|limits| {
            rules_by_name(&definitions).any(|(name, .., rule)| {
                limits.get(&name).and_then(|limit| limit.next(rule.at_most, now)).is_some_and(|at| at <= now)
            })
        });
        if !rows.is_empty() || due {
            self.distribute(&definitions, rows, now).await?;
        } else if self.position > self.noted {
            let position = self.position;
            self.write(move |tx| Box::pin(changes::had(tx, Reader::Outward, position))).await?;
            self.noted = position;
        }
        if full {
            return Ok(Round::More);
        }
        let next = self
            .next_release(&definitions, now)
            .map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default().max(GATHER));
        Ok(Round::All(next.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN)))
    }

    async fn write<T, W>(&self, work: W) -> Result<T, MirrorError>
    where
        T: Send + 'static,
        W: for<'t> FnOnce(&'t mut Tx) -> futures::future::BoxFuture<'t, Result<T, MirrorError>> + Send + 'static,
    {
        self.outward.mirror.write(work).await
    }

    /// Reads limits where they are not known, and forgets those of rules that are gone.
    async fn take_over(&mut self, definitions: &std::sync::Arc<Definitions>) -> Result<(), MirrorError> {
        let same = self.definitions.as_ref().is_some_and(|known| std::sync::Arc::ptr_eq(known, definitions));
        if same && self.limits.is_some() {
            return Ok(());
        }
        let kept: BTreeMap<String, String> = self.outward.mirror.notices().await?;
        let names: BTreeSet<String> = rules_by_name(definitions).map(|(name, ..)| name).collect();
        let named: BTreeSet<String> = rules(definitions).map(|(.., rule)| rule.to.to_string()).collect();
        let gone: Vec<String> = kept.keys().filter(|name| !names.contains(*name)).cloned().collect();
        self.write(move |tx| Box::pin(async move { outward::forget_notices(tx, &gone, &named).await })).await?;
        // What cannot be read is a limit that lets everything out once more.
        let limit = |(name, state): (String, String)| Some((name, serde_json::from_str(&state).ok()?));
        self.limits = Some(kept.into_iter().filter_map(limit).filter(|(name, _)| names.contains(name)).collect());
        self.definitions = Some(std::sync::Arc::clone(definitions));
        Ok(())
    }

    async fn distribute(
        &mut self,
        definitions: &Definitions,
        rows: Vec<WaitingChange>,
        now: Timestamp,
    ) -> Result<(), MirrorError> {
        let last = rows.last().map_or(self.position, |row| row.seq);
        let events: Vec<Event> = rows.into_iter().filter_map(|row| row.events).flatten().collect();
        let notices = self.notices(definitions, &events, now);
        let (messages, moved) = (notices.messages, notices.moved.clone());
        let nothing = messages.is_empty() && moved.is_empty();
        let overdue = last - self.noted > UNNOTED;
        let states: BTreeMap<String, String> = moved
            .iter()
            .map(|(rule, limit)| (rule.clone(), serde_json::to_string(limit).unwrap_or_default()))
            .collect();
        let wanted = !nothing || overdue || self.anybody_wants(&events).await?;
        if wanted {
            let waits = self
                .write(move |tx| {
                    Box::pin(async move {
                        let mut waits = false;
                        for webhook in webhooks::enabled_webhooks(tx).await? {
                            let wanted: Vec<Message> =
                                events.iter().filter(|event| webhook.wish.wants(event)).map(Message::of).collect();
                            waits |= !wanted.is_empty();
                            outward::add_outgoing(tx, &webhook.id, &wanted, now).await?;
                        }
                        for (target, messages) in &messages {
                            waits = true;
                            outward::add_outgoing(tx, target, messages, now).await?;
                        }
                        outward::save_notices(tx, &states).await?;
                        changes::had(tx, Reader::Outward, last).await?;
                        Ok(waits)
                    })
                })
                .await?;
            self.noted = last;
            failpoint::reach("feed.distributed").await;
            if waits {
                self.outward.bells.outgoing.notify_one();
            }
        }
        self.position = last;
        self.limits.get_or_insert_default().extend(moved);
        Ok(())
    }

    /// Looked at beside the writer; who asks for something meanwhile has it from the next batch on.
    async fn anybody_wants(&self, events: &[Event]) -> Result<bool, MirrorError> {
        let all = self.outward.mirror.webhooks().await?;
        let enabled = all.iter().filter(|webhook| webhook.disabled.is_none());
        Ok(enabled.into_iter().any(|webhook| events.iter().any(|event| webhook.wish.wants(event))))
    }

    fn notices(&self, definitions: &Definitions, events: &[Event], now: Timestamp) -> Notices {
        let mut notices = Notices::default();
        let limits = self.limits.as_ref();
        let known = |name: &str| limits.and_then(|limits| limits.get(name)).cloned().unwrap_or_default();
        for event in events {
            let Some(definition) = event.queue.as_ref().and_then(|queue| definitions.get(queue)) else { continue };
            for (place, rule) in definition.notify.iter().enumerate() {
                let Some(occasion) = notice::occasion(rule, event) else { continue };
                let name = name(definition, rule);
                let limit = notices.moved.entry(name.clone()).or_insert_with(|| known(&name));
                if let Some(due) = limit.offer(rule.at_most, now, Told::of(event)) {
                    let message = text::notice(definition, place, &occasion, &due, now);
                    notices.messages.entry(rule.to.to_string()).or_default().push(message);
                }
            }
        }
        for (name, definition, place, rule) in rules_by_name(definitions) {
            let limit = notices.moved.get(&name).cloned().unwrap_or_else(|| known(&name));
            if limit.next(rule.at_most, now).is_none_or(|at| at > now) {
                continue;
            }
            let mut limit = limit;
            if let Some(due) = limit.release(rule.at_most, now) {
                let occasion = occasion_of(rule, &due.event);
                let message = text::notice(definition, place, &occasion, &due, now);
                notices.messages.entry(rule.to.to_string()).or_default().push(message);
                notices.moved.insert(name, limit);
            }
        }
        notices
    }

    fn next_release(&self, definitions: &Definitions, now: Timestamp) -> Option<Timestamp> {
        let limits = self.limits.as_ref()?;
        rules_by_name(definitions).filter_map(|(name, .., rule)| limits.get(&name)?.next(rule.at_most, now)).min()
    }
}

/// Leaves the feed where nobody wants anything of it any more; answers whether somebody does. Decided in the transaction, so that
/// a webhook that comes meanwhile is not missed.
async fn stay(tx: &mut Tx) -> Result<bool, MirrorError> {
    let any = webhooks::any_enabled(tx).await?;
    if !any {
        changes::leave(tx, Reader::Outward).await?;
    }
    Ok(any)
}

/// With their places among the rules of their queues. Also of retired queues: their items end as others do.
pub(super) fn rules(definitions: &Definitions) -> impl Iterator<Item = (&QueueDefinition, usize, &Notice)> {
    let all = definitions.queues.values().chain(definitions.retired.values());
    all.flat_map(|definition| {
        definition.notify.iter().enumerate().map(move |(place, rule)| (&**definition, place, rule))
    })
}

fn rules_by_name(definitions: &Definitions) -> impl Iterator<Item = (String, &QueueDefinition, usize, &Notice)> {
    rules(definitions).map(|(definition, place, rule)| (name(definition, rule), definition, place, rule))
}

/// A rule is the same as long as it is about the same and for the same; a queue has no two of those.
fn name(definition: &QueueDefinition, rule: &Notice) -> String {
    format!("{} {} {:?}", definition.key, rule.to, rule.on)
}

fn occasion_of(rule: &Notice, told: &Told) -> String {
    let event = Event {
        id: told.id.clone(),
        kind: told.kind.clone(),
        queue: None,
        subject: None,
        at: told.at,
        body: told.body.clone(),
    };
    notice::occasion(rule, &event).unwrap_or_else(|| told.kind.clone())
}
