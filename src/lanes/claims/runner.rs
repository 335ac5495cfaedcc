//! The runner of one queue's claims: there for as long as somebody waits, and a moment longer.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::desk::{Claimed, Poller};
use super::take::{self, Taken};
use crate::broker::connection::Session;
use crate::broker::front::Front;
use crate::failpoint;
use crate::item::Item;
use crate::item::breaker::Standing;
use crate::lanes::leases::give_up;
use crate::lanes::live::InForce;
use crate::lanes::{Context, LaneError, Wakes, now};
use crate::metrics;
use crate::mirror::requests::forget_taken;
use crate::mirror::{MirrorError, Tx};

/// How long it stays when nobody waits: those who come back at once find it.
const LINGER: Duration = Duration::from_secs(1);

/// After a failure.
const REST: Duration = Duration::from_secs(1);

/// While a breaker tries an item, or room is short: what ends wakes us, this is for what does not.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Holds something of a session.
struct Holding(Arc<Wakes>);

impl Holding {
    fn new(wakes: &Arc<Wakes>) -> Self {
        wakes.claims.holding.send_modify(|holding| *holding += 1);
        Self(Arc::clone(wakes))
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.0.claims.holding.send_modify(|holding| *holding -= 1);
    }
}

/// The robots' queue, in a session.
struct Seat {
    front: Front,
    session: Arc<Session>,
    _holding: Holding,
}

pub(super) struct Runner {
    context: Context,
    queue: String,
    seat: Option<Seat>,
    /// The broker is left alone until then.
    rest_until: Option<Instant>,
    idle_since: Option<Instant>,
}

/// What may be given out.
enum Allowance {
    /// So many at once; `waiting`: also of what waits in the mirror.
    Open { items: usize, waiting: bool },
    /// Nothing, for so long or until something changes.
    Shut(Option<Duration>),
}

/// How a turn went.
enum Turn {
    Again,
    /// Until something happens, at most so long.
    Wait(Option<Duration>),
    Gone,
}

impl Runner {
    pub(super) fn new(context: Context, queue: String) -> Self {
        Self { context, queue, seat: None, rest_until: None, idle_since: None }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let wakes = Arc::clone(&self.context.wakes);
        let mut sessions = wakes.claims.session.subscribe();
        let mut changes = self.context.live.changes();
        let bell = wakes.claims.bell(&self.queue);
        while !stop.is_cancelled() {
            let in_force = Arc::clone(&changes.borrow_and_update());
            let session = sessions.borrow_and_update().clone();
            let wait = match self.turn(&in_force, session).await {
                Ok(Turn::Again) => continue,
                Ok(Turn::Gone) => return,
                Ok(Turn::Wait(wait)) => wait,
                Err(error) => {
                    self.failed(&error);
                    Some(continue_after(&error))
                }
            };
            let next = async {
                match &mut self.seat {
                    Some(seat) => seat.front.next().await,
                    None => std::future::pending().await,
                }
            };
            let failed = tokio::select! {
                () = stop.cancelled() => None,
                Ok(()) = sessions.changed() => None,
                Ok(()) = changes.changed() => None,
                () = bell.notified() => None,
                () = async { if let Some(wait) = wait { tokio::time::sleep(wait).await } else { std::future::pending().await } } => None,
                next = next => next.err(),
            };
            if let Some(error) = failed {
                self.failed(&error.into());
            }
        }
        self.let_go().await;
    }

    /// What was delivered goes back by itself, with its channel.
    fn failed(&mut self, error: &LaneError) {
        let queue = &self.queue;
        match error {
            LaneError::Mirror(error) => self.context.wakes.claims.failed_for_due(queue, error),
            // The session says why, or control does.
            _ => tracing::debug!(queue, "claims leave the broker alone for a moment: {error}"),
        }
        self.seat = None;
        self.rest_until = Some(Instant::now() + REST);
    }

