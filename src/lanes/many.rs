//! Many items at once over HTTP, by the same door as one.
//!
//! Order of effects, per batch of some hundred rows:
//! 1. check each row as the door checks one (nothing is written);
//! 2. decide over all of them in order, each seeing those before it, and commit what follows in one transaction;
//! 3. wake dispatch, timers and events; the next batch is read.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | 1 | the batches before, whole | the caller has no answer and sends again: under `unique`, or while the first are open, the same reference and content is the same item |
//! | 2 (`many.committed`) | this batch too | as above; all that would have been woken looks for itself when it starts |
//!
//! Under an idempotency key the answer is kept in the transaction of the batch; a request that has one is one batch.
//!
//! All or nothing is one batch. A rehearsal is decided over like the rest, beside the writer, and not written; it carries along
//! what it would have admitted, so that later batches meet it.

use std::sync::Arc;

use super::intake::{self, Candidate, Refusals, Said, judge_all, remembered};
use super::now;
use crate::definition::QueueDefinition;
use crate::failpoint;
use crate::item::door::{Arrival, Known, NewItem};
use crate::item::{Item, ItemId, Kind};
use crate::mirror::keys::{self, Told};
use crate::mirror::{Mirror, MirrorError, Tx};

/// Rows of one transaction.
pub const BATCH_ROWS: usize = 500;

/// Bytes of rows that close a batch early.
pub const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Rows that a rehearsal remembers at most: those with a reference, without repetitions.
pub const MOST_REHEARSED: usize = 100_000;

/// What becomes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terms {
    /// Each row by itself.
    Each,
    /// Nothing where one is refused.
    AllOrNothing,
    /// Nothing in any case.
    Rehearsal,
}

/// What the door said to one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A new item.
    Created(ItemId),
    /// This one is, or was, there already.
    Same(ItemId),
    Refused {
        kind: Kind,
        code: &'static str,
        reasons: Vec<String>,
    },
}

/// What a rehearsal would have admitted.
#[derive(Debug, Default)]
pub struct Rehearsed(intake::Rehearsed);

