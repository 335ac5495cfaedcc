//! A batch of a job: its next items decided over, and written with their results, in one transaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::door::Scope;
use super::try_one::{Carried, Go, Plan, Queue, Tried, try_one};
use super::{left_alone, tell_end};
use crate::definition::Definitions;
use crate::failpoint;
use crate::item::action::{Deed, Former, Outcome, Phase, Sample, Way, cut};
use crate::item::lifecycle::people::{self, Verdict};
use crate::item::ramp::{self, Look};
use crate::item::request::Verb;
use crate::item::{Item, ItemId, State, Timestamp};
use crate::lanes::ledger::{Ledger, Written};
use crate::lanes::{self, Context, orders};
use crate::mirror::actions::{self, Job, Left, Source, Told};
use crate::mirror::{MirrorError, Tx, chained, items, requests};

/// Bytes of one batch: of payloads as they are, of what is to become of them and of what does. The first item goes even if it
/// alone has more.
const BYTES: u64 = 4 * 1024 * 1024;

/// How long items are tried in one batch. The one writer does nothing else meanwhile.
const LONGEST: Duration = Duration::from_millis(200);

/// Items of a step that are looked at, the last of them.
const LOOKED_AT: u32 = 2_500;

/// How often a step of a ramp is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The largest former payload that is kept, and how many bytes of them of one job.
const LARGEST_FORMER: usize = 1024 * 1024;
const MOST_FORMER: u64 = 256 * 1024 * 1024;

/// Characters of the reasons that a result keeps.
const LONGEST_REASON: usize = 2_000;

/// Runs the next batch of a job.
pub(super) async fn run(context: &Context, seq: i64) -> Result<(), MirrorError> {
    let definitions = context.definitions();
    let done = context.mirror.write(move |tx: &mut Tx| Box::pin(act(tx, definitions, seq))).await?;
    failpoint::reach("actions.acted").await;
    if let Some(written) = done.written {
        written.wake(&context.wakes);
    }
    if done.asked {
        context.wakes.recall.notify_one();
    }
    if done.ended {
        context.wakes.events.notify_one();
    }
    Ok(())
}

/// What a batch leaves to be woken.
#[derive(Default)]
struct Done {
    written: Option<Written>,
    /// Dispatched items were asked for.
    asked: bool,
    ended: bool,
}

async fn act(tx: &mut Tx, definitions: Arc<Definitions>, seq: i64) -> Result<Done, MirrorError> {
    let Some(mut job) = actions::by_seq(tx, seq).await? else { return Ok(Done::default()) };
    // Somebody may have ended it since it was looked up.
    if !matches!(job.phase, Phase::Previewing | Phase::Running) {
        return Ok(Done::default());
    }
    let dry = job.phase == Phase::Previewing;
    let mut ledger = Ledger::of(&definitions, Vec::new());
    let now = ledger.moment().now;
    job.next_at = None;
    if !dry && let Some(end) = look(tx, &mut job, now).await? {
        actions::save(tx, &job).await?;
        return Ok(end);
    }
    let limit = if dry { ramp::BATCH } else { ramp::batch(job.rate, job.ramp.as_ref()) };
    let mut set = actions::next(tx, seq, job.acted, limit).await?;
    if set.is_empty() {
        let ended = finish(tx, &mut job, now).await?;
        return Ok(Done { ended, ..Done::default() });
    }
    let ids: HashSet<ItemId> = set.iter().map(|(_, id)| *id).collect();
    ledger.take_in(items::by_id(tx, &ids).await?);
    let plan = Plan::of(job.wish.clone(), job.who.clone(), job.id.clone(), dry).map_err(MirrorError::Unreadable)?;
    let mut known = load(tx, &job, &ledger, &plan, &mut set).await?;
    let scope = Scope::of(&job);

    let mut batch = Batch::default();
    let mut bytes = 0;
    for (number, id) in &set {
        let took = u128::try_from(lanes::now().duration_since(now).as_millis()).unwrap_or_default();
        if !batch.told.is_empty() && (bytes > BYTES || took >= LONGEST.as_millis()) {
            break;
        }
        let mut carried = known.remove(id).unwrap_or_default();
        let Some(item) = ledger.item(*id) else {
            let gone = Some("it is not kept any more".to_owned());
            batch.told.push(left_alone(*number, Outcome::NotFound, None, gone, None));
            continue;
        };
        if !scope.has(&item.queue) {
            let why = Some(format!("{} may not touch items of '{}'", job.who, item.queue));
            batch.told.push(left_alone(*number, Outcome::Refused, Some("forbidden"), why, Some(item.revision)));
            continue;
        }
        let definition = ledger.definition(&item.queue);
        if let (Source::Undo(of), Some(Left { kept: Some(_), .. })) = (&job.source, &carried.left) {
            carried.former = actions::former_body(tx, of, *number).await?;
        }
        let queue = Queue { definition: &definition, is_defined: ledger.is_defined(&item.queue) };
        let tried = try_one(item, &queue, &plan, &carried, now);
        bytes += tried.made as u64;
        if dry {
            batch.told.push(told_of(*number, item, &tried));
            let sample = sample(item, tried);
            job.preview.get_or_insert_default().add(sample);
            continue;
        }
        let mut told = told_of(*number, item, &tried);
        if let Some(go) = tried.go {
            let reserves = matches!(go.order.verb, Verb::Requeue(_)) && definition.unique && orders::was_refused(item);
            if reserves && item.reference.is_some() && !requests::reserve_reference(tx, *id).await? {
                let reason = "its reference belongs to another item by now".to_owned();
                batch.told.push(Told {
                    outcome: Outcome::Invalid,
                    code: Some("duplicate"),
                    reason: Some(reason),
                    ..told
                });
                continue;
            }
            told.failed = item.fingerprint.clone().filter(|_| matches!(item.state, State::Exception(_)));
            batch.carry_out(tx, &mut ledger, &mut job, (*number, *id), go, carried).await?;
            told.after = ledger.item(*id).map(|item| item.revision);
        }
        batch.told.push(told);
    }
    set.truncate(batch.told.len());
    write(tx, job, ledger, batch, set, now).await
}