    async fn turn(&mut self, in_force: &InForce, session: Option<Arc<Session>>) -> Result<Turn, LaneError> {
        let same = |seat: &Seat| session.as_ref().is_some_and(|session| Arc::ptr_eq(session, &seat.session));
        if self.seat.as_ref().is_some_and(|seat| !same(seat)) {
            self.let_go().await;
        }
        let wakes = Arc::clone(&self.context.wakes);
        let desk = &wakes.claims;
        let wanted = desk.wanted(&self.queue);
        if wanted.items == 0 {
            self.quiet().await?;
            let idle = self.idle_since.get_or_insert_with(Instant::now).elapsed();
            if idle < LINGER {
                return Ok(Turn::Wait(Some(LINGER.saturating_sub(idle))));
            }
            self.let_go().await;
            return Ok(if desk.retire(&self.queue) { Turn::Gone } else { Turn::Again });
        }
        self.idle_since = None;
        let (limit, waiting) = match self.allowance(in_force).await? {
            Allowance::Open { items, waiting } => (wanted.items.min(items), waiting),
            Allowance::Shut(wait) => {
                self.quiet().await?;
                desk.nothing_for_due(&self.queue);
                return Ok(Turn::Wait(wait));
            }
        };
        // It may be ahead of what waits in the mirror only once nothing is in the robots' queue.
        let any_waits = waiting && self.context.mirror.has_ready(&self.queue).await?;
        let rests = self.rest_until.is_some_and(|until| Instant::now() < until);
        if let Some(session) = session.filter(|_| !rests) {
            let front = self.front(&session).await?;
            // For those who do not wait nobody listens where nothing is.
            if front.listens() || !wanted.all_due || front.ready().await? > 0 {
                front.listen(limit).await?;
                // Who does not wait has to be sure that nothing is there. Where one came, more may have.
                if wanted.some_due || any_waits || front.held() > 0 {
                    front.look(limit).await?;
                }
            }
            if front.held() > 0 {
                self.hand_out(limit).await?;
                return Ok(Turn::Again);
            }
        }
        if any_waits && self.take_waiting(in_force, limit).await? {
            return Ok(Turn::Again);
        }
        // Where nobody waits on nobody listens: what came at the last moment is theirs yet, and what comes then is robots'.
        if wanted.all_due
            && let Some(seat) = &mut self.seat
        {
            seat.front.pause().await?;
            if seat.front.held() > 0 {
                self.hand_out(limit).await?;
                return Ok(Turn::Again);
            }
        }
        desk.nothing_for_due(&self.queue);
        if desk.wanted(&self.queue).items == 0 {
            return Ok(Turn::Again);
        }
        let left = self.rest_until.map(|until| until.saturating_duration_since(Instant::now()));
        Ok(Turn::Wait(if rests { left } else { (!waiting).then_some(LOOK_AGAIN) }))
    }

    /// As dispatch decides, but for what was dispatched already: that has its place among what is worked.
    async fn allowance(&self, in_force: &InForce) -> Result<Allowance, MirrorError> {
        let Some(definition) = in_force.definitions.get(&self.queue).filter(|_| in_force.dispatches(&self.queue))
        else {
            return Ok(Allowance::Shut(None));
        };
        let at = now();
        let bounds = self.context.mirror.bounds(definition, at).await?;
        let waiting = bounds.room != Some(0);
        Ok(match bounds.breaker {
            Standing::Closed => Allowance::Open { items: usize::MAX, waiting },
            Standing::Open => {
                let left = bounds.until.and_then(|until| Duration::try_from(until.duration_since(at)).ok());
                Allowance::Shut(left.map(|left| left.max(Duration::from_millis(10))))
            }
            Standing::Trying(since) if self.context.mirror.claimed_since(&self.queue, since).await? => {
                Allowance::Shut(Some(LOOK_AGAIN))
            }
            Standing::Trying(_) => Allowance::Open { items: 1, waiting },
        })
    }

    async fn front(&mut self, session: &Arc<Session>) -> Result<&mut Front, LaneError> {
        if self.seat.is_none() {
            let holding = Holding::new(&self.context.wakes);
            let front = Front::open(session, &self.context.names.robots(&self.queue)).await?;
            self.seat = Some(Seat { front, session: Arc::clone(session), _holding: holding });
        }
        match &mut self.seat {
            Some(seat) => Ok(&mut seat.front),
            None => Err(crate::broker::BrokerError::Lost("nobody listens".to_owned()).into()),
        }
    }

    /// Listens no more; what was delivered meanwhile waits in the mirror.
    async fn quiet(&mut self) -> Result<(), LaneError> {
        let Some(seat) = &mut self.seat else { return Ok(()) };
        seat.front.pause().await?;
        if seat.front.held() > 0 {
            self.hand_out(0).await?;
        }
        Ok(())
    }

    /// Has nothing of the session any more.
    async fn let_go(&mut self) {
        if let Err(error) = self.quiet().await {
            tracing::debug!(queue = self.queue, "what was delivered goes back by itself: {error}");
        }
        if let Some(seat) = self.seat.take()
            && let Err(error) = seat.front.close().await
        {
            tracing::debug!(queue = self.queue, "closing a channel: {error}");
        }
    }

