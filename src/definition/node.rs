//! YAML text as a tree in which every node knows its line and column.
//!
//! The tree keeps what the author wrote apart from what it may come to mean: a quoted `"1"` is text, `no` is text, and
//! a key that stands twice is there twice, so that one walk over the tree can report every mistake. The parser's budgets
//! stay on (nesting, nodes, alias replays): no input makes it slow or large.

use std::fmt;
use std::io::Cursor;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{DefaultMessageFormatter, Location, MessageFormatter, Options, Spanned};

/// Nested maps and lists; a definition needs about ten, a schema written inline some more.
const MAX_DEPTH: usize = 48;

/// Nodes of one file, aliases counted as often as they are used: thousands of queues, and no room for a YAML bomb.
const MAX_NODES: usize = 50_000;

/// Bytes of one text.
const MAX_TEXT: usize = 64 << 10;

/// Aliases of one document. Each is a copy of what it names.
const MAX_ALIASES: usize = 1_000;

/// Room for all files of a directory: keys and values, and long texts as several.
pub(super) const ROOM: usize = 2_000_000;

/// Documents of one file that cannot be read before the rest of it is left.
const MAX_BAD_DOCUMENTS: usize = 20;

/// A stretch of one line. Counted from 1, in characters; line 0 is the file as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub line: u64,
    pub column: u64,
    /// Characters, also those on following lines.
    pub width: u64,
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        Self { line: location.line(), column: location.column(), width: location.span().len() }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// Where it is used: of an alias the `*name`.
    pub at: Place,
    /// Where it is written: of an alias what stands at the anchor.
    pub written: Place,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub key: String,
    pub key_at: Place,
    pub value: Node,
}

/// Why a document is no YAML, or more of it than is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub at: Place,
    pub message: String,
    pub help: Option<String>,
}

/// Reads the documents of a file; empty ones are left out. A document that cannot be read does not hide the others: where
/// the parser lost its way, it begins anew at the next `---`. Takes what it reads out of the `room`.
pub(super) fn documents(text: &str, room: &mut usize) -> (Vec<Node>, Vec<SyntaxError>) {
    let (mut read, mut errors) = (Vec::new(), Vec::new());
    let all = *room;
    let mut in_file = all.min(MAX_NODES);
    let (mut rest, mut lines_before) = (text, 0);
    loop {
        let known = errors.len();
        let lost = read_stream(rest, lines_before, &mut in_file, &mut read, &mut errors);
        let Some(error_at) = lost.then(|| errors.last()).flatten().map(|error| error.at.line) else { break };
        if errors.len() == known || errors.len() >= MAX_BAD_DOCUMENTS {
            break;
        }
        let Some((skipped, behind)) = behind_next_marker(rest, error_at.saturating_sub(lines_before)) else { break };
        lines_before += skipped;
        rest = behind;
    }
    *room = all - (all.min(MAX_NODES) - in_file);
    if errors.len() >= MAX_BAD_DOCUMENTS
        && let Some(last) = errors.last_mut()
    {
        last.help = Some("what stands behind it was not read".to_owned());
    }
    (read, errors)
}

/// Reads as far as the parser gets. `true` where it ended with a document that it could not read.
fn read_stream(
    text: &str,
    lines_before: u64,
    room: &mut usize,
    read: &mut Vec<Node>,
    errors: &mut Vec<SyntaxError>,
) -> bool {
    let mut bytes = Cursor::new(text.as_bytes());
    let mut lost = false;
    for document in serde_saphyr::read_with_options::<_, Spanned<Value>>(&mut bytes, options()) {
        lost = document.is_err();
        match document.map(Node::from) {
            Ok(mut document) => {
                let Some(left) = room.checked_sub(document.count()) else {
                    let at = Place { line: document.at.line + lines_before, ..document.at };
                    errors.push(SyntaxError { at, message: TOO_LARGE.to_owned(), help: None });
                    return false;
                };
                *room = left;
                if lines_before > 0 {
                    document.move_down(lines_before);
                }
                read.push(document);
            }
            Err(error) => {
                let mut error = SyntaxError::from(&error);
                if error.at.line > 0 {
                    error.at.line += lines_before;
                }
                errors.push(error);
                if errors.len() >= MAX_BAD_DOCUMENTS {
                    return true;
                }
            }
        }
    }
    lost
}

