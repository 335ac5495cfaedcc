//! What a person should know beside the steps.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::steps::shown;
use super::{About, Action, Look, Note, Step};
use crate::topology::desired::{Argument, Policy, Queue};
use crate::topology::observed::Counts;
use crate::topology::version::Version;

/// Keys of a policy over which items leave a queue, or never get into it.
const COSTLY: [&str; 5] = ["expires", "max-length", "max-length-bytes", "message-ttl", "delivery-limit"];

/// More queues than this are counted, not named.
const MOST_NAMED: usize = 5;

pub(super) fn notes(look: &Look<'_>, steps: &[Step]) -> Vec<Note> {
    let mut notes = retired(look);
    notes.extend(useless_words(look));
    notes.extend(migrations(look, steps));
    notes.extend(foreign_policies(look));
    notes.extend(odd_bindings(look));
    notes.extend(limits(look, steps));
    notes
}

fn note(about: About, key: Option<&str>, text: String) -> Note {
    Note { about, key: key.map(str::to_owned), text }
}

fn retired(look: &Look<'_>) -> Vec<Note> {
    let unsaid = look.retired().filter(|(key, _)| !look.words.contains(*key));
    unsaid
        .map(|(key, queue)| {
            let counts = look.observed.queues.get(queue).map(|there| there.counts).unwrap_or_default();
            let holds = holds(counts, look.facts.open(key));
            let text = format!(
                "{key} is not defined any more: it takes nothing new and goes on handing out what it has. {queue} holds \
                 {holds}. `warrend apply --retire {key}` deletes it with what is in it then."
            );
            note(About::Retired, Some(key), text)
        })
        .collect()
}

/// `4 ready, 1 with robots; 7 open in the mirror`.
pub(in crate::topology) fn holds(counts: Counts, mirror: Option<u64>) -> String {
    let number = |count: Option<u64>| count.map_or_else(|| "an unknown number".to_owned(), |count| count.to_string());
    let open = match mirror {
        Some(open) => format!("{open} open in the mirror"),
        None => "the mirror was not asked".to_owned(),
    };
    format!("{} ready, {} with robots; {open}", number(counts.ready), number(counts.unacked))
}

fn useless_words(look: &Look<'_>) -> Vec<Note> {
    let useless = look.words.iter().filter_map(|key| {
        let text = if look.is_defined(key) {
            format!("{key} is defined, so it is not retired. Take its definition away first.")
        } else if look.observed.queues.contains_key(&look.names.robots(key)) || look.facts.retired.contains(key) {
            return None;
        } else {
            format!("There is no queue {} to retire.", look.names.robots(key))
        };
        Some(note(About::Word, Some(key), text))
    });
    useless.collect()
}

fn migrations(look: &Look<'_>, steps: &[Step]) -> Vec<Note> {
    let planned: BTreeSet<&str> = steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::Migrate { key, .. } => Some(key.as_str()),
            _ => None,
        })
        .collect();
    let under_way = look.facts.migrating.iter().map(|key| {
        note(
            About::Migration,
            Some(key),
            format!("A migration of {key} is under way and goes on; its queue is not planned for."),
        )
    });
    let left = look.observed.queues.iter().filter_map(|(queue, there)| {
        let key = look.names.key_of_moving(queue)?;
        if planned.contains(key) || look.facts.migrating.contains(key) {
            return None;
        }
        let messages = there.counts.total.map_or_else(|| "an unknown number of".to_owned(), |total| total.to_string());
        let text = format!(
            "{queue} is a migration's, and none of {key} is known to be under way. It holds {messages} messages. Look at \
             them; once it is empty, delete it by hand."
        );
        Some(note(About::Migration, Some(key), text))
    });
    let rolled_back = look.facts.rolled_back.iter().map(|(key, why)| {
        let text = format!(
            "The migration of {key} was rolled back: {why}. Its queue is as it was. `warrend apply` tries again, and so does \
             another definition."
        );
        note(About::Migration, Some(key), text)
    });
    under_way.chain(rolled_back).chain(left).collect()
}

