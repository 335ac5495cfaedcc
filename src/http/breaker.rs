//! A queue's breaker as the API shows it.

use serde::Serialize;
use utoipa::ToSchema;

use super::view::Timed;
use super::words::BreakerWord;
use crate::item::Timestamp;
use crate::item::breaker::{Breaker, Standing};

/// Where a queue's breaker stands.
#[derive(Serialize, ToSchema)]
#[schema(as = Breaker)]
pub(super) struct BreakerView {
    #[schema(value_type = BreakerWord)]
    state: &'static str,
    /// When it came to stand so; `null` where nothing has failed yet.
    since: Option<Timed>,
    /// Open: nothing goes out before.
    until: Option<Timed>,
    /// Of the failures counted.
    fingerprint: Option<String>,
    /// Alike ones in a row.
    failures: u32,
}

impl BreakerView {
    pub(super) fn new(breaker: Option<&Breaker>, now: Timestamp) -> Self {
        let Some(breaker) = breaker else {
            return Self { state: Standing::Closed.word(), since: None, until: None, fingerprint: None, failures: 0 };
        };
        let standing = breaker.at(now);
        let since = if let Standing::Trying(since) = standing { since } else { breaker.since };
        Self {
            state: standing.word(),
            since: Some(Timed(since)),
            until: breaker.until.map(Timed),
            fingerprint: breaker.fingerprint.clone(),
            failures: breaker.failures,
        }
    }
}