    /// Gives what is held to those who wait, so many items at most.
    async fn hand_out(&mut self, limit: usize) -> Result<(), LaneError> {
        let Some(seat) = &mut self.seat else { return Ok(()) };
        let desk = &self.context.wakes.claims;
        let mut chosen = desk.choose(&self.queue, seat.front.held().min(limit));
        // Once these are acked as many more would come: not where nobody waits for that many.
        if seat.front.prefetch() > desk.wanted(&self.queue).items {
            let held = seat.front.held();
            if let Err(error) = seat.front.pause().await {
                self.give_up(chosen);
                return Err(error.into());
            }
            // What came at the last moment.
            let more = seat.front.held().min(limit).saturating_sub(held);
            chosen.extend(desk.choose(&self.queue, more));
        }
        let messages = seat.front.take();
        failpoint::reach("claims.got").await;
        let asks = chosen.iter().map(|(poller, items)| (poller.ask.clone(), *items)).collect();
        let (definitions, queue) = (self.context.definitions(), self.queue.clone());
        let taken = self.context.mirror.write(move |tx: &mut Tx| {
            Box::pin(async move { take::deliveries(tx, &definitions, &queue, messages, asks).await })
        });
        let taken = match taken.await {
            Ok(taken) => taken,
            Err(error) => {
                self.give_up(chosen);
                return Err(error.into());
            }
        };
        failpoint::reach("claims.committed").await;
        // What is committed is theirs, also where the message comes back.
        let acked = seat.front.ack_all().await;
        failpoint::reach("claims.acked").await;
        let requests = taken.requests.clone();
        self.answer(chosen, taken).await;
        acked?;
        if !requests.is_empty() {
            // Behind the acks.
            seat_ready(&self.seat).await?;
            let forget = self
                .context
                .mirror
                .write(move |tx: &mut Tx| Box::pin(async move { forget_taken(tx, &requests).await }));
            forget.await?;
            self.context.wakes.recalls.send_modify(|passes| *passes += 1);
        }
        Ok(())
    }

    /// Gives what waits in the mirror to those who wait. Answers whether there was anything.
    async fn take_waiting(&mut self, in_force: &InForce, limit: usize) -> Result<bool, LaneError> {
        let Some(definition) = in_force.definitions.get(&self.queue).cloned() else { return Ok(false) };
        let chosen = self.context.wakes.claims.choose(&self.queue, limit);
        let asks = chosen.iter().map(|(poller, items)| (poller.ask.clone(), *items)).collect();
        let definitions = Arc::clone(&in_force.definitions);
        let taken = self
            .context
            .mirror
            .write(move |tx: &mut Tx| Box::pin(async move { take::ready(tx, &definitions, &definition, asks).await }));
        let taken = match taken.await {
            Ok(taken) => taken,
            Err(error) => {
                self.give_up(chosen);
                return Err(error.into());
            }
        };
        failpoint::reach("claims.taken").await;
        let any = taken.shares.iter().any(|share| !share.items.is_empty());
        self.answer(chosen, taken).await;
        Ok(any)
    }

    fn give_up(&self, chosen: Vec<(Poller, usize)>) {
        self.context.wakes.claims.put_back(&self.queue, chosen.into_iter().map(|(poller, _)| poller).collect());
    }

    /// Everybody gets their share. Who got none waits on; what nobody takes any more is given back.
    async fn answer(&self, chosen: Vec<(Poller, usize)>, taken: Taken) {
        taken.written.wake(&self.context.wakes);
        let (mut back, mut left) = (Vec::new(), Vec::new());
        for ((poller, _), share) in chosen.into_iter().zip(taken.shares) {
            if share.items.is_empty() {
                back.push(poller);
                continue;
            }
            metrics::claimed(share.items.len());
            let claimed = Claimed { lease: share.lease, until: share.until, items: share.items };
            left.extend(poller.hand(claimed).err());
        }
        if !back.is_empty() {
            self.context.wakes.claims.put_back(&self.queue, back);
        }
        let items: Vec<Item> = left.into_iter().flat_map(|claimed| claimed.items).map(|(item, _)| item).collect();
        let Context { mirror, live, wakes, .. } = &self.context;
        give_up((mirror, live, wakes), items).await;
    }
}

/// How long to leave everything alone after a failure.
fn continue_after(error: &LaneError) -> Duration {
    match error {
        // What waits in the mirror is there without the broker.
        LaneError::Broker(_) => Duration::ZERO,
        _ => REST,
    }
}

async fn seat_ready(seat: &Option<Seat>) -> Result<(), LaneError> {
    if let Some(seat) = seat {
        seat.front.ready().await?;
    }
    Ok(())
}
