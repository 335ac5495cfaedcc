//! Who may do what over HTTP, with tokens, against the live daemon.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, daemon};
use crate::support::listener::Listener;

const QUEUES: &str = "queue: invoices
mask: [/iban]
---
queue: hr-leave
";

/// The ends of a command: how it ended, what it printed, what it complained of.
fn run(command: &mut Command, words: &[&str]) -> (i32, String, String) {
    let output = command.args(words).output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// The first token, made while the daemon does not run.
async fn locked(name: &str) -> (Daemon, String) {
    let mut daemon = daemon(name).queues(QUEUES).start().await;
    assert!(daemon.stop().success());
    let first = ["token", "create", "--local", "--name", "root", "--role", "admin"];
    let (code, secret, said) = run(&mut daemon.command(), &first);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("only time"), "{said}");
    daemon.start_again().await;
    let secret = secret.trim().to_owned();
    daemon.show(&secret);
    (daemon, secret)
}

/// A token that the daemon makes for somebody who may.
async fn made(daemon: &Daemon, name: &str, roles: &[&str], queues: &[&str]) -> String {
    let body = json!({"name": name, "roles": roles, "queues": queues});
    let (status, token) = daemon.post("/api/v1/tokens", &body).await;
    assert_eq!(status, 201, "{token}");
    token["token"].as_str().expect("its secret").to_owned()
}

/// The answer to somebody else than the daemon's handle: status and body.
async fn ask(daemon: &Daemon, token: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut request = client.request(method.parse().expect("a method"), format!("{}{path}", daemon.url()));
    if !token.is_empty() {
        request = request.bearer_auth(token);
    }
    if method != "GET" {
        request = request.json(body);
    }
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    // What goes on for ever is not read.
    if answer.headers().get("content-type").is_some_and(|kind| kind == "text/event-stream") {
        return (status, Value::Null);
    }
    (status, serde_json::from_slice(&answer.bytes().await.expect("a body")).unwrap_or_default())
}

