//! The values of keys that say what becomes of items beside the work itself: acks, breaker, notices, retention.

use std::time::Duration;

use url::Url;

use crate::item::Kind;

/// What an ack without a report means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// The work is done.
    Trusted,
    /// `exception: unreported`.
    ReportRequired,
}

/// After how many alike failures in a row dispatch pauses, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// 1..=1000.
    pub after: u32,
    /// Longer than 0.
    pub pause: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { after: 10, pause: Duration::from_mins(5) }
    }
}

/// Who is told of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// At least one, each once.
    pub on: Vec<Occasion>,
    /// `http`, `https` or `mailto`.
    pub to: Url,
    pub at_most: Rate,
}

/// What a notice may be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// An item became an exception.
    Exception,
    /// An item became an exception of this kind.
    Kind(Kind),
    /// An item is at risk of being late.
    AtRisk,
    /// An item is late.
    Late,
    /// The breaker paused dispatch.
    Breaker,
}

/// At most so many within a time: `1/15m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// 1..=1000.
    pub times: u32,
    /// Longer than 0.
    pub within: Duration,
}

impl Default for Rate {
    fn default() -> Self {
        Self { times: 1, within: Duration::from_mins(15) }
    }
}

/// How long what is finished stays in the mirror, from its end; `None`: for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    pub processed: Option<Duration>,
    pub exception: Option<Duration>,
    pub cancelled: Option<Duration>,
    /// The payload alone, of whatever is finished.
    pub payload: Option<Duration>,
}
