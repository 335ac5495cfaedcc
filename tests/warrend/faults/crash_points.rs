//! The daemon dies at each step of each pipeline, as if by `kill -9`: what is left is what the pipeline's header says, and
//! after a restart everything is done once.
//!
//! Each round works the same day: while the daemon is away items come for both lanes, robots work off what they can; the
//! daemon is started to die at one fail point; it is started again and everything has to end as it should.

use std::collections::{BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};
use lapin::BasicProperties;
use lapin::message::Delivery;
use serde_json::{Value, json};

use crate::support::amqp::{Client, headers, int_header, reference, text};
use crate::support::crew::{Crew, Ending, Seen};
use crate::support::daemon::{Daemon, daemon};

const ITEMS: i64 = 10;

const QUEUES: &str = "
queue: m
retry: {it: {limit: 1, backoff: {first: 1s, jitter: 0%}}}
---
queue: d
lane: direct
retry: {it: {limit: 1, backoff: {first: 1s, jitter: 0%}}}
";

/// Direct items that ended, or whose reject was seen.
const ENDED: &str = "SELECT count(*) FROM items WHERE queue = 'd' AND (place = 'settled' OR rejected_at IS NOT NULL)";

/// What a robot does is written in the item's reference.
fn ending(delivery: &Delivery) -> Ending {
    let first = int_header(delivery, "wq-attempt").is_none_or(|attempt| attempt == 1);
    match reference(delivery) {
        reference if reference.ends_with('7') => Ending::BareReject,
        reference if reference.ends_with('8') && first => Ending::ItException,
        _ => Ending::Processed,
    }
}

/// How an item has to end: state, kind, attempt.
fn expected(reference: &str) -> Value {
    match reference {
        over if over.ends_with("over") => json!(["exception", "expired", 0]),
        rejected if rejected.ends_with('7') => json!(["exception", "generic", 1]),
        tried_again if tried_again.ends_with('8') => json!(["processed", null, 2]),
        _ => json!(["processed", null, 1]),
    }
}

/// A daemon, its robots, and everything that was sent.
struct Workshop {
    daemon: Daemon,
    client: Client,
    managed: Crew,
    direct: Crew,
    sent: Vec<(&'static str, String)>,
}

impl Workshop {
    async fn open(name: &str) -> Self {
        let mut daemon = daemon(name).queues(QUEUES).setting("CONTROL__REPORT_GRACE", "2s").start().await;
        let client = Client::connect(&daemon.vhost).await;
        client.declare_queue("reply.p").await;
        let managed = Crew::hire(&daemon.vhost, "m", 2, ending).await;
        let direct = Crew::hire(&daemon.vhost, "d", 2, ending).await;
        assert!(daemon.stop().success());
        Self { daemon, client, managed, direct, sent: Vec::new() }
    }

    /// A day's items, sent while the daemon is away.
    async fn send(&mut self, round: &str) {
        for number in 0..ITEMS {
            self.send_one("m", format!("{round}-{number}"), &[]).await;
            self.send_one("d", format!("{round}-{number}"), &[]).await;
        }
        self.send_timed(round).await;
    }

    /// One that waits for its time, and one whose life ends while it waits.
    async fn send_timed(&mut self, round: &str) {
        let at = |seconds: i64| (Timestamp::now() + SignedDuration::from_secs(seconds)).to_string();
        let (soon, later) = (at(1), at(3600));
        self.send_one("m", format!("{round}-early"), &[("wq-not-before", &soon)]).await;
        let over = at(2);
        self.send_one("m", format!("{round}-over"), &[("wq-not-before", &later), ("wq-expires-at", &over)]).await;
    }

    async fn send_one(&mut self, queue: &'static str, reference: String, times: &[(&str, &str)]) {
        let mut properties = BasicProperties::default().with_message_id(reference.as_str().into());
        if queue == "m" {
            let correlation = reference.as_str().into();
            properties = properties.with_reply_to("reply.p".into()).with_correlation_id(correlation);
        }
        let times: Vec<_> = times.iter().map(|(name, time)| (*name, text(time))).collect();
        let properties = properties.with_headers(headers(&times));
        let body = json!({"n": reference}).to_string();
        assert!(self.client.publish("wq.items", queue, properties, body.as_bytes()).await);
        self.sent.push((queue, reference));
    }

