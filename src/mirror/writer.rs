//! The one task that writes. It commits whatever is waiting in one transaction (group commit), so that the price of
//! `synchronous=FULL` is paid once per group.
//!
//! Order of effects per group: begin, run each job inside a savepoint of its own, commit, answer everybody. A crash
//! before the commit leaves nothing of the group and nobody was answered; a crash after it leaves all of it.

use std::time::Instant;

use futures::future::BoxFuture;
use sqlx::SqliteConnection;
use tokio::sync::{mpsc, oneshot};

use super::MirrorError;
use crate::failpoint;
use crate::metrics;

/// The connection a job works on, inside the group's transaction.
pub type Tx = SqliteConnection;

/// Jobs that may wait for the writer; more make the callers wait.
const WAITING_JOBS: usize = 256;

/// Jobs committed together. Jobs are batches themselves, so this bounds latency, not throughput.
const JOBS_PER_COMMIT: usize = 64;

/// Tells the job's caller how the commit went.
type Answer = Box<dyn FnOnce(Result<(), &sqlx::Error>) + Send>;
type Job = Box<dyn for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, JobOutcome> + Send>;

enum JobOutcome {
    Commit(Answer),
    RollBack(Answer),
}

#[derive(Clone)]
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
}

enum Order {
    Run(Job),
    /// Writes the log back into the database file, tells so, and ends.
    Close(oneshot::Sender<()>),
}

impl Writer {
    pub(super) fn start(connection: SqliteConnection) -> Self {
        let (orders, inbox) = mpsc::channel(WAITING_JOBS);
        tokio::spawn(run(connection, inbox));
        Self { orders }
    }

    pub(super) async fn run<T, W>(&self, work: W) -> Result<T, MirrorError>
    where
        T: Send + 'static,
        W: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, MirrorError>> + Send + 'static,
    {
        let (sender, answer) = oneshot::channel();
        let job: Job = Box::new(move |tx| {
            Box::pin(async move {
                match work(tx).await {
                    Ok(value) => JobOutcome::Commit(Box::new(move |committed| {
                        let committed = committed.map(|()| value).map_err(commit_failed);
                        let _ = sender.send(committed);
                    })),
                    Err(error) => JobOutcome::RollBack(Box::new(move |_| {
                        let _ = sender.send(Err(error));
                    })),
                }
            })
        });
        self.orders.send(Order::Run(job)).await.map_err(|_| MirrorError::Closed)?;
        answer.await.map_err(|_| MirrorError::Closed)?
    }

    /// Ends after what was waiting before.
    pub(super) async fn close(&self) {
        let (sender, closed) = oneshot::channel();
        if self.orders.send(Order::Close(sender)).await.is_ok() {
            let _ = closed.await;
        }
    }
}

fn commit_failed(source: &sqlx::Error) -> MirrorError {
    MirrorError::NotCommitted { reason: source.to_string() }
}

async fn run(mut connection: SqliteConnection, mut inbox: mpsc::Receiver<Order>) {
    let mut closing = None;
    while closing.is_none() {
        let first = match inbox.recv().await {
            Some(Order::Run(job)) => job,
            Some(Order::Close(sender)) => {
                closing = Some(sender);
                break;
            }
            None => break,
        };
        let mut answers = Vec::new();
        let began = Instant::now();
        let result = group(&mut connection, first, &mut inbox, &mut answers, &mut closing).await;
        metrics::committed(began.elapsed(), result.is_ok());
        if let Err(error) = &result {
            tracing::error!(error = %error, jobs = answers.len(), "the mirror could not commit; nothing of this group is kept");
            if let Err(error) = statement(&mut connection, "ROLLBACK").await {
                tracing::debug!(error = %error, "nothing to roll back");
            }
        }
        for answer in answers {
            answer(result.as_ref().copied());
        }
    }
    inbox.close();
    if let Err(error) = statement(&mut connection, "PRAGMA wal_checkpoint(TRUNCATE)").await {
        tracing::warn!(error = %error, "the log was not written back into the database file; nothing is lost by it");
    }
    if let Some(sender) = closing {
        let _ = sender.send(());
    }
}

/// Runs `first` and whatever else is waiting in one transaction.
async fn group(
    connection: &mut SqliteConnection,
    first: Job,
    inbox: &mut mpsc::Receiver<Order>,
    answers: &mut Vec<Answer>,
    closing: &mut Option<oneshot::Sender<()>>,
) -> Result<(), sqlx::Error> {
    let mut next = Some(first);
    statement(connection, "BEGIN IMMEDIATE").await?;
    failpoint::reach("mirror.begun").await;
    while let Some(job) = next {
        statement(connection, "SAVEPOINT job").await?;
        match job(connection).await {
            JobOutcome::Commit(answer) => {
                answers.push(answer);
                statement(connection, "RELEASE job").await?;
            }
            JobOutcome::RollBack(answer) => {
                answers.push(answer);
                statement(connection, "ROLLBACK TO job").await?;
                statement(connection, "RELEASE job").await?;
            }
        }
        next =
            if answers.len() < JOBS_PER_COMMIT { inbox.try_recv().ok() } else { None }.and_then(|order| match order {
                Order::Run(job) => Some(job),
                Order::Close(sender) => {
                    *closing = Some(sender);
                    None
                }
            });
    }
    failpoint::reach("mirror.commit").await;
    statement(connection, "COMMIT").await?;
    failpoint::reach("mirror.committed").await;
    Ok(())
}

async fn statement(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(sql).execute(connection).await.map(|_| ())
}
