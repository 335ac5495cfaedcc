//! What is asked often is answered from an index, however much waits.

use super::super::actions::{ANY_WAITS, OPEN, SEEN, WAITING};
use super::super::audit::{AuditFilter, page};
use super::super::breakers::{TRIED, WORKING};
use super::super::chained::children_sql;
use super::super::dispatch::{
    ANY_OUT, LEVELS, NEXT_CROSSING, NEXT_DUE, NEXT_EXPIRY, before_dispatch_sql, pick, unconfirmed_sql,
};
use super::super::items::crossing_sql;
use super::super::leases::{CLAIMED_SINCE, COUNT, HAS_READY, NEXT_END, READY_LEVELS, due_sql};
use super::super::plan;
use super::super::read::export::{PAYLOADS, TIMELINES};
use super::super::read::items::matching;
use super::super::read::outlook::{handled_sql, waits_sql};
use super::super::standing::ENDS;
use super::super::working::{FIRST_STARTED, HANDLING_TIMES, LONG_SILENT, overdue_sql};
use super::*;
use crate::definition::Order;

#[tokio::test]
async fn dispatch_and_timers_ask_indexes_alone() {
    let bench = Bench::new().await;
    let pick = |order| pick(order).to_owned();
    for (sql, expected) in [
        (LEVELS.to_owned(), "INDEX items_ready (queue=? AND priority<?)"),
        (LEVELS.to_owned(), "USING COVERING INDEX items_out (queue=?)"),
        (ENDS.to_owned(), "INDEX items_by_queue (queue=? AND state=?)"),
        (ANY_OUT.to_owned(), "USING COVERING INDEX items_out (queue=?)"),
        (WORKING.to_owned(), "USING COVERING INDEX items_out (queue=?)"),
        (TRIED[0].to_owned(), "INDEX items_out (queue=?)"),
        (TRIED[1].to_owned(), "INDEX items_leased (queue=?)"),
        (TRIED[2].to_owned(), "INDEX items_rejected (rejected_at>?)"),
        (WORKING.to_owned(), "USING COVERING INDEX items_leased (queue=?)"),
        (COUNT.to_owned(), "USING COVERING INDEX items_leased (queue=?)"),
        (HAS_READY.to_owned(), "INDEX items_ready (queue=?)"),
        (READY_LEVELS.to_owned(), "INDEX items_ready (queue=? AND priority<?)"),
        (CLAIMED_SINCE.to_owned(), "INDEX items_leased (queue=?)"),
        (NEXT_END.to_owned(), "INDEX leases_until"),
        (due_sql(), "INDEX leases_until (until<?)"),
        (NEXT_DUE.to_owned(), "USING INDEX items_delayed"),
        (NEXT_EXPIRY.to_owned(), "INDEX items_expiring"),
        (NEXT_CROSSING.to_owned(), "INDEX items_sla"),
        (crossing_sql(), "USING INDEX items_sla (sla_next<?)"),
        (pick(Order::Fifo), "USING INDEX items_ready (queue=? AND priority=?)"),
        (pick(Order::Deadline), "USING INDEX items_deadline (queue=? AND priority=? AND due_at>?)"),
        (unconfirmed_sql(), "USING INDEX items_out (queue=? AND priority=? AND place=? AND rejected_at=?)"),
        (FIRST_STARTED.to_owned(), "INDEX items_started (queue=?)"),
        (LONG_SILENT.to_owned(), "USING INDEX items_started (queue=? AND started_at<?)"),
        (overdue_sql(), "USING INDEX items_started (queue=? AND started_at<?)"),
        (HANDLING_TIMES.to_owned(), "USING INDEX items_by_queue (queue=? AND state=?)"),
        (before_dispatch_sql(), "INDEX items_out (queue=? AND priority=? AND place=? AND rejected_at=?)"),
    ] {
        let plan = plan(&bench.mirror, &sql).await;
        assert!(
            plan.iter().any(|step| step.ends_with(expected) || step.contains(&format!("{expected} "))),
            "{sql}: {plan:#?}"
        );
        // What is claimed is never more than some windows.
        let sorts = sql != unconfirmed_sql() && plan.iter().any(|step| step.contains("TEMP B-TREE"));
        assert!(!sorts, "{sql}: {plan:#?}");
    }
}

#[tokio::test]
async fn looks_ahead_read_indexes_that_hold_what_is_due_or_waits_alone() {
    let bench = Bench::new().await;
    let plan = plan(&bench.mirror, &waits_sql()).await;
    let searched: Vec<&String> =
        plan.iter().filter(|step| step.starts_with("SEARCH") || step.starts_with("SCAN items")).collect();
    for (step, index) in
        searched.iter().zip(["items_due", "items_postponed", "items_ready", "items_out", "items_leased"])
    {
        assert!(step.contains(&format!("INDEX {index} (queue=?")), "{plan:#?}");
    }
    assert_eq!(searched.len(), 5, "{plan:#?}");
    let plan = super::super::plan(&bench.mirror, &handled_sql()).await;
    assert!(plan.iter().any(|step| step.contains("INDEX items_by_queue (queue=? AND state=?)")), "{plan:#?}");
    assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:#?}");
}