    /// Messages of one of the daemon's own queues, once its connections are gone and what they held is back.
    async fn ready(&self, queue: &str) -> i64 {
        self.daemon
            .wait_until("the broker has noticed", async |daemon: &Daemon| {
                let connections = daemon.vhost.management("GET", "/api/vhosts/{vhost}/connections", None).await;
                let connections = connections.as_array().expect("a list").clone();
                !connections.iter().any(|connection| {
                    connection["client_properties"]["connection_name"]
                        .as_str()
                        .is_some_and(|name| name.starts_with("warrend"))
                })
            })
            .await;
        self.client.ready(queue).await.into()
    }

    /// Starts the daemon again, waits until everything that was sent has ended, and checks how.
    async fn all_is_done(&mut self) {
        self.daemon.start_again().await;
        for queue in ["m", "d"] {
            let all: Vec<&String> = self.sent.iter().filter(|(of, _)| *of == queue).map(|(_, sent)| sent).collect();
            self.daemon.wait_until_done(queue, all.len() as u64).await;
            let items = self.daemon.items(&format!("queue={queue}")).await;
            let ends: HashMap<&str, Value> = items
                .iter()
                .map(|item| {
                    (item["reference"].as_str().unwrap(), json!([item["state"], item["kind"], item["attempt"]]))
                })
                .collect();
            assert_eq!((items.len(), ends.len()), (all.len(), all.len()), "an item is there twice");
            for reference in all {
                assert_eq!(ends[reference.as_str()], expected(reference), "{queue} {reference}");
            }
        }
        assert_eq!(self.daemon.get("/api/v1/parked").await["items"], json!([]));
        self.daemon
            .wait_until("every answer is out", async |_: &Daemon| {
                self.daemon.count("SELECT count(*) FROM answers").await == 0
            })
            .await;
        assert!(self.daemon.stop().success());
    }

