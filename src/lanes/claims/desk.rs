//! Who waits for items over HTTP: a line for each queue, first come, first served. What happens here happens in memory; whoever
//! waits costs an entry and a timer.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use crate::broker::connection::Session;
use crate::item::{Item, Timestamp};
use crate::lanes::new_id;
use crate::mirror::MirrorError;
use crate::mirror::keys::Mark;
use crate::mirror::leases::Lease;

/// How long a claim that waits for less waits for somebody to look.
const LOOK: Duration = Duration::from_secs(5);

/// What somebody wants.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Who works on it.
    pub worker: String,
    /// Who was let in by the door, where it asks.
    pub user: Option<String>,
    /// How long the lease is.
    pub length: Duration,
    /// So many items at most, of what is there.
    pub max: usize,
    /// Of a request with an idempotency key: noted with what it gets.
    pub mark: Option<Arc<Mark>>,
}

impl Ask {
    /// Their lease of an item's newest attempt, from now on. `person`: it was claimed by its name.
    #[must_use]
    pub(in crate::lanes) fn lease(&self, item: &Item, person: bool, since: Timestamp) -> Lease {
        Lease::new(item, &self.worker, person, since, self.length, new_id().to_string())
    }
}

/// What was claimed together.
#[derive(Debug)]
pub struct Claimed {
    /// The lease's name.
    pub lease: String,
    pub until: Timestamp,
    /// With what they carry.
    pub items: Vec<(Item, Option<Vec<u8>>)>,
}

/// What whoever waits gets.
#[derive(Debug)]
pub enum Offer {
    Claimed(Claimed),
    Nothing,
    Failed(MirrorError),
}

/// Somebody in the line.
pub(super) struct Poller {
    number: u64,
    pub(super) ask: Ask,
    until: Instant,
    answer: oneshot::Sender<Offer>,
}

impl Poller {
    /// Hands over what was claimed; where nobody is there any more it comes back.
    pub(super) fn hand(self, claimed: Claimed) -> Result<(), Claimed> {
        match self.answer.send(Offer::Claimed(claimed)) {
            Err(Offer::Claimed(claimed)) => Err(claimed),
            _ => Ok(()),
        }
    }
}

#[derive(Default)]
struct Line {
    pollers: VecDeque<Poller>,
    bell: Arc<Notify>,
    /// A runner serves it, or is about to.
    served: bool,
}

impl Line {
    fn ring(&self) {
        self.bell.notify_one();
    }
}

/// The lines of all queues, and what runners share.
pub struct Desk {
    lines: Mutex<HashMap<String, Line>>,
    numbers: AtomicU64,
    /// Queues that somebody waits at and nobody serves.
    unserved: Mutex<BTreeSet<String>>,
    came: Notify,
    closed: AtomicBool,
    /// The broker session that there is.
    pub(super) session: watch::Sender<Option<Arc<Session>>>,
    /// Runners that hold something of a session.
    pub(super) holding: watch::Sender<usize>,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            lines: Mutex::default(),
            numbers: AtomicU64::default(),
            unserved: Mutex::default(),
            came: Notify::default(),
            closed: AtomicBool::default(),
            session: watch::Sender::new(None),
            holding: watch::Sender::new(0),
        }
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("queues", &self.lines().len()).finish_non_exhaustive()
    }
}

/// In the line for as long as it lives.
struct Place<'d> {
    desk: &'d Desk,
    queue: &'d str,
    number: u64,
}

