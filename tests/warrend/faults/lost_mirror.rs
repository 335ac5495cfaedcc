//! A mirror that is lost, or that an old copy takes the place of: what the broker has is learnt again, nothing of it twice,
//! and what nobody has any more is said.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Value, json};

use crate::support::amqp::{Client, id, int_header, reference};
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, Setup, daemon};

const QUEUES: &str = "queue: m\nwindow: 10\n---\nqueue: d\nlane: direct\n";

fn setup(name: &str) -> Setup {
    daemon(name).queues(QUEUES).setting("CONTROL__RECONCILE_PERIOD", "1s").heartbeat(2)
}

/// Runs the command, at a fail point where one is given; answers whether it succeeded, and what it printed.
async fn rebuild(daemon: &Daemon, fail_point: Option<&str>) -> (bool, Value, String) {
    let mut command = daemon.command();
    command.args(["mirror", "rebuild", "--output", "json"]);
    command.envs(fail_point.map(|point| ("WARREND_FAIL_POINT", point)));
    let done = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("it ran");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    (done.status.success(), serde_json::from_slice(&done.stdout).unwrap_or_default(), said)
}

fn mirror_files(daemon: &Daemon) -> Vec<std::path::PathBuf> {
    let path = daemon.mirror_path();
    ["", "-wal", "-shm"].map(|end| format!("{}{end}", path.display()).into()).to_vec()
}

fn lose(daemon: &Daemon) {
    for file in mirror_files(daemon) {
        let _ = fs::remove_file(file);
    }
}

#[tokio::test]
async fn a_lost_mirror_learns_what_the_broker_has_and_doubles_nothing() {
    let mut daemon = setup("lost mirror").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for number in 0..40 {
        client.send("m", &format!("r-{number:02}"), &json!({"n": number})).await;
    }
    for number in 0..15 {
        client.send("d", &format!("r-{number:02}"), &json!({"n": number})).await;
    }
    // Two of either lane are done; what a robot holds when the mirror is lost goes back.
    for queue in ["m", "d"] {
        let mut robot = client.robot(queue).await;
        for _ in 0..2 {
            let delivery = robot.next().await;
            robot.done(&delivery).await;
        }
        daemon
            .wait_until("two are done", async |daemon: &Daemon| daemon.queue(queue).await["counts"]["processed"] == 2)
            .await;
        let _held = robot.next().await;
        robot.die().await;
    }
    daemon
        .wait_until("the window is full", async |daemon: &Daemon| {
            daemon.queue("d").await["counts"]["queued"] == 13 && client.ready("wq.q.m").await >= 10
        })
        .await;
    let before: BTreeMap<String, Value> =
        daemon.items("queue=m").await.into_iter().map(|item| (item["id"].as_str().unwrap().to_owned(), item)).collect();
    // One more may have gone out while a robot held one.
    let out = u64::from(client.ready("wq.q.m").await);
    // The note in wq.meta is written anew each second.
    daemon
        .wait_until("wq.meta knows", async |_: &Daemon| {
            let note = client.take("wq.meta").await;
            let note: Value = note.map(|note| serde_json::from_slice(&note.data).unwrap()).unwrap_or_default();
            note["queues"]["m"]["processed"] == 2
                && note["queues"]["m"]["out"] == out
                && note["queues"]["d"]["processed"] == 2
        })
        .await;
    daemon.wait_until("it is written again", async |_: &Daemon| client.ready("wq.meta").await == 1).await;

    let (done, _, said) = rebuild(&daemon, None).await;
    assert!(!done && said.contains("stop the daemon"), "{said}");
    daemon.kill();
    lose(&daemon);
    for point in ["rebuild.committed", "rebuild.acked", "rebuild.learnt"] {
        let (done, _, said) = rebuild(&daemon, Some(point)).await;
        assert!(!done && said.contains(&format!("fail point {point} reached")), "{point}: {said}");
    }
    let (done, told, said) = rebuild(&daemon, None).await;
    assert!(done, "{said}");
    assert_eq!(told["taken_over"], true, "{told}");
    let lost = &told["before"]["queues"]["m"];
    assert_eq!(
        (&lost["waiting"], &lost["out"], &lost["processed"]),
        (&json!(38 - out), &json!(out), &json!(2)),
        "{told}"
    );
    assert!(lost["oldest"].is_string() && told["before"]["at"].is_string(), "{told}");

    daemon.start_again().await;
    assert_eq!(daemon.get("/readyz").await["attention"]["mirror_older"], Value::Null);
    let crews = [
        Crew::hire(&daemon.vhost, "m", 2, |_| Ending::Processed).await,
        Crew::hire(&daemon.vhost, "d", 2, |_| Ending::Processed).await,
    ];
    daemon.wait_until_done("m", out).await;
    // Of the direct items that the tap alone has nobody knows that they are done.
    daemon
        .wait_until("the direct ones are done, or missing", async |daemon: &Daemon| {
            let counts = daemon.queue("d").await["counts"].clone();
            counts["processed"] == 13 && counts["exceptions"]["missing"] == 2
        })
        .await;
    let [managed, direct] = crews;
    let seen = managed.dismiss().await;
    assert_eq!(seen.len() as u64, out, "each once");
    for seen in seen {
        let item = &before[&seen.id];
        assert_eq!((item["reference"].as_str(), seen.attempt), (Some(seen.reference.as_str()), Some(1)));
        assert_eq!(daemon.item("m", &seen.reference).await["id"], item["id"]);
    }
    let references: Vec<String> = direct.dismiss().await.into_iter().map(|seen| seen.reference).collect();
    let once: BTreeSet<&String> = references.iter().collect();
    assert_eq!((references.len(), once.len()), (13, 13), "{references:?}");
    assert_eq!(daemon.items("queue=d").await.len(), 15);
    assert_eq!(daemon.get("/api/v1/parked").await["items"], json!([]));
}

