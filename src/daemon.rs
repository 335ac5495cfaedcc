//! The running daemon: opens the mirror, serves HTTP, and keeps one broker session after another at work.
//!
//! Start and recovery are one path: connect, declare the topology, start every pipeline; the first failure ends the
//! session, and after a growing wait the next one begins. Nothing is carried over but the mirror.
//!
//! Stop (SIGTERM, SIGINT): every pipeline finishes the batch it has in hand, commits, acks, and ends; then timers,
//! HTTP and the connections. `shutdown.deadline` bounds all of it, and the log names what was waited for. What a
//! pipeline had not committed comes again after the next start. A second signal ends the process at once.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::broker::BrokerError;
use crate::broker::connection::{Endpoint, Session};
use crate::broker::declare::declare;
use crate::broker::management::Management;
use crate::broker::ownership;
use crate::broker::publish::Publisher;
use crate::control::{reconcile, timers};
use crate::definition::{self, Definitions};
use crate::http;
use crate::lanes::{self, Context, LaneError, Replies, Wakes};
use crate::mirror::{Mirror, MirrorError};
use crate::settings::Settings;
use crate::status::{Broker, Status};
use crate::topology::desired::desired;
use crate::topology::names::Names;
use crate::topology::version::Version;

/// The wait after the first failed session; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// A session that lasted this long was a good one: the next wait is short again.
const GOOD_SESSION: Duration = Duration::from_secs(30);

/// How often a quiet session checks that its connections live.
const PULSE: Duration = Duration::from_millis(500);

/// Pipelines of a broken session get this long to notice.
const CLEARANCE: Duration = Duration::from_secs(5);

/// What is kept of `shutdown.deadline` for closing the mirror, at most a quarter.
const CLOSING: Duration = Duration::from_secs(2);

/// Runs until it is told to stop.
///
/// # Errors
/// What makes a start impossible: bad definitions, a mirror that cannot be opened or is in use, an address that is
/// taken. A broker that is away is no such thing: it is waited for.
pub async fn serve(settings: Settings) -> anyhow::Result<()> {
    let definitions = Arc::new(definition::load(&settings.definitions.dir)?);
    let endpoint = Endpoint::new(settings.broker.amqp_url.expose(), settings.broker.connect_timeout)?;
    let management = match &settings.broker.management_url {
        Some(url) => Some(Management::new(url.expose(), endpoint.vhost())?),
        None => None,
    };
    let mirror = Mirror::open(&settings.mirror.url).await?;
    let listen = settings.http.listen;
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("http.listen: cannot listen on {listen}"))?;
    tracing::info!(
        queues = definitions.queues.len(),
        mirror = settings.mirror.url,
        http = %listener.local_addr()?,
        "warrend {} starts",
        env!("CARGO_PKG_VERSION")
    );

    let stop = stop_on_signal()?;
    let status = Arc::new(Status::default());
    let wakes = Arc::new(Wakes::new(&definitions));
    let context = Context {
        mirror: mirror.clone(),
        definitions: Arc::clone(&definitions),
        names: Names::new(&settings.broker.prefix),
        status: Arc::clone(&status),
        wakes: Arc::clone(&wakes),
        replies: Arc::new(Replies::new(settings.replies.allow.clone())),
        report_grace: settings.control.report_grace,
        confirm_timeout: settings.broker.confirm_timeout,
    };

    let mut crew = Crew::default();
    let doors_close = CancellationToken::new();
    let api = http::Api::new(context.clone());
    crew.spawn("http", http::serve(api, listener, doors_close.clone()));
    let clock = timers::run(mirror.clone(), definitions, wakes, stop.clone());
    crew.spawn("timers", async move {
        clock.await;
        Ok::<(), anyhow::Error>(())
    });
    let broker = BrokerSide { context, endpoint, management, settings: settings.clone() };
    crew.spawn("broker", broker.run(stop.clone()));

    // None of them ends by itself: one that does took its part of the daemon with it.
    let lost = tokio::select! {
        () = stop.cancelled() => None,
        ended = crew.next() => ended,
    };
    // Told to stop at the same moment: then it ended because of that.
    let lost = lost.filter(|_| !stop.is_cancelled());
    stop.cancel();
    doors_close.cancel();
    let deadline = settings.shutdown.deadline;
    let until = tokio::time::Instant::now() + deadline;
    crew.finish(deadline.saturating_sub(CLOSING.min(deadline / 4))).await;
    if tokio::time::timeout_at(until, mirror.close()).await.is_err() {
        tracing::warn!("the mirror was not closed in time and is left as it is; nothing is lost by it");
    }
    tracing::info!("stopped");
    match lost {
        None => Ok(()),
        Some((name, Ok(()))) => anyhow::bail!("{name} ended without being told to"),
        Some((name, Err(error))) => Err(error.context(format!("{name} ended"))),
    }
}

