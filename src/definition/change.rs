//! What differs between two sets of definitions, for people and for the record.

use serde::Serialize;

use super::{Definitions, QueueDefinition};

/// What became of one queue from one set to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    pub queue: String,
    pub what: What,
    /// The keys whose value differs; empty unless `changed`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Added,
    Changed,
    Removed,
}

/// Every queue that is not the same in both sets, by key.
#[must_use]
pub fn changes(before: &Definitions, after: &Definitions) -> Vec<Change> {
    let mut changes = Vec::new();
    for (key, now) in &after.queues {
        match before.queues.get(key) {
            None => changes.push(Change { queue: key.clone(), what: What::Added, keys: Vec::new() }),
            Some(then) => {
                let keys = differences(then, now);
                if !keys.is_empty() {
                    changes.push(Change { queue: key.clone(), what: What::Changed, keys });
                }
            }
        }
    }
    let removed = before.queues.keys().filter(|key| !after.queues.contains_key(*key));
    changes.extend(removed.map(|key| Change { queue: key.clone(), what: What::Removed, keys: Vec::new() }));
    changes.sort_by(|a, b| a.queue.cmp(&b.queue));
    changes
}

/// The keys whose value differs.
#[must_use]
pub fn differences(before: &QueueDefinition, after: &QueueDefinition) -> Vec<&'static str> {
    let pairs = said(before).into_iter().zip(said(after));
    pairs.filter(|(then, now)| then.1 != now.1).map(|(then, _)| then.0).collect()
}

/// What a definition says, in the order of the format. Every field stands here: a new one does not compile without.
fn said(definition: &QueueDefinition) -> Vec<(&'static str, String)> {
    let QueueDefinition {
        key: _,
        title,
        description,
        owner,
        labels,
        lane,
        queue_type,
        priorities,
        expires_after,
        due_after,
        at_risk,
        calendar,
        unique,
        schema,
        order,
        window,
        max_working,
        acks,
        processing_timeout,
        retry,
        crash_limit,
        breaker,
        on_processed,
        on_exception,
        notify,
        mask,
        keep,
        max_payload,
        paused,
    } = definition;
    vec![
        ("title", title.clone()),
        ("description", format!("{description:?}")),
        ("owner", format!("{owner:?}")),
        ("labels", format!("{labels:?}")),
        ("lane", format!("{lane:?}")),
        ("type", format!("{queue_type:?}")),
        ("priorities", format!("{priorities:?}")),
        ("expires_after", format!("{expires_after:?}")),
        ("due_after", format!("{due_after:?}")),
        ("at_risk", at_risk.to_string()),
        ("calendar", format!("{calendar:?}")),
        ("unique", unique.to_string()),
        ("schema", schema.as_ref().map(|schema| schema.source().to_string()).unwrap_or_default()),
        ("order", format!("{order:?}")),
        ("window", window.to_string()),
        ("max_working", format!("{max_working:?}")),
        ("acks", format!("{acks:?}")),
        ("processing_timeout", format!("{processing_timeout:?}")),
        ("retry", format!("{retry:?}")),
        ("crash_limit", crash_limit.to_string()),
        ("breaker", format!("{breaker:?}")),
        ("on_processed", format!("{on_processed:?}")),
        ("on_exception", format!("{on_exception:?}")),
        ("notify", format!("{notify:?}")),
        ("mask", format!("{mask:?}")),
        ("keep", format!("{keep:?}")),
        ("max_payload", max_payload.to_string()),
        ("paused", format!("{paused:?}")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_by_queue_and_key() {
        let set = |queues: &[QueueDefinition]| Definitions {
            queues: queues.iter().map(|queue| (queue.key.clone(), queue.clone().into())).collect(),
            ..Definitions::default()
        };
        let plain = QueueDefinition::with_defaults;
        let before = set(&[plain("a"), plain("b"), plain("c")]);
        let after = set(&[plain("a"), QueueDefinition { window: 5, unique: true, ..plain("b") }, plain("d")]);
        let told: Vec<String> = changes(&before, &after)
            .iter()
            .map(|change| format!("{} {:?} {}", change.queue, change.what, change.keys.join(",")))
            .collect();
        assert_eq!(told, ["b Changed unique,window", "c Removed ", "d Added "]);
        assert!(changes(&before, &before).is_empty());
    }
}