/// What one foreign policy does to our queues.
#[derive(Default)]
struct Effect<'a> {
    /// Queues on which it stands before ours, and what is not in force there.
    shadows: Vec<&'a str>,
    lost: BTreeSet<&'a str>,
    /// Queues on which it sets what items may be lost over, and what.
    imposes: Vec<&'a str>,
    costly: BTreeSet<String>,
}

fn foreign_policies(look: &Look<'_>) -> Vec<Note> {
    let mut effects: BTreeMap<(bool, &str), Effect<'_>> = BTreeMap::new();
    let ours: BTreeMap<&str, &Policy> =
        look.desired.policies.iter().map(|policy| (policy.name.as_str(), policy)).collect();
    for queue in &look.desired.queues {
        let own = ours.get(queue.name.as_str()).copied();
        if let Some(foreign) = in_effect(look, queue, own) {
            let effect = effects.entry((false, &foreign.name)).or_default();
            if let Some(own) = own {
                let lost = not_in_force(own, foreign);
                if !lost.is_empty() {
                    effect.shadows.push(&queue.name);
                    effect.lost.extend(lost);
                }
            }
            impose(effect, queue, foreign, own);
        }
        for operator in look.observed.operator_policies.values().filter(|operator| applies(operator, queue)) {
            impose(effects.entry((true, &operator.name)).or_default(), queue, operator, own);
        }
    }
    effects.into_iter().filter_map(|((operator, name), effect)| describe(look, operator, name, &effect)).collect()
}

/// The policy of somebody else that is in effect on a queue, now or once ours is set.
fn in_effect<'a>(look: &Look<'a>, queue: &Queue, own: Option<&Policy>) -> Option<&'a Policy> {
    let policies = &look.observed.policies;
    let wins = |foreign: &&Policy| own.is_none_or(|own| own.name != foreign.name && foreign.priority >= own.priority);
    match look.observed.queues.get(&queue.name) {
        Some(there) => there.policy.as_ref().and_then(|name| policies.get(name)).filter(wins),
        None => policies
            .values()
            .filter(|foreign| applies(foreign, queue))
            .filter(wins)
            .max_by_key(|foreign| foreign.priority),
    }
    .filter(|foreign| foreign.name != queue.name)
}

/// As far as it can be told: RabbitMQ's patterns know more than ours. It skips a policy with any key that is not for this
/// type of queue.
fn applies(policy: &Policy, queue: &Queue) -> bool {
    let kind = kind(queue);
    let to_this = match policy.apply_to.as_str() {
        "all" | "queues" => true,
        "quorum_queues" => kind == "quorum",
        "classic_queues" => kind == "classic",
        "streams" => kind == "stream",
        _ => false,
    };
    let has = |key: &str| policy.definition.get(key).is_some();
    let skipped = match kind {
        "stream" => COSTLY.iter().any(|key| *key != "max-length-bytes" && has(key)),
        "classic" => has("delivery-limit"),
        _ => false,
    };
    to_this && !skipped && regex_lite::Regex::new(&policy.pattern).is_ok_and(|pattern| pattern.is_match(&queue.name))
}

fn kind(queue: &Queue) -> &str {
    match queue.arguments.get("x-queue-type") {
        Some(Argument::Text(kind)) => kind,
        _ => "classic",
    }
}

fn not_in_force<'a>(own: &'a Policy, foreign: &Policy) -> BTreeSet<&'a str> {
    let keys = own.definition.as_object().into_iter().flatten();
    keys.filter(|(name, value)| foreign.definition.get(name) != Some(value)).map(|(name, _)| name.as_str()).collect()
}

fn impose<'a>(effect: &mut Effect<'a>, queue: &'a Queue, foreign: &Policy, own: Option<&Policy>) {
    let asked = |name: &str, value: &Value| own.is_some_and(|own| own.definition.get(name) == Some(value));
    let costly = foreign.definition.as_object().into_iter().flatten();
    let costly: Vec<String> = costly
        .filter(|(name, value)| COSTLY.contains(&name.as_str()) && !asked(name, value))
        // The limit of a robots' queue is ours to set, and named as what is not in force.
        .filter(|(name, _)| name.as_str() != "delivery-limit" || queue.key.is_none())
        .map(|(name, value)| format!("{name} {}", shown(value)))
        .collect();
    if !costly.is_empty() {
        effect.imposes.push(&queue.name);
        effect.costly.extend(costly);
    }
}

