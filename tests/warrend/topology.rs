//! What the daemon makes on the broker, read back through the management API, word by word.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::amqp::Client;
use crate::support::broker::{Vhost, broker};
use crate::support::daemon::{Daemon, daemon};

const QUEUES: &str = "queue: m\ncrash_limit: 3\n---\nqueue: x.y\npriorities: {normal: 0, top: 20}\n---\nqueue: d\nlane: \
                      direct\n---\nqueue: c\ntype: classic\n";

fn is_4() -> bool {
    broker().version.starts_with("4.")
}

/// Everything of one kind, as lines that can be compared.
async fn read(vhost: &Vhost, what: &str, ours: &str, line: impl Fn(&Value) -> String) -> BTreeSet<String> {
    let all = vhost.management("GET", &format!("/api/{what}/{{vhost}}"), None).await;
    let all = all.as_array().expect("a list").clone();
    all.iter().filter(|one| one[ours].as_str().is_some_and(|name| name.starts_with("wq."))).map(line).collect()
}

/// Exchanges, queues, bindings and policies.
async fn read_all(vhost: &Vhost) -> [BTreeSet<String>; 4] {
    let durable = |one: &Value| {
        assert_eq!((&one["durable"], &one["auto_delete"]), (&json!(true), &json!(false)), "{one}");
    };
    let name = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    [
        read(vhost, "exchanges", "name", |one| {
            durable(one);
            format!("{} {} {}", name(&one["name"]), name(&one["type"]), one["arguments"])
        })
        .await,
        read(vhost, "queues", "name", |one| {
            durable(one);
            format!("{} {} {}", name(&one["name"]), name(&one["type"]), one["arguments"])
        })
        .await,
        read(vhost, "bindings", "source", |one| {
            assert_eq!(one["destination_type"], "queue");
            format!("{} -[{}]-> {}", name(&one["source"]), name(&one["routing_key"]), name(&one["destination"]))
        })
        .await,
        read(vhost, "policies", "name", |one| {
            format!(
                "{} {} {} {} {}",
                name(&one["name"]),
                name(&one["pattern"]),
                name(&one["apply-to"]),
                one["priority"],
                one["definition"]
            )
        })
        .await,
    ]
}

fn lines(lines: &[&str]) -> BTreeSet<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

