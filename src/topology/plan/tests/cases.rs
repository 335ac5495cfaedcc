//! What is told apart, case by case.

use serde_json::json;

use super::broker::take_effect;
use super::*;

const ONE: &str = "queue: a\ntype: classic\n";

/// A settled broker on which something was changed, and the steps that follow.
fn after(change: impl FnOnce(&mut Observed)) -> Vec<String> {
    let want = Want::of(ONE);
    let mut observed = want.settled("4.3");
    change(&mut observed);
    lines(&want.plan(&observed))
}

#[test]
fn what_rabbitmq_stores_otherwise_is_the_same() {
    type Change = fn(&mut Observed);
    let same: [(&str, Change); 6] = [
        ("3.x stores no type of classic queues", |observed| {
            observed.queues.get_mut("wq.q.a").unwrap().arguments.remove("x-queue-type");
        }),
        ("a number with a fraction of nothing", |observed| {
            observed.queues.get_mut("wq.q.a").unwrap().arguments.insert("x-max-priority".to_owned(), json!(8.0));
        }),
        ("where a queue lives", |observed| {
            let arguments = &mut observed.queues.get_mut("wq.intake").unwrap().arguments;
            arguments.insert("x-quorum-initial-group-size".to_owned(), json!(3));
            arguments.insert("x-queue-leader-locator".to_owned(), json!("balanced"));
        }),
        ("a policy's number", |observed| {
            observed.policies.get_mut("wq.tap").unwrap().definition = json!({"max-length-bytes": 1_073_741_824.0});
        }),
        ("a binding of ours to a foreign queue", |observed| {
            observed.bindings.insert(binding("wq.items", "a", "audit"));
        }),
        ("a foreign policy by a name like ours", |observed| {
            let tap = observed.policies["wq.tap"].clone();
            let theirs = Policy { name: "wq.q.zz".to_owned(), pattern: "^zz".to_owned(), ..tap };
            observed.policies.insert("wq.q.zz".to_owned(), theirs);
        }),
    ];
    for (what, change) in same {
        assert_eq!(after(change), [""; 0], "{what}");
    }
}

#[test]
fn an_own_queue_without_its_delivery_limit_gets_a_policy_and_a_robots_queue_none() {
    let want = Want::of(ONE);
    let mut observed = want.settled("4.3");
    for queue in ["wq.reports", "wq.meta"] {
        observed.queues.get_mut(queue).unwrap().arguments.remove("x-delivery-limit");
    }
    let first = want.plan(&observed);
    assert_eq!(lines(&first), ["+ policy wq.reports", "+ policy wq.meta"]);
    apply(&first, &mut observed);
    assert!(want.plan(&observed).is_empty());
    // Another limit stays a person's business.
    observed.queues.get_mut("wq.meta").unwrap().arguments.insert("x-delivery-limit".to_owned(), json!(7));
    assert_eq!(lines(&want.plan(&observed)), ["! wq.meta"]);
}

#[test]
fn what_differs_is_named() {
    type Change = fn(&mut Observed);
    let different: [(&str, Change); 6] = [
        ("> a", |observed| {
            observed.queues.get_mut("wq.q.a").unwrap().arguments.insert("x-max-priority".to_owned(), json!(9));
        }),
        ("> a", |observed| {
            observed.queues.get_mut("wq.q.a").unwrap().arguments.insert("x-message-ttl".to_owned(), json!(9));
        }),
        ("> a", |observed| observed.queues.get_mut("wq.q.a").unwrap().durable = false),
        ("! wq.q.a", |observed| {
            let queue = observed.queues.get_mut("wq.q.a").unwrap();
            (queue.exclusive, queue.durable) = (true, false);
        }),
        ("! wq.events", |observed| observed.exchanges.get_mut("wq.events").unwrap().kind = "fanout".to_owned()),
        ("~ policy wq.tap", |observed| observed.policies.get_mut("wq.tap").unwrap().apply_to = "all".to_owned()),
    ];
    for (expected, change) in different {
        assert_eq!(after(change), [expected]);
    }
}

#[test]
fn steps_come_in_the_order_that_loses_nothing() {
    let mut observed =
        Want::of("queue: a\nlane: direct\n---\nqueue: b\n---\nqueue: c\n---\nqueue: gone\nlane: direct\n")
            .settled("4.3");
    observed.exchanges.remove("wq.events");
    let want = Want::of(
        "queue: a\n---\nqueue: b\nlane: direct\ncrash_limit: 9\n---\nqueue: c\ntype: classic\n---\nqueue: new\n",
    )
    .saying(&["gone"]);
    assert_eq!(
        lines(&want.plan(&observed)),
        [
            "~ policy wq.q.b",
            "~ policy wq.q.c",
            "+ policy wq.q.new",
            "+ exchange wq.events",
            "+ queue wq.q.new",
            "- wq.items [a] wq.tap",
            "- wq.items [gone] wq.tap",
            "- wq.items [b] wq.intake",
            "- wq.items [a] wq.q.a",
            "- wq.items [gone] wq.q.gone",
            "+ wq.items [a] wq.intake",
            "+ wq.items [b] wq.q.b",
            "+ wq.items [b] wq.tap",
            "+ wq.dispatch [new] wq.q.new",
            "+ wq.items [new] wq.intake",
            "> c",
            "- queue wq.q.gone",
        ]
    );
}

