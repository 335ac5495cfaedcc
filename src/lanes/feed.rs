//! The feed for those who listen over HTTP: what was committed, as it is committed, and what came before from the mirror.
//!
//! While somebody listens, one task reads each new row once and hands it to all. Who is new, comes back or is too slow for that reads
//! rows of their own from the mirror until they are up to date: the mirror is the truth, the hand-over only saves reading. Nobody is
//! waited for, and nothing is kept per listener but its place. While nobody listens nothing is read.
//!
//! Order of effects: none. A listener's place is its own: the daemon writes nothing, and a crash leaves nothing. Who comes back after
//! it says where it was; what is not there any more by then is said as a reset, never left out in silence.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use crate::mirror::changes::WaitingChange;
use crate::mirror::{Mirror, MirrorError};

/// Streams that may be open at once.
pub const MOST_STREAMS: usize = 512;

/// Rows read together.
const PAGE: u32 = 200;

/// Batches that wait for the slowest of those who are up to date.
const WAITING: usize = 32;

/// What is committed within this time is read together.
const GATHER: Duration = Duration::from_millis(10);

/// How often it is looked whether anybody listens still.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// After so long without anything to tell a listener is told that the stream lives.
pub const QUIET: Duration = Duration::from_secs(15);

/// Rows that follow each other.
struct Batch {
    /// They begin behind this one.
    after: i64,
    up_to: i64,
    rows: Vec<Arc<WaitingChange>>,
}

/// Where listeners come to; clones share it.
#[derive(Clone)]
pub struct Feed {
    mirror: Mirror,
    sender: broadcast::Sender<Arc<Batch>>,
    joined: Arc<Notify>,
    places: Arc<Semaphore>,
    /// Those who read for themselves take turns, so that others of the API get their connections.
    reading: Arc<Semaphore>,
    stop: CancellationToken,
}

/// What a listener hears next.
pub enum Heard {
    /// At least one row, each behind the one before.
    Rows(Vec<Arc<WaitingChange>>),
    /// What lies behind its place is not there any more, or never was: it goes on behind this number.
    Reset { after: i64, on_from: i64 },
    /// Nothing for [`QUIET`].
    Quiet,
    /// The daemon stops.
    End,
}

impl Feed {
    #[must_use]
    pub fn new(mirror: Mirror, stop: CancellationToken) -> Self {
        Self {
            mirror,
            sender: broadcast::Sender::new(WAITING),
            joined: Arc::default(),
            places: Arc::new(Semaphore::new(MOST_STREAMS)),
            reading: Arc::new(Semaphore::new(2)),
            stop,
        }
    }

    /// Listens from behind a number, or from now on. `None` where too many listen already.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn listen(&self, after: Option<i64>) -> Result<Option<Listener>, MirrorError> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return Ok(None) };
        let position = match after {
            Some(after) => after,
            None => self.mirror.feed_ends().await?.1,
        };
        let receiver = self.sender.subscribe();
        self.joined.notify_one();
        Ok(Some(Listener { feed: self.clone(), position, receiver, behind: true, _place: place }))
    }

    /// Hands new rows to all who listen, until it is stopped.
    pub async fn run(self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.hand_on() => {}
        }
    }

    async fn hand_on(&self) {
        loop {
            while self.sender.receiver_count() == 0 {
                self.joined.notified().await;
            }
            if let Err(error) = self.while_heard().await {
                // Listeners read for themselves meanwhile, or cannot either.
                tracing::debug!(error = &error as &dyn std::error::Error, "the feed cannot be read");
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }

    async fn while_heard(&self) -> Result<(), MirrorError> {
        let mut commits = self.mirror.commits();
        let (_, mut position) = self.mirror.feed_ends().await?;
        // Who is behind this reads up to it, for what comes next begins here.
        self.send(Batch { after: position, up_to: position, rows: Vec::new() });
        while self.sender.receiver_count() > 0 {
            commits.mark_unchanged();
            let rows = self.mirror.changes_after(position, PAGE).await?;
            let full = rows.len() == PAGE as usize;
            if let Some(last) = rows.last().map(|row| row.seq) {
                let rows = rows.into_iter().map(Arc::new).collect();
                self.send(Batch { after: position, up_to: last, rows });
                position = last;
            }
            if !full {
                // The mirror outlives this task, so it cannot end otherwise.
                let _ = tokio::time::timeout(LOOK_AGAIN, commits.changed()).await;
            }
            tokio::time::sleep(GATHER).await;
        }
        Ok(())
    }

    fn send(&self, batch: Batch) {
        // It fails where nobody listens any more.
        let _ = self.sender.send(Arc::new(batch));
    }
}

/// One who listens.
pub struct Listener {
    feed: Feed,
    /// Everything up to this number it has heard.
    position: i64,
    receiver: broadcast::Receiver<Arc<Batch>>,
    /// It has to read for itself before it can take what is handed on.
    behind: bool,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    #[must_use]
    pub const fn position(&self) -> i64 {
        self.position
    }

    /// Waits for what comes next.
    ///
    /// # Errors
    /// Where SQL fails: nothing was heard, and it may be asked again.
    pub async fn next(&mut self) -> Result<Heard, MirrorError> {
        let stop = self.feed.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(Heard::End),
            heard = self.listen() => heard,
        }
    }

    async fn listen(&mut self) -> Result<Heard, MirrorError> {
        loop {
            if self.behind {
                if let Some(heard) = self.read().await? {
                    return Ok(heard);
                }
                self.behind = false;
            }
            match tokio::time::timeout(QUIET, self.receiver.recv()).await {
                Err(_) => return Ok(Heard::Quiet),
                Ok(Err(broadcast::error::RecvError::Closed)) => return Ok(Heard::End),
                Ok(Err(broadcast::error::RecvError::Lagged(_))) => self.behind = true,
                Ok(Ok(batch)) if batch.up_to <= self.position => {}
                Ok(Ok(batch)) if batch.after > self.position => self.behind = true,
                Ok(Ok(batch)) => {
                    let new = batch.rows.iter().filter(|row| row.seq > self.position).cloned().collect();
                    self.position = batch.up_to;
                    return Ok(Heard::Rows(new));
                }
            }
        }
    }

    /// What lies behind its place in the mirror; `None` where nothing does.
    async fn read(&mut self) -> Result<Option<Heard>, MirrorError> {
        let _turn = self.feed.reading.acquire().await;
        let rows = self.feed.mirror.view_changes_after(self.position, PAGE).await?;
        // Asked afterwards: rows only go from the front, so what is there now was there when the page was read.
        let (oldest, newest) = self.feed.mirror.feed_ends().await?;
        let after = self.position;
        let gone = oldest.map_or(after < newest, |oldest| after + 1 < oldest);
        if gone || after > newest {
            self.position = newest;
            return Ok(Some(Heard::Reset { after, on_from: newest }));
        }
        let Some(last) = rows.last() else { return Ok(None) };
        self.position = last.seq;
        Ok(Some(Heard::Rows(rows.into_iter().map(Arc::new).collect())))
    }
}
