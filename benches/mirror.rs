//! State changes per second of the mirror alone, beside the same rows written by plain SQL; no broker.
//!
//! ```text
//! cargo bench --bench mirror             ITEMS=20000 ROUNDS=3 unless the environment says otherwise
//! ```
//!
//! Every item changes four times: admitted, claimed, marked as out, processed. Batches are those of the lanes, 256 items
//! and one commit each (`synchronous=FULL`), and what the lanes ask of the mirror for them is in them: the look for items
//! of the same reference, the claim in order, the load of what is reported. The baseline knows all that beforehand and
//! only writes: one transaction per batch, statements of many rows, the same schema, the same settings of SQLite. In the
//! end both have to hold the same rows. Both files lie below `target/`; only ratios of one run mean anything.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a benchmark may fail by panicking")]

use std::collections::HashSet;
use std::env;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, QueryBuilder, Row as _, Sqlite, SqliteConnection};
use warrend::definition::{Order, QueueDefinition};
use warrend::item::door::{self, Arrival, NewItem};
use warrend::item::lifecycle::{self, Moment, Rules};
use warrend::item::report::{Report, Saying};
use warrend::item::timeline::Line;
use warrend::item::{Item, ItemId, Timestamp};
use warrend::mirror::dispatch::{Allowance, CLAIMED_BYTES, Sent};
use warrend::mirror::{Mirror, Tx, acks, dispatch, items, records};

/// Items per transaction, as the lanes take them.
const BATCH: usize = 256;

/// Rows per statement of the baseline.
const ROWS: usize = 128;

const QUEUE: &str = "bench";
const PRIORITY: u8 = 4;

type Time = fn(&Times) -> Duration;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let number = |name: &str, default: usize| env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (count, rounds) = (number("ITEMS", 20_000), number("ROUNDS", 3));
    println!("{count} items of 1 KiB, {rounds} rounds, batches of {BATCH}, synchronous=FULL; median changes/s\n");
    let mut ours = Vec::new();
    let mut plain = Vec::new();
    for _ in 0..rounds {
        let batches = new_items(count);
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let (one, other) = (dir.path().join("mirror.db"), dir.path().join("plain.db"));
        ours.push(through_the_mirror(&one, &batches).await);
        plain.push(by_plain_sql(&other, &batches).await);
        let (left, right) = (rows(&one).await, rows(&other).await);
        assert!(
            left == right && left.len() == count,
            "both have to hold the same rows: {} {}",
            left.len(),
            right.len()
        );
    }
    println!("{:28} {:>10} {:>10} {:>7}", "", "mirror", "plain SQL", "ratio");
    let phases: [(&str, usize, Time); 4] = [
        ("admitted", 1, |times| times.admitted),
        ("claimed and marked", 2, |times| times.dispatched),
        ("reported processed", 1, |times| times.reported),
        ("all", 4, |times| times.admitted + times.dispatched + times.reported),
    ];
    for (name, changes, time) in phases {
        let rate = |all: &[Times]| {
            #[expect(clippy::cast_precision_loss, reason = "a count of changes")]
            let changes = (count * changes) as f64;
            let mut rates: Vec<f64> = all.iter().map(|times| changes / time(times).as_secs_f64()).collect();
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        };
        let (ours, plain) = (rate(&ours), rate(&plain));
        println!("{name:28} {ours:>10.0} {plain:>10.0} {:>7.2}", ours / plain);
    }
}

/// Items with their payloads that go into one transaction.
type Batch = Arc<[(Item, Vec<u8>)]>;

/// How long each kind of change took for all items.
struct Times {
    admitted: Duration,
    dispatched: Duration,
    reported: Duration,
}

/// Items as the door makes them, with their payloads, by the batch.
fn new_items(count: usize) -> Vec<Batch> {
    let definition = QueueDefinition::with_defaults(QUEUE);
    let all: Vec<(Item, Vec<u8>)> = (0..count)
        .map(|number| {
            let mut payload = format!("{number:020}").into_bytes();
            payload.resize(1024, b'x');
            let new =
                NewItem { payload: payload.clone(), reference: Some(format!("item-{number}")), ..NewItem::default() };
            let arrival = Arrival { new, ..Arrival::default() };
            let (id, hash) = (ItemId::new(uuid::Uuid::now_v7()), door::content_hash(&payload));
            (door::admit(&definition, &arrival, PRIORITY, hash, id, now()), payload)
        })
        .collect();
    all.chunks(BATCH).map(Arc::from).collect()
}

fn now() -> Timestamp {
    Timestamp::from_microsecond(Timestamp::now().as_microsecond()).expect("a time of today")
}

fn admitted(item: &Item) -> (ItemId, Line) {
    let line = Line {
        revision: item.revision,
        at: item.enqueued_at,
        actor: "producer".to_owned(),
        user: None,
        event: "admitted".into(),
        why: None,
        attempt: 0,
        state: item.state.to_string(),
        ended: None,
    };
    (item.id, line)
}

