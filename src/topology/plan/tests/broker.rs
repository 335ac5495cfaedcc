//! A broker of values, as far as a plan's steps need one.

use super::*;
use crate::topology::desired::{Argument, pattern};
use crate::topology::observed::{ObservedExchange, ObservedQueue};

/// Carries a plan out, and holds each step to what has to be true then.
pub fn apply(plan: &Plan, observed: &mut Observed) {
    let was_sound = is_sound(observed);
    for step in &plan.steps {
        perform(&step.action, observed);
        take_effect(observed);
        assert!(!was_sound || is_sound(observed), "after {step:?}: {:?}", observed.bindings);
    }
}

fn perform(action: &Action, observed: &mut Observed) {
    match action {
        Action::SetPolicy { policy, before } => {
            let old = observed.policies.insert(policy.name.clone(), policy.clone());
            assert_eq!(&old, before);
        }
        Action::RemovePolicy { policy } => assert_eq!(observed.policies.remove(&policy.name).as_ref(), Some(policy)),
        Action::CreateExchange { exchange } => {
            let made = ObservedExchange {
                kind: exchange.kind.as_str().to_owned(),
                durable: true,
                auto_delete: false,
                internal: false,
                alternate: exchange.alternate.clone(),
            };
            assert!(observed.exchanges.insert(exchange.name.clone(), made).is_none(), "{} is there", exchange.name);
        }
        Action::CreateQueue { queue } => {
            assert!(!observed.queues.contains_key(&queue.name), "{} is there", queue.name);
            observed.queues.insert(queue.name.clone(), declared(queue));
        }
        Action::Unbind { binding } => assert!(observed.bindings.remove(binding), "{binding:?} is not there"),
        Action::Bind { binding } => bind(binding, observed),
        Action::Migrate { queue, before, bindings, .. } => {
            let old = delete_queue(&queue.name, observed);
            assert_eq!(&old.arguments, before);
            observed.queues.insert(queue.name.clone(), ObservedQueue { counts: old.counts, ..declared(queue) });
            for binding in bindings {
                bind(binding, observed);
            }
        }
        Action::Delete { key, queue, policy } => {
            assert_eq!(names().robots(key), *queue);
            delete_queue(queue, observed);
            if let Some(policy) = policy {
                assert!(observed.policies.remove(policy).is_some());
            }
        }
        Action::Blocked { .. } => {}
    }
}

fn bind(binding: &Binding, observed: &mut Observed) {
    assert!(observed.exchanges.contains_key(&binding.exchange), "no exchange for {binding:?}");
    assert!(observed.queues.contains_key(&binding.queue), "no queue for {binding:?}");
    assert!(observed.bindings.insert(binding.clone()), "{binding:?} is there");
}

/// The bindings of a queue go with it.
pub fn delete_queue(name: &str, observed: &mut Observed) -> ObservedQueue {
    observed.bindings.retain(|binding| binding.queue != name);
    observed.queues.remove(name).unwrap_or_else(|| panic!("{name} is not there"))
}

/// The bindings of an exchange go with it.
pub fn delete_exchange(name: &str, observed: &mut Observed) {
    observed.bindings.retain(|binding| binding.exchange != name);
    observed.exchanges.remove(name);
}

/// A queue as RabbitMQ stores it.
fn declared(queue: &Queue) -> ObservedQueue {
    let arguments: Map<String, Value> = (queue.arguments.iter())
        .map(|(name, value)| {
            let value = match value {
                Argument::Text(text) => Value::from(text.as_str()),
                Argument::Number(number) => Value::from(*number),
            };
            (name.clone(), value)
        })
        .collect();
    let kind = arguments["x-queue-type"].as_str().unwrap().to_owned();
    ObservedQueue { kind, arguments, durable: true, ..ObservedQueue::default() }
}

/// Of all policies that fit a queue, the one of the highest number is in effect.
pub fn take_effect(observed: &mut Observed) {
    for (name, queue) in &mut observed.queues {
        let skipped = |policy: &Policy| queue.kind == "stream" && policy.definition.get("message-ttl").is_some();
        let fits = |policy: &&Policy| (policy.pattern == pattern(name) || policy.pattern == ".*") && !skipped(policy);
        let best = observed.policies.values().filter(fits).max_by_key(|policy| policy.priority);
        queue.policy = best.map(|policy| policy.name.clone());
    }
}

/// No copy without its item, and no item that takes both lanes.
fn is_sound(observed: &Observed) -> bool {
    let there = |key: &str, queue: &str| observed.bindings.contains(&binding("wq.items", key, queue));
    let mut keys = observed.bindings.iter().map(|binding| binding.key.as_str());
    keys.all(|key| {
        let straight = there(key, &names().robots(key));
        (straight || !there(key, "wq.tap")) && !(straight && there(key, "wq.intake"))
    })
}
