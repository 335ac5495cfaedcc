//! Who gets through, without a socket.

use axum::routing::{get, post};

use super::*;
use crate::http::access::{Scope, TABLE};
use crate::mirror::tokens::{self, Token};
use crate::who::{Need, Rights, Role};

impl Bench {
    /// Makes a token with these rights and answers its secret.
    pub(super) async fn token(&self, name: &str, roles: &[Role], queues: &[&str]) -> String {
        let rights = Rights {
            roles: roles.iter().copied().collect(),
            queues: queues.iter().map(|text| text.parse().unwrap()).collect(),
            reveal: false,
        };
        self.token_until(name, rights, None).await
    }

    async fn token_until(&self, name: &str, rights: Rights, expires_at: Option<Timestamp>) -> String {
        let secret = format!("wrd_{name}");
        let token = Token {
            id: format!("id-{name}"),
            name: name.to_owned(),
            hash: hash(&secret),
            rights,
            created_at: Timestamp::UNIX_EPOCH,
            created_by: "test".to_owned(),
            expires_at,
            last_used_at: None,
            revoked_at: None,
            revoked_by: None,
        };
        let added = self.api.mirror.write(move |tx| Box::pin(async move { tokens::add(tx, &token).await })).await;
        assert!(added.unwrap());
        self.api.gate.read_tokens(&self.api.mirror).await.unwrap();
        secret
    }

    async fn revoke(&self, id: &'static str) {
        let mirror = &self.api.mirror;
        let at = Timestamp::UNIX_EPOCH;
        let revoked = mirror.write(move |tx| Box::pin(async move { tokens::revoke(tx, id, at, "test").await })).await;
        assert!(revoked.unwrap().unwrap().1);
        self.api.gate.read_tokens(&self.api.mirror).await.unwrap();
    }

    pub(super) async fn ask(&self, method: &str, path: &str, token: &str, body: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request =
            if token.is_empty() { request } else { request.header("authorization", format!("Bearer {token}")) };
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }
}

/// The table and the document name the same routes.
#[test]
fn every_route_has_a_row_and_every_row_a_route() {
    let document = serde_json::to_value(document()).unwrap();
    let mut routes = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            routes.insert((method.to_uppercase(), path.clone()));
        }
    }
    let rows: std::collections::BTreeSet<_> =
        TABLE.iter().map(|rule| (rule.method.to_owned(), rule.path.to_owned())).collect();
    assert_eq!(rows.len(), TABLE.len(), "a row stands twice");
    assert_eq!(routes.difference(&rows).collect::<Vec<_>>(), Vec::<&(String, String)>::new(), "routes without a row");
    assert_eq!(rows.difference(&routes).collect::<Vec<_>>(), Vec::<&(String, String)>::new(), "rows without a route");
    for rule in TABLE {
        assert_eq!(rule.scope == Scope::Queue, rule.path.contains("{key}"), "{}", rule.path);
        let of_item = rule.path.starts_with("/api/v1/items/{id}");
        assert_eq!(rule.scope == Scope::Item, of_item, "{}", rule.path);
    }
}

