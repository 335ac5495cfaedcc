//! The one task that writes. It commits whatever is waiting in one transaction (group commit), so that the price of
//! `synchronous=FULL` is paid once per group.
//!
//! Order of effects per group: begin, run each job inside a savepoint of its own, commit, answer everybody. A crash
//! before the commit leaves nothing of the group and nobody was answered; a crash after it leaves all of it.
//!
//! A job that fails by its own fault is rolled back alone. Everything else fails the whole group: a commit that does not
//! work, a panic, and a disk that is full or broken, where SQLite may have rolled back the transaction by itself,
//! so that whatever came next would stand outside of it. Nothing of a failed group is kept and each of its callers is
//! told so. Then a small write is tried now and again, until one works.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot, watch};

use super::MirrorError;
use super::health::{self, Health, Trouble};
use crate::failpoint;
use crate::metrics;

/// The connection a job works on, inside the group's transaction.
pub type Tx = SqliteConnection;

/// Jobs that may wait for the writer; more make the callers wait.
const WAITING_JOBS: usize = 256;

/// Jobs committed together. Jobs are batches themselves, so this bounds latency, not throughput.
const JOBS_PER_COMMIT: usize = 64;

/// How soon to try a write of our own after a failure.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// A write that tells whether there is room for a batch of small items, and what takes it away again.
const PROBE: &str = "INSERT INTO meta (key, value) VALUES ('probe', hex(zeroblob(131072))) \
                     ON CONFLICT (key) DO UPDATE SET value = excluded.value";
const FORGET_PROBE: &str = "DELETE FROM meta WHERE key = 'probe'";

#[derive(Clone)]
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
    health: Arc<Health>,
    commits: Arc<watch::Sender<u64>>,
}

enum Order {
    Run(Box<dyn Job>),
    /// Writes the log back into the database file, tells so, and ends.
    Close(oneshot::Sender<()>),
}

/// Work with somebody who waits for its answer.
trait Job: Send {
    /// Does the work; what is wrong with it stays with the job, for its caller.
    fn run<'j>(&'j mut self, tx: &'j mut Tx) -> BoxFuture<'j, Ran>;

    /// Tells the caller how it went: what the work answered, where the group was committed.
    fn answer(self: Box<Self>, group: Result<(), &GroupFailed>);
}

enum Ran {
    Well,
    /// The job is to be rolled back, and the group too where the reason lies in the database.
    Badly(Option<GroupFailed>),
}

/// Why nothing of a group was kept.
#[derive(Debug)]
enum GroupFailed {
    /// Of one of the jobs; the database has no part in it.
    Panicked,
    Database {
        reason: String,
        trouble: Option<Trouble>,
    },
}

impl From<sqlx::Error> for GroupFailed {
    fn from(error: sqlx::Error) -> Self {
        Self::Database { reason: health::reason(&error), trouble: Trouble::of(&error) }
    }
}

impl GroupFailed {
    fn told(&self) -> MirrorError {
        match self {
            Self::Panicked => {
                MirrorError::NotCommitted { reason: "the work of one caller panicked".to_owned(), trouble: None }
            }
            Self::Database { reason, trouble } => {
                MirrorError::NotCommitted { reason: reason.clone(), trouble: *trouble }
            }
        }
    }
}

struct Work<T, W> {
    /// Until it has begun.
    todo: Option<W>,
    done: Option<Result<T, MirrorError>>,
    caller: oneshot::Sender<Result<T, MirrorError>>,
    health: Arc<Health>,
}

impl<T, W> Job for Work<T, W>
where
    T: Send + 'static,
    W: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, MirrorError>> + Send + 'static,
{
    fn run<'j>(&'j mut self, tx: &'j mut Tx) -> BoxFuture<'j, Ran> {
        Box::pin(async move {
            let Some(work) = self.todo.take() else { return Ran::Well };
            let done = work(tx).await;
            let ran = match &done {
                Ok(_) => Ran::Well,
                Err(error) => {
                    self.health.note(error);
                    let trouble = error.trouble();
                    // Damage stays where it is: others may not touch it.
                    Ran::Badly(trouble.filter(|trouble| trouble.passes()).map(|trouble| GroupFailed::Database {
                        reason: health::in_words(error),
                        trouble: Some(trouble),
                    }))
                }
            };
            self.done = Some(done);
            ran
        })
    }

    fn answer(self: Box<Self>, group: Result<(), &GroupFailed>) {
        let answer = match (self.done, group) {
            (Some(Err(error)), _) => Err(error),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (_, Err(failed)) => Err(failed.told()),
            (None, Ok(())) => Err(MirrorError::Closed),
        };
        // A caller that is gone does not want to know.
        let _ = self.caller.send(answer);
    }
}