impl Place<'_> {
    /// Leaves the line; `false` where somebody is being served, or was.
    fn leave(&self) -> bool {
        let mut lines = self.desk.lines();
        let Some(line) = lines.get_mut(self.queue) else { return false };
        let before = line.pollers.len();
        line.pollers.retain(|poller| poller.number != self.number);
        let left = line.pollers.len() < before;
        if left {
            // Fewer are wanted.
            line.ring();
        }
        left
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Desk {
    fn lines(&self) -> MutexGuard<'_, HashMap<String, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits in the line of a queue, at most so long. Dropped, it is as if nobody had come, unless it is being served just then: what
    /// is claimed for nobody is given back, or its lease ends.
    pub async fn wait(&self, queue: &str, ask: Ask, wait: Duration) -> Offer {
        if self.closed.load(Ordering::Relaxed) {
            return Offer::Nothing;
        }
        let (answer, mut offer) = oneshot::channel();
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let until = Instant::now() + wait;
        let place = Place { desk: self, queue, number };
        self.join(queue, Poller { number, ask, until, answer });
        if let Ok(offer) = tokio::time::timeout(wait, &mut offer).await {
            return offer.unwrap_or(Offer::Nothing);
        }
        // Whoever has looked answers those who wait no longer. Behind a short wait nobody may have yet.
        self.knock(queue);
        match tokio::time::timeout(LOOK.saturating_sub(wait), &mut offer).await {
            Ok(offer) => offer.unwrap_or(Offer::Nothing),
            Err(_) if place.leave() => Offer::Nothing,
            // It is being served just now.
            Err(_) => offer.await.unwrap_or(Offer::Nothing),
        }
    }

    fn join(&self, queue: &str, poller: Poller) {
        let mut lines = self.lines();
        let line = lines.entry(queue.to_owned()).or_default();
        line.pollers.push_back(poller);
        if line.served {
            line.ring();
        } else {
            line.served = true;
            self.unserved.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.to_owned());
            self.came.notify_one();
        }
    }

    /// Something may be there for those who wait at a queue.
    pub fn knock(&self, queue: &str) {
        if let Some(line) = self.lines().get(queue) {
            line.ring();
        }
    }

    /// The next queue that somebody waits at and nobody serves.
    pub(super) async fn unserved(&self) -> String {
        loop {
            let next = self.unserved.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
            match next {
                Some(queue) => return queue,
                None => self.came.notified().await,
            }
        }
    }

    /// What rings when somebody comes or goes, or something may be there.
    pub(super) fn bell(&self, queue: &str) -> Arc<Notify> {
        Arc::clone(&self.lines().entry(queue.to_owned()).or_default().bell)
    }

    /// How many items are wanted at a queue, and whether somebody, and whether everybody, wants to know at once.
    pub(super) fn wanted(&self, queue: &str) -> Wanted {
        let now = Instant::now();
        let mut lines = self.lines();
        let Some(line) = lines.get_mut(queue) else { return Wanted::default() };
        line.pollers.retain(|poller| !poller.answer.is_closed());
        let due = line.pollers.iter().filter(|poller| poller.until <= now).count();
        let items = line.pollers.iter().map(|poller| poller.ask.max).fold(0, usize::saturating_add);
        Wanted { items, some_due: due > 0, all_due: due == line.pollers.len() }
    }

    /// Takes out of the line those who come next, for so many items: each with how many of them.
    pub(super) fn choose(&self, queue: &str, mut items: usize) -> Vec<(Poller, usize)> {
        let mut chosen = Vec::new();
        let mut lines = self.lines();
        let Some(line) = lines.get_mut(queue) else { return chosen };
        while items > 0 {
            let Some(poller) = line.pollers.pop_front() else { break };
            if poller.answer.is_closed() {
                continue;
            }
            let share = poller.ask.max.clamp(1, items);
            items -= share;
            chosen.push((poller, share));
        }
        chosen
    }

    /// Those who got nothing after all come first again.
    pub(super) fn put_back(&self, queue: &str, pollers: Vec<Poller>) {
        let mut lines = self.lines();
        let line = lines.entry(queue.to_owned()).or_default();
        for poller in pollers.into_iter().rev() {
            line.pollers.push_front(poller);
        }
    }

    /// Somebody has looked: those who wait no longer get nothing.
    pub(super) fn nothing_for_due(&self, queue: &str) {
        self.answer_due(queue, || Offer::Nothing);
    }

    /// The same, where the mirror could not say.
    pub(super) fn failed_for_due(&self, queue: &str, error: &MirrorError) {
        self.answer_due(queue, || {
            Offer::Failed(MirrorError::NotCommitted { reason: error.to_string(), trouble: error.trouble() })
        });
    }

    fn answer_due(&self, queue: &str, offer: impl Fn() -> Offer) {
        let now = Instant::now();
        let mut lines = self.lines();
        let Some(line) = lines.get_mut(queue) else { return };
        for poller in std::mem::take(&mut line.pollers) {
            if poller.until <= now {
                let _ = poller.answer.send(offer());
            } else {
                line.pollers.push_back(poller);
            }
        }
    }

    /// A queue's runner ends; `false` where somebody waits.
    pub(super) fn retire(&self, queue: &str) -> bool {
        let mut lines = self.lines();
        let alone = lines.get(queue).is_none_or(|line| line.pollers.is_empty());
        if alone {
            lines.remove(queue);
        }
        alone
    }

    /// A queue's runner is no more, and did not say so: another one serves those who wait.
    pub(super) fn broke_down(&self, queue: &str) {
        if !self.retire(queue) {
            self.unserved.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.to_owned());
            self.came.notify_one();
        }
    }

    /// Nobody is served any more: those who wait get nothing.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.lines().clear();
    }
}