#[tokio::test]
async fn while_there_is_no_token_everybody_is_api_with_every_right() {
    let bench = Bench::with_item().await;
    for rule in TABLE {
        let path = rule.path.replace("{key}", "invoices").replace("{id}", ID);
        let answer = bench.ask(rule.method, &path, "", r#"{"no such member": 1}"#).await;
        assert!(![401, 403].contains(&answer.status.as_u16()), "{} {path}: {}", rule.method, answer.status);
    }
    let note = bench.ask("POST", &format!("/api/v1/items/{ID}/notes"), "", r#"{"note": "n", "by": "ann"}"#).await;
    assert_eq!(note.status, 200);
    let lines = bench.get(&format!("/api/v1/items/{ID}/timeline")).await.json();
    assert_eq!(lines["items"][0]["actor"], "ann");
}

#[tokio::test]
async fn each_role_gets_through_where_the_table_says() {
    let bench = Bench::with_item().await;
    let mut tokens = Vec::new();
    for role in Role::ALL {
        tokens.push((role, bench.token(role.word(), &[role], &["*"]).await));
    }
    for rule in TABLE {
        let path = rule.path.replace("{key}", "invoices").replace("{id}", ID);
        // Bodies that no handler takes: whoever gets through is told so, and nothing is changed.
        let body = r#"{"no such member": 1}"#;
        let nobody = bench.ask(rule.method, &path, "", body).await;
        assert_eq!(nobody.status == 401, rule.need != Need::Nothing, "{} {path}: {}", rule.method, nobody.status);
        for (role, token) in &tokens {
            let answer = bench.ask(rule.method, &path, token, body).await;
            assert_ne!(answer.status, 401, "{role:?} {} {path}", rule.method);
            let refused = answer.status == 403;
            assert_eq!(refused, !role.grants(rule.need), "{role:?} {} {path}: {}", rule.method, answer.status);
        }
    }
}

#[tokio::test]
async fn what_shows_nothing_good_is_told_nothing() {
    let bench = Bench::with_item().await;
    let good = bench.token("good", &[Role::Viewer], &["*"]).await;
    bench.token("gone", &[Role::Viewer], &["*"]).await;
    bench.revoke("id-gone").await;
    let rights = Rights { reveal: false, ..Rights::all() };
    bench.token_until("late", rights, Some(Timestamp::UNIX_EPOCH)).await;
    let mut bodies = std::collections::BTreeSet::new();
    for token in ["", "wrd_gone", "wrd_late", "wrd_none", "wrd_", "wrd_goo", "x", "wrd_good x"] {
        let answer = bench.ask("GET", "/api/v1/items", token, "").await;
        assert_eq!(answer.status, 401, "{token}");
        assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        answer.problem();
        bodies.insert(answer.body);
    }
    assert_eq!(bodies.len(), 1, "all are told the same");
    assert_eq!(bench.ask("GET", "/api/v1/items", &good, "").await.status, 200);
    // What is open stays open, and says little.
    assert_eq!(bench.get("/healthz").await.status, 200);
    let ready = bench.get("/readyz").await.json();
    assert_eq!(ready["checks"]["broker"], json!({"detail": null, "ok": false}));
    assert_eq!(ready["attention"], Value::Null);
    assert!(bench.ask("GET", "/readyz", &good, "").await.json()["attention"].is_object());
}

#[tokio::test]
async fn a_revoked_token_is_refused_from_then_on_also_where_it_was_the_last() {
    let bench = Bench::with_item().await;
    let token = bench.token("only", &[Role::Admin], &["*"]).await;
    assert_eq!(bench.ask("GET", "/api/v1/items", &token, "").await.status, 200);
    bench.revoke("id-only").await;
    assert_eq!(bench.ask("GET", "/api/v1/items", &token, "").await.status, 401);
    assert_eq!(bench.get("/api/v1/items").await.status, 401, "the API does not open again");
}

#[tokio::test]
async fn a_token_of_some_queues_finds_nothing_in_others() {
    let bench = Bench::with_item().await;
    let all = bench.token("all", &[Role::Operator], &["*"]).await;
    let own = bench.token("own", &[Role::Operator], &["inv*", "hr-*"]).await;
    let other = bench.token("other", &[Role::Operator], &["scans", "hr-*"]).await;
    let ids = |answer: Answer| answer.json()["items"].as_array().unwrap().len();
    for (token, items, queues) in [(&all, 2, 2), (&own, 2, 1), (&other, 0, 1)] {
        assert_eq!(ids(bench.ask("GET", "/api/v1/items", token, "").await), items);
        assert_eq!(ids(bench.ask("GET", "/api/v1/items?queue=invoices", token, "").await), items);
        assert_eq!(ids(bench.ask("GET", "/api/v1/items?sort=due&state=exception,queued", token, "").await), items);
        assert_eq!(ids(bench.ask("GET", "/api/v1/items?reference=INV-1", token, "").await), items.min(1));
        assert_eq!(ids(bench.ask("GET", "/api/v1/queues", token, "").await), queues);
    }
    let none = "00000000-0000-0000-0000-000000000009";
    for rule in TABLE {
        let (mine, missing) = match rule.scope {
            Scope::Item => (rule.path.replace("{id}", ID), rule.path.replace("{id}", none)),
            Scope::Queue => (rule.path.replace("{key}", "invoices"), rule.path.replace("{key}", "nothing")),
            Scope::Whole => {
                let path = rule.path.replace("{id}", none);
                assert_eq!(bench.ask(rule.method, &path, &own, "{}").await.status, 403, "{path}");
                continue;
            }
            Scope::Filtered | Scope::Nothing => continue,
        };
        if !Role::Operator.grants(rule.need) {
            continue;
        }
        for body in ["", "{", r#"{"no such member": 1}"#] {
            let forbidden = bench.ask(rule.method, &mine, &other, body).await;
            let absent = bench.ask(rule.method, &missing, &other, body).await;
            assert_eq!((forbidden.status, absent.status), (StatusCode::NOT_FOUND, StatusCode::NOT_FOUND), "{mine}");
            let same = |answer: &Answer| {
                String::from_utf8_lossy(&answer.body)
                    .replace(ID, "?")
                    .replace(none, "?")
                    .replace("invoices", "?")
                    .replace("nothing", "?")
            };
            assert_eq!(same(&forbidden), same(&absent));
            assert_eq!(forbidden.headers.keys().collect::<Vec<_>>(), absent.headers.keys().collect::<Vec<_>>());
        }
    }
    bench.run("INSERT INTO parked (at, source, queue, reason, properties, body) VALUES (0, 'intake', 'invoices', 'odd', '{}', x'41')").await;
    assert_eq!(ids(bench.ask("GET", "/api/v1/parked", &own, "").await), 1);
    assert_eq!(ids(bench.ask("GET", "/api/v1/parked", &other, "").await), 0);
}

#[tokio::test]
async fn the_token_is_the_actor_whatever_the_body_says() {
    let bench = Bench::with_item().await;
    let flow = bench.token("flow", &[Role::Operator], &["*"]).await;
    let notes = format!("/api/v1/items/{ID}/notes");
    for body in [r#"{"note": "1"}"#, r#"{"note": "2", "by": "ann"}"#, r#"{"note": "3", "by": "flow"}"#] {
        assert_eq!(bench.ask("POST", &notes, &flow, body).await.status, 200);
    }
    let lines = bench.ask("GET", &format!("/api/v1/items/{ID}/timeline"), &flow, "").await.json();
    let actors: Vec<&str> =
        lines["items"].as_array().unwrap().iter().map(|line| line["actor"].as_str().unwrap()).collect();
    assert_eq!(actors, ["flow", "flow for ann", "flow"]);
    let item = bench.ask("POST", "/api/v1/queues/invoices/items", &flow, r#"{"payload": 1}"#).await;
    let lines = bench.ask("GET", &format!("{}/timeline", item.headers["location"].to_str().unwrap()), &flow, "").await;
    assert_eq!(lines.json()["items"][0]["actor"], "flow");
}

#[tokio::test]
async fn a_route_in_no_row_is_refused_to_everybody() {
    let bench = Bench::new().await;
    let layered = Router::new()
        .route("/api/v1/forgotten", get(|| async { "secret" }))
        .route("/api/v1/audit", post(|| async { "secret" }))
        .layer(from_fn_with_state(bench.api.clone(), caller::guard));
    for (method, path, status) in [("GET", "/api/v1/forgotten", 403), ("POST", "/api/v1/audit", 405)] {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        assert_eq!(layered.clone().oneshot(request).await.unwrap().status(), status, "{path}");
    }
}

#[tokio::test]
async fn uses_of_tokens_are_noted_together() {
    let bench = Bench::with_item().await;
    let token = bench.token("used", &[Role::Viewer], &["*"]).await;
    for _ in 0..3 {
        bench.ask("GET", "/api/v1/items", &token, "").await;
    }
    assert_eq!(bench.api.mirror.tokens().await.unwrap()[0].last_used_at, None);
    bench.api.gate.note_uses(&bench.api.mirror).await.unwrap();
    assert!(bench.api.mirror.tokens().await.unwrap()[0].last_used_at.is_some());
}