impl Writer {
    /// Starts it on its connection, `options` being where another comes from. Tries a first write before it answers.
    pub(super) async fn start(
        connection: SqliteConnection,
        options: SqliteConnectOptions,
        health: Arc<Health>,
    ) -> Self {
        let (orders, inbox) = mpsc::channel(WAITING_JOBS);
        let commits = Arc::new(watch::Sender::new(0));
        let mut writing = Writing {
            connection,
            options,
            inbox,
            health: Arc::clone(&health),
            commits: Arc::clone(&commits),
            closing: None,
            worn: false,
            last_probe: Instant::now(),
        };
        writing.probe().await;
        tokio::spawn(writing.run());
        Self { orders, health, commits }
    }

    pub(super) async fn run<T, W>(&self, work: W) -> Result<T, MirrorError>
    where
        T: Send + 'static,
        W: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, MirrorError>> + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let job = Work { todo: Some(work), done: None, caller, health: Arc::clone(&self.health) };
        self.orders.send(Order::Run(Box::new(job))).await.map_err(|_| MirrorError::Closed)?;
        answer.await.map_err(|_| MirrorError::Closed)?
    }

    /// Counts what was committed; whoever watches it is woken by each commit.
    pub(super) fn commits(&self) -> watch::Receiver<u64> {
        self.commits.subscribe()
    }

    /// Jobs that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.orders.max_capacity() - self.orders.capacity()
    }

    /// Ends after what was waiting before.
    pub(super) async fn close(&self) {
        let (sender, closed) = oneshot::channel();
        if self.orders.send(Order::Close(sender)).await.is_ok() {
            let _ = closed.await;
        }
    }
}

/// The task's own side.
struct Writing {
    connection: SqliteConnection,
    options: SqliteConnectOptions,
    inbox: mpsc::Receiver<Order>,
    health: Arc<Health>,
    commits: Arc<watch::Sender<u64>>,
    closing: Option<oneshot::Sender<()>>,
    /// The connection could not begin a transaction, or was left in the middle of one: take another.
    worn: bool,
    last_probe: Instant,
}

impl Writing {
    async fn run(mut self) {
        while self.closing.is_none() {
            let order = if self.health.is_writable() {
                self.inbox.recv().await
            } else {
                // Before anybody who waits: each of them may take the whole busy timeout to fail.
                let left = TRY_AGAIN.saturating_sub(self.last_probe.elapsed());
                match tokio::time::timeout(left, self.inbox.recv()).await {
                    Ok(order) if !left.is_zero() => order,
                    Ok(order) => {
                        self.probe().await;
                        order
                    }
                    Err(_) => {
                        self.probe().await;
                        continue;
                    }
                }
            };
            match order {
                Some(Order::Run(job)) => self.serve(job).await,
                Some(Order::Close(sender)) => self.closing = Some(sender),
                None => break,
            }
        }
        self.inbox.close();
        // Callers that came behind the end are told so by the drop of their jobs.
        if let Err(error) = statement(&mut self.connection, "PRAGMA wal_checkpoint(TRUNCATE)").await {
            tracing::warn!(error = %error, "the log was not written back into the database file; nothing is lost by it");
        }
        if let Some(sender) = self.closing {
            let _ = sender.send(());
        }
    }

    /// Runs `first` and what else is waiting in one transaction, and answers.
    async fn serve(&mut self, first: Box<dyn Job>) {
        let mut jobs = Vec::new();
        let began = Instant::now();
        let result = self.group(first, &mut jobs).await;
        metrics::committed(began.elapsed(), result.is_ok());
        self.settle(&result, false).await;
        if result.is_ok() {
            self.commits.send_modify(|commits| *commits += 1);
        }
        for job in jobs {
            job.answer(result.as_ref().copied());
        }
    }

