//! The one supervisor of everything that needs the broker: one session (generation) after another, for ever.
//!
//! Start and recovery are one path: connect to the next of the URLs, declare the topology, start every pipeline. The
//! first failure cancels the whole session; a delivery belongs to the channel of its session and cannot be acked by
//! the next one. After a growing wait the next session begins. Nothing is carried over but the mirror.
//!
//! Order of effects of a session's start:
//! 1. connect; 2. claim `wq.meta` for this mirror ([`crate::control::witness`]), which is all that is declared before it is known whose queues these are;
//! 3. make the broker as what is in force says ([`crate::control::conductor`]), look whether filled queues are news to the
//!    mirror, take people's orders, say that we are connected; 4. note in the mirror that a session is open; 5. start the pipelines. Its end says goodbye to the broker and then takes the note back.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | 1 | nothing | |
//! | 2 | the claim | it is this mirror's own |
//! | 3 | some or all of the topology | planned again: what is there stays |
//! | 4, 5 | the note, perhaps connections that the broker takes for alive | for 3.5 heartbeats an empty `wq.reports` proves nothing |

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::crew::Crew;
use super::dispatchers;
use crate::broker::BrokerError;
use crate::broker::connection::{Endpoint, Session};
use crate::broker::declare::declare_or_keep;
use crate::broker::management::Management;
use crate::broker::publish::Publisher;
use crate::control::conductor::{ConductError, Conductor, Seat};
use crate::control::desk::Orders;
use crate::control::{reconcile, witness};
use crate::failpoint;
use crate::lanes::{self, Context, LaneError, Wakes};
use crate::metrics;
use crate::mirror::MirrorError;
use crate::settings::Settings;
use crate::status::Broker;
use crate::topology::desired::meta;
use crate::topology::version::Version;

/// The wait after the first failed session; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// A session that lasted this long was a good one: the next wait is short again.
const GOOD_SESSION: Duration = Duration::from_secs(30);

/// How often a quiet session checks that its connections live.
const PULSE: Duration = Duration::from_millis(500);

/// What is kept of `shutdown.deadline` for saying goodbye to the broker and closing the mirror, at most half.
const GOODBYES: Duration = Duration::from_secs(7);

/// Pipelines of a broken session get this long to notice.
const CLEARANCE: Duration = Duration::from_secs(5);

/// How long the next try waits, growing with every failure.
struct Backoff {
    wait: Duration,
}

impl Backoff {
    const fn new() -> Self {
        Self { wait: FIRST_WAIT }
    }

    /// The wait after one more failure.
    fn next(&mut self) -> Duration {
        let wait = self.wait;
        self.wait = (wait * 2).min(LONGEST_WAIT);
        wait
    }
}

/// Everything that needs the broker.
pub(super) struct BrokerSide {
    pub context: Context,
    /// Tried in turn; never empty.
    pub endpoints: Vec<Endpoint>,
    pub management: Option<Management>,
    pub conductor: Arc<tokio::sync::Mutex<Conductor>>,
    pub settings: Settings,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    #[error(transparent)]
    Control(#[from] ConductError),
    #[error("RabbitMQ {0} is older than {oldest}, the oldest that is supported", oldest = Version::OLDEST)]
    TooOld(String),
    #[error("the broker's version is not known: over amqps the management API has to say it, and {0}")]
    NoVersion(String),
    #[error("{name} ended: {error:#}")]
    Ended { name: String, error: anyhow::Error },
}

impl BrokerSide {
    /// One session after another until it is told to stop.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), SessionError> {
        let mut backoff = Backoff::new();
        let mut turns = self.endpoints.iter().cycle();
        let mut failed_in_a_row = 0;
        while let Some(endpoint) = turns.next().filter(|_| !stop.is_cancelled()) {
            let mut up_since = None;
            let Err(error) = self.session(endpoint, &mut up_since, &stop).await else { return Ok(()) };
            metrics::session_failed();
            if up_since.is_some_and(|since: Instant| since.elapsed() > GOOD_SESSION) {
                backoff = Backoff::new();
                failed_in_a_row = 0;
            }
            // The others are tried before anything is waited for.
            failed_in_a_row += 1;
            let wait = match failed_in_a_row % self.endpoints.len() {
                0 => backoff.next().mul_f64(0.75 + fastrand::f64() / 2.0),
                _ => Duration::ZERO,
            };
            let reason = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!(address = endpoint.address(), retry_in_ms = wait.as_millis(), "no broker session: {reason}");
            self.context.status.update(|status| status.broker = Broker::Lost { reason });
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        }
        Ok(())
    }

