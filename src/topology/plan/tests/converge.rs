//! Whatever is defined, wished and broken: once a plan is carried out, nothing is left to do.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use serde_json::json;

use super::broker::{delete_exchange, delete_queue, take_effect};
use super::*;
use crate::definition::{Paused, Priorities, QueueDefinition, QueueType};
use crate::item::Lane;
use crate::topology::observed::ObservedQueue;

const KEYS: [&str; 4] = ["a", "a.b", "b", "tap"];

fn paused() -> impl Strategy<Value = Paused> {
    (any::<bool>(), any::<bool>()).prop_map(|(dispatch, intake)| Paused { dispatch, intake })
}

fn keys() -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(&KEYS[..], 0..=KEYS.len())
}

fn definition(key: &'static str) -> impl Strategy<Value = Arc<QueueDefinition>> {
    let lanes = select(vec![Lane::Managed, Lane::Direct]);
    let types = select(vec![QueueType::Auto, QueueType::Quorum, QueueType::Classic]);
    (lanes, types, select(vec![4_u8, 8, 20]), 1..9_u32, paused()).prop_map(
        move |(lane, queue_type, high, limit, paused)| {
            let priorities = [("normal".to_owned(), 1), ("high".to_owned(), high)];
            Arc::new(QueueDefinition {
                lane,
                queue_type,
                priorities: Priorities::new(priorities.into()).unwrap(),
                crash_limit: limit,
                paused,
                ..QueueDefinition::with_defaults(key)
            })
        },
    )
}

fn want() -> impl Strategy<Value = Want> {
    let definitions = keys().prop_flat_map(|keys| keys.into_iter().map(definition).collect::<Vec<_>>());
    let wished = keys().prop_flat_map(|keys| keys.into_iter().map(|key| (Just(key), paused())).collect::<Vec<_>>());
    (definitions, wished, keys(), keys(), any::<bool>()).prop_map(|(queues, paused, closed, words, asked)| Want {
        definitions: Definitions {
            queues: queues.into_iter().map(|queue| (queue.key.clone(), queue)).collect(),
            ..Definitions::default()
        },
        wishes: Wishes {
            paused: paused.into_iter().map(|(key, paused)| (key.to_owned(), paused)).collect(),
            straight_closed: closed.into_iter().map(str::to_owned).collect(),
        },
        facts: Facts { open: asked.then(|| [("a".to_owned(), 3)].into()), ..Facts::default() },
        words: words.into_iter().map(str::to_owned).collect(),
    })
}

