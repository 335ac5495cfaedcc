//! What whoever has a lease says of their item, and claims of one item by its name.
//!
//! A report is fenced by its lease: one of a lease that is over changes nothing, but for `processed`, which is never refused. The
//! same report a second time is answered as the first.
//!
//! Order of effects: 1. commit: the item, its lease, and what follows from both; 2. wake dispatch, timers, events and those who wait for
//! items; 3. answer. A crash after 1 leaves what is committed: said again, it is there already.
//!
//! Of an item that is dispatched, a claim waits until its message was taken out of the robots' queue ([`super::recall`]), a short
//! while. What is not done by then is given up, so that no lease comes about that nobody holds.

use std::collections::HashMap;
use std::time::Duration;

use super::claims::{Ask, Claimed};
use super::ledger::Ledger;
use super::live::Live;
use super::{Wakes, now};
use crate::failpoint;
use crate::item::lifecycle;
use crate::item::lifecycle::lease::{self, LOST, RETURNED};
use crate::item::lifecycle::people::{self, Refusal};
use crate::item::report::{Report, Saying};
use crate::item::request::{Action, Request};
use crate::item::{Item, ItemId, Place, State, Timestamp};
use crate::metrics;
use crate::mirror::leases::{self, Lease};
use crate::mirror::{Mirror, MirrorError, Tx, items, requests};

/// How long a claim waits for its item's message.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks whether it is there.
const LOOK: Duration = Duration::from_millis(100);

/// What somebody says who has, or had, an item.
#[derive(Debug, Clone)]
pub struct Said {
    pub item: ItemId,
    /// The lease's name.
    pub lease: String,
    /// Who was let in by the door, where it asks.
    pub user: Option<String>,
}

/// What is answered.
#[derive(Debug)]
pub enum Answer<T> {
    Done(T),
    /// The lease is over, and why; who has the item now.
    Lost(String),
    NoSuchItem,
    /// The item was never claimed with it.
    NoSuchLease,
}

/// The item of a lease, loaded.
struct Held {
    ledger: Ledger,
    lease: Lease,
    /// The attempt is theirs.
    lasts: bool,
}

impl Held {
    async fn load<T>(tx: &mut Tx, live: &Live, said: &Said) -> Result<Result<Self, Answer<T>>, MirrorError> {
        let Some(item) = items::by_id(tx, &[said.item].into()).await?.pop() else { return Ok(Err(Answer::NoSuchItem)) };
        let Some(lease) = leases::find(tx, said.item, &said.lease).await? else { return Ok(Err(Answer::NoSuchLease)) };
        let lasts = lease.ended.is_none() && item.place == Place::Leased && item.attempt == lease.attempt;
        Ok(Ok(Self { ledger: Ledger::of(&live.definitions(), vec![item]), lease, lasts }))
    }

    fn ended_as(&self, how: &str) -> bool {
        self.lease.ended.as_ref().is_some_and(|(ended, _)| ended == how)
    }

    fn report(&mut self, saying: Saying, user: Option<&String>, problems: Vec<String>) {
        let report = Report {
            saying,
            attempt: Some(self.lease.attempt),
            robot: Some(self.lease.worker.clone()),
            user: user.cloned(),
            problems,
        };
        self.ledger.step(self.lease.item, |item, rules, moment| Some(lifecycle::report(item, &report, rules, moment)));
    }

    fn lost<T>(&self) -> Answer<T> {
        match self.ledger.item(self.lease.item) {
            Some(item) => Answer::Lost(format!("{}; {}", over(&self.lease), who_has(item))),
            None => Answer::NoSuchItem,
        }
    }
}

/// How a lease ended, in words.
fn over(lease: &Lease) -> String {
    let (who, attempt) = (&lease.worker, lease.attempt);
    match &lease.ended {
        Some((how, at)) if how == LOST || how == "poison" => {
            format!("the lease of {who} (attempt {attempt}) ended at {at:.0}: nobody kept it up")
        }
        Some((how, at)) => {
            let how = how.strip_prefix(SAID).unwrap_or(how);
            format!("the lease of {who} (attempt {attempt}) ended at {at:.0}, when the attempt ended: {how}")
        }
        None => format!("the lease of {who} (attempt {attempt}) is over"),
    }
}

