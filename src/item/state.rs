//! The words for where an item stands: state, exception kind, lane, and the place of its deciding copy.

use std::fmt;

use super::words::words;

words! {
    /// Why an item is an exception.
    Kind {
        /// The data is wrong: never retried.
        Business = "business",
        /// A system failed: retried by policy.
        It = "it",
        /// Rejected without a word.
        Generic = "generic",
        /// The attempt took longer than `processing_timeout`.
        Timeout = "timeout",
        /// Its life ended before anybody started it.
        Expired = "expired",
        /// Robots died on it too often.
        Poison = "poison",
        /// Refused at the door.
        Invalid = "invalid",
        /// Same reference, other content.
        Duplicate = "duplicate",
        /// Vanished from the broker unexplained.
        Missing = "missing",
        /// Acked without a report where one is required.
        Unreported = "unreported",
    }
}

words! {
    /// How an item travels from producer to robot.
    Lane {
        /// Through the daemon's door, which checks and orders it.
        Managed = "managed",
        /// From the broker straight to the robots; the daemon takes notes.
        Direct = "direct",
    }
}

words! {
    /// Where the one copy is that decides over an item.
    Place {
        /// Queued in the mirror, not before `ready_at`.
        Delayed = "delayed",
        /// Queued in the mirror, to be dispatched as soon as the window has room.
        Ready = "ready",
        /// Committed to be published; whether the broker has it is not known yet.
        Claimed = "claimed",
        /// In the robots' queue or with a robot.
        Broker = "broker",
        /// In the mirror, with somebody who claimed it over HTTP; the broker has no message of it.
        Leased = "leased",
        /// In the mirror, waiting for nobody: processed, exception, on hold, cancelled.
        Settled = "settled",
    }
}

/// State of an item; an exception always has a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    Queued,
    Processing,
    Processed,
    OnHold,
    Exception(Kind),
    Cancelled,
}

impl State {
    /// The six state words, without the exceptions' kinds.
    pub const WORDS: [&'static str; 6] = ["queued", "processing", "processed", "on_hold", "exception", "cancelled"];

    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Processing => "processing",
            Self::Processed => "processed",
            Self::OnHold => "on_hold",
            Self::Exception(_) => "exception",
            Self::Cancelled => "cancelled",
        }
    }

    #[must_use]
    pub const fn kind(self) -> Option<Kind> {
        match self {
            Self::Exception(kind) => Some(kind),
            _ => None,
        }
    }

    /// Reads the two columns back; `None` where they do not belong together.
    #[must_use]
    pub fn from_words(state: &str, kind: Option<&str>) -> Option<Self> {
        match (state, kind) {
            ("exception", Some(kind)) => Kind::from_word(kind).map(Self::Exception),
            ("queued", None) => Some(Self::Queued),
            ("processing", None) => Some(Self::Processing),
            ("processed", None) => Some(Self::Processed),
            ("on_hold", None) => Some(Self::OnHold),
            ("cancelled", None) => Some(Self::Cancelled),
            _ => None,
        }
    }

    /// Reads back what [`fmt::Display`] writes.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        match text.split_once(": ") {
            Some((state, kind)) => Self::from_words(state, Some(kind)),
            None => Self::from_words(text, None),
        }
    }

    /// Somebody still has to do something: not processed, exception, held or cancelled.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Processing)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exception(kind) => write!(f, "exception: {kind}"),
            other => f.write_str(other.word()),
        }
    }
}
