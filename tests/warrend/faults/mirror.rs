//! A mirror under pressure: a full disk, a lock that another process holds, a damaged page, a disk that is slow. The
//! daemon stays up, says what is wrong, acks nothing that it has not committed, and goes on by itself.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::support::amqp::Client;
use crate::support::broker::Vhost;
use crate::support::daemon::{Daemon, daemon};

/// Producers of both doors that send one item after another until they are told to end.
struct Load {
    stop: Arc<Semaphore>,
    over_amqp: JoinHandle<Vec<String>>,
    over_http: JoinHandle<Answers>,
    refused: Arc<AtomicUsize>,
}

/// What the API answered, by reference, each answer in its turn.
#[derive(Default)]
struct Answers {
    by_reference: BTreeMap<String, Vec<u16>>,
    /// Problems that are no fault of the item, each with `Retry-After`.
    problems: Vec<(Value, Option<String>)>,
}

impl Load {
    /// Every item has a body of about `size` bytes.
    async fn start(daemon: &Daemon, size: usize) -> Self {
        let stop = Arc::new(Semaphore::new(0));
        let over_amqp = tokio::spawn(send(Client::connect(&daemon.vhost).await, Arc::clone(&stop), size));
        let refused = Arc::new(AtomicUsize::new(0));
        let url = format!("{}/api/v1/queues/a/items", daemon.url());
        let over_http = tokio::spawn(enqueue(url, Arc::clone(&stop), size, Arc::clone(&refused)));
        Self { stop, over_amqp, over_http, refused }
    }

    /// Small items may still fit while batches do not: waits until a caller was refused.
    async fn until_refused(&self, daemon: &Daemon) {
        daemon.wait_until("a caller is refused", async |_: &Daemon| self.refused.load(Ordering::Relaxed) > 0).await;
    }

    /// Ends both and holds the mirror to what they were told: what was confirmed or answered with 201 is there once,
    /// whatever else was answered to it before, and nothing is there twice.
    async fn end(self, daemon: &Daemon) -> Answers {
        self.stop.close();
        let confirmed = self.over_amqp.await.expect("every publish is confirmed");
        let answers = self.over_http.await.expect("every request is answered");
        daemon
            .wait_until("the intake is read", async |daemon: &Daemon| {
                let counts = daemon.queue("a").await["counts"].clone();
                let let_in = answers.by_reference.values().filter(|answers| answers.contains(&201)).count();
                counts["queued"].as_u64() >= Some((confirmed.len() + let_in) as u64)
            })
            .await;
        let mut there: HashMap<String, u32> = HashMap::new();
        for item in daemon.items("queue=a").await {
            *there.entry(item["reference"].as_str().expect("a reference").to_owned()).or_default() += 1;
        }
        for reference in &confirmed {
            assert_eq!(there.remove(reference), Some(1), "{reference} was confirmed");
        }
        for (reference, answers) in &answers.by_reference {
            let there = there.remove(reference).unwrap_or_default();
            assert!(there <= 1, "{reference} is there {there} times, answered {answers:?}");
            let told = answers.iter().filter(|answer| **answer == 201).count();
            assert!(told <= 1, "{reference} was new {told} times: {answers:?}");
            // Nobody would ask again after this, so it has to be there; and what was never let in is not.
            let last = answers.last().copied();
            assert_eq!(there == 1, last == Some(201) || last == Some(200), "{reference}: {answers:?}");
        }
        assert_eq!(there, HashMap::new(), "nobody sent these");
        assert!(!confirmed.is_empty() && !answers.by_reference.is_empty());
        answers
    }
}

async fn send(client: Client, stop: Arc<Semaphore>, size: usize) -> Vec<String> {
    let mut confirmed = Vec::new();
    while !stop.is_closed() {
        let reference = format!("amqp-{}", confirmed.len());
        client.send("a", &reference, &json!("x".repeat(size))).await;
        confirmed.push(reference);
        breathe().await;
    }
    confirmed
}

