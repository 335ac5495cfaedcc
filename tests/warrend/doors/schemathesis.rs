//! The API against its own document: schemathesis sends what the document allows, and what it forbids, and holds the answers to it.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::amqp::Client;
use crate::support::daemon::{Daemon, daemon};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

const QUEUES: &str = "\
queue: invoices
title: Invoices
due_after: 8h
unique: true
schema: {type: object}
retry: {it: {limit: 0}}
---
queue: letters
breaker: {after: 3, pause: 1m}
---
queue: quiet
paused: {dispatch: true}
---
queue: scans
lane: direct
";

/// What each answer is held to.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                      response_headers_conformance,unsupported_method,allow_header_conformance";

/// Requests per operation and phase.
const EXAMPLES: &str = "3";

/// An item of each state, and their ids.
async fn fill(daemon: &Daemon) -> Vec<Value> {
    let put = async |queue: &str, reference: &str| {
        let item = json!({"payload": {"n": 1}, "reference": reference, "labels": {"site": "oslo"}});
        let (status, item) = daemon.post(&format!("/api/v1/queues/{queue}/items"), &item).await;
        assert_eq!(status, 201, "{item}");
        item["id"].clone()
    };
    let client = Client::connect(&daemon.vhost).await;
    let mut ids = Vec::new();
    for reference in ["processed", "business", "it", "rejected"] {
        ids.push(put("invoices", reference).await);
    }
    let mut robot = client.robot("invoices").await;
    for kind in ["processed", "business_exception", "it_exception", "hold"] {
        let delivery = robot.next().await;
        robot.report(&delivery, kind, &json!({"reason": "so", "note": "n"})).await;
        robot.ack(&delivery).await;
    }
    ids.push(put("invoices", "started").await);
    let delivery = robot.next().await;
    robot.report(&delivery, "started", &json!({})).await;
    for verb in ["hold", "cancel", "notes"] {
        let id = put("quiet", verb).await;
        let path = format!("/api/v1/items/{}/{verb}", id.as_str().unwrap());
        let (status, answer) =
            daemon.post(&path, &if verb == "notes" { json!({"note": "n"}) } else { json!({}) }).await;
        assert_eq!(status, 200, "{answer}");
        ids.push(id);
    }
    for reference in ["waits", "waits too"] {
        ids.push(put("letters", reference).await);
    }
    client.publish("wq.items", "scans", lapin::BasicProperties::default(), b"\xff").await;
    client.publish("wq.outcomes", "letters", lapin::BasicProperties::default(), b"of nobody").await;
    daemon
        .wait_until("all of it is there", async |daemon: &Daemon| {
            let states = ["processed", "exception", "on_hold", "cancelled", "processing", "queued"];
            for state in states {
                if daemon.items(&format!("state={state}")).await.is_empty() {
                    return false;
                }
            }
            !daemon.get("/api/v1/parked").await["items"].as_array().unwrap().is_empty()
        })
        .await;
    // The robot keeps what it began.
    std::mem::forget(robot);
    ids
}

#[tokio::test]
async fn the_api_answers_as_its_document_says() {
    let script = format!("{ROOT}/scripts/schemathesis");
    let installed =
        std::process::Command::new(&script).stderr(Stdio::inherit()).output().expect("scripts/schemathesis runs");
    assert!(installed.status.success(), "{script} could not install it; it says above why");
    let schemathesis = String::from_utf8(installed.stdout).expect("a path").trim().to_owned();

    let mut daemon = daemon("schemathesis").queues(QUEUES).start().await;
    let ids = fill(&daemon).await;
    let known = json!({"id": ids, "key": ["invoices", "letters", "quiet", "scans"]});
    let fixtures = format!("{ROOT}/tests/fixtures/schemathesis");
    let mut run = tokio::process::Command::new(schemathesis);
    run.arg("run")
        .arg(format!("{}/api/openapi.json", daemon.url()))
        .args(["--checks", CHECKS, "--max-examples", EXAMPLES, "--seed", "1", "--phases", "examples,coverage,fuzzing"])
        .args([
            // With more, Python's own parser falls over itself now and then (a fault of 3.11).
            "--workers",
            "1",
            "--request-timeout",
            "60",
            "--continue-on-failure",
            "--no-shrink",
            "--warnings",
            "off",
        ])
        .args(["--generation-deterministic"])
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", &fixtures)
        .env("WARREND_KNOWN", known.to_string())
        .env("NO_PROXY", "*")
        .current_dir(daemon.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_mins(8), run.output()).await.expect("it ends").expect("it runs");
    let report = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{report}");
    // A run that left something out proves nothing. The document itself is not tested: it is what the rest is tested by.
    let document = daemon.get("/api/openapi.json").await;
    let paths = document["paths"].as_object().expect("an object").values();
    let operations: usize = paths.map(|path| path.as_object().expect("an object").len()).sum();
    assert!(report.contains(&format!("Tested: {}\n", operations - 1)), "{operations} operations\n{report}");
    assert!(daemon.is_running(), "{}", daemon.log());
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}
