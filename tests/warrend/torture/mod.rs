//! A run under torture: producers, robots and an operator of every kind at work, while a nemesis kills, stops, cuts, stalls and
//! blocks the daemon, the broker and what is between them. In the end everything is healed, and a checker holds what
//! the API says against what everybody noted.
//!
//! Every decision comes from the seed, each actor having dice of its own: `WARREND_TEST_SEED`, 42 where none is given.
//! `WARREND_TORTURE_SECONDS` says how long it rages (`make torture SECONDS=600 SEED=42`).

mod checker;
mod history;
mod leaseholders;
mod nemesis;
mod operator;
mod producers;
mod robots;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::checker::{Evidence, QueueEnd, Rules, Shown, check};
use self::history::{History, What};
use self::leaseholders::Leaseholder;
use self::nemesis::Nemesis;
use self::producers::Producer;
use self::robots::Robot;
use crate::support::daemon::{Daemon, daemon};
use crate::support::from_environment;
use crate::support::own_broker::OwnBroker;
use crate::support::relay::Relay;

const RETRY: &str = "retry:
  it: {limit: 2, backoff: {first: 300ms, factor: 2, max: 2s, jitter: 20%}}
  generic: {limit: 1, backoff: {first: 300ms, factor: 2, max: 2s, jitter: 20%}}
  requeue: {limit: 3}
crash_limit: 4
";

/// Long enough for everything that waits, and for the daemon to conclude what it can.
const REST: Duration = Duration::from_secs(240);

const ROBOTS_PER_QUEUE: usize = 4;

const FEEDS: &str = "on_exception: {business: c, it: c, generic: c}\n";

/// Robots fail at random, so it opens now and then.
const BREAKS: &str = "window: 20\nbreaker: {after: 2, pause: 1s}\n";

struct Queue {
    key: &'static str,
    /// Beyond [`RETRY`].
    definition: &'static str,
    direct: bool,
    unique: bool,
    named: bool,
    /// Robots ack without a word.
    silent: bool,
    /// The exceptions of another queue feed it, and no producer.
    fed: bool,
}

const QUEUES: [Queue; 7] = [
    Queue { key: "m", definition: FEEDS, direct: false, unique: false, named: true, silent: false, fed: false },
    Queue { key: "c", definition: "", direct: false, unique: false, named: true, silent: false, fed: true },
    Queue {
        key: "u",
        definition: "unique: true\n",
        direct: false,
        unique: true,
        named: true,
        silent: false,
        fed: false,
    },
    Queue { key: "n", definition: BREAKS, direct: false, unique: false, named: false, silent: false, fed: false },
    Queue {
        key: "a",
        definition: "order: deadline\n",
        direct: false,
        unique: false,
        named: true,
        silent: true,
        fed: false,
    },
    Queue {
        key: "d",
        definition: "lane: direct\n",
        direct: true,
        unique: false,
        named: true,
        silent: false,
        fed: false,
    },
    Queue {
        key: "x",
        definition: "lane: direct\n",
        direct: true,
        unique: false,
        named: false,
        silent: false,
        fed: false,
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_nothing_confirmed_is_lost() {
    let seed = from_environment("WARREND_TEST_SEED", 42);
    let seconds = from_environment("WARREND_TORTURE_SECONDS", 60);
    let history = Arc::new(History::new(&format!("torture-{seed}")));
    let how = format!("WARREND_TEST_SEED={seed} WARREND_TORTURE_SECONDS={seconds}, {}", history.path().display());
    eprintln!("torture: {how}");
    let told = Told(how);

    let broker = OwnBroker::start().await;
    history.note(What::Began { seed, seconds, broker: broker.version.clone() });
    let relay = Relay::to(&broker.amqp_url).await;
    let mut setup = daemon("torture").on(&broker).await.through(&relay);
    for queue in QUEUES {
        setup = setup.queues(&format!("queue: {}\n{}{RETRY}", queue.key, queue.definition));
    }
    let mut daemon =
        setup.setting("CONTROL__RECONCILE_PERIOD", "2s").setting("BROKER__CONNECT_TIMEOUT", "2s").start().await;

    let mut dice = fastrand::Rng::with_seed(seed);
    let mut crowd = Crowd::default();
    crowd.gather(&daemon, &history, broker.has_quorum_lanes(), &mut dice);
    // A broker that is killed in the second in which its first stream was declared forgets that stream for good
    // ("Stream not found"): this run is about those that are in use.
    daemon
        .wait_until("all queues are in use", async |_: &Daemon| {
            QUEUES.iter().all(|queue| queue.fed || history.deliveries(queue.key) >= 30)
        })
        .await;
    let until = Instant::now() + Duration::from_secs(seconds);
    let random = dice.fork();
    let faults = Nemesis {
        daemon: &mut daemon,
        broker: &broker,
        relay: &relay,
        history: Arc::clone(&history),
        random,
        direct: "d",
    }
    .rage(until)
    .await;

    crowd.settle_down().await;
    let queues = wait_for_rest(&daemon, &history, broker.has_quorum_lanes()).await;
    crowd.dismiss().await;
    let items = everything(&daemon).await;
    history.append(
        items.iter().map(|shown| json!({"item": shown.item, "timeline": shown.timeline, "payload": shown.payload})),
    );
    let parked = daemon.get("/api/v1/parked?limit=1000").await["items"].as_array().expect("a list").clone();
    let events = history.events();
    eprintln!("torture: {faults} faults, {} items, {} events", items.len(), events.len());
    assert!(faults > 0 && items.len() > 100, "the run has to be one");
    let mut wrong = check(&Evidence { events: &events, items: &items, queues: &queues, parked: &parked });
    wrong.extend(daemon.log().lines().filter(|line| line.contains("panicked")).map(str::to_owned));
    assert!(wrong.is_empty(), "{} violations\n{}", wrong.len(), wrong.join("\n"));
    drop(told);
}

/// One of them, each as often as its weight says.
fn pick<T: Copy>(random: &mut fastrand::Rng, choice: &[(T, u32)]) -> T {
    let mut left = random.u32(0..choice.iter().map(|(_, weight)| weight).sum());
    for (one, weight) in choice {
        if left < *weight {
            return *one;
        }
        left -= weight;
    }
    unreachable!("the weights are summed up")
}

/// Says on failure how to have it again.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("torture: again with {}", self.0);
        }
    }
}

