//! The routes end to end, without a socket.

mod access;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::definition::QueueDefinition;
use crate::item::{Lane, Timestamp};
use crate::lanes::live::InForce;
use crate::outward::send::{Allowed, Sender};
use crate::status::{Attention, Broker, Held, QueueSeen};

mod contract;
mod webhooks;

const ID: &str = "00000000-0000-0000-0000-000000000001";

fn definition(key: &str, lane: Lane) -> Arc<QueueDefinition> {
    Arc::new(QueueDefinition { title: key.to_uppercase(), lane, ..QueueDefinition::with_defaults(key) })
}

/// A daemon's API over a fresh mirror, with a managed queue `invoices` and a direct one `scans`.
pub(super) struct Bench {
    _folder: tempfile::TempDir,
    pub(super) api: Api,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn content_type(&self) -> &str {
        self.headers["content-type"].to_str().unwrap()
    }

    /// Holds the answer to the form of a problem and brings its detail and the details of its errors.
    fn problem(&self) -> (String, Vec<String>) {
        assert_eq!(self.content_type(), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        assert!(problem["type"].as_str().unwrap().starts_with("urn:warrend:problem:"));
        assert!(problem["title"].is_string());
        let errors =
            problem["errors"].as_array().unwrap().iter().map(|error| error["detail"].as_str().unwrap().to_owned());
        (problem["detail"].as_str().unwrap().to_owned(), errors.collect())
    }
}

impl Bench {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(&format!("sqlite://{}/m.db", folder.path().display())).await.unwrap();
        let queues = [definition("invoices", Lane::Managed), definition("scans", Lane::Direct)];
        let queues = queues.into_iter().map(|queue| (queue.key.clone(), queue)).collect();
        let definitions = Arc::new(Definitions { queues, ..Definitions::default() });
        let live = Live::new(InForce { definitions, ..InForce::default() });
        let (status, wakes) = (Arc::<Status>::default(), Arc::<Wakes>::default());
        let feed = Feed::new(mirror.clone(), CancellationToken::new());
        let outward = Outward {
            mirror: mirror.clone(),
            live: live.clone(),
            status: Arc::clone(&status),
            wakes: Arc::clone(&wakes),
            sender: Sender::new(Allowed::default()),
            post: None,
            secrets: Vec::new(),
            bells: Arc::default(),
        };
        let api = Api {
            feed,
            outward,
            mirror,
            live,
            status,
            wakes,
            keeper: None,
            desk: Desk::default(),
            metrics: crate::metrics::install(),
            looks: outlook::Looks::default(),
            gate: Gate::default(),
            busy: idempotency::Busy::default(),
        };
        Self { _folder: folder, api }
    }

    /// A bench with item [`ID`] in `invoices`.
    async fn with_item() -> Self {
        let bench = Self::new().await;
        bench
            .run(
                "INSERT INTO items (id, queue, lane, reference, state, kind, place, priority, attempt, deliveries, retries, \
                 requeues, silent, possible_repeat, ran_anyway, stub, enqueued_at, ready_at, revision) VALUES \
                 ('00000000-0000-0000-0000-000000000001', 'invoices', 'managed', 'INV-1', 'exception', 'it', 'settled', 4, 1, 1, \
                 0, 0, 0, 0, 0, 0, 1000000, 0, 2), \
                 ('00000000-0000-0000-0000-000000000002', 'invoices', 'managed', 'INV-2', 'queued', NULL, 'ready', 8, 0, 0, \
                 0, 0, 0, 0, 0, 0, 2000000, 0, 1)",
            )
            .await;
        bench
    }

    async fn run(&self, sql: &'static str) {
        self.api
            .mirror
            .write(move |tx| {
                Box::pin(async move {
                    let done = sqlx::query(sql).execute(tx).await;
                    done.map(|_| ())
                        .map_err(|source| crate::mirror::MirrorError::Sql { operation: "be filled", source })
                })
            })
            .await
            .unwrap();
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = router(self.api.clone()).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        // A stream of events does not end.
        let streams = parts.headers.get("content-type").is_some_and(|said| said == "text/event-stream");
        let body = if streams { Vec::new() } else { to_bytes(body, usize::MAX).await.unwrap().to_vec() };
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, content_type: &str, body: impl Into<Body>) -> Answer {
        self.send(Request::post(path).header("content-type", content_type).body(body.into()).unwrap()).await
    }
}

#[tokio::test]
async fn the_process_is_alive_before_it_is_ready() {
    let bench = Bench::new().await;
    assert_eq!(bench.get("/healthz").await.status, StatusCode::OK);
    let answer = bench.get("/readyz").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["ready"], false);
    assert_eq!(answer.json()["checks"]["mirror"]["ok"], true);
}

