//! Producers of every kind. Each publishes an item until it is confirmed, and notes every try.

use std::sync::Arc;
use std::time::Duration;

use lapin::{BasicProperties, Channel, Connection};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::history::{History, Outcome, Publish, What};
use crate::support::amqp::{headers, text};
use crate::support::broker::Vhost;
use crate::support::stubborn::{Sent, connected, publish, unless_lost};

/// Between two items of one producer, in milliseconds.
const PACE: std::ops::Range<u64> = 20..100;

const PRIORITIES: [Option<u8>; 5] = [None, Some(1), Some(4), Some(8), Some(9)];

/// A producer over AMQP for one queue.
pub struct Producer {
    pub vhost: Arc<Vhost>,
    pub history: Arc<History>,
    pub queue: &'static str,
    /// Whether items carry a `message-id`.
    pub named: bool,
    /// Whether the door reads `wq-not-before` and a content that was changed is refused or new.
    pub managed: bool,
    pub random: fastrand::Rng,
}

/// What is sent of one item.
struct Draft {
    reference: Option<String>,
    body: String,
    properties: BasicProperties,
    expires: bool,
}

impl Producer {
    pub async fn run(mut self, enough: CancellationToken) {
        let mut line = connected(&self.vhost).await;
        for number in 0_usize.. {
            if enough.is_cancelled() {
                return;
            }
            let draft = self.draft(number);
            self.send(&mut line, &draft).await;
            if self.random.u8(0..100) < 8 {
                self.send(&mut line, &draft).await; // the same again, though it was confirmed
            }
            if self.random.u8(0..100) < 4 && draft.reference.is_some() {
                let other =
                    Draft { body: json!({"token": format!("{}-{number}-other", self.queue)}).to_string(), ..draft };
                self.send(&mut line, &other).await; // the same reference with other content
            }
            tokio::time::sleep(Duration::from_millis(self.random.u64(PACE))).await;
        }
    }

    fn draft(&mut self, number: usize) -> Draft {
        let reference = self.named.then(|| format!("{}-{number}", self.queue));
        let mut properties = BasicProperties::default().with_content_type("application/json".into());
        if let Some(reference) = &reference {
            properties = properties.with_message_id(reference.as_str().into());
        }
        if let Some(priority) = PRIORITIES[self.random.usize(0..PRIORITIES.len())] {
            properties = properties.with_priority(priority);
        }
        let expires = self.named && self.random.u8(0..100) < 5;
        if expires {
            properties = properties.with_expiration(self.random.u64(200..4000).to_string().as_str().into());
        }
        if self.managed && self.random.u8(0..100) < 8 {
            let later = jiff::Timestamp::now() + Duration::from_millis(self.random.u64(200..4000));
            properties = properties.with_headers(headers(&[("wq-not-before", text(&later.to_string()))]));
        } else {
            properties = properties.with_headers(headers(&[("wq-label-number", text(&number.to_string()))]));
        }
        let body = json!({"token": format!("{}-{number}", self.queue)}).to_string();
        Draft { reference, body, properties, expires }
    }

    async fn send(&self, line: &mut (Connection, Channel), draft: &Draft) {
        loop {
            let body = draft.body.as_bytes();
            let sent = publish(&line.1, "wq.items", self.queue, draft.properties.clone(), body).await;
            self.history.note(What::Published(Publish {
                queue: self.queue.to_owned(),
                reference: draft.reference.clone(),
                body: draft.body.clone(),
                outcome: sent.into(),
                expires: draft.expires,
            }));
            match sent {
                Sent::Confirmed => return,
                Sent::Refused => {}
                Sent::Doubtful => {
                    let _ = unless_lost(&line.1, line.0.close(200, "goodbye".into())).await;
                    *line = connected(&self.vhost).await;
                }
            }
        }
    }
}

/// A producer over HTTP. What the daemon answered with success is as good as confirmed.
pub async fn over_http(
    url: String,
    queue: &'static str,
    history: Arc<History>,
    mut random: fastrand::Rng,
    enough: CancellationToken,
) {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build().expect("a client");
    for number in 0_usize.. {
        if enough.is_cancelled() {
            return;
        }
        let payload = json!({"token": format!("{queue}-http-{number}")});
        let reference = format!("{queue}-http-{number}");
        let item = json!({"payload": payload, "reference": reference, "priority": random.u8(0..10)});
        loop {
            let answer = http.post(format!("{url}/api/v1/queues/{queue}/items")).json(&item).send().await;
            let outcome = match answer {
                Ok(answer) if answer.status().is_success() => Outcome::Confirmed,
                Ok(_) => Outcome::Refused,
                Err(_) => Outcome::Doubtful,
            };
            history.note(What::Published(Publish {
                queue: queue.to_owned(),
                reference: Some(reference.clone()),
                body: payload.to_string(),
                outcome,
                expires: false,
            }));
            if outcome == Outcome::Confirmed {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        tokio::time::sleep(Duration::from_millis(random.u64(PACE) * 2)).await;
    }
}
