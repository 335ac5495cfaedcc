//! Many items in one request: read as it comes, admitted in batches, answered once it is read.
//!
//! The body is read no faster than its batches are committed, and nothing of it is kept but the batch in hand and a result
//! per row. What stops the reading midway (a row that cannot be told from the next, a body that breaks off or stalls, a queue
//! that was paused meanwhile, a mirror that cannot be written) ends it there: the answer is that problem, with the results of the rows before,
//! which stand. With `atomic=true` nothing stands.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::timeout;

use super::caller::Caller;
use super::control::to_its_end;
use super::enqueue::{Form, broken_off, open, read, wake};
use super::extract::{Parameters, shown};
use super::problem::{Fault, Problem};
use super::results::{
    Frame, Judged, MOST_REASONS, TOO_MUCH_TO_TELL, Tally, members, reference_told, views, whole_answer,
};
use super::spool::Spool;
use super::{Api, MAX_BODY};
use crate::item::door::NewItem;
use crate::lanes::many::{BATCH_BYTES, BATCH_ROWS, MOST_REHEARSED, Rehearsed, Terms, Verdict, enqueue};
use crate::mirror::keys;
use crate::rows::columns::{Columns, read_map};
use crate::rows::{Broken, Reader, Row};

/// How long a body may pause.
const PATIENCE: Duration = Duration::from_secs(60);

/// Rows that come in as one transaction.
const MOST_WHOLE: usize = 10_000;

/// Bytes that are read at once into rows. A cell of one byte may become a name of a thousand.
const PIECE: usize = 16 * 1024;

/// What is still read of a body that was given up, so that its sender comes to reading the answer.
const DRAIN_BYTES: usize = 64 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// A request with many items, nothing of which was looked at but its type and first bytes.
pub(super) struct Request {
    pub api: Api,
    pub key: String,
    pub caller: Caller,
    pub form: Form,
    pub parameters: Parameters,
    pub headers: HeaderMap,
    pub begun: Bytes,
    pub upload: BodyDataStream,
}

/// Takes them, and answers a result per row.
pub(super) async fn take(request: Request) -> Result<Response, Problem> {
    let Request { api, key, caller, form, mut parameters, headers, begun, mut upload } = request;
    let terms = terms(&mut parameters);
    // Rows that are not to come in twice come in with their key, in one transaction.
    let whole = terms == Terms::AllOrNothing || (terms == Terms::Each && keys::current().is_some());
    let reader = reader(form, &mut parameters);
    let all = match parameters.one("results").as_deref() {
        None | Some("all") => true,
        Some("refused") => false,
        Some(other) => {
            parameters.fault("results", format!("'{}' does not do; allowed: all, refused", shown(other)));
            true
        }
    };
    parameters.done()?;
    let ndjson = headers.get(header::ACCEPT).is_some_and(|accept| {
        let accept = String::from_utf8_lossy(accept.as_bytes()).to_ascii_lowercase();
        accept.contains("application/x-ndjson") || accept.contains("application/ndjson")
    });
    let mut taking = Taking {
        api,
        key,
        caller,
        terms,
        whole,
        all,
        ndjson,
        reader,
        spool: Spool::default(),
        tally: Tally::default(),
        read: 0,
        batch: Vec::new(),
        bytes: 0,
        reasons: 0,
        rehearsed: Rehearsed::default(),
    };
    let stopped = taking.read_all(begun, &mut upload).await.err();
    if stopped.is_some() {
        drain(&mut upload).await;
    }
    taking.answer(stopped).await
}

fn terms(parameters: &mut Parameters) -> Terms {
    let dry_run = flag(parameters, "dry_run");
    match (dry_run, flag(parameters, "atomic")) {
        // What would be refused is said of each row either way.
        (true, _) => Terms::Rehearsal,
        (false, true) => Terms::AllOrNothing,
        (false, false) => Terms::Each,
    }
}

/// A parameter that is `true` or `false`; `false` where it is absent.
pub(super) fn flag(parameters: &mut Parameters, name: &'static str) -> bool {
    match parameters.one(name).as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            parameters.fault(name, format!("'{}' does not do; allowed: true, false", shown(other)));
            false
        }
    }
}

fn reader(form: Form, parameters: &mut Parameters) -> Reader {
    match form {
        Form::Json => Reader::array(),
        Form::Ndjson => Reader::ndjson(),
        Form::Csv => Reader::csv(columns(parameters)),
    }
}

