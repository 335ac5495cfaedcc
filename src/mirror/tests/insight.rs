//! Failures, robots and what goes before an item: what is kept of them, from which index it is answered, and how fast.

use std::collections::HashSet;

use uuid::Uuid;

use super::super::failures::{self, FailureFilter, failures_sql, samples_sql};
use super::super::robots::{self, AT_WORK};
use super::super::why::{BEFORE_BY_DEADLINE, BEFORE_IN_ORDER, BEFORE_WITHOUT_DEADLINE, OUT_BEFORE};
use super::super::{items, plan};
use super::*;
use crate::definition::{Order, QueueDefinition};
use crate::item::door::{self, Arrival};
use crate::item::failures::Seen;
use crate::item::lifecycle::{self, Moment, Rules};
use crate::item::report::{Failure, Report, Saying};
use crate::item::robots::{Ended, Heard, Tallies};
use crate::item::why::Ahead;
use crate::item::{Item, ItemId, Kind, Place, Timestamp};

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn item(queue: &str, id: u128) -> Item {
    let definition = QueueDefinition::with_defaults(queue);
    door::admit(
        &definition,
        &Arrival::default(),
        4,
        door::content_hash(b""),
        ItemId::new(Uuid::from_u128(id)),
        second(0),
    )
}

fn failing(queue: &str, id: u128, reason: &str) -> Item {
    let mut item = Item { attempt: 1, place: Place::Broker, ..item(queue, id) };
    let definition = QueueDefinition::with_defaults(queue);
    let rules = Rules { retry: &definition.retry, crash_limit: 5 };
    let saying = Saying::Exception {
        failure: Failure::Business,
        code: Some("E1".to_owned()),
        reason: Some(reason.to_owned()),
        details: None,
        started_at: None,
    };
    let report = Report { saying, attempt: Some(1), robot: None, user: None, problems: Vec::new() };
    let _ = lifecycle::report(&mut item, &report, &rules, &Moment { now: second(100), chance: 0.5 });
    item
}

impl Bench {
    async fn insert(&self, items: Vec<Item>) {
        self.mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    let items: Vec<(&Item, bool)> = items.iter().map(|item| (item, false)).collect();
                    items::insert(tx, &items).await
                })
            })
            .await
            .unwrap();
    }

    async fn see(&self, seen: Vec<Seen>) {
        self.mirror.write(move |tx: &mut Tx| Box::pin(async move { failures::see(tx, &seen).await })).await.unwrap();
    }

    async fn hear(&self, heard: Vec<(&'static str, Option<&str>, Option<i64>, i64)>) {
        let mut tallies = Tallies::default();
        for (queue, robot, from, at) in heard {
            let heard = Heard {
                robot: robot.map(str::to_owned),
                user: None,
                ended: from.map(|_| Ended::Ok),
                busy_from: from.map(second),
            };
            tallies.hear(queue, heard, second(at));
        }
        self.mirror.write(move |tx: &mut Tx| Box::pin(async move { robots::hear(tx, &tallies).await })).await.unwrap();
    }

    async fn open(&self) -> Vec<(String, u64)> {
        let all = self.mirror.failures(&FailureFilter::default()).await.unwrap();
        all.into_iter().map(|(failure, open)| (failure.queue, open)).collect()
    }
}

fn seen(queue: &str, fingerprint: &str, at: i64) -> Seen {
    Seen {
        fingerprint: fingerprint.to_owned(),
        queue: queue.to_owned(),
        kind: Kind::Business,
        code: None,
        reason: Some(format!("at {at}")),
        at: second(at),
        retried: at % 2 == 1,
        again: false,
    }
}