#[tokio::test]
async fn without_the_management_api_the_daemon_is_ready_and_says_so() {
    let bench = Bench::new().await;
    bench.api.status.update(|status| {
        status.broker = Broker::Connected { version: "4.3.6".to_owned(), blocked: None };
        status.planned = true;
        status.management_problem = Some("connection refused".to_owned());
    });
    let answer = bench.get("/readyz").await;
    assert_eq!(answer.status, StatusCode::OK);
    let body = answer.json();
    assert_eq!(body["ready"], true);
    assert_eq!(body["checks"]["broker"]["detail"], "connected to RabbitMQ 4.3.6");
    assert_eq!(body["checks"]["management"]["ok"], false);
    bench.api.status.update(|status| {
        status.broker = Broker::Connected { version: "4.3.6".to_owned(), blocked: Some("low on memory".to_owned()) };
    });
    let answer = bench.get("/readyz").await;
    let detail = answer.json()["checks"]["broker"]["detail"].to_string();
    assert!(answer.status == StatusCode::OK && detail.contains("blocks publishers (low on memory)"), "{detail}");
    bench.api.status.update(|status| status.broker = Broker::Lost { reason: "gone".to_owned() });
    assert_eq!(bench.get("/readyz").await.json()["checks"]["broker"], json!({"ok": false, "detail": "gone"}));
}

#[tokio::test]
async fn queues_show_definition_counts_and_what_the_broker_has() {
    let bench = Bench::with_item().await;
    bench.run("INSERT INTO queue_acks (queue, unaccounted) VALUES ('invoices', 2)").await;
    bench.api.status.update(|status| {
        let seen = QueueSeen { ready: Some(5), unacked: None, consumers: Some(1) };
        status.queues.insert("invoices".to_owned(), seen);
    });
    let time = |second| Timestamp::from_second(second).unwrap();
    let held = vec![Held { item: ID.parse().unwrap(), robot: Some("r".to_owned()), since: time(5) }];
    let seen_at = |second| Attention { since: time(second), text: "again and again".to_owned(), held: held.clone() };
    assert!(bench.api.status.attend("invoices", "nack_loop", Some(seen_at(7))));
    assert!(!bench.api.status.attend("invoices", "nack_loop", Some(seen_at(9))), "it goes on since then");
    assert!(!bench.api.status.attend("invoices", "hanging", None));
    let mut expected = json!({
        "key": "invoices", "title": "INVOICES", "description": null, "owner": null, "labels": {}, "lane": "managed",
        "type": "auto", "paused": {"dispatch": false, "intake": false}, "breaker": null, "retired": false, "migration": null,
        "counts": {"queued": 1, "processing": 0, "processed": 0, "on_hold": 0, "exception": 1, "cancelled": 0,
            "exceptions": {"it": 1}},
        "ready": 5, "unacked": null, "consumers": 1, "unaccounted": 2,
        "attention": [{"queue": "invoices", "what": "nack_loop", "since": "1970-01-01T00:00:07Z", "text": "again and again",
            "items": [{"id": ID, "robot": "r", "since": "1970-01-01T00:00:05Z"}]}],
    });
    let list = bench.get("/api/v1/queues").await.json();
    assert_eq!(list["items"][0], expected);
    expected["sla"] = json!({"in_time": 0, "at_risk": 0, "late": 0});
    expected["forecast"] = json!({"drain_at": null, "late": 0, "robots_needed": null});
    assert_eq!(bench.get("/api/v1/queues/invoices").await.json(), expected);
    assert_eq!((&list["items"][1]["key"], &list["items"][1]["lane"]), (&json!("scans"), &json!("direct")));
    assert_eq!(list["next"], Value::Null);
}