/// A token that the first SIGTERM or SIGINT cancels. The second ends the process.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if token.is_cancelled() {
                tracing::warn!("told twice to stop: ending at once");
                std::process::exit(1);
            }
            tracing::info!("told to stop: finishing what is in hand");
            token.cancel();
        }
    });
    Ok(stop)
}

/// Named tasks that end together.
#[derive(Default)]
struct Crew {
    tasks: JoinSet<anyhow::Result<()>>,
    names: BTreeMap<tokio::task::Id, String>,
}

impl Crew {
    fn spawn<E: Into<anyhow::Error>>(
        &mut self,
        name: impl Into<String>,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let task = self.tasks.spawn(async move { work.await.map_err(Into::into) });
        self.names.insert(task.id(), name.into());
    }

    /// Waits for the next task to end: its name and how. `None` where none is left.
    async fn next(&mut self) -> Option<(String, anyhow::Result<()>)> {
        let (id, result) = match self.tasks.join_next_with_id().await? {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(anyhow::Error::from(error))),
        };
        Some((self.names.remove(&id).unwrap_or_default(), result))
    }

    fn who(&self) -> String {
        self.names.values().cloned().collect::<Vec<_>>().join(", ")
    }

    /// Waits for everybody, within `deadline`, and says whom.
    async fn finish(mut self, deadline: Duration) {
        let until = tokio::time::Instant::now() + deadline;
        while !self.names.is_empty() {
            tracing::info!("waiting for {}", self.who());
            match tokio::time::timeout_at(until, self.next()).await {
                Ok(Some((name, Err(error)))) => tracing::warn!("{name} ended badly: {error:#}"),
                Ok(Some((_, Ok(())))) => {}
                Ok(None) => return,
                Err(_) => {
                    tracing::warn!(
                        "{} did not end within {} s and is left; what it had not committed comes again after the next start",
                        self.who(),
                        deadline.as_secs()
                    );
                    self.tasks.abort_all();
                    return;
                }
            }
        }
    }
}