async fn through_the_mirror(path: &Path, batches: &[Batch]) -> Times {
    let mirror = Mirror::open(&format!("sqlite://{}", path.display())).await.expect("a mirror");
    let began = Instant::now();
    for batch in batches {
        let batch = Arc::clone(batch);
        mirror.write(move |tx: &mut Tx| Box::pin(async move { admit(tx, &batch).await })).await.expect("admitted");
    }
    let admitted = began.elapsed();

    let began = Instant::now();
    let mut sent = Vec::new();
    loop {
        let marked = sent;
        let claimed = mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    dispatch::mark_dispatched(tx, &marked).await?;
                    #[expect(clippy::cast_possible_truncation, reason = "a few hundred")]
                    let allowance = Allowance { items: BATCH as u32, bytes: CLAIMED_BYTES };
                    dispatch::claim(tx, QUEUE, PRIORITY, Order::Fifo, allowance, now()).await
                })
            })
            .await
            .expect("claimed")
            .items;
        if claimed.is_empty() {
            break;
        }
        sent = claimed.iter().map(Sent::of).collect();
    }
    let dispatched = began.elapsed();

    let began = Instant::now();
    for batch in batches {
        let ids: HashSet<ItemId> = batch.iter().map(|(item, _)| item.id).collect();
        mirror.write(move |tx: &mut Tx| Box::pin(async move { report(tx, &ids).await })).await.expect("reported");
    }
    let reported = began.elapsed();
    mirror.close().await;
    Times { admitted, dispatched, reported }
}

async fn admit(tx: &mut Tx, batch: &[(Item, Vec<u8>)]) -> Result<(), warrend::mirror::MirrorError> {
    let references = batch.iter().filter_map(|(item, _)| Some((QUEUE.to_owned(), item.reference.clone()?))).collect();
    assert!(items::by_reference(tx, &references).await?.is_empty());
    let new: Vec<(&Item, bool)> = batch.iter().map(|(item, _)| (item, false)).collect();
    items::insert(tx, &new).await?;
    let payloads: Vec<(ItemId, &[u8])> = batch.iter().map(|(item, payload)| (item.id, payload.as_slice())).collect();
    records::insert_payloads(tx, &payloads).await?;
    records::append_lines(tx, &batch.iter().map(|(item, _)| admitted(item)).collect::<Vec<_>>()).await
}

async fn report(tx: &mut Tx, ids: &HashSet<ItemId>) -> Result<(), warrend::mirror::MirrorError> {
    let definition = QueueDefinition::with_defaults(QUEUE);
    let rules = Rules { retry: &definition.retry, crash_limit: definition.crash_limit };
    let saying = Saying::Processed { result: None, note: None, started_at: None };
    let said = Report { saying, attempt: Some(1), robot: Some("robot".into()), user: None, problems: Vec::new() };
    let moment = Moment { now: now(), chance: 0.5 };
    let mut loaded = items::by_id(tx, ids).await?;
    let mut lines = Vec::with_capacity(loaded.len());
    let mut explained = 0;
    for item in &mut loaded {
        let step = lifecycle::report(item, &said, &rules, &moment);
        explained += i64::from(step.acks);
        lines.extend(step.line.map(|line| (item.id, line)));
    }
    items::save(tx, &loaded.iter().collect::<Vec<_>>()).await?;
    records::append_lines(tx, &lines).await?;
    acks::explain(tx, QUEUE, explained).await
}

/// The same rows, by somebody who knows beforehand what they are.
async fn by_plain_sql(path: &Path, batches: &[Batch]) -> Times {
    let mut connection = open(path).await;
    sqlx::migrate!("migrations/sqlite").run(&mut connection).await.expect("the schema");
    let began = Instant::now();
    for batch in batches {
        begin(&mut connection).await;
        for rows in batch.chunks(ROWS) {
            insert(&mut connection, rows).await;
        }
        commit(&mut connection).await;
    }
    let admitted = began.elapsed();

    let began = Instant::now();
    let mut before: &[(Item, Vec<u8>)] = &[];
    for batch in batches.iter().map(AsRef::as_ref).chain([&[][..]]) {
        begin(&mut connection).await;
        update(&mut connection, "UPDATE items SET place = 'broker'", before).await;
        let claim = format!(
            "UPDATE items SET place = 'claimed', attempt = 1, revision = 2, dispatched_at = {}",
            now().as_microsecond()
        );
        update(&mut connection, &claim, batch).await;
        commit(&mut connection).await;
        before = batch;
    }
    let dispatched = began.elapsed();

    let began = Instant::now();
    for batch in batches {
        let at = now().as_microsecond();
        begin(&mut connection).await;
        let change = format!(
            "UPDATE items SET state = 'processed', place = 'settled', worker = 'robot', revision = 3, finished_at = {at}"
        );
        update(&mut connection, &change, batch).await;
        for rows in batch.chunks(ROWS) {
            lines(&mut connection, rows, 3, at, "robot", "processed", 1).await;
        }
        let explain = "INSERT INTO queue_acks (queue, explained) VALUES ($1, $2) \
                       ON CONFLICT (queue) DO UPDATE SET explained = queue_acks.explained + excluded.explained";
        let explained = i64::try_from(batch.len()).expect("a batch");
        sqlx::query(explain).bind(QUEUE).bind(explained).execute(&mut connection).await.expect("explained");
        commit(&mut connection).await;
    }
    let reported = began.elapsed();
    connection.close().await.expect("closed");
    Times { admitted, dispatched, reported }
}