/// The text from the first document marker behind a line (from 1), and the lines before it.
fn behind_next_marker(text: &str, line: u64) -> Option<(u64, &str)> {
    let mut start = 0;
    for (number, content) in (0_u64..).zip(text.split_inclusive('\n')) {
        // Nothing else in YAML may begin a line with it.
        let marker = content
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if number >= line && marker {
            return Some((number, text.get(start..)?));
        }
        start += content.len();
    }
    None
}

const TOO_LARGE: &str = "too large: a file holds at most 50000 keys and values, those of aliases counted at each use, and a directory at most \
     2000000";

const TOO_LONG: &str = "a text has at most 64KiB";

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_nodes: MAX_NODES, max_aliases: MAX_ALIASES },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_NODES },
        // Reported by the walk over the tree, with all other mistakes.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // `defaults:` is the format's own way to share keys, so `<<` is an unknown key like any other.
        merge_keys: MergeKeyPolicy::AsOrdinary,
        // What YAML 1.1 would turn into something the author did not write: `no`, `007`, `1_000`, `.inf`.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

impl From<&serde_saphyr::Error> for SyntaxError {
    fn from(error: &serde_saphyr::Error) -> Self {
        let message = match error.without_snippet() {
            serde_saphyr::Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
                format!("nested deeper than {MAX_DEPTH} levels")
            }
            serde_saphyr::Error::Budget { .. } | serde_saphyr::Error::AliasReplayLimitExceeded { .. } => {
                TOO_LARGE.to_owned()
            }
            other => DefaultMessageFormatter.format_message(other).into_owned(),
        };
        Self { at: error.location().map(Place::from).unwrap_or_default(), message, help: None }
    }
}

impl Node {
    fn move_down(&mut self, lines: u64) {
        self.at.line += lines;
        self.written.line += lines;
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.move_down(lines)),
            Value::Map(entries) => entries.iter_mut().for_each(|entry| {
                entry.key_at.line += lines;
                entry.value.move_down(lines);
            }),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {}
        }
    }

    /// This node and all below it; long texts count as several.
    fn count(&self) -> usize {
        let long = |text: &str| text.len() / 100;
        1 + match &self.value {
            Value::List(items) => items.iter().map(Self::count).sum(),
            Value::Map(entries) => {
                entries.iter().map(|entry| 1 + long(&entry.key) + entry.value.count()).sum::<usize>()
            }
            Value::Text(text) => long(text),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => 0,
        }
    }
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Self { at: spanned.referenced.into(), written: spanned.defined.into(), value: spanned.value }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        if value.len() > MAX_TEXT {
            return Err(E::custom(TOO_LONG));
        }
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
        if value.len() > MAX_TEXT {
            return Err(E::custom(TOO_LONG));
        }
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Value>>()? {
            list.push(item.into());
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<Key>>()? {
            let value = entries.next_value::<Spanned<Value>>()?;
            map.push(Entry { key: key.value.0, key_at: key.referenced.into(), value: value.into() });
        }
        Ok(Value::Map(map))
    }
}

/// The key of a map, whatever plain value it is written as.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Text(text) => Ok(Self(text)),
            Value::Bool(value) => Ok(Self(value.to_string())),
            Value::Int(value) => Ok(Self(value.to_string())),
            Value::Float(value) => Ok(Self(format!("{value:?}"))),
            Value::Null => Ok(Self(String::new())),
            Value::List(_) | Value::Map(_) => Err(serde::de::Error::custom("a key is a word, not a list or a map")),
        }
    }
}