#[tokio::test]
async fn failures_are_kept_while_their_items_come_and_go() {
    let bench = Bench::new().await;
    let items: Vec<Item> = (1..=3).map(|id| failing("a", id, "vendor 7 is locked")).collect();
    let fingerprint = items[0].fingerprint.clone().unwrap();
    assert!(items.iter().all(|item| item.fingerprint.as_ref() == Some(&fingerprint)));
    bench.insert(items.clone()).await;
    bench.insert(vec![failing("b", 4, "vendor 8 is locked"), item("a", 9)]).await;
    bench.see(vec![seen("a", &fingerprint, 100), seen("b", &fingerprint, 100), seen("a", &fingerprint, 201)]).await;
    assert_eq!(bench.open().await, [("a".to_owned(), 3), ("b".to_owned(), 1)]);

    // One is set aside, one goes, one stays.
    bench
        .write("UPDATE items SET state = 'on_hold', kind = NULL, fingerprint = NULL WHERE id LIKE '%1'")
        .await
        .unwrap();
    bench.write("DELETE FROM items WHERE id LIKE '%2'").await.unwrap();
    bench.write("UPDATE items SET note = 'nothing moves' WHERE id LIKE '%3'").await.unwrap();
    assert_eq!(bench.open().await, [("a".to_owned(), 1), ("b".to_owned(), 1)]);
    // Cancelled it keeps its fingerprint and is no exception; restored it is one again.
    bench.write("UPDATE items SET state = 'cancelled', kind = NULL WHERE id LIKE '%3'").await.unwrap();
    assert_eq!(bench.open().await, [("a".to_owned(), 0), ("b".to_owned(), 1)]);
    bench.write("UPDATE items SET state = 'exception', kind = 'business' WHERE id LIKE '%3'").await.unwrap();

    let filter = FailureFilter { queue: Some("a".to_owned()), kinds: vec![Kind::Business], ..FailureFilter::default() };
    let all = bench.mirror.failures(&filter).await.unwrap();
    let [(failure, 1)] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(
        (failure.first_seen, failure.last_seen, failure.seen, failure.retried),
        (second(100), second(201), 2, 1)
    );
    assert_eq!(failure.reason, None, "words are asked for where they are shown");
    let words = bench.mirror.failure_words(&[(failure.fingerprint.clone(), failure.queue.clone())]).await.unwrap();
    assert_eq!(words[&failure.fingerprint].1.as_deref(), Some("at 201"));
    let other = FailureFilter { kinds: vec![Kind::It], ..FailureFilter::default() };
    assert!(bench.mirror.failures(&other).await.unwrap().is_empty());

    let asked = [(fingerprint.clone(), "a".to_owned()), (fingerprint.clone(), "b".to_owned())];
    let samples = bench.mirror.failure_samples(&asked, 5).await.unwrap();
    let found: Vec<u128> =
        samples[&fingerprint].iter().map(|id| id.to_string().parse::<Uuid>().unwrap().as_u128()).collect();
    assert_eq!(found, [4, 3], "newest first");
    assert!(bench.mirror.failure_samples(&[], 5).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_older_mirror_is_folded_anew_once() {
    let bench = Bench::new().await;
    let items: Vec<Item> = (1..=1_500).map(|id| failing("a", id, &format!("vendor {id} is locked"))).collect();
    let fingerprint = items[0].fingerprint.clone().unwrap();
    bench.insert(items).await;
    // As older versions left it: other fingerprints, none, and no table of failures.
    bench.write("UPDATE items SET fingerprint = 'old' || (seq % 10)").await.unwrap();
    bench.write("UPDATE items SET fingerprint = NULL WHERE seq % 3 = 0").await.unwrap();
    bench.write("DELETE FROM meta WHERE key = 'fold'").await.unwrap();
    bench.mirror.close().await;
    let Bench { folder, mirror } = bench;
    drop(mirror);
    let mirror = Mirror::open(&format!("sqlite://{}/m.db", folder.path().display())).await.unwrap();
    let bench = Bench { folder, mirror };
    let all = bench.mirror.failures(&FailureFilter::default()).await.unwrap();
    let [(failure, 1_500)] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(
        (failure.fingerprint.as_str(), failure.seen, failure.last_seen),
        (fingerprint.as_str(), 1_500, second(100))
    );
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM failure_counts WHERE items <> 1500")
        .fetch_one(bench.mirror.reads())
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn robots_are_summed_up_as_one_by_one() {
    let bench = Bench::new().await;
    let hour = 3_600;
    bench.hear(vec![("a", Some("r1"), Some(100), 200), ("a", None, None, 200), ("b", Some("r1"), None, 210)]).await;
    bench.hear(vec![("a", Some("r1"), Some(hour - 60), hour + 30), ("a", Some("r1"), None, hour + 31)]).await;
    let all = bench.mirror.robots(Some("a")).await.unwrap();
    let [unnamed, one] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((unnamed.name.as_deref(), unnamed.timed), (None, None));
    assert_eq!((one.ok, one.timed, one.first_seen, one.last_seen), (2, Some(true), second(200), second(hour + 31)));
    assert_eq!((one.busy.hour, one.busy.now / 1_000_000, one.busy.before / 1_000_000), (1, 30, 160));
    // Two hours later nothing of it counts; a clock that goes back takes nothing away.
    bench.hear(vec![("a", Some("r1"), Some(3 * hour), 3 * hour + 10)]).await;
    bench.hear(vec![("a", Some("r1"), Some(2 * hour + 3_590), 3 * hour)]).await;
    bench.hear(vec![("a", Some("r1"), Some(2 * hour), 2 * hour + 5)]).await;
    let one = bench.mirror.robots(Some("a")).await.unwrap().pop().unwrap();
    assert_eq!((one.busy.hour, one.busy.now / 1_000_000, one.busy.before / 1_000_000), (3, 10, 15));
    assert_eq!(bench.mirror.robots(None).await.unwrap().len(), 3);
}

#[tokio::test]
async fn names_and_reasons_that_are_too_many_are_forgotten_and_counted() {
    let bench = Bench::new().await;
    let names: Vec<String> = (0..1_010).map(|n| format!("r{n}")).collect();
    for (at, name) in names.iter().enumerate() {
        bench.hear(vec![("a", Some(name), None, 1_000 + i64::try_from(at).unwrap())]).await;
    }
    bench.see((0..2_005).map(|n| seen("a", &format!("f{n}"), 1_000 + n)).collect()).await;
    // The oldest has an item that is it, and stays.
    bench.write("INSERT INTO failure_counts VALUES ('f0', 'a', 1)").await.unwrap();
    bench.hear(vec![("b", Some("old"), None, 10)]).await;
    for queue in ["a", "b"] {
        bench
            .mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    robots::forget(tx, queue, second(900)).await?;
                    failures::forget(tx, queue, second(900)).await
                })
            })
            .await
            .unwrap();
    }
    let robots = bench.mirror.robots(None).await.unwrap();
    assert_eq!(robots.len(), 1_000);
    assert!(!robots.iter().any(|robot| robot.name.as_deref() == Some("r9") || robot.name.as_deref() == Some("old")));
    let failures = bench.mirror.failures(&FailureFilter::default()).await.unwrap();
    let kept: HashSet<&str> = failures.iter().map(|(failure, _)| failure.fingerprint.as_str()).collect();
    assert!(kept.contains("f0") && !kept.contains("f4") && kept.contains("f5"), "{}", kept.len());
    assert_eq!(bench.mirror.forgotten("robots").await.unwrap(), 10);
    assert_eq!(bench.mirror.forgotten("failures").await.unwrap(), 4);
}

