//! What people ask of one item, over whichever door: checked, committed, and, where the item is dispatched, waited for.
//!
//! Order of effects: 1. commit what was asked: it is done, or noted with the item; 2. wake whom it concerns; 3. where it was
//! noted, wait for its end, a short while. A crash after 1 leaves what is committed, and nobody who knows the answer: asked
//! again, it is there already.

use std::time::Duration;

use super::ledger::Ledger;
use super::live::Live;
use super::{Wakes, now};
use crate::definition::QueueDefinition;
use crate::failpoint;
use crate::item::door::{self, NewItem, PriorityWish, Problem};
use crate::item::lifecycle::people::{self, Refusal, Verdict};
use crate::item::request::{Changes, Content, Order, Verb};
use crate::item::{Item, ItemId, Kind, Place, State};
use crate::mirror::audit::{self, Actor, Entry};
use crate::mirror::{Mirror, MirrorError, Tx, items, requests};

/// How long the end of a request is waited for (DESIGN: 200 when done within 5 s, else 202).
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked of an item, its values not checked yet.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The members of its changes that need the queue's definition to be checked stand below.
    pub order: Order,
    /// Another payload and its content type.
    pub payload: Option<(Vec<u8>, Option<String>)>,
    pub priority: Option<PriorityWish>,
    /// A requeue that waits for so long, instead of `not_before`.
    pub delay: Option<Duration>,
    /// Who asks, where what is done is to be in the audit log.
    pub actor: Option<Actor>,
}

/// The revisions in which an item may be for something to be asked of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Only {
    #[default]
    AnyRevision,
    OneOf(Vec<u32>),
}

/// What is answered.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Done: the item as it is now.
    Done(Box<Item>),
    /// It waits until the item's message is taken out of the robots' queue.
    Waits(Box<Item>),
    Refused(Refusal),
    /// It waited, and was given up for this reason. `over`: nobody has the item any more.
    GivenUp {
        why: String,
        out_of_reach: bool,
        over: bool,
    },
    /// The door would not let it in like that.
    Invalid(Vec<Problem>),
    /// It is in another revision, this one.
    Changed(u32),
    NoSuchItem,
}

/// Does what is asked, or has it done.
///
/// # Errors
/// Where the mirror cannot be written.
pub async fn ask(mirror: &Mirror, live: &Live, wakes: &Wakes, id: ItemId, ask: Ask) -> Result<Answer, MirrorError> {
    ask_only(mirror, live, wakes, id, ask, Only::AnyRevision).await
}

/// The same, of an item that is in one of these revisions when it is decided.
///
/// # Errors
/// Where the mirror cannot be written.
pub async fn ask_only(
    mirror: &Mirror,
    live: &Live,
    wakes: &Wakes,
    id: ItemId,
    ask: Ask,
    only: Only,
) -> Result<Answer, MirrorError> {
    let definitions = live.definitions();
    let on_sight = ask.order.on_sight;
    let mut looks = wakes.recalls.subscribe();
    looks.mark_unchanged();
    let decided = mirror
        .write(move |tx: &mut Tx| {
            Box::pin(async move {
                let Some(item) = items::by_id(tx, &[id].into()).await?.pop() else {
                    return Ok((Decided::NoSuchItem, None));
                };
                if matches!(&only, Only::OneOf(revisions) if !revisions.contains(&item.revision)) {
                    return Ok((Decided::Changed(item.revision), None));
                }
                let mut ledger = Ledger::of(&definitions, vec![item]);
                let entry = ask.actor.clone().map(|actor| entry(id, &ask.order, actor));
                let decided = decide(tx, &mut ledger, id, ask).await?;
                let written = match decided {
                    Decided::Done(_) | Decided::Waits(_) => {
                        if let Some(mut entry) = entry {
                            entry.outcome = if matches!(decided, Decided::Done(_)) { "done" } else { "asked" };
                            audit::append(tx, &entry).await?;
                        }
                        Some(ledger.write(tx).await?)
                    }
                    _ => None,
                };
                Ok((decided, written))
            })
        })
        .await?;
    failpoint::reach("orders.committed").await;
    let (decided, written) = decided;
    if let Some(written) = written {
        written.wake(wakes);
    }
    let asked = match decided {
        Decided::Done(item) => return Ok(Answer::Done(item)),
        Decided::Waits(item) if on_sight => return Ok(Answer::Waits(item)),
        Decided::Waits(item) => item,
        Decided::Refused(refusal) => return Ok(Answer::Refused(refusal)),
        Decided::Invalid(problems) => return Ok(Answer::Invalid(problems)),
        Decided::Changed(revision) => return Ok(Answer::Changed(revision)),
        Decided::NoSuchItem => return Ok(Answer::NoSuchItem),
    };
    wakes.recall.notify_one();
    let over = async {
        loop {
            match mirror.item(id).await? {
                Some(item) if item.pending.is_some() => drop(looks.changed().await),
                item => return Ok::<_, MirrorError>(item),
            }
        }
    };
    match tokio::time::timeout(PATIENCE, over).await {
        Ok(item) => match item? {
            Some(item) => ended(mirror, asked.revision, item).await,
            None => Ok(Answer::NoSuchItem),
        },
        Err(_) => Ok(mirror.item(id).await?.map_or(Answer::NoSuchItem, |item| Answer::Waits(Box::new(item)))),
    }
}

