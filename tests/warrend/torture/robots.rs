//! Robots of every habit the contract knows (docs/amqp.md), good and bad. Each notes what it had in hand and what it did.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicRejectOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::history::{Hand, History, Outcome, Release, What};
use super::pick;
use crate::support::amqp::{id, int_header};
use crate::support::broker::Vhost;
use crate::support::stubborn::{Sent, connected, publish, report_properties, unless_lost};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Reports `processed`, acks.
    Good,
    /// Reports `processed`, rejects: the reject adds nothing.
    GoodThenReject,
    /// Reports `started`, then as `Good`.
    Started,
    Business,
    BusinessThenReject,
    /// `it_exception`, which is retried.
    It,
    Generic,
    BareReject,
    /// Acks without a word.
    AckOnly,
    /// Acks, and reports afterwards.
    LateAfterAck,
    /// Rejects, and reports a business exception when a retry may be out already.
    LateAfterReject,
    /// Nacks with requeue.
    Nack,
    /// Dies with the delivery in hand.
    Die,
    /// Says `started`, then dies.
    StartedThenDie,
    /// Holds its delivery a while, then dies.
    Hang,
    /// Reports `processed` twice.
    Twice,
    /// Reports `it_exception`, then `processed`: work done counts.
    Contradict,
    Requeue,
    RequeueLater,
    Hold,
}

/// How often each habit shows, where every delivery is reported about.
const SPEAKING: &[(Habit, u32)] = &[
    (Habit::Good, 40),
    (Habit::GoodThenReject, 5),
    (Habit::Started, 8),
    (Habit::Business, 5),
    (Habit::BusinessThenReject, 5),
    (Habit::It, 9),
    (Habit::Generic, 4),
    (Habit::BareReject, 6),
    (Habit::LateAfterReject, 4),
    (Habit::Nack, 4),
    (Habit::Die, 5),
    (Habit::StartedThenDie, 3),
    (Habit::Hang, 2),
    (Habit::Twice, 5),
    (Habit::Contradict, 3),
    (Habit::Requeue, 4),
    (Habit::RequeueLater, 4),
    (Habit::Hold, 4),
];

/// Where acks without a word are the custom.
const SILENT: &[(Habit, u32)] = &[
    (Habit::Good, 30),
    (Habit::AckOnly, 30),
    (Habit::LateAfterAck, 20),
    (Habit::It, 8),
    (Habit::BareReject, 4),
    (Habit::Die, 4),
];

/// A delivery without `message-id` cannot be reported about.
const NAMELESS: &[(Habit, u32)] = &[(Habit::AckOnly, 80), (Habit::BareReject, 10), (Habit::Die, 5), (Habit::Nack, 5)];

/// One in so many items is poison.
const POISON: u32 = 50;

pub struct Robot {
    pub name: String,
    pub vhost: Arc<Vhost>,
    pub history: Arc<History>,
    pub queue: &'static str,
    /// Some items are the death of every robot, until the broker gives them up. (A classic queue never does.)
    pub some_are_poison: bool,
    /// Some of its acks go without a report.
    pub silent: bool,
    pub random: fastrand::Rng,
    /// From then on it reports every delivery `processed` and acks.
    pub well_behaved: CancellationToken,
    pub stop: CancellationToken,
}

/// Whether a robot keeps its connection.
#[derive(PartialEq, Eq)]
enum After {
    GoesOn,
    Reconnects,
}

impl Robot {
    pub async fn run(mut self) {
        while !self.stop.is_cancelled() {
            let (_connection, channel) = tokio::select! {
                line = connected(&self.vhost) => line,
                () = self.stop.cancelled() => return,
            };
            let (queue, options) = (format!("wq.q.{}", self.queue), BasicConsumeOptions::default());
            let consuming = channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default());
            let Some(mut consumer) = unless_lost(&channel, consuming).await else { continue };
            let stop = self.stop.clone();
            loop {
                let next = async { consumer.next().await.transpose() };
                let delivery = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    delivery = unless_lost(&channel, next) => delivery,
                };
                let Some(Some(delivery)) = delivery else { break };
                if self.handle(&channel, &delivery).await == After::Reconnects {
                    break;
                }
            }
        }
    }

    async fn handle(&mut self, channel: &Channel, delivery: &Delivery) -> After {
        let hand = Hand {
            robot: self.name.clone(),
            queue: self.queue.to_owned(),
            id: Some(id(delivery)).filter(|id| !id.is_empty()),
            attempt: int_header(delivery, "wq-attempt"),
        };
        let habit = self.habit(hand.id.is_some(), &delivery.data);
        self.history.note(What::Delivered {
            hand: hand.clone(),
            body: String::from_utf8_lossy(&delivery.data).into_owned(),
            redelivered: delivery.redelivered,
            habit: format!("{habit:?}"),
        });
        Grip { robot: self, channel, delivery, hand }.act(habit).await
    }

    fn habit(&mut self, can_report: bool, body: &[u8]) -> Habit {
        let calm = self.well_behaved.is_cancelled();
        let sum = body.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
        if self.some_are_poison && !calm && sum.is_multiple_of(POISON) {
            return if can_report && self.random.bool() { Habit::StartedThenDie } else { Habit::Die };
        }
        let choice = match (calm, can_report, self.silent) {
            (true, true, _) => return Habit::Good,
            (true, false, _) => return Habit::AckOnly,
            (false, false, _) => NAMELESS,
            (false, true, true) => SILENT,
            (false, true, false) => SPEAKING,
        };
        pick(&mut self.random, choice)
    }
}