#[test]
fn a_migrated_queue_gets_back_what_led_into_it() {
    let mut want = Want::of("queue: a\ntype: classic\nlane: direct\n");
    let observed = Want::of("queue: a\nlane: direct\n").settled("4.3");
    let bindings = |want: &Want| match want.plan(&observed).steps.last().map(|step| step.action.clone()) {
        Some(Action::Migrate { bindings, .. }) => bindings,
        other => panic!("{other:?}"),
    };
    let own = binding("wq.dispatch", "a", "wq.q.a");
    assert_eq!(bindings(&want), [own.clone(), binding("wq.items", "a", "wq.q.a")]);
    want.wishes.straight_closed.insert("a".to_owned());
    assert_eq!(bindings(&want), [own]);
}

#[test]
fn a_retired_queue_goes_on_and_its_deletion_says_what_is_lost() {
    let mut observed = Want::of(ONE).settled("4.3");
    let queue = observed.queues.get_mut("wq.q.a").unwrap();
    (queue.counts.ready, queue.counts.unacked) = (Some(2), Some(1));
    let want = Want::of("queue: b\n");
    let mut kept = observed.clone();
    apply(&want.plan(&kept), &mut kept);
    assert!(kept.queues.contains_key("wq.q.a") && kept.policies.contains_key("wq.q.a"));
    assert!(kept.bindings.contains(&binding("wq.dispatch", "a", "wq.q.a")));
    assert!(!kept.bindings.iter().any(|one| one.exchange == "wq.items" && one.key == "a"));

    let said = want.knowing(&[("a", 9)]).saying(&["a"]).plan(&observed);
    let delete = said.steps.last().unwrap();
    assert_eq!(delete.risk, Risk::Loses { ready: Some(2), unacked: Some(1), mirror: Some(9) });
    assert_eq!(
        delete.action,
        Action::Delete { key: "a".to_owned(), queue: "wq.q.a".to_owned(), policy: Some("wq.q.a".to_owned()) }
    );
    assert!(said.notes.iter().all(|note| note.about != About::Retired));
}

#[test]
fn a_policy_shadows_ours_by_its_number_also_before_the_queue_is_there() {
    let theirs = |priority| Policy {
        name: "theirs".to_owned(),
        pattern: "^wq".to_owned(),
        priority,
        definition: json!({"max-priority": 3}),
        apply_to: "classic_queues".to_owned(),
    };
    for (priority, shadows) in [(99, false), (100, true), (101, true)] {
        let mut observed = Observed::nothing(version("4.3"));
        observed.policies.insert("theirs".to_owned(), theirs(priority));
        let plan = Want::of(ONE).plan(&observed);
        let shadowed = plan.notes.iter().any(|note| note.about == About::Policy && note.text.contains("wq.q.a"));
        assert_eq!(shadowed, shadows, "{priority}: {:?}", plan.notes);
    }
    // Where it stands before nothing that we ask for, nothing is said.
    let mut observed = Want::of(ONE).settled("4.3");
    let timeout = observed.policies["wq.q.a"].definition.clone();
    observed
        .policies
        .insert("theirs".to_owned(), Policy { pattern: ".*".to_owned(), definition: timeout, ..theirs(101) });
    take_effect(&mut observed);
    let notes = Want::of(ONE).plan(&observed).notes;
    assert!(notes.iter().all(|note| !note.text.contains("wq.q.a")), "{notes:?}");
}

#[test]
fn the_broker_keeps_the_life_of_direct_items_alone() {
    for (yaml, expected) in [
        ("queue: a\nlane: direct\nexpires_after: 1d\n", json!(86_400_000)),
        ("queue: a\nlane: direct\n", json!(null)),
        // RabbitMQ does not count that far.
        ("queue: a\nlane: direct\nexpires_after: 50d\n", json!(null)),
        ("queue: a\nexpires_after: 1d\n", json!(null)),
    ] {
        let settled = Want::of(yaml).settled("4.3");
        assert_eq!(settled.policies["wq.q.a"].definition["message-ttl"], expected, "{yaml}");
    }
}
