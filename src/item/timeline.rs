//! What happened to an item, line by line.

use serde::{Deserialize, Serialize};

use super::{Item, Timestamp};

/// One line of an item's timeline: a change, or something noted without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The item's revision this line belongs to.
    pub revision: u32,
    pub at: Timestamp,
    /// Who: `producer`, a robot's name, `broker`, `policy`, `daemon`.
    pub actor: String,
    /// The `user-id` that the broker verified, where it was set.
    pub user: Option<String>,
    /// What, as one word: `admitted`, `refused`, `dispatched`, `started`, `processed`, `exception`, `retry`, `noted`, ...
    pub event: std::borrow::Cow<'static, str>,
    /// Why, or what was said.
    pub why: Option<String>,
    /// The attempt it concerns; 0 where none.
    pub attempt: u32,
    /// The state after it, as [`super::State`] prints.
    pub state: String,
    /// The attempt that this line ends, as it was then.
    pub ended: Option<Box<Ended>>,
}

impl Line {
    /// The line of an item as it is now, of its newest attempt.
    #[must_use]
    pub fn of(item: &Item, at: Timestamp, actor: &str, event: &'static str, why: Option<String>) -> Self {
        Self {
            revision: item.revision,
            at,
            actor: actor.to_owned(),
            user: None,
            event: event.into(),
            why,
            attempt: item.attempt,
            state: item.state.to_string(),
            ended: None,
        }
    }
}

/// How an attempt was and how it ended. A later line of the same attempt corrects an earlier one, and leaves out what it
/// does not know better ([`super::attempts`] puts them together).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its number, from 1.
    pub attempt: u32,
    /// `processed`, an exception kind, `requeue`, `hold`, `cancelled`, `recalled`, `lease_lost`, `returned`, or `dropped` where another attempt did the
    /// work.
    pub outcome: String,
    /// Who had it, as far as known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub robot: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dispatched_at: Option<Timestamp>,
    /// As the robot said.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started_at: Option<Timestamp>,
    /// As far as reports and dead letters tell; 0 where nobody told of any.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub deliveries: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Milliseconds until the next attempt may go out, where there is to be one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub delay_ms: Option<u64>,
    /// Nobody said so: it was inferred from the broker's numbers, or from a bare reject.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub silent: bool,
    /// A newer attempt that was out and is waited for no more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dropped: Option<Box<Ended>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}
