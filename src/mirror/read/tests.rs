//! The read side over a real SQLite file.

use std::collections::BTreeMap;

use super::items::list;
use super::*;
use crate::item::{ItemId, Kind, Lane, Place, State, Timestamp};
use crate::mirror::plan;

/// One row of `items` with the columns that tests care for.
struct Sample {
    n: u128,
    queue: &'static str,
    state: State,
    place: &'static str,
    reference: Option<String>,
    priority: i64,
    due_at: Option<i64>,
    enqueued_at: i64,
    labels: Option<&'static str>,
    reason: Option<&'static str>,
}

impl Sample {
    fn queued(n: u128) -> Self {
        let enqueued_at = i64::try_from(n).unwrap();
        Self {
            n,
            queue: "invoices",
            state: State::Queued,
            place: "ready",
            reference: Some(format!("INV-{n}")),
            priority: 4,
            due_at: None,
            enqueued_at,
            labels: None,
            reason: None,
        }
    }

    fn exception(n: u128, kind: Kind) -> Self {
        Self { state: State::Exception(kind), place: "settled", ..Self::queued(n) }
    }
}

fn id(n: u128) -> ItemId {
    ItemId::new(uuid::Uuid::from_u128(n))
}

fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap()
}

async fn mirror(samples: Vec<Sample>) -> (tempfile::TempDir, Mirror) {
    let folder = tempfile::tempdir().unwrap();
    let mirror = Mirror::open(&format!("sqlite://{}/m.db", folder.path().display())).await.unwrap();
    for sample in samples {
        mirror
            .write(move |tx| {
                Box::pin(async move {
                    sqlx::query(
                        "INSERT INTO items (id, queue, lane, reference, state, kind, place, priority, attempt, deliveries, \
                         retries, requeues, silent, possible_repeat, ran_anyway, stub, enqueued_at, ready_at, due_at, labels, \
                         reason, revision) VALUES ($1, $2, 'managed', $3, $4, $5, $6, $7, 0, 0, 0, 0, 0, 0, 0, 0, $8, $8, $9, \
                         $10, $11, 1)",
                    )
                    .bind(id(sample.n).to_string())
                    .bind(sample.queue)
                    .bind(sample.reference)
                    .bind(sample.state.word())
                    .bind(sample.state.kind().map(Kind::word))
                    .bind(sample.place)
                    .bind(sample.priority)
                    .bind(sample.enqueued_at)
                    .bind(sample.due_at)
                    .bind(sample.labels)
                    .bind(sample.reason)
                    .execute(tx)
                    .await
                    .map_err(failed("be filled"))?;
                    Ok(())
                })
            })
            .await
            .unwrap();
    }
    (folder, mirror)
}

/// Runs one plain statement.
async fn run(mirror: &Mirror, sql: &'static str) {
    mirror
        .write(move |tx| {
            Box::pin(async move { sqlx::query(sql).execute(tx).await.map(|_| ()).map_err(failed("be filled")) })
        })
        .await
        .unwrap();
}

async fn found(mirror: &Mirror, filter: ItemFilter) -> Vec<ItemId> {
    let page = mirror.items(&filter, Sort::Oldest, 100, None).await.unwrap();
    page.items.into_iter().map(|item| item.id).collect()
}

