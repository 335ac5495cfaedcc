//! Random commands to a daemon on a real broker and to the pure core, and both are to tell the same of every item after each:
//! producers, a robot of every habit, people's orders, deaths of the daemon at its fail points, and jumps of its clock.
//!
//! Every decision comes from the seed (`WARREND_TEST_SEED`, 42 where none is given); `WARREND_MODEL_STEPS` says how many commands.

mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicRejectOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel};
use serde_json::{Value, json};
use warrend::item::ItemId;
use warrend::item::door::{Arrival, NewItem, PriorityWish, content_hash};
use warrend::item::report::{Failure, Saying, Wait};
use warrend::item::request::{Changes, Content, Order, Verb};

use self::world::{Expected, Handed, World};
use crate::support::amqp::{Client, headers, int_header, reference, report, text};
use crate::support::daemon::{Daemon, PATIENCE, daemon};
use crate::support::from_environment;

const QUEUES: [&str; 2] = ["m", "d"];

/// Waits are of hours, and so are jumps: what the clock shows between commands is never near to what is due.
const RETRY: &str = "retry:
  it: {limit: 2, backoff: {first: 1h, factor: 1, jitter: 0%}}
  generic: {limit: 1, backoff: {first: 1ms, factor: 1, jitter: 0%}}
  timeout: {limit: 1, backoff: {first: 1ms, factor: 1, jitter: 0%}}
  requeue: {limit: 2}
crash_limit: 30
processing_timeout: 90m
";

/// Where a daemon may die; where it dies with a claim it would publish twice, which crash tests of their own show.
const POINTS: [&str; 10] = [
    "orders.committed",
    "orders.committed:2",
    "recall.got",
    "recall.committed",
    "recall.acked",
    "reports.read",
    "reports.committed",
    "tap.committed",
    "intake.committed",
    "timers.promoted",
];

struct Hand {
    reference: String,
    attempt: u32,
    channel: Channel,
    delivery: Delivery,
}

