//! The commands as people and scripts use them, against the running daemon.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::amqp::Client;
use crate::support::daemon::{Daemon, daemon};

const QUEUES: &str = "queue: invoices
title: Vendor invoices
schema: {type: object, required: [n]}
---
queue: letters
";

/// How a command ended: code, standard output, standard error.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
}

fn run(command: &mut Command, words: &[&str]) -> Ran {
    run_with(command, words, "")
}

fn run_with(command: &mut Command, words: &[&str], input: &str) -> Ran {
    let mut child = command
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ran { code: output.status.code().expect("a code"), out: text(output.stdout), err: text(output.stderr) }
}

/// A command that knows of no daemon.
fn alone() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warrend"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WARREND_")) {
        command.env_remove(name);
    }
    command
}

async fn on(daemon: &Daemon, words: &[&str]) -> Ran {
    let (mut command, words) = (daemon.command(), words.iter().map(ToString::to_string).collect::<Vec<_>>());
    let work = move || run(&mut command, &words.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(work).await.expect("it ran")
}

#[tokio::test]
async fn items_go_in_and_are_found_again() {
    let daemon = daemon("cli items").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;
    let ran = on(
        &daemon,
        &[
            "enqueue",
            "invoices",
            "--payload",
            "{\"n\": 1}",
            "--reference",
            "INV-1",
            "--label",
            "site=oslo",
            "--output",
            "json",
        ],
    )
    .await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let item = ran.json();
    assert_eq!((&item["reference"], &item["labels"]), (&json!("INV-1"), &json!({"site": "oslo"})));
    let id = item["id"].as_str().unwrap();

    let mut command = daemon.command();
    let ran = run_with(
        &mut command,
        &["enqueue", "invoices", "-", "--reference", "INV-2", "--priority", "high"],
        "{\"n\": 2}",
    );
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    let file = daemon.path().join("payload.json");
    std::fs::write(&file, "{\"n\": \"a, \\\"b\\\"\"}").unwrap();
    let ran = on(
        &daemon,
        &["enqueue", "invoices", "--file", file.to_str().unwrap(), "--name", "a, \"b\"\nc", "--output", "csv"],
    )
    .await;
    assert_eq!(ran.code, 0);
    let mut lines = ran.out.split("\r\n");
    assert!(lines.next().unwrap().starts_with("id,queue,reference,name,state,"), "{}", ran.out);
    assert!(ran.out.contains(",\"a, \"\"b\"\"\nc\",queued,"), "{}", ran.out);

    let ran = on(&daemon, &["enqueue", "invoices", "--payload", "{}", "--priority", "99"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(
        ran.err.starts_with("error: ") && ran.err.contains("priority 99") && ran.err.contains("\"n\""),
        "{}",
        ran.err
    );

    let ran = on(&daemon, &["items", "list", "--queue", "invoices", "--sort", "oldest"]).await;
    let rows: Vec<&str> = ran.out.lines().collect();
    assert_eq!((ran.code, rows.len()), (0, 4), "{}", ran.out);
    assert_eq!(
        rows[0].split_whitespace().collect::<Vec<_>>(),
        ["ID", "QUEUE", "REFERENCE", "STATE", "PRIORITY", "ATTEMPT", "ENQUEUED", "REASON"]
    );
    assert!(rows[1].starts_with(id) && rows[1].contains("INV-1") && !ran.out.contains('\u{1b}'), "{}", ran.out);
    let ran = on(&daemon, &["items", "list", "--limit", "2", "--sort", "oldest", "--output", "csv"]).await;
    assert_eq!(ran.out.matches("\r\n").count(), 3, "{}", ran.out);
    let cursor = ran.err.trim().strip_prefix("there is more: --cursor ").expect("the way on").to_owned();
    let ran = on(&daemon, &["items", "list", "--limit", "2", "--cursor", &cursor, "--output", "json"]).await;
    assert_eq!((ran.json()["items"].as_array().unwrap().len(), &ran.json()["next"]), (1, &Value::Null));
    let ran =
        on(&daemon, &["items", "list", "--label", "site=oslo", "--state", "queued,processing", "--output", "json"])
            .await;
    assert_eq!(ran.json()["items"][0]["id"], id);

    let mut robot = client.robot("invoices").await;
    let urgent = robot.next().await;
    robot.done(&urgent).await;
    let delivery = robot.next().await;
    robot.report(&delivery, "business_exception", &json!({"reason": "no such vendor"})).await;
    robot.ack(&delivery).await;
    daemon
        .wait_until("it is an exception", async |daemon: &Daemon| daemon.items("kind=business").await.len() == 1)
        .await;
    let ran = on(&daemon, &["items", "show", id]).await;
    assert_eq!(ran.code, 0);
    for part in ["reason", "no such vendor", "WHO", "api", "test-robot", "exception: business"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let ran = on(&daemon, &["items", "show", id, "--output", "json"]).await;
    assert_eq!((&ran.json()["item"]["id"], ran.json()["timeline"].as_array().unwrap().len()), (&json!(id), 2));
    let ran = on(&daemon, &["items", "show", id, "--payload"]).await;
    assert_eq!(ran.out, "{\"n\":1}");
    let ran = on(&daemon, &["items", "show", "nobody"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("there is no item 'nobody'"), "{}", ran.err);
}

#[tokio::test]
async fn queues_and_parked_messages_are_shown() {
    let daemon = daemon("cli queues").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;
    let ran = on(&daemon, &["parked"]).await;
    assert_eq!((ran.code, ran.out.lines().count()), (0, 1), "only the heading: {}", ran.out);
    let properties = lapin::BasicProperties::default().with_message_id("m".into());
    assert!(client.publish("wq.outcomes", "invoices", properties, b"\x1b[31mjunk, \"x\"").await);
    client.send("letters", "r", &json!({})).await;
    daemon
        .wait_until("both are there", async |daemon: &Daemon| {
            daemon.queue("letters").await["ready"] == 1
                && !daemon.get("/api/v1/parked").await["items"].as_array().unwrap().is_empty()
        })
        .await;
    let ran = on(&daemon, &["parked"]).await;
    assert!(ran.out.contains("no type property") && !ran.out.contains('\u{1b}'), "{}", ran.out);
    let ran = on(&daemon, &["parked", "--output", "json"]).await;
    assert_eq!(ran.json()["items"][0]["preview"], "\u{1b}[31mjunk, \"x\"");
    let ran = on(&daemon, &["parked", "--output", "csv"]).await;
    assert!(ran.out.starts_with("id,at,source,queue,reason,properties,size,preview,masked\r\n"), "{}", ran.out);

    let ran = on(&daemon, &["queues"]).await;
    let rows: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 3, "{}", ran.out);
    assert_eq!(rows[2][..4], ["letters", "managed", "1", "0"]);
    let ran = on(&daemon, &["queues", "letters", "--output", "json"]).await;
    assert_eq!((&ran.json()["key"], &ran.json()["counts"]["queued"]), (&json!("letters"), &json!(1)));
    let ran = on(&daemon, &["queues", "invoices"]).await;
    assert!(ran.out.contains("Vendor invoices"), "{}", ran.out);
    let ran = on(&daemon, &["queues", "--output", "csv"]).await;
    assert_eq!(ran.out.matches("\r\n").count(), 3, "{}", ran.out);
    let ran = on(&daemon, &["queues", "nobody"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("no queue 'nobody' is defined"), "{}", ran.err);
}

#[tokio::test]
async fn definitions_are_checked_and_described() {
    let daemon = daemon("cli check").queues(QUEUES).start().await;
    let ran = on(&daemon, &["check"]).await;
    assert_eq!(ran.code, 0);
    assert!(ran.out.ends_with(": 2 queues, nothing wrong\n"), "{}", ran.out);
    let ran = on(&daemon, &["check", "--output", "json"]).await;
    assert_eq!((ran.code, ran.json()), (0, json!([])));

    let wrong = daemon.path().join("wrong");
    std::fs::create_dir(&wrong).unwrap();
    std::fs::write(wrong.join("a.yaml"), "queue: a\nlane: direct\nschema: {type: object}\nprioritys: {normal: 4}\n")
        .unwrap();
    std::fs::write(wrong.join("b.yaml"), "queue: b\nwindow: lots\n").unwrap();
    let ran = on(&daemon, &["check", wrong.to_str().unwrap()]).await;
    assert_eq!(ran.code, 65);
    for part in ["a.yaml:3:", "a.yaml:4:1", "priorities", "b.yaml:2:9", "lots"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let ran = on(&daemon, &["check", wrong.to_str().unwrap(), "--output", "json"]).await;
    let found = ran.json();
    assert_eq!((ran.code, found.as_array().unwrap().len()), (65, 3));
    assert_eq!(
        found[2],
        json!({
            "file": wrong.join("b.yaml"), "line": 2, "column": 9, "length": 4, "source": "window: lots",
            "message": "expected a whole number, found the text 'lots'", "help": null,
        })
    );
    let ran = on(&daemon, &["check", "/nonexistent", "--output", "json"]).await;
    let found = ran.json();
    assert_eq!((ran.code, &found[0]["file"], &found[0]["line"]), (65, &json!("/nonexistent"), &json!(0)));

    let ran = on(&daemon, &["schema"]).await;
    let schema = ran.json();
    assert!(jsonschema::validator_for(&schema).is_ok());
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    // The one that the samples name for editors.
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/queues/../../src/definition/definition.schema.json");
    assert_eq!(ran.out, std::fs::read_to_string(file).unwrap());
}

#[tokio::test]
async fn exit_codes_say_how_it_ended() {
    let daemon = daemon("cli codes").queues(QUEUES).start().await;
    let nowhere = ["--url", "http://127.0.0.1:1"];
    let no_file = daemon.path().join("none.yaml").display().to_string();
    let bad_settings = daemon.path().join("bad.yaml").display().to_string();
    std::fs::write(&bad_settings, "broker: {amqp_uri: x}\nhttp: {listen: here}\n").unwrap();
    for (words, code, part) in [
        (vec!["dance"], 64, "dance"),
        (vec!["items", "list", "--state", "done"], 64, "done"),
        (vec!["enqueue", "invoices"], 64, "--payload"),
        (vec!["queues", "--url", "ftp://h"], 64, "http://"),
        (vec!["check", "/nonexistent"], 65, "/nonexistent"),
        (vec!["enqueue", "invoices", "--payload", "{"], 65, "JSON"),
        ([&["queues"][..], &nowhere].concat(), 69, "cannot be reached"),
        ([&["items", "list"][..], &nowhere].concat(), 69, "warrend serve"),
        (vec!["--config", &no_file, "serve"], 78, "none.yaml"),
        (vec!["--config", &bad_settings, "serve"], 78, "broker.amqp_url"),
        (vec!["--config", &bad_settings, "check"], 78, "http.listen"),
        (vec!["enqueue", "nobody", "--payload", "1"], 1, "no queue 'nobody'"),
    ] {
        let mut command = alone();
        command.env("WARREND_URL", daemon.url());
        let ran = run(&mut command, &words);
        assert_eq!(ran.code, code, "{words:?}: {}", ran.err);
        assert!(ran.err.contains(part), "{words:?}: {}", ran.err);
        assert_eq!(ran.out, "", "{words:?}");
    }
    let mut unknown = alone();
    let ran = run(unknown.env("WARREND__BROKER__AMQP_URI", "x"), &["serve"]);
    assert_eq!(ran.code, 78);
    assert!(
        ran.err.contains("WARREND__BROKER__AMQP_URI") && ran.err.contains("WARREND__BROKER__AMQP_URL"),
        "{}",
        ran.err
    );

    // A second daemon on the same mirror or address is a failure that names it.
    let ran = on(&daemon, &["serve"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("mirror"), "{}", ran.err);
}

#[test]
fn help_is_complete_and_has_no_endless_lines() {
    for words in [
        &["--help"][..],
        &["serve", "--help"],
        &["check", "--help"],
        &["schema", "--help"],
        &["queues", "--help"],
        &["items", "--help"],
        &["items", "list", "--help"],
        &["items", "show", "--help"],
        &["enqueue", "--help"],
        &["parked", "--help"],
        &["bench", "--help"],
    ] {
        let ran = run(&mut alone(), words);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{words:?}");
        assert!(ran.out.contains("Usage: warrend") && ran.out.contains("Exit codes:"), "{words:?}: {}", ran.out);
        assert!(!ran.out.contains('\u{1b}'), "no colour where no terminal is");
        let widest = ran.out.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(130), "{words:?} has a line of {widest:?}");
    }
    let ran = run(&mut alone(), &[]);
    assert_eq!(ran.code, 64);
    assert!(ran.err.contains("Usage: warrend"), "{}", ran.err);
    let ran = run(&mut alone(), &["--version"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, concat!("warrend ", env!("CARGO_PKG_VERSION"), "\n")));
}
