//! The writer under pressure, over a real SQLite file.

use std::time::Duration;

use sqlx::Connection as _;
use tokio::sync::oneshot;

use super::*;

mod changes;
mod claims;
mod keys;
mod plans;
mod retention;
mod working;

/// A mirror in a folder of its own.
struct Bench {
    folder: tempfile::TempDir,
    mirror: Mirror,
}

type Written = tokio::task::JoinHandle<Result<(), MirrorError>>;

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(&format!("sqlite://{}/m.db", folder.path().display())).await.unwrap();
        Self { folder, mirror }
    }

    /// A connection of somebody else.
    async fn stranger(&self) -> SqliteConnection {
        SqliteConnectOptions::new().filename(self.folder.path().join("m.db")).connect().await.unwrap()
    }

    async fn write(&self, sql: &'static str) -> Result<(), MirrorError> {
        self.mirror.write(move |tx: &mut Tx| Box::pin(run(tx, sql))).await
    }

    /// Starts these writes so that they fall into one group: the first does not end before all of them wait.
    async fn together(&self, writes: &[&'static str]) -> Vec<Written> {
        let (go, gone) = oneshot::channel::<()>();
        let (began, has_begun) = oneshot::channel::<()>();
        let mirror = self.mirror.clone();
        let mut all = vec![tokio::spawn(async move {
            mirror
                .write(move |_: &mut Tx| {
                    Box::pin(async move {
                        let _ = began.send(());
                        let _ = gone.await;
                        Ok(())
                    })
                })
                .await
        })];
        has_begun.await.unwrap();
        for (place, sql) in writes.iter().enumerate() {
            let (mirror, sql) = (self.mirror.clone(), *sql);
            all.push(tokio::spawn(async move { mirror.write(move |tx: &mut Tx| Box::pin(run(tx, sql))).await }));
            while self.mirror.writer.waiting() <= place {
                tokio::task::yield_now().await;
            }
        }
        let _ = go.send(());
        all
    }

    async fn notes(&self) -> Vec<String> {
        let sql = "SELECT key FROM meta WHERE key <> 'identity' ORDER BY key";
        sqlx::query_scalar(sql).fetch_all(self.mirror.reads()).await.unwrap()
    }
}

async fn run(tx: &mut Tx, sql: &'static str) -> Result<(), MirrorError> {
    assert!(sql != "panic", "this write panics");
    let failed = |source| MirrorError::Sql { operation: "note it", source };
    for statement in sql.split(';') {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *tx).await.map_err(failed)?;
    }
    Ok(())
}

/// Each answer in a word.
async fn words(writes: Vec<Written>) -> Vec<&'static str> {
    let mut words = Vec::new();
    for write in writes {
        words.push(match write.await.unwrap() {
            Ok(()) => "kept",
            Err(MirrorError::NotCommitted { .. }) => "not committed",
            Err(MirrorError::Sql { .. }) => "failed",
            Err(other) => panic!("{other}"),
        });
    }
    words
}

const A: &str = "INSERT INTO meta VALUES ('a', '1')";
const B: &str = "INSERT INTO meta VALUES ('b', '1')";

#[tokio::test]
async fn a_write_that_fails_by_its_own_fault_is_rolled_back_alone() {
    let bench = Bench::new().await;
    let writes =
        bench.together(&[A, "INSERT INTO meta VALUES ('x', '1'); INSERT INTO meta VALUES ('a', '2')", B]).await;
    assert_eq!(words(writes).await, ["kept", "kept", "failed", "kept"]);
    assert_eq!(bench.notes().await, ["a", "b"]);
    assert_eq!(bench.mirror.problem(), None);
}

#[tokio::test]
async fn a_panic_takes_its_group_along_and_the_writer_goes_on() {
    let bench = Bench::new().await;
    let writes = bench.together(&[A, "panic", B]).await;
    assert_eq!(words(writes).await, ["not committed", "not committed", "not committed", "kept"]);
    assert_eq!(bench.notes().await, ["b"]);
    assert_eq!(bench.mirror.problem(), None);
    bench.write(A).await.unwrap();
    assert_eq!(bench.notes().await, ["a", "b"]);
}

#[tokio::test]
async fn where_sqlite_rolled_back_by_itself_nothing_of_the_group_is_kept() {
    // Whether the write notices it or not.
    for lost in ["ROLLBACK; INSERT INTO nowhere VALUES (1)", "ROLLBACK"] {
        let bench = Bench::new().await;
        let writes = bench.together(&[A, lost, B]).await;
        let answers = words(writes).await;
        assert_eq!((answers[0], answers[1], answers[3]), ("not committed", "not committed", "kept"), "{lost}");
        assert_ne!(answers[2], "kept", "{lost}");
        assert_eq!(bench.notes().await, ["b"], "{lost}");
    }
}