struct Run {
    daemon: Daemon,
    client: Client,
    world: World,
    hands: Vec<Hand>,
    /// What a robot had, and is over.
    past: Vec<(String, u32, Delivery)>,
    sent: u32,
    hours: i64,
    dice: fastrand::Rng,
    log: Vec<String>,
    /// How often which command came, for a run that is none.
    fates: BTreeMap<&'static str, u32>,
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log.join("\n"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_does_what_the_core_says() {
    let seed = from_environment("WARREND_TEST_SEED", 42);
    let steps = from_environment("WARREND_MODEL_STEPS", 150);
    eprintln!("model: WARREND_TEST_SEED={seed} WARREND_MODEL_STEPS={steps}");
    let daemon = daemon("model")
        .queues(&format!("queue: m\n{RETRY}"))
        .queues(&format!("queue: d\nlane: direct\n{RETRY}"))
        .setting("CONTROL__RECONCILE_PERIOD", "2s")
        .setting("CONTROL__REPORT_GRACE", "1s")
        .heartbeat(2)
        .clock()
        .start()
        .await;
    let definitions = warrend::definition::load(&daemon.definitions_dir()).expect("they are fine");
    let mut run = Run {
        client: Client::connect(&daemon.vhost).await,
        daemon,
        world: World::new(definitions),
        hands: Vec::new(),
        past: Vec::new(),
        sent: 0,
        hours: 0,
        dice: fastrand::Rng::with_seed(seed),
        log: Vec::new(),
        fates: BTreeMap::new(),
    };
    for step in 0..steps {
        run.log.push(format!("{step}:"));
        run.step().await;
    }
    eprintln!("model: {} items, {:?}", run.world.things.len(), run.fates);
    for fate in ["sent", "taken", "ended", "asked", "recalled", "refused", "jumped", "died"] {
        assert!(run.fates.contains_key(fate), "no item {fate}: the run has to be one");
    }
}

impl Run {
    fn say(&mut self, fate: &'static str, what: String) {
        *self.fates.entry(fate).or_default() += 1;
        self.log.last_mut().expect("a step").push_str(&format!(" {what}"));
    }

    async fn step(&mut self) {
        match self.dice.u32(0..100) {
            0..20 => self.send().await,
            20..38 => self.take().await,
            38..60 => self.end().await,
            60..64 => self.late().await,
            64..90 => self.ask().await,
            90..95 => self.arm().await,
            _ => self.jump().await,
        }
        self.agree(None).await;
        for queue in QUEUES {
            let ready = self.world.messages(queue);
            self.until(&format!("{ready} messages of {queue} are ready, and no others"), async |run: &Self| {
                run.client.ready(&format!("wq.q.{queue}")).await as usize == ready
            })
            .await;
        }
        // What is not marked as published would be published again by a daemon that starts.
        self.until("dispatch is over", async |run: &Self| {
            run.daemon.count("SELECT count(*) FROM items WHERE place = 'claimed'").await == 0
        })
        .await;
        // By now all that is to be dispatched is.
        let shown = self.agree(None).await;
        self.world.is_as_shown(&shown);
    }

    async fn send(&mut self) {
        self.sent += 1;
        let (reference, queue) = (format!("r{:03}", self.sent), QUEUES[self.dice.usize(0..2)]);
        let priority = self.dice.bool().then(|| self.dice.u8(0..10));
        let times = if queue == "m" { self.dice.u32(0..6) } else { 2 };
        let in_an_hour = whole(self.world.now() + SignedDuration::from_hours(1));
        let not_before = (times == 0).then_some(in_an_hour);
        let expires_at = (times == 1).then_some(in_an_hour);
        self.say("sent", format!("send {reference} to {queue} priority {priority:?} {times}"));
        let payload = json!({"is": reference}).to_string();
        let mut properties = BasicProperties::default().with_message_id(reference.as_str().into());
        if let Some(priority) = priority {
            properties = properties.with_priority(priority);
        }
        let wishes = [("wq-not-before", not_before), ("wq-expires-at", expires_at)];
        let wishes: Vec<_> =
            wishes.iter().filter_map(|(name, at)| Some((*name, text(&at.as_ref()?.to_string())))).collect();
        if !wishes.is_empty() {
            properties = properties.with_headers(headers(&wishes));
        }
        assert!(self.client.publish("wq.items", queue, properties, payload.as_bytes()).await);
        let new = NewItem {
            reference: Some(reference.clone()),
            priority: priority.map(|level| PriorityWish::Level(i64::from(level))),
            payload: payload.into_bytes(),
            not_before,
            expires_at,
            ..NewItem::default()
        };
        let id = self.id_of(queue, &reference).await;
        self.world.arrives(queue, id, &Arrival { new, ..Arrival::default() });
    }

    async fn id_of(&mut self, queue: &str, reference: &str) -> ItemId {
        let began = Instant::now();
        loop {
            self.live_on().await;
            let list = format!("/api/v1/items?queue={queue}&reference={reference}");
            if let Some((200, found)) = self.daemon.get_with_status(&list).await
                && let Some(id) = found["items"][0]["id"].as_str()
            {
                return id.parse().expect("an id");
            }
            assert!(began.elapsed() < PATIENCE, "{reference} does not arrive");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A robot takes what the broker hands out.
    async fn take(&mut self) {
        let queue = QUEUES[self.dice.usize(0..2)];
        if self.hands.len() > 2 {
            return;
        }
        let channel = self.client.another_channel().await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let robots = format!("wq.q.{queue}");
        let got = channel.basic_get(robots.as_str().into(), BasicGetOptions::default()).await.expect("an answer");
        let ready = self.world.ready(queue);
        let Some(got) = got else {
            assert_eq!(self.world.messages(queue), 0, "nothing came of {queue}, where {ready:?} are ready");
            return;
        };
        let delivery = got.delivery;
        let reference = reference(&delivery);
        let attempt =
            int_header(&delivery, "wq-attempt").map_or(1, |attempt| u32::try_from(attempt).expect("a number"));
        if self.world.is_stale(&reference, attempt) {
            self.take_stale(reference, attempt, &channel, &delivery).await;
            return;
        }
        self.say("taken", format!("take {reference}"));
        assert!(ready.contains(&reference), "{reference} was handed out, and only {ready:?} are ready");
        let thing = self.world.things.get_mut(&reference).expect("it is known");
        assert_eq!((attempt, delivery.data.as_slice()), (thing.item.attempt, thing.payload.as_bytes()), "{reference}");
        assert!(thing.handed != Handed::Never || !delivery.redelivered, "{reference} comes again");
        thing.in_hand = Some(attempt);
        self.hands.push(Hand { reference, attempt, channel, delivery });
    }

    /// A message that is there though its attempt is over: the robot does what it carries once more, which counts.
    async fn take_stale(&mut self, reference: String, attempt: u32, channel: &Channel, delivery: &Delivery) {
        self.say("stale", format!("take {reference} {attempt}, which is over"));
        report(channel, delivery, "processed", &json!({"result": 1})).await;
        delivery.ack(BasicAckOptions::default()).await.expect("acked");
        self.world.stale.retain(|stale| *stale != (reference.clone(), attempt));
        self.world.reported(&reference, attempt, processed());
    }

    /// A robot is through with what it has, or begins with it.
    async fn end(&mut self) {
        if self.hands.is_empty() {
            return;
        }
        let at = self.dice.usize(0..self.hands.len());
        if self.dice.u32(0..5) < 2 {
            let (reference, attempt) = (self.hands[at].reference.clone(), self.hands[at].attempt);
            // Each says something new, so that it is seen when it was read: by the clock of that moment.
            let before = self.world.things[&reference].item.progress;
            let percent = (before.unwrap_or(0) + self.dice.u8(1..=50)) % 101;
            self.say("started", format!("start {reference}: {percent} %"));
            report(&self.hands[at].channel, &self.hands[at].delivery, "started", &json!({"percent": percent})).await;
            self.world.reported(&reference, attempt, Saying::Started { note: None, percent: Some(percent) });
            return;
        }
        let Hand { reference, attempt, channel, delivery } = self.hands.swap_remove(at);
        let mut roll = self.dice.u32(0..12);
        if !self.world.is_in_hand(&reference, attempt) {
            // Of an attempt that is over: nobody would know the message that comes back.
            roll = roll.max(3);
        }
        match roll {
            0 => {
                self.say("rejected", format!("reject {reference}"));
                delivery.reject(BasicRejectOptions { requeue: false }).await.expect("rejected");
                self.world.leaves_the_hand(&reference, attempt);
                self.world.rejected(&reference, attempt);
            }
            1 => {
                self.say("given back", format!("give back {reference}"));
                delivery.nack(BasicNackOptions { requeue: true, multiple: false }).await.expect("given back");
                self.give_back(&reference);
                return;
            }
            2 => {
                self.say("died with", format!("die with {reference}"));
                channel.close(200, "died".into()).await.expect("closed");
                self.give_back(&reference);
                return;
            }
            _ => {
                let (kind, body, saying) = self.saying();
                self.say("ended", format!("{kind} {body} of {reference}"));
                report(&channel, &delivery, kind, &body).await;
                delivery.ack(BasicAckOptions::default()).await.expect("acked");
                self.world.reported(&reference, attempt, saying);
                self.world.leaves_the_hand(&reference, attempt);
            }
        }
        self.past.push((reference, attempt, delivery));
    }

    fn give_back(&mut self, reference: &str) {
        let thing = self.world.things.get_mut(reference).expect("it is known");
        (thing.in_hand, thing.handed) = (None, Handed::Before);
    }

    /// A robot says something of an attempt that is over.
    async fn late(&mut self) {
        if self.past.is_empty() {
            return;
        }
        let at = self.dice.usize(0..self.past.len());
        let (kind, body, saying) = self.saying();
        let (reference, attempt, delivery) = &self.past[at];
        let (reference, attempt) = (reference.clone(), *attempt);
        report(&self.client.channel, delivery, kind, &body).await;
        self.say("late", format!("late {kind} {body} of {reference} {attempt}"));
        self.world.reported(&reference, attempt, saying);
    }

    fn saying(&mut self) -> (&'static str, Value, Saying) {
        let failing = |failure| Saying::Exception {
            failure,
            code: Some("c".to_owned()),
            reason: Some("r".to_owned()),
            details: None,
            started_at: None,
        };
        let failed = json!({"code": "c", "reason": "r"});
        let again = |wait| Saying::Requeue { wait, note: None, priority: None, expires_at: None };
        match self.dice.u32(0..10) {
            0 => ("business_exception", failed, failing(Failure::Business)),
            1..3 => ("it_exception", failed, failing(Failure::It)),
            3..5 => ("generic_exception", failed, failing(Failure::Generic)),
            5 => ("requeue", json!({"delay": "1h"}), again(Wait::For(Duration::from_secs(3600)))),
            6 => ("requeue", json!({}), again(Wait::None)),
            7 => ("hold", json!({}), Saying::Hold { note: None }),
            _ => ("processed", json!({"result": 1}), processed()),
        }
    }

    /// A person asks for something.
    async fn ask(&mut self) {
        let Some(reference) = self.dice.choice(self.world.things.keys().cloned().collect::<Vec<_>>()) else { return };
        let in_an_hour = whole(self.world.now() + SignedDuration::from_hours(1));
        let (what, mut body, verb, payload) = match self.dice.u32(0..14) {
            0..3 => ("hold", json!({}), Verb::Hold, None),
            3..5 => ("release", json!({}), Verb::Release, None),
            5..7 => ("cancel", json!({}), Verb::Cancel, None),
            7 => ("cancel", json!({"on_sight": true}), Verb::Cancel, None),
            8 => ("restore", json!({}), Verb::Restore, None),
            9 => (
                "requeue",
                json!({"expires_at": null}),
                requeue(Changes { expires_at: Some(None), ..Changes::default() }),
                None,
            ),
            10 => {
                let changes =
                    Changes { not_before: Some(Some(in_an_hour)), expires_at: Some(None), ..Changes::default() };
                ("requeue", json!({"not_before": in_an_hour, "expires_at": null}), requeue(changes), None)
            }
            11 => {
                let payload = json!({"other": self.dice.u16(..)}).to_string();
                let (size, hash) = (payload.len() as u64, content_hash(payload.as_bytes()));
                let content = Content { size, hash, content_type: Some("application/json".to_owned()) };
                let changes = Changes { content: Some(content), ..Changes::default() };
                let given: Value = serde_json::from_str(&payload).expect("JSON");
                ("edit", json!({"payload": given}), Verb::Edit(Box::new(changes)), Some(payload))
            }
            12 => {
                let changes = Changes { not_before: Some(Some(in_an_hour)), ..Changes::default() };
                ("edit", json!({"not_before": in_an_hour}), Verb::Edit(Box::new(changes)), None)
            }
            _ => {
                let priority = self.dice.u8(0..10);
                let changes =
                    Changes { priority: Some(priority), name: Some(Some("n".to_owned())), ..Changes::default() };
                ("edit", json!({"priority": priority, "name": "n"}), Verb::Edit(Box::new(changes)), None)
            }
        };
        body["by"] = json!("ann");
        let on_sight = body["on_sight"] == true;
        let order = Order { verb, who: "ann".to_owned(), why: None, on_sight };
        let before = self.world.clone();
        let expected = self.world.asked(&reference, &order, payload);
        self.say("asked", format!("{what} {body} of {reference}: {expected:?}"));
        let id = before.things[&reference].item.id;
        let url = format!("{}/api/v1/items/{id}", self.daemon.url());
        let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().expect("a client");
        let call = match what {
            "edit" => http.patch(url),
            verb => http.post(format!("{url}/{verb}")),
        };
        match call.json(&body).send().await {
            Ok(answer) => {
                let status = answer.status().as_u16();
                let told = answer.text().await.unwrap_or_default();
                let fits = match expected {
                    Expected::Done => matches!(status, 200 | 202),
                    Expected::Waits => status == 202,
                    Expected::Refused => status == 409,
                };
                assert!(fits, "{what} of {reference}: {status} {told}, expected {expected:?}");
                let fate = if expected == Expected::Refused { "refused" } else { "recalled" };
                *self.fates.entry(fate).or_default() += 1;
            }
            // It died: it may have heard, and may not.
            Err(error) => {
                self.say("died", format!("{error}"));
                let queue = before.things[&reference].item.queue.clone();
                let mut unheard = before;
                unheard.was_perhaps_handed_out(&queue);
                self.world.was_perhaps_handed_out(&queue);
                for ready in unheard.ready(&queue) {
                    self.world.things.get_mut(&ready).expect("it is there").loose = true;
                }
                self.agree(Some(unheard)).await;
            }
        }
    }

    /// From now on the daemon is to die at one of its fail points.
    async fn arm(&mut self) {
        let point = POINTS[self.dice.usize(0..POINTS.len())];
        self.say("armed", format!("to die at {point}"));
        self.daemon.kill();
        self.daemon.spawn_to_die_at(point);
        self.daemon.until_ready_or_dead().await;
    }

    /// Somebody sets the daemon's clock.
    async fn jump(&mut self) {
        // A daemon that died may read once more what was said to the one before.
        self.until("reports are read", async |run: &Self| run.client.ready("wq.reports").await == 0).await;
        let by = [2, 2, 2, -2, -24][self.dice.usize(0..5)];
        self.hours += by;
        self.world.ahead = SignedDuration::from_hours(self.hours);
        self.say("jumped", format!("its clock goes {by} h to {} h", self.hours));
        self.daemon.set_clock(self.world.ahead);
        for reference in self.world.time_out() {
            self.say("timed out", reference);
        }
        self.world.come_to_rest();
    }

    /// Starts the daemon again where it died.
    async fn live_on(&mut self) {
        if !self.daemon.is_running() {
            self.say("died", "it died".to_owned());
            // Whatever it had in hand goes back.
            for queue in QUEUES {
                self.world.was_perhaps_handed_out(queue);
            }
            self.daemon.kill();
            self.daemon.start_again().await;
        }
    }

    /// Waits for it, with a daemon that lives.
    async fn until(&mut self, what: &str, it_is: impl AsyncFn(&Self) -> bool) {
        let began = Instant::now();
        while !it_is(self).await {
            self.live_on().await;
            assert!(began.elapsed() < PATIENCE, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the daemon tells what the core does, or what this other world does.
    async fn agree(&mut self, or: Option<World>) -> Vec<Value> {
        let began = Instant::now();
        loop {
            self.live_on().await;
            if let Some((200, shown)) = self.daemon.get_with_status("/api/v1/items?limit=1000").await {
                let shown = shown["items"].as_array().expect("a list");
                let wrong = self.world.differences(shown);
                if wrong.is_empty() {
                    return shown.clone();
                }
                if or.as_ref().is_some_and(|or| or.differences(shown).is_empty()) {
                    self.log.last_mut().expect("a step").push_str(" (unheard)");
                    self.world = or.expect("it was there");
                    return shown.clone();
                }
                assert!(began.elapsed() < PATIENCE, "they differ:\n{}", wrong.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Times of the API are whole microseconds; these are of whole seconds.
fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).expect("in range")
}

fn processed() -> Saying {
    Saying::Processed { result: Some(json!(1)), note: None, started_at: None }
}

fn requeue(changes: Changes) -> Verb {
    Verb::Requeue(Box::new(changes))
}