/// Runs a pipeline that only publishes, and again after a failure, as long as the connections live. A queue that does not
/// confirm, or a broker that blocks publishers, is no reason to stop those that drain; a missing robots' queue is one to
/// declare everything again.
async fn while_connected<F>(
    session: Arc<Session>,
    stop: CancellationToken,
    pipeline: impl Fn() -> F,
) -> Result<(), LaneError>
where
    F: Future<Output = Result<(), LaneError>>,
{
    let mut wait = FIRST_WAIT;
    loop {
        let began = Instant::now();
        let ended = tokio::select! {
            ended = pipeline() => ended,
            // A blocked connection lets nobody notice that they should stop.
            () = async { stop.cancelled().await; tokio::time::sleep(CLEARANCE).await } => return Ok(()),
        };
        let Err(error) = ended else { return Ok(()) };
        if matches!(error, LaneError::Returned { .. }) || !session.is_alive() {
            return Err(error);
        }
        if began.elapsed() > GOOD_SESSION {
            wait = FIRST_WAIT;
        }
        tracing::warn!(
            retry_in_ms = wait.as_millis(),
            "a pipeline failed and is started again: {:#}",
            anyhow::Error::from(error)
        );
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Everything that needs the broker.
struct BrokerSide {
    context: Context,
    endpoint: Endpoint,
    management: Option<Management>,
    settings: Settings,
}

#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    #[error("RabbitMQ {0} is older than {oldest}, the oldest that is supported", oldest = Version::OLDEST)]
    TooOld(String),
    #[error("the broker's version is not known: over amqps the management API has to say it, and {0}")]
    NoVersion(String),
    #[error("{name} ended: {error:#}")]
    Ended { name: String, error: anyhow::Error },
}

impl BrokerSide {
    /// One session after another until it is told to stop.
    async fn run(self, stop: CancellationToken) -> Result<(), SessionError> {
        let mut wait = FIRST_WAIT;
        while !stop.is_cancelled() {
            let began = Instant::now();
            let ended = tokio::select! {
                biased;
                ended = self.session(&stop) => ended,
            };
            let Err(error) = ended else { return Ok(()) };
            let reason = format!("{:#}", anyhow::Error::from(error));
            if began.elapsed() > GOOD_SESSION {
                wait = FIRST_WAIT;
            }
            let jittered = wait.mul_f64(0.75 + fastrand::f64() / 2.0);
            tracing::warn!(retry_in_ms = jittered.as_millis(), "no broker session: {reason}");
            self.context.status.update(|status| status.broker = Broker::Lost { reason });
            self.context.wakes.read_reports.distrust_for(self.endpoint.forgotten_after());
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(jittered) => {}
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        Ok(())
    }

    /// One generation of connections. Ends with the first failure, or well when told to stop.
    async fn session(&self, stop: &CancellationToken) -> Result<(), SessionError> {
        let opened = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            opened = self.open() => opened?,
        };
        let lanes_stop = stop.child_token();
        let mut lanes = self.start_lanes(&opened, &lanes_stop);
        let ended = loop {
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                ended = lanes.next() => match ended {
                    Some((_, Ok(()))) if stop.is_cancelled() => {}
                    Some((name, Ok(()))) => break Err(SessionError::Ended { name, error: anyhow::anyhow!("without a reason") }),
                    Some((name, Err(error))) => break Err(SessionError::Ended { name, error }),
                    None => break Ok(()),
                },
                () = tokio::time::sleep(PULSE) => if !opened.is_alive() {
                    break Err(BrokerError::Lost("the broker is gone".to_owned()).into());
                },
            }
        };
        lanes_stop.cancel();
        lanes.finish(if ended.is_ok() { self.settings.shutdown.deadline } else { CLEARANCE }).await;
        opened.close().await;
        ended
    }

    async fn open(&self) -> Result<Arc<Session>, SessionError> {
        // Deliveries that cannot be committed are better left where they are.
        self.context.mirror.until_writable().await;
        let (version, text) = self.version().await?;
        if version < Version::OLDEST {
            return Err(SessionError::TooOld(text));
        }
        let session = Arc::new(self.endpoint.connect().await?);
        let definitions: &Definitions = &self.context.definitions;
        let topology = desired(definitions, version, &self.context.names, self.settings.tap.max_bytes);
        let problem = declare(&session, self.management.as_ref(), &topology).await?;
        let identity = self.context.mirror.identity().await?;
        let mut publisher = Publisher::open(&session, self.settings.broker.confirm_timeout).await?;
        ownership::claim(&session, &self.context.names, &identity, &mut publisher).await?;
        if let Some(problem) = &problem {
            tracing::warn!("policies were left as they are: {problem}");
        }
        tracing::info!(version = text, address = self.endpoint.address(), "connected to RabbitMQ, topology declared");
        self.context.status.update(|status| {
            status.broker = Broker::Connected { version: text };
            status.planned = true;
            status.management_problem = problem;
        });
        Ok(session)
    }

    /// From AMQP's greeting; over `amqps` from the management API.
    async fn version(&self) -> Result<(Version, String), SessionError> {
        if let Some(version) = self.endpoint.version().await? {
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

    fn start_lanes(&self, session: &Arc<Session>, stop: &CancellationToken) -> Crew {
        let mut crew = Crew::default();
        let parts = || (self.context.clone(), Arc::clone(session), stop.clone());
        let (context, session, token) = parts();
        crew.spawn("intake", lanes::intake::run(context, session, token));
        let (context, session, token) = parts();
        crew.spawn("reports", lanes::reports::run(context, session, token));
        let (context, session, token) = parts();
        crew.spawn("tap", lanes::tap::run(context, session, token));
        let (context, own, token) = parts();
        crew.spawn(
            "answers",
            while_connected(Arc::clone(&own), token.clone(), move || {
                lanes::answers::run(context.clone(), Arc::clone(&own), token.clone())
            }),
        );
        let (context, session, token) = parts();
        crew.spawn("unrouted", lanes::unrouted::run(context, session, token));
        for definition in self.context.definitions.queues.values() {
            let (context, own, token) = parts();
            let (name, definition) = (format!("dispatch of {}", definition.key), Arc::clone(definition));
            crew.spawn(
                name,
                while_connected(Arc::clone(&own), token.clone(), move || {
                    lanes::dispatch::run(context.clone(), Arc::clone(&definition), Arc::clone(&own), token.clone())
                }),
            );
        }
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
