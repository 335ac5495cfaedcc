//! Items and attempts out of the daemon by the thousand.

use serde_json::{Value, json};

use crate::support::amqp::Client;
use crate::support::daemon::{Daemon, PATIENCE, daemon};

const QUEUES: &str = "queue: notes
retry: {it: {limit: 1, backoff: {first: 1s, jitter: 0%}}}
";

async fn export(daemon: &Daemon, target: &str) -> (u16, String, Option<String>, String) {
    let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().expect("a client");
    let answer = http.get(format!("{}/api/v1/export/{target}", daemon.url())).send().await.expect("an answer");
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
    let (status, media_type, next) = (answer.status().as_u16(), header("content-type"), header("next-cursor"));
    (status, media_type.expect("a type"), next, answer.text().await.expect("a body"))
}

async fn fill(daemon: &Daemon, rows: String) {
    let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().expect("a client");
    let request = http.post(format!("{}/api/v1/queues/notes/items", daemon.url())).body(rows);
    let answer = request.header("content-type", "application/x-ndjson").send().await.expect("an answer");
    let answer: Value = serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON");
    assert_eq!(answer["refused"], 0, "{answer}");
}

#[tokio::test]
async fn items_go_out_as_they_are_shown() {
    let daemon = daemon("export items").queues(QUEUES).start().await;
    let rows = json!({"payload": {"n": 1}, "reference": "=1+1", "name": "a, \"b\"", "labels": {"site": "oslo"}})
        .to_string()
        + "\n{\"payload\": 1.10, \"reference\": \"two\"}\n{\"payload\": \"@x\", \"reference\": \"three\", \"priority\": \"high\"}\n";
    fill(&daemon, rows).await;
    let (status, media_type, next, csv) = export(&daemon, "items?payload=true").await;
    assert_eq!((status, media_type.as_str(), next), (200, "text/csv; charset=utf-8; header=present", None));
    let lines: Vec<&str> = csv.split("\r\n").collect();
    assert!(
        lines[0].starts_with("id,queue,reference,name,state,")
            && lines[0].ends_with(",revision,payload,payload_encoding")
    );
    assert_eq!((lines.len(), lines[4]), (5, ""), "{csv}");
    assert!(
        lines[1].contains(",notes,'=1+1,\"a, \"\"b\"\"\",queued,")
            && lines[1].contains("\"{\"\"site\"\":\"\"oslo\"\"}\""),
        "{csv}"
    );
    assert!(lines[1].ends_with(",\"{\"\"n\"\":1}\",json") && lines[2].ends_with(",1.10,json"), "{csv}");
    let (_, _, _, raw) = export(&daemon, "items?raw=true&reference=%3D1%2B1").await;
    assert!(raw.contains(",notes,=1+1,"), "{raw}");

    let (_, media_type, _, ndjson) = export(&daemon, "items?format=ndjson&payload=true&q=t").await;
    assert_eq!(media_type, "application/x-ndjson");
    let lines: Vec<&str> = ndjson.lines().collect();
    assert_eq!(lines.len(), 2, "{ndjson}");
    assert!(lines[0].ends_with("\"payload\":1.10,\"payload_encoding\":\"json\"}"), "{ndjson}");
    let exported: Value = serde_json::from_str(lines[1]).unwrap();
    let mut item = daemon.item("notes", "three").await;
    // Over by the time that anybody reads it.
    item.as_object_mut().unwrap().remove("lease_until");
    item["payload"] = json!("@x");
    item["payload_encoding"] = json!("json");
    assert_eq!(exported, item);

    for target in [
        "items?format=xml",
        "items?limit=0",
        "items?cursor=x",
        "items?sort=due",
        "items?state=odd",
        "attempts?payload=true",
    ] {
        let (status, media_type, ..) = export(&daemon, target).await;
        assert_eq!((status, media_type.as_str()), (400, "application/problem+json"), "{target}");
    }
    let (_, _, _, nothing) = export(&daemon, "items?queue=nobody").await;
    assert_eq!(nothing.lines().count(), 1);
}

