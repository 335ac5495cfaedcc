//! One queue under work while something is done to it: a producer that does not rest and one robot that keeps the order in
//! which it saw things. Both go on whatever happens to the queue.

#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::amqp::{id, int_header, reference};
use super::broker::Vhost;
use super::daemon::{Daemon, PATIENCE};
use super::stubborn::{Sent, connected, publish, report_properties, unless_lost};

/// Priorities that items have in turn.
pub const PRIORITIES: [u8; 3] = [1, 4, 8];

/// Between two items of a producer: a load, not a flood.
const PACE: Duration = Duration::from_millis(5);

/// How far a producer may run ahead of its robot: what is left in the end is finite, however slow the machine.
pub const AHEAD: usize = 400;

pub struct Belt {
    vhost: Arc<Vhost>,
    queue: String,
    /// Items that the producer may still send; closed when it is enough.
    allowed: Arc<Semaphore>,
    dismissed: CancellationToken,
    confirmed: watch::Receiver<usize>,
    producer: Option<JoinHandle<()>>,
    robot: Option<JoinHandle<Vec<Seen>>>,
    worked: watch::Sender<usize>,
    elsewhere: BTreeSet<usize>,
    /// As it was last looked at, for a test that fails.
    last: std::sync::Mutex<String>,
}

impl Drop for Belt {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}, {} confirmed: {}", self.queue, *self.confirmed.borrow(), self.last.lock().unwrap());
        }
    }
}

/// A delivery, and when it came.
pub struct Seen {
    pub number: usize,
    pub at: Instant,
    pub delivery: Delivery,
}

impl Belt {
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Somebody else worked this one off.
    pub fn had(&mut self, delivery: &Delivery) {
        self.elsewhere.insert(number(delivery));
    }

    /// A backlog of so many items, confirmed.
    pub async fn filled(vhost: &Arc<Vhost>, queue: &str, backlog: usize) -> Self {
        let (_connection, channel) = connected(vhost).await;
        for number in 0..backlog {
            assert_eq!(send(&channel, queue, number, properties(queue, number)).await, Sent::Confirmed);
        }
        Self {
            vhost: Arc::clone(vhost),
            queue: queue.to_owned(),
            allowed: Arc::new(Semaphore::new(AHEAD)),
            dismissed: CancellationToken::new(),
            confirmed: watch::channel(backlog).1,
            producer: None,
            robot: None,
            worked: watch::channel(0).0,
            elsewhere: BTreeSet::new(),
            last: std::sync::Mutex::default(),
        }
    }

    /// One more item, with properties of its own.
    pub async fn put(&mut self, properties: BasicProperties) -> usize {
        let (_connection, channel) = connected(&self.vhost).await;
        let number = *self.confirmed.borrow();
        assert_eq!(send(&channel, &self.queue, number, properties).await, Sent::Confirmed);
        self.confirmed = watch::channel(number + 1).1;
        number
    }

    /// A producer goes on from here.
    pub fn produce(&mut self) {
        let (vhost, queue, allowed) = (Arc::clone(&self.vhost), self.queue.clone(), Arc::clone(&self.allowed));
        let first = *self.confirmed.borrow();
        let (progress, confirmed) = watch::channel(first);
        self.confirmed = confirmed;
        self.producer = Some(tokio::spawn(async move {
            let (_connection, channel) = connected(&vhost).await;
            for number in first.. {
                let Ok(permit) = allowed.acquire().await else { return };
                permit.forget();
                assert_eq!(send(&channel, &queue, number, properties(&queue, number)).await, Sent::Confirmed);
                progress.send_replace(number + 1);
                tokio::time::sleep(PACE).await;
            }
        }));
    }

    /// A robot starts. `pace` is how long each item takes it.
    pub fn work(&mut self, pace: Duration) {
        let (vhost, queue) = (Arc::clone(&self.vhost), self.queue.clone());
        let (dismissed, worked, allowed) = (self.dismissed.clone(), self.worked.clone(), Arc::clone(&self.allowed));
        let worked = move || {
            worked.send_modify(|worked| *worked += 1);
            allowed.add_permits(1);
        };
        self.robot = Some(tokio::spawn(async move { work(&vhost, &queue, pace, &dismissed, worked).await }));
    }