/// Each item until it is let in, as a client does that heeds its answers.
async fn enqueue(url: String, stop: Arc<Semaphore>, size: usize, refused: Arc<AtomicUsize>) -> Answers {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut answers = Answers::default();
    let mut number = 0;
    while !stop.is_closed() {
        let reference = format!("http-{number}");
        let body = json!({"reference": reference, "payload": "x".repeat(size)});
        let answer = http.post(&url).json(&body).send().await.expect("the daemon answers");
        let status = answer.status().as_u16();
        let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().expect("text").to_owned());
        answers.by_reference.entry(reference).or_default().push(status);
        match status {
            200 | 201 => number += 1,
            _ => {
                answers.problems.push((answer.json().await.expect("a problem"), retry_after));
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        breathe().await;
    }
    answers
}

/// So that a load neither fills the machine nor waits for anything.
async fn breathe() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

impl Answers {
    /// Every request that was not served was told to come again, with this said in words.
    fn told_to_come_again(&self, why: &str) {
        assert!(!self.problems.is_empty(), "nobody was refused");
        for (problem, retry_after) in &self.problems {
            assert_eq!(problem["type"], "urn:warrend:problem:mirror_unavailable", "{problem}");
            assert_eq!(problem["status"], 503, "{problem}");
            assert!(problem["detail"].as_str().expect("a detail").contains(why), "{problem}");
            assert_eq!(retry_after.as_deref(), Some("5"), "{problem}");
        }
    }
}

/// Waits until `/readyz` is 503 and its `mirror` check says this.
async fn until_it_says(daemon: &Daemon, why: &str) {
    daemon
        .wait_until(&format!("/readyz says '{why}'"), async |daemon: &Daemon| {
            let Some((status, body)) = daemon.get_with_status("/readyz").await else { return false };
            let check = &body["checks"]["mirror"];
            status == 503 && check["ok"] == false && check["detail"].as_str().is_some_and(|said| said.contains(why))
        })
        .await;
}

async fn until_ready(daemon: &Daemon) {
    daemon
        .wait_until("/readyz is 200 again", async |daemon: &Daemon| {
            daemon.get_with_status("/readyz").await.is_some_and(|(status, _)| status == 200)
        })
        .await;
}

/// The intake has no consumer: what cannot be committed is not taken.
async fn until_nobody_takes_in(daemon: &Daemon, client: &Client) {
    daemon
        .wait_until("nobody consumes from wq.intake", async |_: &Daemon| client.consumers("wq.intake").await == 0)
        .await;
}

fn assert_no_panic(daemon: &Daemon) {
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

/// A small disk of its own under a directory, for as long as this lives.
struct Disk(PathBuf);

impl Disk {
    /// `None` where this process may not mount.
    fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o"]).arg(format!("size={size}")).arg("tmpfs").arg(at);
        mount.output().is_ok_and(|done| done.status.success()).then(|| Self(at.to_owned()))
    }

    fn enlarge(&self, size: &str) {
        let mut mount = Command::new("mount");
        mount.arg("-o").arg(format!("remount,size={size}")).arg(&self.0);
        assert!(mount.status().expect("mount runs").success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the daemon that had files there may be about to end.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_the_intake_until_there_is_room() {
    let folder = tempfile::tempdir().expect("a directory");
    let Some(disk) = Disk::mount(&folder.path().join("disk"), "4m") else {
        eprintln!("left out: this process may not mount; the limit on file sizes is tried all the same");
        return;
    };
    let url = format!("sqlite://{}", disk.0.join("mirror.db").display());
    let daemon = daemon("disk full").queues("queue: a\n").setting("MIRROR__URL", &url).start().await;
    fills_up_and_goes_on(daemon, "make room", |_| disk.enlarge("256m")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_may_not_grow_stops_the_intake_until_it_may() {
    let daemon = daemon("file size limit").queues("queue: a\n").outlives_size_limits().start().await;
    limit_file_size(&daemon, "3000000:unlimited");
    fills_up_and_goes_on(daemon, "quotas and limits", |daemon| limit_file_size(daemon, "unlimited:unlimited")).await;
}

fn limit_file_size(daemon: &Daemon, limit: &str) {
    let mut prlimit = Command::new("prlimit");
    prlimit.arg(format!("--fsize={limit}")).arg("--pid").arg(daemon.pid().to_string());
    assert!(prlimit.status().expect("prlimit runs").success());
}

async fn fills_up_and_goes_on(daemon: Daemon, why: &str, make_room: impl FnOnce(&Daemon)) {
    let client = Client::connect(&daemon.vhost).await;
    let load = Load::start(&daemon, 20_000).await;
    until_it_says(&daemon, why).await;
    load.until_refused(&daemon).await;
    until_nobody_takes_in(&daemon, &client).await;
    let waiting = client.ready("wq.intake").await;
    daemon.wait_until("the intake grows", async |_: &Daemon| client.ready("wq.intake").await > waiting + 20).await;
    // What is there can be read all the while.
    assert!(daemon.queue("a").await["counts"]["queued"].as_u64() > Some(0));

    make_room(&daemon);
    until_ready(&daemon).await;
    let answers = load.end(&daemon).await;
    answers.told_to_come_again(why);
    assert_no_panic(&daemon);
    assert!(daemon.log().contains("the mirror could not commit"), "{}", daemon.log());
    assert!(daemon.log().contains("the mirror can be written again"), "{}", daemon.log());
}

/// Another process's connection to the mirror.
async fn stranger(daemon: &Daemon) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(daemon.mirror_path()).busy_timeout(Duration::from_secs(60));
    options.connect().await.expect("the mirror")
}

async fn execute(connection: &mut SqliteConnection, sql: &'static str) {
    sqlx::query(sql).execute(connection).await.expect("done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_another_process_holds_stops_the_intake_until_it_lets_go() {
    let daemon = daemon("locked").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let load = Load::start(&daemon, 200).await;
    daemon
        .wait_until("the load flows", async |daemon: &Daemon| {
            daemon.queue("a").await["counts"]["queued"].as_u64() > Some(20)
        })
        .await;
    let mut stranger = stranger(&daemon).await;
    execute(&mut stranger, "BEGIN EXCLUSIVE").await;
    until_it_says(&daemon, "another process").await;
    load.until_refused(&daemon).await;
    until_nobody_takes_in(&daemon, &client).await;
    // Nothing was written since, and it can be read.
    let before = daemon.queue("a").await["counts"].clone();
    assert_eq!(daemon.queue("a").await["counts"], before);
    execute(&mut stranger, "ROLLBACK").await;
    until_ready(&daemon).await;
    load.end(&daemon).await.told_to_come_again("another process");
    assert_no_panic(&daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_slows_the_intake_and_loses_no_session() {
    /// One beat in a second: a daemon that does not serve its connections loses them within three.
    const BEAT: u16 = 1;
    const LONG_ENOUGH: Duration = Duration::from_secs(8);
    let daemon = daemon("slow disk").queues("queue: a\n").heartbeat(BEAT).start().await;
    let sessions = |daemon: &Daemon| daemon.log().matches("connected to RabbitMQ").count();
    assert_eq!(sessions(&daemon), 1);
    let memory = daemon.memory();
    // Whoever holds the lock most of the time makes every commit as slow as a slow disk would.
    let mut stranger = stranger(&daemon).await;
    let done = Arc::new(Semaphore::new(0));
    let ends = Arc::clone(&done);
    let slows = tokio::spawn(async move {
        let mut bursts = 0;
        while !ends.is_closed() {
            execute(&mut stranger, "BEGIN IMMEDIATE").await;
            tokio::time::sleep(Duration::from_millis(400)).await;
            execute(&mut stranger, "ROLLBACK").await;
            // Longer than SQLite sleeps between two tries for a lock.
            tokio::time::sleep(Duration::from_millis(150)).await;
            bursts += 1;
        }
        bursts
    });
    let loads = (Load::start(&daemon, 20_000).await, Instant::now());
    daemon.wait_until("it was slow for long enough", async |_: &Daemon| loads.1.elapsed() > LONG_ENOUGH).await;
    let grown = daemon.memory().saturating_sub(memory);
    let answers = loads.0.end(&daemon).await;
    done.close();
    assert!(slows.await.expect("the slow disk did its part") > 10);
    assert_eq!(answers.problems.len(), 0, "{:?}", answers.problems);
    assert_eq!(sessions(&daemon), 1, "{}", daemon.log());
    for line in ["no broker session", "a pipeline failed", "could not commit"] {
        assert!(!daemon.log().contains(line), "{}", daemon.log());
    }
    assert!(grown < 64, "{grown} MiB more than at the start");
    assert_no_panic(&daemon);
}

/// Pages of a table where its rows are, in their order.
async fn leaves(mirror: &Path, table: &str) -> Vec<u64> {
    let mut connection = SqliteConnectOptions::new().filename(mirror).connect().await.expect("the mirror");
    // Everything into the file itself, and a change that makes other connections forget the pages they know.
    execute(&mut connection, "INSERT INTO meta VALUES ('test', '1') ON CONFLICT (key) DO UPDATE SET value = value + 1")
        .await;
    let checkpoint = sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut connection);
    let (busy, ..): (i64, i64, i64) = checkpoint.await.expect("a checkpoint");
    assert_eq!(busy, 0, "the log was not written back");
    let sql = "SELECT pageno FROM dbstat WHERE name = $1 AND pagetype = 'leaf' ORDER BY path";
    let pages: Vec<i64> = sqlx::query_scalar(sql).bind(table).fetch_all(&mut connection).await.expect("pages");
    connection.close().await.expect("closed");
    pages.into_iter().map(i64::unsigned_abs).collect()
}

/// Overwrites the page in the middle, as a disk does that fails.
async fn damage(mirror: &Path, table: &str) {
    const PAGE: [u8; 4096] = [0x5a; 4096];
    let leaves = leaves(mirror, table).await;
    assert!(leaves.len() > 4, "{table} has {} pages", leaves.len());
    let file = std::fs::File::options().write(true).open(mirror).expect("the file");
    file.write_all_at(&PAGE, (leaves[leaves.len() / 2] - 1) * PAGE.len() as u64).expect("damaged");
}

/// A daemon with items that wait in the mirror for a queue without room, and the client of its vhost.
async fn with_items(name: &str, items: usize) -> (Daemon, Client) {
    let daemon = daemon(name).queues("queue: a\nwindow: 1\n---\nqueue: b\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for number in 0..items {
        client.send("a", &format!("r-{number}"), &json!("x".repeat(500))).await;
    }
    daemon
        .wait_until("all are in the mirror", async |daemon: &Daemon| {
            daemon.queue("a").await["counts"]["queued"].as_u64() == Some(items as u64)
        })
        .await;
    (daemon, client)
}

/// The other queue is served as if nothing was, over both doors.
async fn serves_the_other_queue(daemon: &Daemon, vhost: &Vhost) {
    let client = Client::connect(vhost).await;
    let mut robot = client.robot("b").await;
    let (status, answer) = daemon.post("/api/v1/queues/b/items", &json!({"reference": "http", "payload": 1})).await;
    assert_eq!(status, 201, "{answer}");
    client.send("b", "amqp", &json!(1)).await;
    for _ in 0..2 {
        let delivery = robot.next().await;
        robot.done(&delivery).await;
    }
    daemon.wait_until_done("b", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_on_a_damaged_page_is_named_and_the_rest_goes_on() {
    const ITEMS: usize = 100;
    let (mut daemon, _client) = with_items("damaged payloads", ITEMS).await;
    assert!(daemon.stop().success());
    damage(&daemon.mirror_path(), "payloads").await;
    daemon.start_again().await;

    // Whoever asks for such a payload is told, and the daemon has noticed then.
    let mut damaged = 0;
    for item in daemon.items("queue=a").await {
        let path = format!("/api/v1/items/{}/payload", item["id"].as_str().expect("an id"));
        let (status, answer) = daemon.get_with_status(&path).await.expect("it answers");
        match status {
            200 => {}
            503 => {
                assert_eq!(answer["type"], "urn:warrend:problem:mirror_damaged", "{answer}");
                damaged += 1;
            }
            other => panic!("{other} {answer}"),
        }
    }
    assert!((1..ITEMS / 2).contains(&damaged), "{damaged} payloads are on one page");
    until_it_says(&daemon, "could not read a payload").await;
    until_it_says(&daemon, "'A damaged mirror' in docs/operations.md").await;
    let log = daemon.log();
    let said: Vec<&str> = log.lines().filter(|line| line.contains("What still works goes on")).collect();
    assert_eq!(said.len(), 1, "{log}");
    assert!(said[0].contains(&daemon.mirror_path().display().to_string()), "{}", said[0]);
    let vhost = &daemon.vhost;
    serves_the_other_queue(&daemon, vhost).await;
    assert_no_panic(&daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_touches_a_page_damaged_meanwhile_is_not_acked_and_the_rest_goes_on() {
    const ITEMS: usize = 200;
    let (daemon, client) = with_items("damaged items", ITEMS).await;
    let items = daemon.items("queue=a").await;
    damage(&daemon.mirror_path(), "items").await;
    serves_the_other_queue(&daemon, &daemon.vhost).await;

    let mut damaged = Vec::new();
    for item in &items {
        let path = format!("/api/v1/items/{}", item["id"].as_str().expect("an id"));
        match daemon.get_with_status(&path).await.expect("it answers") {
            (200, _) => {}
            (503, answer) => {
                assert_eq!(answer["type"], "urn:warrend:problem:mirror_damaged", "{answer}");
                damaged.push(item["reference"].as_str().expect("a reference"));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((1..ITEMS / 2).contains(&damaged.len()), "{damaged:?} are on one page");
    until_it_says(&daemon, "could not read an item").await;
    let (status, answer) = daemon.get_with_status("/api/v1/items?queue=a&limit=1000").await.expect("it answers");
    assert_eq!((status, &answer["type"]), (503, &json!("urn:warrend:problem:mirror_damaged")), "{answer}");

    // What is said again about one of them cannot be committed, so it stays in the broker.
    client.send("a", damaged[0], &json!("x".repeat(500))).await;
    daemon
        .wait_until("the intake fails by it", async |daemon: &Daemon| {
            daemon.log().contains("intake ended: the mirror could not look items up")
        })
        .await;
    daemon.wait_until("it is back in the intake", async |_: &Daemon| client.ready("wq.intake").await == 1).await;
    let (status, answer) = daemon.post("/api/v1/queues/b/items", &json!({"reference": "later", "payload": 1})).await;
    assert_eq!(status, 201, "{answer}");
    assert_no_panic(&daemon);
}