#[tokio::test]
async fn the_first_token_closes_the_api_and_the_daemon_makes_the_others() {
    let (daemon, root) = locked("who first").await;
    let (status, refused) = ask(&daemon, "", "GET", "/api/v1/items", &Value::Null).await;
    assert_eq!((status, &refused["type"]), (401, &json!("urn:warrend:problem:unauthorized")));
    assert_eq!(ask(&daemon, &root, "GET", "/api/v1/items", &Value::Null).await.0, 200);

    // Beside the daemon nobody writes into its mirror.
    let (code, _, said) = run(&mut daemon.command(), &["token", "create", "--local", "--name", "x", "--role", "admin"]);
    assert!(code == 1 && said.contains("the daemon runs"), "{said}");
    let file = daemon.dir.path().join("root.token");
    std::fs::write(&file, format!("{root}\n")).expect("a file");
    let file = file.to_str().expect("a path");
    let create = ["token", "create", "--token-file", file, "--name", "robot", "--role", "worker", "--queue", "hr-*"];
    let (code, robot, said) = run(&mut daemon.command(), &create);
    assert_eq!(code, 0, "{said}");
    let (code, list, _) = run(daemon.command().env("WARREND_TOKEN", &root), &["token", "list", "--output", "json"]);
    let list: Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!((code, &list["items"][1]["queues"]), (0, &json!(["hr-*"])));
    assert!(!list.to_string().contains(robot.trim()), "secrets are nowhere");
    let (code, _, said) = run(&mut daemon.command(), &["items", "list"]);
    assert!(code == 1 && said.contains("WARREND_TOKEN"), "{said}");
    let (code, _, said) = run(daemon.command().env("WARREND_TOKEN", &root), &["token", "revoke", "robot"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(ask(&daemon, robot.trim(), "GET", "/api/v1/items", &Value::Null).await.0, 401);
    let mirror = std::fs::read(daemon.mirror_path()).expect("the mirror");
    assert!(!mirror.windows(16).any(|part| part == &root.as_bytes()[4..20]), "its secret is not kept");
}

#[tokio::test]
async fn an_address_that_others_reach_needs_a_token_first() {
    let mut daemon = daemon("who address").queues(QUEUES).start().await;
    assert!(daemon.stop().success());
    for (name, value) in [("WARREND__HTTP__LISTEN", "0.0.0.0:0"), ("WARREND__HTTP__AUTH", "required")] {
        let (code, _, said) = run(daemon.command().env(name, value), &["serve"]);
        assert_ne!(code, 0, "{said}");
        assert!(said.contains("token create --local"), "{said}");
    }
    // A page of the web that has a name of its own lead here gets nothing.
    daemon.start_again().await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    for (host, status) in [("evil.example", 421), ("evil.example:7070", 421), ("localhost", 200), ("127.0.0.1:1", 200)]
    {
        let request = client.get(format!("{}/api/v1/queues", daemon.url())).header("host", host);
        assert_eq!(request.send().await.expect("an answer").status().as_u16(), status, "{host}");
    }
}

/// Who may, by the words of docs/security.md and not by those of the code.
fn may(method: &str, path: &str) -> &'static [&'static str] {
    const OPEN: &[&str] = &["", "viewer", "producer", "worker", "operator", "admin"];
    const READ: &[&str] = &["viewer", "operator", "admin"];
    let begins = |parts: &[&str]| parts.iter().any(|part| path.starts_with(&format!("/api/v1/{part}")));
    let ends = |parts: &[&str]| parts.iter().any(|part| path.ends_with(part));
    if !path.starts_with("/api/v1/") {
        return if path == "/metrics" { READ } else { OPEN };
    }
    if begins(&["plan", "apply", "revisions", "webhooks", "tokens", "audit"]) {
        return &["admin"];
    }
    if begins(&["failures", "robots", "export", "parked", "unrouted"]) {
        return READ;
    }
    if begins(&["items/actions"]) {
        return &["operator", "admin"];
    }
    match method {
        "GET" => &OPEN[1..],
        _ if begins(&["queues"]) && ends(&["/items"]) => &["producer", "operator", "admin"],
        _ if ends(&["/claim", "/outcome", "/heartbeat", "/return"]) || begins(&["leases"]) => {
            &["worker", "operator", "admin"]
        }
        _ => &["operator", "admin"],
    }
}

#[tokio::test]
async fn every_role_meets_every_route() {
    let (daemon, root) = locked("who roles").await;
    let (status, item) = daemon.post("/api/v1/queues/invoices/items", &json!({"payload": {"n": 1}})).await;
    assert_eq!(status, 201);
    let id = item["id"].as_str().expect("an id");
    let mut tokens = BTreeMap::from([("", String::new()), ("admin", root)]);
    for role in ["viewer", "producer", "worker", "operator"] {
        tokens.insert(role, made(&daemon, role, &[role], &["*"]).await);
    }
    let document = daemon.get("/api/openapi.json").await;
    // Nobody reads such a body, so whoever gets through changes nothing.
    let body = json!({"no such member": 1});
    let mut met = 0;
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let place = path.replace("{id}", id).replace("{key}", "invoices").replace("{fingerprint}", "f");
        for method in methods.as_object().expect("methods").keys().map(|method| method.to_uppercase()) {
            for (role, token) in &tokens {
                let (status, said) = ask(&daemon, token, &method, &place, &body).await;
                let let_in = may(&method, path).contains(role);
                let expected: &[u16] = if role.is_empty() { &[401] } else { &[403] };
                assert_eq!(!expected.contains(&status), let_in, "{role:?} {method} {path}: {status} {said}");
                met += 1;
            }
        }
    }
    assert!(met > 200, "only {met}");
}

