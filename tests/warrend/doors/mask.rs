//! Payloads with something to hide, and payloads that are no JSON.

use serde_json::{Value, json};

use crate::support::amqp::Client;
use crate::support::daemon::{Daemon, daemon};

const QUEUES: &str = "queue: customers
mask: [/iban, /lines/*/price]
schema: {type: object, properties: {iban: {type: string, maxLength: 20}}}
max_payload: 1KiB
---
queue: open
max_payload: 1KiB
";

async fn enqueue(daemon: &Daemon, queue: &str, body: Value) -> String {
    let (status, item) = daemon.post(&format!("/api/v1/queues/{queue}/items"), &body).await;
    assert_eq!(status, 201, "{item}");
    item["id"].as_str().expect("an id").to_owned()
}

async fn payload(daemon: &Daemon, id: &str, query: &str) -> (u16, Value) {
    daemon.get_with_status(&format!("/api/v1/items/{id}/payload{query}")).await.expect("an answer")
}

#[tokio::test]
async fn masked_fields_are_shown_to_nobody_who_does_not_ask_to_reveal_them() {
    let daemon = daemon("masked fields").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;
    let secret = "NO9386011117947";
    let whole = json!({"iban": secret, "lines": [{"n": 1, "price": 7.50}], "name": "Ola"});
    let hidden = json!({"iban": "[masked]", "lines": [{"n": 1, "price": "[masked]"}], "name": "Ola"});
    let id = enqueue(&daemon, "customers", json!({"payload": whole, "reference": "c-1"})).await;
    assert_eq!(payload(&daemon, &id, "").await, (200, hidden.clone()));
    let (_, shown) = payload(&daemon, &id, "?as=json").await;
    assert_eq!((&shown["payload"], &shown["masked"], &shown["text"]), (&hidden, &json!(true), &Value::Null));
    let found = daemon.get(&format!("/api/v1/items?q={secret}")).await;
    assert_eq!(found["items"], json!([]), "nobody finds it by what is hidden");

    // Robots get it whole: it is their work.
    let mut robot = client.robot("customers").await;
    let delivery = robot.next().await;
    assert_eq!(serde_json::from_slice::<Value>(&delivery.data).unwrap(), whole);
    robot.done(&delivery).await;

    // Asked for, it is shown, and that is noted first.
    assert_eq!(payload(&daemon, &id, "?reveal=true").await, (200, whole.clone()));
    let (_, shown) = payload(&daemon, &id, "?reveal=true&as=json").await;
    assert_eq!((&shown["payload"], &shown["masked"]), (&whole, &json!(false)));
    let noted = daemon
        .count("SELECT count(*) FROM audit JOIN items ON items.id = audit.target WHERE action = 'payload.reveal'");
    assert_eq!(noted.await, 2);

    // What the door refuses says nothing of what is hidden, where it stays to be read.
    let long = format!("{secret}{secret}");
    client.send("customers", "bad", &json!({"iban": long})).await;
    daemon.wait_until("it is refused", async |daemon: &Daemon| daemon.items("state=exception").await.len() == 1).await;
    let refused = daemon.item("customers", "bad").await;
    assert!(refused["reason"].as_str().unwrap().contains("/iban: [masked] is longer than 20"), "{refused}");
    for path in ["failures".to_owned(), format!("items/{}/timeline", refused["id"].as_str().unwrap())] {
        let shown = daemon.get(&format!("/api/v1/{path}")).await.to_string();
        assert!(!shown.contains(secret), "{shown}");
    }
    // What is no JSON is hidden whole.
    let refused = client.publish(
        "wq.items",
        "customers",
        lapin::BasicProperties::default().with_message_id("text".into()),
        secret.as_bytes(),
    );
    assert!(refused.await);
    daemon.wait_until("it is refused", async |daemon: &Daemon| daemon.items("state=exception").await.len() == 2).await;
    let text = daemon.item("customers", "text").await;
    let id = text["id"].as_str().unwrap();
    let (status, problem) = payload(&daemon, id, "").await;
    assert_eq!((status, &problem["type"]), (403, &json!("urn:warrend:problem:masked")));
    assert!(!problem.to_string().contains(secret));
    let (_, shown) = payload(&daemon, id, "?as=json").await;
    assert_eq!(
        (&shown["masked"], &shown["text"], &shown["base64"], &shown["size"]),
        (&json!(true), &Value::Null, &Value::Null, &json!(15))
    );
    let (_, shown) = payload(&daemon, id, "?as=json&reveal=true").await;
    assert_eq!(shown["text"], secret);
}

#[tokio::test]
async fn what_is_no_json_comes_and_goes_in_base64() {
    let daemon = daemon("base64").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;
    let id = enqueue(&daemon, "open", json!({"payload_base64": "JVBERgE=", "content_type": "application/pdf"})).await;
    let item = daemon.get(&format!("/api/v1/items/{id}")).await;
    assert_eq!(item["content_type"], "application/pdf");
    let (_, shown) = payload(&daemon, &id, "?as=json").await;
    assert_eq!((&shown["base64"], &shown["size"], &shown["masked"]), (&json!("JVBERgE="), &json!(5), &json!(false)));
    let mut robot = client.robot("open").await;
    let delivery = robot.next().await;
    assert_eq!(delivery.data, b"%PDF\x01");
    assert_eq!(
        delivery.properties.content_type().as_ref().map(ToString::to_string).as_deref(),
        Some("application/pdf")
    );
    robot.report(&delivery, "business_exception", &json!({})).await;
    robot.ack(&delivery).await;
    daemon.wait_until("it failed", async |daemon: &Daemon| daemon.items("state=exception").await.len() == 1).await;
    let (status, edited) = daemon
        .send(
            "PATCH",
            &format!("/api/v1/items/{id}"),
            &json!({"payload_base64": "aGVp", "content_type": "text/plain", "by": "ida"}),
        )
        .await;
    assert_eq!((status, &edited["content_type"]), (200, &json!("text/plain")));
    assert_eq!(payload(&daemon, &id, "?as=json").await.1["text"], "hei");

    let big = "A".repeat(1_400);
    for (body, status, part) in [
        (json!({"payload": 1, "payload_base64": "aGVp"}), 400, "beside payload"),
        (json!({"payload_base64": "a_b-"}), 400, "no base64"),
        (json!({"payload_base64": 7}), 400, "has to be text"),
        (json!({"payload": 1, "content_type": "text/plain"}), 400, "write it as payload_base64"),
        (json!({"content_type": "text/plain"}), 400, "without a payload"),
        (json!({}), 400, "payload is missing"),
        (json!({"payload_base64": "ew==", "content_type": "application/json"}), 422, "content-type says JSON"),
        (json!({"payload_base64": big}), 422, "max_payload"),
    ] {
        let (found, problem) = daemon.post("/api/v1/queues/open/items", &body).await;
        assert!(found == status && problem.to_string().contains(part), "{body}: {found} {problem}");
    }
    for query in ["?as=xml", "?reveal=yes", "?reveal=true&reveal=true", "?raw=1"] {
        assert_eq!(payload(&daemon, &id, query).await.0, 400, "{query}");
    }
}

const ACTIONS: &str = "/api/v1/items/actions";

/// Has an action begun, and answers it with its results once it is in this state.
async fn act(daemon: &Daemon, body: Value, state: &str) -> (Value, Vec<Value>) {
    let (status, job) = daemon.post(ACTIONS, &body).await;
    assert_eq!(status, 202, "{body}: {job}");
    let path = format!("{ACTIONS}/{}", job["id"].as_str().expect("an id"));
    daemon.wait_until("it is over", async |daemon: &Daemon| daemon.get(&path).await["state"] == state).await;
    let results = daemon.get(&format!("{path}/results")).await["items"].as_array().expect("results").clone();
    (daemon.get(&path).await, results)
}

#[tokio::test]
async fn actions_tell_nobody_what_is_masked_however_they_ask() {
    let definition = "queue: customers\nmask: [/pin, /accounts]\npaused: {dispatch: true}\n";
    let daemon = daemon("masked actions").queues(definition).start().await;
    for (reference, pin) in [("right", 1234), ("wrong", 5678)] {
        let payload = json!({"pin": pin, "accounts": {"NO93": 1}, "name": "Ola"});
        enqueue(&daemon, "customers", json!({"payload": payload, "reference": reference})).await;
    }
    let dry = |body: Value| {
        let mut body = body;
        body["action"] = "edit".into();
        body["dry_run"] = true.into();
        body["filter"] = json!({"queue": "customers"});
        body
    };
    for change in [
        json!({"merge_patch": {"pin": 1234}}),
        json!({"merge_patch": {"pin": 1234, "name": "Kari"}}),
        json!({"payload": {"pin": 1234, "accounts": {"NO93": 1}, "name": "Ola"}}),
        json!({"patch": [{"op": "replace", "path": "/pin", "value": 1234}]}),
        json!({"patch": [{"op": "test", "path": "/pin", "value": 1234}]}),
        json!({"patch": [{"op": "replace", "path": "/accounts/NO93", "value": 1}]}),
        json!({"patch": [{"op": "copy", "from": "/pin", "path": "/name"}]}),
    ] {
        let (job, results) = act(&daemon, dry(change.clone()), "previewed").await;
        let plain = |value: &Value| {
            let text = value.to_string();
            assert!(!text.contains("5678"), "{change}: {text}");
        };
        plain(&job["preview"]);
        results.iter().for_each(plain);
        let told = |result: &Value| (result["would"].clone(), result["code"].clone(), result["reason"].clone());
        assert_eq!(told(&results[0]), told(&results[1]), "{change}: {job}");
        let samples = job["preview"]["samples"].as_array().expect("samples");
        assert_eq!(samples[0]["diff"], samples[1]["diff"], "{change}");
    }
    // Without a definition nobody knows what was masked.
    daemon.alter("UPDATE items SET queue = 'gone'").await;
    let dry = |body: Value| {
        let mut body = dry(body);
        body["filter"] = json!({"queue": "gone"});
        body
    };
    let test = json!({"patch": [{"op": "test", "path": "/pin", "value": 0}]});
    let (job, results) = act(&daemon, dry(test), "previewed").await;
    assert_eq!((results.len(), &results[0]["code"]), (2, &json!("masked")), "{job}");
    assert!(!job.to_string().contains("1234") && !results[0].to_string().contains("1234"), "{job}");
    let (job, _) = act(&daemon, dry(json!({"merge_patch": {"name": "Kari"}})), "previewed").await;
    assert_eq!(job["preview"]["samples"][0]["diff"], json!([]), "{job}");
}
