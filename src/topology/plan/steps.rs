//! The steps of a plan, kind by kind in the order in which they are done.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Action, Difference, Look, Risk, Step};
use crate::topology::desired::{self, Argument, Binding, Exchange, Policy, Queue};
use crate::topology::observed::{ObservedExchange, ObservedQueue};
use crate::topology::version::Version;

/// Arguments that somebody chose for where and how a queue is kept. They change nothing of what it promises.
const PLACEMENT: [&str; 7] = [
    "x-queue-leader-locator",
    "x-queue-master-locator",
    "x-quorum-initial-group-size",
    "x-quorum-target-group-size",
    "x-initial-cluster-size",
    "x-queue-mode",
    "x-queue-version",
];

const DELIVERY_LIMIT: &str = "x-delivery-limit";

pub(super) fn steps(look: &Look<'_>) -> Vec<Step> {
    let mut steps = set_policies(look);
    steps.extend(remove_policies(look));
    steps.extend(look.desired.exchanges.iter().filter_map(|exchange| exchange_step(look, exchange)));
    let (queues, migrations): (Vec<Step>, Vec<Step>) = (look.desired.queues.iter())
        .filter_map(|queue| queue_step(look, queue))
        .partition(|step| !matches!(step.action, Action::Migrate { .. }));
    steps.extend(queues);
    steps.extend(unbind(look));
    steps.extend(bind(look));
    steps.extend(migrations);
    steps.extend(
        look.retired().filter(|(key, _)| look.words.contains(*key)).map(|(key, queue)| delete(look, key, queue)),
    );
    steps.extend(gone(look));
    steps
}

fn step(action: Action, key: Option<&str>, why: impl Into<String>) -> Step {
    Step { action, key: key.map(str::to_owned), why: why.into(), risk: Risk::Safe }
}

fn set_policies(look: &Look<'_>) -> Vec<Step> {
    let cures: Vec<Policy> = look.desired.queues.iter().filter_map(|queue| limit_off(look, queue)).collect();
    let wanted = look.desired.policies.iter().chain(&cures).filter_map(|policy| {
        let before = look.observed.policies.get(&policy.name).cloned();
        let why = match &before {
            Some(before) if same_policy(before, policy) => return None,
            Some(_) => "it is not as the definitions say",
            None if cures.contains(policy) => {
                "the queue is older than RabbitMQ 4.0 here and lacks x-delivery-limit -1; the policy never expels either"
            }
            None if look.observed.queues.contains_key(&policy.name) => "limits of the queue; it has none of ours",
            None => "limits of the queue, there before it is",
        };
        let key = look.names.key_of(&policy.name);
        Some(step(Action::SetPolicy { policy: policy.clone(), before }, key, why))
    });
    wanted.collect()
}

/// Our own queues never expel. One that was declared on 3.x lacks the argument that says so and cannot get it any more; a
/// policy of -1 does the same where there is no argument.
fn limit_off(look: &Look<'_>, queue: &Queue) -> Option<Policy> {
    let there = look.observed.queues.get(&queue.name)?;
    // Before 4.3 a policy does not reach a queue that is there.
    let reaches = look.observed.version >= Version::STRICT_PRIORITIES;
    (reaches && lacks_limit(queue, there)).then(|| desired::never_expels(&queue.name))
}

fn lacks_limit(queue: &Queue, there: &ObservedQueue) -> bool {
    let off = queue.arguments.get(DELIVERY_LIMIT) == Some(&Argument::Number(-1));
    queue.key.is_none() && off && there.kind == "quorum" && !there.arguments.contains_key(DELIVERY_LIMIT)
}

/// Of ours is what has the name of a robots' queue and the pattern for nothing else. A retired queue keeps its own.
fn remove_policies(look: &Look<'_>) -> Vec<Step> {
    let wanted: BTreeSet<&str> = look.desired.policies.iter().map(|policy| policy.name.as_str()).collect();
    let unwanted = look.observed.policies.values().filter_map(|policy| {
        let key = look.names.key_of(&policy.name)?;
        let ours = policy.pattern == desired::pattern(&policy.name);
        let retired = look.observed.queues.contains_key(&policy.name) && !look.is_defined(key);
        if !ours || retired || wanted.contains(policy.name.as_str()) {
            return None;
        }
        let why = if look.is_defined(key) {
            "this queue on this broker needs none"
        } else {
            "there is no such queue any more"
        };
        Some(step(Action::RemovePolicy { policy: policy.clone() }, Some(key), why))
    });
    unwanted.collect()
}