/// Who has an item now, in words.
fn who_has(item: &Item) -> String {
    let attempt = item.attempt;
    match (item.place, &item.worker, item.started_at) {
        (Place::Leased, Some(worker), Some(since)) => {
            format!("{worker} has the item now, in attempt {attempt}, since {since:.0}")
        }
        (Place::Claimed | Place::Broker, Some(worker), Some(since)) => {
            format!("the robot {worker} started on it at {since:.0}, in attempt {attempt}")
        }
        (Place::Claimed | Place::Broker | Place::Leased, ..) => {
            format!("the item is in the robots' queue or with a robot, in attempt {attempt}")
        }
        (Place::Delayed | Place::Ready, ..) => format!("the item waits for attempt {}", attempt + 1),
        (Place::Settled, worker, _) => {
            let by = worker.as_ref().filter(|_| item.state == State::Processed).map(|worker| format!(" by {worker}"));
            format!("the item is {}{}", item.state, by.unwrap_or_default())
        }
    }
}

/// What becomes of what somebody says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Taken,
    /// As the first time.
    Again,
    Lost,
}

/// What a word is said to.
type On<'d> = (&'d Mirror, &'d Live, &'d Wakes);

/// Decides in one transaction over what somebody says of their item. With `extend` their lease goes on: by so much, or by its own
/// length. Answers the item, and until when the lease lasts.
async fn say(
    (mirror, live, wakes): On<'_>,
    said: Said,
    extend: Option<Option<Duration>>,
    decide: impl FnOnce(&mut Held, &Said) -> Word + Send + 'static,
) -> Result<Answer<(Box<Item>, Timestamp)>, MirrorError> {
    let live = live.clone();
    let decided = mirror.write(move |tx: &mut Tx| {
        Box::pin(async move {
            let mut held = match Held::load(tx, &live, &said).await? {
                Ok(held) => held,
                Err(answer) => return Ok((answer, None)),
            };
            let word = decide(&mut held, &said);
            let Some(item) = held.ledger.item(said.item).cloned().filter(|_| word != Word::Lost) else {
                return Ok((held.lost(), None));
            };
            if word == Word::Again {
                return Ok((Answer::Done((Box::new(item), held.lease.until)), None));
            }
            let mut until = held.lease.until;
            if let Some(by) = extend {
                let ends: HashMap<ItemId, Timestamp> = leases::extend(tx, &said.lease, by, now()).await?;
                until = ends.get(&said.item).copied().unwrap_or(until);
            }
            Ok((Answer::Done((Box::new(item), until)), Some(held.ledger.write(tx).await?)))
        })
    });
    let (answer, written) = decided.await?;
    failpoint::reach("leases.committed").await;
    if let Some(written) = written {
        written.wake(wakes);
    }
    Ok(answer)
}

impl<T> Answer<T> {
    fn map<U>(self, done: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Done(answer) => Answer::Done(done(answer)),
            Self::Lost(why) => Answer::Lost(why),
            Self::NoSuchItem => Answer::NoSuchItem,
            Self::NoSuchLease => Answer::NoSuchLease,
        }
    }
}

/// Before how a lease ended, where its holder said so: what the same end is called that others brought about says nothing of
/// whether the holder was heard.
const SAID: &str = "said ";

/// Takes what is said of the attempt: as robots say it over AMQP. `kind` is its word, `problems` what of it could not be read.
///
/// # Errors
/// Where the mirror cannot be written.
pub async fn report(
    on: On<'_>,
    said: Said,
    kind: String,
    saying: Saying,
    problems: Vec<String>,
) -> Result<Answer<Box<Item>>, MirrorError> {
    let decide = move |held: &mut Held, said: &Said| {
        let is_done = matches!(saying, Saying::Processed { .. });
        let says_more = matches!(saying, Saying::Started { .. } | Saying::Progress { .. });
        let how = format!("{SAID}{kind}");
        if !held.lasts && held.ended_as(&how) {
            return Word::Again;
        }
        if !held.lasts && !is_done {
            return Word::Lost;
        }
        held.report(saying, said.user.as_ref(), problems);
        if !says_more {
            held.ledger.lease_ended(said.item, held.lease.attempt, &how);
        }
        Word::Taken
    };
    Ok(say(on, said, None, decide).await?.map(|(item, _)| item))
}