/// Whether the ramp lets anything go now. Answers what is left where it does not.
async fn look(tx: &mut Tx, job: &mut Job, now: Timestamp) -> Result<Option<Done>, MirrorError> {
    let Some(ramp) = job.ramp.as_mut().filter(|ramp| ramp.has_to_look()) else { return Ok(None) };
    let seen = actions::seen(tx, job.seq, ramp.from, job.acted, LOOKED_AT).await?;
    match ramp.look(&seen, now) {
        Look::GoOn if ramp.is_rest() => Ok(None),
        Look::GoOn => {
            ramp.next(job.acted);
            Ok(None)
        }
        Look::Wait => {
            job.next_at = now.checked_add(LOOK_AGAIN).ok();
            Ok(Some(Done::default()))
        }
        Look::Stop(stop) => {
            (job.phase, job.stopped, job.ended_at) = (Phase::Stopped, Some(stop), Some(now));
            tell_end(tx, job, now).await?;
            Ok(Some(Done { ended: true, ..Done::default() }))
        }
    }
}

/// Everything was acted on. It is over once nothing waits any more; answers whether.
async fn finish(tx: &mut Tx, job: &mut Job, now: Timestamp) -> Result<bool, MirrorError> {
    if job.phase == Phase::Previewing {
        (job.phase, job.ended_at) = (Phase::Previewed, Some(now));
    } else if job.tally.waiting > 0 {
        // It is settled once they do not.
        job.next_at = now.checked_add(super::LONGEST).ok();
    } else {
        (job.phase, job.ended_at) = (Phase::Done, Some(now));
        tell_end(tx, job, now).await?;
    }
    actions::save(tx, job).await?;
    Ok(job.phase == Phase::Done)
}

/// Loads what is to be known of a batch's items beside their rows, and leaves out of the set what would be too many bytes.
async fn load(
    tx: &mut Tx,
    job: &Job,
    ledger: &Ledger,
    plan: &Plan,
    set: &mut Vec<(i64, ItemId)>,
) -> Result<HashMap<ItemId, Carried>, MirrorError> {
    let mut left: HashMap<i64, Left> = match (&job.source, set.first(), set.last()) {
        (Source::Undo(of), Some((first, _)), Some((last, _))) => actions::former(tx, of, *first, *last).await?,
        _ => HashMap::new(),
    };
    let takes_body = |item: &Item, number: &i64| match job.wish.deed {
        Deed::Edit => job.wish.touches_payload(),
        Deed::Requeue => job.wish.touches_payload() || orders::was_refused(item),
        Deed::Undo => left.get(number).is_some_and(|left| matches!(left.former.way, Way::Edit { payload: true, .. })),
        _ => false,
    };
    let (mut bytes, mut bodies, mut kept) = (0, Vec::new(), 0);
    for (number, id) in set.iter() {
        if let Some(item) = ledger.item(*id).filter(|item| takes_body(item, number)) {
            let former = left.get(number).and_then(|left| left.kept);
            bytes += item.size.unwrap_or_default() + plan.size() + former.unwrap_or_default();
            if bytes > BYTES && kept > 0 {
                break;
            }
            bodies.push(*id);
        }
        kept += 1;
    }
    set.truncate(kept);
    let ids: Vec<ItemId> = set.iter().map(|(_, id)| *id).collect();
    let has = match job.wish.deed {
        Deed::Release | Deed::Requeue | Deed::Undo => actions::with_payload(tx, &ids).await?,
        _ => HashSet::new(),
    };
    let mut payloads = if bodies.is_empty() { HashMap::new() } else { chained::payloads(tx, &bodies).await? };
    let carried = set.iter().map(|(number, id)| {
        let (body, left) = (payloads.remove(id), left.remove(number));
        let carried = Carried { has: has.contains(id), body, left, former: None };
        (*id, carried)
    });
    Ok(carried.collect())
}