fn same_policy(a: &Policy, b: &Policy) -> bool {
    let definitions = match (a.definition.as_object(), b.definition.as_object()) {
        (Some(a), Some(b)) => {
            a.len() == b.len()
                && a.iter().all(|(name, value)| b.get(name).is_some_and(|other| same_value(value, other)))
        }
        _ => a.definition == b.definition,
    };
    definitions && (&a.name, &a.pattern, a.priority, &a.apply_to) == (&b.name, &b.pattern, b.priority, &b.apply_to)
}

/// RabbitMQ stores whole numbers of any width, and gives some back with a fraction of nothing.
#[allow(clippy::float_cmp, reason = "whole numbers that were written as such")]
fn same_value(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn exchange_step(look: &Look<'_>, exchange: &Exchange) -> Option<Step> {
    let Some(there) = look.observed.exchanges.get(&exchange.name) else {
        return Some(step(Action::CreateExchange { exchange: exchange.clone() }, None, "it is not there"));
    };
    let differs = exchange_differences(exchange, there);
    if differs.is_empty() {
        return None;
    }
    let name = exchange.name.clone();
    let cure = format!(
        "stop the daemon and whoever publishes to {name}, delete the exchange by hand, and apply again: it is made anew \
         with its bindings"
    );
    let why = "RabbitMQ cannot change an exchange, and what is published while it is gone is refused";
    Some(Step { risk: Risk::Blocked, ..step(Action::Blocked { name, differs, cure }, None, why) })
}

fn exchange_differences(wanted: &Exchange, there: &ObservedExchange) -> Vec<Difference> {
    let mut differs = Vec::new();
    let mut compare = |what: &str, before: Option<String>, after: Option<String>| {
        if before != after {
            differs.push(Difference { what: what.to_owned(), before, after });
        }
    };
    compare("type", Some(there.kind.clone()), Some(wanted.kind.as_str().to_owned()));
    compare("alternate exchange", there.alternate.clone(), wanted.alternate.clone());
    compare("durable", Some(there.durable.to_string()), Some("true".to_owned()));
    compare("auto-delete", Some(there.auto_delete.to_string()), Some("false".to_owned()));
    compare("internal", Some(there.internal.to_string()), Some("false".to_owned()));
    differs
}

fn queue_step(look: &Look<'_>, queue: &Queue) -> Option<Step> {
    let key = queue.key.as_deref();
    if key.is_some_and(|key| look.facts.migrating.contains(key)) {
        return None;
    }
    let rolled_back = key.is_some_and(|key| look.facts.rolled_back.contains_key(key));
    let Some(there) = look.observed.queues.get(&queue.name) else {
        let mut why = queue.why.clone();
        if let Some(open @ 1..) = key.and_then(|key| look.facts.open(key)) {
            why.push_str(&format!(
                "; of {open} open items in the mirror those that were dispatched were in it: they are dispatched again"
            ));
        }
        return Some(step(Action::CreateQueue { queue: queue.clone() }, key, why));
    };
    let mut differs = queue_differences(queue, there);
    if lacks_limit(queue, there) && limit_off(look, queue).is_none() {
        differs.push(Difference { what: DELIVERY_LIMIT.to_owned(), before: None, after: Some("-1".to_owned()) });
    }
    if differs.is_empty() || rolled_back {
        return None;
    }
    Some(match key {
        Some(key) if !there.exclusive && ["quorum", "classic"].contains(&there.kind.as_str()) => {
            migrate(look, key, queue, there, differs)
        }
        _ => blocked_queue(look, queue, differs),
    })
}

fn migrate(look: &Look<'_>, key: &str, queue: &Queue, there: &ObservedQueue, differs: Vec<Difference>) -> Step {
    let bindings = look.desired.bound.iter().filter(|binding| binding.queue == queue.name).cloned().collect();
    let action = Action::Migrate {
        key: key.to_owned(),
        queue: queue.clone(),
        before: there.arguments.clone(),
        differs,
        bindings,
    };
    let risk = Risk::Moves { ready: there.counts.ready, unacked: there.counts.unacked };
    Step { risk, ..step(action, Some(key), queue.why.clone()) }
}

fn blocked_queue(look: &Look<'_>, queue: &Queue, differs: Vec<Difference>) -> Step {
    let (name, names) = (queue.name.clone(), look.names);
    let anew =
        format!("stop the daemon, delete the queue {name} by hand, and start the daemon, which declares it anew");
    let until_empty = if queue.key.is_some() {
        "take out by hand what is in it"
    } else if name == names.tap() {
        "stop whoever sends to queues of the direct lane, and let the daemon read all of it"
    } else if name == names.unrouted() {
        "define the queues that its items are for, or take them out by hand, until it is empty"
    } else if name == names.meta() {
        "nothing is lost with it, for it only names the mirror"
    } else {
        "stop whoever sends to it, and let the daemon read it until it is empty"
    };
    let cure = format!("{until_empty}; then {anew}");
    let why = "RabbitMQ cannot change a queue, and this one is not moved by itself";
    let key = queue.key.clone();
    Step { risk: Risk::Blocked, ..step(Action::Blocked { name, differs, cure }, key.as_deref(), why) }
}

/// What of a queue cannot be changed and is not as it is to be.
pub(super) fn queue_differences(wanted: &Queue, there: &ObservedQueue) -> Vec<Difference> {
    let mut differs = Vec::new();
    let mut differ = |what: &str, before: Option<String>, after: Option<String>| {
        differs.push(Difference { what: what.to_owned(), before, after });
    };
    for (name, argument) in &wanted.arguments {
        let value = match argument {
            Argument::Text(text) => Value::from(text.as_str()),
            Argument::Number(number) => Value::from(*number),
        };
        if name == DELIVERY_LIMIT && lacks_limit(wanted, there) {
            continue;
        }
        let before = there_as(name, there);
        if !before.as_ref().is_some_and(|before| same_value(before, &value)) {
            differ(name, before.as_ref().map(shown), Some(shown(&value)));
        }
    }
    let unwanted = |name: &str| !wanted.arguments.contains_key(name) && !PLACEMENT.contains(&name);
    for (name, value) in unwanted_of(&there.arguments, unwanted) {
        differ(name, Some(shown(value)), None);
    }
    for (what, is, should) in [
        ("durable", there.durable, true),
        ("auto-delete", there.auto_delete, false),
        ("exclusive", there.exclusive, false),
    ] {
        if is != should {
            differ(what, Some(is.to_string()), Some(should.to_string()));
        }
    }
    differs
}

fn unwanted_of(arguments: &Map<String, Value>, unwanted: impl Fn(&str) -> bool) -> Vec<(&String, &Value)> {
    arguments.iter().filter(|(name, _)| unwanted(name)).collect()
}

/// The type stands beside the arguments: 4.x writes it among them where nobody gave it, older versions do not.
fn there_as(name: &str, there: &ObservedQueue) -> Option<Value> {
    if name == "x-queue-type" && !there.kind.is_empty() {
        return Some(Value::from(there.kind.as_str()));
    }
    there.arguments.get(name).cloned()
}

/// A value as people write it.
pub(super) fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Ways from our exchanges into our queues that nothing asks for.
fn unbind(look: &Look<'_>) -> Vec<Step> {
    let own: BTreeSet<&str> = look.desired.queues.iter().map(|queue| queue.name.as_str()).collect();
    let retired: BTreeSet<&str> = look.retired().map(|(_, queue)| queue).collect();
    let bound: BTreeSet<&Binding> = look.desired.bound.iter().collect();
    let closed: BTreeSet<&Binding> = look.desired.unbound.iter().collect();
    let (items, dispatch, tap) = (look.names.items(), look.names.dispatch(), look.names.tap());
    let mut unwanted: Vec<Step> = Vec::new();
    for binding in look.observed.bindings.iter().filter(|binding| !bound.contains(binding)) {
        let is_ours = own.contains(binding.queue.as_str()) || retired.contains(binding.queue.as_str());
        let serves = binding.exchange == dispatch
            && retired.contains(binding.queue.as_str())
            && look.names.key_of(&binding.queue) == Some(&binding.key);
        // Into a queue that is being moved nothing may lead but the migration.
        if !is_ours || serves || (is_moving(look, binding) && binding.exchange != items) {
            continue;
        }
        let key = Some(binding.key.as_str())
            .filter(|key| look.is_defined(key) || retired.contains(look.names.robots(key).as_str()));
        let why = match look.desired.ways.get(&binding.key) {
            Some(way) if closed.contains(binding) => way.clone(),
            None if binding.exchange == items && key.is_some() => {
                "it is not defined any more: it takes nothing new".to_owned()
            }
            None if binding.exchange == items && !binding.key.contains(['*', '#']) => {
                format!("no queue {} is defined", binding.key)
            }
            _ => "nobody defined this way".to_owned(),
        };
        let key = key.or_else(|| look.names.key_of(&binding.queue));
        unwanted.push(step(Action::Unbind { binding: binding.clone() }, key, why));
    }
    // The copy goes first, so that no copy is without its item.
    unwanted.sort_by_key(|step| !matches!(&step.action, Action::Unbind { binding } if binding.queue == tap));
    unwanted
}

/// Ways that are missing. What is desired is in the right order; a retired queue keeps the way to its robots.
fn bind(look: &Look<'_>) -> Vec<Step> {
    let (items, dispatch) = (look.names.items(), look.names.dispatch());
    let kept = look.retired().filter(|(key, _)| !look.words.contains(*key));
    let kept: Vec<Binding> = kept
        .map(|(key, queue)| Binding { exchange: dispatch.clone(), queue: queue.to_owned(), key: key.to_owned() })
        .collect();
    (look.desired.bound.iter().chain(&kept))
        .filter(|binding| !look.observed.bindings.contains(binding) && !is_moving(look, binding))
        .map(|binding| {
            let way = look.desired.ways.get(&binding.key).filter(|_| binding.exchange == items);
            let key = way.map(|_| binding.key.as_str()).or_else(|| look.names.key_of(&binding.queue));
            let why = match way {
                Some(way) => way.clone(),
                None if binding.exchange == dispatch => "the daemon's own way to the robots".to_owned(),
                None => "it is not there".to_owned(),
            };
            step(Action::Bind { binding: binding.clone() }, key, why)
        })
        .collect()
}

/// What leads from us into a queue that is being moved is the migration's business.
fn is_moving(look: &Look<'_>, binding: &Binding) -> bool {
    look.names.key_of(&binding.queue).is_some_and(|key| look.facts.migrating.contains(key))
}

/// Retired queues that somebody deleted, or a crash left behind: only the mirror knows of them.
fn gone(look: &Look<'_>) -> Vec<Step> {
    let said = look.words.intersection(&look.facts.retired).filter(|key| !look.is_defined(key));
    let queues = said.map(|key| (key, look.names.robots(key)));
    let gone = queues.filter(|(_, queue)| !look.observed.queues.contains_key(queue));
    gone.map(|(key, queue)| delete(look, key, &queue)).collect()
}

fn delete(look: &Look<'_>, key: &str, queue: &str) -> Step {
    let counts = look.observed.queues.get(queue).map(|there| there.counts).unwrap_or_default();
    let policy = look.observed.policies.get(queue).filter(|policy| policy.pattern == desired::pattern(queue));
    let action = Action::Delete {
        key: key.to_owned(),
        queue: queue.to_owned(),
        policy: policy.map(|policy| policy.name.clone()),
    };
    let risk = Risk::Loses { ready: counts.ready, unacked: counts.unacked, mirror: look.facts.open(key) };
    Step { risk, ..step(action, Some(key), "it is not defined any more, and you said that it may go") }
}
