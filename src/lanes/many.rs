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
//! A batch that is named by a key is noted with its verdicts in the same transaction. The same batch under the same key is answered
//! from that note, for [`uploads::KEPT`].
//!
//! All or nothing is one batch. A rehearsal is decided over like the rest and not written; it carries along what it would have
//! admitted, so that later batches meet it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::intake::{Candidate, Refusals, Said, judge_all};
use super::now;
use crate::definition::QueueDefinition;
use crate::failpoint;
use crate::item::door::{Arrival, Known, NewItem};
use crate::item::{Item, ItemId, Kind};
use crate::mirror::uploads::{self, Upload};
use crate::mirror::{Mirror, MirrorError, Tx};

/// Rows of one transaction.
pub const BATCH_ROWS: usize = 500;

/// Bytes of rows that close a batch early.
pub const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Rows with a reference that a rehearsal remembers at most.
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
        code: Cow<'static, str>,
        reasons: Vec<String>,
    },
}

/// What makes a batch come in once, however often it is sent.
#[derive(Debug, Clone)]
pub struct Once {
    /// Of one sender.
    pub key: String,
    /// Of everything that was sent.
    pub fingerprint: String,
}

/// What became of a batch.
#[derive(Debug)]
pub enum Answer {
    /// A verdict per row, and what a rehearsal knows now.
    Decided(Vec<Verdict>, Rehearsed),
    /// The key was used for something else.
    OtherRows,
}

/// What a rehearsal would have admitted, by reference.
#[derive(Debug, Default)]
pub struct Rehearsed(HashMap<String, Vec<Known>>);

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
/// kept. `by` is who sends them.
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
    once: Option<Once>,
) -> Result<Answer, MirrorError> {
    let candidates: Vec<Candidate> = rows
        .into_iter()
        .map(|new| {
            let arrival = Arrival { new, producer: Some(by.to_owned()), ..Arrival::default() };
            Candidate::new(Arc::clone(definition), Arc::new(arrival))
        })
        .collect();
    let done = mirror
        .write(move |tx: &mut Tx| Box::pin(async move { answer(tx, &candidates, terms, rehearsed, once).await }))
        .await?;
    if terms != Terms::Rehearsal {
        failpoint::reach("many.committed").await;
    }
    Ok(done)
}

async fn answer(
    tx: &mut Tx,
    candidates: &[Candidate],
    terms: Terms,
    rehearsed: Rehearsed,
    once: Option<Once>,
) -> Result<Answer, MirrorError> {
    let now = now();
    if let Some(Once { key, fingerprint }) = &once
        && let Some(upload) = uploads::find(tx, key, now).await?
    {
        if upload.fingerprint != *fingerprint {
            return Ok(Answer::OtherRows);
        }
        let noted: Vec<Noted> = serde_json::from_str(&upload.verdicts)
            .map_err(|error| MirrorError::Unreadable(format!("what became of the upload '{key}': {error}")))?;
        let verdicts = noted.into_iter().map(Verdict::try_from).collect::<Result<_, _>>()?;
        return Ok(Answer::Decided(verdicts, rehearsed));
    }
    let (verdicts, rehearsed, kept) = decide(tx, candidates, terms, rehearsed).await?;
    if let (Some(Once { key, fingerprint }), true) = (once, kept) {
        let noted: Vec<Noted> = verdicts.iter().map(Noted::from).collect();
        let verdicts = serde_json::to_string(&noted)
            .map_err(|error| MirrorError::Unreadable(format!("what became of the upload '{key}': {error}")))?;
        uploads::note(tx, &key, &Upload { fingerprint, verdicts }, now).await?;
    }
    Ok(Answer::Decided(verdicts, rehearsed))
}

/// A verdict as it is kept.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Noted {
    Created(String),
    Same(String),
    Refused(String, String, Vec<String>),
}

impl From<&Verdict> for Noted {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Created(id) => Self::Created(id.to_string()),
            Verdict::Same(id) => Self::Same(id.to_string()),
            Verdict::Refused { kind, code, reasons } => {
                Self::Refused(kind.word().to_owned(), code.to_string(), reasons.clone())
            }
        }
    }
}

impl TryFrom<Noted> for Verdict {
    type Error = MirrorError;

    fn try_from(noted: Noted) -> Result<Self, MirrorError> {
        let odd = |text: &str| MirrorError::Unreadable(format!("an upload's verdict says '{text}'"));
        let id = |text: String| text.parse().map_err(|_| odd(&text));
        Ok(match noted {
            Noted::Created(text) => Self::Created(id(text)?),
            Noted::Same(text) => Self::Same(id(text)?),
            Noted::Refused(kind, code, reasons) => {
                let kind = Kind::from_word(&kind).ok_or_else(|| odd(&kind))?;
                Self::Refused { kind, code: code.into(), reasons }
            }
        })
    }
}

