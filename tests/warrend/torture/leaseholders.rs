//! Robots that work over HTTP: they claim beside the others, and report, keep, give back or lose what they claimed.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::history::{Hand, History, Outcome, Release, What};
use super::pick;

/// The shortest lease there is; some of them are left to end.
const LEASE: Duration = Duration::from_secs(5);

/// Between two tries where the daemon is away.
const AGAIN: Duration = Duration::from_millis(200);

pub struct Leaseholder {
    pub name: String,
    pub url: String,
    pub history: Arc<History>,
    pub queue: &'static str,
    pub random: fastrand::Rng,
    /// From then on it reports everything `processed`.
    pub well_behaved: CancellationToken,
    pub stop: CancellationToken,
}

/// What it does with an item that it claimed.
#[derive(Clone, Copy, Debug)]
enum Habit {
    Says(&'static str),
    /// Keeps the lease up first.
    Beats,
    /// Says the same twice.
    Twice,
    GivesBack,
    /// Is never heard of again.
    Dies,
    /// Is done when its lease is over.
    Late,
}

const HABITS: &[(Habit, u32)] = &[
    (Habit::Says("processed"), 40),
    (Habit::Beats, 8),
    (Habit::Twice, 8),
    (Habit::Says("business_exception"), 6),
    (Habit::Says("it_exception"), 8),
    (Habit::Says("requeue"), 5),
    (Habit::Says("hold"), 3),
    (Habit::GivesBack, 8),
    (Habit::Dies, 6),
    (Habit::Late, 6),
];

impl Leaseholder {
    pub async fn run(mut self) {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(15)).no_proxy().build().expect("a client");
        while !self.stop.is_cancelled() {
            let claim = json!({"worker": self.name, "wait": "2s", "lease": "5s", "max": self.random.u8(1..4)});
            let url = format!("{}/api/v1/queues/{}/claim", self.url, self.queue);
            let claimed = async {
                let answer = http.post(url).json(&claim).send().await.ok()?;
                (answer.status() == 200).then_some(())?;
                answer.json::<Value>().await.ok()
            };
            let Some(claimed) = claimed.await else {
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            let lease = claimed["lease"].as_str().expect("a lease").to_owned();
            for item in claimed["items"].as_array().expect("items") {
                self.work(&http, item, &lease).await;
            }
        }
    }

    async fn work(&mut self, http: &reqwest::Client, item: &Value, lease: &str) {
        let hand = Hand {
            robot: self.name.clone(),
            queue: self.queue.to_owned(),
            id: item["id"].as_str().map(str::to_owned),
            attempt: item["attempt"].as_i64(),
        };
        let habit = self.habit();
        let body = item["payload"].to_string();
        let noted = What::Delivered { hand: hand.clone(), body, redelivered: false, habit: format!("{habit:?}") };
        self.history.note(noted);
        let held = Held { history: &self.history, http, url: &self.url, hand, lease };
        match habit {
            Habit::Says(kind) => held.says(kind).await,
            Habit::Beats => {
                held.ask("heartbeat", &json!({"lease": lease, "percent": 50})).await;
                held.says("processed").await;
            }
            Habit::Twice => {
                held.says("processed").await;
                held.says("processed").await;
            }
            Habit::GivesBack => {
                let status = held.ask("return", &json!({"lease": lease})).await;
                held.lets_go(if status == 200 { Release::Requeued } else { Release::Unsure });
            }
            Habit::Dies => held.lets_go(Release::Died),
            Habit::Late => {
                tokio::time::sleep(LEASE + Duration::from_millis(self.random.u64(0..1500))).await;
                held.says("processed").await;
            }
        }
    }

    fn habit(&mut self) -> Habit {
        if self.well_behaved.is_cancelled() {
            return Habit::Says("processed");
        }
        pick(&mut self.random, HABITS)
    }
}

/// An item on a lease.
struct Held<'h> {
    history: &'h History,
    http: &'h reqwest::Client,
    url: &'h str,
    hand: Hand,
    lease: &'h str,
}

impl Held<'_> {
    /// Reports until there is an answer: what the daemon answered with success is as good as confirmed.
    async fn says(&self, kind: &str) {
        let status = loop {
            let status = self.ask("outcome", &json!({"lease": self.lease, "type": kind})).await;
            let outcome = match status {
                200 => Outcome::Confirmed,
                0 | 500.. => Outcome::Doubtful,
                _ => Outcome::Refused,
            };
            self.history.note(What::Reported { hand: self.hand.clone(), kind: kind.to_owned(), outcome });
            if outcome != Outcome::Doubtful {
                break status;
            }
            tokio::time::sleep(AGAIN).await;
        };
        if kind == "processed" && status != 200 {
            self.history.note(What::Stood { what: format!("processed was refused with {status}: {:?}", self.hand) });
        }
        self.lets_go(if status == 200 { Release::Acked } else { Release::Unsure });
    }

    fn lets_go(&self, how: Release) {
        self.history.note(What::Released { hand: self.hand.clone(), how });
    }

    /// The status of the answer; 0 where there was none.
    async fn ask(&self, what: &str, body: &Value) -> u16 {
        let id = self.hand.id.as_deref().unwrap_or_default();
        let answer = self.http.post(format!("{}/api/v1/items/{id}/{what}", self.url)).json(body).send().await;
        answer.map_or(0, |answer| answer.status().as_u16())
    }
}
