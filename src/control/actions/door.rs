//! What people ask of jobs: begin one, run what was previewed, cancel, resume, undo. Each is committed before it is answered.

use std::collections::HashSet;

use serde_json::json;

use super::tell_end;
use crate::failpoint;
use crate::item::ItemId;
use crate::item::action::{Deed, Phase, Preview, Tally, Wish};
use crate::item::ramp::{Ramp, Rate};
use crate::lanes::{Wakes, now};
use crate::mirror::actions::{self, Job, Source};
use crate::mirror::audit::{self, Actor, Entry};
use crate::mirror::{ItemFilter, Mirror, MirrorError, Tx};
use crate::who::Pattern;

/// Ids taken in together.
const CHUNK: usize = 1_000;

/// What somebody asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The job's identity, made by the caller's clock and chance.
    pub id: String,
    pub actor: Actor,
    pub wish: Wish,
    pub set: Set,
    /// Patterns of the queues that who asks may touch; `None`: all.
    pub scope: Option<Vec<String>>,
    pub dry_run: bool,
    pub rate: Option<Rate>,
    pub ramp: Option<Ramp>,
}

/// Which items it is about.
#[derive(Debug, Clone)]
pub enum Set {
    Ids(Vec<ItemId>),
    Filter(ItemFilter),
}

/// Why it cannot be asked of a job.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such action")]
    NoSuchJob,
    #[error("{0}")]
    WrongState(String),
    #[error(transparent)]
    Mirror(#[from] MirrorError),
}

/// The queues that a job may touch; `None`: all.
pub(super) struct Scope(Option<Vec<Pattern>>);

impl Scope {
    pub(super) fn of(job: &Job) -> Self {
        let read = |patterns: &Vec<String>| patterns.iter().filter_map(|pattern| pattern.parse().ok()).collect();
        Self(job.scope.as_ref().map(read))
    }

    pub(super) fn has(&self, queue: &str) -> bool {
        self.0.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(queue)))
    }
}

/// Begins a job.
///
/// # Errors
/// Where the mirror cannot be written.
pub async fn begin(mirror: &Mirror, wakes: &Wakes, asked: Asked) -> Result<Job, MirrorError> {
    let Asked { id, actor, wish, set, scope, dry_run, rate, ramp } = asked;
    let (source, phase, ids) = match set {
        Set::Filter(filter) => (Source::Filter(filter), Phase::Collecting, Vec::new()),
        Set::Ids(ids) => {
            let mut seen = HashSet::new();
            let ids: Vec<ItemId> = ids.into_iter().filter(|id| seen.insert(*id)).collect();
            (Source::Ids(ids.len() as u64), Phase::Receiving, ids)
        }
    };
    let job = Job { scope, dry_run, rate, ramp, ..new(id, actor.who.clone(), wish, source, phase) };
    if job.phase == Phase::Collecting {
        // It may act from its first commit on, so everything that is to be known of it is in that.
        let begun = mirror.write(move |tx: &mut Tx| Box::pin(insert(tx, job, actor, "action.begin")));
        return Ok(told(wakes, begun.await?).await);
    }
    let seq = mirror.write(move |tx: &mut Tx| Box::pin(async move { actions::insert(tx, &job).await })).await?;
    let mut unknown = 0;
    for chunk in ids.chunks(CHUNK) {
        let (chunk, first) = (chunk.to_vec(), -1 - unknown);
        unknown += mirror.write(move |tx: &mut Tx| Box::pin(receive(tx, seq, chunk, first))).await?;
        failpoint::reach("actions.receiving").await;
    }
    let begun = mirror.write(move |tx: &mut Tx| {
        Box::pin(async move {
            let mut job = known(actions::by_seq(tx, seq).await?)?;
            if job.phase == Phase::Receiving {
                job.phase = if job.dry_run { Phase::Previewing } else { Phase::Running };
                let not_found =
                    Tally { total: job.tally.not_found, not_found: job.tally.not_found, ..Tally::default() };
                job.preview = job.dry_run.then(|| Preview { would: not_found, ..Preview::default() });
                actions::save(tx, &job).await?;
            }
            note(tx, actor, "action.begin", &job).await?;
            Ok(job)
        })
    });
    Ok(told(wakes, begun.await?).await)
}

/// Adds a job, and notes who asked.
async fn insert(tx: &mut Tx, job: Job, actor: Actor, action: &'static str) -> Result<Job, MirrorError> {
    let seq = actions::insert(tx, &job).await?;
    note(tx, actor, action, &job).await?;
    known(actions::by_seq(tx, seq).await?)
}