/// Producers and robots.
#[derive(Default)]
struct Crowd {
    producers: JoinSet<()>,
    robots: JoinSet<()>,
    enough: CancellationToken,
    well_behaved: CancellationToken,
    stop: CancellationToken,
}

impl Crowd {
    fn gather(&mut self, daemon: &Daemon, history: &Arc<History>, quorum: bool, dice: &mut fastrand::Rng) {
        for queue in QUEUES {
            let producer = Producer {
                vhost: Arc::clone(&daemon.vhost),
                history: Arc::clone(history),
                queue: queue.key,
                named: queue.named,
                managed: !queue.direct,
                random: dice.fork(),
            };
            if !queue.fed {
                self.producers.spawn(producer.run(self.enough.clone()));
            }
            for number in 0..ROBOTS_PER_QUEUE {
                let robot = Robot {
                    name: format!("{}-{number}", queue.key),
                    vhost: Arc::clone(&daemon.vhost),
                    history: Arc::clone(history),
                    queue: queue.key,
                    silent: queue.silent,
                    some_are_poison: quorum,
                    random: dice.fork(),
                    well_behaved: self.well_behaved.clone(),
                    stop: self.stop.clone(),
                };
                self.robots.spawn(robot.run());
            }
            if !queue.silent && !queue.fed {
                let leaseholder = Leaseholder {
                    name: format!("{}-http", queue.key),
                    url: daemon.url().to_owned(),
                    history: Arc::clone(history),
                    queue: queue.key,
                    random: dice.fork(),
                    well_behaved: self.well_behaved.clone(),
                    stop: self.stop.clone(),
                };
                self.robots.spawn(leaseholder.run());
            }
        }
        let over_http =
            producers::over_http(daemon.url().to_owned(), "u", Arc::clone(history), dice.fork(), self.enough.clone());
        self.producers.spawn(over_http);
        let asked_of = QUEUES.iter().filter(|queue| queue.named && !queue.silent).map(|queue| queue.key).collect();
        let (url, history, enough) = (daemon.url().to_owned(), Arc::clone(history), self.enough.clone());
        self.producers.spawn(operator::run(url, asked_of, history, dice.fork(), enough));
    }

    /// Ends the producers, each with its last item confirmed; robots do as they should from now on.
    async fn settle_down(&mut self) {
        self.enough.cancel();
        self.well_behaved.cancel();
        in_time("the producers end", &mut self.producers).await;
    }

    async fn dismiss(&mut self) {
        self.stop.cancel();
        in_time("the robots end", &mut self.robots).await;
    }
}

async fn in_time(what: &str, tasks: &mut JoinSet<()>) {
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            ended.expect("it did its work");
        }
    };
    tokio::time::timeout(REST, all).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Waits until nothing moves any more: nothing is open but what the daemon says it cannot account for.
async fn wait_for_rest(daemon: &Daemon, history: &History, says_what_was_out: bool) -> BTreeMap<String, QueueEnd> {
    let began = Instant::now();
    loop {
        let mut queues = BTreeMap::new();
        let mut restless = Vec::new();
        for queue in QUEUES {
            let shown = daemon.queue(queue.key).await;
            let open = shown["counts"]["queued"].as_u64().unwrap() + shown["counts"]["processing"].as_u64().unwrap();
            let unaccounted = shown["unaccounted"].as_u64().expect("a count");
            if open != unaccounted || shown["ready"] != 0 {
                restless.push(shown);
            }
            let rules = Rules {
                direct: queue.direct,
                unique: queue.unique,
                it: 2,
                generic: 1,
                requeues: 3,
                crash_limit: 4,
                says_what_was_out,
                all_report: queue.named && !queue.silent,
                feeds: queue.definition == FEEDS,
                fed: queue.fed,
            };
            queues.insert(queue.key.to_owned(), QueueEnd { rules, unaccounted });
        }
        if restless.is_empty() {
            return queues;
        }
        if began.elapsed() > REST {
            history.append(restless.iter().cloned());
            panic!("it does not come to rest: {restless:?}\n{}", open_items(daemon).await);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn open_items(daemon: &Daemon) -> String {
    let mut lines = Vec::new();
    for item in daemon.items("state=queued,processing").await.iter().take(10) {
        lines.push(format!("{item}\n  {}", json!(daemon.timeline(item).await)));
    }
    lines.join("\n")
}

/// Every item with its timeline and payload, all of one moment: what is unaccounted for may yet turn out to be missing.
async fn everything(daemon: &Daemon) -> Vec<Shown> {
    loop {
        let items = daemon.items("").await;
        let shown = with_their_past(daemon, items.clone()).await;
        if daemon.items("").await == items {
            return shown;
        }
    }
}

async fn with_their_past(daemon: &Daemon, items: Vec<Value>) -> Vec<Shown> {
    futures::stream::iter(items)
        .map(async |item: Value| {
            let timeline = daemon.timeline(&item).await;
            let payload = daemon.payload(&item).await;
            Shown { item, timeline, payload }
        })
        .buffered(8)
        .collect()
        .await
}
