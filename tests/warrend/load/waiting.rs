//! What waits costs neither memory nor time: in the mirror, in the broker while the daemon is away, in the tap.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{items, publish, publish_sized, publish_with};
use crate::support::amqp::{Client, headers, text};
use crate::support::daemon::{Daemon, daemon};

/// Items that wait when memory is looked at for the first time: by then every part has done its work once.
const FEW: usize = 2_000;

/// MiB that many items may take beyond few of them: the page caches of five connections, and what the allocator does
/// not give back. The bodies alone have 78 MiB, of a million 488.
const MEMORY: u64 = 48;

/// A start with many items may take so much longer than one without.
const START: Duration = Duration::from_secs(5);

/// How long reading in a million may take.
const SOAK: Duration = Duration::from_secs(1800);

/// What is measured, as a table at the end of the test.
struct Figures {
    place: &'static str,
    lines: Vec<(String, String)>,
}

impl Figures {
    fn new(place: &'static str, items: usize) -> Self {
        let broker = crate::support::broker::broker();
        Self { place, lines: vec![("items".to_owned(), format!("{items}, RabbitMQ {}", broker.version))] }
    }

    fn add(&mut self, what: impl Into<String>, figure: String) {
        self.lines.push((what.into(), figure));
    }

    fn memory(&mut self, what: &str, daemon: &Daemon) -> u64 {
        let (now, peak) = (daemon.memory(), daemon.peak_memory());
        self.add(format!("memory, {what}"), format!("{now} MiB, at most {peak} MiB so far"));
        now
    }

    /// `items` in the time since `began`.
    fn rate(&mut self, what: &str, items: usize, began: Instant) {
        let seconds = began.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a count of items")]
        let rate = items as f64 / seconds;
        self.add(what, format!("{seconds:.1} s, {rate:.0}/s"));
    }

    /// Each route of interest, the middle of five answers.
    async fn latencies(&mut self, daemon: &Daemon, queue: &str) {
        for path in [
            "/readyz".to_owned(),
            "/api/v1/queues".to_owned(),
            "/api/v1/items".to_owned(),
            format!("/api/v1/items?queue={queue}"),
            format!("/api/v1/items?queue={queue}&state=queued"),
            "/api/v1/items?state=exception".to_owned(),
            "/api/v1/items?state=queued,processing&sort=oldest".to_owned(),
            "/api/v1/items?reference=item-7".to_owned(),
            "/api/v1/items?sort=priority".to_owned(),
        ] {
            let mut times = Vec::new();
            for _ in 0..5 {
                let began = Instant::now();
                daemon.get(&path).await;
                times.push(began.elapsed());
            }
            times.sort();
            self.add(format!("GET {path}"), format!("{:.1} ms", times[2].as_secs_f64() * 1000.0));
        }
    }

    fn print(self) {
        let mut table = format!("\nwaiting in {}\n", self.place);
        for (what, figure) in self.lines {
            table.push_str(&format!("  {what:<62} {figure}\n"));
        }
        println!("{table}");
    }
}

