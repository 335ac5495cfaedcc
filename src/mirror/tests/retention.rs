//! What is finished goes in bounded batches, whole, and leaves its reference taken where that is wanted.

use std::collections::HashSet;

use super::super::plan;
use super::super::retention::{
    self, ANY_FINISHED, ANY_WITH_PAYLOAD, FINISHED, LINES, Removed, WITH_PAYLOAD, What, remove,
};
use super::*;
use crate::item::Timestamp;

const ITEMS: What = What::Items { unique: false };

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// So many items that ended at second 1, 2, 3 and so on, each with this many lines; their ids and references are numbers.
async fn finished(bench: &Bench, queue: &str, state: &str, items: u32, lines: u32) {
    let (state, kind) =
        state.split_once(": ").map_or((state, "NULL".to_owned()), |(state, kind)| (state, format!("'{kind}'")));
    let numbers = format!("WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {items})");
    let id = format!(
        "printf('00000000-0000-0000-{:04x}-%012d', n)",
        u32::from(queue.as_bytes()[0]) << 8 | u32::from(state.as_bytes()[0])
    );
    let all = format!(
        "INSERT INTO items (id, queue, lane, reference, content_hash, state, kind, place, size, priority, attempt, deliveries, retries, \
         requeues, silent, possible_repeat, ran_anyway, stub, enqueued_at, ready_at, finished_at, revision) {numbers} \
         SELECT {id}, '{queue}', 'managed', n, 'hash', '{state}', {kind}, 'settled', 4, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, \
         CASE WHEN '{state}' <> 'on_hold' THEN n * 1000000 END, {lines} FROM n;\
         INSERT INTO payloads {numbers} SELECT seq, 'body' FROM n JOIN items ON items.id = {id};\
         INSERT INTO timeline (item, revision, at, actor, event, attempt, state) {numbers}, l (l) AS (SELECT 1 UNION ALL SELECT l + 1 \
         FROM l WHERE l < {lines}) SELECT {id}, l, 1, 'x', 'noted', 0, 'queued' FROM n CROSS JOIN l"
    );
    bench.write(all.leak()).await.unwrap();
}

async fn remove_once(bench: &Bench, queue: &'static str, state: &'static str, until: i64, what: What) -> Removed {
    let removed = bench.mirror.write(move |tx: &mut Tx| {
        Box::pin(async move { remove(tx, queue, state, second(until), what, second(1_000_000)).await })
    });
    removed.await.unwrap()
}

async fn number(bench: &Bench, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(bench.mirror.reads()).await.unwrap()
}

#[tokio::test]
async fn twenty_thousand_items_go_in_batches_that_are_small() {
    let bench = Bench::new().await;
    finished(&bench, "a", "processed", 20_000, 3).await;
    finished(&bench, "b", "processed", 10, 1).await;
    finished(&bench, "a", "on_hold", 10, 1).await;
    finished(&bench, "a", "exception: it", 10, 1).await;
    let (mut transactions, mut items, mut largest) = (0, 0, 0);
    loop {
        let removed = remove_once(&bench, "a", "processed", 19_990, ITEMS).await;
        transactions += 1;
        items += removed.items;
        largest = largest.max(removed.rows);
        if !removed.more {
            break;
        }
    }
    assert_eq!((items, transactions), (19_990, 79));
    // An item, its payload and its lines.
    assert_eq!(largest, 256 * 5);
    assert_eq!(number(&bench, "SELECT count(*) FROM items").await, 40);
    assert_eq!(number(&bench, "SELECT count(*) FROM timeline").await, 3 * 10 + 30);
    assert_eq!(number(&bench, "SELECT count(*) FROM payloads").await, 40);
    let counts = bench.mirror.counts().await.unwrap();
    assert_eq!(
        (counts["a"].processed, counts["a"].on_hold, counts["a"].exception, counts["b"].processed),
        (10, 10, 10, 10)
    );
    assert_eq!(number(&bench, "SELECT count(*) FROM spent_references").await, 0);
}

#[tokio::test]
async fn long_histories_make_small_batches() {
    let bench = Bench::new().await;
    finished(&bench, "a", "processed", 5, 900).await;
    finished(&bench, "b", "processed", 1, 3_000).await;
    let first = remove_once(&bench, "a", "processed", 100, ITEMS).await;
    assert_eq!(first, Removed { items: 2, rows: 2 * 902, more: true });
    assert!(first.rows <= LINES);
    // One that alone is too long goes all the same.
    assert_eq!(remove_once(&bench, "b", "processed", 100, ITEMS).await, Removed { items: 1, rows: 3_002, more: false });
    assert_eq!(remove_once(&bench, "b", "processed", 100, ITEMS).await, Removed::default());
}

