//! The feed for those who listen over HTTP: what was committed, as it is committed, and what came before from the mirror.
//!
//! While somebody listens, one task reads each new row once and hands it to all. Who is new, comes back or is too slow for that reads
//! rows of their own from the mirror until they are up to date: the mirror is the truth, the hand-over only saves reading. Nobody is
//! waited for, and nothing is kept per listener but its place. While nobody listens nothing is read.
//!
//! Order of effects: none. A listener's place is its own: the daemon writes nothing, and a crash leaves nothing. Who comes back after
//! it says where it was; what is not there any more by then is said as a reset, never left out in silence.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use crate::mirror::changes::WaitingChange;
use crate::mirror::{Mirror, MirrorError};

/// Streams that may be open at once.
pub const MOST_STREAMS: usize = 512;

/// And so many of one who listens: there is room for others.
pub const MOST_OF_ONE: usize = 64;

/// Rows read together.
const PAGE: u32 = 200;

/// Batches that wait for the slowest of those who are up to date.
const WAITING: usize = 32;

/// What is committed within this time is read together.
const GATHER: Duration = Duration::from_millis(10);

/// How often it is looked whether anybody listens still.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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
    callers: Callers,
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
            callers: Callers::default(),
            reading: Arc::new(Semaphore::new(2)),
            stop,
        }
    }

    /// Listens from behind a number, or from now on. `by` says who does; `None`: somebody who is not known, and is not counted.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn listen(
        &self,
        after: Option<i64>,
        by: Option<String>,
    ) -> Result<Result<Listener, TooMany>, MirrorError> {
        let Some(own) = self.callers.place(by) else { return Ok(Err(TooMany::OfOne)) };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return Ok(Err(TooMany::OfAll)) };
        let position = match after {
            Some(after) => after,
            None => self.mirror.feed_ends().await?.1,
        };
        let receiver = self.sender.subscribe();
        self.joined.notify_one();
        Ok(Ok(Listener { feed: self.clone(), position, receiver, behind: true, _places: (place, own) }))
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

/// Why nobody more may listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMany {
    /// [`MOST_STREAMS`] are open.
    OfAll,
    /// [`MOST_OF_ONE`] of this one are.
    OfOne,
}

/// How many streams each who is known has open.
#[derive(Clone, Default)]
struct Callers(Arc<Mutex<HashMap<String, usize>>>);

/// A place among those of one; it is free again when this is dropped.
struct OwnPlace {
    callers: Callers,
    by: Option<String>,
}

impl Callers {
    fn place(&self, by: Option<String>) -> Option<OwnPlace> {
        if let Some(by) = &by {
            let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let open = open.entry(by.clone()).or_default();
            if *open >= MOST_OF_ONE {
                return None;
            }
            *open += 1;
        }
        Some(OwnPlace { callers: self.clone(), by })
    }
}

impl Drop for OwnPlace {
    fn drop(&mut self) {
        let Some(by) = self.by.take() else { return };
        let mut open = self.callers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&by) {
            *count -= 1;
            if *count == 0 {
                open.remove(&by);
            }
        }
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
    _places: (OwnedSemaphorePermit, OwnPlace),
}

impl Listener {
    #[must_use]
    pub const fn position(&self) -> i64 {
        self.position
    }

    /// Waits for what comes next. Dropped before it has an answer, it has heard nothing.
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
            match self.receiver.recv().await {
                Err(broadcast::error::RecvError::Closed) => return Ok(Heard::End),
                Err(broadcast::error::RecvError::Lagged(_)) => self.behind = true,
                Ok(batch) if batch.up_to <= self.position => {}
                Ok(batch) if batch.after > self.position => self.behind = true,
                Ok(batch) => {
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
        let gone = oldest.map_or(after < newest, |oldest| after.saturating_add(1) < oldest);
        if gone || after > newest {
            self.position = newest;
            return Ok(Some(Heard::Reset { after, on_from: newest }));
        }
        let Some(last) = rows.last() else { return Ok(None) };
        self.position = last.seq;
        Ok(Some(Heard::Rows(rows.into_iter().map(Arc::new).collect())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_leaves_room_for_others() {
        let callers = Callers::default();
        let ann = || callers.place(Some("token:ann".to_owned()));
        let mut open: Vec<OwnPlace> = std::iter::from_fn(ann).take(MOST_OF_ONE + 1).collect();
        assert_eq!(open.len(), MOST_OF_ONE);
        assert!(callers.place(Some("oidc:ann".to_owned())).is_some() && callers.place(None).is_some());
        open.pop();
        assert!(ann().is_some(), "one that ended makes room");
        drop(open);
        assert!(callers.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_listener_that_is_too_slow_reads_what_it_missed() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(&format!("sqlite://{}/m.db", folder.path().display())).await.unwrap();
        let feed = Feed::new(mirror.clone(), CancellationToken::new());
        let mut slow = feed.listen(Some(0), None).await.unwrap().unwrap();
        // One batch each, and more of them than wait for anybody.
        let handed_on = tokio::spawn(feed.clone().run());
        let mut witness = feed.listen(Some(0), None).await.unwrap().unwrap();
        let rows = i64::try_from(2 * WAITING).unwrap();
        for seq in 1..=rows {
            let event = crate::mirror::control::Event {
                kind: "control.drift".to_owned(),
                at: crate::item::Timestamp::UNIX_EPOCH,
                body: serde_json::json!({}),
            };
            let written = mirror.write(move |tx: &mut crate::mirror::Tx| {
                Box::pin(async move { crate::mirror::control::add_events(tx, &[event]).await })
            });
            written.await.unwrap();
            while witness.position() < seq {
                assert!(matches!(witness.next().await.unwrap(), Heard::Rows(_)));
            }
        }
        // It takes what waits for it, or reads it; nothing is left out and nothing comes twice.
        slow.behind = false;
        let mut heard = Vec::new();
        while slow.position() < rows {
            let Heard::Rows(new) = slow.next().await.unwrap() else { panic!("rows") };
            heard.extend(new.iter().map(|row| row.seq));
        }
        assert_eq!(heard, (1..=rows).collect::<Vec<_>>());
        // What lies behind is gone by now.
        let mut late = feed.listen(Some(i64::MAX), None).await.unwrap().unwrap();
        assert!(matches!(late.next().await.unwrap(), Heard::Reset { after: i64::MAX, on_from } if on_from == rows));
        handed_on.abort();
    }
}