    /// One generation of connections. Ends with the first failure, or well when told to stop.
    async fn session(
        &self,
        endpoint: &Endpoint,
        up_since: &mut Option<Instant>,
        stop: &CancellationToken,
    ) -> Result<(), SessionError> {
        let lanes_stop = stop.child_token();
        let (seat, orders, unreachable) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            opened = self.open(endpoint, &lanes_stop) => opened?,
        };
        let session = Arc::clone(&seat.session);
        if !self.context.mirror.open_session().await? {
            // The broker may take connections of the last one for alive, and hold deliveries for them.
            self.context.wakes.read_reports.distrust_for(endpoint.forgotten_after());
        }
        metrics::session_opened();
        *up_since = Some(Instant::now());
        let mut lanes = self.start_lanes(seat, orders, &unreachable, &lanes_stop);
        let ended = self.watch(&session, &mut lanes, stop).await;
        metrics::session_closed();
        lanes_stop.cancel();
        let deadline = self.settings.shutdown.deadline;
        lanes.finish(if ended.is_ok() { deadline.saturating_sub(GOODBYES.min(deadline / 2)) } else { CLEARANCE }).await;
        if session.close().await {
            self.context.mirror.close_session().await?;
        }
        ended
    }

    /// Waits for the end of a session: the first pipeline that ends, a lost connection, or the stop.
    async fn watch(&self, session: &Session, lanes: &mut Crew, stop: &CancellationToken) -> Result<(), SessionError> {
        let mut blocked = session.blocked();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                ended = lanes.next() => match ended {
                    Some((_, Ok(()))) if stop.is_cancelled() => {}
                    Some((name, Ok(()))) => {
                        return Err(SessionError::Ended { name, error: anyhow::anyhow!("without a reason") });
                    }
                    Some((name, Err(error))) => return Err(SessionError::Ended { name, error }),
                    None => return Ok(()),
                },
                Ok(()) = blocked.changed() => self.note_blocked(blocked.borrow_and_update().clone()),
                () = tokio::time::sleep(PULSE) => if !session.is_alive() {
                    return Err(BrokerError::Lost("the broker is gone".to_owned()).into());
                },
            }
        }
    }

    fn note_blocked(&self, reason: Option<String>) {
        match &reason {
            Some(reason) => {
                tracing::warn!(reason, "the broker blocks publishers: nothing is dispatched until it has room again");
            }
            None => tracing::info!("the broker lets publishers work again"),
        }
        metrics::blocked(reason.is_some());
        self.context.status.update(|status| {
            if let Broker::Connected { blocked, .. } = &mut status.broker {
                *blocked = reason;
            }
        });
    }

    /// The session, what people order of it, and the keys of robots' queues that it has to do without.
    async fn open(
        &self,
        endpoint: &Endpoint,
        stop: &CancellationToken,
    ) -> Result<(Seat, Orders, BTreeSet<String>), SessionError> {
        // Deliveries that cannot be committed are better left where they are.
        self.context.mirror.until_writable().await;
        let (version, text) = self.version(endpoint).await?;
        if version < Version::OLDEST {
            return Err(SessionError::TooOld(text));
        }
        let session = Arc::new(endpoint.connect().await?);
        declare_or_keep(&session, &meta(&self.context.names, version)).await?;
        let mut publisher = Publisher::open(&session, self.settings.broker.confirm_timeout).await?;
        witness::claim(&self.context, &session, &mut publisher).await?;
        failpoint::reach("start.claimed").await;
        let seat = Seat { session, version, stop: stop.clone() };
        let mut conductor = self.conductor.lock().await;
        let unreachable = conductor.establish(&seat).await?;
        witness::look(&self.context, &seat.session).await?;
        let orders = conductor.desk.serve().await;
        failpoint::reach("start.declared").await;
        tracing::info!(version = text, address = endpoint.address(), "connected to RabbitMQ, topology declared");
        self.context.status.update(|status| {
            status.broker = Broker::Connected { version: text, blocked: None };
            status.planned = true;
        });
        Ok((seat, orders, unreachable))
    }

    /// From AMQP's greeting; over `amqps` from the management API.
    async fn version(&self, endpoint: &Endpoint) -> Result<(Version, String), SessionError> {
        if let Some(version) = endpoint.version().await? {
            return Ok(version);
        }
        let Some(management) = &self.management else {
            return Err(SessionError::NoVersion("broker.management_url is empty".to_owned()));
        };
        match management.version().await {
            Ok(Some(version)) => Ok(version),
            Ok(None) => Err(SessionError::NoVersion("it answered no version".to_owned())),
            Err(error) => Err(SessionError::NoVersion(error.to_string())),
        }
    }

    fn start_lanes(
        &self,
        seat: Seat,
        orders: Orders,
        unreachable: &BTreeSet<String>,
        stop: &CancellationToken,
    ) -> Crew {
        let mut crew = Crew::default();
        let session = Arc::clone(&seat.session);
        let parts = || (self.context.clone(), Arc::clone(&session), stop.clone());
        let (context, session, token) = parts();
        crew.spawn("intake", lanes::intake::run(context, session, token));
        let (context, session, token) = parts();
        crew.spawn("reports", lanes::reports::run(context, session, token));
        let (context, session, token) = parts();
        crew.spawn("tap", lanes::tap::run(context, session, token));
        let (context, own, token) = parts();
        crew.spawn(
            "answers",
            while_connected(Arc::clone(&own), token.clone(), Missing::TryAgain, move || {
                lanes::answers::run(context.clone(), Arc::clone(&own), token.clone())
            }),
        );
        let (context, own, token) = parts();
        crew.spawn(
            "unrouted",
            while_connected(Arc::clone(&own), token.clone(), Missing::EndSession, move || {
                lanes::unrouted::run(context.clone(), Arc::clone(&own), token.clone())
            }),
        );
        let (context, own, token) = parts();
        let limit = self.settings.control.recall_limit;
        crew.spawn(
            "recall",
            while_connected(Arc::clone(&own), token.clone(), Missing::TryAgain, move || {
                lanes::recall::run(context.clone(), Arc::clone(&own), limit, token.clone())
            }),
        );
        let (context, own, token) = parts();
        // Control sees what is missing and makes it; where it is blind, only the start of a session does.
        let missing = if self.management.is_some() { Missing::TellControl } else { Missing::EndSession };
        let management = self.management.clone();
        crew.spawn(
            "events",
            while_connected(Arc::clone(&own), token.clone(), missing, move || {
                let wakes = Arc::clone(&context.wakes);
                let run = lanes::events::run(context.clone(), management.clone(), Arc::clone(&own), token.clone());
                async move { run.await.inspect_err(|_| missing.tell(&wakes)) }
            }),
        );
        let (context, own, token) = parts();
        let period = self.settings.control.reconcile_period;
        crew.spawn(
            "witness",
            while_connected(Arc::clone(&own), token.clone(), missing, move || {
                let wakes = Arc::clone(&context.wakes);
                let run = witness::run(context.clone(), Arc::clone(&own), period, token.clone());
                async move { run.await.inspect_err(|_| missing.tell(&wakes)) }
            }),
        );
        let (context, session, token) = parts();
        crew.spawn("claims", lanes::claims::attend(context, session, token));
        let (context, own, token) = parts();
        crew.spawn("dispatch", dispatchers::run(context, own, missing, unreachable.clone(), token));
        let conductor = Arc::clone(&self.conductor);
        crew.spawn("control", async move { conductor.lock().await.run(seat, orders).await });
        if let Some(management) = self.management.clone() {
            let (context, _, token) = parts();
            let control = &self.settings.control;
            let pace = reconcile::Pace { period: control.reconcile_period, gap: control.observation_gap };
            crew.spawn("reconciliation", async move {
                reconcile::run(context, management, pace, token).await;
                Ok::<(), LaneError>(())
            });
        }
        crew
    }
}