fn expected() -> [BTreeSet<String>; 4] {
    let exchanges = lines(&[
        r#"wq.items topic {"alternate-exchange":"wq.unrouted"}"#,
        "wq.dispatch direct {}",
        "wq.outcomes topic {}",
        "wq.dead fanout {}",
        "wq.events topic {}",
        "wq.unrouted fanout {}",
    ]);
    // A delivery limit is only where there is one to switch off.
    let never_expels = if is_4() { r#""x-delivery-limit":-1,"# } else { "" };
    let dies = r#""x-dead-letter-exchange":"wq.dead","x-dead-letter-strategy":"at-least-once","#;
    let mut queues = BTreeSet::from([
        format!(r#"wq.reports quorum {{{never_expels}"x-queue-type":"quorum"}}"#),
        format!(r#"wq.meta quorum {{{never_expels}"x-max-length":1,"x-queue-type":"quorum"}}"#),
        r#"wq.tap stream {"x-queue-type":"stream"}"#.to_owned(),
        r#"wq.q.c classic {"x-dead-letter-exchange":"wq.dead","x-max-priority":8,"x-queue-type":"classic"}"#.to_owned(),
    ]);
    for own in ["wq.intake", "wq.unrouted"] {
        queues.insert(format!(
            r#"{own} quorum {{{dies}{never_expels}"x-overflow":"reject-publish","x-queue-type":"quorum"}}"#
        ));
    }
    for (key, highest) in [("m", 8), ("x.y", 20), ("d", 8)] {
        queues.insert(if is_4() {
            format!(r#"wq.q.{key} quorum {{{dies}"x-overflow":"reject-publish","x-queue-type":"quorum"}}"#)
        } else {
            format!(r#"wq.q.{key} classic {{"x-dead-letter-exchange":"wq.dead","x-max-priority":{highest},"x-queue-type":"classic"}}"#)
        });
    }
    let bindings = lines(&[
        "wq.outcomes -[#]-> wq.reports",
        "wq.dead -[]-> wq.reports",
        "wq.unrouted -[]-> wq.unrouted",
        "wq.dispatch -[m]-> wq.q.m",
        "wq.dispatch -[x.y]-> wq.q.x.y",
        "wq.dispatch -[d]-> wq.q.d",
        "wq.dispatch -[c]-> wq.q.c",
        "wq.items -[m]-> wq.intake",
        "wq.items -[x.y]-> wq.intake",
        "wq.items -[c]-> wq.intake",
        "wq.items -[d]-> wq.q.d",
        "wq.items -[d]-> wq.tap",
    ]);
    let mut policies = lines(&[r#"wq.tap ^wq\.tap$ queues 100 {"max-length-bytes":50000000}"#]);
    if is_4() {
        for (key, pattern, limit) in [("m", "m", 2), ("x.y", r"x\.y", 4), ("d", "d", 4)] {
            policies.insert(format!(
                r#"wq.q.{key} ^wq\.q\.{pattern}$ queues 100 {{"consumer-timeout":604800000,"delivery-limit":{limit}}}"#
            ));
        }
        policies.insert(r#"wq.q.c ^wq\.q\.c$ queues 100 {"consumer-timeout":604800000}"#.to_owned());
    }
    [exchanges, queues, bindings, policies]
}

#[tokio::test]
async fn the_broker_has_what_the_design_says_and_a_restart_changes_nothing() {
    let mut daemon = daemon("topology").queues(QUEUES).setting("TAP__MAX_BYTES", "50000000").start().await;
    let there = read_all(&daemon.vhost).await;
    for (there, expected) in there.iter().zip(&expected()) {
        assert_eq!(there, expected);
    }
    let log = daemon.log();
    for (queue, why) in [
        (
            "m",
            if is_4() {
                "quorum: RabbitMQ 4.3 has strict priorities on quorum queues"
            } else {
                "classic: RabbitMQ 3.10 has strict priorities only on classic priority queues (quorum from 4.3)"
            },
        ),
        ("c", "classic: the definition asks for it"),
    ] {
        let line = log.lines().find(|line| line.contains(&format!("wq.q.{queue}"))).expect("a line of the queue");
        assert!(line.contains(why), "{line}");
    }

    // Items that wait are still there afterwards.
    let client = Client::connect(&daemon.vhost).await;
    client.send("m", "r", &json!({})).await;
    daemon.wait_until("it is out", async |_: &_| client.ready("wq.q.m").await == 1).await;
    assert!(daemon.stop().success());
    daemon.start_again().await;
    assert_eq!(read_all(&daemon.vhost).await, there);
    assert_eq!(client.ready("wq.q.m").await, 1);
}

#[tokio::test]
async fn a_change_of_lane_takes_the_other_lanes_bindings_away() {
    let mut daemon = daemon("change of lane").queues("queue: a\n").start().await;
    let ways = async |vhost: &Vhost| -> Vec<String> {
        let [_, _, bindings, _] = read_all(vhost).await;
        bindings.into_iter().filter(|line| line.starts_with("wq.items ")).collect()
    };
    assert_eq!(ways(&daemon.vhost).await, ["wq.items -[a]-> wq.intake"]);
    assert!(daemon.stop().success());
    std::fs::write(daemon.definitions_dir().join("0.yaml"), "queue: a\nlane: direct\n").unwrap();
    daemon.start_again().await;
    daemon
        .wait_until("the ways are the other lane's", async |daemon: &Daemon| {
            ways(&daemon.vhost).await == ["wq.items -[a]-> wq.q.a", "wq.items -[a]-> wq.tap"]
        })
        .await;
}

#[tokio::test]
async fn what_nobody_had_defined_is_routed_again_once_it_is() {
    let mut daemon = daemon("unrouted").queues("queue: known\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for n in 0..5 {
        client.send("later", &format!("r{n}"), &json!({ "n": n })).await;
    }
    client.send("never", "x", &json!({})).await;
    daemon
        .wait_until("they are counted", async |daemon: &Daemon| {
            daemon.get("/api/v1/unrouted").await["ready"] == json!(6)
        })
        .await;
    assert!(daemon.stop().success());
    std::fs::write(daemon.definitions_dir().join("later.yaml"), "queue: later\nunique: true\n").unwrap();
    daemon.start_again().await;
    daemon
        .wait_until("they are in their queue", async |daemon: &Daemon| {
            daemon.queue("later").await["counts"]["queued"] == json!(5)
        })
        .await;
    daemon
        .wait_until("the one of the other key waits on", async |daemon: &Daemon| {
            daemon.get("/api/v1/unrouted").await["ready"] == json!(1)
        })
        .await;
    assert_eq!(daemon.item("later", "r3").await["state"], "queued");
}

#[tokio::test]
async fn the_queues_of_one_mirror_are_refused_to_another() {
    let mut daemon = daemon("two mirrors").queues("queue: a\n").start().await;
    assert!(daemon.stop().success());
    // Started again with its own mirror it goes on; with a new one it is told whose queues these are.
    daemon.start_again().await;
    assert!(daemon.stop().success());
    std::fs::remove_file(daemon.mirror_path()).unwrap();
    daemon.spawn();
    daemon
        .wait_until("it says why", async |daemon: &Daemon| {
            let (status, body) = daemon.get_with_status("/readyz").await.unwrap_or_default();
            status == 503
                && body["checks"]["broker"]["detail"].as_str().is_some_and(|why| why.contains("another mirror"))
        })
        .await;
    daemon.kill();
    daemon.vhost.management("DELETE", "/api/queues/{vhost}/wq.meta/contents", None).await;
    daemon.start_again().await;
}

#[tokio::test]
async fn a_queue_that_is_there_with_other_arguments_is_made_anew_with_what_is_in_it() {
    let mut daemon = daemon("other arguments")
        .queues("queue: a\ntype: classic\n---\nqueue: b\n")
        .setting("CONTROL__OBSERVATION_GAP", "1s")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    for queue in ["a", "b"] {
        client.send(queue, "r", &json!({})).await;
    }
    daemon.wait_until("it is out", async |_: &_| client.ready("wq.q.a").await == 1).await;
    assert!(daemon.stop().success());
    std::fs::write(daemon.definitions_dir().join("0.yaml"), "queue: a\ntype: quorum\n---\nqueue: b\n").unwrap();
    daemon.start_again().await;
    daemon
        .wait_until("it is of the other type", async |daemon: &Daemon| {
            let (status, queue) = daemon.vhost.try_management("GET", "/api/queues/{vhost}/wq.q.a", None).await;
            status == 200 && queue["type"] == "quorum" && daemon.queue("a").await["migration"].is_null()
        })
        .await;
    for queue in ["a", "b"] {
        let mut robot = client.robot(queue).await;
        let delivery = robot.next().await;
        robot.done(&delivery).await;
        daemon.wait_until_done(queue, 1).await;
    }
}