/// A job is begun.
async fn told(wakes: &Wakes, job: Job) -> Job {
    failpoint::reach("actions.begun").await;
    wakes.actions.notify_one();
    job
}

fn new(id: String, who: String, wish: Wish, source: Source, phase: Phase) -> Job {
    Job {
        seq: 0,
        id,
        at: now(),
        who,
        phase,
        wish,
        source,
        scope: None,
        dry_run: false,
        up_to: 0,
        collected: 0,
        acted: 0,
        tally: Tally::default(),
        kept: 0,
        rate: None,
        ramp: None,
        next_at: None,
        stopped: None,
        preview: None,
        undone_by: None,
        ended_at: None,
    }
}

/// What was asked of a job, for the audit log.
async fn note(tx: &mut Tx, actor: Actor, action: &'static str, job: &Job) -> Result<(), MirrorError> {
    let detail = json!({ "action": job.wish.deed.word(), "source": job.source, "dry_run": job.dry_run });
    let entry = Entry { at: now(), actor, action, target: Some(job.id.clone()), outcome: "done", detail };
    audit::append(tx, &entry).await
}

fn known(job: Option<Job>) -> Result<Job, MirrorError> {
    job.ok_or_else(|| MirrorError::Unreadable("a job that was there a moment ago is gone".to_owned()))
}

/// Takes some ids in. Answers how many of them nothing is known of.
async fn receive(tx: &mut Tx, seq: i64, ids: Vec<ItemId>, first: i64) -> Result<i64, MirrorError> {
    let mut job = known(actions::by_seq(tx, seq).await?)?;
    let found = actions::find(tx, &ids).await?;
    // What somebody may not touch is not there for them.
    let scope = Scope::of(&job);
    let found: Vec<_> = found.into_iter().filter(|item| scope.has(&item.queue)).collect();
    let there: HashSet<ItemId> = found.iter().map(|item| item.id).collect();
    let unknown: Vec<ItemId> = ids.into_iter().filter(|id| !there.contains(id)).collect();
    let set: Vec<(i64, ItemId)> = found.iter().map(|item| (item.seq, item.id)).collect();
    actions::add(tx, seq, &set).await?;
    actions::add_unknown(tx, seq, first, &unknown, now()).await?;
    job.tally.total += (set.len() + unknown.len()) as u64;
    job.tally.not_found += unknown.len() as u64;
    actions::save(tx, &job).await?;
    Ok(i64::try_from(unknown.len()).unwrap_or(i64::MAX))
}

