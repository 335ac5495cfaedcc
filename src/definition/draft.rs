//! One queue on its way from written keys to a checked definition.
//!
//! A draft begins as the format's defaults, takes what the directory's `defaults:` say, then what the queue says.
//! `labels`, `retry`, `paused` and `keep` are merged entry by entry; every other key replaces what was there.

use std::collections::BTreeMap;

use super::chain::Link;
use super::field::FileCheck;
use super::node::{Entry, Node, Place};
use super::read::{self, keep};
use super::rules::Acks;
use super::schemas::Schemas;
use super::{Order, QueueDefinition, QueueType};
use crate::item::Lane;

/// RabbitMQ 4 refuses larger messages unless told otherwise.
const LARGEST_PAYLOAD: u64 = 16 << 20;

pub(super) type SetKey = fn(&mut Draft, &mut FileCheck<'_>, &Node, &mut Schemas<'_>);

/// What a queue may say, in the order of the documentation. All but `queue` may also stand in `defaults`.
pub(super) const KEYS: &[(&str, SetKey)] = &[
    ("queue", |draft, file, node, _| keep(&mut draft.key, read::key(file, node).map(Some))),
    ("title", |draft, file, node, _| keep(&mut draft.title, file.text(node).map(Some))),
    ("description", |draft, file, node, _| keep(&mut draft.queue.description, file.text(node).map(Some))),
    ("owner", |draft, file, node, _| keep(&mut draft.queue.owner, file.text(node).map(Some))),
    ("labels", |draft, file, node, _| read::labels(&mut draft.queue.labels, file, node)),
    ("lane", |draft, file, node, _| {
        keep(&mut draft.queue.lane, file.word(node, &[("managed", Lane::Managed), ("direct", Lane::Direct)]));
    }),
    ("type", |draft, file, node, _| {
        let types = [("auto", QueueType::Auto), ("quorum", QueueType::Quorum), ("classic", QueueType::Classic)];
        keep(&mut draft.queue.queue_type, file.word(node, &types));
    }),
    ("priorities", |draft, file, node, _| keep(&mut draft.queue.priorities, read::priorities(file, node))),
    ("expires_after", |draft, file, node, _| keep(&mut draft.queue.expires_after, file.duration_or(node, "never"))),
    ("due_after", |draft, file, node, _| keep(&mut draft.queue.due_after, file.duration_or(node, "never"))),
    ("at_risk", |draft, file, node, _| keep(&mut draft.queue.at_risk, file.percent(node))),
    ("calendar", |draft, file, node, _| keep(&mut draft.queue.calendar, read::calendar(file, node))),
    ("unique", |draft, file, node, _| keep(&mut draft.queue.unique, file.boolean(node))),
    ("schema", |draft, file, node, schemas| keep(&mut draft.queue.schema, schemas.read(file, node))),
    ("order", |draft, file, node, _| {
        keep(&mut draft.queue.order, file.word(node, &[("fifo", Order::Fifo), ("deadline", Order::Deadline)]));
    }),
    ("window", |draft, file, node, _| keep(&mut draft.queue.window, file.whole(node, 1..=100_000))),
    ("max_working", |draft, file, node, _| keep(&mut draft.queue.max_working, read::max_working(file, node))),
    ("acks", |draft, file, node, _| {
        let words = [("trusted", Acks::Trusted), ("report_required", Acks::ReportRequired)];
        keep(&mut draft.queue.acks, file.word(node, &words));
    }),
    ("processing_timeout", |draft, file, node, _| {
        keep(&mut draft.queue.processing_timeout, file.duration_or(node, "none"));
    }),
    ("retry", |draft, file, node, _| read::retry(&mut draft.queue.retry, file, node)),
    ("crash_limit", |draft, file, node, _| keep(&mut draft.queue.crash_limit, file.whole(node, 1..=1_000))),
    ("breaker", |draft, file, node, _| keep(&mut draft.queue.breaker, read::breaker(file, node))),
    ("on_processed", |draft, file, node, _| {
        if let Some(next) = read::next_queue(file, node) {
            draft.links.retain(|link| link.by != "on_processed");
            draft.links.extend(next.iter().map(|to| Link::new("on_processed", to, node.at, file)));
            draft.queue.on_processed = next;
        }
    }),
    ("on_exception", |draft, file, node, _| {
        if let Some(next) = read::queues_by_kind(file, node) {
            draft.links.retain(|link| link.by != "on_exception");
            draft.links.extend(next.iter().map(|(_, to, node)| Link::new("on_exception", to, node.at, file)));
            draft.queue.on_exception = next.into_iter().map(|(kind, to, _)| (kind, to)).collect();
        }
    }),
    ("notify", |draft, file, node, _| keep(&mut draft.queue.notify, read::notices(file, node))),
    ("paused", |draft, file, node, _| read::paused(&mut draft.queue.paused, file, node)),
    ("mask", |draft, file, node, _| keep(&mut draft.queue.mask, read::paths(file, node))),
    ("keep", |draft, file, node, _| read::kept(&mut draft.queue.keep, file, node)),
    ("max_payload", |draft, file, node, _| keep(&mut draft.queue.max_payload, file.bytes(node, LARGEST_PAYLOAD))),
];

