//! The mirror: the SQL ledger of items, their payloads and timelines.
//!
//! One batching `writer` owns the only connection that writes; reads go through a pool of their own and never
//! wait for it. Every operation is a function named in our words; SQL stands nowhere else. The statements keep to
//! what SQLite and PostgreSQL share (`$n`, `ON CONFLICT`, `RETURNING`, epoch microseconds, text ids), so the second
//! dialect is a second folder of migrations and a second pool, not a second mirror.

pub mod acks;
pub mod actions;
pub mod audit;
pub mod breakers;
pub mod chained;
pub mod changes;
pub mod control;
pub mod dispatch;
pub mod failures;
mod health;
pub mod items;
pub mod keys;
pub mod leases;
mod many;
pub mod outward;
mod read;
pub mod records;
pub mod requests;
pub mod retention;
pub mod robots;
mod row;
pub mod standing;
pub mod tap;
pub mod tokens;
pub mod webhooks;
pub mod why;
pub mod working;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, SqliteConnection, SqlitePool};

use health::Health;
pub use health::Trouble;
pub use read::*;
pub use writer::Tx;
use writer::Writer;

/// A handle on the mirror; clones share it.
#[derive(Clone)]
pub struct Mirror {
    /// For the pipelines and timers.
    reads: SqlitePool,
    /// For the doors, whose lists may take long: nobody who moves items waits behind them.
    views: SqlitePool,
    writer: Writer,
    health: Arc<Health>,
    /// Held as long as the mirror is open: two daemons on one file are refused.
    _lock: Arc<std::fs::File>,
}

/// What went wrong in the mirror.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    #[error("mirror.url '{url}' is not usable: {reason}")]
    Url { url: String, reason: String },
    #[error("the mirror at {} is in use by another warrend daemon; stop that one, or set mirror.url to another file", path.display())]
    InUse { path: PathBuf },
    #[error("cannot open the mirror at {}", path.display())]
    Open { path: PathBuf, source: std::io::Error },
    #[error("the mirror at {} cannot be used: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
    #[error("the mirror's schema could not be brought up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("the mirror could not {operation}")]
    Sql { operation: &'static str, source: sqlx::Error },
    #[error("the mirror holds what this version cannot read: {0}")]
    Unreadable(String),
    /// Nothing of it is kept; it may be asked again.
    #[error("the mirror could not commit: {reason}")]
    NotCommitted { reason: String, trouble: Option<Trouble> },
    #[error("the mirror is closed")]
    Closed,
}

impl MirrorError {
    /// What stands behind it in the database, the disk or the machine; `None` where that is not known to be the cause.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
        match self {
            Self::Sql { source, .. } | Self::Migrate(Execute(source) | ExecuteMigration(source, _)) => {
                Trouble::of(source)
            }
            Self::NotCommitted { trouble, .. } => *trouble,
            _ => None,
        }
    }

    /// The same may work later, without anybody repairing the mirror.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self.trouble() {
            Some(trouble) => trouble.passes(),
            None => matches!(self, Self::NotCommitted { .. }),
        }
    }
}

/// Pages that connections keep in memory, in KiB with a minus: however much waits, this is what they grow to. What is
/// written stands together in the indexes, and the rest is in the operating system's cache.
const WRITER_CACHE: &str = "-16384";
const READER_CACHE: &str = "-4096";

/// Pages of the log before it is written back into the database file: the same page changes many times meanwhile.
const LOG_PAGES: &str = "4000";

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");

impl Mirror {
    /// Opens the mirror that `url` names (`sqlite://PATH`), creating file and schema where they are missing.
    ///
    /// # Errors
    /// [`MirrorError::Url`] for any other scheme, [`MirrorError::InUse`] where another daemon has it open, and what
    /// the file system or SQLite say.
    pub async fn open(url: &str) -> Result<Self, MirrorError> {
        let path = url.strip_prefix("sqlite://").filter(|path| !path.is_empty()).ok_or_else(|| MirrorError::Url {
            url: url.to_owned(),
            reason: "it has to read sqlite://PATH".to_owned(),
        })?;
        let path = Path::new(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|source| MirrorError::Open { path: folder.to_owned(), source })?;
        }
        let lock = lock(path)?;