#[tokio::test]
async fn a_queue_alone_shows_what_becomes_of_it() {
    let bench = Bench::with_item().await;
    // One robot takes a minute for an item; of five that are due in 150 s two are done in time.
    bench
        .run(
            "UPDATE items SET state = 'processed', kind = NULL, started_at = 1000000, finished_at = 61000000 \
             WHERE reference = 'INV-1'",
        )
        .await;
    bench
        .run(
            "WITH RECURSIVE n (n) AS (SELECT 3 UNION ALL SELECT n + 1 FROM n WHERE n < 7) \
             INSERT INTO items (id, queue, lane, state, place, priority, attempt, deliveries, retries, requeues, silent, \
             possible_repeat, ran_anyway, stub, enqueued_at, ready_at, revision, due_at, at_risk_at) \
             SELECT '00000000-0000-0000-0000-00000000000' || n, 'invoices', 'managed', 'queued', 'ready', 8, 0, 0, 0, 0, 0, 0, \
             0, 0, 1, 0, 1, unixepoch() * 1000000 + 150000000, unixepoch() * 1000000 + (n - 4) * 60000000 FROM n",
        )
        .await;
    bench.run("DELETE FROM items WHERE reference = 'INV-2'").await;
    bench.api.status.update(|status| {
        let seen = QueueSeen { ready: Some(5), unacked: None, consumers: Some(1) };
        status.queues.insert("invoices".to_owned(), seen);
    });
    let queue = bench.get("/api/v1/queues/invoices").await.json();
    assert_eq!(queue["sla"], json!({"in_time": 3, "at_risk": 2, "late": 0}));
    let forecast = &queue["forecast"];
    assert_eq!((&forecast["late"], &forecast["robots_needed"]), (&json!(3), &json!(3)));
    let drain_at: Timestamp = forecast["drain_at"].as_str().unwrap().parse().unwrap();
    let ahead = drain_at.duration_since(crate::lanes::now()).as_secs();
    assert!((240..=300).contains(&ahead), "{ahead}");
}