/// What a batch writes beside the ledger.
#[derive(Default)]
struct Batch {
    told: Vec<Told>,
    payloads: Vec<(ItemId, Vec<u8>)>,
    former: Vec<(i64, Former, Option<Vec<u8>>)>,
}

impl Batch {
    async fn carry_out(
        &mut self,
        tx: &mut Tx,
        ledger: &mut Ledger,
        job: &mut Job,
        (number, id): (i64, ItemId),
        go: Go,
        carried: Carried,
    ) -> Result<(), MirrorError> {
        let Go { order, payload, former, has_payload } = go;
        let mut waits = false;
        ledger.step(id, |item, _, moment| match people::order(item, &order, has_payload, moment.now) {
            Verdict::Done(step) => Some(step),
            Verdict::Recall(step) => {
                waits = true;
                Some(step)
            }
            // It was tried a moment ago, on a copy of the same item.
            Verdict::Refused(_) => None,
        });
        // Nothing else is taken back by a payload.
        let is_edit = matches!(former.way, Way::Edit { .. });
        let body = match (&payload, carried.body) {
            (Some(_), Some(body)) if is_edit => {
                let fits = body.len() <= LARGEST_FORMER && job.kept + body.len() as u64 <= MOST_FORMER;
                Some(body).filter(|_| fits)
            }
            _ => None,
        };
        job.kept += body.as_ref().map_or(0, |body| body.len() as u64);
        self.former.push((number, former, body));
        match payload {
            Some(body) if waits => requests::keep_payload(tx, id, &body).await?,
            Some(body) => self.payloads.push((id, body)),
            None => {}
        }
        Ok(())
    }
}

async fn write(
    tx: &mut Tx,
    mut job: Job,
    ledger: Ledger,
    batch: Batch,
    set: Vec<(i64, ItemId)>,
    now: Timestamp,
) -> Result<Done, MirrorError> {
    let went = u32::try_from(set.len()).unwrap_or(u32::MAX);
    job.acted = set.last().map_or(job.acted, |(number, _)| *number);
    if job.phase == Phase::Previewing {
        actions::foretell(tx, job.seq, &batch.told, now).await?;
        actions::save(tx, &job).await?;
        return Ok(Done::default());
    }
    let written = ledger.write(tx).await?;
    actions::replace_payloads(tx, &batch.payloads).await?;
    actions::keep_former(tx, job.seq, &batch.former).await?;
    actions::tell(tx, job.seq, &batch.told, now).await?;
    for told in &batch.told {
        *job.tally.of(told.outcome) += 1;
    }
    if let Some(ramp) = &mut job.ramp {
        ramp.went(went, now);
    }
    job.next_at = job.rate.and_then(|rate| now.checked_add(rate.wait(went)).ok());
    actions::save(tx, &job).await?;
    let asked = batch.told.iter().any(|told| told.outcome == Outcome::Waiting);
    Ok(Done { written: Some(written), asked, ended: false })
}

fn told_of(seq: i64, item: &Item, tried: &Tried) -> Told {
    let reason = (!tried.reasons.is_empty()).then(|| cut(tried.reasons.join("; "), LONGEST_REASON));
    left_alone(seq, tried.outcome, tried.code, reason, Some(item.revision))
}

fn sample(item: &Item, tried: Tried) -> Sample {
    let Tried { outcome, code, reasons, diff, .. } = tried;
    Sample {
        item: item.id.to_string(),
        queue: item.queue.clone(),
        reference: item.reference.clone(),
        state: item.state.to_string(),
        would: outcome,
        code: code.map(str::to_owned),
        reasons,
        diff,
    }
}
