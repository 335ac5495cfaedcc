//! The HTTP API as its users meet it.

use serde_json::{Value, json};

use crate::support::amqp::{Client, text};
use crate::support::daemon::{Daemon, daemon};

const QUEUES: &str = "queue: invoices
title: Vendor invoices
schema: {type: object, required: [n]}
retry: {it: {limit: 0}}
---
queue: letters
lane: direct
";

async fn post(daemon: &Daemon, queue: &str, body: Value) -> Value {
    let (status, item) = daemon.post(&format!("/api/v1/queues/{queue}/items"), &body).await;
    assert_eq!(status, 201, "{item}");
    item
}

async fn references(daemon: &Daemon, query: &str) -> Vec<String> {
    let items = daemon.items(query).await;
    items.iter().map(|item| item["reference"].as_str().unwrap().to_owned()).collect()
}

/// A problem's type word and its faults, after checking the form that all of them have.
async fn problem(daemon: &Daemon, request: reqwest::RequestBuilder, status: u16) -> (String, Vec<String>) {
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), status);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).expect("a problem is JSON");
    assert_eq!(body["status"], status);
    assert!(!body["title"].as_str().unwrap().is_empty() && !body["detail"].as_str().unwrap().is_empty(), "{body}");
    assert!(!body.to_string().contains(&daemon.path().display().to_string()), "{body}");
    let word = body["type"].as_str().unwrap().strip_prefix("urn:warrend:problem:").expect("our own type").to_owned();
    let faults = body["errors"].as_array().unwrap().iter();
    (word, faults.map(|fault| fault["detail"].as_str().unwrap().to_owned()).collect())
}