/// Also whether something of it is kept.
async fn decide(
    tx: &mut Tx,
    candidates: &[Candidate],
    terms: Terms,
    mut rehearsed: Rehearsed,
) -> Result<(Vec<Verdict>, Rehearsed, bool), MirrorError> {
    let mut verdicts = Vec::with_capacity(candidates.len());
    let mut admitted = Vec::new();
    let book = judge_all(tx, candidates, Refusals::Drop, &rehearsed.0, now(), |said| {
        if let (Terms::Rehearsal, Said::Admitted(item)) = (terms, &said) {
            admitted.extend(known(item));
        }
        verdicts.push(said.into());
    })
    .await?;
    let refused = verdicts.iter().any(|verdict| matches!(verdict, Verdict::Refused { .. }));
    match terms {
        Terms::Rehearsal => {
            for (reference, known) in admitted {
                rehearsed.0.entry(reference).or_default().push(known);
            }
        }
        Terms::AllOrNothing if refused => return Ok((verdicts, rehearsed, false)),
        // What is refused here is not kept, so nothing chains.
        Terms::Each | Terms::AllOrNothing => drop(book.write(tx).await?),
    }
    Ok((verdicts, rehearsed, terms != Terms::Rehearsal))
}

fn known(item: &Item) -> Option<(String, Known)> {
    Some((item.reference.clone()?, Known::of(item)))
}

impl From<Said<'_>> for Verdict {
    fn from(said: Said<'_>) -> Self {
        match said {
            Said::Admitted(item) => Self::Created(item.id),
            Said::Same(item) => Self::Same(item.id),
            Said::Gone(spent) => Self::Same(spent.item),
            Said::Refused(kind, problems) => Self::Refused {
                kind,
                code: problems.first().map_or("refused", |problem| problem.code).into(),
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
            let sent = enqueue(&self.mirror, &self.definition, rows.collect(), "t", terms, rehearsed, None).await;
            let Answer::Decided(verdicts, rehearsed) = sent.unwrap() else { panic!("no key") };
            let told = verdicts.into_iter().map(|verdict| match verdict {
                Verdict::Created(_) => "created".to_owned(),
                Verdict::Same(_) => "same".to_owned(),
                Verdict::Refused { code, .. } => code.into_owned(),
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
    async fn a_batch_with_a_key_comes_in_once() {
        let bench = bench(false).await;
        let send = async |key: &str, rows: &[&str], terms| {
            let rows = rows.iter().map(|payload| NewItem {
                payload: payload.as_bytes().to_vec(),
                content_type: Some("application/json".to_owned()),
                ..NewItem::default()
            });
            let rows: Vec<NewItem> = rows.collect();
            let fingerprint = rows.iter().map(|row| String::from_utf8_lossy(&row.payload).into_owned()).collect();
            let once = Some(Once { key: key.to_owned(), fingerprint });
            enqueue(&bench.mirror, &bench.definition, rows, "t", terms, Rehearsed::default(), once).await.unwrap()
        };
        let Answer::Decided(first, _) = send("k", &["1", "{", "2"], Terms::Each).await else { panic!() };
        let Answer::Decided(again, _) = send("k", &["1", "{", "2"], Terms::Each).await else { panic!() };
        assert_eq!(first, again);
        assert!(matches!(send("k", &["1"], Terms::Each).await, Answer::OtherRows));
        assert_eq!(bench.kept().await, 2);
        // What was not kept is decided over again.
        for _ in 0..2 {
            let Answer::Decided(told, _) = send("a", &["1", "{"], Terms::AllOrNothing).await else { panic!() };
            assert!(matches!(told[..], [Verdict::Created(_), Verdict::Refused { .. }]));
        }
        let Answer::Decided(told, _) = send("a", &["1"], Terms::AllOrNothing).await else { panic!() };
        assert!(matches!(told[..], [Verdict::Created(_)]));
        assert_eq!(bench.kept().await, 3);
    }

    #[tokio::test]
    async fn keys_are_forgotten_after_a_day() {
        let bench = bench(false).await;
        let at = |hours: i64| crate::item::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(hours);
        let (early, late) = bench
            .mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    let upload = Upload { fingerprint: "f".to_owned(), verdicts: "[]".to_owned() };
                    uploads::note(tx, "k", &upload, at(100)).await?;
                    let early = uploads::find(tx, "k", at(124)).await?;
                    uploads::note(tx, "l", &upload, at(125)).await?;
                    Ok((early, uploads::find(tx, "k", at(101)).await?))
                })
            })
            .await
            .unwrap();
        assert!(early.is_some() && late.is_none());
    }
}