/// What a pipeline means that misses something on the broker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Somebody deleted it: everything is declared again.
    EndSession,
    /// It was missing when everything was declared: declaring again would not help.
    TryAgain,
    /// Control is told, and makes it again.
    TellControl,
}

impl Missing {
    /// A pipeline failed: control looks whether it misses something.
    pub(super) fn tell(self, wakes: &Wakes) {
        if self == Self::TellControl {
            wakes.control.notify_one();
        }
    }
}

/// Runs a pipeline that only publishes, and again after a failure, as long as the connections live. A queue that does not
/// confirm, or a broker that blocks publishers, is no reason to stop those that drain.
pub(super) async fn while_connected<F>(
    session: Arc<Session>,
    stop: CancellationToken,
    missing: Missing,
    pipeline: impl Fn() -> F,
) -> Result<(), LaneError>
where
    F: Future<Output = Result<(), LaneError>>,
{
    let mut backoff = Backoff::new();
    loop {
        let began = Instant::now();
        let ended = tokio::select! {
            ended = async { session.unblocked().await; pipeline().await } => ended,
            // A blocked connection lets nobody notice that they should stop.
            () = async { stop.cancelled().await; tokio::time::sleep(CLEARANCE).await } => return Ok(()),
        };
        let Err(error) = ended else { return Ok(()) };
        let is_missing = match &error {
            LaneError::Returned { .. } => true,
            LaneError::Broker(error) => error.is_missing(),
            _ => false,
        };
        if (is_missing && missing == Missing::EndSession) || !session.is_alive() {
            return Err(error);
        }
        if began.elapsed() > GOOD_SESSION {
            backoff = Backoff::new();
        }
        let wait = backoff.next();
        tracing::warn!(
            retry_in_ms = wait.as_millis(),
            "a pipeline failed and is started again: {:#}",
            anyhow::Error::from(error)
        );
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}
