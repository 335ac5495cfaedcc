//! An AMQP message in words of ours, so that everything that reads one can be pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Timestamp;

/// What came from the broker, without the means to answer it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Message {
    pub exchange: String,
    pub routing_key: String,
    /// The broker handed it out before; a confirmed admission may already have happened.
    pub redelivered: bool,
    pub properties: Properties,
    pub body: Vec<u8>,
}

/// The AMQP 0-9-1 properties that we read or write.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Properties {
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    pub content_type: Option<String>,
    pub priority: Option<u8>,
    /// Milliseconds as text, as AMQP has it.
    pub expiration: Option<String>,
    /// Seconds since 1970.
    pub timestamp: Option<u64>,
    pub reply_to: Option<String>,
    /// `type`.
    pub kind: Option<String>,
    /// Verified by the broker where set.
    pub user_id: Option<String>,
    pub app_id: Option<String>,
    pub headers: BTreeMap<String, Header>,
}

/// A header's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Header {
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    /// Seconds since 1970.
    Time(u64),
    Bytes(Vec<u8>),
    List(Vec<Header>),
    Table(BTreeMap<String, Header>),
    Null,
}

impl Header {
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What kind of value it is, for error texts.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Int(_) => "a number",
            Self::Float(_) => "a fraction",
            Self::Bool(_) => "a truth value",
            Self::Time(_) => "a timestamp",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Null => "nothing",
        }
    }

    /// A moment written as RFC 3339 text or as an AMQP timestamp.
    ///
    /// # Errors
    /// Says what was found instead.
    pub fn as_time(&self) -> Result<Timestamp, String> {
        match self {
            Self::Text(text) => {
                text.parse().map_err(|_| format!("'{text}' is no RFC 3339 time such as 2026-01-31T12:00:00Z"))
            }
            Self::Time(seconds) => i64::try_from(*seconds)
                .ok()
                .and_then(|seconds| Timestamp::from_second(seconds).ok())
                .ok_or_else(|| format!("the timestamp {seconds} is out of range")),
            other => Err(format!("it is {}, not an RFC 3339 text or an AMQP timestamp", other.type_name())),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Int(number) => json!(number),
            Self::Float(number) => json!(number),
            Self::Bool(truth) => json!(truth),
            Self::Time(seconds) => json!({ "timestamp": seconds }),
            Self::Bytes(bytes) => json!({ "bytes": String::from_utf8_lossy(bytes) }),
            Self::List(list) => list.iter().map(Self::to_json).collect(),
            Self::Table(table) => table_to_json(table),
            Self::Null => Value::Null,
        }
    }
}

fn table_to_json(table: &BTreeMap<String, Header>) -> Value {
    table.iter().map(|(name, value)| (name.clone(), value.to_json())).collect()
}

impl Properties {
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Header> {
        self.headers.get(name)
    }

    /// For people who look at a parked message.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut properties = json!({
            "message_id": self.message_id,
            "correlation_id": self.correlation_id,
            "content_type": self.content_type,
            "priority": self.priority,
            "expiration": self.expiration,
            "timestamp": self.timestamp,
            "reply_to": self.reply_to,
            "type": self.kind,
            "user_id": self.user_id,
            "app_id": self.app_id,
        });
        if let Some(object) = properties.as_object_mut() {
            object.retain(|_, value| !value.is_null());
            if !self.headers.is_empty() {
                object.insert("headers".to_owned(), table_to_json(&self.headers));
            }
        }
        properties
    }
}