#[tokio::test]
async fn items_are_listed_page_by_page() {
    let bench = Bench::with_item().await;
    let first = bench.get("/api/v1/items?sort=priority&limit=1&queue=invoices").await.json();
    assert_eq!(first["items"][0]["reference"], "INV-2");
    let next = first["next"].as_str().unwrap();
    let second = bench.get(&format!("/api/v1/items?limit=1&queue=invoices&cursor={next}")).await.json();
    assert_eq!(second["items"][0]["reference"], "INV-1");
    assert_eq!(second["next"], Value::Null);
    let filtered =
        bench.get("/api/v1/items?state=exception,queued&state=on_hold&kind=it&q=inv&since=1970-01-01T00:00:01Z").await;
    assert_eq!(filtered.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_attempts_of_an_item_are_read_from_its_timeline() {
    let bench = Bench::with_item().await;
    let path = format!("/api/v1/items/{ID}/attempts");
    assert_eq!(bench.get(&path).await.json(), json!({"items": [], "next": null}));
    bench.run(r#"INSERT INTO timeline (item, revision, at, actor, user, event, attempt, state, ended) VALUES ('00000000-0000-0000-0000-000000000001', 1, 3000000, 'ann', 'u', 'retry', 1, 'queued', '{"attempt":1,"outcome":"it","robot":"ann","dispatched_at":"1970-01-01T00:00:01Z","deliveries":2,"code":"E1","delay_ms":30000}')"#).await;
    bench.run("INSERT INTO timeline (item, revision, at, actor, event, attempt, state) VALUES ('00000000-0000-0000-0000-000000000001', 0, 2000000, 'ann', 'started', 1, 'processing')").await;
    let expected = json!({"attempt": 1, "robot": "ann", "user": "u", "dispatched_at": "1970-01-01T00:00:01Z",
        "started_at": null, "starts": [{"at": "1970-01-01T00:00:02Z", "robot": "ann"}],
        "ended_at": "1970-01-01T00:00:03Z", "outcome": "it", "code": "E1", "reason": null, "deliveries": 2,
        "delay_ms": 30000, "inferred": false, "corrected_at": null});
    assert_eq!(bench.get(&path).await.json()["items"], json!([expected]));
    assert_eq!(bench.get("/api/v1/items/00000000-0000-0000-0000-000000000009/attempts").await.status, 404);
}

#[tokio::test]
async fn one_item_its_timeline_and_its_payload_are_read() {
    let bench = Bench::with_item().await;
    bench.run("INSERT INTO timeline (item, revision, at, actor, event, attempt, state) VALUES ('00000000-0000-0000-0000-000000000001', 1, 0, 'producer', 'admitted', 0, 'queued')").await;
    assert_eq!(bench.get(&format!("/api/v1/items/{ID}")).await.json()["kind"], "it");
    let lines = bench.get(&format!("/api/v1/items/{ID}/timeline")).await.json();
    assert_eq!(
        lines["items"][0],
        json!({"revision": 1, "at": "1970-01-01T00:00:00Z", "actor": "producer", "user": null, "event": "admitted",
            "why": null, "attempt": 0, "state": "queued"})
    );
    assert_eq!(
        bench.get("/api/v1/items/00000000-0000-0000-0000-000000000002/timeline").await.json()["items"],
        json!([])
    );
    let unknown = bench.get(&format!("/api/v1/items/{ID}/payload")).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert!(unknown.problem().0.contains("payload"));
}

#[tokio::test]
async fn payloads_never_run_in_a_browser() {
    let bench = Bench::with_item().await;
    bench.run("INSERT INTO payloads (seq, body) SELECT seq, x'3c62' FROM items WHERE id = '00000000-0000-0000-0000-000000000001'").await;
    for (sql, content_type, attached) in [
        ("UPDATE items SET content_type = 'application/json; charset=utf-8'", "application/json; charset=utf-8", false),
        ("UPDATE items SET content_type = 'text/html'", "text/html", true),
        ("UPDATE items SET content_type = 'a' || char(10) || 'b: c'", "application/octet-stream", true),
        ("UPDATE items SET content_type = NULL", "application/octet-stream", true),
    ] {
        bench.run(sql).await;
        let answer = bench.get(&format!("/api/v1/items/{ID}/payload")).await;
        assert_eq!((answer.status, answer.body.as_slice()), (StatusCode::OK, b"<b".as_slice()));
        assert_eq!(answer.content_type(), content_type);
        assert_eq!(answer.headers.contains_key("content-disposition"), attached, "{sql}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
}

#[tokio::test]
async fn parked_messages_are_listed() {
    let bench = Bench::new().await;
    bench.run("INSERT INTO parked (at, source, queue, reason, properties, body) VALUES (0, 'intake', 'q', 'odd', '{}', x'ff41')").await;
    let list = bench.get("/api/v1/parked").await.json();
    assert_eq!(
        list,
        json!({"items": [{"id": 1, "at": "1970-01-01T00:00:00Z", "source": "intake", "queue": "q", "reason": "odd",
            "properties": {}, "size": 2, "preview": "\u{fffd}A", "masked": false}], "next": null})
    );
}

#[tokio::test]
async fn bad_requests_are_problems_that_name_what_is_wrong() {
    let bench = Bench::with_item().await;
    for (path, status, part) in [
        ("/nothing", 404, "/nothing"),
        ("/api/v1/queues/none", 404, "no queue 'none'"),
        ("/api/v1/queues/%ff", 400, "UTF-8"),
        ("/api/v1/queues?limit=1", 400, "there is no parameter 'limit'; this route takes none"),
        ("/healthz?x=1", 400, "'x'"),
        ("/api/v1/items/x", 404, "no item 'x'"),
        ("/api/v1/items/00000000-0000-0000-0000-000000000009", 404, "no item"),
        ("/api/v1/items/x/timeline", 404, "no item 'x'"),
        ("/api/v1/items/00000000-0000-0000-0000-000000000009/timeline", 404, "no item"),
        ("/api/v1/items/00000000-0000-0000-0000-000000000009/payload", 404, "no item"),
        ("/api/v1/items?colour=red", 400, "there is no parameter 'colour'; allowed: queue, state"),
        ("/api/v1/items?limit=0", 400, "limit '0' does not do; allowed: 1 to 1000"),
        ("/api/v1/items?limit=1001", 400, "'1001'"),
        ("/api/v1/items?limit=-1", 400, "'-1'"),
        ("/api/v1/items?limit=1&limit=2", 400, "more than once"),
        ("/api/v1/items?queue=", 400, "queue is empty"),
        ("/api/v1/items?state=done", 400, "state 'done' is not known; allowed: queued, processing"),
        ("/api/v1/items?state=queued,", 400, "''"),
        ("/api/v1/items?kind=odd", 400, "kind 'odd' is not known; allowed: business"),
        ("/api/v1/items?sort=size", 400, "sort 'size' is not known; allowed: newest, oldest, priority, due"),
        ("/api/v1/items?label=oslo", 400, "label 'oslo' is no label; allowed: name=value"),
        ("/api/v1/items?due=tomorrow", 400, "due 'tomorrow' is no RFC 3339 time"),
        ("/api/v1/items?since=2026-01-01T00:00:00+02:00", 400, "%2B"),
        ("/api/v1/items?cursor=abc", 400, "cursor 'abc'"),
        ("/api/v1/items?cursor=%F0%9F%A6%80", 400, "cursor"),
        ("/api/v1/items?q=%ff", 400, "UTF-8"),
        ("/api/v1/parked?cursor=00", 400, "cursor '00'"),
        ("/api/v1/parked?q=1", 400, "allowed: limit, cursor"),
    ] {
        let answer = bench.get(path).await;
        let (detail, _) = answer.problem();
        assert_eq!(answer.status.as_u16(), status, "{path}: {detail}");
        assert!(detail.contains(part), "{path}: {detail}");
    }
}

#[tokio::test]
async fn all_wrong_parameters_are_named_together() {
    let bench = Bench::new().await;
    let (detail, errors) = bench.get("/api/v1/items?limit=x&state=y&z=1").await.problem();
    assert_eq!(detail, "3 parameters are wrong");
    assert_eq!(errors.len(), 3);
}

#[tokio::test]
async fn a_cursor_belongs_to_the_order_it_came_from() {
    let bench = Bench::with_item().await;
    let first = bench.get("/api/v1/items?sort=due&limit=1").await.json();
    let next = first["next"].as_str().unwrap();
    let (detail, _) = bench.get(&format!("/api/v1/items?sort=newest&cursor={next}")).await.problem();
    assert!(detail.contains("sorted by due"), "{detail}");
}

#[tokio::test]
async fn refused_methods_say_what_is_allowed() {
    let bench = Bench::new().await;
    let answer = bench.post("/api/v1/items", "application/json", "{}").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(answer.headers["allow"].to_str().unwrap().contains("GET"));
    answer.problem();
}

#[tokio::test]
async fn an_enqueued_item_is_answered_and_can_be_read() {
    let bench = Bench::new().await;
    let body =
        r#"{"payload": {"b": 1.50, "a": 2}, "reference": "INV-9", "priority": "high", "labels": {"site": "oslo"}}"#;
    let answer = bench.post("/api/v1/queues/invoices/items", "application/json; charset=utf-8", body).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let item = answer.json();
    assert_eq!((&item["state"], &item["priority"], &item["reference"]), (&json!("queued"), &json!(8), &json!("INV-9")));
    let location = answer.headers["location"].to_str().unwrap();
    assert_eq!(bench.get(location).await.json(), item);
    let payload = bench.get(&format!("{location}/payload")).await;
    assert_eq!(
        (payload.content_type(), payload.body.as_slice()),
        ("application/json", br#"{"b":1.50,"a":2}"#.as_slice())
    );
    let lines = bench.get(&format!("{location}/timeline")).await.json();
    assert_eq!(lines["items"][0]["event"], "admitted");
}

#[tokio::test]
async fn what_the_door_refuses_is_a_422_and_not_kept() {
    let bench = Bench::new().await;
    let body = r#"{"payload": 1, "priority": 99}"#;
    let answer = bench.post("/api/v1/queues/invoices/items", "application/json", body).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(!answer.problem().1.is_empty());
    assert_eq!(bench.get("/api/v1/items").await.json()["items"], json!([]));
}

#[tokio::test]
async fn what_cannot_be_enqueued_is_refused_before_the_door() {
    let bench = Bench::new().await;
    let json = "application/json";
    for (path, content_type, body, status, part) in [
        ("/api/v1/queues/none/items", json, "{}", 404, "no queue 'none'"),
        ("/api/v1/queues/scans/items", json, r#"{"payload": 1}"#, 409, "'scans' is direct"),
        ("/api/v1/queues/invoices/items", "text/plain", "{}", 415, "application/json"),
        ("/api/v1/queues/invoices/items", json, "{", 400, "no JSON"),
        ("/api/v1/queues/invoices/items", json, "7", 400, "one JSON object"),
        ("/api/v1/queues/invoices/items", json, r#"{"payload": 1, "colour": 2}"#, 400, "no field 'colour'"),
        ("/api/v1/queues/invoices/items?x=1", json, "{}", 400, "'x'"),
    ] {
        let answer = bench.post(path, content_type, body).await;
        let (detail, _) = answer.problem();
        assert_eq!(answer.status.as_u16(), status, "{path}: {detail}");
        assert!(detail.contains(part), "{path}: {detail}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let bench = Bench::new().await;
    let answer = bench.post("/api/v1/queues/invoices/items", "application/json", vec![b' '; MAX_BODY + 1]).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    answer.problem();
}

#[tokio::test]
async fn a_mirror_that_cannot_be_read_is_a_500_without_sql() {
    let bench = Bench::with_item().await;
    bench.run("UPDATE items SET attempt = -1 WHERE seq = 1").await;
    let answer = bench.get(&format!("/api/v1/items/{ID}")).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    answer.problem();
}

#[tokio::test]
async fn serving_ends_when_told_to() {
    let bench = Bench::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stop = CancellationToken::new();
    let rules = ListenerRules { max_connections: 10, tls: None };
    let server = tokio::spawn(serve(bench.api.clone(), listener, rules, stop.clone()));
    stop.cancel();
    server.await.unwrap();
}
