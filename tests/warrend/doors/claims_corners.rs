//! Claims beside what goes on around them: breakers, people, who hangs up, and answers that are none.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use crate::support::amqp::Client;
use crate::support::daemon::{Daemon, daemon};

async fn claim(daemon: &Daemon, queue: &str, worker: &str, wait: &str) -> (u16, Value) {
    daemon.post(&format!("/api/v1/queues/{queue}/claim"), &json!({"worker": worker, "wait": wait})).await
}

fn path(item: &Value, verb: &str) -> String {
    format!("/api/v1/items/{}/{verb}", item["id"].as_str().expect("an id"))
}

async fn outcome(daemon: &Daemon, claimed: &Value, kind: &str) -> (u16, Value) {
    let body = json!({"type": kind, "lease": claimed["lease"]});
    daemon.post(&path(&claimed["items"][0], "outcome"), &body).await
}

async fn until_breaker(daemon: &Daemon, state: &str) {
    daemon
        .wait_until(&format!("the breaker is {state}"), async |daemon: &Daemon| {
            daemon.queue("a").await["breaker"]["state"] == state
        })
        .await;
}

async fn until_state(daemon: &Daemon, queue: &str, reference: &str, state: &str) {
    daemon
        .wait_until(&format!("{reference} is {state}"), async |daemon: &Daemon| {
            daemon.item(queue, reference).await["state"] == state
        })
        .await;
}

#[tokio::test]
async fn an_open_breaker_gives_nothing_out_and_then_one_item_to_one_alone() {
    let yaml = "queue: a\nretry: {it: {limit: 0}}\nbreaker: {after: 2, pause: 10s}\n";
    let daemon = daemon("claim breaker").queues(yaml).start().await;
    let client = Client::connect(&daemon.vhost).await;
    for number in 0..6 {
        client.send("a", &format!("r-{number}"), &json!({})).await;
    }
    for _ in 0..2 {
        let (status, claimed) = claim(&daemon, "a", "ann", "60s").await;
        assert_eq!(status, 200, "{claimed}");
        assert_eq!(outcome(&daemon, &claimed, "it_exception").await.0, 200);
    }
    until_breaker(&daemon, "open").await;
    assert_eq!(claim(&daemon, "a", "ann", "0s").await.0, 204);
    assert_eq!(claim(&daemon, "a", "ann", "300ms").await.0, 204);
    // Who waits gets the one that is tried, and nobody else gets another.
    let (status, tried) = claim(&daemon, "a", "ann", "60s").await;
    assert_eq!((status, tried["items"].as_array().map(Vec::len)), (200, Some(1)), "{tried}");
    until_breaker(&daemon, "trying").await;
    assert_eq!(claim(&daemon, "a", "bob", "1s").await.0, 204);
    assert_eq!(outcome(&daemon, &tried, "it_exception").await.0, 200);
    until_breaker(&daemon, "open").await;
    let (status, tried) = claim(&daemon, "a", "ann", "60s").await;
    assert_eq!(status, 200, "{tried}");
    assert_eq!(outcome(&daemon, &tried, "processed").await.0, 200);
    until_breaker(&daemon, "closed").await;
    let (first, second) = tokio::join!(claim(&daemon, "a", "ann", "60s"), claim(&daemon, "a", "bob", "60s"));
    assert_eq!((first.0, second.0), (200, 200));
}

/// A request under way, that can be hung up.
fn request(daemon: &Daemon, path: &str, body: Value, key: Option<&str>) -> JoinHandle<u16> {
    let mut call =
        reqwest::Client::builder().no_proxy().build().expect("a client").post(format!("{}{path}", daemon.url()));
    if let Some(key) = key {
        call = call.header("idempotency-key", key);
    }
    let call = call.json(&body);
    tokio::spawn(async move { call.send().await.map_or(0, |answer| answer.status().as_u16()) })
}

async fn hang_up(request: JoinHandle<u16>) {
    request.abort();
    assert!(request.await.is_err(), "it is answered already");
}

async fn last_line(daemon: &Daemon, queue: &str, reference: &str) -> Value {
    let line = daemon.timeline(&daemon.item(queue, reference).await).await.pop().expect("a line");
    json!([line["event"], line["why"]])
}

