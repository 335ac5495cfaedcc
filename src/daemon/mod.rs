//! The running daemon: opens the mirror, serves HTTP, runs the timers, and keeps one broker session after another at
//! work ([`broker_side`]).
//!
//! Stop (SIGTERM, SIGINT): every pipeline finishes the batch it has in hand, commits, acks, and ends; then timers,
//! HTTP and the connections. `shutdown.deadline` bounds all of it, and the log names what was waited for. What a
//! pipeline had not committed comes again after the next start. A second signal ends the process at once.

mod broker_side;
mod crew;
mod dispatchers;
mod rebuild;
mod who;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::broker::connection::Endpoint;
use crate::broker::management::Management;
use crate::broker::trust::Trust;
use crate::control::conductor::{Conductor, Rules};
use crate::control::desk::Desk;
use crate::control::forget;
use crate::control::keeper::Keeper;
pub use crate::control::rebuild::Rebuilt;
use crate::control::{actions, keys, leases, retention, timeouts, timers};
use crate::failpoint;
use crate::http;
use crate::lanes::feed::Feed;
use crate::lanes::{Context, Replies, Wakes, claims};
use crate::metrics;
use crate::mirror::Mirror;
use crate::outward::send::{Allowed, Sender};
use crate::outward::{Outward, Post};
use crate::settings::{Drift, Settings};
use crate::status::Status;
use crate::topology::names::Names;
use broker_side::BrokerSide;
use crew::Crew;
pub use rebuild::rebuild;
pub use who::{FirstToken, first_token};

/// How often metrics are summed up.
const UPKEEP: Duration = Duration::from_secs(5);

/// What is kept of `shutdown.deadline` for closing the mirror, at most a quarter.
const CLOSING: Duration = Duration::from_secs(2);