#[tokio::test]
async fn an_old_copy_of_the_mirror_waits_for_a_word() {
    let mut daemon = setup("older mirror").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for number in 0..3 {
        client.send("m", &format!("old-{number}"), &json!({})).await;
    }
    daemon.wait_until("all are out", async |_: &Daemon| client.ready("wq.q.m").await == 3).await;
    assert!(daemon.stop().success());
    let copy = daemon.path().join("copy.db");
    fs::copy(daemon.mirror_path(), &copy).expect("a copy");

    // A crash between its number and its note makes no mirror older.
    daemon.die_at("witness.taken").await;
    daemon.start_again().await;
    assert_eq!(daemon.get("/readyz").await["attention"]["mirror_older"], Value::Null);
    client.send("m", "new", &json!({})).await;
    daemon.wait_until("it is out too", async |_: &Daemon| client.ready("wq.q.m").await == 4).await;
    daemon.kill();
    lose(&daemon);
    fs::copy(&copy, daemon.mirror_path()).expect("the copy is restored");

    for turn in 0..2 {
        daemon.start_again().await;
        let older = daemon.get("/readyz").await["attention"]["mirror_older"].clone();
        assert_eq!(older["paused"], json!(["d", "m"]), "{turn}: {older}");
        assert!(older["blind_from"].is_string() && older["blind_until"].is_string(), "{older}");
        assert_eq!(daemon.queue("m").await["paused"]["dispatch"], true);
        assert!(daemon.log().contains("the mirror is older than the broker"));
        daemon.kill();
    }
    // Its note is the newest by now, and it is as old as before.
    let (done, told, said) = rebuild(&daemon, None).await;
    assert!(done, "{said}");
    let learnt: Vec<_> = told["queues"].as_array().unwrap().iter().filter(|queue| queue["queue"] == "m").collect();
    assert_eq!(json!([told["taken_over"], learnt[0]["items"], learnt[0]["known"]]), json!([false, 1, 3]), "{told}");

    daemon.start_again().await;
    assert_eq!(daemon.get("/readyz").await["attention"]["mirror_older"], Value::Null);
    let mut robot = client.robot("m").await;
    let mut references = BTreeSet::new();
    for _ in 0..4 {
        let delivery = robot.next().await;
        assert_eq!(int_header(&delivery, "wq-attempt"), Some(1));
        assert_eq!(daemon.item("m", &reference(&delivery)).await["id"], json!(id(&delivery)));
        references.insert(reference(&delivery));
        robot.done(&delivery).await;
    }
    assert_eq!(references.len(), 4);
    daemon.wait_until_done("m", 4).await;
}

#[tokio::test]
async fn an_empty_mirror_beside_filled_queues_of_nobody_waits_for_a_word() {
    let mut daemon = setup("nobodys queues").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("m", "left", &json!({})).await;
    daemon.wait_until("it is out", async |_: &Daemon| client.ready("wq.q.m").await == 1).await;
    assert_eq!(daemon.get("/readyz").await["attention"]["mirror_older"], Value::Null, "empty queues hold nobody up");
    daemon.kill();
    lose(&daemon);
    daemon.vhost.management("DELETE", "/api/queues/{vhost}/wq.meta/contents", None).await;

    // Its note is there by then, and says nothing of what it saw.
    daemon.die_at("witness.looked").await;
    for turn in 0..2 {
        daemon.start_again().await;
        let older = daemon.get("/readyz").await["attention"]["mirror_older"].clone();
        assert_eq!((&older["paused"], &older["blind_from"]), (&json!(["d", "m"]), &Value::Null), "{turn}: {older}");
        daemon.kill();
    }
}
