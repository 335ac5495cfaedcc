//! Definitions that change while the daemon runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Listener, define, is_cloud_event, is_there, item, run, sessions};
use crate::support::amqp::Client;
use crate::support::broker::{broker, has_quorum_lanes};
use crate::support::daemon::{Daemon, daemon};

/// What a person is ready to wait for a change. It takes a fraction of a second on a machine that is not busy.
const SOON: Duration = Duration::from_secs(15);

/// Waits until the new queue lets items in and is on the broker; answers how long that took.
async fn in_force(daemon: &Daemon, key: &str, since: Instant) -> Duration {
    daemon
        .wait_until(&format!("{key} lets items in"), async |daemon: &Daemon| {
            daemon.post(&format!("/api/v1/queues/{key}/items"), &item("r")).await.0 == 201
        })
        .await;
    daemon
        .wait_until("its queue is there", async |daemon: &Daemon| is_there(daemon, &format!("wq.q.{key}")).await)
        .await;
    let took = since.elapsed();
    eprintln!("{key}: in force after {} ms", took.as_millis());
    assert!(took < SOON, "{key} took {took:?}");
    took
}

async fn revisions(daemon: &Daemon) -> Vec<Value> {
    daemon.get("/api/v1/revisions").await["items"].as_array().expect("revisions").clone()
}

#[tokio::test]
async fn a_change_is_in_force_at_once_and_nobody_else_notices() {
    let daemon = daemon("reload").queues("queue: steady\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let mut robot = client.robot("steady").await;
    let mut listener = Listener::on(&daemon).await;
    let dir = daemon.definitions_dir();

    // A new queue: written in place, renamed into place, and by a swapped link.
    let now = Instant::now();
    define(&daemon, "place.yaml", "queue: place\n");
    in_force(&daemon, "place", now).await;
    fs::write(dir.join(".rename.tmp"), "queue: rename\n").unwrap();
    let now = Instant::now();
    fs::rename(dir.join(".rename.tmp"), dir.join("rename.yaml")).unwrap();
    in_force(&daemon, "rename", now).await;
    let put = |version: &str, yaml: &str| {
        fs::create_dir(dir.join(version)).unwrap();
        fs::write(dir.join(version).join("linked.yaml"), yaml).unwrap();
        symlink(version, dir.join("..tmp")).unwrap();
        fs::rename(dir.join("..tmp"), dir.join("..data")).unwrap();
    };
    put("..1", "queue: linked\n");
    let now = Instant::now();
    symlink("..data/linked.yaml", dir.join("linked.yaml")).unwrap();
    in_force(&daemon, "linked", now).await;
    let now = Instant::now();
    put("..2", "queue: linked\n---\nqueue: swapped\n");
    in_force(&daemon, "swapped", now).await;

    // SIGHUP asks for a look, and ends nobody.
    let hangup = std::process::Command::new("kill").args(["-HUP", &daemon.pid().to_string()]).status().unwrap();
    assert!(hangup.success());
    let now = Instant::now();
    define(&daemon, "hangup.yaml", "queue: hangup\n");
    in_force(&daemon, "hangup", now).await;

    // A changed one.
    fs::create_dir(dir.join("schemas")).unwrap();
    fs::write(dir.join("schemas/place.json"), r#"{"type": "object", "required": ["amount"]}"#).unwrap();
    define(
        &daemon,
        "place.yaml",
        "queue: place\nwindow: 3\nretry: {it: {limit: 7}}\ncrash_limit: 2\nschema: schemas/place.json\n",
    );
    daemon
        .wait_until("it is in force", async |daemon: &Daemon| {
            revisions(daemon).await[0]["changes"].to_string().contains("crash_limit")
        })
        .await;
    let (status, refused) = daemon.post("/api/v1/queues/place/items", &item("unfit")).await;
    assert_eq!(status, 422, "{refused}");
    if has_quorum_lanes(&broker().version) {
        daemon
            .wait_until("crash_limit is on the broker", async |daemon: &Daemon| {
                let policy = daemon.vhost.management("GET", "/api/policies/{vhost}/wq.q.place", None).await;
                policy["definition"]["delivery-limit"] == json!(1)
            })
            .await;
    }
    let fit = |n: u32| json!({"reference": format!("fit-{n}"), "payload": {"amount": n}});
    for n in 0..6 {
        assert_eq!(daemon.post("/api/v1/queues/place/items", &fit(n)).await.0, 201);
    }
    daemon.wait_until("the window is full", async |_: &Daemon| client.ready("wq.q.place").await == 3).await;
    let mut place = client.robot("place").await;
    let delivery = place.next().await;
    place.report(&delivery, "it_exception", &json!({"reason": "x"})).await;
    place.ack(&delivery).await;
    daemon
        .wait_until("it is to be tried again", async |daemon: &Daemon| {
            daemon.items("queue=place").await.iter().any(|item| item["retries"] == 1 && item["state"] == "queued")
        })
        .await;

    // Nobody else noticed: the same consumer, the same session.
    assert_eq!(client.consumers("wq.q.steady").await, 1);
    client.send("steady", "r", &json!({})).await;
    let delivery = robot.next().await;
    robot.done(&delivery).await;
    daemon.wait_until_done("steady", 1).await;
    assert_eq!(sessions(&daemon), 1, "{}", daemon.log());

    // What was in force is listed, and a look without a change adds nothing.
    let before = revisions(&daemon).await;
    define(&daemon, "place.yaml", &fs::read_to_string(dir.join("place.yaml")).unwrap());
    let applied = run(&daemon, &["apply"]).await;
    assert_eq!((applied.code, applied.out.contains("Nothing to do")), (0, true), "{}{}", applied.out, applied.err);
    assert_eq!(revisions(&daemon).await.len(), before.len());
    assert_eq!(before[0]["who"], "directory", "{before:?}");
    assert!(before[0]["changes"].to_string().contains("place"), "{before:?}");
    assert_eq!(before.last().unwrap()["who"], "start");
    is_cloud_event(listener.hears("control.revision").await);
    let (mut ids, mut order) = (Vec::new(), Vec::new());
    for heard in &listener.heard {
        is_cloud_event(heard);
        ids.push(crate::support::amqp::id(&heard.delivery));
        order.extend(heard.body["revision"].as_i64());
    }
    assert!(order.is_sorted() && order.len() >= 5, "{order:?}");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), listener.heard.len());
}

