//! One queue on its way from written keys to a checked definition.
//!
//! A draft begins as the format's defaults, takes what the directory's `defaults:` say, then what the queue says.
//! `labels`, `retry` and `paused` are merged entry by entry; every other key replaces what was there.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::sync::Arc;

use super::field::FileCheck;
use super::node::{Entry, Node, Place, Value};
use super::{Order, Paused, PayloadSchema, Priorities, QueueDefinition, QueueType};
use crate::item::retry::{Backoff, Retry};
use crate::item::{HIGHEST_PRIORITY, Lane};

/// RabbitMQ 4 refuses larger messages unless told otherwise.
const LARGEST_PAYLOAD: u64 = 16 << 20;

type Set<T> = fn(&mut T, &mut FileCheck<'_>, &Node);

/// What a queue may say, in the order of the documentation. All but `queue` may also stand in `defaults`.
pub(super) const KEYS: &[(&str, Set<Draft>)] = &[
    ("queue", |draft, file, node| keep(&mut draft.key, read_key(file, node).map(Some))),
    ("title", |draft, file, node| keep(&mut draft.title, file.text(node).map(Some))),
    ("description", |draft, file, node| keep(&mut draft.queue.description, file.text(node).map(Some))),
    ("owner", |draft, file, node| keep(&mut draft.queue.owner, file.text(node).map(Some))),
    ("labels", |draft, file, node| read_labels(&mut draft.queue.labels, file, node)),
    ("lane", |draft, file, node| {
        keep(&mut draft.queue.lane, file.word(node, &[("managed", Lane::Managed), ("direct", Lane::Direct)]));
    }),
    ("type", |draft, file, node| {
        let types = [("auto", QueueType::Auto), ("quorum", QueueType::Quorum), ("classic", QueueType::Classic)];
        keep(&mut draft.queue.queue_type, file.word(node, &types));
    }),
    ("priorities", |draft, file, node| keep(&mut draft.queue.priorities, read_priorities(file, node))),
    ("expires_after", |draft, file, node| keep(&mut draft.queue.expires_after, file.duration_or_never(node))),
    ("due_after", |draft, file, node| keep(&mut draft.queue.due_after, file.duration_or_never(node))),
    ("unique", |draft, file, node| keep(&mut draft.queue.unique, file.boolean(node))),
    ("schema", |draft, file, node| keep(&mut draft.queue.schema, read_schema(file, node))),
    ("order", |draft, file, node| {
        keep(&mut draft.queue.order, file.word(node, &[("fifo", Order::Fifo), ("deadline", Order::Deadline)]));
    }),
    ("window", |draft, file, node| keep(&mut draft.queue.window, file.whole(node, 1..=100_000))),
    ("retry", |draft, file, node| {
        for (entry, (_, set)) in file.known_entries(node, RETRY_KEYS, |_| None) {
            set(draft, file, &entry.value);
        }
    }),
    ("crash_limit", |draft, file, node| keep(&mut draft.queue.crash_limit, file.whole(node, 1..=1_000))),
    ("max_payload", |draft, file, node| keep(&mut draft.queue.max_payload, file.bytes(node, LARGEST_PAYLOAD))),
    ("paused", |draft, file, node| {
        for (entry, (_, set)) in file.known_entries(node, PAUSED_KEYS, |_| None) {
            set(&mut draft.queue.paused, file, &entry.value);
        }
    }),
];

/// Keys of the format that this version does not do yet: refused as such, never ignored.
pub(super) const NOT_YET: &[&str] = &[
    "at_risk",
    "calendar",
    "max_working",
    "acks",
    "processing_timeout",
    "breaker",
    "on_processed",
    "on_exception",
    "notify",
    "mask",
    "keep",
];

const RETRY_KEYS: &[(&str, Set<Draft>)] = &[
    ("it", |draft, file, node| read_retry(&mut draft.queue.retry.it, file, node)),
    ("generic", |draft, file, node| read_retry(&mut draft.queue.retry.generic, file, node)),
    ("timeout", |draft, file, node| read_retry(&mut draft.queue.retry.timeout, file, node)),
    ("requeue", |draft, file, node| {
        for (entry, (_, set)) in file.known_entries(node, REQUEUE_KEYS, |_| None) {
            set(&mut draft.queue.retry.requeue_limit, file, &entry.value);
        }
    }),
];

const REQUEUE_KEYS: &[(&str, Set<u32>)] = &[("limit", |limit, file, node| keep(limit, file.whole(node, 0..=1_000)))];

const ONE_RETRY_KEYS: &[(&str, Set<Retry>)] = &[
    ("limit", |retry, file, node| keep(&mut retry.limit, file.whole(node, 0..=1_000))),
    ("backoff", |retry, file, node| {
        for (entry, (_, set)) in file.known_entries(node, BACKOFF_KEYS, |_| None) {
            set(&mut retry.backoff, file, &entry.value);
        }
    }),
];

const PAUSED_KEYS: &[(&str, Set<Paused>)] = &[
    ("dispatch", |paused, file, node| keep(&mut paused.dispatch, file.boolean(node))),
    ("intake", |paused, file, node| keep(&mut paused.intake, file.boolean(node))),
];

const BACKOFF_KEYS: &[(&str, Set<Backoff>)] = &[
    ("first", |backoff, file, node| keep(&mut backoff.first, file.duration(node))),
    ("factor", |backoff, file, node| keep(&mut backoff.factor, file.number(node, 1.0..=100.0))),
    ("max", |backoff, file, node| keep(&mut backoff.max, file.duration(node))),
    ("jitter", |backoff, file, node| keep(&mut backoff.jitter, file.percent(node))),
];

/// What is known of a queue so far.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    /// All but key and title.
    queue: QueueDefinition,
    key: Option<String>,
    /// `None`: the key will do.
    title: Option<String>,
    /// Where each key was last given.
    given: BTreeMap<&'static str, Given>,
}

