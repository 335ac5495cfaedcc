//! The two doors beside each other: the same items let in, claimed and reported over AMQP and over HTTP.
//!
//! Each measurement has a daemon and a virtual host of its own. What is timed over AMQP ends once the mirror knows of every
//! item, as every answer over HTTP does.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use lapin::options::{BasicAckOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Connection};
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;

use super::BenchError;
use super::daemon::Daemon;
use super::load::{Stopwatch, WINDOW, connect, consume, open_channel, taken};
use super::numbers::{median, percentile, ratio, rounded};
use super::site::{Site, Vhost};
use super::stage::QUEUE;
use crate::topology::names::Names;

/// Robots that work at once, and over HTTP each with a connection of its own.
pub const CLIENTS: u32 = 16;

/// Rows of one request.
pub const ROWS: u32 = 500;

/// What is done at a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    /// Let in.
    Enqueue,
    /// Taken and reported processed, one by one.
    Work,
}

/// Which door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Amqp,
    Http,
}

/// What is measured, in the order of a round.
pub(super) const MEASURED: [(Deed, Door); 4] =
    [(Deed::Enqueue, Door::Amqp), (Deed::Enqueue, Door::Http), (Deed::Work, Door::Amqp), (Deed::Work, Door::Http)];

/// For progress and errors.
pub(super) fn name((deed, door): (Deed, Door)) -> String {
    format!("{} over {}", deed.name(), door.name())
}

impl Deed {
    const fn name(self) -> &'static str {
        match self {
            Self::Enqueue => "enqueue",
            Self::Work => "work",
        }
    }
}

impl Door {
    const fn name(self) -> &'static str {
        match self {
            Self::Amqp => "amqp",
            Self::Http => "http",
        }
    }
}

/// One deed at one door in one round; calls in microseconds.
pub(super) struct Passed {
    items_per_second: f64,
    /// Of one publish and its confirm, of one request with [`ROWS`] rows, of one wait for an item.
    calls: Vec<u64>,
    /// Of one report: to its confirm, or to its answer.
    reports: Vec<u64>,
}

/// One deed at one door over all rounds.
#[derive(Debug, Serialize)]
pub struct DoorLine {
    /// `enqueue` or `work`.
    pub deed: &'static str,
    /// `amqp` or `http`.
    pub door: &'static str,
    /// The median of the rounds. Of `work` as many claims and as many reports.
    pub items_per_second: Option<f64>,
    /// To the same deed over AMQP.
    pub to_amqp: Option<f64>,
    /// Milliseconds that one call took: a publish with its confirm, a request of many rows, the wait for an item.
    pub call_p50_ms: Option<f64>,
    pub call_p99_ms: Option<f64>,
    /// Milliseconds from a report to its confirm, or its answer.
    pub report_p50_ms: Option<f64>,
    pub report_p99_ms: Option<f64>,
}

/// The lines of what was measured.
pub(super) fn lines(passed: &[((Deed, Door), Passed)]) -> Vec<DoorLine> {
    let of = |wanted: (Deed, Door)| passed.iter().filter(move |(what, _)| *what == wanted).map(|(_, passed)| passed);
    let rate = |what| median(&of(what).map(|passed| passed.items_per_second).collect::<Vec<_>>());
    let line = |(deed, door): (Deed, Door)| {
        let times = |which: fn(&Passed) -> &Vec<u64>| {
            let mut times: Vec<u64> = of((deed, door)).flat_map(which).copied().collect();
            times.sort_unstable();
            move |per_mille| percentile(&times, per_mille).map(milliseconds)
        };
        let (calls, reports) = (times(|passed| &passed.calls), times(|passed| &passed.reports));
        DoorLine {
            deed: deed.name(),
            door: door.name(),
            items_per_second: rate((deed, door)).map(rounded),
            to_amqp: ratio(rate((deed, door)), rate((deed, Door::Amqp))).map(rounded),
            call_p50_ms: calls(500),
            call_p99_ms: calls(990),
            report_p50_ms: reports(500),
            report_p99_ms: reports(990),
        }
    };
    MEASURED.into_iter().map(line).collect()
}

fn milliseconds(micros: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes")]
    let micros = micros as f64;
    rounded(micros / 1000.0)
}

