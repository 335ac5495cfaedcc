//! Webhooks as they are made and changed; nothing is sent from here.

use super::*;

const HOOK: &str = r#"{"url": "https://example.com/hook"}"#;

impl Bench {
    async fn webhook(&self, body: &str) -> String {
        let made = self.ask("POST", "/api/v1/webhooks", "", body).await;
        assert_eq!(made.status, StatusCode::CREATED);
        format!("/api/v1/webhooks/{}", made.json()["id"].as_str().unwrap())
    }

    async fn patched(&self, path: &str, body: &str) -> Value {
        let changed = self.ask("PATCH", path, "", body).await;
        assert_eq!(changed.status, StatusCode::OK, "{body}");
        changed.json()
    }
}

#[tokio::test]
async fn an_answer_with_a_secret_is_not_kept_under_a_key() {
    let bench = Bench::new().await;
    let keyed = async |method: &str, path: &str, body: &str| {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let answer =
            bench.send(request.header("idempotency-key", "k").body(Body::from(body.to_owned())).unwrap()).await;
        (answer.status, String::from_utf8(answer.body).unwrap())
    };
    let (status, body) = keyed("POST", "/api/v1/webhooks", HOOK).await;
    assert!(status == 400 && body.contains("leave Idempotency-Key out") && !body.contains("whsec_"), "{body}");
    assert_eq!(bench.get("/api/v1/webhooks").await.json()["items"], json!([]));
    let path = bench.webhook(HOOK).await;
    let (status, body) = keyed("PATCH", &path, r#"{"rotate_secret": true}"#).await;
    assert!(status == 400 && !body.contains("whsec_"), "{body}");
    assert!(bench.get(&path).await.json()["old_secret_until"].is_null());
    // Where there is no secret in the answer a key is as good as anywhere.
    let (status, body) = keyed("PATCH", &path, r#"{"queues": ["a"]}"#).await;
    assert!(status == 200 && !body.contains("whsec_"), "{body}");
}

#[tokio::test]
async fn what_a_disabled_one_misses_begins_with_the_oldest_that_waited() {
    let bench = Bench::new().await;
    let path = bench.webhook(HOOK).await;
    bench
        .run(
            "INSERT INTO outgoing (target, id, type, at, body) SELECT webhooks.id, n.value, 'item.queued', 5000000, '{}' \
             FROM webhooks, json_each('[1, 2, 3]') AS n",
        )
        .await;
    bench.patched(&path, r#"{"enabled": false}"#).await;
    // That something else of it is changed meanwhile is no matter.
    bench.patched(&path, r#"{"url": "https://example.com/other"}"#).await;
    let shown = bench.patched(&path, r#"{"enabled": true}"#).await;
    assert_eq!((&shown["missed"], &shown["waiting"], &shown["state"]), (&json!(3), &json!(0), &json!("ok")));
    let target = bench.api.mirror.targets(None).await.unwrap().remove(0).0;
    assert_eq!(target.missed_since, Timestamp::from_second(5).ok());
    // One that was never enabled was never to be told.
    let path = bench.webhook(r#"{"url": "https://example.com/hook", "enabled": false}"#).await;
    assert_eq!(bench.patched(&path, r#"{"enabled": true}"#).await["missed"], 0);
}

#[tokio::test]
async fn a_test_stands_in_the_audit_log() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let bench = Bench::new().await;
    let path = bench.webhook(r#"{"url": "https://localhost:1/"}"#).await;
    let tested = bench.ask("POST", &format!("{path}/test"), "", r#"{"by": "ann"}"#).await.json();
    assert!(tested["error"].as_str().unwrap().contains("webhooks.allow_private"), "{tested}");
    let log = bench.get("/api/v1/audit?action=webhook.test").await.json();
    assert_eq!((log["items"].as_array().unwrap().len(), &log["items"][0]["who"]), (1, &json!("ann")), "{log}");
}