#[tokio::test]
async fn lists_filter_sort_and_page() {
    let daemon = daemon("http lists").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;
    for n in 0..7 {
        let body = json!({
            "payload": {"n": n}, "reference": format!("INV-{n}"), "priority": if n % 2 == 0 { json!("high") } else { json!(1) },
            "labels": {"site": if n < 3 { "oslo" } else { "bergen" }, "year": "2031"},
            "due_at": format!("2031-01-0{}T00:00:00Z", 7 - n), "name": format!("Invoice 100% {n}"),
        });
        post(&daemon, "invoices", body).await;
    }
    let mut robot = client.robot("invoices").await;
    for (kind, body) in
        [("processed", json!({})), ("business_exception", json!({"code": "vendor_unknown"})), ("hold", json!({}))]
    {
        let delivery = robot.next().await;
        robot.report(&delivery, kind, &body).await;
        robot.ack(&delivery).await;
    }
    robot.die().await;
    daemon
        .wait_until("the three are reported", async |daemon: &Daemon| {
            daemon.items("state=processed,exception,on_hold").await.len() == 3
        })
        .await;
    let sorted = async |query: &str| {
        let mut found = references(&daemon, query).await;
        found.sort();
        found
    };
    // High ones went first, in the order of admission: 0, 2, 4 were worked on.
    for (query, expected) in [
        ("state=processed", &["INV-0"][..]),
        ("state=exception&kind=business", &["INV-2"]),
        ("kind=it,generic", &[]),
        ("state=on_hold&state=processed", &["INV-0", "INV-4"]),
        ("label=site%3Doslo", &["INV-0", "INV-1", "INV-2"]),
        ("label=site%3Doslo&label=year%3D2031&state=queued", &["INV-1"]),
        ("reference=INV-3", &["INV-3"]),
        ("reference=inv-3", &[]),
        ("queue=letters", &[]),
        ("queue=nobody", &[]),
        ("due=2031-01-02T12:00:00Z", &["INV-5", "INV-6"]),
        ("q=vendor_unknown", &["INV-2"]),
        ("q=100%25%203", &["INV-3"]),
        ("q=%25%25", &[]),
        ("since=2099-01-01T00:00:00Z", &[]),
    ] {
        assert_eq!(sorted(query).await, expected, "{query}");
    }
    assert_eq!(
        references(&daemon, "sort=oldest").await,
        ["INV-0", "INV-1", "INV-2", "INV-3", "INV-4", "INV-5", "INV-6"]
    );
    assert_eq!(references(&daemon, "sort=due&state=queued").await, ["INV-6", "INV-5", "INV-3", "INV-1"]);
    assert_eq!(references(&daemon, "sort=priority&state=queued").await, ["INV-6", "INV-1", "INV-3", "INV-5"]);

    // Pages of two, each item once, the same order as the whole; the last page says that it is.
    for sort in ["newest", "oldest", "priority", "due"] {
        let (mut paged, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = daemon.get(&format!("/api/v1/items?limit=2&sort={sort}{cursor}")).await;
            paged.extend(
                page["items"].as_array().unwrap().iter().map(|item| item["reference"].as_str().unwrap().to_owned()),
            );
            pages += 1;
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!((paged, pages), (references(&daemon, &format!("sort={sort}")).await, 4), "{sort}");
    }
    // What comes between two pages does not move the later ones.
    let first = daemon.get("/api/v1/items?limit=2&sort=newest").await;
    post(&daemon, "invoices", json!({"payload": {"n": 9}, "reference": "INV-9"})).await;
    let second = daemon.get(&format!("/api/v1/items?limit=2&cursor={}", first["next"].as_str().unwrap())).await;
    assert_eq!((&first["items"][0]["reference"], &second["items"][0]["reference"]), (&json!("INV-6"), &json!("INV-4")));
}

#[tokio::test]
async fn one_item_shows_all_there_is() {
    let daemon = daemon("http item").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let body = r#"{"payload": {"n": 12345678901234567890.10, "a": "x  y"}, "reference": "r"}"#;
    let answer = http
        .post(format!("{}/api/v1/queues/invoices/items", daemon.url()))
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let item = daemon.get(&location).await;
    let fields: Vec<&str> = item.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields.len(), 40, "{fields:?}");
    for field in
        ["kind", "code", "reason", "note", "result", "worker", "pending", "parent", "not_before", "finished_at"]
    {
        assert_eq!(item.get(field), Some(&Value::Null), "{field} is there, and null");
    }
    let payload = http.get(format!("{}{location}/payload", daemon.url())).send().await.unwrap();
    assert_eq!(payload.headers()["content-type"], "application/json");
    assert_eq!(payload.headers()["x-content-type-options"], "nosniff");
    assert!(!payload.headers().contains_key("content-disposition"));
    assert_eq!(payload.bytes().await.unwrap().as_ref(), br#"{"n":12345678901234567890.10,"a":"x  y"}"#);

    let page = lapin::BasicProperties::default().with_message_id("page".into()).with_content_type("text/html".into());
    assert!(client.publish("wq.items", "letters", page, b"<script>").await);
    daemon
        .wait_until("the letter is there", async |daemon: &Daemon| !daemon.items("reference=page").await.is_empty())
        .await;
    let id = daemon.item("letters", "page").await["id"].as_str().unwrap().to_owned();
    let payload = http.get(format!("{}/api/v1/items/{id}/payload", daemon.url())).send().await.unwrap();
    assert_eq!(payload.headers()["content-disposition"], format!("attachment; filename=\"{id}\""));

    let mut robot = client.robot("invoices").await;
    let delivery = robot.next().await;
    robot.report(&delivery, "progress", &json!({"percent": 40, "note": "page 2"})).await;
    robot.report(&delivery, "processed", &json!({"result": {"booked": 1}})).await;
    robot.ack(&delivery).await;
    daemon.wait_until_done("invoices", 1).await;
    let item = daemon.get(&location).await;
    assert_eq!((&item["result"], &item["sla"]), (&json!({"booked": 1}), &json!("none")));
    let lines = daemon.timeline(&item).await;
    let told: Vec<(&str, &str)> =
        lines.iter().map(|line| (line["event"].as_str().unwrap(), line["actor"].as_str().unwrap())).collect();
    assert_eq!(told, [("admitted", "api"), ("progress", "test-robot"), ("processed", "test-robot")]);

    let queue = daemon.queue("invoices").await;
    assert_eq!(
        (&queue["title"], &queue["lane"], &queue["type"]),
        (&json!("Vendor invoices"), &json!("managed"), &json!("auto"))
    );
    assert_eq!(
        (&queue["counts"]["processed"], &queue["paused"]),
        (&json!(1), &json!({"dispatch": false, "intake": false}))
    );
    let queues = daemon.get("/api/v1/queues").await;
    assert_eq!((&queues["items"][1]["key"], &queues["next"]), (&json!("letters"), &Value::Null));
    let ready = daemon.get("/readyz").await;
    assert_eq!((&ready["ready"], &ready["checks"]["management"]["ok"]), (&json!(true), &json!(true)));
    assert_eq!(daemon.get("/healthz").await, json!({"alive": true}));

    for n in 0..3 {
        let properties = lapin::BasicProperties::default();
        assert!(client.publish("wq.outcomes", "invoices", properties, format!("junk {n}").as_bytes()).await);
    }
    daemon
        .wait_until("the junk is parked", async |daemon: &Daemon| {
            daemon.get("/api/v1/parked").await["items"].as_array().unwrap().len() == 3
        })
        .await;
    let first = daemon.get("/api/v1/parked?limit=2").await;
    let second = daemon.get(&format!("/api/v1/parked?limit=2&cursor={}", first["next"].as_str().unwrap())).await;
    assert_eq!((&first["items"][0]["preview"], &second["items"][0]["preview"]), (&json!("junk 2"), &json!("junk 0")));
    assert_eq!(second["next"], Value::Null);
}

#[tokio::test]
async fn every_mistake_is_a_problem_that_names_it() {
    let daemon = daemon("http problems").queues(QUEUES).start().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = |path: &str| http.get(format!("{}{path}", daemon.url()));
    let send = |queue: &str, kind: &str, body: Vec<u8>| {
        http.post(format!("{}/api/v1/queues/{queue}/items", daemon.url())).header("content-type", kind).body(body)
    };
    for (path, status, word, faults) in [
        ("/api/v1/queues/nobody", 404, "not_found", &[][..]),
        ("/api/v1/items/nobody", 404, "not_found", &[]),
        ("/api/v1/items/01a205f7-7754-72b3-b88f-2d3fef945683/timeline", 404, "not_found", &[]),
        ("/api/v1/items/01a205f7-7754-72b3-b88f-2d3fef945683/payload", 404, "not_found", &[]),
        ("/api/v2/queues", 404, "not_found", &[]),
        ("/api/v1/queues/%ff", 400, "bad_request", &[]),
        ("/api/v1/queues?state=queued", 400, "bad_request", &["there is no parameter 'state'; this route takes none"]),
        (
            "/api/v1/items?state=done&limit=0&sort=size&colour=red&since=soon&label=oslo",
            400,
            "bad_request",
            &["state 'done'", "limit '0'", "sort 'size'", "no parameter 'colour'", "since 'soon'", "label 'oslo'"],
        ),
        ("/api/v1/items?cursor=junk", 400, "bad_request", &["cursor 'junk'"]),
    ] {
        let (found, said) = problem(&daemon, get(path), status).await;
        assert_eq!(found, word, "{path}");
        assert_eq!(said.len(), faults.len(), "{path}: {said:?}");
        for fault in faults {
            assert!(said.iter().any(|said| said.contains(fault)), "{path}: {fault} in {said:?}");
        }
    }
    let json_type = "application/json";
    for (request, status, word, count) in [
        (http.delete(format!("{}/api/v1/queues/invoices", daemon.url())), 405, "method_not_allowed", 0),
        (send("nobody", json_type, b"{}".to_vec()), 404, "not_found", 0),
        (send("letters", json_type, br#"{"payload": 1}"#.to_vec()), 409, "direct_lane", 0),
        (send("invoices", "text/plain", br#"{"payload": {"n": 1}}"#.to_vec()), 415, "unsupported_media_type", 0),
        (send("invoices", json_type, b"{".to_vec()), 400, "bad_request", 0),
        (send("invoices", json_type, br#"{"refrence": 1, "priority": []}"#.to_vec()), 400, "bad_request", 3),
        (send("invoices", json_type, br#"{"payload": {}, "priority": 32}"#.to_vec()), 422, "invalid", 2),
        (send("invoices", json_type, vec![b' '; 21 * 1024 * 1024]), 413, "too_large", 0),
    ] {
        let (found, said) = problem(&daemon, request, status).await;
        assert_eq!((found.as_str(), said.len()), (word, count), "{said:?}");
    }
    assert!(daemon.items("").await.is_empty());
}

#[tokio::test]
async fn robots_see_what_came_over_http_as_from_anybody() {
    let daemon = daemon("http to robot").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;
    let item =
        post(&daemon, "invoices", json!({"payload": {"n": 1}, "reference": "r", "name": "One", "priority": "high"}))
            .await;
    let mut robot = client.robot("invoices").await;
    let delivery = robot.next().await;
    let headers = delivery.properties.headers().clone().unwrap_or_default();
    assert_eq!(delivery.properties.message_id().as_ref().map(ToString::to_string).as_deref(), item["id"].as_str());
    assert_eq!(headers.inner().get("wq-reference"), Some(&text("r")));
    assert_eq!(headers.inner().get("wq-name"), Some(&text("One")));
    assert_eq!((*delivery.properties.priority(), delivery.data.as_slice()), (Some(8), &b"{\"n\":1}"[..]));
    robot.done(&delivery).await;
    daemon.wait_until_done("invoices", 1).await;
}
