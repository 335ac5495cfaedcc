//! What people ask of an item that is dispatched: it waits until the item's message is out of the robots' queue.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Hold,
    Cancel,
    Edit,
}

/// A request that waits, as it is kept with the item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub action: Action,
    pub who: String,
    pub why: Option<String>,
    pub at: Timestamp,
    /// Nobody looks for its message: it is carried out when the item next passes the daemon.
    #[serde(default)]
    pub on_sight: bool,
}