type Same = fn(&QueueDefinition, &QueueDefinition) -> bool;

/// Keys that need the daemon between producer and robot, as the documentation marks them.
const MANAGED_ONLY: &[(&str, Same, &str)] = &[
    ("unique", |a, b| a.unique == b.unique, "unique: false"),
    ("schema", |a, b| a.schema.is_some() == b.schema.is_some(), "schema: none"),
    ("order", |a, b| a.order == b.order, "order: fifo"),
    ("window", |a, b| a.window == b.window, "window: 200"),
    ("max_working", |a, b| a.max_working == b.max_working, "max_working: none"),
    ("max_payload", |a, b| a.max_payload == b.max_payload, "max_payload: 1MiB"),
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
    links: Vec<Link>,
}

#[derive(Debug, Clone)]
struct Given {
    at: Place,
    /// Where the directory's defaults say it, as `file:line:column`; `None` where the queue itself does.
    in_defaults: Option<String>,
}

/// A checked queue.
pub(super) struct Finished {
    pub queue: QueueDefinition,
    pub key_at: Place,
    pub links: Vec<Link>,
}

impl Draft {
    /// The defaults of the format.
    pub fn new() -> Self {
        Self {
            queue: QueueDefinition::with_defaults(""),
            key: None,
            title: None,
            given: BTreeMap::new(),
            links: Vec::new(),
        }
    }

    pub fn take(
        &mut self,
        name: &'static str,
        entry: &Entry,
        set: SetKey,
        file: &mut FileCheck<'_>,
        schemas: &mut Schemas<'_>,
    ) {
        self.given.insert(name, Given { at: entry.key_at, in_defaults: None });
        set(self, file, &entry.value, schemas);
    }

    /// This draft as the ground on which the queues of a directory stand.
    pub fn into_shared(mut self, file: &FileCheck<'_>) -> Self {
        for given in self.given.values_mut() {
            given.in_defaults = Some(file.name_of(given.at));
        }
        for link in &mut self.links {
            link.in_defaults = Some(file.name_of(link.at));
        }
        self
    }

    /// The checked queue; `None` where it has no valid key.
    pub fn finish(mut self, document_at: Place, file: &mut FileCheck<'_>) -> Option<Finished> {
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
        Some(Finished { queue: self.queue, key_at: key_at.unwrap_or(document_at), links: self.links })
    }

    /// The daemon does not see a direct item before the robots do: a check it was asked for would silently not happen.
    fn refuse_what_only_managed_can(&self, key_at: Place, file: &mut FileCheck<'_>) {
        let plain = QueueDefinition::with_defaults("");
        let lane_at =
            self.given.get("lane").filter(|given| given.in_defaults.is_none()).map_or(key_at, |given| given.at);
        for (name, _, anyway) in MANAGED_ONLY.iter().filter(|(_, same, _)| !same(&self.queue, &plain)) {
            let Some(given) = self.given.get(name) else { continue };
            let (at, who, cure) = match &given.in_defaults {
                None => (given.at, String::new(), "remove it".to_owned()),
                Some(place) => {
                    (lane_at, format!(", set by the defaults at {place},"), format!("write '{anyway}' here"))
                }
            };
            let message = format!("'{name}'{who} needs the managed lane, this queue takes the direct one");
            file.report(at, &message, format!("{cure}, or write 'lane: managed'"));
        }
    }
}