fn columns(parameters: &mut Parameters) -> Columns {
    let mut columns = Columns::default();
    match parameters.one("delimiter").as_deref() {
        None => {}
        Some("tab") => columns.delimiter = b'\t',
        Some(c @ ("," | ";" | "|")) => columns.delimiter = c.as_bytes()[0],
        Some(other) => {
            parameters.fault(
                "delimiter",
                format!("'{}' does not do; allowed: , ; | (written %3B for ;) or tab", shown(other)),
            );
        }
    }
    match parameters.one("map").as_deref().map(read_map) {
        None => {}
        Some(Ok(map)) => columns.map = map,
        Some(Err(faults)) => faults.into_iter().for_each(|fault| parameters.fault("map", fault)),
    }
    columns
}

/// A row that waits for its batch.
struct Pending {
    index: u64,
    line: u64,
    reference: Option<String>,
    item: Result<NewItem, Vec<String>>,
}

struct Taking {
    api: Api,
    key: String,
    caller: Caller,
    terms: Terms,
    /// It goes in as one batch, and so as one transaction.
    whole: bool,
    /// Results of all rows are answered, not only those that are refused.
    all: bool,
    /// Results are answered one a line.
    ndjson: bool,
    reader: Reader,
    spool: Spool,
    tally: Tally,
    /// Rows read so far.
    read: u64,
    batch: Vec<Pending>,
    /// Bytes of the batch.
    bytes: usize,
    /// Bytes of what is wrong with rows of the batch.
    reasons: usize,
    rehearsed: Rehearsed,
}

impl Taking {
    /// Reads to the end; what stops it before is the error.
    async fn read_all(&mut self, begun: Bytes, upload: &mut BodyDataStream) -> Result<(), Problem> {
        let read = self.read_body(begun, upload).await;
        if self.whole {
            read?;
            return self.commit().await;
        }
        // Rows before the place where it stopped stand, whether their batch was full or not.
        let committed = match &read {
            Err(problem) if problem.status().is_server_error() => Ok(()),
            _ => self.commit().await,
        };
        read.and(committed)
    }

    async fn read_body(&mut self, begun: Bytes, upload: &mut BodyDataStream) -> Result<(), Problem> {
        let mut rows = Vec::new();
        let mut next = Some(begun);
        while let Some(bytes) = next {
            for piece in bytes.chunks(PIECE) {
                let fed = self.reader.feed(piece, &mut rows);
                self.add(&mut rows).await?;
                fed.map_err(unreadable)?;
            }
            next = match timeout(PATIENCE, upload.next()).await {
                Ok(None) => None,
                Ok(Some(piece)) => Some(piece.map_err(|error| broken_off(&error))?),
                Err(_) => {
                    let seconds = PATIENCE.as_secs();
                    return Err(Problem::too_slow(format!("nothing more of the body came for {seconds} s")));
                }
            };
        }
        let finished = self.reader.finish(&mut rows);
        self.add(&mut rows).await?;
        finished.map_err(unreadable)
    }

    /// Adds rows to the batch, and commits it where it is full.
    async fn add(&mut self, rows: &mut Vec<Row>) -> Result<(), Problem> {
        for row in rows.drain(..) {
            self.bytes += row.item.as_ref().map_or(0, String::len);
            let index = self.read;
            self.read += 1;
            let mut item = row.item.and_then(|item| read(item.as_bytes()).map_err(Problem::reasons));
            if let Err(faults) = &mut item {
                // What is wrong with a row is held like a row, and no more of it than is told.
                self.reasons += faults.iter().map(String::len).sum::<usize>();
                if self.reasons > MOST_REASONS {
                    *faults = vec![TOO_MUCH_TO_TELL.to_owned()];
                }
            }
            let reference = item.as_ref().ok().and_then(|item| item.reference.as_deref()).map(reference_told);
            self.batch.push(Pending { index, line: row.line, reference, item });
            if self.whole {
                if self.batch.len() > MOST_WHOLE || self.bytes > MAX_BODY {
                    return Err(Problem::too_much(format!(
                        "with atomic=true or an Idempotency-Key at most {MOST_WHOLE} rows with {MAX_BODY} bytes come in at once; \
                         send them in parts"
                    )));
                }
            } else if self.batch.len() >= BATCH_ROWS || self.bytes + self.reasons >= BATCH_BYTES {
                self.commit().await?;
            }
        }
        Ok(())
    }

