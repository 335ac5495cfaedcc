//! What people ask of an item, and what of it waits because the item is dispatched: until its message is out of the
//! robots' queue.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Item, Timestamp};

/// What people may ask for.
#[derive(Debug, Clone, PartialEq)]
pub enum Verb {
    /// Set aside.
    Hold,
    /// Back among the waiting, as it was set aside.
    Release,
    /// Given up.
    Cancel,
    /// What was given up is as it was before.
    Restore,
    /// To be worked again, with what is changed: retries and requeues count from 0.
    Requeue(Box<Changes>),
    /// Other data, in the state it has.
    Edit(Box<Changes>),
    /// Something to be read beside it.
    Note(String),
    /// Who is to look after it; nobody.
    Assign(Option<String>),
}

/// Somebody asks for something.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    pub verb: Verb,
    /// Who asks, for the timeline.
    pub who: String,
    pub why: Option<String>,
    /// Of a dispatched item, cancel: nobody looks for its message, it goes when the item next passes the daemon.
    pub on_sight: bool,
}

/// What is changed of an item. Of members with two layers the outer says whether, the inner to what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// 0..=31, checked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "given")]
    pub name: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "given")]
    pub due_at: Option<Option<Timestamp>>,
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "given")]
    pub expires_at: Option<Option<Timestamp>>,
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "given")]
    pub not_before: Option<Option<Timestamp>>,
    /// The payload itself is kept apart.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content: Option<Content>,
}

/// What an item remembers of a payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Bytes.
    pub size: u64,
    /// As [`super::door::content_hash`] has it.
    pub hash: String,
    pub content_type: Option<String>,
}

impl Changes {
    /// Writes them to the item; answers their names, for the timeline.
    pub fn make(&self, item: &mut Item) -> Vec<&'static str> {
        let mut made = Vec::new();
        if let Some(content) = &self.content {
            (item.size, item.content_hash) = (Some(content.size), Some(content.hash.clone()));
            item.content_type.clone_from(&content.content_type);
            item.payload_gone = false;
            made.push("payload");
        }
        if let Some(priority) = self.priority {
            item.priority = priority;
            made.push("priority");
        }
        if let Some(name) = &self.name {
            item.name.clone_from(name);
            made.push("name");
        }
        let times = [
            ("due_at", self.due_at, &mut item.due_at),
            ("expires_at", self.expires_at, &mut item.expires_at),
            ("not_before", self.not_before, &mut item.not_before),
        ];
        for (what, change, time) in times {
            if let Some(change) = change {
                *time = change;
                made.push(what);
            }
        }
        made
    }
}

/// A member that is there, also as `null`.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// What may have to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Hold,
    Cancel,
    Edit,
    /// To be worked by whoever asks, with a lease.
    Claim,
}

impl Action {
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Cancel => "cancel",
            Self::Edit => "edit",
            Self::Claim => "claim",
        }
    }
}

impl Request {
    /// An edit of the payload.
    #[must_use]
    pub fn brings_payload(&self) -> bool {
        self.changes.as_ref().is_some_and(|changes| changes.content.is_some())
    }
}

/// A request that waits, as it is kept with the item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub action: Action,
    pub who: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
    pub at: Timestamp,
    /// Nobody looks for its message: it is carried out when the item next passes the daemon.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub on_sight: bool,
    /// It is carried out here, and its message was taken out; that the broker knows of that is not sure yet.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub taken: bool,
    /// Of one that is taken: the hash of what its message carries, which an edit may have replaced in the item.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub carried: Option<String>,
    /// Of a claim: how long the lease is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lease: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub changes: Option<Box<Changes>>,
}