    /// Waits until so many more items are confirmed.
    pub async fn confirms(&mut self, more: usize) {
        let goal = *self.confirmed.borrow_and_update() + more;
        self.allowed.add_permits(more);
        let reached = tokio::time::timeout(PATIENCE, self.confirmed.wait_for(|confirmed| *confirmed >= goal)).await;
        drop(reached.expect("items are confirmed in time").expect("the producer goes on"));
    }

    /// Waits until the robot is through with so many more.
    pub async fn works(&self, more: usize) {
        let mut worked = self.worked.subscribe();
        let goal = *worked.borrow_and_update() + more;
        let reached = tokio::time::timeout(PATIENCE, worked.wait_for(|worked| *worked >= goal)).await;
        drop(reached.expect("the robot works on in time").expect("the robot goes on"));
    }

    /// Ends the producer; answers how many items were confirmed.
    pub async fn enough(&mut self) -> usize {
        self.allowed.close();
        if let Some(producer) = self.producer.take() {
            producer.await.expect("everything was confirmed");
        }
        *self.confirmed.borrow()
    }

    /// Dismisses the robot in the middle of its work: what it saw, and how many of these it acked.
    pub async fn leave(mut self) -> (Vec<Seen>, usize) {
        self.dismissed.cancel();
        let seen = self.robot.take().expect("it worked").await.expect("the robot did its work");
        (seen, *self.worked.borrow())
    }

    /// Ends the producer, waits until all is worked off, and dismisses the robot: what it saw first of each item.
    pub async fn finish(mut self, daemon: &Daemon) -> Vec<Seen> {
        let confirmed = self.enough().await;
        let robots = format!("/api/queues/{{vhost}}/wq.q.{}", self.queue);
        daemon
            .wait_until(&format!("all of {} is done", self.queue), async |daemon: &Daemon| {
                let shown = daemon.queue(&self.queue).await;
                *self.last.lock().unwrap() = format!("{shown} {}", *self.worked.borrow());
                let open = |state: &str| shown["counts"][state].as_u64().expect("a count");
                let there = daemon.vhost.try_management("GET", &robots, None).await.1;
                open("queued") + open("processing") == 0
                    && shown["unaccounted"] == 0
                    && there["messages"] == 0
                    && *self.worked.borrow() + self.elsewhere.len() >= confirmed
            })
            .await;
        self.dismissed.cancel();
        let mut seen = self.robot.take().expect("it worked").await.expect("the robot did its work");
        let mut told: BTreeMap<usize, (String, Option<i64>)> = BTreeMap::new();
        for seen in &seen {
            let this = (id(&seen.delivery), int_header(&seen.delivery, "wq-attempt"));
            let first = told.entry(seen.number).or_insert_with(|| this.clone());
            assert_eq!(*first, this, "a repeat carries the same id and attempt");
        }
        let all: BTreeSet<usize> = told.keys().copied().chain(std::mem::take(&mut self.elsewhere)).collect();
        let lost: Vec<usize> = (0..confirmed).filter(|number| !all.contains(number)).collect();
        assert_eq!(lost, [] as [usize; 0], "{} items of {} were confirmed and never seen", lost.len(), self.queue);
        let repeats = seen.len() - told.len();
        let mut known = BTreeSet::new();
        seen.retain(|seen| known.insert(seen.number));
        if repeats > 0 {
            eprintln!("{}: the robot saw {repeats} repeats among {} items", self.queue, seen.len());
        }
        seen
    }
}

fn properties(queue: &str, number: usize) -> BasicProperties {
    BasicProperties::default()
        .with_message_id(format!("{queue}-{number}").into())
        .with_priority(PRIORITIES[number % PRIORITIES.len()])
}