    /// Notes how a transaction went, and clears up after one that failed.
    async fn settle(&mut self, result: &Result<(), GroupFailed>, probed: bool) {
        match result {
            // A transaction that wrote nothing also works on a full disk: then only a probe tells.
            Ok(()) if self.health.is_writable() || probed => self.health.committed(),
            Ok(()) => {}
            Err(failed) => {
                if let GroupFailed::Database { reason, .. } = failed {
                    self.health.not_committed(reason);
                }
                if let Err(error) = statement(&mut self.connection, "ROLLBACK").await {
                    tracing::debug!(error = %error, "nothing to roll back");
                }
            }
        }
    }

    async fn begin(&mut self) -> Result<(), GroupFailed> {
        if self.worn {
            self.connection = self.options.connect().await?;
            self.worn = false;
        }
        // Each statement is a way to SQLite's thread and back, so they go in pairs where they can.
        if let Err(error) = statement(&mut self.connection, "BEGIN IMMEDIATE; SAVEPOINT job").await {
            self.worn = Trouble::of(&error) != Some(Trouble::Locked);
            return Err(error.into());
        }
        Ok(())
    }

    /// Every job that was taken is in `jobs` afterwards, whatever the outcome.
    async fn group(&mut self, first: Box<dyn Job>, jobs: &mut Vec<Box<dyn Job>>) -> Result<(), GroupFailed> {
        if let Err(failed) = self.begin().await {
            // None of those that wait would fare better, and each try may take the whole busy timeout.
            jobs.push(first);
            while jobs.len() < WAITING_JOBS
                && let Some(job) = self.next_waiting()
            {
                jobs.push(job);
            }
            return Err(failed);
        }
        failpoint::reach("mirror.begun").await;
        let mut next = Some(first);
        while let Some(mut job) = next {
            let ran = self.job(&mut job).await;
            jobs.push(job);
            let kept = ran?;
            if jobs.len() == JOBS_PER_COMMIT || self.inbox.is_empty() {
                break;
            }
            if kept {
                statement(&mut self.connection, "RELEASE job; SAVEPOINT job").await?;
            }
            next = self.next_waiting();
        }
        failpoint::reach("mirror.commit").await;
        // Where SQLite has ended the transaction by itself there is no savepoint either, and nothing is committed.
        statement(&mut self.connection, "RELEASE job; COMMIT").await?;
        failpoint::reach("mirror.committed").await;
        Ok(())
    }

    fn next_waiting(&mut self) -> Option<Box<dyn Job>> {
        if self.closing.is_some() {
            return None;
        }
        match self.inbox.try_recv().ok()? {
            Order::Run(job) => Some(job),
            Order::Close(sender) => {
                self.closing = Some(sender);
                None
            }
        }
    }

    /// Runs one job in the savepoint that is open. Answers whether it left something there.
    async fn job(&mut self, job: &mut Box<dyn Job>) -> Result<bool, GroupFailed> {
        match AssertUnwindSafe(job.run(&mut self.connection)).catch_unwind().await {
            Ok(Ran::Well) => Ok(true),
            Ok(Ran::Badly(Some(failed))) => Err(failed),
            Ok(Ran::Badly(None)) => {
                statement(&mut self.connection, "ROLLBACK TO job").await?;
                Ok(false)
            }
            Err(_) => {
                // The panic itself is in the log. What it left on the connection is not known.
                self.worn = true;
                Err(GroupFailed::Panicked)
            }
        }
    }

    /// Tries to write as much as a batch of small items needs, and to free it again.
    async fn probe(&mut self) {
        // Whatever of the log can go into the file makes room in the log. That it cannot is no news here.
        let _ = statement(&mut self.connection, "PRAGMA wal_checkpoint(PASSIVE)").await;
        let result = self.probed().await;
        self.last_probe = Instant::now();
        self.settle(&result, true).await;
    }

    async fn probed(&mut self) -> Result<(), GroupFailed> {
        self.begin().await?;
        statement(&mut self.connection, PROBE).await?;
        statement(&mut self.connection, "RELEASE job; COMMIT").await?;
        self.begin().await?;
        statement(&mut self.connection, FORGET_PROBE).await?;
        Ok(statement(&mut self.connection, "RELEASE job; COMMIT").await?)
    }
}

async fn statement(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(sql).execute(connection).await.map(|_| ())
}