/// Measures one deed at one door.
pub(super) async fn pass(
    site: &Site,
    executable: &Path,
    (deed, door): (Deed, Door),
    items: u32,
    size: usize,
) -> Result<Passed, BenchError> {
    let vhost = site.vhost().await?;
    let definition = format!("queue: {QUEUE}\nwindow: {WINDOW}\n");
    let mut daemon = Daemon::start(executable, &vhost, &definition).await?;
    let passed = match (deed, door) {
        (Deed::Enqueue, Door::Amqp) => publish(&vhost, &mut daemon, items, size).await?,
        (Deed::Enqueue, Door::Http) => enqueue(&daemon, items, size).await?,
        (Deed::Work, Door::Amqp) => {
            publish(&vhost, &mut daemon, items, size).await?;
            robots(&vhost, &mut daemon, items).await?
        }
        (Deed::Work, Door::Http) => {
            publish(&vhost, &mut daemon, items, size).await?;
            claimers(&daemon, items).await?
        }
    };
    daemon.stop().await?;
    site.delete(&vhost.name).await?;
    Ok(passed)
}

fn rate(items: u32, time: Duration) -> f64 {
    f64::from(items) / time.as_secs_f64()
}

fn payload(size: usize) -> String {
    "x".repeat(size.saturating_sub(2))
}

/// Publishes all with confirms, and waits until the mirror has them.
async fn publish(vhost: &Vhost, daemon: &mut Daemon, items: u32, size: usize) -> Result<Passed, BenchError> {
    let connection = connect(vhost).await?;
    let channel = confirming(&connection).await?;
    let body = json!(payload(size)).to_string();
    let exchange = Names::new("wq").items();
    let watch = Stopwatch::start();
    let calls = stream::iter(0..items)
        .map(|number| {
            let (channel, exchange, body) = (&channel, &exchange, &body);
            async move {
                let began = watch.micros();
                let properties = BasicProperties::default()
                    .with_delivery_mode(2)
                    .with_content_type("application/json".into())
                    .with_message_id(format!("item-{number}").into());
                send(channel, exchange, QUEUE, body.as_bytes(), properties).await?;
                Ok::<_, BenchError>(watch.micros() - began)
            }
        })
        .buffer_unordered(WINDOW.into())
        .try_collect()
        .await?;
    daemon.wait_for_items(QUEUE, items, false).await?;
    let items_per_second = rate(items, watch.time());
    close(connection).await?;
    Ok(Passed { items_per_second, calls, reports: Vec::new() })
}

async fn confirming(connection: &Connection) -> Result<Channel, BenchError> {
    let channel = open_channel(connection).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(BenchError::amqp("switch confirms on"))?;
    Ok(channel)
}

async fn send(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Result<(), BenchError> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let confirm = channel.basic_publish(exchange.into(), key.into(), options, body, properties).await;
    let confirmed = confirm.map_err(BenchError::amqp("publish"))?.await.map_err(BenchError::amqp("wait for a confirm"));
    if confirmed?.is_nack() {
        return Err(BenchError::Failed("the broker did not take a message".to_owned()));
    }
    Ok(())
}

async fn close(connection: Connection) -> Result<(), BenchError> {
    connection.close(200, "done".into()).await.map_err(BenchError::amqp("close a connection"))
}

/// Posts all as NDJSON, [`ROWS`] at a time, over four connections: more would wait for the one writer of the mirror.
async fn enqueue(daemon: &Daemon, items: u32, size: usize) -> Result<Passed, BenchError> {
    let body = payload(size);
    let path = format!("/api/v1/queues/{QUEUE}/items");
    let watch = Stopwatch::start();
    let numbers: Vec<u32> = (0..items).collect();
    let chunks: Vec<String> = numbers
        .chunks(ROWS as usize)
        .map(|rows| {
            let row = |number: &u32| format!("{}\n", json!({"payload": body, "reference": format!("item-{number}")}));
            rows.iter().map(row).collect()
        })
        .collect();
    let calls = stream::iter(chunks)
        .map(|rows| {
            let path = &path;
            async move {
                let began = watch.micros();
                daemon.door().post(path, "application/x-ndjson", rows).await?;
                Ok::<_, BenchError>(watch.micros() - began)
            }
        })
        .buffer_unordered(4)
        .try_collect()
        .await?;
    Ok(Passed { items_per_second: rate(items, watch.time()), calls, reports: Vec::new() })
}

/// What one robot timed, in microseconds: its waits and its reports.
type Timed = (Vec<u64>, Vec<u64>);

async fn all(mut robots: JoinSet<Result<Timed, BenchError>>) -> Result<Timed, BenchError> {
    let (mut calls, mut reports) = (Vec::new(), Vec::new());
    while let Some(done) = robots.join_next().await {
        let (own_calls, own_reports) =
            done.map_err(|error| BenchError::Failed(format!("a robot broke: {error}")))??;
        calls.extend(own_calls);
        reports.extend(own_reports);
    }
    Ok((calls, reports))
}