impl Rehearsed {
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Puts rows through the checks and, as `terms` say, into the mirror, in one transaction. Refusals are answered and not
/// kept. `by` is who sends them. What `tell` makes of the verdicts is kept as the answer under the request's idempotency key, where it has one.
///
/// # Errors
/// Where the mirror cannot be written; then nothing of it is kept.
pub async fn enqueue(
    mirror: &Mirror,
    definition: &Arc<QueueDefinition>,
    rows: Vec<NewItem>,
    by: &str,
    terms: Terms,
    rehearsed: Rehearsed,
    tell: impl FnOnce(&[Verdict]) -> Option<Told> + Send + 'static,
) -> Result<(Vec<Verdict>, Rehearsed), MirrorError> {
    let mark = keys::current();
    let candidates: Vec<Candidate> = rows
        .into_iter()
        .map(|new| {
            let arrival = Arrival { new, producer: Some(by.to_owned()), ..Arrival::default() };
            Candidate::new(Arc::clone(definition), Arc::new(arrival))
        })
        .collect();
    if terms == Terms::Rehearsal {
        let unique = definition.unique;
        return mirror
            .look(move |tx: &mut Tx| Box::pin(async move { rehearse(tx, &candidates, unique, rehearsed).await }))
            .await;
    }
    let verdicts = mirror
        .write(move |tx: &mut Tx| {
            Box::pin(async move {
                let (verdicts, kept) = decide(tx, &candidates, terms).await?;
                if let (Some(mark), true) = (mark, kept)
                    && let Some(told) = tell(&verdicts)
                {
                    keys::keep(tx, &mark, &told).await?;
                }
                Ok(verdicts)
            })
        })
        .await?;
    failpoint::reach("many.committed").await;
    Ok((verdicts, Rehearsed::default()))
}

/// Also whether something of it is kept.
async fn decide(tx: &mut Tx, candidates: &[Candidate], terms: Terms) -> Result<(Vec<Verdict>, bool), MirrorError> {
    let mut verdicts = Vec::with_capacity(candidates.len());
    let nothing = intake::Rehearsed::default();
    let book = judge_all(tx, candidates, Refusals::Drop, &nothing, now(), |said| verdicts.push(said.into())).await?;
    let refused = verdicts.iter().any(|verdict| matches!(verdict, Verdict::Refused { .. }));
    let kept = terms == Terms::Each || !refused;
    if kept {
        // What is refused here is not kept, so nothing chains.
        book.write(tx).await?;
    }
    Ok((verdicts, kept))
}

async fn rehearse(
    tx: &mut Tx,
    candidates: &[Candidate],
    unique: bool,
    mut rehearsed: Rehearsed,
) -> Result<(Vec<Verdict>, Rehearsed), MirrorError> {
    let mut verdicts = Vec::with_capacity(candidates.len());
    let mut admitted = Vec::new();
    judge_all(tx, candidates, Refusals::Drop, &rehearsed.0, now(), |said| {
        if let Said::Admitted(item) = &said {
            admitted.extend(known(item, unique));
        }
        verdicts.push(said.into());
    })
    .await?;
    rehearsed.0.extend(admitted);
    Ok((verdicts, rehearsed))
}

fn known(item: &Item, unique: bool) -> Option<((String, String), Known)> {
    let content_hash = item.content_hash.as_deref().unwrap_or_default();
    Some((remembered(unique, item.reference.as_deref()?, content_hash), Known::of(item)))
}

impl From<Said<'_>> for Verdict {
    fn from(said: Said<'_>) -> Self {
        match said {
            Said::Admitted(item) => Self::Created(item.id),
            Said::Same(item) => Self::Same(item.id),
            Said::Gone(spent) => Self::Same(spent.item),
            Said::Refused(kind, problems) => Self::Refused {
                kind,
                code: problems.first().map_or("refused", |problem| problem.code),
                reasons: problems.into_iter().map(|problem| problem.text).collect(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        _folder: tempfile::TempDir,
        mirror: Mirror,
        definition: Arc<QueueDefinition>,
    }

    async fn bench(unique: bool) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(&format!("sqlite://{}/m.db", folder.path().display())).await.unwrap();
        let definition = Arc::new(QueueDefinition { unique, ..QueueDefinition::with_defaults("q") });
        Bench { _folder: folder, mirror, definition }
    }

    impl Bench {
        /// Rows as `reference=payload`, told as `created`, `same`, or the code.
        async fn send(&self, rows: &[&str], terms: Terms, rehearsed: Rehearsed) -> (Vec<String>, Rehearsed) {
            let rows = rows.iter().map(|row| {
                let (reference, payload) = row.split_once('=').unwrap();
                NewItem {
                    payload: payload.as_bytes().to_vec(),
                    content_type: Some("application/json".to_owned()),
                    reference: (!reference.is_empty()).then(|| reference.to_owned()),
                    ..NewItem::default()
                }
            });
            let sent = enqueue(&self.mirror, &self.definition, rows.collect(), "t", terms, rehearsed, |_| None).await;
            let (verdicts, rehearsed) = sent.unwrap();
            let told = verdicts.into_iter().map(|verdict| match verdict {
                Verdict::Created(_) => "created".to_owned(),
                Verdict::Same(_) => "same".to_owned(),
                Verdict::Refused { code, .. } => code.to_owned(),
            });
            (told.collect(), rehearsed)
        }

        async fn kept(&self) -> u64 {
            self.mirror.counts().await.unwrap().get("q").map_or(0, |counts| counts.queued)
        }
    }

    #[tokio::test]
    async fn rows_of_a_batch_meet_each_other_and_what_is_there() {
        for (unique, last) in [(true, "duplicate"), (false, "created")] {
            let bench = bench(unique).await;
            let rows = ["a=1", "a=1", "a=2", "=1", "=1", "b={"];
            let (told, _) = bench.send(&rows, Terms::Each, Rehearsed::default()).await;
            assert_eq!(told, ["created", "same", last, "created", "created", "json"]);
            let (told, _) = bench.send(&["a=1", "b=1"], Terms::Each, Rehearsed::default()).await;
            assert_eq!(told, ["same", "created"]);
            assert_eq!(bench.kept().await, if unique { 4 } else { 5 });
        }
    }

    #[tokio::test]
    async fn all_or_nothing_keeps_nothing_where_one_is_refused() {
        let bench = bench(true).await;
        let (told, _) = bench.send(&["a=1", "a=2"], Terms::AllOrNothing, Rehearsed::default()).await;
        assert_eq!(told, ["created", "duplicate"]);
        assert_eq!(bench.kept().await, 0);
        let (told, _) = bench.send(&["a=1", "b=2"], Terms::AllOrNothing, Rehearsed::default()).await;
        assert_eq!(told, ["created", "created"]);
        assert_eq!(bench.kept().await, 2);
    }

    #[tokio::test]
    async fn a_rehearsal_says_what_the_real_thing_would_and_keeps_nothing() {
        for unique in [true, false] {
            let bench = bench(unique).await;
            let batches: [&[&str]; 2] = [&["a=1", "b=1", "=1"], &["a=1", "b=2", "b=1", "c={"]];
            let mut rehearsed = Rehearsed::default();
            let mut said = Vec::new();
            for batch in batches {
                let (told, seen) = bench.send(batch, Terms::Rehearsal, rehearsed).await;
                rehearsed = seen;
                said.extend(told);
            }
            assert_eq!(bench.kept().await, 0);
            let mut done = Vec::new();
            for batch in batches {
                done.extend(bench.send(batch, Terms::Each, Rehearsed::default()).await.0);
            }
            assert_eq!(said, done, "unique: {unique}");
        }
    }

    #[tokio::test]
    async fn a_rehearsal_counts_what_it_remembers_and_waits_for_no_writer() {
        let bench = bench(false).await;
        let (begun, hold) = (tokio::sync::oneshot::channel(), tokio::sync::oneshot::channel::<()>());
        let mirror = bench.mirror.clone();
        let writer = tokio::spawn(async move {
            let work = mirror.write(move |_| {
                Box::pin(async move {
                    let _ = begun.0.send(());
                    let _ = hold.1.await;
                    Ok(())
                })
            });
            work.await
        });
        begun.1.await.unwrap();
        let rows: Vec<String> = (0..1000).map(|n| format!("vendor={}", n % 900)).collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        let sent = bench.send(&rows, Terms::Rehearsal, Rehearsed::default());
        let (told, rehearsed) = tokio::time::timeout(std::time::Duration::from_secs(60), sent).await.unwrap();
        assert_eq!(told.iter().filter(|told| *told == "same").count(), 100);
        assert_eq!(rehearsed.len(), 900);
        let (told, rehearsed) = bench.send(&["vendor=899", "vendor=900"], Terms::Rehearsal, rehearsed).await;
        assert_eq!((told, rehearsed.len()), (vec!["same".to_owned(), "created".to_owned()], 901));
        drop(hold.0);
        writer.await.unwrap().unwrap();
    }
}