#[tokio::test]
async fn tokens_of_other_queues_find_nothing_there() {
    let (daemon, _) = locked("who queues").await;
    let (_, item) =
        daemon.post("/api/v1/queues/invoices/items", &json!({"payload": {"iban": "X"}, "reference": "A"})).await;
    let (_, own) = daemon.post("/api/v1/queues/hr-leave/items", &json!({"payload": 1, "reference": "B"})).await;
    let (id, own) = (item["id"].as_str().expect("an id"), own["id"].as_str().expect("an id"));
    let hr = made(&daemon, "hr", &["operator"], &["hr-*"]).await;
    let get = async |path: &str| ask(&daemon, &hr, "GET", path, &Value::Null).await;
    let listed = get("/api/v1/items").await.1;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(get("/api/v1/items?queue=invoices").await.1["items"], json!([]));
    assert_eq!(get("/api/v1/queues").await.1["items"].as_array().map(Vec::len), Some(1));
    let unknown = "00000000-0000-7000-8000-000000000000";
    for end in ["", "/timeline", "/payload", "/attempts", "/why"] {
        let (status, said) = get(&format!("/api/v1/items/{id}{end}")).await;
        let (absent, same) = get(&format!("/api/v1/items/{unknown}{end}")).await;
        assert_eq!((status, absent), (404, 404), "{end}");
        assert_eq!(said.to_string().replace(id, "?"), same.to_string().replace(unknown, "?"));
        assert_ne!(get(&format!("/api/v1/items/{own}{end}")).await.0, 403);
    }
    for (path, body) in [
        (format!("/api/v1/items/{id}/cancel"), json!({})),
        ("/api/v1/queues/invoices/items".to_owned(), json!({"payload": 1})),
        ("/api/v1/queues/invoices/pause".to_owned(), json!({})),
        ("/api/v1/queues/invoices/claim".to_owned(), json!({"worker": "w"})),
    ] {
        assert_eq!(ask(&daemon, &hr, "POST", &path, &body).await.0, 404, "{path}");
    }
    // There is something of the other queue to be seen everywhere, for whoever may.
    let (status, lease) = daemon.post(&format!("/api/v1/items/{id}/claim"), &json!({"worker": "robot-7"})).await;
    assert_eq!(status, 200, "{lease}");
    let failed = json!({"type": "business_exception", "reason": "they are broken", "lease": lease["lease"]});
    let (status, said) = daemon.post(&format!("/api/v1/items/{id}/outcome"), &failed).await;
    assert_eq!(status, 200, "{said}");
    let job = json!({"action": "note", "note": "about invoices", "ids": [id]});
    let (status, job) = daemon.post("/api/v1/items/actions", &job).await;
    assert_eq!(status, 202, "{job}");
    for path in ["/api/v1/failures", "/api/v1/robots", "/api/v1/export/items", "/api/v1/items/actions"] {
        let whole = daemon.get(path).await.to_string();
        assert!(whole.contains("invoices") || whole.contains(id), "{path}: {whole}");
        let (status, said) = get(path).await;
        let said = said.to_string();
        assert!(status == 200 && !said.contains("invoices") && !said.contains(id), "{path}: {status} {said}");
    }
    let job = job["id"].as_str().expect("an id");
    assert_eq!(get(&format!("/api/v1/items/actions/{job}")).await.0, 404);
    let (status, said) = get("/api/v1/parked").await;
    assert!(status == 200 && !said.to_string().contains("invoices"), "{said}");
    assert_eq!(get("/metrics").await.0, 403, "figures are of every queue");
    let state = daemon.get(&format!("/api/v1/items/{id}")).await;
    assert_eq!(state["state"], "exception", "nothing else happened to it");
}