/// Runs until it is told to stop.
///
/// # Errors
/// What makes a start impossible: bad definitions, a mirror that cannot be opened or is in use, an address that is
/// taken. A broker that is away is no such thing: it is waited for.
pub async fn serve(settings: Settings) -> anyhow::Result<()> {
    failpoint::check().map_err(anyhow::Error::msg)?;
    let broker = &settings.broker;
    let trust = Trust::read(broker.ca_file.as_deref())?;
    let endpoints = (broker.amqp_url.expose())
        .map(|url| Endpoint::new(url, broker.connect_timeout).map(|endpoint| endpoint.trusting(&trust)))
        .collect::<Result<Vec<_>, _>>()?;
    let vhost = endpoints.first().map(Endpoint::vhost).unwrap_or_default();
    let management = match &broker.management_url {
        Some(urls) => Some(Management::new(urls.expose(), vhost, &trust)?),
        None => None,
    };
    let mirror = Mirror::open(&settings.mirror.url).await?;
    let gate = who::gate(&settings, &mirror).await?;
    let rules = who::listener(&settings.http)?;
    let listen = settings.http.listen;
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("http.listen: cannot listen on {listen}"))?;
    let status = Arc::new(Status::default());
    let wakes = Arc::new(Wakes::default());
    let keeper = Keeper::start(&settings.definitions.dir, &mirror, &wakes, &status).await?;
    let live = keeper.live();
    tracing::info!(
        queues = live.definitions().queues.len(),
        mirror = settings.mirror.url,
        http = %listener.local_addr()?,
        "warrend {} starts",
        env!("CARGO_PKG_VERSION")
    );

    let stop = stop_on_signal()?;
    let context = Context {
        mirror: mirror.clone(),
        live: live.clone(),
        names: Names::new(&settings.broker.prefix),
        status: Arc::clone(&status),
        wakes: Arc::clone(&wakes),
        replies: Arc::new(Replies::new(settings.replies.allow.clone())),
        report_grace: settings.control.report_grace,
        confirm_timeout: settings.broker.confirm_timeout,
    };

    let mut crew = Crew::default();
    let doors_close = CancellationToken::new();
    let counted = metrics::install();
    let desk = Desk::default();
    let feed = Feed::new(mirror.clone(), stop.clone());
    let outward = outward(&settings, &context)?;
    let telling = (feed.clone(), outward.clone());
    let api = http::Api::new(context.clone(), keeper.clone(), desk.clone(), counted.clone(), gate.clone(), telling);
    if let Some(tls) = rules.tls.clone() {
        let followed = tls.follow(stop.clone());
        crew.spawn("certificate", async move {
            followed.await;
            Ok::<(), anyhow::Error>(())
        });
    }
    let served = http::serve(api, listener, rules, doors_close.clone());
    crew.spawn("http", async move {
        served.await;
        Ok::<(), anyhow::Error>(())
    });
    let noted = who::note_uses(gate, mirror.clone(), stop.clone());
    crew.spawn("tokens", async move {
        noted.await;
        Ok::<(), anyhow::Error>(())
    });
    crew.spawn("feed", async move {
        feed.run().await;
        Ok::<(), anyhow::Error>(())
    });
    let told = outward.run(stop.clone());
    crew.spawn("outward", async move {
        told.await;
        Ok::<(), anyhow::Error>(())
    });
    let purge = retention::run(mirror.clone(), live.clone(), stop.clone());
    crew.spawn("retention", async move {
        purge.await;
        Ok::<(), anyhow::Error>(())
    });
    let forgets = forget::run(mirror.clone(), stop.clone());
    crew.spawn("forget", async move {
        forgets.await;
        Ok::<(), anyhow::Error>(())
    });
    let forgetting = keys::run(mirror.clone(), stop.clone());
    crew.spawn("idempotency keys", async move {
        forgetting.await;
        Ok::<(), anyhow::Error>(())
    });
    let clock = timers::run(mirror.clone(), live, wakes, stop.clone());
    crew.spawn("timers", async move {
        clock.await;
        Ok::<(), anyhow::Error>(())
    });
    let timeouts = timeouts::run(context.clone(), stop.clone());
    crew.spawn("timeouts", async move {
        timeouts.await;
        Ok::<(), anyhow::Error>(())
    });
    let jobs = actions::run(context.clone(), stop.clone());
    crew.spawn("actions", async move {
        jobs.await;
        Ok::<(), anyhow::Error>(())
    });
    let ends = leases::run(context.clone(), stop.clone());
    crew.spawn("leases", async move {
        ends.await;
        Ok::<(), anyhow::Error>(())
    });
    let claims = claims::run(context.clone(), stop.clone());
    crew.spawn("claims", async move {
        claims.await;
        Ok::<(), anyhow::Error>(())
    });
    let watched = keeper.run(stop.clone());
    crew.spawn("definitions", async move {
        watched.await;
        Ok::<(), anyhow::Error>(())
    });
    let end = stop.clone();
    crew.spawn("metrics", async move {
        while end.run_until_cancelled(tokio::time::sleep(UPKEEP)).await.is_some() {
            counted.upkeep();
        }
        Ok::<(), anyhow::Error>(())
    });
    let control = &settings.control;
    let rules = Rules {
        period: control.reconcile_period,
        gap: control.observation_gap,
        patience: control.migration_patience,
        repair: control.drift == Drift::Repair,
    };
    let conductor = Conductor::new(context.clone(), management.clone(), rules, settings.tap.max_bytes, desk);
    let conductor = Arc::new(tokio::sync::Mutex::new(conductor));
    let broker = BrokerSide { context, endpoints, management, conductor, settings: settings.clone() };
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

/// The way to webhooks, and of notices.
fn outward(settings: &Settings, context: &Context) -> anyhow::Result<Outward> {
    let post = match &settings.smtp {
        Some(smtp) => {
            let url = url::Url::parse(smtp.url.first()).context("smtp.url")?;
            Some(Post::new(&url, &smtp.from).map_err(anyhow::Error::msg)?)
        }
        None => None,
    };
    let allowed = Allowed { private: settings.webhooks.allow_private, http: settings.webhooks.allow_http };
    Ok(Outward {
        mirror: context.mirror.clone(),
        live: context.live.clone(),
        status: Arc::clone(&context.status),
        wakes: Arc::clone(&context.wakes),
        sender: Sender::new(allowed),
        post,
        secrets: settings.notify.secret.iter().map(|secret| secret.expose().to_owned()).collect(),
        bells: Arc::default(),
    })
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
