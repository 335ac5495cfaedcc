//! What became of many rows, as the answer says it.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;

use super::idempotency::told;
use crate::item::ItemId;
use crate::item::door::LONGEST_SHORT;
use crate::lanes::many::{Terms, Verdict};
use crate::mirror::keys::Told;

/// What became of many rows.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Rows)]
#[allow(dead_code, reason = "documents what is written piece by piece")]
pub(super) struct RowsView {
    dry_run: bool,
    created: u64,
    same: u64,
    refused: u64,
    results: Vec<RowView>,
}

/// What became of a row, as the answer has it.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Row)]
pub(super) struct RowView {
    /// Of the row, from 0.
    pub index: u64,
    /// Where the row begins, from 1.
    pub line: u64,
    pub reference: Option<String>,
    /// `created`, `same` or `refused`.
    pub status: &'static str,
    /// The item; `null` where nothing is kept of the row.
    pub id: Option<String>,
    pub kind: Option<&'static str>,
    pub code: Option<&'static str>,
    pub reasons: Vec<String>,
}

/// Bytes of reasons that are told of one batch.
pub(super) const MOST_REASONS: usize = 4 * 1024 * 1024;

/// Said in their place once they are more.
pub(super) const TOO_MUCH_TO_TELL: &str = "what is wrong with it is too much to tell beside that of the rows before";

/// A row on its way through the door.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub index: u64,
    pub line: u64,
    pub reference: Option<String>,
    /// Why it makes no item. The others have a verdict, in their order.
    pub unread: Option<Vec<String>>,
}

/// A row's reference as the answer repeats it: one that is too long for an item is cut.
pub(super) fn reference_told(reference: &str) -> String {
    reference.chars().take(LONGEST_SHORT).collect()
}

/// What became of a batch. The same rows are always told in the same words.
pub(super) fn views(told: &[Judged], verdicts: &[Verdict], terms: Terms) -> Vec<RowView> {
    let mut verdicts = verdicts.iter();
    let mut room = MOST_REASONS;
    let mut fitting = |reasons: &Vec<String>| {
        let long: usize = reasons.iter().map(String::len).sum();
        match room.checked_sub(long) {
            Some(left) => {
                room = left;
                reasons.clone()
            }
            None => vec![TOO_MUCH_TO_TELL.to_owned()],
        }
    };
    let row = |judged: &Judged| {
        let Judged { index, line, reference, .. } = judged.clone();
        RowView { index, line, reference, status: "refused", id: None, kind: None, code: None, reasons: Vec::new() }
    };
    // In a rehearsal an item may be the same as one that is not kept.
    let id = |id: &ItemId| (terms != Terms::Rehearsal).then(|| id.to_string());
    told.iter()
        .map(|judged| match (&judged.unread, judged.unread.is_none().then(|| verdicts.next()).flatten()) {
            (Some(reasons), _) => RowView { code: Some("unreadable"), reasons: fitting(reasons), ..row(judged) },
            (None, Some(Verdict::Created(item))) => RowView { status: "created", id: id(item), ..row(judged) },
            (None, Some(Verdict::Same(item))) => RowView { status: "same", id: id(item), ..row(judged) },
            (None, Some(Verdict::Refused { kind, code, reasons })) => {
                RowView { kind: Some(kind.word()), code: Some(code), reasons: fitting(reasons), ..row(judged) }
            }
            (None, None) => RowView {
                code: Some("unreadable"),
                reasons: vec!["nothing was decided over it".to_owned()],
                ..row(judged)
            },
        })
        .collect()
}

/// The answer to a request that is one batch, as [`Taking::answer`] gives it.
pub(super) fn whole_answer(views: &[RowView], terms: Terms, all: bool, ndjson: bool) -> Option<Told> {
    let mut tally = Tally::default();
    let mut results = Vec::new();
    for view in views {
        tally.count(view);
        if all || view.status == "refused" {
            results.push(serde_json::to_string(view).ok()?);
        }
    }
    let Frame { media_type, head, joint, tail } = Frame::of(tally, terms, ndjson, results.is_empty());
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    Some(told(StatusCode::OK, &headers, format!("{head}{}{tail}", results.join(joint)).as_bytes()))
}

/// What stands around the results of an answer.
pub(super) struct Frame {
    pub media_type: &'static str,
    pub head: String,
    pub joint: &'static str,
    pub tail: String,
}

impl Frame {
    pub(super) fn of(tally: Tally, terms: Terms, ndjson: bool, empty: bool) -> Self {
        let members = members(tally, terms);
        if ndjson {
            let end = if empty { "" } else { "\n" };
            let tail = format!("{end}{{{members}}}\n");
            return Self { media_type: "application/x-ndjson", head: String::new(), joint: "\n", tail };
        }
        let head = format!("{{{members},\"results\":[");
        Self { media_type: "application/json", head, joint: ",\n", tail: "]}\n".to_owned() }
    }
}

#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(super) struct Tally {
    created: u64,
    same: u64,
    refused: u64,
}

impl Tally {
    pub(super) const fn count(&mut self, view: &RowView) {
        match view.status.as_bytes() {
            b"created" => self.created += 1,
            b"same" => self.same += 1,
            _ => self.refused += 1,
        }
    }
}

/// The summary's members.
pub(super) fn members(tally: Tally, terms: Terms) -> String {
    let Tally { created, same, refused } = tally;
    let dry_run = terms == Terms::Rehearsal;
    format!("\"dry_run\":{dry_run},\"created\":{created},\"same\":{same},\"refused\":{refused}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_batch_is_bounded_and_always_the_same() {
        let judged = |index| Judged { index, line: index + 1, reference: None, unread: Some(vec!["x".repeat(30_000)]) };
        let told: Vec<Judged> = (0..1000).map(judged).collect();
        let tell = || {
            let answer = whole_answer(&views(&told, &[], Terms::Each), Terms::Each, true, false).unwrap();
            String::from_utf8(answer.body).unwrap()
        };
        let answer = tell();
        assert!(answer.len() < MOST_REASONS + 1000 * 250, "{}", answer.len());
        assert_eq!(answer.matches("too much to tell").count(), 1000 - MOST_REASONS / 30_000);
        assert_eq!(answer, tell());
        assert_eq!(reference_told(&"ü".repeat(300)).chars().count(), LONGEST_SHORT);
    }
}