#[tokio::test]
async fn attempts_go_out_one_row_each() {
    let daemon = daemon("export attempts").queues(QUEUES).start().await;
    fill(&daemon, "{\"payload\": 1, \"reference\": \"a\"}\n{\"payload\": 2, \"reference\": \"b\"}\n".to_owned()).await;
    let client = Client::connect(&daemon.vhost).await;
    let mut robot = client.robot("notes").await;
    for kind in ["it_exception", "processed", "processed"] {
        let delivery = robot.next().await;
        robot.report(&delivery, kind, &json!({"code": "x", "reason": "-1 is odd"})).await;
        robot.ack(&delivery).await;
    }
    daemon.wait_until_done("notes", 2).await;
    let (_, _, _, ndjson) = export(&daemon, "attempts?format=ndjson").await;
    let rows: Vec<Value> = ndjson.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<Value> = rows.iter().map(|row| json!([row["reference"], row["attempt"], row["outcome"]])).collect();
    assert_eq!(json!(told), json!([["a", 1, "it"], ["a", 2, "processed"], ["b", 1, "processed"]]));
    let id = daemon.item("notes", "a").await["id"].as_str().unwrap().to_owned();
    let shown = daemon.get(&format!("/api/v1/items/{id}/attempts")).await;
    for (row, shown) in rows.iter().zip(shown["items"].as_array().unwrap()) {
        assert!(shown.as_object().unwrap().iter().all(|(name, value)| row[name] == *value), "{row} {shown}");
        assert_eq!((&row["item"], &row["queue"]), (&json!(id), &json!("notes")));
    }
    let (_, _, _, csv) = export(&daemon, "attempts?reference=a").await;
    assert_eq!(csv.lines().count(), 3);
    assert!(csv.contains(",'-1 is odd,"), "{csv}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_rows_take_a_pages_memory_and_pages_add_up() {
    let daemon = daemon("export many").queues(QUEUES).start().await;
    let filling = "x".repeat(2000);
    for first in (0..20_000).step_by(5000) {
        let rows = (first..first + 5000).map(|n| format!("{{\"payload\":\"{filling}\",\"reference\":\"r-{n}\"}}\n"));
        fill(&daemon, rows.collect()).await;
    }
    let before = daemon.peak_memory();
    let (_, _, _, whole) = export(&daemon, "items?format=ndjson&payload=true").await;
    let references: Vec<String> = whole
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["reference"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(references.len(), 20_000);
    assert!(references.iter().enumerate().all(|(n, reference)| *reference == format!("r-{n}")));
    let grown = daemon.peak_memory().saturating_sub(before);
    assert!(grown < 40, "{grown} MiB more");

    let (mut pages, mut cursor) = (String::new(), String::new());
    loop {
        let (status, _, next, page) = export(&daemon, &format!("items?format=ndjson&limit=1000{cursor}")).await;
        assert_eq!((status, page.lines().count()), (200, 1000));
        pages.push_str(&page);
        match next {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(pages.lines().count(), 20_000);

    // The command: whole, and after it broke off.
    let run = async |words: &[&str]| {
        let mut command = daemon.command();
        command.current_dir(daemon.path()).arg("export").args(words);
        tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("it ran")
    };
    let output = run(&["items", "--output", "all.csv"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all = std::fs::read_to_string(daemon.path().join("all.csv")).unwrap();
    assert_eq!(all.lines().count(), 20_001);
    assert_eq!(all.matches("id,queue,reference").count(), 1);
    assert!(!daemon.path().join("all.csv.export.json").exists());
    let printed = run(&["items"]).await;
    assert_eq!(printed.stdout, all.as_bytes());

    // As a run leaves it that was killed in the middle of its second page.
    let (_, _, next, first) = export(&daemon, "items?format=csv&limit=1000").await;
    let from = format!("{}/", daemon.url());
    let journal =
        json!({"daemon": from, "query": "items [(\"format\", \"csv\")]", "cursor": next, "bytes": first.len()});
    std::fs::write(daemon.path().join("part.csv"), format!("{first}half a row")).unwrap();
    std::fs::write(daemon.path().join("part.csv.export.json"), journal.to_string()).unwrap();
    let refused = run(&["items", "--queue", "notes", "--output", "part.csv", "--resume"]).await;
    assert_eq!(refused.status.code(), Some(64), "{}", String::from_utf8_lossy(&refused.stderr));
    let output = run(&["items", "--output", "part.csv", "--resume"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read_to_string(daemon.path().join("part.csv")).unwrap() == all, "the two differ");
}