    /// The batch through the door, and its results noted.
    async fn commit(&mut self) -> Result<(), Problem> {
        if self.terms == Terms::Rehearsal && self.rehearsed.len() > MOST_REHEARSED {
            return Err(Problem::too_much(format!(
                "a dry run remembers at most {MOST_REHEARSED} rows with a reference; send the rows in parts (what repeats from part to part is not seen then)"
            )));
        }
        let batch = std::mem::take(&mut self.batch);
        (self.bytes, self.reasons) = (0, 0);
        let unreadable = batch.iter().any(|row| row.item.is_err());
        let mut items = Vec::with_capacity(batch.len());
        let mut told = Vec::with_capacity(batch.len());
        for Pending { index, line, reference, item } in batch {
            let unread = item.map(|item| items.push(item)).err();
            told.push(Judged { index, line, reference, unread });
        }
        let terms = match self.terms {
            // Nothing of it will be kept, and the rest is to know all the same what is wrong with it.
            Terms::AllOrNothing if unreadable => Terms::Rehearsal,
            terms => terms,
        };
        let (told, verdicts) = self.decide(told, items, terms).await?;
        let views = views(&told, &verdicts, self.terms);
        let refused = views.iter().filter(|view| view.status == "refused").count();
        let none = self.terms == Terms::AllOrNothing && refused > 0;
        for view in &views {
            if none && view.status != "refused" {
                continue;
            }
            self.tally.count(view);
            if !self.all && view.status != "refused" {
                continue;
            }
            self.spool.add(view).await.map_err(|error| unspooled(&error))?;
        }
        if none {
            return Err(Problem::rows_refused(format!(
                "{refused} of {} rows are refused, so none was taken in; `results` names them",
                views.len()
            )));
        }
        Ok(())
    }

    async fn decide(
        &mut self,
        told: Vec<Judged>,
        items: Vec<NewItem>,
        terms: Terms,
    ) -> Result<(Vec<Judged>, Vec<Verdict>), Problem> {
        if items.is_empty() {
            return Ok((told, Vec::new()));
        }
        // Rights end, definitions change and queues are paused while a long body is read.
        if self.caller.gone().now_or_never().is_some() {
            return Err(Problem::unauthorized());
        }
        let definition = open(&self.api, &self.key)?;
        let (api, key, by) = (self.api.clone(), self.key.clone(), self.caller.name().to_owned());
        let rehearsed = std::mem::take(&mut self.rehearsed);
        let told = Arc::new(told);
        let (kept, all, ndjson) = (Arc::clone(&told), self.all, self.ndjson);
        // A request with a key is one batch, so this is its whole answer.
        let tell = move |verdicts: &[Verdict]| whole_answer(&views(&kept, verdicts, terms), terms, all, ndjson);
        let work = async move {
            let done = enqueue(&api.mirror, &definition, items, &by, terms, rehearsed, tell).await;
            let created = |verdict: &Verdict| matches!(verdict, Verdict::Created(_));
            if terms != Terms::Rehearsal && done.as_ref().is_ok_and(|(verdicts, _)| verdicts.iter().any(created)) {
                wake(&api, &key);
            }
            done
        };
        let (verdicts, rehearsed) = to_its_end(work).await??;
        self.rehearsed = rehearsed;
        Ok((Arc::unwrap_or_clone(told), verdicts))
    }

    async fn answer(self, stopped: Option<Problem>) -> Result<Response, Problem> {
        let Self { spool, tally, terms, read, ndjson, .. } = self;
        if let Some(problem) = stopped {
            if read == 0 || (spool.is_empty() && terms == Terms::AllOrNothing) {
                return Err(problem);
            }
            let status = problem.status();
            let mut head = serde_json::to_string(&problem).map_err(|error| unspooled(&error.into()))?;
            head.pop();
            let head = format!("{head},{},\"results\":[", members(tally, terms));
            return response(status, "application/problem+json", spool, head, ",\n", "]}".to_owned()).await;
        }
        let Frame { media_type, head, joint, tail } = Frame::of(tally, terms, ndjson, spool.is_empty());
        response(StatusCode::OK, media_type, spool, head, joint, tail).await
    }
}

async fn response(
    status: StatusCode,
    media_type: &'static str,
    spool: Spool,
    head: String,
    joint: &'static str,
    tail: String,
) -> Result<Response, Problem> {
    let body: Body = spool.into_body(head, joint, tail).await.map_err(|error| unspooled(&error))?;
    let mut response = (status, body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    Ok(response)
}

fn unreadable(broken: Broken) -> Problem {
    let Broken { line, faults } = broken;
    let detail = format!("line {line}: {}", faults.join("; "));
    Problem::bad_request(detail, faults.into_iter().map(Fault::plain).collect())
}

fn unspooled(error: &std::io::Error) -> Problem {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "results of many rows could not be kept in a temporary file"
    );
    Problem::unavailable(
        "results",
        "the results could not be kept in a temporary file; rows before may have been taken in, so send references and send again",
    )
}

/// Reads on for a while without looking.
async fn drain(upload: &mut BodyDataStream) {
    let read = async {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(piece)) = upload.next().await {
            left = left.saturating_sub(piece.len());
            if left == 0 {
                break;
            }
        }
    };
    let _ = timeout(DRAIN_TIME, read).await;
}
