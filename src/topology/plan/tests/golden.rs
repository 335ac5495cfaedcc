//! Plans as people read them, word by word: `tests/fixtures/plans`. `BLESS=1` writes them anew; then read the difference.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::broker::{delete_exchange, delete_queue, take_effect};
use super::*;
use crate::definition::Paused;
use crate::topology::observed::{Counts, ObservedQueue};
use crate::topology::render;

fn golden(name: &str, want: &Want, observed: &Observed) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/plans").join(format!("{name}.txt"));
    let text = render::text(&want.plan(observed), false);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error} (BLESS=1)", path.display()));
    assert_eq!(text, expected, "{} (BLESS=1 writes it anew)", path.display());
}

fn pausing(dispatch: bool, intake: bool) -> impl FnOnce(&mut Wishes) {
    move |wishes| {
        wishes.paused = ["m", "d"].map(|key| (key.to_owned(), Paused { dispatch, intake })).into();
    }
}

fn count(observed: &mut Observed, queue: &str, ready: u64, unacked: u64) {
    let there = observed.queues.get_mut(queue).unwrap();
    there.counts = Counts { ready: Some(ready), unacked: Some(unacked), total: Some(ready + unacked) };
}

const TWO: &str = "queue: m\n---\nqueue: d\nlane: direct\n";

#[test]
fn from_nothing() {
    golden("from-nothing-4.3", &Want::of(TWO), &Observed::nothing(version("4.3.6")));
    golden("from-nothing-3.10", &Want::of(TWO), &Observed::nothing(version("3.10.8")));
}

#[test]
fn nothing_to_do() {
    golden("nothing", &Want::of(TWO), &Want::of(TWO).settled("4.3"));
}

#[test]
fn a_change_of_lane() {
    let changed = Want::of("queue: m\nlane: direct\n---\nqueue: d\n");
    golden("lanes", &changed, &Want::of(TWO).settled("4.3"));
}

#[test]
fn classic_becomes_quorum_after_an_upgrade() {
    let mut observed = Want::of(TWO).settled("3.10");
    observed.version = version("4.3");
    count(&mut observed, "wq.q.m", 120, 3);
    golden("upgrade", &Want::of(TWO), &observed);
    golden("no-upgrade", &Want::of(&TWO.replace("---", "type: classic\n---")), &observed);
}

#[test]
fn more_priorities_on_a_classic_queue() {
    let before = Want::of("queue: m\ntype: classic\n").settled("4.3");
    golden("priorities", &Want::of("queue: m\ntype: classic\npriorities: {normal: 1, top: 12}\n"), &before);
    let quorum = Want::of("queue: m\n").settled("4.3");
    golden("priorities-quorum", &Want::of("queue: m\npriorities: {normal: 1, top: 12}\n"), &quorum);
}

#[test]
fn pauses() {
    let settled = Want::of(TWO).settled("4.3");
    golden("pause-dispatch", &Want::of(TWO).wishing(pausing(true, false)), &settled);
    golden("pause-intake", &Want::of(TWO).wishing(pausing(false, true)), &settled);
    let paused = Want::of(TWO).wishing(pausing(true, true)).settled("4.3");
    golden("resume", &Want::of(TWO), &paused);
    golden("resume-later", &Want::of(TWO).wishing(|wishes| wishes.straight_closed = ["d".to_owned()].into()), &paused);
}

#[test]
fn retired() {
    let mut observed = Want::of(TWO).settled("4.3");
    count(&mut observed, "wq.q.m", 7, 1);
    count(&mut observed, "wq.q.d", 0, 0);
    let kept = Want::of("queue: other\n").knowing(&[("m", 40)]);
    golden("retired", &kept, &observed);
    golden("retired-word", &kept.saying(&["m", "other", "never"]), &observed);
}

#[test]
fn drift() {
    let want = Want::of(TWO).knowing(&[("m", 5)]);
    let mut observed = Want::of(TWO).settled("4.3");
    observed.bindings.remove(&binding("wq.items", "m", "wq.intake"));
    observed.bindings.insert(binding("wq.items", "#", "wq.q.d"));
    observed.policies.get_mut("wq.q.d").unwrap().definition = json!({"consumer-timeout": 1000, "max-length": 10});
    delete_queue("wq.q.m", &mut observed);
    delete_exchange("wq.dead", &mut observed);
    // Somebody audits; nobody minds.
    observed.bindings.insert(binding("wq.events", "#", "audit"));
    golden("drift", &want, &observed);
}

#[test]
fn policies_of_others() {
    let mut observed = Want::of(TWO).settled("4.3");
    let theirs = |name: &str, pattern: &str, priority, definition| Policy {
        name: name.to_owned(),
        pattern: pattern.to_owned(),
        priority,
        definition,
        apply_to: "queues".to_owned(),
    };
    let all = theirs("ops", ".*", 200, json!({"delivery-limit": 4, "message-ttl": 60000}));
    observed.policies.insert("ops".to_owned(), all);
    // Lower than ours, so it is in effect only where we have none; and it does no harm there.
    observed.policies.insert("low".to_owned(), theirs("low", ".*", 1, json!({"queue-leader-locator": "balanced"})));
    let operator = theirs("caps", r"^wq\.(intake|q\.)", 0, json!({"max-length": 1000}));
    observed.operator_policies.insert("caps".to_owned(), operator);
    take_effect(&mut observed);
    golden("shadowed", &Want::of(TWO), &observed);
}

#[test]
fn blocked() {
    let mut observed = Want::of(TWO).settled("4.3");
    observed.exchanges.get_mut("wq.items").unwrap().alternate = None;
    let own = observed.queues.get_mut("wq.intake").unwrap();
    *own = ObservedQueue {
        kind: "classic".to_owned(),
        arguments: json!({"x-queue-type": "classic", "x-message-ttl": 1000}).as_object().unwrap().clone(),
        durable: true,
        ..ObservedQueue::default()
    };
    observed.queues.get_mut("wq.q.m").unwrap().kind = "stream".to_owned();
    golden("blocked", &Want::of(TWO), &observed);
}

#[test]
fn migrations_left_and_under_way() {
    let mut observed = Want::of(TWO).settled("4.3");
    delete_queue("wq.q.m", &mut observed);
    for queue in ["wq.m.m", "wq.m.old"] {
        observed.queues.insert(queue.to_owned(), ObservedQueue { durable: true, ..ObservedQueue::default() });
        count(&mut observed, queue, 3, 0);
    }
    let mut want = Want::of(TWO);
    want.facts.migrating.insert("m".to_owned());
    observed.bindings.insert(binding("wq.dispatch", "m", "wq.m.m"));
    golden("migrating", &want, &observed);
    want.facts.migrating.clear();
    want.facts.rolled_back.insert("m".to_owned(), "robots still held 2 items after 300 s".to_owned());
    golden("rolled_back", &want, &Want::of(TWO).settled("3.10"));
}