async fn send(channel: &Channel, queue: &str, number: usize, properties: BasicProperties) -> Sent {
    publish(channel, "wq.items", queue, properties, format!("{{\"number\": {number}}}").as_bytes()).await
}

fn number(delivery: &Delivery) -> usize {
    let body: serde_json::Value = serde_json::from_slice(&delivery.data).expect("JSON");
    body["number"].as_u64().and_then(|number| usize::try_from(number).ok()).expect("a number")
}

async fn work(
    vhost: &Arc<Vhost>,
    queue: &str,
    pace: Duration,
    dismissed: &CancellationToken,
    worked: impl Fn(),
) -> Vec<Seen> {
    let mut seen = Vec::new();
    let (mut connection, mut channel) = connected(vhost).await;
    while !dismissed.is_cancelled() {
        if !channel.status().connected() {
            (connection, channel) = connected(vhost).await;
        }
        let robots = format!("wq.q.{queue}");
        let options = BasicConsumeOptions::default();
        let consuming = channel.basic_consume(robots.as_str().into(), "".into(), options, FieldTable::default());
        let Some(mut consumer) = unless_lost(&channel, consuming).await else { continue };
        loop {
            let delivery = tokio::select! {
                biased;
                () = dismissed.cancelled() => return seen,
                delivery = unless_lost(&channel, async { consumer.next().await.transpose() }) => delivery,
            };
            // A `basic.cancel` ends the consumer.
            let Some(Some(delivery)) = delivery else { break };
            let at = Instant::now();
            tokio::time::sleep(pace).await;
            if delivery.properties.message_id().is_some() {
                let properties = report_properties(&delivery, "processed", "belt");
                let reported = publish(&channel, "wq.outcomes", queue, properties, b"{}").await;
                assert_eq!(reported, Sent::Confirmed);
            }
            let acker = delivery.acker.clone();
            seen.push(Seen { number: number(&delivery), at, delivery });
            if unless_lost(&channel, acker.ack(BasicAckOptions::default())).await != Some(true) {
                break;
            }
            worked();
        }
    }
    drop(connection);
    seen
}

/// Inside a priority everything came in the order in which it was confirmed; `but_for` may have been overtaken.
pub fn in_order(queue: &str, seen: &[Seen], but_for: usize) {
    let mut late = Vec::new();
    let mut last: BTreeMap<u8, usize> = BTreeMap::new();
    for seen in seen {
        let last = last.entry(seen.delivery.properties.priority().unwrap_or(0)).or_insert(seen.number);
        if seen.number < *last {
            late.push(format!("{} after {last}", seen.number));
        }
        *last = seen.number.max(*last);
    }
    if !late.is_empty() {
        eprintln!("{queue}: {} of {} items were overtaken", late.len(), seen.len());
    }
    assert!(late.len() <= but_for, "{queue}: {} of {} items were overtaken: {late:?}", late.len(), seen.len());
}

/// The longest time in which the robot got nothing.
pub fn longest_pause(seen: &[Seen]) -> Duration {
    seen.windows(2).map(|two| two[1].at - two[0].at).max().unwrap_or_default()
}

/// Each of these references has one row, and it was done in its first attempt.
pub async fn balances(daemon: &Daemon, queue: &str, seen: &[Seen]) {
    let items = daemon.items(&format!("queue={queue}")).await;
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    for item in &items {
        *rows.entry(item["reference"].as_str().expect("each has one")).or_default() += 1;
        let fine = item["state"] == "processed" && item["attempt"] == 1 && item["retries"] == 0;
        assert!(fine && item["ran_anyway"] == false, "{item}");
    }
    let doubled: Vec<_> = rows.iter().filter(|(_, rows)| **rows > 1).collect();
    assert!(doubled.is_empty(), "more than one row: {doubled:?}");
    let missing: Vec<String> = (seen.iter())
        .filter(|seen| seen.delivery.properties.message_id().is_some())
        .map(|seen| reference(&seen.delivery))
        .filter(|reference| !rows.contains_key(reference.as_str()))
        .collect();
    assert!(missing.is_empty(), "no row of {missing:?}");
}