#[tokio::test]
async fn an_item_comes_back_with_every_column() {
    let (_folder, mirror) = mirror(vec![Sample::queued(1)]).await;
    run(
        &mirror,
        "UPDATE items SET lane = 'direct', name = 'n', state = 'exception', kind = 'it', place = 'settled', code = 'c', \
         reason = 'r', note = 'o', result = '{\"a\":[1]}', progress = 40, attempt = 3, deliveries = 2, retries = 1, requeues = 5, \
         silent = 1, rejected_at = 10, possible_repeat = 1, ran_anyway = 1, ignored = '[\"x\"]', content_type = 't', size = 9, \
         content_hash = 'h', labels = '{\"site\":\"oslo\"}', worker = 'w', traceparent = 'tp', reply_to = 'rt', \
         correlation_id = 'ci', not_before = 11, due_at = 12, expires_at = 13, dispatched_at = 14, started_at = 15, \
         finished_at = 16, revision = 7",
    )
    .await;
    let item = mirror.item(id(1)).await.unwrap().unwrap();
    assert_eq!(item.lane, Lane::Direct);
    assert_eq!(item.state, State::Exception(Kind::It));
    assert_eq!(item.place, Place::Settled);
    assert_eq!(item.result, Some(serde_json::json!({"a": [1]})));
    assert_eq!((item.progress, item.priority, item.attempt, item.deliveries), (Some(40), 4, 3, 2));
    assert_eq!((item.retries, item.requeues, item.revision, item.size), (1, 5, 7, Some(9)));
    assert!(item.silent && item.possible_repeat && item.ran_anyway && !item.stub);
    assert_eq!(item.ignored, ["x"]);
    assert_eq!(item.labels, BTreeMap::from([("site".to_owned(), "oslo".to_owned())]));
    assert_eq!(item.rejected_at, Some(time(10)));
    assert_eq!((item.not_before, item.due_at, item.expires_at), (Some(time(11)), Some(time(12)), Some(time(13))));
    assert_eq!(
        (item.dispatched_at, item.started_at, item.finished_at),
        (Some(time(14)), Some(time(15)), Some(time(16)))
    );
    assert_eq!(item.correlation_id.as_deref(), Some("ci"));
}

#[tokio::test]
async fn what_does_not_exist_is_none() {
    let (_folder, mirror) = mirror(vec![Sample::queued(1)]).await;
    assert_eq!(mirror.item(id(2)).await.unwrap(), None);
    assert_eq!(mirror.payload(id(1)).await.unwrap(), None);
    assert_eq!(mirror.timeline(id(1)).await.unwrap(), []);
    assert_eq!(mirror.counts_of("none").await.unwrap(), Counts::default());
    assert_eq!(mirror.unaccounted("none").await.unwrap(), 0);
}

#[tokio::test]
async fn a_row_another_hand_broke_is_named_and_no_panic() {
    let (_folder, mirror) = mirror(vec![Sample::queued(1)]).await;
    for (sql, column) in [
        ("UPDATE items SET result = 'no json'", "result"),
        ("UPDATE items SET result = NULL, attempt = -1", "attempt"),
        ("UPDATE items SET attempt = 0, enqueued_at = 9223372036854775807", "enqueued_at"),
        ("UPDATE items SET enqueued_at = 0, labels = '[1]'", "labels"),
        ("UPDATE items SET labels = NULL, name = x'ff'", "name"),
    ] {
        run(&mirror, sql).await;
        let error = mirror.item(id(1)).await.unwrap_err().to_string();
        assert!(error.contains(&format!("column {column}")) && error.contains(&id(1).to_string()), "{error}");
    }
}