/// What the audit log says of it. Payloads and notes stand with the item and nowhere else.
fn entry(id: ItemId, order: &Order, actor: Actor) -> Entry {
    let action = match order.verb {
        Verb::Hold => "item.hold",
        Verb::Release => "item.release",
        Verb::Cancel => "item.cancel",
        Verb::Restore => "item.restore",
        Verb::Requeue(_) => "item.requeue",
        Verb::Edit(_) => "item.edit",
        Verb::Note(_) => "item.note",
        Verb::Assign(_) => "item.assign",
    };
    let detail = order.why.as_ref().map_or(serde_json::Value::Null, |why| serde_json::json!({ "why": why }));
    Entry { at: now(), actor, action, target: Some(id.to_string()), outcome: "done", detail }
}

/// How a request ended that nobody waits for any more: its line says so.
async fn ended(mirror: &Mirror, asked: u32, item: Item) -> Result<Answer, MirrorError> {
    let lines = mirror.timeline(item.id).await?;
    let line = lines.into_iter().filter(|line| line.revision > asked).find(|line| people::outcome(line).is_some());
    Ok(match line {
        Some(line) if people::outcome(&line) == Some(false) => {
            let (out_of_reach, over) = (line.event == people::OUT_OF_REACH, item.place == Place::Settled);
            Answer::GivenUp { why: line.why.unwrap_or_default(), out_of_reach, over }
        }
        _ => Answer::Done(Box::new(item)),
    })
}

enum Decided {
    Done(Box<Item>),
    Waits(Box<Item>),
    Refused(Refusal),
    Invalid(Vec<Problem>),
    Changed(u32),
    NoSuchItem,
}