#[tokio::test]
async fn a_bad_set_leaves_the_last_good_one_and_everybody_says_so() {
    let mut daemon = daemon("bad set").queues("queue: a\n").start().await;
    define(&daemon, "b.yaml", "queue: b\nwindow: many\n");
    let place = "b.yaml:2:9";
    let told = async |daemon: &Daemon| {
        daemon
            .wait_until("it says what is wrong", async |daemon: &Daemon| {
                daemon.get("/api/v1/queues").await["definitions_problem"]
                    .as_str()
                    .is_some_and(|why| why.contains(place))
            })
            .await;
        let (status, ready) = daemon.get_with_status("/readyz").await.unwrap();
        let check = &ready["checks"]["definitions"];
        assert_eq!((status, &check["ok"]), (200, &json!(false)), "{ready}");
        assert!(check["detail"].as_str().unwrap().contains(place), "{check}");
        let queues = run(daemon, &["queues"]).await;
        assert!(queues.code == 0 && queues.err.contains(place), "{}", queues.err);
        assert_eq!(daemon.post("/api/v1/queues/a/items", &item("good")).await.0 / 100, 2);
        assert_eq!(daemon.post("/api/v1/queues/b/items", &item("bad")).await.0, 404);
    };
    told(&daemon).await;
    assert!(daemon.log().contains(place), "{}", daemon.log());
    assert_eq!(daemon.post("/api/v1/apply", &json!({})).await.0, 422);

    // Also after a restart over it.
    daemon.kill();
    daemon.start_again().await;
    told(&daemon).await;
    assert_eq!(revisions(&daemon).await.len(), 1);

    let now = Instant::now();
    define(&daemon, "b.yaml", "queue: b\n");
    in_force(&daemon, "b", now).await;
    assert_eq!(daemon.get("/api/v1/queues").await["definitions_problem"], Value::Null);
    assert_eq!(daemon.get("/readyz").await["checks"]["definitions"]["ok"], json!(true));

    // A first start has nothing to go on with.
    assert!(daemon.stop().success());
    fs::remove_file(daemon.mirror_path()).unwrap();
    define(&daemon, "b.yaml", "queue: b\nwindow: many\n");
    let first = run(&daemon, &["serve"]).await;
    assert!(first.code != 0 && first.err.contains(place), "{} {}", first.code, first.err);
}