/// Waits until the mirror knows so many items of a queue that wait.
async fn until_queued(daemon: &Daemon, queue: &str, items: usize) {
    let began = Instant::now();
    while daemon.queue(queue).await["counts"]["queued"].as_u64() != Some(items as u64) {
        assert!(began.elapsed() < SOAK, "{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Stops the daemon and starts it again; how long the start took.
async fn restart(daemon: &mut Daemon) -> Duration {
    assert!(daemon.stop().success());
    start(daemon).await
}

async fn start(daemon: &mut Daemon) -> Duration {
    let began = Instant::now();
    daemon.start_again().await;
    began.elapsed()
}

fn seconds(span: Duration) -> String {
    format!("{:.2} s", span.as_secs_f64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_items_that_wait_in_the_mirror_cost_neither_memory_nor_time() {
    let many = items();
    let mut daemon = daemon("wait in the mirror").queues("queue: m\n").start().await;
    let mut figures = Figures::new("the mirror", many);
    let empty = restart(&mut daemon).await;
    figures.add("start, empty", seconds(empty));
    publish(&daemon.vhost, "m", 0..FEW).await;
    until_queued(&daemon, "m", FEW).await;
    figures.latencies(&daemon, "m").await;
    let few = figures.memory(&format!("with {FEW}"), &daemon);

    let began = Instant::now();
    publish(&daemon.vhost, "m", FEW..many).await;
    figures.rate("publish", many - FEW, began);
    until_queued(&daemon, "m", many).await;
    figures.rate("publish and take in", many - FEW, began);
    figures.latencies(&daemon, "m").await;
    let with_many = figures.memory("with all", &daemon);

    let full = restart(&mut daemon).await;
    figures.add("start, with all", seconds(full));
    figures.memory("after that start", &daemon);
    // Robots take while everything waits: window after window.
    let client = Client::connect(&daemon.vhost).await;
    let mut robot = client.robot("m").await;
    let began = Instant::now();
    for _ in 0..FEW {
        let delivery = robot.next().await;
        robot.ack(&delivery).await;
    }
    figures.rate(&format!("a robot takes {FEW}, one at a time"), FEW, began);
    let after_all = figures.memory("after that", &daemon);
    figures.print();

    assert!(with_many.max(after_all) <= few + MEMORY, "{few} MiB with {FEW} items, then {with_many} and {after_all}");
    assert!(full <= empty + START, "ready after {full:?}, empty after {empty:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_items_that_wait_for_a_time_cost_no_memory_and_hold_up_nobody_whose_time_has_come() {
    const SMALL: usize = 512;
    let many = items();
    let mut daemon = daemon("wait for a time").queues("queue: m\ndue_after: 7d\n").start().await;
    let mut figures = Figures::new("the mirror, for a time", many);
    let at = |seconds: i64| (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds)).to_string();
    let not_before = |seconds: i64| headers(&[("wq-not-before", text(&at(seconds)))]);
    publish_with(&daemon.vhost, "m", 0..FEW, SMALL, &not_before(86_400)).await;
    until_queued(&daemon, "m", FEW).await;
    let few = figures.memory(&format!("with {FEW}"), &daemon);
    publish_with(&daemon.vhost, "m", FEW..many, SMALL, &not_before(86_400)).await;
    until_queued(&daemon, "m", many).await;
    // What was seen last may be shown again, the longer the more it cost to see.
    let all = json!({"in_time": many, "at_risk": 0, "late": 0});
    daemon.wait_until("all are counted", async |daemon: &Daemon| daemon.queue("m").await["sla"] == all).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let began = Instant::now();
        daemon.queue("m").await;
        slowest = slowest.max(began.elapsed());
    }
    figures.add("GET /api/v1/queues/m, the slowest of 20", seconds(slowest));
    figures.add("start, with all", seconds(restart(&mut daemon).await));

    let client = Client::connect(&daemon.vhost).await;
    let mut robot = client.robot("m").await;
    publish_with(&daemon.vhost, "m", many..many + FEW, SMALL, &not_before(2)).await;
    let began = Instant::now();
    for _ in 0..FEW {
        let delivery = robot.next().await;
        robot.ack(&delivery).await;
    }
    figures.rate(&format!("{FEW} whose time comes, worked by one robot"), FEW, began);
    let with_many = figures.memory("with all", &daemon);
    figures.print();
    assert!(with_many <= few + MEMORY, "{few} MiB with {FEW} items, then {with_many}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_items_that_wait_in_the_broker_are_read_in_with_flat_memory() {
    reads_in("broker", "wq.intake of the broker", "queue: m\n", "m").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_items_that_wait_in_the_tap_are_read_in_with_flat_memory() {
    reads_in("tap", "the tap", "queue: d\nlane: direct\n", "d").await;
}

/// Items come while the daemon is away; it starts and reads them in.
async fn reads_in(name: &str, place: &'static str, definition: &str, queue: &str) {
    let many = items();
    let mut daemon =
        daemon(&format!("wait in the {name}")).queues(definition).setting("TAP__MAX_BYTES", "8GiB").start().await;
    let mut figures = Figures::new(place, many);
    publish(&daemon.vhost, queue, 0..FEW).await;
    until_queued(&daemon, queue, FEW).await;
    let few = figures.memory(&format!("with {FEW} read in"), &daemon);
    let empty = restart(&mut daemon).await;
    figures.add("start, with nothing to read", seconds(empty));
    assert!(daemon.stop().success());

    let began = Instant::now();
    publish(&daemon.vhost, queue, FEW..many).await;
    figures.rate("publish while the daemon is away", many - FEW, began);
    let full = start(&mut daemon).await;
    figures.add("start, with all to read", seconds(full));
    let began = Instant::now();
    until_queued(&daemon, queue, many).await;
    figures.rate("read in, after the start", many - FEW, began);
    let with_many = figures.memory("with all read in", &daemon);
    let peak = daemon.peak_memory();
    figures.latencies(&daemon, queue).await;
    figures.print();

    assert_eq!(daemon.get("/readyz").await["attention"]["tap_lost"], json!(0));
    assert!(with_many.max(peak) <= few + MEMORY, "{few} MiB with {FEW} items, then {with_many}, at most {peak}");
    assert!(full <= empty + START, "ready after {full:?}, with nothing to read after {empty:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_large_items_only_a_few_are_in_memory_at_once() {
    /// Of 1 MB each, in each lane: with every delivery that may be unacked in memory, it would be all of them.
    const LARGE: usize = 100;
    /// MiB for a batch as it was delivered, as it is read and as it is written, what is held behind it, and what is on
    /// its way out again.
    const IN_HAND: u64 = 128;
    let queues = "queue: m\n---\nqueue: d\nlane: direct\n";
    let mut daemon = daemon("large items").queues(queues).start().await;
    for queue in ["m", "d"] {
        publish(&daemon.vhost, queue, 0..FEW).await;
        until_queued(&daemon, queue, FEW).await;
    }
    let few = daemon.memory();
    assert!(daemon.stop().success());
    for queue in ["m", "d"] {
        publish_sized(&daemon.vhost, queue, FEW..FEW + LARGE, 1_000_000).await;
    }
    start(&mut daemon).await;
    for queue in ["m", "d"] {
        until_queued(&daemon, queue, FEW + LARGE).await;
    }
    let peak = daemon.peak_memory();
    eprintln!("{LARGE} items of 1 MB in each lane: {few} MiB before, at most {peak} MiB");
    assert!(peak <= few + IN_HAND, "{few} MiB before, then at most {peak} MiB");
}