#[tokio::test]
async fn what_is_committed_for_somebody_who_hung_up_is_given_back() {
    let mut daemon =
        daemon("claim hang-up").queues("queue: a\n---\nqueue: p\npaused: {dispatch: true}\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("a", "r", &json!({})).await;
    client.send("p", "named", &json!({})).await;
    client.send("p", "keyed", &json!({})).await;
    daemon.wait_until("one is with the broker", async |_: &Daemon| client.ready("wq.q.a").await == 1).await;
    daemon.wait_until("two wait", async |daemon: &Daemon| daemon.queue("p").await["counts"]["queued"] == 2).await;
    daemon.kill();
    daemon.spawn_with(&[("WARREND_FAIL_POINT", "claims.committed=sleep:2000,leases.committed=sleep:2000")]);
    daemon.wait_until("it is ready", async |daemon: &Daemon| daemon.is_ready().await).await;

    let waiting = request(&daemon, "/api/v1/queues/a/claim", json!({"worker": "ann", "wait": "60s"}), None);
    until_state(&daemon, "a", "r", "processing").await;
    hang_up(waiting).await;
    until_state(&daemon, "a", "r", "queued").await;
    let given_back = json!(["returned", "nobody waited for it any more"]);
    assert_eq!(last_line(&daemon, "a", "r").await, given_back);

    let named = path(&daemon.item("p", "named").await, "claim");
    let waiting = request(&daemon, &named, json!({"worker": "ann"}), None);
    until_state(&daemon, "p", "named", "processing").await;
    hang_up(waiting).await;
    until_state(&daemon, "p", "named", "queued").await;
    assert_eq!(last_line(&daemon, "p", "named").await, given_back);

    // Who gave a key may ask again, and has it.
    let keyed = path(&daemon.item("p", "keyed").await, "claim");
    let waiting = request(&daemon, &keyed, json!({"worker": "ann"}), Some("k-1"));
    until_state(&daemon, "p", "keyed", "processing").await;
    hang_up(waiting).await;
    let mut status = 409;
    while status == 409 {
        // It is worked on to its end.
        status = request(&daemon, &keyed, json!({"worker": "ann"}), Some("k-1")).await.expect("an answer");
    }
    assert_eq!((status, daemon.item("p", "keyed").await["state"].clone()), (200, json!("processing")));
}

#[tokio::test]
async fn what_people_asked_of_an_item_is_carried_out_when_a_claim_meets_its_message() {
    let daemon = daemon("claim asked").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for reference in ["r0", "r1"] {
        client.send("a", reference, &json!({})).await;
    }
    daemon.wait_until("both are with the broker", async |_: &Daemon| client.ready("wq.q.a").await == 2).await;
    let asked = daemon.item("a", "r0").await;
    let (status, answer) = daemon.post(&path(&asked, "cancel"), &json!({"on_sight": true, "by": "ida"})).await;
    assert_eq!(status, 202, "{answer}");
    let (status, claimed) = claim(&daemon, "a", "ann", "60s").await;
    assert_eq!((status, &claimed["items"][0]["reference"]), (200, &json!("r1")), "{claimed}");
    until_state(&daemon, "a", "r0", "cancelled").await;
    daemon
        .wait_until("nothing of it is pending", async |daemon: &Daemon| {
            daemon.item("a", "r0").await["pending"].is_null()
        })
        .await;
    assert_eq!(outcome(&daemon, &claimed, "processed").await.0, 200);
    daemon.wait_until("no ack is left over", async |daemon: &Daemon| daemon.queue("a").await["unaccounted"] == 0).await;
}

#[tokio::test]
async fn what_is_claimed_counts_as_worked_wherever_that_is_shown() {
    let daemon = daemon("claim counts").queues("queue: a\nmax_working: 1\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for reference in ["r0", "r1"] {
        client.send("a", reference, &json!({})).await;
    }
    let (status, claimed) = claim(&daemon, "a", "ann", "60s").await;
    assert_eq!((status, &claimed["items"][0]["reference"]), (200, &json!("r0")), "{claimed}");
    let waits = daemon.item("a", "r1").await;
    let why = daemon.get(&path(&waits, "why")).await;
    assert_eq!((&why["details"]["working"], &why["details"]["max_working"]), (&json!(1), &json!(1)), "{why}");
    // By its name somebody has it all the same.
    let (status, mine) = daemon.post(&path(&waits, "claim"), &json!({"worker": "bob"})).await;
    assert_eq!(status, 200, "{mine}");
}

/// Answers requests in this order, each on a connection of its own, and tells what came.
async fn answers(listener: tokio::net::TcpListener, answers: Vec<(&'static str, String)>) -> Vec<String> {
    let mut came = Vec::new();
    for (status, body) in answers {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut read = Vec::new();
        let whole = loop {
            let mut more = [0; 4096];
            let count = stream.read(&mut more).await.expect("a request");
            read.extend_from_slice(&more[..count]);
            let text = String::from_utf8_lossy(&read).into_owned();
            let length = text.to_ascii_lowercase().split("content-length: ").nth(1).map(|rest| {
                rest.split("\r\n").next().and_then(|length| length.parse::<usize>().ok()).unwrap_or_default()
            });
            let body = text.split_once("\r\n\r\n").map(|(_, body)| body.len());
            if count == 0 || (body.is_some() && body >= length) {
                break text;
            }
        };
        came.push(whole);
        let head = format!(
            "HTTP/1.1 {status}\r\nretry-after: 0\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).await.expect("an answer");
    }
    came
}

#[tokio::test]
async fn the_example_robot_tells_its_work_again_until_it_is_heard() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let claimed = json!({"items": [{"id": "i-1", "reference": "r", "payload": {"amount": 7}}], "lease": "L"});
    let html = || "<html>away</html>".to_owned();
    let told = vec![
        ("503 Service Unavailable", html()),
        ("429 Too Many Requests", "{}".to_owned()),
        ("200 OK", claimed.to_string()),
        ("502 Bad Gateway", html()),
        ("200 OK", html()),
        ("200 OK", "{}".to_owned()),
    ];
    let served = tokio::spawn(answers(listener, told));
    let mut robot = std::process::Command::new("python3");
    robot.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/python/http_robot.py")).args([&url, "a", "1"]);
    robot.env("WARREND_TOKEN", "t-1");
    let output = tokio::task::spawn_blocking(move || robot.output().expect("python3 runs")).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let came = served.await.expect("all were asked for");
    for (number, request) in came.iter().enumerate() {
        assert!(request.to_ascii_lowercase().contains("authorization: bearer t-1"), "{request}");
        let expected = if number < 3 { "/api/v1/queues/a/claim" } else { "/api/v1/items/i-1/outcome" };
        assert!(request.contains(expected), "{request}");
        assert_eq!(request.contains(r#""type": "processed""#), number >= 3, "{request}");
    }
}