/// Keeps a lease up, of all the items it was given for: by its own length from now, or by so much. Answers until when.
///
/// # Errors
/// Where the mirror cannot be written.
pub async fn heartbeat(
    on: On<'_>,
    said: Said,
    by: Option<Duration>,
    (percent, note): (Option<u8>, Option<String>),
) -> Result<Answer<Timestamp>, MirrorError> {
    let decide = move |held: &mut Held, said: &Said| {
        if !held.lasts {
            return Word::Lost;
        }
        if percent.is_some() || note.is_some() {
            held.report(Saying::Progress { note, percent }, said.user.as_ref(), Vec::new());
        }
        Word::Taken
    };
    Ok(say(on, said, Some(by), decide).await?.map(|(_, until)| until))
}

/// Gives an item back: it waits again at once, no retry used.
///
/// # Errors
/// Where the mirror cannot be written.
pub async fn give_back(on: On<'_>, said: Said, note: Option<String>) -> Result<Answer<Box<Item>>, MirrorError> {
    let decide = move |held: &mut Held, said: &Said| {
        if !held.lasts {
            return if held.ended_as(RETURNED) { Word::Again } else { Word::Lost };
        }
        let (attempt, worker) = (held.lease.attempt, held.lease.worker.clone());
        held.ledger.step(said.item, |item, _, moment| {
            Some(lease::give_back(item, attempt, &worker, note, moment.now)?.by(&said.user))
        });
        Word::Taken
    };
    Ok(say(on, said, None, decide).await?.map(|(item, _)| item))
}

/// Whoever these were claimed for is gone: they wait again. Where the mirror cannot be written their leases end by themselves.
pub async fn give_up((mirror, live, wakes): On<'_>, claimed: Vec<Item>) {
    if claimed.is_empty() {
        return;
    }
    let definitions = live.definitions();
    let written = mirror.write(move |tx: &mut Tx| {
        Box::pin(async move {
            let ids = claimed.iter().map(|item| item.id).collect();
            let mut ledger = Ledger::of(&definitions, items::by_id(tx, &ids).await?);
            for Item { id, attempt, worker, .. } in claimed {
                let who = worker.unwrap_or_default();
                let why = Some("nobody waited for it any more".to_owned());
                ledger.step(id, |item, _, moment| lease::give_back(item, attempt, &who, why, moment.now));
            }
            ledger.write(tx).await
        })
    });
    match written.await {
        Ok(written) => written.wake(wakes),
        Err(error) => tracing::debug!("leases that nobody holds end by themselves: {error}"),
    }
}

/// What is answered to a claim of one item.
#[derive(Debug)]
pub enum Named {
    Claimed(Box<Claimed>),
    Refused(Refusal),
    /// It was dispatched, and its message was not to be had, for this reason.
    GivenUp {
        why: String,
        out_of_reach: bool,
    },
    NoSuchItem,
}

/// Claims this very item: at once where it waits in the mirror; where it is dispatched, once its message was taken out.
///
/// # Errors
/// Where the mirror cannot be read or written.
pub async fn claim((mirror, live, wakes): On<'_>, id: ItemId, ask: Ask) -> Result<Named, MirrorError> {
    let mut looks = wakes.recalls.subscribe();
    looks.mark_unchanged();
    let (own, definitions) = (ask.clone(), live.definitions());
    let (decided, written) = mirror
        .write(move |tx: &mut Tx| {
            Box::pin(async move {
                let Some(item) = items::by_id(tx, &[id].into()).await?.pop() else {
                    return Ok((Decided::Answer(Named::NoSuchItem), None));
                };
                let mut ledger = Ledger::of(&definitions, vec![item]);
                let decided = decide(tx, &mut ledger, id, &own).await?;
                let written = match &decided {
                    Decided::Answer(Named::Claimed(_)) | Decided::Waits(..) => Some(ledger.write(tx).await?),
                    Decided::Answer(_) => None,
                };
                Ok((decided, written))
            })
        })
        .await?;
    failpoint::reach("leases.committed").await;
    if let Some(written) = written {
        written.wake(wakes);
    }
    let (revision, asked) = match decided {
        Decided::Answer(answer) => {
            if matches!(answer, Named::Claimed(_)) {
                metrics::claimed(1);
            }
            return Ok(answer);
        }
        Decided::Waits(revision, asked) => (revision, asked),
    };
    wakes.recall.notify_one();
    let over = async {
        loop {
            match mirror.item(id).await? {
                Some(item) if item.pending.is_some() => drop(tokio::time::timeout(LOOK, looks.changed()).await),
                _ => return Ok::<(), MirrorError>(()),
            }
        }
    };
    match tokio::time::timeout(PATIENCE, over).await {
        Ok(over) => over?,
        Err(_) => withdraw((mirror, live, wakes), id, asked).await?,
    }
    ended(mirror, id, revision, &ask).await
}