fn describe(look: &Look<'_>, operator: bool, name: &str, effect: &Effect<'_>) -> Option<Note> {
    let mut text = String::new();
    if !effect.shadows.is_empty() {
        let priority = look.observed.policies.get(name).map_or(0, |policy| policy.priority);
        let ours = look.desired.policies.first().map_or(0, |policy| policy.priority);
        let lost = effect.lost.iter().copied().collect::<Vec<_>>().join(" and ");
        text = format!(
            "The policy {name} (priority {priority}, ours {ours}) stands before ours on {}: {lost} of the definitions {} not \
             in force there. It is left alone. Give it a lower priority, or write {} into it.",
            named(&effect.shadows),
            if effect.lost.len() == 1 { "is" } else { "are" },
            if effect.lost.len() == 1 { "that" } else { "those" },
        );
    }
    if !effect.imposes.is_empty() {
        let costly = effect.costly.iter().cloned().collect::<Vec<_>>().join(", ");
        let queues = named(&effect.imposes);
        let who = if operator { "operator policy" } else { "policy" };
        let sets = format!("sets {costly} on {queues}: items may be dropped or refused over it.");
        if text.is_empty() {
            text = format!("The {who} {name} {sets} It is left alone; keep it off these queues.");
        } else {
            text.push_str(&format!(" It also {sets}"));
        }
    }
    (!text.is_empty()).then(|| note(About::Policy, None, text))
}

fn odd_bindings(look: &Look<'_>) -> Vec<Note> {
    let own: BTreeSet<&str> = look.desired.queues.iter().map(|queue| queue.name.as_str()).collect();
    let odd = look.observed.odd_bindings.iter().filter(|binding| own.contains(binding.queue.as_str()));
    odd.map(|binding| {
        let text = format!(
            "Somebody bound {} to {} with the key {} and with arguments. It works as any other way in, and is left alone: \
             take it away by hand.",
            binding.queue, binding.exchange, binding.key
        );
        note(About::Binding, look.names.key_of(&binding.queue), text)
    })
    .collect()
}

/// Said where a person decides: of queues that are made or made anew.
fn limits(look: &Look<'_>, steps: &[Step]) -> Vec<Note> {
    let version = look.observed.version;
    let made: Vec<&Queue> = steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::CreateQueue { queue } | Action::Migrate { queue, .. } if queue.key.is_some() => Some(queue),
            _ => None,
        })
        .collect();
    let of = |wanted: &str| -> Vec<&str> {
        made.iter().filter(|queue| kind(queue) == wanted).map(|queue| queue.name.as_str()).collect()
    };
    let (classic, quorum) = (of("classic"), of("quorum"));
    let mut texts = Vec::new();
    if !classic.is_empty() {
        let timeout = if version < Version::CONSUMER_TIMEOUT_POLICY {
            "a robot may keep an item only as long as rabbitmq.conf says (consumer_timeout, 30 minutes where nothing is said)"
        } else if version < Version::STRICT_PRIORITIES {
            "a robot may keep an item for 7 days"
        } else {
            "a robot that hangs keeps its item until its connection ends"
        };
        texts.push(format!(
            "Classic queues on RabbitMQ {version} ({}): crash_limit counts only robots that report `started`; a broker that \
             crashes during a reject may lose that item; {timeout}.",
            named(&classic)
        ));
    }
    if !quorum.is_empty() && version < Version::STRICT_PRIORITIES {
        let priorities =
            if version < Version::DEFAULT_DELIVERY_LIMIT { "no priorities" } else { "two priorities, and mixes them" };
        texts.push(format!(
            "Quorum queues on RabbitMQ {version} ({}): the broker knows {priorities}; strict ones come with 4.3.",
            named(&quorum)
        ));
    }
    texts.into_iter().map(|text| note(About::Limit, None, text)).collect()
}

/// `a, b and 3 more`.
fn named(queues: &[&str]) -> String {
    match queues.len().checked_sub(MOST_NAMED) {
        None | Some(0) => queues.join(", "),
        Some(more) => format!("{} and {more} more", queues[..MOST_NAMED].join(", ")),
    }
}