#[tokio::test]
async fn exports_look_for_the_items_of_their_page_alone() {
    let bench = Bench::new().await;
    for (sql, expected) in [
        (TIMELINES, &["SEARCH timeline USING PRIMARY KEY (item=?)"][..]),
        (PAYLOADS, &["SEARCH items USING COVERING INDEX", "SEARCH payloads USING INTEGER PRIMARY KEY"]),
    ] {
        let plan = plan(&bench.mirror, sql).await;
        for expected in expected {
            assert!(plan.iter().any(|step| step.contains(expected)), "{sql}: {plan:#?}");
        }
        assert!(!plan.iter().any(|step| step.contains("SCAN items") || step.contains("SCAN timeline")), "{plan:#?}");
    }
}

#[tokio::test]
async fn children_are_found_by_their_parents() {
    let bench = Bench::new().await;
    let plan = plan(&bench.mirror, &children_sql(2)).await;
    for expected in
        ["SEARCH chained USING PRIMARY KEY (parent=?)", "SEARCH items USING INDEX items_by_parent (parent=?)"]
    {
        assert!(plan.iter().any(|step| step.contains(expected)), "{plan:#?}");
    }
}

#[tokio::test]
async fn the_audit_log_is_read_from_where_it_is_asked_about() {
    let bench = Bench::new().await;
    let since = AuditFilter { since: Some(crate::item::Timestamp::UNIX_EPOCH), ..AuditFilter::default() };
    let who = AuditFilter { who: Some("ops".to_owned()), ..AuditFilter::default() };
    for (filter, expected) in [
        (&since, "USING COVERING INDEX audit_by_time (at>?)"),
        (&since, "SEARCH audit USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        (&who, "INDEX audit_by_who (who=? AND seq<?)"),
    ] {
        let plan = plan(&bench.mirror, page(filter, 10, None).sql().as_str()).await;
        assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:#?}");
        assert!(plan.iter().any(|step| step.contains(expected)), "{expected}: {plan:#?}");
    }
}

#[tokio::test]
async fn counts_follow_every_change() {
    let bench = Bench::new().await;
    let item = |id: &str, queue: &str, state: &str| {
        format!(
            "INSERT INTO items (id, queue, lane, state, place, priority, attempt, deliveries, retries, requeues, silent, \
             possible_repeat, ran_anyway, stub, enqueued_at, ready_at, revision) \
             VALUES ('{id}', '{queue}', 'managed', '{state}', 'ready', 4, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1)"
        )
    };
    let all = [
        item("1", "a", "queued"),
        item("2", "a", "queued"),
        item("3", "b", "queued"),
        "UPDATE items SET state = 'exception', kind = 'it', place = 'settled' WHERE id = '1'".to_owned(),
        "UPDATE items SET kind = 'business' WHERE id = '1'".to_owned(),
        "UPDATE items SET state = 'processed', place = 'settled' WHERE id = '2'".to_owned(),
        "UPDATE items SET note = 'nothing moves' WHERE id = '3'".to_owned(),
    ];
    for sql in all {
        bench.write(sql.leak()).await.unwrap();
    }
    let counts = bench.mirror.counts().await.unwrap();
    assert_eq!((counts["a"].exception, counts["a"].processed, counts["a"].queued), (1, 1, 0));
    assert_eq!(counts["a"].exceptions.keys().copied().collect::<Vec<_>>(), [crate::item::Kind::Business]);
    assert_eq!(counts["b"].queued, 1);
    bench.write("DELETE FROM items WHERE id = '3'").await.unwrap();
    assert!(!bench.mirror.counts().await.unwrap().contains_key("b"));
}

#[tokio::test]
async fn jobs_ask_indexes_alone() {
    let bench = Bench::new().await;
    let alike = |queue: Option<&str>| {
        let filter = ItemFilter {
            queue: queue.map(str::to_owned),
            fingerprint: Some("f".to_owned()),
            states: vec!["exception"],
            ..ItemFilter::default()
        };
        matching(&filter, 0, 9, 10).into_string()
    };
    for (sql, expected) in [
        (OPEN.to_owned(), "USING INDEX actions_open"),
        (WAITING.to_owned(), "USING INDEX action_items_waiting"),
        (WAITING.to_owned(), "SEARCH items USING INTEGER PRIMARY KEY (rowid=?)"),
        (ANY_WAITS.to_owned(), "action_items_waiting"),
        (SEEN.to_owned(), "SEARCH action_items USING PRIMARY KEY (action=? AND seq>? AND seq<?)"),
        (SEEN.to_owned(), "SEARCH items USING INTEGER PRIMARY KEY (rowid=?)"),
        (alike(Some("a")), "INDEX items_by_fingerprint (queue=? AND fingerprint=? AND seq>? AND seq<?)"),
        (alike(None), "INDEX items_by_fingerprint (queue=? AND fingerprint=? AND seq>? AND seq<?)"),
    ] {
        let plan = plan(&bench.mirror, &sql).await;
        assert!(plan.iter().any(|step| step.contains(expected)), "{sql}: {plan:#?}");
        assert!(
            !plan.iter().any(|step| step.starts_with("SCAN items") || step == "SCAN action_items"),
            "{sql}: {plan:#?}"
        );
    }
}
