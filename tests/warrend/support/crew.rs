//! Robots that work beside a test until it dismisses them, and a producer that does not stop sending.

#![allow(dead_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lapin::message::Delivery;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::amqp::{Client, id, int_header, reference};
use super::broker::Vhost;

/// How a robot ends a delivery.
pub enum Ending {
    /// Reports `processed`, then acks.
    Processed,
    /// Reports `business_exception` with this code, then rejects.
    Business(String),
    /// Reports `it_exception`, then acks.
    ItException,
    /// Rejects without a word.
    BareReject,
    /// Acks without a word.
    AckOnly,
}

/// What a robot had in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub id: String,
    pub attempt: Option<i64>,
    pub reference: String,
}

/// Robots of one queue, each with a connection of its own.
pub struct Crew {
    stop: CancellationToken,
    robots: JoinSet<Vec<Seen>>,
    settled: Arc<AtomicUsize>,
}

impl Crew {
    /// `ending` decides over each delivery.
    pub async fn hire(vhost: &Vhost, queue: &str, robots: usize, ending: fn(&Delivery) -> Ending) -> Self {
        let mut crew = Self { stop: CancellationToken::new(), robots: JoinSet::new(), settled: Arc::default() };
        for _ in 0..robots {
            let client = Client::connect(vhost).await;
            let mut robot = client.robot(queue).await;
            let (stop, settled) = (crew.stop.clone(), Arc::clone(&crew.settled));
            crew.robots.spawn(async move {
                let _connection = client;
                let mut seen = Vec::new();
                while let Some(delivery) = robot.next_until(&stop).await {
                    match ending(&delivery) {
                        Ending::Processed => robot.done(&delivery).await,
                        Ending::Business(code) => {
                            let why = json!({"code": code, "reason": "this robot says so"});
                            robot.report(&delivery, "business_exception", &why).await;
                            robot.reject(&delivery).await;
                        }
                        Ending::ItException => {
                            robot.report(&delivery, "it_exception", &json!({"reason": "try again"})).await;
                            robot.ack(&delivery).await;
                        }
                        Ending::BareReject => robot.reject(&delivery).await,
                        Ending::AckOnly => robot.ack(&delivery).await,
                    }
                    seen.push(Seen {
                        id: id(&delivery),
                        attempt: int_header(&delivery, "wq-attempt"),
                        reference: reference(&delivery),
                    });
                    settled.fetch_add(1, Ordering::Relaxed);
                }
                seen
            });
        }
        crew
    }

    /// Deliveries that were settled so far.
    pub fn settled(&self) -> usize {
        self.settled.load(Ordering::Relaxed)
    }

    /// Ends them and answers what they had in hand. Fails where a robot failed.
    pub async fn dismiss(mut self) -> Vec<Seen> {
        self.stop.cancel();
        let mut seen = Vec::new();
        while let Some(robot) = self.robots.join_next().await {
            seen.extend(robot.expect("the robot did its work"));
        }
        seen
    }
}

/// A producer that sends rounds of items, one to each of its queues per round, each confirmed before the next, as far
/// as it was allowed to. References are `<queue>-<round>`, counted from 0.
pub struct Producer {
    allowed: Arc<Semaphore>,
    sent: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Producer {
    pub async fn start(vhost: &Vhost, queues: &[&str], rounds: usize) -> Self {
        let client = Client::connect(vhost).await;
        let allowed = Arc::new(Semaphore::new(0));
        let (progress, sent) = watch::channel(0);
        let queues: Vec<String> = queues.iter().map(ToString::to_string).collect();
        let permits = Arc::clone(&allowed);
        let task = tokio::spawn(async move {
            for round in 0..rounds {
                permits.acquire().await.expect("open").forget();
                for queue in &queues {
                    client.send(queue, &format!("{queue}-{round}"), &json!({"round": round})).await;
                }
                progress.send_replace(round + 1);
            }
        });
        Self { allowed, sent, task }
    }

    /// Lets it send so many rounds more.
    pub fn allow(&self, rounds: usize) {
        self.allowed.add_permits(rounds);
    }

    /// Waits until so many rounds are confirmed.
    pub async fn has_sent(&mut self, rounds: usize) {
        self.sent.wait_for(|sent| *sent >= rounds).await.expect("the producer goes on");
    }

    /// Lets it send the rest and waits for the last confirm.
    pub async fn finish(self) {
        self.allowed.add_permits(1_000_000);
        self.task.await.expect("everything was confirmed");
    }
}