#[tokio::test]
async fn what_is_masked_is_revealed_to_those_who_may_where_they_may() {
    let (daemon, root) = locked("who reveals").await;
    let (_, item) = daemon.post("/api/v1/queues/invoices/items", &json!({"payload": {"iban": "X"}})).await;
    let (_, other) = daemon.post("/api/v1/queues/hr-leave/items", &json!({"payload": 1})).await;
    let path = |item: &Value| format!("/api/v1/items/{}/payload?reveal=true", item["id"].as_str().expect("an id"));
    let (here, there) = (path(&item), path(&other));
    // No role brings the right along, not even the highest.
    let (status, said) = ask(&daemon, &root, "GET", &here, &Value::Null).await;
    assert_eq!((status, &said["type"]), (403, &json!("urn:warrend:problem:masked")), "{said}");
    let body = json!({"name": "auditor", "roles": ["viewer"], "queues": ["invoices"], "reveal": true});
    let (_, auditor) = daemon.post("/api/v1/tokens", &body).await;
    let auditor = auditor["token"].as_str().expect("its secret");
    assert_eq!(ask(&daemon, auditor, "GET", &here, &Value::Null).await, (200, json!({"iban": "X"})));
    assert_eq!(ask(&daemon, auditor, "GET", &there, &Value::Null).await.0, 404);
    let log = daemon.get("/api/v1/audit?action=payload.reveal").await;
    assert_eq!(log["items"].as_array().map(Vec::len), Some(1), "{log}");
    assert_eq!((&log["items"][0]["who"], &log["items"][0]["target"]), (&json!("auditor"), &item["id"]));
}

#[tokio::test]
async fn revoked_is_refused_at_once_also_where_it_listens() {
    let (daemon, _) = locked("who revoke").await;
    let viewer = made(&daemon, "viewer", &["viewer"], &["*"]).await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let stream = client.get(format!("{}/api/v1/events", daemon.url())).bearer_auth(&viewer).send().await;
    let mut stream = stream.expect("an answer");
    assert_eq!(stream.status(), 200);
    let tokens = daemon.get("/api/v1/tokens").await;
    let id = tokens["items"][1]["id"].as_str().expect("an id").to_owned();
    let (status, revoked) = daemon.send("DELETE", &format!("/api/v1/tokens/{id}"), &Value::Null).await;
    assert!(status == 200 && revoked["revoked_at"].is_string(), "{revoked}");
    assert_eq!(ask(&daemon, &viewer, "GET", "/api/v1/items", &Value::Null).await.0, 401);
    // The stream ends too.
    while let Ok(Some(_)) = stream.chunk().await {}
    // And a name that is free again may be given again.
    made(&daemon, "viewer", &["viewer"], &["*"]).await;
    let (status, taken) = daemon.post("/api/v1/tokens", &json!({"name": "viewer", "roles": ["viewer"]})).await;
    assert_eq!((status, &taken["type"]), (409, &json!("urn:warrend:problem:name_taken")));
    let (status, wrong) = daemon
        .post("/api/v1/tokens", &json!({"name": "a b", "roles": ["boss"], "queues": ["HR"], "expires_in": "soon"}))
        .await;
    assert_eq!((status, wrong["errors"].as_array().map(Vec::len)), (400, Some(4)), "{wrong}");
}

#[tokio::test]
async fn one_token_leaves_room_for_others_and_bad_ones_are_slowed_down() {
    let mut daemon = daemon("who rates").queues(QUEUES).setting("HTTP__RATE_LIMIT", "1").start().await;
    let busy = made(&daemon, "busy", &["admin"], &["*"]).await;
    daemon.show(&busy);
    let calm = made(&daemon, "calm", &["viewer"], &["*"]).await;
    // Far more at once than a busy machine could answer at this rate.
    let asks = (0..60).map(|_| async { ask(&daemon, &busy, "GET", "/api/v1/queues", &Value::Null).await.0 });
    let answers = futures::future::join_all(asks).await;
    assert!(answers.contains(&200) && answers.contains(&429), "{answers:?}");
    assert_eq!(ask(&daemon, &calm, "GET", "/api/v1/queues", &Value::Null).await.0, 200);
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut slowed = 0;
    for n in 0..60 {
        let request = client.get(format!("{}/api/v1/queues", daemon.url())).bearer_auth(format!("wrd_{n}"));
        let answer = request.send().await.expect("an answer");
        assert!([401, 429].contains(&answer.status().as_u16()), "{}", answer.status());
        if answer.status() == 429 {
            assert!(answer.headers().contains_key("retry-after"));
            slowed += 1;
        }
    }
    assert!(slowed > 0, "nobody was slowed down");
    // From the same address, with a good one.
    daemon
        .wait_until("the calm one is served", async |daemon: &Daemon| {
            ask(daemon, &calm, "GET", "/api/v1/queues", &Value::Null).await.0 == 200
        })
        .await;
}