async fn decide(tx: &mut Tx, ledger: &mut Ledger, id: ItemId, mut ask: Ask) -> Result<Decided, MirrorError> {
    let Some(item) = ledger.item(id).cloned() else { return Ok(Decided::NoSuchItem) };
    let definition = ledger.definition(&item.queue);
    let refused_before = was_refused(&item);
    let wishes = Wishes { payload: ask.payload.take(), priority: ask.priority.take(), delay: ask.delay };
    let carried = match &ask.order.verb {
        Verb::Requeue(_) if refused_before && wishes.payload.is_none() => requests::payload(tx, id).await?,
        _ => None,
    };
    let problems = complete(&definition, &item, &mut ask.order, &wishes, carried);
    let payload = wishes.payload;
    if !problems.is_empty() {
        return Ok(Decided::Invalid(problems));
    }
    let has_payload = requests::has_payload(tx, id).await?;
    let mut verdict = None;
    ledger.step(id, |item, _, moment| match people::order(item, &ask.order, has_payload, moment.now) {
        Verdict::Done(step) => {
            verdict = Some(Ok(true));
            Some(step)
        }
        Verdict::Recall(step) => {
            verdict = Some(Ok(false));
            Some(step)
        }
        Verdict::Refused(refusal) => {
            verdict = Some(Err(refusal));
            None
        }
    });
    let done = match verdict {
        Some(Ok(done)) => done,
        Some(Err(refusal)) => return Ok(Decided::Refused(refusal)),
        None => return Ok(Decided::NoSuchItem),
    };
    let Some(item) = ledger.item(id).cloned().map(Box::new) else { return Ok(Decided::NoSuchItem) };
    let admitted = refused_before && definition.unique && item.state == State::Queued;
    if let Some(reference) = item.reference.as_ref().filter(|_| admitted)
        && !requests::reserve_reference(tx, id).await?
    {
        let text = format!("reference '{reference}' belongs to another item by now");
        return Ok(Decided::Invalid(vec![Problem { code: "duplicate", text }]));
    }
    match &payload {
        Some((body, _)) if done => requests::replace_payload(tx, id, body).await?,
        Some((body, _)) => requests::keep_payload(tx, id, body).await?,
        None => {}
    }
    Ok(if done { Decided::Done(item) } else { Decided::Waits(item) })
}

/// What expired before the door was never checked; what expired behind it passes the check again.
pub(crate) fn was_refused(item: &Item) -> bool {
    item.attempt == 0
        && item.state.kind().is_some_and(|kind| matches!(kind, Kind::Invalid | Kind::Duplicate | Kind::Expired))
}

/// What is asked beside an order, its values not checked yet.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub payload: Option<(Vec<u8>, Option<String>)>,
    pub priority: Option<PriorityWish>,
    pub delay: Option<Duration>,
}

/// Checks an order as the door would, and completes its changes. `carried`: what an item carries that was refused and is to be
/// requeued as it is.
pub(crate) fn complete(
    definition: &QueueDefinition,
    item: &Item,
    order: &mut Order,
    wishes: &Wishes,
    carried: Option<Vec<u8>>,
) -> Vec<Problem> {
    match &mut order.verb {
        Verb::Edit(changes) => check(definition, item, changes, wishes.payload.as_ref(), wishes.priority.clone()),
        Verb::Requeue(changes) => {
            if let Some(delay) = wishes.delay {
                changes.not_before = now().checked_add(delay).ok().map(Some);
            }
            let mut problems = check(definition, item, changes, wishes.payload.as_ref(), wishes.priority.clone());
            // What the door refused is not let in behind its back.
            if let Some(body) = carried.filter(|_| was_refused(item) && wishes.payload.is_none()) {
                problems.extend(door::check(definition, &as_new(item, body)).1);
            }
            problems
        }
        _ => Vec::new(),
    }
}

/// Checks what is changed as the door would, and completes the changes.
fn check(
    definition: &QueueDefinition,
    item: &Item,
    changes: &mut Changes,
    payload: Option<&(Vec<u8>, Option<String>)>,
    priority: Option<PriorityWish>,
) -> Vec<Problem> {
    let wished = priority.is_some();
    let mut new = NewItem { priority, name: changes.name.clone().flatten(), ..NewItem::default() };
    if let Some((body, content_type)) = payload {
        (new.payload, new.content_type) = (body.clone(), content_type.clone());
        changes.content = Some(Content {
            size: body.len() as u64,
            hash: door::content_hash(body),
            content_type: content_type.clone().or_else(|| item.content_type.clone()),
        });
    }
    let (level, mut problems) = door::check(definition, &new);
    if payload.is_none() {
        problems.retain(|problem| matches!(problem.code, "priority" | "header"));
    }
    changes.priority = wished.then_some(level);
    problems
}

fn as_new(item: &Item, payload: Vec<u8>) -> NewItem {
    NewItem { payload, content_type: item.content_type.clone(), ..NewItem::default() }
}
