//! The feed and its readers.

use super::super::changes::{self, Reader};
use super::super::{control, items, plan, records};
use super::*;
use crate::definition::QueueDefinition;
use crate::item::door::{self, Arrival, NewItem};
use crate::item::event::Event;
use crate::item::timeline::Line;
use crate::item::{ItemId, Timestamp};

const AT: Timestamp = Timestamp::UNIX_EPOCH;

/// An item with these lines, as `event, state`.
async fn item(bench: &Bench, reference: &str, ignored: &[&str], lines: &[(&'static str, &str)]) -> ItemId {
    let new = NewItem { reference: Some(reference.to_owned()), ..NewItem::default() };
    let ignored = ignored.iter().map(ToString::to_string).collect();
    let arrival = Arrival { new, ignored, ..Arrival::default() };
    let id = ItemId::new(uuid::Uuid::now_v7());
    let item = door::admit(&QueueDefinition::with_defaults("a"), &arrival, 4, String::new(), id, AT);
    let lines: Vec<(ItemId, Line)> =
        (1..).zip(lines).map(|(revision, line)| (id, self::line(revision, line))).collect();
    let written = bench.mirror.write(move |tx: &mut Tx| {
        Box::pin(async move {
            items::insert(tx, &[(&item, false)]).await?;
            records::append_lines(tx, &lines).await
        })
    });
    written.await.unwrap();
    id
}

fn line(revision: u32, (event, state): &(&'static str, &str)) -> Line {
    Line {
        revision,
        at: AT,
        actor: "x".to_owned(),
        user: None,
        event: (*event).into(),
        why: Some("is not told".to_owned()),
        attempt: 1,
        state: (*state).to_owned(),
        ended: None,
    }
}

async fn waiting(bench: &Bench) -> Vec<(i64, String)> {
    let waiting = bench.mirror.waiting_changes(Reader::Broker, 100).await.unwrap();
    let event = |change: changes::WaitingChange| {
        let kinds = change.events.map(|events| events.iter().map(Event::routing_key).collect::<Vec<_>>().join(" "));
        kinds.unwrap_or("gone".to_owned())
    };
    waiting.into_iter().map(|waiting| (waiting.seq, event(waiting))).collect()
}

async fn had(bench: &Bench, reader: Reader, up_to: i64) {
    bench.mirror.write(move |tx: &mut Tx| Box::pin(changes::had(tx, reader, up_to))).await.unwrap();
}

async fn trim(bench: &Bench, most: i64) -> bool {
    bench.mirror.write(move |tx: &mut Tx| Box::pin(changes::trim(tx, most))).await.unwrap()
}

async fn many(bench: &Bench, count: u32) {
    let sql = format!(
        "INSERT INTO changes (item, revision) WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n \
         WHERE n < {count}) SELECT 'x', n FROM n"
    );
    bench.write(sql.leak()).await.unwrap();
}

async fn control(bench: &Bench, kind: &'static str) {
    let event = control::Event { kind: kind.to_owned(), at: AT, body: serde_json::json!({ "queue": "a" }) };
    let written =
        bench.mirror.write(move |tx: &mut Tx| Box::pin(async move { control::add_events(tx, &[event]).await }));
    written.await.unwrap();
}

#[tokio::test]
async fn changes_and_what_control_says_are_one_feed_in_the_order_of_their_commits() {
    let bench = Bench::new().await;
    let lines = [("admitted", "queued"), ("noted", "queued"), ("started", "processing"), ("progress", "processing")];
    let one = item(&bench, "one", &["CC: no"], &lines).await;
    control(&bench, "queue.paused.a").await;
    item(&bench, "two", &[], &[("admitted", "queued"), ("processed", "processed")]).await;
    let found = waiting(&bench).await;
    let expected = [
        (1, "item.queued.a item.ignored_header.a"),
        (2, "item.processing.a"),
        (3, "queue.paused.a"),
        (4, "item.queued.a"),
        (5, "item.processed.a"),
    ];
    assert_eq!(found.iter().map(|(seq, event)| (*seq, event.as_str())).collect::<Vec<_>>(), expected);
    let first = bench.mirror.waiting_changes(Reader::Broker, 1).await.unwrap().remove(0).events.unwrap().remove(0);
    assert_eq!((first.subject, first.queue.as_deref()), (Some(one.to_string()), Some("a")));
    assert_eq!(bench.mirror.newest_change(Reader::Broker).await.unwrap(), Some(5));
    had(&bench, Reader::Broker, 3).await;
    assert_eq!((waiting(&bench).await.len(), bench.mirror.untold().await.unwrap()), (2, 2));
    had(&bench, Reader::Broker, 5).await;
    // A place never goes back.
    had(&bench, Reader::Broker, 1).await;
    assert_eq!(bench.mirror.newest_change(Reader::Broker).await.unwrap(), None);
    assert_eq!((bench.mirror.untold().await.unwrap(), bench.mirror.feed_ends().await.unwrap()), (0, (Some(1), 5)));
}

#[tokio::test]
async fn what_goes_is_had_by_all_and_leaves_a_tail() {
    let bench = Bench::new().await;
    control(&bench, "control.first").await;
    many(&bench, 25_000).await;
    // The broker has nothing yet.
    assert!(!trim(&bench, 10_000).await);
    assert_eq!(bench.mirror.feed_ends().await.unwrap(), (Some(1), 25_001));
    had(&bench, Reader::Broker, 25_001).await;
    let mut transactions = 1;
    while trim(&bench, 10_000).await {
        transactions += 1;
    }
    assert_eq!((transactions, bench.mirror.feed_ends().await.unwrap()), (2, (Some(15_002), 25_001)));
    let events: i64 = sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(bench.mirror.reads()).await.unwrap();
    assert_eq!(events, 0, "what control said goes with its row");
    // Somebody took the items out of the mirror: that stops nobody.
    let page = bench.mirror.changes_after(15_001, 10).await.unwrap();
    assert!(page.len() == 10 && page.iter().all(|row| row.events.is_none()));
}

#[tokio::test]
async fn a_reader_holds_what_it_does_not_have_until_it_leaves() {
    let bench = Bench::new().await;
    many(&bench, 100).await;
    had(&bench, Reader::Broker, 100).await;
    let follow = || bench.mirror.write(|tx: &mut Tx| Box::pin(changes::follow(tx, Reader::Outward)));
    follow().await.unwrap();
    // What was before is not its own.
    assert_eq!(bench.mirror.read_up_to(Reader::Outward).await.unwrap(), Some(100));
    many(&bench, 20_000).await;
    had(&bench, Reader::Broker, 20_100).await;
    had(&bench, Reader::Outward, 150).await;
    follow().await.unwrap();
    assert_eq!(
        (bench.mirror.read_up_to(Reader::Outward).await.unwrap(), bench.mirror.untold().await.unwrap()),
        (Some(150), 19_950)
    );
    while trim(&bench, 10_000).await {}
    assert_eq!(bench.mirror.feed_ends().await.unwrap(), (Some(151), 20_100));
    bench.mirror.write(|tx: &mut Tx| Box::pin(changes::leave(tx, Reader::Outward))).await.unwrap();
    while trim(&bench, 10_000).await {}
    assert_eq!(bench.mirror.feed_ends().await.unwrap(), (Some(10_101), 20_100));
    assert!(bench.mirror.waiting_changes(Reader::Outward, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn numbers_are_never_used_again() {
    let bench = Bench::new().await;
    many(&bench, 3).await;
    had(&bench, Reader::Broker, 3).await;
    bench.write("DELETE FROM changes").await.unwrap();
    assert_eq!(bench.mirror.feed_ends().await.unwrap(), (None, 3));
    many(&bench, 1).await;
    assert_eq!(bench.mirror.feed_ends().await.unwrap(), (Some(4), 4));
}

#[tokio::test]
async fn changes_are_read_without_looking_at_what_is_not_told() {
    let bench = Bench::new().await;
    let plan = plan(&bench.mirror, changes::WAITING).await;
    let expected = [
        "SEARCH changes USING INTEGER PRIMARY KEY (rowid>?)",
        "SEARCH timeline USING PRIMARY KEY (item=? AND revision=?) LEFT-JOIN",
    ];
    assert_eq!(plan[..2], expected, "{plan:#?}");
    assert!(plan[2].starts_with("SEARCH items USING INDEX") && plan.len() == 4, "{plan:#?}");
    assert_eq!(plan[3], "SEARCH events USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN", "{plan:#?}");
}

/// They are asked for with each batch, in the one writer too.
#[tokio::test]
async fn the_ends_of_the_feed_are_found_without_walking_through_it() {
    let bench = Bench::new().await;
    for sql in [changes::ENDS, changes::NEWER] {
        let plan = plan(&bench.mirror, sql).await;
        assert!(!plan.iter().any(|step| step.starts_with("SCAN changes")), "{sql}: {plan:#?}");
        // From an end, as far as the first row.
        assert!(plan.iter().filter(|step| step.as_str() == "SEARCH changes").count() >= 2, "{sql}: {plan:#?}");
    }
}

/// What an older version left: rows of items in the feed, and words of control beside it.
#[tokio::test]
async fn what_an_older_version_had_to_tell_is_in_the_feed() {
    let sql = include_str!("../../../migrations/sqlite/0011_feed.sql");
    let mut db = SqliteConnectOptions::new().filename(":memory:").connect().await.unwrap();
    for before in MIGRATIONS.iter().filter(|migration| migration.version < 11) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(before.sql.as_str().to_owned())).execute(&mut db).await.unwrap();
    }
    let told = "INSERT INTO changes (item, revision) VALUES ('gone', 1), ('x', 1), ('x', 2); DELETE FROM changes WHERE item = 'gone'; \
         INSERT INTO events (id, type, at, body) VALUES ('e1', 'control.drift', 1, '{}'), ('e2', 'control.drift', 2, '{}')";
    sqlx::raw_sql(told).execute(&mut db).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut db).await.unwrap();
    let rows: Vec<(i64, String, i64)> =
        sqlx::query_as("SELECT seq, item, revision FROM changes ORDER BY seq").fetch_all(&mut db).await.unwrap();
    let rows: Vec<_> = rows.iter().map(|(seq, item, revision)| (*seq, item.as_str(), *revision)).collect();
    assert_eq!(rows, [(2, "x", 1), (3, "x", 2), (4, "", 1), (5, "", 2)]);
    // All of it wq.events does not have yet.
    let had: i64 =
        sqlx::query_scalar("SELECT seq FROM readers WHERE name = 'broker'").fetch_one(&mut db).await.unwrap();
    assert_eq!(had, 1);
}
