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
