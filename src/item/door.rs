//! What is asked for when an item is to be admitted, in words of ours, whichever door it came through.

use std::collections::BTreeMap;

use super::Timestamp;

/// An item somebody wants in a queue, read but not yet judged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewItem {
    pub payload: Vec<u8>,
    pub content_type: Option<String>,
    pub reference: Option<String>,
    pub name: Option<String>,
    pub priority: Option<PriorityWish>,
    pub due_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub not_before: Option<Timestamp>,
    pub labels: BTreeMap<String, String>,
    pub traceparent: Option<String>,
    /// When the producer says it was enqueued.
    pub enqueued_at: Option<Timestamp>,
}

/// A priority as a number (any, judged later) or by a name of the queue's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PriorityWish {
    Level(i64),
    Named(String),
}