#[derive(Debug, Clone)]
struct Given {
    at: Place,
    /// Where the directory's defaults say it, as `file:line:column`; `None` where the queue itself does.
    in_defaults: Option<String>,
}

impl Draft {
    /// The defaults of the format.
    pub fn new() -> Self {
        Self { queue: QueueDefinition::with_defaults(""), key: None, title: None, given: BTreeMap::new() }
    }

    pub fn take(&mut self, name: &'static str, entry: &Entry, set: Set<Self>, file: &mut FileCheck<'_>) {
        self.given.insert(name, Given { at: entry.key_at, in_defaults: None });
        set(self, file, &entry.value);
    }

    /// This draft as the ground on which the queues of a directory stand.
    pub fn into_shared(mut self, file: &FileCheck<'_>) -> Self {
        for given in self.given.values_mut() {
            given.in_defaults = Some(file.name_of(given.at));
        }
        self
    }

    /// The checked queue and the place of its key; `None` where it has no valid one.
    pub fn finish(mut self, document_at: Place, file: &mut FileCheck<'_>) -> Option<(QueueDefinition, Place)> {
        let key_at = self.given.get("queue").map(|given| given.at);
        if key_at.is_none() {
            let help = "every queue has a key: queue: invoices";
            file.report(document_at, "'queue' is missing", help.to_owned());
        }
        if self.queue.lane == Lane::Direct {
            self.refuse_what_only_managed_can(key_at.unwrap_or(document_at), file);
        }
        self.queue.key = self.key?;
        self.queue.title = self.title.unwrap_or_else(|| self.queue.key.clone());
        Some((self.queue, key_at.unwrap_or(document_at)))
    }

    /// The daemon does not see a direct item before the robots do: a check it was asked for would silently not happen.
    fn refuse_what_only_managed_can(&self, key_at: Place, file: &mut FileCheck<'_>) {
        let plain = QueueDefinition::with_defaults("");
        let managed_only = [
            ("unique", self.queue.unique != plain.unique, "unique: false"),
            ("schema", self.queue.schema.is_some(), "schema: none"),
            ("order", self.queue.order != plain.order, "order: fifo"),
            ("window", self.queue.window != plain.window, "window: 200"),
            ("max_payload", self.queue.max_payload != plain.max_payload, "max_payload: 1MiB"),
        ];
        let lane_at =
            self.given.get("lane").filter(|given| given.in_defaults.is_none()).map_or(key_at, |given| given.at);
        for (name, _, default) in managed_only.into_iter().filter(|(_, differs, _)| *differs) {
            let Some(given) = self.given.get(name) else { continue };
            let (at, who, cure) = match &given.in_defaults {
                None => (given.at, String::new(), "remove it".to_owned()),
                Some(place) => {
                    (lane_at, format!(", set by the defaults at {place},"), format!("write '{default}' here"))
                }
            };
            let message = format!("'{name}'{who} needs the managed lane, this queue takes the direct one");
            file.report(at, &message, format!("{cure}, or write 'lane: managed'"));
        }
    }
}