        // Not by parsing a URL: a path may hold `?` and `%`, and the options of `:memory:` would stay with the file's.
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5))
            .pragma("cache_size", WRITER_CACHE)
            // A savepoint keeps what pages were before; in a file that is half of all writes.
            .pragma("temp_store", "MEMORY")
            .pragma("wal_autocheckpoint", LOG_PAGES)
            .statement_cache_capacity(many::PREPARED)
            // Rows cross from SQLite's thread to ours; where few may wait between them both threads wait all the time.
            .row_buffer_size(many::MOST)
            // No item of ours can break what the schema checks of a row, which every test would show: it is there for other
            // hands, and a fifth of what an item costs.
            .pragma("ignore_check_constraints", if cfg!(debug_assertions) { "off" } else { "on" })
            .foreign_keys(true);
        let writer = open_for_writing(&options).await.map_err(|error| match error.trouble() {
            Some(trouble) => MirrorError::Unusable { path: path.to_owned(), reason: trouble.to_string() },
            None => error,
        })?;
        let options = options.create_if_missing(false);
        let reading = options.clone().read_only(true).pragma("cache_size", READER_CACHE);
        // A connection to a file needs no test, and each would be a way to its thread and back.
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .test_before_acquire(false)
                .connect_with(reading.clone())
        };
        let failed = |source| MirrorError::Sql { operation: "be opened for reading", source };
        let (reads, views) = (pool(2).await.map_err(failed)?, pool(4).await.map_err(failed)?);
        let health = Arc::new(Health::new(path));
        let writer = Writer::start(writer, options, Arc::clone(&health)).await;
        Ok(Self { reads, views, writer, health, _lock: Arc::new(lock) })
    }

    /// Runs `work` in a transaction of the writer and answers once it is committed, together with whatever else was
    /// waiting. An error rolls back this work alone. Done for a request with an idempotency key, the key is noted with it.
    ///
    /// # Errors
    /// What `work` answered, or why the transaction could not be committed.
    pub async fn write<T, W>(&self, work: W) -> Result<T, MirrorError>
    where
        T: Send + 'static,
        W: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, MirrorError>> + Send + 'static,
    {
        let Some(mark) = keys::current() else { return self.writer.run(work).await };
        self.writer
            .run(move |tx: &mut Tx| {
                Box::pin(async move {
                    let before = keys::changes(tx).await?;
                    let done = work(&mut *tx).await?;
                    if keys::changes(tx).await? > before {
                        keys::put(tx, &mark).await?;
                    }
                    Ok(done)
                })
            })
            .await
    }

    /// Runs `work` over one state of the mirror, on a connection that cannot write. No writer waits for it.
    ///
    /// # Errors
    /// What `work` answered, or why the mirror cannot be read.
    pub async fn look<T, W>(&self, work: W) -> Result<T, MirrorError>
    where
        W: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, MirrorError>>,
    {
        let mut tx = self.views.begin().await.map_err(self.failed("be read"))?;
        work(&mut tx).await
    }

    /// Counts what was committed. It says nothing of what: whoever is woken by it looks for itself.
    #[must_use]
    pub fn commits(&self) -> tokio::sync::watch::Receiver<u64> {
        self.writer.commits()
    }

    /// What is wrong with it right now, in words for people: why the last commit did not work, and damage that was met
    /// since it was opened. `None` where nothing is known to be wrong.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.health.problem()
    }

    /// Waits while the last commit did not work. The writer tries one by itself now and again, so whoever would only
    /// take work in to fail can wait here.
    pub async fn until_writable(&self) {
        self.health.until_writable().await;
    }

    /// Closes it for every handle, with everything in the database file itself: a copy of that file is whole.
    pub async fn close(&self) {
        self.views.close().await;
        self.reads.close().await;
        self.writer.close().await;
    }

    /// The identity this mirror was born with.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn identity(&self) -> Result<String, MirrorError> {
        sqlx::query_scalar("SELECT value FROM meta WHERE key = 'identity'")
            .fetch_one(&self.reads)
            .await
            .map_err(self.failed("say its identity"))
    }

    /// Notes that a broker session is open. Answers whether the last one said goodbye: else the broker may take its
    /// connections for alive, and hold deliveries for them.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn open_session(&self) -> Result<bool, MirrorError> {
        let failed = |source| MirrorError::Sql { operation: "note that a session is open", source };
        self.write(move |tx: &mut Tx| {
            Box::pin(async move {
                let opened =
                    sqlx::query("INSERT INTO meta (key, value) VALUES ('session', 'open') ON CONFLICT DO NOTHING");
                Ok(opened.execute(tx).await.map_err(failed)?.rows_affected() == 1)
            })
        })
        .await
    }

    /// Takes the note of [`Self::open_session`] back.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn close_session(&self) -> Result<(), MirrorError> {
        let failed = |source| MirrorError::Sql { operation: "note that a session is over", source };
        self.write(move |tx: &mut Tx| {
            Box::pin(async move {
                let closed = sqlx::query("DELETE FROM meta WHERE key = 'session'").execute(tx).await;
                closed.map(|_| ()).map_err(failed)
            })
        })
        .await
    }

    /// Connections that only read, for the pipelines.
    fn reads(&self) -> &SqlitePool {
        &self.reads
    }

    /// Connections that only read, for the doors.
    fn views(&self) -> &SqlitePool {
        &self.views
    }

    /// Names the operation that an SQL error stopped, and remembers what it says of the mirror's health.
    fn failed(&self, operation: &'static str) -> impl FnOnce(sqlx::Error) -> MirrorError {
        let health = Arc::clone(&self.health);
        move |source| {
            let error = MirrorError::Sql { operation, source };
            health.note(&error);
            error
        }
    }
}