/// A robot with a delivery in hand.
struct Grip<'r> {
    robot: &'r mut Robot,
    channel: &'r Channel,
    delivery: &'r Delivery,
    hand: Hand,
}

impl Grip<'_> {
    async fn act(mut self, habit: Habit) -> After {
        match habit {
            Habit::Good => self.say_and("processed", json!({"result": 1}), Release::Acked).await,
            Habit::GoodThenReject => self.say_and("processed", json!({}), Release::Rejected).await,
            Habit::Started => {
                if self.say("started", &json!({"percent": 5})).await != Outcome::Confirmed {
                    return self.lost();
                }
                self.say_and("processed", json!({}), Release::Acked).await
            }
            Habit::Business => self.say_and("business_exception", json!({"code": "b"}), Release::Acked).await,
            Habit::BusinessThenReject => {
                self.say_and("business_exception", json!({"code": "b"}), Release::Rejected).await
            }
            Habit::It => self.say_and("it_exception", json!({"code": "it"}), Release::Acked).await,
            Habit::Generic => self.say_and("generic_exception", json!({"code": "g"}), Release::Rejected).await,
            Habit::BareReject => self.release(Release::Rejected).await,
            Habit::AckOnly => self.release(Release::Acked).await,
            Habit::LateAfterAck => {
                let after = self.release(Release::Acked).await;
                self.wait(0..800).await;
                self.say_late("processed").await;
                after
            }
            Habit::LateAfterReject => {
                let after = self.release(Release::Rejected).await;
                self.wait(0..2500).await;
                self.say_late("business_exception").await;
                after
            }
            Habit::Nack => {
                self.wait(0..100).await;
                self.release(Release::Requeued).await
            }
            Habit::Die => self.die().await,
            Habit::StartedThenDie => {
                self.say("started", &json!({})).await;
                self.die().await
            }
            Habit::Hang => {
                self.wait(500..3000).await;
                self.die().await
            }
            Habit::Twice => {
                if self.say("processed", &json!({"note": "once"})).await != Outcome::Confirmed {
                    return self.lost();
                }
                self.say_and("processed", json!({"note": "twice"}), Release::Acked).await
            }
            Habit::Contradict => {
                if self.say("it_exception", &json!({"code": "no"})).await != Outcome::Confirmed {
                    return self.lost();
                }
                self.wait(0..1500).await;
                self.say_and("processed", json!({"note": "yes"}), Release::Acked).await
            }
            Habit::Requeue => self.say_and("requeue", json!({"note": "again"}), Release::Acked).await,
            Habit::RequeueLater => self.say_and("requeue", json!({"delay": 1.5, "priority": 2}), Release::Acked).await,
            Habit::Hold => self.say_and("hold", json!({"note": "look"}), Release::Acked).await,
        }
    }

    async fn wait(&mut self, range: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.robot.random.u64(range))).await;
    }

    fn properties(&self, kind: &str) -> BasicProperties {
        report_properties(self.delivery, kind, &self.robot.name)
    }

    async fn say(&self, kind: &str, body: &Value) -> Outcome {
        let body = body.to_string();
        let sent = publish(self.channel, "wq.outcomes", self.robot.queue, self.properties(kind), body.as_bytes()).await;
        self.note_report(kind, sent);
        sent.into()
    }

    fn note_report(&self, kind: &str, sent: Sent) {
        let (hand, kind) = (self.hand.clone(), kind.to_owned());
        self.robot.history.note(What::Reported { hand, kind, outcome: sent.into() });
    }

    /// Reports, and lets go once the report is confirmed.
    async fn say_and(&self, kind: &str, body: Value, release: Release) -> After {
        match self.say(kind, &body).await {
            Outcome::Confirmed => self.release(release).await,
            Outcome::Refused | Outcome::Doubtful => self.lost(),
        }
    }

    /// Reports after it has let go, however many connections that takes.
    async fn say_late(&self, kind: &str) {
        let mut sent = publish(self.channel, "wq.outcomes", self.robot.queue, self.properties(kind), b"{}").await;
        self.note_report(kind, sent);
        while sent != Sent::Confirmed {
            let (_connection, channel) = connected(&self.robot.vhost).await;
            sent = publish(&channel, "wq.outcomes", self.robot.queue, self.properties(kind), b"{}").await;
            self.note_report(kind, sent);
        }
    }

    async fn release(&self, how: Release) -> After {
        let done = match how {
            Release::Acked => unless_lost(self.channel, self.delivery.ack(BasicAckOptions::default())).await,
            Release::Rejected => {
                unless_lost(self.channel, self.delivery.reject(BasicRejectOptions { requeue: false })).await
            }
            Release::Requeued => {
                let options = BasicNackOptions { requeue: true, multiple: false };
                unless_lost(self.channel, self.delivery.nack(options)).await
            }
            Release::Died | Release::Unsure => None,
        };
        let how = if done == Some(true) { how } else { Release::Unsure };
        self.note_release(how);
        if how == Release::Unsure { After::Reconnects } else { After::GoesOn }
    }

    fn note_release(&self, how: Release) {
        self.robot.history.note(What::Released { hand: self.hand.clone(), how });
    }

    fn lost(&self) -> After {
        self.note_release(Release::Unsure);
        After::Reconnects
    }

    async fn die(&self) -> After {
        self.note_release(Release::Died);
        let _ = unless_lost(self.channel, self.channel.close(200, "died".into())).await;
        After::Reconnects
    }
}
