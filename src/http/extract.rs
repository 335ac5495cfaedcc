//! What a request says, read so that every mistake becomes a problem that names it.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;

use super::problem::{Fault, Problem};
use super::view::Timed;
use super::words::{ExceptionKind, ItemState};
use crate::item::Timestamp;
use crate::mirror::MAX_PAGE;

/// Rows a list answers where no `limit` is given.
const DEFAULT_LIMIT: u32 = 100;

/// The one variable segment of the path, percent-decoded.
pub(super) struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let unreadable = || Problem::bad_request("a part of the path is no percent-encoded UTF-8", Vec::new());
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| unreadable())?;
        params.iter().next().map(|(_, value)| Self(value.to_owned())).ok_or_else(unreadable)
    }
}

/// The query's parameters. A reader takes what it knows by name, then [`Parameters::done`] refuses whatever is wrong.
pub(super) struct Parameters {
    /// What was not taken yet, in the order written.
    open: Vec<(String, String)>,
    known: Vec<&'static str>,
    faults: Vec<Fault>,
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::read(parts.uri.query().unwrap_or_default()))
    }
}

impl Parameters {
    pub(super) fn read(query: &str) -> Self {
        let open = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let mut faults = Vec::new();
        // Read on nevertheless, so that what else is wrong is named too.
        if std::str::from_utf8(&percent_encoding::percent_decode_str(query).collect::<Vec<u8>>()).is_err() {
            faults.push(Fault::plain("the query is no percent-encoded UTF-8".to_owned()));
        }
        Self { open, known: Vec::new(), faults }
    }

    /// Every value of a parameter that may stand more than once.
    pub(super) fn many(&mut self, name: &'static str) -> Vec<String> {
        self.known.push(name);
        let (taken, open) = std::mem::take(&mut self.open).into_iter().partition(|(key, _)| key == name);
        self.open = open;
        let mut values: Vec<String> = Vec::new();
        for (_, value) in taken {
            if value.is_empty() {
                self.fault(name, "is empty; give it a value or leave it out");
            } else {
                values.push(value);
            }
        }
        values
    }

    /// The value of a parameter that may stand once.
    pub(super) fn one(&mut self, name: &'static str) -> Option<String> {
        let mut values = self.many(name);
        if values.len() > 1 {
            self.fault(name, "stands more than once; give it one value");
        }
        values.pop()
    }

    /// Each value (also of a comma-separated list) read by `read`; `allowed` says what it takes.
    pub(super) fn words<T>(&mut self, name: &'static str, read: fn(&str) -> Option<T>, allowed: &str) -> Vec<T> {
        let mut words = Vec::new();
        for value in self.many(name) {
            for word in value.split(',') {
                match read(word) {
                    Some(known) => words.push(known),
                    None => self.fault(name, format!("'{}' is not known; allowed: {allowed}", shown(word))),
                }
            }
        }
        words
    }

    /// A moment as RFC 3339 has it.
    pub(super) fn time(&mut self, name: &'static str) -> Option<Timestamp> {
        let value = self.one(name)?;
        let time = Timestamp::from_str(&value).ok();
        if time.is_none() {
            let hint = if value.contains(' ') { " (a + is written %2B in a query)" } else { "" };
            self.fault(name, format!("'{}' is no RFC 3339 time, like 2026-05-04T08:00:00Z{hint}", shown(&value)));
        }
        time
    }

    /// How many rows the page has.
    pub(super) fn limit(&mut self) -> u32 {
        let Some(value) = self.one("limit") else { return DEFAULT_LIMIT };
        match value.parse() {
            Ok(limit) if (1..=MAX_PAGE).contains(&limit) => limit,
            _ => {
                self.fault("limit", format!("'{}' does not do; allowed: 1 to {MAX_PAGE}", shown(&value)));
                DEFAULT_LIMIT
            }
        }
    }

    /// Where the page starts.
    pub(super) fn cursor<C: FromStr<Err: Display>>(&mut self) -> Option<C> {
        let value = self.one("cursor")?;
        match value.parse() {
            Ok(cursor) => Some(cursor),
            Err(error) => {
                self.fault("cursor", format!("'{}': {error}; allowed: the `next` of a page before", shown(&value)));
                None
            }
        }
    }

    pub(super) fn fault(&mut self, name: &str, detail: impl Into<String>) {
        self.faults.push(Fault::parameter(name, format!("{name} {}", detail.into())));
    }

    /// Refuses the request where a parameter was wrong or is not known here.
    pub(super) fn done(mut self) -> Result<(), Problem> {
        let known = match self.known.as_slice() {
            [] => "this route takes none".to_owned(),
            names => format!("allowed: {}", names.join(", ")),
        };
        for (name, _) in std::mem::take(&mut self.open) {
            let name = shown(&name);
            self.faults.push(Fault::parameter(&name, format!("there is no parameter '{name}'; {known}")));
        }
        match self.faults.as_slice() {
            [] => Ok(()),
            [fault] => Err(Problem::bad_request(fault.detail.clone(), self.faults)),
            faults => Err(Problem::bad_request(format!("{} parameters are wrong", faults.len()), self.faults)),
        }
    }
}

/// What a list takes that has pages.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "documents what `limit` and `cursor` read")]
pub(super) struct PageQuery {
    /// Rows of the page; 100 where nothing is said.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// The `next` of a page before.
    cursor: Option<String>,
}

/// Which items a list or an export is of.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "documents what `items::read_filter` reads")]
pub(super) struct FilterQuery {
    /// The queue's key.
    queue: Option<String>,
    #[param(style = Form, explode = false)]
    state: Option<Vec<ItemState>>,
    #[param(style = Form, explode = false)]
    kind: Option<Vec<ExceptionKind>>,
    reference: Option<String>,
    /// `name=value`, once or more.
    label: Option<Vec<String>>,
    /// Due before.
    due: Option<Timed>,
    /// Enqueued or changed since.
    since: Option<Timed>,
    /// Text in reference, name, reason or code.
    #[param(max_length = 200)]
    q: Option<String>,
    /// Failed alike.
    fingerprint: Option<String>,
}

/// A client's text cut to what a message can hold.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}