/// Robots with prefetch 1, that report with confirm and then ack.
async fn robots(vhost: &Vhost, daemon: &mut Daemon, items: u32) -> Result<Passed, BenchError> {
    let names = Names::new("wq");
    let left = Arc::new(AtomicU32::new(items));
    let done = tokio_util::sync::CancellationToken::new();
    let connection = connect(vhost).await?;
    let mut working = JoinSet::new();
    let watch = Stopwatch::start();
    for _ in 0..CLIENTS {
        let channel = confirming(&connection).await?;
        let mut consumer = consume(&channel, &names.robots(QUEUE), 1).await?;
        let (left, done, exchange) = (Arc::clone(&left), done.clone(), names.outcomes());
        working.spawn(async move {
            let (mut calls, mut reports) = (Vec::new(), Vec::new());
            loop {
                let began = watch.micros();
                let delivery = tokio::select! {
                    () = done.cancelled() => return Ok((calls, reports)),
                    delivery = consumer.next() => taken(delivery)?,
                };
                calls.push(watch.micros() - began);
                let began = watch.micros();
                let properties = BasicProperties::default()
                    .with_type("processed".into())
                    .with_delivery_mode(2)
                    .with_correlation_id(delivery.properties.message_id().clone().unwrap_or_default())
                    .with_headers(delivery.properties.headers().clone().unwrap_or_default());
                send(&channel, &exchange, QUEUE, b"{}", properties).await?;
                reports.push(watch.micros() - began);
                delivery.ack(BasicAckOptions::default()).await.map_err(BenchError::amqp("ack"))?;
                if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                    done.cancel();
                }
            }
        });
    }
    let (calls, reports) = all(working).await?;
    daemon.wait_for_items(QUEUE, items, true).await?;
    let items_per_second = rate(items, watch.time());
    close(connection).await?;
    Ok(Passed { items_per_second, calls, reports })
}

/// Robots that claim one item at a time and report it.
async fn claimers(daemon: &Daemon, items: u32) -> Result<Passed, BenchError> {
    let left = Arc::new(AtomicU32::new(items));
    let mut working = JoinSet::new();
    let watch = Stopwatch::start();
    for number in 0..CLIENTS {
        let (door, left) = (daemon.new_door()?, Arc::clone(&left));
        working.spawn(async move {
            let (mut calls, mut reports) = (Vec::new(), Vec::new());
            let claim = json!({"worker": format!("robot-{number}"), "wait": "1s", "lease": "1m"}).to_string();
            while left.load(Ordering::Relaxed) > 0 {
                let began = watch.micros();
                let claimed = door.post(&format!("/api/v1/queues/{QUEUE}/claim"), JSON, claim.clone()).await?;
                let Some(item) = claimed["items"][0]["id"].as_str() else { continue };
                calls.push(watch.micros() - began);
                let began = watch.micros();
                let report = json!({"type": "processed", "lease": claimed["lease"]}).to_string();
                door.post(&format!("/api/v1/items/{item}/outcome"), JSON, report).await?;
                reports.push(watch.micros() - began);
                left.fetch_sub(1, Ordering::Relaxed);
            }
            Ok((calls, reports))
        });
    }
    let (calls, reports) = all(working).await?;
    Ok(Passed { items_per_second: rate(items, watch.time()), calls, reports })
}

const JSON: &str = "application/json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_deed_is_compared_with_the_same_over_amqp() {
        let passed = |items_per_second: f64, calls: &[u64]| Passed {
            items_per_second,
            calls: calls.to_vec(),
            reports: Vec::new(),
        };
        let lines = lines(&[
            ((Deed::Enqueue, Door::Amqp), passed(1000.0, &[1000])),
            ((Deed::Enqueue, Door::Http), passed(500.0, &[3000, 1000])),
            ((Deed::Enqueue, Door::Http), passed(700.0, &[2000])),
        ]);
        let told: Vec<_> = lines.iter().map(|line| (line.deed, line.door, line.to_amqp, line.call_p50_ms)).collect();
        assert_eq!(
            told,
            [
                ("enqueue", "amqp", Some(1.0), Some(1.0)),
                ("enqueue", "http", Some(0.6), Some(2.0)),
                ("work", "amqp", None, None),
                ("work", "http", None, None),
            ]
        );
    }
}