/// What somebody did to the broker by hand.
#[derive(Debug, Clone)]
enum Damage {
    Unbound(Index),
    Bound(&'static str, &'static str, Index),
    PolicyGone(Index),
    PolicyChanged(Index),
    QueueGone(Index),
    ExchangeGone(Index),
    QueueOfTheirs(&'static str),
    PolicyOfTheirs(&'static str, i64),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<Index>().prop_map(Damage::Unbound),
        (select(vec!["wq.items", "wq.dispatch", "wq.events", "wq.dead"]), select(vec!["a", "zz", "#"]), any::<Index>())
            .prop_map(|(exchange, key, queue)| Damage::Bound(exchange, key, queue)),
        any::<Index>().prop_map(Damage::PolicyGone),
        any::<Index>().prop_map(Damage::PolicyChanged),
        any::<Index>().prop_map(Damage::QueueGone),
        any::<Index>().prop_map(Damage::ExchangeGone),
        select(vec!["audit", "wq.mine", "wq.m.a"]).prop_map(Damage::QueueOfTheirs),
        (select(vec!["theirs", "wq.q.of-nothing"]), select(vec![0, 100, 200]))
            .prop_map(|(name, priority)| Damage::PolicyOfTheirs(name, priority)),
    ]
}

fn nth<T: Clone>(index: Index, all: impl Iterator<Item = T>) -> Option<T> {
    let all: Vec<T> = all.collect();
    (!all.is_empty()).then(|| index.get(&all).clone())
}

fn happen(damage: &Damage, observed: &mut Observed) {
    match damage {
        Damage::Unbound(index) => {
            nth(*index, observed.bindings.iter().cloned()).map(|one| observed.bindings.remove(&one));
        }
        Damage::Bound(exchange, key, queue) => {
            let queue = nth(*queue, observed.queues.keys().cloned());
            if let Some(queue) = queue.filter(|_| observed.exchanges.contains_key(*exchange)) {
                observed.bindings.insert(binding(exchange, key, &queue));
            }
        }
        Damage::PolicyGone(index) => {
            nth(*index, observed.policies.keys().cloned()).map(|name| observed.policies.remove(&name));
        }
        Damage::PolicyChanged(index) => {
            let name = nth(*index, observed.policies.keys().cloned());
            if let Some(policy) = name.and_then(|name| observed.policies.get_mut(&name)) {
                policy.definition = json!({"max-length": 1});
            }
        }
        Damage::QueueGone(index) => {
            nth(*index, observed.queues.keys().cloned()).map(|name| delete_queue(&name, observed));
        }
        Damage::ExchangeGone(index) => {
            if let Some(name) = nth(*index, observed.exchanges.keys().cloned()) {
                delete_exchange(&name, observed);
            }
        }
        Damage::QueueOfTheirs(name) => {
            let queue = ObservedQueue { kind: "classic".to_owned(), durable: true, ..ObservedQueue::default() };
            observed.queues.insert((*name).to_owned(), queue);
        }
        Damage::PolicyOfTheirs(name, priority) => {
            let policy = Policy {
                name: (*name).to_owned(),
                pattern: ".*".to_owned(),
                priority: *priority,
                definition: json!({"max-length": 10}),
                apply_to: "all".to_owned(),
            };
            observed.policies.insert(policy.name.clone(), policy);
        }
    }
    take_effect(observed);
}

fn foreign(observed: &Observed) -> (Vec<Binding>, Vec<Policy>, Vec<String>) {
    let theirs = |name: &str| ["audit", "wq.mine", "wq.m.a"].contains(&name);
    (
        observed.bindings.iter().filter(|one| theirs(&one.queue)).cloned().collect(),
        observed.policies.values().filter(|one| one.pattern == ".*").cloned().collect(),
        observed.queues.keys().filter(|name| theirs(name)).cloned().collect(),
    )
}

/// All that is left is what only a person can mend.
fn only_blocked(plan: &Plan) -> bool {
    plan.steps.iter().all(|step| matches!(step.action, Action::Blocked { .. }) && step.risk == Risk::Blocked)
}

proptest! {
    #[test]
    fn a_second_plan_is_empty(
        first in want(),
        second in want(),
        on in select(vec!["3.10", "3.13", "4.0", "4.3"]),
        damages in proptest::collection::vec(damage(), 0..6),
    ) {
        let mut observed = Observed::nothing(version(on));
        let made = first.plan(&observed);
        prop_assert_eq!(made.tally().change + made.tally().moved + made.tally().remove + made.tally().blocked, 0);
        apply(&made, &mut observed);
        prop_assert!(first.plan(&observed).is_empty());

        for damage in &damages {
            happen(damage, &mut observed);
        }
        let theirs = foreign(&observed);
        apply(&second.plan(&observed), &mut observed);
        prop_assert!(second.plan(&observed).is_empty(), "{:?}", lines(&second.plan(&observed)));
        prop_assert_eq!(foreign(&observed), theirs);

        let ours: BTreeSet<Binding> = second.topology(observed.version).bound.into_iter().collect();
        prop_assert!(ours.is_subset(&observed.bindings));
    }

    #[test]
    fn after_an_upgrade_only_what_a_person_can_mend_is_left(first in want(), second in want(), to in select(vec!["3.13", "4.0", "4.3"])) {
        let mut observed = first.settled("3.10");
        observed.version = version(to);
        apply(&second.plan(&observed), &mut observed);
        let left = second.plan(&observed);
        prop_assert!(only_blocked(&left), "{:?}", lines(&left));
        prop_assert_eq!(left.is_empty(), to != "4.0");
    }

    #[test]
    fn a_plan_survives_being_written_down(first in want(), second in want()) {
        let plan = second.plan(&first.settled("4.3"));
        let text = serde_json::to_string(&plan).unwrap();
        prop_assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }
}