#[tokio::test]
async fn what_is_still_to_be_told_stays_until_it_is_told() {
    let bench = Bench::new().await;
    finished(&bench, "a", "processed", 3, 1).await;
    bench.write("INSERT INTO changes (item, revision) SELECT id, 1 FROM items WHERE reference = '2'").await.unwrap();
    assert_eq!(remove_once(&bench, "a", "processed", 100, ITEMS).await.items, 2);
    assert!(bench.mirror.anything_to_remove("a", "processed", second(100), ITEMS).await.unwrap());
    bench.write("UPDATE readers SET seq = (SELECT max(seq) FROM changes)").await.unwrap();
    assert_eq!(remove_once(&bench, "a", "processed", 100, ITEMS).await.items, 1);
    assert!(!bench.mirror.anything_to_remove("a", "processed", second(100), ITEMS).await.unwrap());
}

#[tokio::test]
async fn payloads_go_alone_and_once() {
    let bench = Bench::new().await;
    finished(&bench, "a", "cancelled", 3, 1).await;
    assert!(bench.mirror.anything_to_remove("a", "cancelled", second(2), What::Payloads).await.unwrap());
    assert_eq!(
        remove_once(&bench, "a", "cancelled", 2, What::Payloads).await,
        Removed { items: 2, rows: 2, more: false }
    );
    assert!(!bench.mirror.anything_to_remove("a", "cancelled", second(2), What::Payloads).await.unwrap());
    assert_eq!(remove_once(&bench, "a", "cancelled", 2, What::Payloads).await, Removed::default());
    assert_eq!(number(&bench, "SELECT count(*) FROM payloads").await, 1);
    let gone = "SELECT count(*) FROM items WHERE payload_gone = 1 AND size = 4 AND content_hash = 'hash'";
    assert_eq!(number(&bench, gone).await, 2);
    // With or without their payloads, the items go when it is their turn.
    assert_eq!(remove_once(&bench, "a", "cancelled", 100, ITEMS).await, Removed { items: 3, rows: 7, more: false });
}

#[tokio::test]
async fn references_stay_taken_where_they_were_unique_or_are_by_now() {
    for (what, unique, set, expected) in [
        ("unique when it came", false, "UPDATE items SET unique_reference = reference", "processed"),
        ("unique by now", true, "UPDATE items SET attempt = 1", "processed"),
        ("never unique", false, "UPDATE items SET attempt = 1", ""),
        ("no reference", true, "UPDATE items SET reference = NULL", ""),
        ("refused at the door", true, "UPDATE items SET state = 'exception', kind = 'duplicate'", ""),
        (
            "failed with a robot",
            true,
            "UPDATE items SET state = 'exception', kind = 'invalid', attempt = 1",
            "exception: invalid",
        ),
        ("expired at the door", true, "UPDATE items SET state = 'exception', kind = 'expired'", "exception: expired"),
    ] {
        let bench = Bench::new().await;
        finished(&bench, "a", "processed", 1, 1).await;
        bench.write(set).await.unwrap();
        let state = if set.contains("exception") { "exception" } else { "processed" };
        assert_eq!(remove_once(&bench, "a", state, 100, What::Items { unique }).await.items, 1, "{what}");
        let asked: HashSet<_> = ["1", "2"].map(|reference| ("a".to_owned(), reference.to_owned())).into();
        let spent = bench.mirror.write(move |tx: &mut Tx| Box::pin(async move { retention::spent(tx, &asked).await }));
        let spent = spent.await.unwrap();
        let states: Vec<String> = spent.values().map(|spent| spent.state.to_string()).collect();
        assert_eq!(states.join(" "), expected, "{what}");
        for (identity, spent) in spent {
            assert_eq!((identity.1.as_str(), spent.content_hash.as_deref()), ("1", Some("hash")), "{what}");
            assert_eq!((spent.finished_at, spent.gone_at), (second(1), second(1_000_000)), "{what}");
            assert!(spent.known().id == spent.item && !spent.known().open && !spent.known().refused, "{what}");
        }
    }
}

#[tokio::test]
async fn what_is_not_kept_is_found_by_an_index_alone() {
    let bench = Bench::new().await;
    for (sql, expected) in [
        (
            FINISHED,
            "SEARCH items USING INDEX items_finished (queue=? AND state=? AND payload_gone=? AND finished_at<?)",
        ),
        (
            WITH_PAYLOAD,
            "SEARCH items USING INDEX items_finished (queue=? AND state=? AND payload_gone=? AND finished_at<?)",
        ),
        (
            ANY_FINISHED,
            "SEARCH items USING COVERING INDEX items_finished (queue=? AND state=? AND payload_gone=? AND finished_at<?)",
        ),
        (
            ANY_WITH_PAYLOAD,
            "SEARCH items USING COVERING INDEX items_finished (queue=? AND state=? AND payload_gone=? AND finished_at<?)",
        ),
    ] {
        let plan = plan(&bench.mirror, sql).await;
        assert!(plan.iter().any(|step| step == expected), "{sql}: {plan:#?}");
        assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{sql}: {plan:#?}");
    }
}