/// The connection that writes, with the schema up to date and the mirror's identity in place.
async fn open_for_writing(options: &SqliteConnectOptions) -> Result<SqliteConnection, MirrorError> {
    let opened = |source| MirrorError::Sql { operation: "be opened", source };
    let mut connection = options.connect().await.map_err(opened)?;
    MIGRATIONS.run(&mut connection).await?;
    let identity = sqlx::query("SELECT 1 FROM meta WHERE key = 'identity'");
    // Asked first: a mirror that has one is opened also while it cannot be written.
    if identity.fetch_optional(&mut connection).await.map_err(opened)?.is_none() {
        sqlx::query("INSERT INTO meta (key, value) VALUES ('identity', $1)")
            .bind(uuid::Uuid::now_v7().to_string())
            .execute(&mut connection)
            .await
            .map_err(|source| MirrorError::Sql { operation: "be given an identity", source })?;
    }
    failures::fold_anew(&mut connection).await?;
    Ok(connection)
}

/// Takes the lock file beside the database for as long as the answer lives.
fn lock(path: &Path) -> Result<std::fs::File, MirrorError> {
    let lock_path = PathBuf::from(format!("{}.lock", path.display()));
    let file =
        std::fs::File::create(&lock_path).map_err(|source| MirrorError::Open { path: lock_path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(MirrorError::InUse { path: path.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(MirrorError::Open { path: lock_path, source }),
    }
}

/// Times are stored as microseconds since 1970.
fn micros(at: crate::item::Timestamp) -> i64 {
    at.as_microsecond()
}

/// The inverse of [`micros`]; what no clock can show becomes the nearest end of time.
fn timestamp(micros: i64) -> crate::item::Timestamp {
    use crate::item::Timestamp;
    Timestamp::from_microsecond(micros).unwrap_or(if micros < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

#[cfg(test)]
mod tests;

/// The steps in which SQLite would answer a statement.
#[cfg(test)]
async fn plan(mirror: &Mirror, sql: &str) -> Vec<String> {
    use sqlx::Row as _;
    let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
    let rows = sqlx::query(explain).fetch_all(mirror.reads()).await.unwrap();
    rows.iter().map(|row| row.get("detail")).collect()
}