#[tokio::test]
async fn what_is_changed_stands_in_a_log_that_is_only_added_to() {
    let (daemon, _) = locked("who audit").await;
    let ops = made(&daemon, "ops", &["operator"], &["*"]).await;
    let hold = json!({"by": "ann", "why": "<b>wait</b>"});
    assert_eq!(ask(&daemon, &ops, "POST", "/api/v1/queues/invoices/pause", &json!({"dispatch": true})).await.0, 200);
    let (_, item) = daemon.post("/api/v1/queues/invoices/items", &json!({"payload": 1})).await;
    let id = item["id"].as_str().expect("an id");
    assert_eq!(ask(&daemon, &ops, "POST", &format!("/api/v1/items/{id}/hold"), &hold).await.0, 200);
    assert_eq!(daemon.post("/api/v1/apply", &json!({})).await.0, 200);
    let log = daemon.get("/api/v1/audit").await;
    let seen: Vec<(&str, &str, &str)> = log["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| ["action", "who", "outcome"].map(|name| entry[name].as_str().expect("a text")).into())
        .collect();
    assert_eq!(seen[0], ("apply", "root", "done"));
    assert_eq!(seen[1], ("apply", "root", "begun"));
    assert_eq!(seen[2], ("item.hold", "ops for ann", "done"));
    assert_eq!(seen[3], ("queue.pause", "ops", "done"));
    assert_eq!(seen[4], ("token.create", "root", "done"));
    assert_eq!(seen[5].0, "token.create");
    assert_eq!(log["items"][2]["source"], "127.0.0.1");
    assert_eq!(log["items"][2]["detail"], json!({"why": "<b>wait</b>"}));
    assert_eq!(log["items"][5]["kind"], "local");
    assert!(!log.to_string().contains("wrd_"), "no secret is written down");
    let lines = daemon.get(&format!("/api/v1/items/{id}/timeline")).await;
    assert!(lines.to_string().contains("ops for ann"), "{lines}");
    let only = daemon.get("/api/v1/audit?who=ops").await;
    let only: Vec<&str> = only["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["action"].as_str().expect("a text"))
        .collect();
    assert_eq!(only, ["queue.pause"]);
    let others = daemon.get("/api/v1/audit?who=ops%20for%20ann").await;
    assert_eq!(others["items"][0]["action"], "item.hold");
    let filtered = daemon.get("/api/v1/audit?action=token.create&limit=1").await;
    let next = filtered["next"].as_str().expect("there is more");
    let rest = daemon.get(&format!("/api/v1/audit?action=token.create&cursor={next}")).await;
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(daemon.get("/api/v1/audit?since=2999-01-01T00:00:00Z").await["items"], json!([]));
    let mut mirror = daemon.mirror().await;
    for sql in ["UPDATE audit SET who = 'x'", "DELETE FROM audit", "INSERT OR REPLACE INTO audit SELECT * FROM audit"] {
        assert!(sqlx::query(sql).execute(&mut mirror).await.is_err(), "{sql}");
    }
}

#[tokio::test]
async fn nobody_listens_on_when_the_first_token_is_made() {
    let mut daemon = daemon("who opens").queues(QUEUES).start().await;
    let mut stream = Listener::open(&daemon, "", None).await;
    let root = made(&daemon, "root", &["admin"], &["*"]).await;
    while stream.next().await.is_some() {}
    assert_eq!(ask(&daemon, "", "GET", "/api/v1/items", &Value::Null).await.0, 401);
    daemon.show(&root);
    daemon.get("/api/v1/items").await;
}