#[tokio::test]
async fn a_full_disk_in_the_middle_of_a_group_leaves_no_half_of_it() {
    // With a statement journal SQLite takes the statement back, without one the transaction.
    for full in [
        "INSERT INTO meta VALUES ('x', zeroblob(1000000))",
        "INSERT INTO meta VALUES ('x', '1'), ('y', zeroblob(1000000))",
    ] {
        let bench = Bench::new().await;
        bench.write("PRAGMA max_page_count = 10").await.unwrap();
        let writes = bench.together(&[A, full, B]).await;
        assert_eq!(words(writes).await, ["not committed", "not committed", "failed", "kept"], "{full}");
        assert_eq!(bench.notes().await, ["b"], "{full}");
    }
}

#[tokio::test]
async fn what_cannot_be_committed_is_said_until_it_can_be() {
    let bench = Bench::new().await;
    // The probe of the start has left free pages.
    bench.write("CREATE TABLE rest AS SELECT zeroblob(300000) AS body").await.unwrap();
    bench.write("PRAGMA max_page_count = 10").await.unwrap();
    let error = bench.write("INSERT INTO rest VALUES (zeroblob(1000000))").await.unwrap_err();
    assert_eq!((error.trouble(), error.passes()), (Some(Trouble::Full), true));
    let problem = bench.mirror.problem().unwrap();
    assert!(problem.contains("full") && problem.contains("make room"), "{problem}");

    let waits = bench.mirror.until_writable();
    assert!(tokio::time::timeout(Duration::from_millis(10), waits).await.is_err(), "it is not writable");
    // Nobody writes but the writer itself: room comes from what another connection frees.
    let mut stranger = bench.stranger().await;
    sqlx::query("DELETE FROM rest").execute(&mut stranger).await.unwrap();
    bench.mirror.until_writable().await;
    assert_eq!(bench.mirror.problem(), None);
    assert_eq!(bench.notes().await, Vec::<String>::new());
}

#[tokio::test]
async fn while_another_holds_the_lock_every_write_that_waits_is_told_at_once() {
    let bench = Bench::new().await;
    let mut stranger = bench.stranger().await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut stranger).await.unwrap();
    let (one, two, three) = tokio::join!(bench.write(A), bench.write(A), bench.write(A));
    for error in [one, two, three].map(Result::unwrap_err) {
        assert_eq!(error.trouble(), Some(Trouble::Locked), "{error}");
    }
    assert!(bench.mirror.problem().unwrap().contains("another process"), "{:?}", bench.mirror.problem());
    assert_eq!(bench.notes().await, Vec::<String>::new(), "it is read meanwhile");

    sqlx::query("ROLLBACK").execute(&mut stranger).await.unwrap();
    bench.mirror.until_writable().await;
    bench.write(B).await.unwrap();
    assert_eq!(bench.notes().await, ["b"]);
}

#[tokio::test]
async fn a_mirror_that_another_has_locked_can_be_opened() {
    let bench = Bench::new().await;
    bench.mirror.close().await;
    let Bench { folder, mirror } = bench;
    drop(mirror);
    let mut stranger = SqliteConnectOptions::new().filename(folder.path().join("m.db")).connect().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut stranger).await.unwrap();
    let mirror = Mirror::open(&format!("sqlite://{}/m.db", folder.path().display())).await.unwrap();
    assert!(mirror.problem().unwrap().contains("another process"));
    stranger.close().await.unwrap();
    mirror.until_writable().await;
}

#[tokio::test]
async fn damage_is_remembered_whoever_meets_it() {
    let bench = Bench::new().await;
    for number in 0..200 {
        let body = vec![number; 3000];
        bench
            .mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    let insert = sqlx::query("INSERT INTO parked (at, source, queue, reason, properties, body) VALUES (1, '', '', '', '', $1)");
                    insert.bind(body).execute(tx).await.map(|_| ()).map_err(|source| MirrorError::Sql { operation: "park", source })
                })
            })
            .await
            .unwrap();
    }
    bench.mirror.close().await;
    let path = bench.folder.path().join("m.db");
    let mut stranger = bench.stranger().await;
    let page: i64 = sqlx::query_scalar("SELECT max(pageno) FROM dbstat WHERE name = 'parked' AND pagetype = 'leaf'")
        .fetch_one(&mut stranger)
        .await
        .unwrap();
    stranger.close().await.unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0x5a; 4096], (page.unsigned_abs() - 1) * 4096).unwrap();
    let Bench { folder, mirror } = bench;
    drop(mirror);

    let mirror = Mirror::open(&format!("sqlite://{}/m.db", folder.path().display())).await.unwrap();
    assert_eq!(mirror.problem(), None);
    let error = mirror.parked(1000, None, None).await.unwrap_err();
    assert_eq!((error.trouble(), error.passes()), (Some(Trouble::Damaged), false));
    let problem = mirror.problem().unwrap();
    assert!(problem.contains("list what is parked") && problem.contains("A damaged mirror"), "{problem}");
    // What does not touch the page still works, and does not make it forgotten.
    mirror.write(|tx: &mut Tx| Box::pin(run(tx, A))).await.unwrap();
    assert_eq!(mirror.problem().unwrap(), problem);
}