#[tokio::test]
async fn what_goes_before_an_item_is_counted_in_its_order() {
    let bench = Bench::new().await;
    let due = |id, priority, due_at: Option<i64>| Item { priority, due_at: due_at.map(second), ..item("a", id) };
    let out = |id, priority, at| Item {
        place: Place::Broker,
        attempt: 1,
        dispatched_at: Some(second(at)),
        ..due(id, priority, None)
    };
    let all = vec![
        due(1, 4, Some(50)),
        due(2, 8, None),
        due(3, 4, None),
        due(4, 4, Some(20)),
        due(5, 4, None),
        due(6, 4, Some(50)),
        out(7, 4, 10),
        out(8, 4, 20),
        out(9, 8, 30),
        Item { queue: "b".to_owned(), ..due(10, 8, None) },
    ];
    bench.insert(all.clone()).await;
    for (index, fifo, by_deadline) in [
        (0, Some(1), Some(2)),
        (1, Some(0), Some(0)),
        (2, Some(2), Some(4)),
        (3, Some(3), Some(1)),
        (4, Some(4), Some(5)),
        (5, Some(5), Some(3)),
        (6, Some(1), Some(1)),
        (7, Some(2), Some(2)),
        (8, Some(0), Some(0)),
    ] {
        let count = async |order| bench.mirror.ahead_of(&all[index], order).await.unwrap();
        let expected = |count: Option<u64>| count.map(|count| Ahead { count, at_least: false });
        assert_eq!(count(Order::Fifo).await, expected(fifo), "{index}");
        assert_eq!(count(Order::Deadline).await, expected(by_deadline), "{index}");
    }
    let delayed = Item { place: Place::Delayed, ..all[0].clone() };
    assert_eq!(bench.mirror.ahead_of(&delayed, Order::Fifo).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_asked_about_failures_and_robots_is_answered_from_indexes() {
    let bench = Bench::new().await;
    let ready = "INDEX items_ready (queue=? AND priority";
    let one = FailureFilter { fingerprint: Some("f".to_owned()), ..FailureFilter::default() };
    let pair = [("f".to_owned(), "a".to_owned())];
    for (sql, expected) in [
        (
            failures_sql(&FailureFilter::default()).sql().as_str().to_owned(),
            "SEARCH failure_counts USING PRIMARY KEY (fingerprint=? AND queue=?)",
        ),
        (failures_sql(&one).sql().as_str().to_owned(), "SEARCH failures USING PRIMARY KEY (fingerprint=?)"),
        (samples_sql(&pair, 5).sql().as_str().to_owned(), "INDEX items_by_fingerprint (queue=? AND fingerprint=?)"),
        (AT_WORK.to_owned(), "INDEX items_started (queue=?"),
        (BEFORE_IN_ORDER[0].to_owned(), ready),
        (BEFORE_IN_ORDER[1].to_owned(), ready),
        (BEFORE_BY_DEADLINE[0].to_owned(), "INDEX items_deadline (queue=? AND priority=? AND due_at"),
        (BEFORE_BY_DEADLINE[1].to_owned(), "INDEX items_deadline (queue=? AND priority=? AND due_at"),
        (BEFORE_WITHOUT_DEADLINE[0].to_owned(), "INDEX items_deadline (queue=? AND priority=? AND due_at"),
        (BEFORE_WITHOUT_DEADLINE[1].to_owned(), ready),
        (OUT_BEFORE[0].to_owned(), "INDEX items_out (queue=? AND priority"),
        (OUT_BEFORE[1].to_owned(), "INDEX items_out (queue=? AND priority"),
    ] {
        let plan = plan(&bench.mirror, &sql).await;
        assert!(plan.iter().any(|step| step.contains(expected)), "{sql}: {plan:#?}");
        assert!(
            !plan.iter().any(|step| step.contains("SCAN items") || step.contains("TEMP B-TREE")),
            "{sql}: {plan:#?}"
        );
    }
}

/// `cargo test --release --lib insight_with_a_million -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a million items: some minutes in a debug build"]
async fn insight_with_a_million_items() {
    use std::time::Instant;
    let bench = Bench::new().await;
    let began = Instant::now();
    let columns = "id, queue, lane, state, kind, place, priority, attempt, deliveries, retries, requeues, silent, possible_repeat, \
         ran_anyway, stub, code, reason, worker, fingerprint, enqueued_at, ready_at, finished_at, started_at, size, revision";
    let numbers = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000000)";
    // Of ten queues; a tenth are exceptions of 500 kinds, a thousandth is being worked on.
    let rows = format!(
        "INSERT INTO items ({columns}) {numbers} SELECT printf('00000000-0000-0000-0000-%012d', n), 'q' || (n % 10), 'managed', \
         CASE WHEN n % 11 = 0 THEN 'exception' WHEN n % 1000 = 1 THEN 'processing' ELSE 'queued' END, \
         CASE WHEN n % 11 = 0 THEN 'it' END, CASE WHEN n % 11 = 0 THEN 'settled' WHEN n % 1000 = 1 THEN 'broker' ELSE 'ready' END, \
         4, 1, 0, 0, 0, 0, 0, 0, 0, NULL, 'system ' || char(97 + n % 25) || char(97 + n / 25 % 20) || ' is down', 'r' || (n % 997), \
         CASE WHEN n % 11 = 0 THEN printf('%016x', n % 500) END, n * 1000000, 0, \
         CASE WHEN n % 11 = 0 THEN n * 1000000 END, CASE WHEN n % 1000 = 1 THEN n * 1000000 END, 2, 1 FROM n"
    );
    bench.write(rows.leak()).await.unwrap();
    println!("filled in {:.1} s", began.elapsed().as_secs_f64());
    bench.write("DELETE FROM meta WHERE key = 'fold'").await.unwrap();
    bench.mirror.close().await;
    let Bench { folder, mirror } = bench;
    drop(mirror);
    let began = Instant::now();
    let mirror = Mirror::open(&format!("sqlite://{}/m.db", folder.path().display())).await.unwrap();
    println!("opened, with 90,909 exceptions folded anew, in {:.2} s", began.elapsed().as_secs_f64());
    let bench = Bench { folder, mirror };
    let robots: Vec<(&'static str, Option<String>)> =
        (0..5_000).map(|n| (QUEUES[n % 10], Some(format!("r{n}")))).collect();
    for robots in robots.chunks(250) {
        bench.hear(robots.iter().map(|(queue, name)| (*queue, name.as_deref(), Some(10), 20)).collect()).await;
    }
    for _ in 0..3 {
        let began = Instant::now();
        let all = bench.mirror.failures(&FailureFilter::default()).await.unwrap();
        let groups = crate::item::failures::groups(all, second(2_000_000));
        let asked: Vec<(String, String)> = (groups.iter().take(100))
            .flat_map(|group| group.by_queue.iter().map(|one| (group.fingerprint.clone(), one.queue.clone())))
            .collect();
        let samples = bench.mirror.failure_samples(&asked, 5).await.unwrap();
        let took = began.elapsed();
        println!("{} groups, {} of them with samples: {:.1} ms", groups.len(), samples.len(), took.as_secs_f64() * 1e3);
        let began = Instant::now();
        let known = bench.mirror.robots(None).await.unwrap();
        let mut at_work = 0;
        for queue in QUEUES {
            at_work += bench.mirror.at_work(queue).await.unwrap().len();
        }
        println!("{} robots, {at_work} items with them: {:.1} ms", known.len(), began.elapsed().as_secs_f64() * 1e3);
        let began = Instant::now();
        let last = Item { queue: "q0".to_owned(), ..item("q0", 999_990) };
        let id = "00000000-0000-0000-0000-000000999990".parse().unwrap();
        let ahead = bench.mirror.ahead_of(&Item { id, ..last }, Order::Fifo).await.unwrap();
        println!("what goes before the last item ({ahead:?}): {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
    }
}

const QUEUES: [&str; 10] = ["q0", "q1", "q2", "q3", "q4", "q5", "q6", "q7", "q8", "q9"];
