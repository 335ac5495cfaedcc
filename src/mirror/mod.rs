//! The mirror: the SQL ledger of items, their payloads and timelines.
//!
//! One batching `writer` owns the only connection that writes; reads go through a pool of their own and never
//! wait for it. Every operation is a function named in our words; SQL stands nowhere else. The statements keep to
//! what SQLite and PostgreSQL share (`$n`, `ON CONFLICT`, `RETURNING`, epoch microseconds, text ids), so the second
//! dialect is a second folder of migrations and a second pool, not a second mirror.

pub mod acks;
pub mod dispatch;
pub mod items;
mod read;
pub mod records;
mod row;
pub mod tap;
mod writer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

pub use read::*;
pub use writer::Tx;
use writer::Writer;

/// A handle on the mirror; clones share it.
#[derive(Clone)]
pub struct Mirror {
    reads: SqlitePool,
    writer: Writer,
    /// Held as long as the mirror is open: two daemons on one file are refused.
    _lock: std::sync::Arc<std::fs::File>,
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
    #[error("the mirror's schema could not be brought up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("the mirror could not {operation}")]
    Sql { operation: &'static str, source: sqlx::Error },
    #[error("the mirror holds what this version cannot read: {0}")]
    Unreadable(String),
    #[error("the mirror could not commit: {reason}")]
    NotCommitted { reason: String },
    #[error("the mirror is closed")]
    Closed,
}

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
            .pragma("cache_size", "-65536")
            .foreign_keys(true);
        let mut writer = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await
            .map_err(|source| MirrorError::Sql { operation: "be opened", source })?
            .acquire()
            .await
            .map_err(|source| MirrorError::Sql { operation: "be opened", source })?
            .detach();
        MIGRATIONS.run(&mut writer).await?;
        sqlx::query("INSERT INTO meta (key, value) VALUES ('identity', $1) ON CONFLICT (key) DO NOTHING")
            .bind(uuid::Uuid::now_v7().to_string())
            .execute(&mut writer)
            .await
            .map_err(|source| MirrorError::Sql { operation: "be given an identity", source })?;
        let reads = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await
            .map_err(|source| MirrorError::Sql { operation: "be opened for reading", source })?;
        Ok(Self { reads, writer: Writer::start(writer), _lock: std::sync::Arc::new(lock) })
    }

    /// Runs `work` in a transaction of the writer and answers once it is committed, together with whatever else was
    /// waiting. An error rolls back this work alone.
    ///
    /// # Errors
    /// What `work` answered, or why the transaction could not be committed.
    pub async fn write<T, W>(&self, work: W) -> Result<T, MirrorError>
    where
        T: Send + 'static,
        W: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, MirrorError>> + Send + 'static,
    {
        self.writer.run(work).await
    }

    /// Closes it for every handle, with everything in the database file itself: a copy of that file is whole.
    pub async fn close(&self) {
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
            .map_err(|source| MirrorError::Sql { operation: "say its identity", source })
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

    /// Connections that only read.
    pub(crate) fn reads(&self) -> &SqlitePool {
        &self.reads
    }
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