/// As the mirror opens its own.
async fn open(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", "-65536")
        .pragma("ignore_check_constraints", "on")
        .foreign_keys(true)
        .connect()
        .await
        .expect("a database")
}

async fn begin(connection: &mut SqliteConnection) {
    sqlx::query("BEGIN IMMEDIATE").execute(connection).await.expect("begun");
}

async fn commit(connection: &mut SqliteConnection) {
    sqlx::query("COMMIT").execute(connection).await.expect("committed");
}

async fn insert(connection: &mut SqliteConnection, rows: &[(Item, Vec<u8>)]) {
    let mut query = QueryBuilder::<Sqlite>::new(
        "INSERT INTO items (id, queue, lane, reference, state, place, priority, attempt, deliveries, retries, requeues, \
         silent, possible_repeat, ran_anyway, stub, size, content_hash, enqueued_at, ready_at, revision) ",
    );
    query.push_values(rows, |mut row, (item, _)| {
        row.push_bind(item.id.to_string())
            .push_bind(&item.queue)
            .push_bind("managed")
            .push_bind(&item.reference)
            .push_bind("queued")
            .push_bind("ready")
            .push_bind(item.priority)
            .push("0, 0, 0, 0, 0, 0, 0, 0")
            .push_bind(item.size.map(u64::cast_signed))
            .push_bind(&item.content_hash)
            .push_bind(item.enqueued_at.as_microsecond())
            .push_bind(item.ready_at.as_microsecond())
            .push("1");
    });
    query.build().execute(&mut *connection).await.expect("items");
    let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO payloads (seq, body) SELECT seq, column2 FROM (");
    query.push_values(rows, |mut row, (item, payload)| {
        row.push_bind(item.id.to_string()).push_bind(payload.as_slice());
    });
    query.push(") CROSS JOIN items WHERE items.id = column1");
    query.build().execute(&mut *connection).await.expect("payloads");
    let at = rows[0].0.enqueued_at.as_microsecond();
    lines(connection, rows, 1, at, "producer", "admitted", 0).await;
}

async fn lines(
    connection: &mut SqliteConnection,
    rows: &[(Item, Vec<u8>)],
    revision: u32,
    at: i64,
    actor: &str,
    event: &str,
    attempt: u32,
) {
    let mut query =
        QueryBuilder::<Sqlite>::new("INSERT INTO timeline (item, revision, at, actor, event, attempt, state) ");
    let state = if attempt == 0 { "queued" } else { "processed" };
    query.push_values(rows, |mut row, (item, _)| {
        row.push_bind(item.id.to_string())
            .push_bind(revision)
            .push_bind(at)
            .push_bind(actor)
            .push_bind(event)
            .push_bind(attempt)
            .push_bind(state);
    });
    query.build().execute(connection).await.expect("lines");
}

async fn update(connection: &mut SqliteConnection, change: &str, batch: &[(Item, Vec<u8>)]) {
    for rows in batch.chunks(ROWS) {
        let mut query = QueryBuilder::<Sqlite>::new(format!("{change} WHERE id IN ("));
        let mut list = query.separated(", ");
        for (item, _) in rows {
            list.push_bind(item.id.to_string());
        }
        query.push(")");
        let done = query.build().execute(&mut *connection).await.expect("changed");
        assert_eq!(done.rows_affected(), rows.len() as u64);
    }
}

/// What has to be the same in both: everything but times.
async fn rows(path: &Path) -> Vec<String> {
    let mut connection = open(path).await;
    let sql = "SELECT items.id || queue || lane || reference || state || place || items.attempt || items.revision \
               || worker || size || content_hash || length(body) || (dispatched_at > 0) || (finished_at > 0) \
               || (SELECT group_concat(revision || actor || event || attempt || state) FROM timeline \
                   WHERE timeline.item = items.id) \
               || (SELECT explained FROM queue_acks WHERE queue_acks.queue = items.queue) AS row \
               FROM items JOIN payloads ON payloads.seq = items.seq ORDER BY items.id";
    let rows = sqlx::query(sql).fetch_all(&mut connection).await.expect("rows");
    rows.iter().map(|row| row.get::<Option<String>, _>(0).expect("nothing of it is null")).collect()
}
