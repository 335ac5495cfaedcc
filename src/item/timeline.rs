//! What happened to an item, line by line.

use super::Timestamp;

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
}
