//! `warrend bench`: it measures every way on a real broker, and leaves nothing there.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::broker::{Kind, Vhost, broker, vhost};
use crate::support::daemon::PATIENCE;

const WAYS: [&str; 8] =
    ["raw", "shovel", "forwarder", "fan-out", "direct", "direct, with reports", "managed", "managed, with reports"];

/// The benchmark on the broker of the tests.
fn bench(vhost: &Vhost, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warrend"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WARREND_")) {
        command.env_remove(name);
    }
    command
        .env("WARREND__BROKER__AMQP_URL", &vhost.amqp_url)
        .env("WARREND__BROKER__MANAGEMENT_URL", &vhost.management_url)
        .arg("bench")
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

async fn end(child: Child) -> Output {
    tokio::task::spawn_blocking(|| child.wait_with_output().expect("it ends")).await.expect("it ran")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// Virtual hosts of benchmarks that are there.
async fn left(vhost: &Vhost) -> Vec<String> {
    let all = vhost.management("GET", "/api/vhosts", None).await;
    let names = all.as_array().expect("a list").iter().filter_map(|vhost| vhost["name"].as_str());
    names.filter(|name| name.starts_with("warrend-bench-")).map(str::to_owned).collect()
}

/// Processes that this one started.
fn children(parent: u32) -> Vec<u32> {
    let of = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let ppid: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        (ppid == parent).then_some(pid)
    };
    let all = std::fs::read_dir("/proc").expect("Linux tells of its processes");
    all.filter_map(|entry| of(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect()
}

// One test: two benchmarks at once could not tell whose virtual hosts are left.
#[tokio::test]
async fn every_way_is_measured_and_nothing_is_left() {
    let vhost = vhost("bench").await;
    let words = ["--items", "300", "--rounds", "1", "--rate", "100", "--seconds", "1", "--output", "json"];
    let output = end(bench(&vhost, &words).spawn().unwrap()).await;
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["broker"]["version"], broker().version.as_str());
    let expected = if broker().version.starts_with("4.3") { "quorum" } else { "classic" };
    assert_eq!(report["broker"]["queue_type"], expected);
    assert_eq!(report["plan"], json!({"items": 300, "rounds": 1, "size": 1024, "rate": 100, "seconds": 1}));
    let lines = report["ways"].as_array().unwrap();
    assert_eq!(lines.iter().map(|line| line["way"].as_str().unwrap()).collect::<Vec<_>>(), WAYS);
    for line in lines {
        check(line);
    }
    assert_eq!(left(&vhost).await, Vec::<String>::new());

    interrupted_it_takes_everything_away(&vhost).await;
}

/// What one way has to say.
fn check(line: &Value) {
    let way = line["way"].as_str().unwrap();
    if broker().kind == Kind::Env && way == "shovel" && line["unavailable"].is_string() {
        return;
    }
    assert_eq!(line["unavailable"], Value::Null, "{line:#}");
    let positive = |value: &Value| value.as_f64().is_some_and(|number| number > 0.0);
    assert!(positive(&line["items_per_second"]) && positive(&line["to_raw"]), "{line:#}");
    assert_eq!(line["rounds"].as_array().unwrap().len(), 1, "{line:#}");
    assert_eq!(positive(&line["to_fan_out"]), way.starts_with("direct"), "{line:#}");
    assert_eq!(positive(&line["to_forwarder"]), way.starts_with("managed"), "{line:#}");
    let ours = way.starts_with("direct") || way.starts_with("managed");
    assert_eq!(line["daemon_memory"].as_u64().is_some_and(|bytes| bytes > 1 << 20), ours, "{line:#}");
    if broker().kind != Kind::Env {
        assert!(line["broker_cpu"].is_number() && positive(&line["broker_memory"]), "{line:#}");
    }
    if matches!(way, "raw" | "shovel" | "forwarder" | "direct" | "managed") {
        let latency = &line["latency"];
        assert_eq!(latency["items"], 100, "{line:#}");
        let ordered: Vec<f64> =
            ["p50_ms", "p95_ms", "p99_ms", "max_ms"].iter().map(|name| latency[name].as_f64().unwrap()).collect();
        assert!(ordered[0] > 0.0 && ordered.is_sorted(), "{line:#}");
    } else {
        assert_eq!(line["latency"], Value::Null, "{line:#}");
    }
}

/// In the middle of a lane, with a daemon of its own running.
async fn interrupted_it_takes_everything_away(vhost: &Vhost) {
    let child = bench(vhost, &["--items", "200", "--rate", "100", "--seconds", "1"]).spawn().unwrap();
    let (bench, began) = (child.id(), Instant::now());
    let daemon = loop {
        if let [daemon] = children(bench)[..] {
            break daemon;
        }
        assert!(began.elapsed() < PATIENCE, "it starts no daemon");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_ne!(left(vhost).await, Vec::<String>::new());
    assert!(Command::new("kill").args(["-INT", &bench.to_string()]).status().unwrap().success());
    let output = end(child).await;
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""));
    assert_eq!(text(&output.stderr), "error: interrupted\n");
    assert_eq!(left(vhost).await, Vec::<String>::new());
    assert!(!std::path::Path::new(&format!("/proc/{daemon}")).exists(), "its daemon goes with it");
}

#[tokio::test]
async fn what_is_missing_is_said_before_anything_is_made() {
    let vhost = vhost("bench refused").await;
    let (no_amqp, no_api) = ("amqp://guest:guest@127.0.0.1:1", "http://guest:guest@127.0.0.1:1");
    let user = format!("watcher-{}", vhost.name.rsplit(' ').next().unwrap());
    let user_path = format!("/api/users/{user}");
    vhost.management("PUT", &user_path, Some(json!({"password": "sample", "tags": "monitoring"}))).await;
    let as_user = |url: &str, user: &str| {
        let (scheme, rest) = url.split_once("://").unwrap();
        format!("{scheme}://{user}@{}", rest.split_once('@').unwrap().1)
    };
    let watching = as_user(&vhost.management_url, &format!("{user}:sample"));
    let unknown = as_user(&vhost.management_url, "nobody:sample");
    for (amqp, management, words, code, said) in [
        ("", "", &["--fast"][..], 64, "--fast"),
        ("", "", &["--rounds", "0"], 64, "--rounds"),
        ("", "", &["--size", "8B"], 64, "from 20B to 1MiB"),
        (no_amqp, no_api, &[], 69, "broker.management_url) cannot be reached"),
        (no_amqp, "", &[], 69, "the broker at 127.0.0.1:1 cannot be reached"),
        ("", " ", &[], 78, "broker.management_url is empty"),
        ("", watching.as_str(), &[], 1, "takes an administrator"),
        ("", unknown.as_str(), &[], 1, "does not know the user"),
    ] {
        let mut command = bench(&vhost, words);
        if !amqp.is_empty() {
            command.env("WARREND__BROKER__AMQP_URL", amqp);
        }
        if !management.is_empty() {
            command.env("WARREND__BROKER__MANAGEMENT_URL", management.trim());
        }
        let output = end(command.spawn().unwrap()).await;
        let err = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(code), ""), "{said}: {err}");
        assert!(err.contains(said) && !err.contains("sample"), "{said}: {err}");
    }
    vhost.management("DELETE", &user_path, None).await;
}