    /// After the last round: deliveries told the same story, nothing happened twice, every producer was answered.
    async fn close(self) {
        let mut answered: HashMap<String, BTreeSet<String>> = HashMap::new();
        while let Some(answer) = self.client.take("reply.p").await {
            let text = |value: &Option<lapin::types::ShortString>| value.as_ref().unwrap().to_string();
            let about = text(answer.properties.correlation_id());
            answered.entry(about).or_default().insert(text(answer.properties.kind()));
        }
        for (_, reference) in self.sent.iter().filter(|(queue, _)| *queue == "m") {
            let end = expected(reference)[0].as_str().unwrap().to_owned();
            let answers = BTreeSet::from(["accepted".to_owned(), end]);
            // On a slow machine its life may end before it is let in.
            let too_late = reference.ends_with("over") && answered[reference].contains("refused");
            assert!(answered[reference] == answers || too_late, "{reference}: {:?}", answered[reference]);
        }
        let mut mirror = self.daemon.mirror().await;
        let doubled: Vec<String> = sqlx::query_scalar(
            "SELECT item || ' ' || event FROM timeline WHERE event <> 'noted' GROUP BY item, event, attempt, state \
             HAVING count(*) > 1",
        )
        .fetch_all(&mut mirror)
        .await
        .expect("timelines");
        assert_eq!(doubled, Vec::<String>::new(), "it happened twice");
        for crew in [self.managed, self.direct] {
            let mut told: HashMap<(String, Option<i64>), Seen> = HashMap::new();
            for seen in crew.dismiss().await {
                let first = told.entry((seen.reference.clone(), seen.attempt)).or_insert_with(|| seen.clone());
                assert_eq!(*first, seen, "a repeat carries the same id and attempt");
            }
        }
    }
}

/// What a crash at this point leaves, as the pipeline's header has it. Numbers are of this round.
async fn check_what_is_left(shop: &Workshop, point: &str) {
    let all = ITEMS + 2;
    let before = shop.sent_to("m") - all;
    let new = shop.daemon.count("SELECT count(*) FROM items WHERE queue = 'm'").await - before;
    match point {
        "start.declared" | "start.claimed" | "intake.read" => {
            assert_eq!(new, 0, "nothing is committed");
            assert_eq!(shop.ready("wq.intake").await, all, "everything is still in the intake");
        }
        "intake.committed" => {
            assert!(new > 0, "a batch is committed");
            assert_eq!(shop.ready("wq.intake").await, all, "and nothing of it acked");
        }
        // Which pipeline's group it was is open; and an ack may die on its way to the broker.
        "mirror.begun" | "mirror.commit" | "mirror.committed" | "intake.acked" => {
            assert!(shop.ready("wq.intake").await + new >= all, "each is in one place at least");
        }
        "dispatch.claimed" => {
            assert!(shop.daemon.count("SELECT count(*) FROM items WHERE place = 'claimed'").await > 0);
            assert_eq!(shop.client.ready("wq.q.m").await, 0, "claimed and not published");
        }
        "publish.handed_over" => {
            let unmarked =
                "SELECT (SELECT count(*) FROM answers) + (SELECT count(*) FROM items WHERE place = 'claimed')";
            assert!(shop.daemon.count(unmarked).await > 0, "what was handed over is not marked");
        }
        "answers.published" => {
            assert!(shop.daemon.count("SELECT count(*) FROM answers").await > 0, "the outbox still has them");
            assert!(shop.client.ready("reply.p").await > 0, "and so has the producer");
        }
        "answers.removed" => assert!(shop.client.ready("reply.p").await > 0),
        "dispatch.published" => {
            // Fast robots' reports may have come in between.
            assert!(shop.daemon.count("SELECT count(*) FROM items WHERE queue = 'm' AND attempt = 1").await > 0);
        }
        "reports.read" => assert!(shop.ready("wq.reports").await > 0, "what was read is back"),
        "reports.committed" => {
            assert!(shop.ready("wq.reports").await > 0, "what was committed is not acked");
            assert!(shop.daemon.count(ENDED).await > 0);
        }
        "reports.acked" => assert!(shop.daemon.count(ENDED).await > 0),
        "reports.judged" => {
            let judged = "SELECT count(*) FROM items WHERE state = 'exception' AND kind = 'generic' AND queue = 'd'";
            assert!(shop.daemon.count(judged).await > 0);
        }
        "tap.read" => assert_eq!(shop.copied().await, shop.sent_to("d") - ITEMS),
        "tap.committed" | "tap.acked" => {
            assert!(shop.copied().await > shop.sent_to("d") - ITEMS, "the offset is committed");
        }
        "timers.expired" => {
            assert!(shop.daemon.count("SELECT count(*) FROM items WHERE kind = 'expired'").await > 0);
        }
        "timers.promoted" => {
            let ready = "SELECT count(*) FROM items WHERE not_before IS NOT NULL AND place <> 'delayed'";
            assert!(shop.daemon.count(ready).await > 0);
        }
        other => panic!("nobody says what a crash at {other} leaves"),
    }
}

impl Workshop {
    async fn copied(&self) -> i64 {
        self.daemon.count("SELECT coalesce(max(next_offset), 0) FROM tap").await
    }

    fn sent_to(&self, queue: &str) -> i64 {
        i64::try_from(self.sent.iter().filter(|(of, _)| *of == queue).count()).unwrap()
    }
}

/// One round after another, each with a crash of its own.
async fn crash_at(name: &str, points: &[&str]) {
    let mut shop = Workshop::open(name).await;
    for point in points {
        shop.send(point).await;
        shop.daemon.spawn_to_die_at(point);
        if point.starts_with("timers") {
            // Those that were sent before may be over at the door of a daemon that starts slowly.
            shop.daemon.until_ready_or_dead().await;
            shop.send_timed(&format!("{point}-again")).await;
        }
        shop.daemon.wait_until_dead(point).await;
        check_what_is_left(&shop, point.split(':').next().unwrap()).await;
        shop.all_is_done().await;
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_door() {
    crash_at("crash door", &["start.declared", "start.claimed", "intake.read", "intake.committed", "intake.acked"])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_mirror() {
    crash_at("crash mirror", &["mirror.begun:2", "mirror.commit:2", "mirror.commit:4", "mirror.committed:3"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_dispatch() {
    crash_at(
        "crash dispatch",
        &["dispatch.claimed", "publish.handed_over", "dispatch.published", "dispatch.published:2"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_reports_are_read() {
    crash_at("crash reports", &["reports.read", "reports.committed", "reports.acked", "reports.judged"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_tap() {
    crash_at("crash tap", &["tap.read", "tap.committed", "tap.acked"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_answers_and_timers() {
    crash_at("crash answers", &["answers.published", "answers.removed", "timers.expired", "timers.promoted"]).await;
}