enum Decided {
    Answer(Named),
    /// Since this revision, for what was asked.
    Waits(u32, Box<Request>),
}

async fn decide(tx: &mut Tx, ledger: &mut Ledger, id: ItemId, ask: &Ask) -> Result<Decided, MirrorError> {
    let Some(item) = ledger.item(id) else { return Ok(Decided::Answer(Named::NoSuchItem)) };
    if let Some(pending) = item.pending.as_ref() {
        let refusal = Refusal::Pending { action: pending.action.word(), who: pending.who.clone() };
        return Ok(Decided::Answer(Named::Refused(refusal)));
    }
    ledger
        .step(id, |item, _, moment| Some(people::ask_claim(item, &ask.worker, ask.length, moment.now)?.by(&ask.user)));
    if let Some((item, asked)) = ledger.item(id).and_then(|item| Some((item, item.pending.clone()?))) {
        return Ok(Decided::Waits(item.revision, Box::new(asked)));
    }
    let payload = requests::payload(tx, id).await?;
    let mut refused = None;
    ledger.step(id, |item, _, moment| match lease::claim_named(item, &ask.worker, payload.is_some(), moment.now) {
        Ok(step) => Some(step.by(&ask.user)),
        Err(refusal) => {
            refused = Some(refusal);
            None
        }
    });
    if let Some(refusal) = refused {
        return Ok(Decided::Answer(Named::Refused(refusal)));
    }
    let Some(item) = ledger.item(id).cloned() else { return Ok(Decided::Answer(Named::NoSuchItem)) };
    let lease = ask.lease(&item, true, ledger.moment().now);
    let claimed = Claimed { lease: lease.name.clone(), until: lease.until, items: vec![(item, payload)] };
    ledger.lease(lease);
    Ok(Decided::Answer(Named::Claimed(Box::new(claimed))))
}

/// What was asked is given up, unless it is done by now.
async fn withdraw((mirror, live, wakes): On<'_>, id: ItemId, asked: Box<Request>) -> Result<(), MirrorError> {
    let definitions = live.definitions();
    let why = format!("it was not to be had within {} s", PATIENCE.as_secs());
    let written = mirror.write(move |tx: &mut Tx| {
        Box::pin(async move {
            let mut ledger = Ledger::of(&definitions, items::by_id(tx, &[id].into()).await?);
            // Somebody else may have asked for the same since.
            let is_ours = |pending: &Request| {
                pending.action == Action::Claim
                    && !pending.taken
                    && (pending.at, &pending.who) == (asked.at, &asked.who)
            };
            let waits = |item: &Item| item.pending.as_ref().is_some_and(is_ours);
            if ledger.item(id).is_some_and(waits) {
                ledger.refuse_request(id, people::REFUSED, &why);
            }
            ledger.write(tx).await
        })
    });
    written.await?.wake(wakes);
    Ok(())
}

/// How a claim ended that waited.
async fn ended(mirror: &Mirror, id: ItemId, asked: u32, ask: &Ask) -> Result<Named, MirrorError> {
    let (found, body) = mirror
        .write(move |tx: &mut Tx| {
            Box::pin(async move {
                let Some(item) = items::by_id(tx, &[id].into()).await?.pop() else { return Ok((None, None)) };
                let lease = leases::of_attempt(tx, id, item.attempt).await?;
                let body = requests::payload(tx, id).await?;
                Ok((lease.map(|lease| (item, lease)), body))
            })
        })
        .await?;
    if let Some((item, lease)) = found
        && item.place == Place::Leased
        && lease.ended.is_none()
        && lease.person
        && lease.worker == ask.worker
    {
        metrics::claimed(1);
        return Ok(Named::Claimed(Box::new(Claimed {
            lease: lease.name,
            until: lease.until,
            items: vec![(item, body)],
        })));
    }
    if mirror.item(id).await?.is_none() {
        return Ok(Named::NoSuchItem);
    }
    let lines = mirror.timeline(id).await?;
    let line = lines.into_iter().filter(|line| line.revision > asked).find(|line| people::outcome(line) == Some(false));
    // Without such a line it was had, and the lease is over by now.
    Ok(Named::GivenUp {
        out_of_reach: line.as_ref().is_some_and(|line| line.event == people::OUT_OF_REACH),
        why: line.and_then(|line| line.why).unwrap_or_else(|| "it was claimed, and the lease is over".to_owned()),
    })
}