#[tokio::test]
async fn every_order_pages_without_gap_or_repeat() {
    let samples = (1..=23)
        .map(|n| Sample {
            priority: i64::try_from(n % 3).unwrap(),
            due_at: (n % 4 != 0).then(|| i64::try_from(n % 5).unwrap()),
            ..Sample::queued(n)
        })
        .collect();
    let (_folder, mirror) = mirror(samples).await;
    for sort in Sort::ALL {
        let whole = mirror.items(&ItemFilter::default(), sort, 1000, None).await.unwrap();
        assert_eq!((whole.items.len(), whole.next), (23, None));
        for limit in [1, 2, 7, 22, 23, 24] {
            let mut paged = Vec::new();
            let mut after = None;
            loop {
                let page = mirror.items(&ItemFilter::default(), sort, limit, after).await.unwrap();
                assert!(page.items.len() <= usize::try_from(limit).unwrap());
                paged.extend(page.items);
                // Through its text, as a client brings it back.
                after = page.next.map(|cursor| cursor.to_string().parse::<ItemCursor>().unwrap());
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(paged, whole.items, "{sort:?} by {limit}");
        }
    }
}

#[tokio::test]
async fn orders_are_what_they_say() {
    let (_folder, mirror) = mirror(vec![
        Sample { due_at: Some(50), ..Sample::queued(1) },
        Sample { priority: 8, ..Sample::queued(2) },
        Sample { due_at: Some(20), priority: 8, ..Sample::queued(3) },
    ])
    .await;
    for (sort, order) in
        [(Sort::Newest, [3, 2, 1]), (Sort::Oldest, [1, 2, 3]), (Sort::Priority, [2, 3, 1]), (Sort::Due, [3, 1, 2])]
    {
        let page = mirror.items(&ItemFilter::default(), sort, 10, None).await.unwrap();
        let found: Vec<ItemId> = page.items.iter().map(|item| item.id).collect();
        assert_eq!(found, order.map(id), "{sort:?}");
    }
}

#[tokio::test]
async fn filters_keep_what_meets_all_of_them() {
    let (_folder, mirror) = mirror(vec![
        Sample { labels: Some(r#"{"site":"oslo","a.\"b":"x"}"#), due_at: Some(100), ..Sample::queued(1) },
        Sample { reason: Some("Vendor 100% unknown"), ..Sample::exception(2, Kind::Business) },
        Sample { queue: "orders", ..Sample::exception(3, Kind::It) },
        Sample {
            labels: Some(r#"{"site":"rome"}"#),
            reference: Some("a_b".to_owned()),
            due_at: Some(200),
            ..Sample::queued(4)
        },
    ])
    .await;
    run(&mirror, "INSERT INTO timeline (item, revision, at, actor, event, attempt, state) SELECT id, 1, 900, 'a', 'e', 0, 'queued' FROM items WHERE seq = 2").await;
    let base = ItemFilter::default;
    let text = |text: &str| Some(text.to_owned());
    let label = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let cases: Vec<(ItemFilter, &[u128])> = vec![
        (base(), &[1, 2, 3, 4]),
        (ItemFilter { queue: text("orders"), ..base() }, &[3]),
        (ItemFilter { queue: text("or'ders"), ..base() }, &[]),
        (ItemFilter { states: vec!["queued"], ..base() }, &[1, 4]),
        (ItemFilter { states: vec!["queued", "exception"], queue: text("invoices"), ..base() }, &[1, 2, 4]),
        (ItemFilter { kinds: vec![Kind::Business, Kind::It], ..base() }, &[2, 3]),
        (ItemFilter { reference: text("INV-2"), ..base() }, &[2]),
        (ItemFilter { labels: label("site", "oslo"), ..base() }, &[1]),
        (ItemFilter { labels: label("a.\"b", "x"), ..base() }, &[1]),
        (ItemFilter { labels: [label("site", "oslo"), label("site", "rome")].concat(), ..base() }, &[]),
        (ItemFilter { due: Some(time(200)), ..base() }, &[1]),
        (ItemFilter { since: Some(time(3)), ..base() }, &[2, 3, 4]),
        (ItemFilter { q: text("inv-"), ..base() }, &[1, 2, 3]),
        (ItemFilter { q: text("VENDOR 100%"), ..base() }, &[2]),
        (ItemFilter { q: text("a_b"), ..base() }, &[4]),
        (ItemFilter { q: text("%"), ..base() }, &[2]),
        (ItemFilter { q: text("\\"), ..base() }, &[]),
    ];
    for (filter, expected) in cases {
        let expected: Vec<ItemId> = expected.iter().copied().map(id).collect();
        assert_eq!(found(&mirror, filter.clone()).await, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn counts_are_by_queue_state_and_kind() {
    let (_folder, mirror) = mirror(vec![
        Sample::queued(1),
        Sample::queued(2),
        Sample::exception(3, Kind::It),
        Sample::exception(4, Kind::Business),
        Sample::exception(5, Kind::It),
        Sample { queue: "orders", ..Sample::queued(6) },
    ])
    .await;
    let invoices = mirror.counts_of("invoices").await.unwrap();
    assert_eq!((invoices.queued, invoices.exception), (2, 3));
    assert_eq!(invoices.exceptions, BTreeMap::from([(Kind::Business, 1), (Kind::It, 2)]));
    let all = mirror.counts().await.unwrap();
    assert_eq!(all.get("invoices"), Some(&invoices));
    assert_eq!(all.get("orders").map(|counts| counts.queued), Some(1));
}

#[tokio::test]
async fn payload_timeline_and_the_unaccounted_are_read() {
    let (_folder, mirror) = mirror(vec![Sample::queued(1)]).await;
    run(&mirror, "INSERT INTO payloads (seq, body) SELECT seq, x'00ff' FROM items").await;
    run(&mirror, "INSERT INTO timeline (item, revision, at, actor, user, event, why, attempt, state) SELECT id, 2, 5, 'bot', 'u', 'retry', 'w', 1, 'queued' FROM items").await;
    run(&mirror, "INSERT INTO timeline (item, revision, at, actor, event, attempt, state) SELECT id, 1, 4, 'producer', 'admitted', 0, 'queued' FROM items").await;
    run(&mirror, "INSERT INTO queue_acks (queue, unaccounted) VALUES ('invoices', 3), ('orders', 0)").await;
    let payload = mirror.payload(id(1)).await.unwrap().unwrap();
    assert_eq!((payload.content_type, payload.body), (None, vec![0, 255]));
    let lines = mirror.timeline(id(1)).await.unwrap();
    assert_eq!(lines.iter().map(|line| line.event.as_ref()).collect::<Vec<_>>(), ["admitted", "retry"]);
    assert_eq!((lines[1].user.as_deref(), lines[1].why.as_deref(), lines[1].at), (Some("u"), Some("w"), time(5)));
    assert_eq!(mirror.unaccounted("invoices").await.unwrap(), 3);
    assert_eq!(mirror.unaccounted_by_queue().await.unwrap(), BTreeMap::from([("invoices".to_owned(), 3)]));
}

#[tokio::test]
async fn parked_messages_page_from_the_newest_with_a_preview() {
    let (_folder, mirror) = mirror(Vec::new()).await;
    run(&mirror, "INSERT INTO parked (at, source, queue, reason, properties, body) VALUES (1, 'intake', 'q', 'r', '{\"type\":1}', zeroblob(5000)), (2, 'tap', 'q', 'r', 'odd', x'41'), (3, 'reports', 'q', 'r', '{}', x'')").await;
    assert_eq!(mirror.parked_count().await.unwrap(), 3);
    let first = mirror.parked(2, None, None).await.unwrap();
    assert_eq!(first.items.iter().map(|parked| parked.seq).collect::<Vec<_>>(), [3, 2]);
    assert_eq!(first.items[1].properties, serde_json::json!("odd"));
    let second = mirror.parked(2, first.next, None).await.unwrap();
    assert_eq!(second.next, None);
    assert_eq!((second.items[0].size, second.items[0].preview.len()), (5000, 4096));
    assert_eq!(second.items[0].properties, serde_json::json!({"type": 1}));
}

#[tokio::test]
async fn what_was_committed_is_there_when_the_mirror_is_opened_again() {
    let (folder, mirror) = mirror(vec![Sample::queued(1)]).await;
    drop(mirror);
    let again = Mirror::open(&format!("sqlite://{}/m.db", folder.path().display())).await.unwrap();
    assert!(again.item(id(1)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_page_of_a_list_is_read_from_an_index_in_its_order() {
    let (_folder, mirror) = mirror(Vec::new()).await;
    let queue = Some("invoices".to_owned());
    let after = Some(ItemCursor { sort: Sort::Newest, key: None, seq: 7 });
    let all = ItemFilter::default();
    let by_queue = ItemFilter { queue: queue.clone(), ..all.clone() };
    let by_state = ItemFilter { states: vec!["exception", "queued"], ..all.clone() };
    let by_kind = ItemFilter { kinds: vec![Kind::Business], ..all.clone() };
    let by_both = ItemFilter { queue: queue.clone(), ..by_state.clone() };
    let by_reference = ItemFilter { reference: Some("INV-1".to_owned()), ..all.clone() };
    for (filter, cursor, expected) in [
        (&all, None, "SCAN items"),
        (&all, after, "SEARCH items USING INTEGER PRIMARY KEY (rowid<?)"),
        (&by_queue, None, "SEARCH items USING COVERING INDEX items_by_queue (queue=? AND state=?)"),
        (&by_queue, after, "SEARCH items USING COVERING INDEX items_by_queue (queue=? AND state=? AND seq<?)"),
        (&by_state, None, "SEARCH items USING COVERING INDEX items_by_state (state=?)"),
        (&by_state, after, "SEARCH items USING COVERING INDEX items_by_state (state=? AND seq<?)"),
        (&by_kind, None, "SEARCH items USING INDEX items_by_state (state=?)"),
        (&by_both, None, "SEARCH items USING COVERING INDEX items_by_queue (queue=? AND state=?)"),
        (&by_reference, None, "SEARCH items USING INDEX items_by_reference (reference=?)"),
    ] {
        let plan = plan(&mirror, &list(filter, Sort::Newest, 101, cursor).into_string()).await;
        assert!(plan.iter().any(|step| step == expected), "{filter:?}: {plan:#?}");
        // Each state's part is cut off before anything is put together.
        let mut scans = plan.iter().filter(|step| step.starts_with("SCAN items"));
        assert!(expected == "SCAN items" || scans.next().is_none(), "{filter:?}: {plan:#?}");
        // With one exception nothing is sorted at all: items of one reference are few.
        let sorts = plan.iter().any(|step| step.contains("TEMP B-TREE"));
        assert!(!sorts || filter == &by_reference, "{filter:?}: {plan:#?}");
    }
}

#[tokio::test]
async fn what_waits_is_summed_up_by_priority_and_time() {
    use crate::item::forecast::Cohort;
    const SECOND: i64 = 1_000_000;
    let due = |n: u128, due_in: i64| Sample { due_at: Some(due_in * SECOND), ..Sample::queued(n) };
    let samples = vec![
        // Late since 1970 began; in time, two of them together.
        due(1, -5),
        due(2, 30),
        due(3, 32),
        Sample { priority: 8, ..due(4, 86_400) },
        Sample { place: "delayed", enqueued_at: 50 * SECOND, ..due(5, 100) },
        Sample { place: "delayed", enqueued_at: 7200 * SECOND, ..Sample::queued(6) },
        Sample::queued(7),
        Sample { place: "broker", ..Sample::queued(8) },
        Sample { state: State::Processing, place: "broker", ..due(9, 35) },
        // Of no interest.
        Sample { state: State::Exception(Kind::It), place: "settled", ..due(10, 30) },
        Sample { queue: "others", ..due(11, 30) },
    ];
    let (_folder, mirror) = mirror(samples).await;
    run(&mirror, "UPDATE items SET at_risk_at = -1 WHERE due_at = 32000000").await;
    let mut waits = mirror.waits("invoices", Timestamp::UNIX_EPOCH).await.unwrap();
    waits.backlog.sort_by(|a, b| (a.priority, a.due_in).partial_cmp(&(b.priority, b.due_in)).unwrap());
    let cohort = |priority, ready_in, due_in, items| Cohort { priority, ready_in, due_in, items };
    let few = |cohort: &Cohort| Cohort {
        ready_in: cohort.ready_in.round(),
        due_in: cohort.due_in.map(f64::round),
        ..*cohort
    };
    assert_eq!(
        waits.backlog.iter().map(few).collect::<Vec<_>>(),
        [
            cohort(4, 7200.0, None, 1),
            cohort(4, 0.0, None, 2),
            cohort(4, 0.0, Some(-5.0), 1),
            cohort(4, 0.0, Some(32.0), 3),
            cohort(4, 50.0, Some(100.0), 1),
            cohort(8, 0.0, Some(86_400.0), 1),
        ]
    );
    assert_eq!(waits.sla, SlaCounts { in_time: 4, at_risk: 1, late: 1 });
    assert_eq!(mirror.waits("nobody", Timestamp::UNIX_EPOCH).await.unwrap(), Waits::default());

    run(
        &mirror,
        "UPDATE items SET state = 'processed', kind = NULL, place = 'settled', started_at = 1, finished_at = 2",
    )
    .await;
    run(&mirror, "UPDATE items SET silent = 1 WHERE reference = 'INV-3'").await;
    assert_eq!(mirror.handled("others").await.unwrap().len(), 1);
    assert_eq!(mirror.handled("invoices").await.unwrap().len(), 9);
}