/// Changes a job where `change` lets it. Answers it as it is then.
async fn change(
    mirror: &Mirror,
    wakes: &Wakes,
    id: &str,
    (actor, word): (Actor, &'static str),
    change: impl FnOnce(&mut Job) -> Result<(), String> + Send + 'static,
) -> Result<Job, Refusal> {
    let id = id.to_owned();
    let changed = mirror.write(move |tx: &mut Tx| {
        Box::pin(async move {
            let Some(mut job) = actions::by_id(tx, &id).await? else { return Ok(Err(Refusal::NoSuchJob)) };
            if let Err(why) = change(&mut job) {
                return Ok(Err(Refusal::WrongState(why)));
            }
            if let (Phase::Running, true, Source::Undo(of)) = (job.phase, job.dry_run, &job.source) {
                let Some(mut former) = actions::by_id(tx, of).await? else { return Ok(Err(Refusal::NoSuchJob)) };
                if former.undone_by.as_ref() != Some(&job.id) {
                    if let Err(why) = may_be_undone(&former) {
                        return Ok(Err(Refusal::WrongState(format!("the action {of} that it takes back: {why}"))));
                    }
                    former.undone_by = Some(job.id.clone());
                    actions::save(tx, &former).await?;
                }
            }
            actions::save(tx, &job).await?;
            note(tx, actor, word, &job).await?;
            if job.phase == Phase::Cancelled {
                give_back(tx, &job).await?;
                tell_end(tx, &job, now()).await?;
            }
            Ok(Ok(job))
        })
    });
    let job = changed.await??;
    failpoint::reach("actions.changed").await;
    wakes.actions.notify_one();
    wakes.events.notify_one();
    Ok(job)
}

/// Acts on exactly the items that a dry run looked at.
///
/// # Errors
/// [`Refusal`].
pub async fn run(mirror: &Mirror, wakes: &Wakes, id: &str, actor: Actor) -> Result<Job, Refusal> {
    change(mirror, wakes, id, (actor, "action.run"), |job| {
        if job.phase != Phase::Previewed {
            return Err(format!("it is {}; only a dry run that is over can be run", job.phase));
        }
        (job.phase, job.acted, job.next_at, job.ended_at) = (Phase::Running, 0, None, None);
        Ok(())
    })
    .await
}

/// Ends a job. What was done stays; requests that wait go on.
///
/// # Errors
/// [`Refusal`].
pub async fn cancel(mirror: &Mirror, wakes: &Wakes, id: &str, actor: Actor) -> Result<Job, Refusal> {
    change(mirror, wakes, id, (actor, "action.cancel"), |job| {
        if job.is_over() {
            return Err(format!("it is {} already", job.phase));
        }
        (job.phase, job.next_at, job.ended_at) = (Phase::Cancelled, None, Some(now()));
        Ok(())
    })
    .await
}

/// Lets a job go on that stopped: with the next items, in a step as large as the one that stopped it.
///
/// # Errors
/// [`Refusal`].
pub async fn resume(mirror: &Mirror, wakes: &Wakes, id: &str, actor: Actor) -> Result<Job, Refusal> {
    change(mirror, wakes, id, (actor, "action.resume"), |job| {
        if job.phase != Phase::Stopped {
            return Err(format!("it is {}; only one that is stopped can be resumed", job.phase));
        }
        if let Some(by) = &job.undone_by {
            return Err(format!("it is undone by action {by}"));
        }
        (job.phase, job.next_at, job.stopped, job.ended_at) = (Phase::Running, None, None, None);
        let acted = job.acted;
        if let Some(ramp) = &mut job.ramp {
            ramp.again(acted);
        }
        Ok(())
    })
    .await
}

/// Begins a job that takes back what another one did.
///
/// # Errors
/// [`Refusal`].
pub async fn undo(mirror: &Mirror, wakes: &Wakes, of: &str, asked: Asked) -> Result<Job, Refusal> {
    let of = of.to_owned();
    let begun = mirror.write(move |tx: &mut Tx| {
        Box::pin(async move {
            let Some(mut former) = actions::by_id(tx, &of).await? else { return Ok(Err(Refusal::NoSuchJob)) };
            if let Err(why) = may_be_undone(&former) {
                return Ok(Err(Refusal::WrongState(why)));
            }
            let Asked { id, actor, wish, scope, dry_run, rate, .. } = asked;
            let job = Job {
                scope,
                dry_run,
                rate,
                ..new(id.clone(), actor.who.clone(), wish, Source::Undo(of), Phase::Collecting)
            };
            if !dry_run {
                former.undone_by = Some(id);
                actions::save(tx, &former).await?;
            }
            Ok(Ok(insert(tx, job, actor, "action.undo").await?))
        })
    });
    Ok(told(wakes, begun.await??).await)
}

/// An undo that is over before it is through leaves its job to another one. What it took back has changed since, for that.
pub(super) async fn give_back(tx: &mut Tx, job: &Job) -> Result<(), MirrorError> {
    let Source::Undo(of) = &job.source else { return Ok(()) };
    match actions::by_id(tx, of).await? {
        Some(former) if former.undone_by.as_ref() == Some(&job.id) => {
            actions::save(tx, &Job { undone_by: None, ..former }).await
        }
        _ => Ok(()),
    }
}

fn may_be_undone(job: &Job) -> Result<(), String> {
    if !matches!(job.phase, Phase::Done | Phase::Cancelled | Phase::Stopped) {
        return Err(format!("it is {}; cancel it first, or wait until it is done", job.phase));
    }
    if job.tally.waiting > 0 {
        return Err(format!("{} of its items still wait for their messages", job.tally.waiting));
    }
    match &job.undone_by {
        Some(by) => Err(format!("it is undone by action {by} already")),
        None => Ok(()),
    }
}

/// The wish of an undo.
#[must_use]
pub fn wish_to_undo(why: Option<String>) -> Wish {
    Wish { why, ..Wish::of(Deed::Undo) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_touched() {
        let wish = Wish::of(Deed::Hold);
        let job = new("1".to_owned(), "ann".to_owned(), wish, Source::Ids(1), Phase::Running);
        let scope = |patterns: &[&str]| Some(patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>());
        for (patterns, queue, expected) in [
            (None, "a", true),
            (scope(&[]), "a", false),
            (scope(&["a"]), "a", true),
            (scope(&["a"]), "ab", false),
            (scope(&["a*"]), "ab", true),
            (scope(&["*"]), "ab", true),
            (scope(&["x", "ab"]), "ab", true),
        ] {
            let job = Job { scope: patterns, ..job.clone() };
            assert_eq!(Scope::of(&job).has(queue), expected, "{:?} {queue}", job.scope);
        }
    }
}