/// What is wanted at a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) items: usize,
    pub(super) some_due: bool,
    pub(super) all_due: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(worker: &str, max: usize) -> Ask {
        Ask { worker: worker.to_owned(), user: None, length: Duration::from_secs(60), max, mark: None }
    }

    fn claimed(lease: &str) -> Claimed {
        Claimed { lease: lease.to_owned(), until: Timestamp::UNIX_EPOCH, items: Vec::new() }
    }

    async fn until_wanted(desk: &Desk, items: usize) {
        while desk.wanted("q").items != items {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn first_come_first_served_each_up_to_what_they_want() {
        let desk = Arc::new(Desk::default());
        let mut waits = Vec::new();
        for (number, max) in [1, 3, 2].into_iter().enumerate() {
            let own = Arc::clone(&desk);
            let wait = Duration::from_secs(60);
            waits.push(tokio::spawn(async move { own.wait("q", ask(&format!("w{number}"), max), wait).await }));
            until_wanted(&desk, [1, 4, 6][number]).await;
        }
        assert_eq!(desk.unserved().await, "q");
        let chosen = desk.choose("q", 3);
        let shares: Vec<(String, usize)> =
            chosen.iter().map(|(poller, share)| (poller.ask.worker.clone(), *share)).collect();
        assert_eq!(shares, [("w0".to_owned(), 1), ("w1".to_owned(), 2)]);
        // The second gets nothing after all, and is next again.
        let mut pollers: Vec<Poller> = chosen.into_iter().map(|(poller, _)| poller).collect();
        desk.put_back("q", vec![pollers.pop().unwrap()]);
        assert!(pollers.pop().unwrap().hand(claimed("L")).is_ok());
        assert_eq!(desk.choose("q", 1)[0].0.ask.worker, "w1");
        assert!(matches!(waits.remove(0).await.unwrap(), Offer::Claimed(claimed) if claimed.lease == "L"));
        assert!(!desk.retire("q"), "w2 waits");
        desk.close();
        assert!(matches!(waits.pop().unwrap().await.unwrap(), Offer::Nothing));
    }

    #[tokio::test]
    async fn who_does_not_wait_is_answered_by_whoever_looked_and_who_leaves_is_forgotten() {
        let desk = Arc::new(Desk::default());
        let own = Arc::clone(&desk);
        let at_once = tokio::spawn(async move { own.wait("q", ask("now", 1), Duration::ZERO).await });
        until_wanted(&desk, 1).await;
        let own = Arc::clone(&desk);
        let patient = tokio::spawn(async move { own.wait("q", ask("later", 1), Duration::from_secs(60)).await });
        until_wanted(&desk, 2).await;
        assert_eq!(desk.wanted("q"), Wanted { items: 2, some_due: true, all_due: false });
        desk.nothing_for_due("q");
        assert!(matches!(at_once.await.unwrap(), Offer::Nothing));
        assert_eq!(desk.wanted("q"), Wanted { items: 1, some_due: false, all_due: false });
        patient.abort();
        until_wanted(&desk, 0).await;
        assert!(desk.retire("q"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_moment_waits_until_somebody_has_looked() {
        let desk = Arc::new(Desk::default());
        let own = Arc::clone(&desk);
        let wait = tokio::spawn(async move { own.wait("q", ask("w", 1), Duration::from_millis(10)).await });
        until_wanted(&desk, 1).await;
        let bell = desk.bell("q");
        while !desk.wanted("q").some_due {
            bell.notified().await;
        }
        // Whoever looks only now has something.
        let (poller, _) = desk.choose("q", 1).pop().unwrap();
        assert!(poller.hand(claimed("L")).is_ok());
        assert!(matches!(wait.await.unwrap(), Offer::Claimed(claimed) if claimed.lease == "L"));
        // Nobody came in time.
        let began = Instant::now();
        assert!(matches!(desk.wait("q", ask("w", 1), Duration::from_millis(10)).await, Offer::Nothing));
        assert!(began.elapsed() >= LOOK);
        assert_eq!(desk.wanted("q"), Wanted { items: 0, some_due: false, all_due: true });
    }

    #[tokio::test]
    async fn those_who_wait_behind_a_runner_that_broke_down_get_another() {
        let desk = Arc::new(Desk::default());
        let own = Arc::clone(&desk);
        let wait = tokio::spawn(async move { own.wait("q", ask("w", 1), Duration::from_secs(60)).await });
        assert_eq!(desk.unserved().await, "q");
        desk.broke_down("q");
        assert_eq!(desk.unserved().await, "q");
        wait.abort();
        assert!(wait.await.is_err());
        desk.broke_down("q");
        assert!(desk.lines().is_empty(), "nobody waits: whoever comes next is served");
    }

    #[tokio::test]
    async fn what_nobody_takes_any_more_comes_back() {
        let desk = Arc::new(Desk::default());
        let own = Arc::clone(&desk);
        let wait = tokio::spawn(async move { own.wait("q", ask("w", 1), Duration::from_secs(60)).await });
        until_wanted(&desk, 1).await;
        let (poller, _) = desk.choose("q", 1).pop().unwrap();
        wait.abort();
        assert!(wait.await.is_err());
        assert_eq!(poller.hand(claimed("L")).unwrap_err().lease, "L");
    }
}