/// Takes a value that could be read; a mistake leaves what was there.
fn keep<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

fn read_key(file: &mut FileCheck<'_>, node: &Node) -> Option<String> {
    let key = file.text(node)?;
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    if key.len() <= 100 && key.chars().all(valid) {
        return Some(key);
    }
    let cure = key.to_lowercase().replace([' ', '/'], "-");
    let help = (cure.len() <= 100 && cure.chars().all(valid)).then(|| format!("did you mean '{cure}'?"));
    file.expected(node, "a key of 1 to 100 lower-case letters, digits, '-', '_' and '.'", help);
    None
}

fn read_retry(retry: &mut Retry, file: &mut FileCheck<'_>, node: &Node) {
    for (entry, (_, set)) in file.known_entries(node, ONE_RETRY_KEYS, |_| None) {
        set(retry, file, &entry.value);
    }
}

fn read_labels(labels: &mut BTreeMap<String, String>, file: &mut FileCheck<'_>, node: &Node) {
    for entry in file.named_entries(node) {
        if let Some(text) = file.text(&entry.value) {
            labels.insert(entry.key.clone(), text);
        }
    }
}

fn read_priorities(file: &mut FileCheck<'_>, node: &Node) -> Option<Priorities> {
    let mut names = BTreeMap::new();
    let entries = file.named_entries(node);
    for entry in &entries {
        let level =
            file.whole(&entry.value, 0..=u32::from(HIGHEST_PRIORITY)).and_then(|level| u8::try_from(level).ok());
        names.insert(entry.key.clone(), level);
    }
    if matches!(node.value, Value::Map(_)) && !names.contains_key("normal") {
        file.report(
            node.at,
            "no priority is named 'normal'",
            "name the one that items get which ask for none, e.g. normal: 4".to_owned(),
        );
    }
    // A level that could not be read was reported; nothing is built from the rest.
    let names: Option<BTreeMap<String, u8>> = names.into_iter().map(|(name, level)| Some((name, level?))).collect();
    names.and_then(Priorities::new)
}

/// `none`, the name of a JSON file beside the definition, or the schema itself.
fn read_schema(file: &mut FileCheck<'_>, node: &Node) -> Option<Option<Arc<PayloadSchema>>> {
    let (document, what) = match &node.value {
        Value::Text(name) if name == "none" => return Some(None),
        Value::Text(name) => (schema_file(file, node, name)?, format!("'{name}' is no JSON Schema")),
        Value::Map(_) => (file.json(node), "this is no JSON Schema".to_owned()),
        _ => {
            let help = "write 'none', the name of a JSON file beside this one, or the schema itself as a map";
            file.expected(node, "a JSON Schema", help.to_owned());
            return None;
        }
    };
    match PayloadSchema::compile(document) {
        Ok(schema) => Some(Some(Arc::new(schema))),
        Err(cause) => {
            file.report(node.at, &format!("{what}: {cause}"), None);
            None
        }
    }
}

fn schema_file(file: &mut FileCheck<'_>, node: &Node, name: &str) -> Option<serde_json::Value> {
    let path = Path::new(name);
    if name.is_empty() || leaves_its_directory(path) {
        let message = format!("'{name}' is no file of this directory");
        file.report(
            node.at,
            &message,
            "keep the schema beside the definitions and name it relative to them".to_owned(),
        );
        return None;
    }
    let path = file.source.path.parent().unwrap_or(Path::new("")).join(path);
    let text = match (file.read_schema)(&path) {
        Ok(text) => text,
        Err(cause) => {
            file.report(node.at, &format!("cannot read the schema '{name}': {cause}"), None);
            return None;
        }
    };
    match serde_json::from_str(text.trim_start_matches('\u{feff}')) {
        Ok(document) => Some(document),
        Err(cause) => {
            file.report(node.at, &format!("the schema '{name}' is no JSON: {cause}"), None);
            None
        }
    }
}

fn leaves_its_directory(path: &Path) -> bool {
    let mut depth = 0_usize;
    for part in path.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return true,
        }
    }
    depth == 0
}
