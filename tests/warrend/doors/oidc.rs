//! Tokens that an OpenID Connect issuer signed: the good ones, and every way to have a bad one.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, daemon};
use crate::support::issuer::{AUDIENCE, Issuer, Key, encoded, token};

const QUEUES: &str = "queue: invoices
mask: [/iban]
---
queue: hr-leave
mask: [/iban]
";

const ROLES: &str = "wq-admins=admin; hr=operator,reveal@hr-*; all=viewer; in=producer@invoices";

async fn trusting(name: &str, issuer: &Issuer) -> Daemon {
    daemon(name)
        .queues(QUEUES)
        .clock()
        .setting("OIDC__ISSUER", &issuer.url)
        .setting("OIDC__AUDIENCE", AUDIENCE)
        .setting("OIDC__ROLES", ROLES)
        .start()
        .await
}

async fn get(daemon: &Daemon, token: &str, path: &str) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = client.get(format!("{}{path}", daemon.url())).bearer_auth(token).send().await.expect("an answer");
    let status = answer.status().as_u16();
    if status == 401 {
        let asks = answer.headers()["www-authenticate"].to_str().expect("a text").to_owned();
        assert!(asks.starts_with("Bearer"), "{asks}");
        let body = answer.text().await.expect("a body");
        for leak in ["expired", "signature", "audience", "issuer", "kid", "ExpiredSignature", "Invalid"] {
            assert!(!body.contains(leak), "{body}");
        }
    }
    status
}

async fn shown(daemon: &Daemon, token: &str, path: &str) -> Value {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = client.get(format!("{}{path}", daemon.url())).bearer_auth(token).send().await.expect("an answer");
    answer.json().await.expect("JSON")
}

async fn post(daemon: &Daemon, token: &str, path: &str, body: Value) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let request = client.post(format!("{}{path}", daemon.url())).bearer_auth(token).json(&body);
    let answer = request.send().await.expect("an answer");
    (answer.status().as_u16(), serde_json::from_slice(&answer.bytes().await.expect("a body")).unwrap_or_default())
}

#[tokio::test]
async fn claims_say_who_may_do_what_where() {
    let issuer = Issuer::start().await;
    let (ed, ec, rsa) = (Key::ed(), Key::ec(), Key::rsa());
    issuer.signs_with(&[("ed", &ed), ("ec", &ec), ("rsa", &rsa)]);
    let daemon = trusting("oidc roles", &issuer).await;
    for (key, kid) in [(&ed, "ed"), (&ec, "ec"), (&rsa, "rsa")] {
        let admin = token(key, kid, &issuer.claims("root", &["wq-admins"]));
        assert_eq!(get(&daemon, &admin, "/api/v1/audit").await, 200, "{kid}");
    }
    assert_eq!(issuer.asked(), 1, "keys are kept");
    let admin = token(&ed, "ed", &issuer.claims("root", &["wq-admins"]));
    let (_, item) = post(&daemon, &admin, "/api/v1/queues/invoices/items", json!({"payload": 1})).await;
    let id = item["id"].as_str().expect("an id");

    // What is worked over HTTP says who was let in, beside the worker that they name.
    let (status, claimed) =
        post(&daemon, &admin, "/api/v1/queues/invoices/claim", json!({"worker": "desk 4", "wait": "60s"})).await;
    assert_eq!(status, 200, "{claimed}");
    let timeline = shown(&daemon, &admin, &format!("/api/v1/items/{id}/timeline")).await;
    let line = timeline["items"].as_array().and_then(|lines| lines.last()).expect("a line");
    assert_eq!(json!([line["event"], line["actor"], line["user"]]), json!(["claimed", "desk 4", "root"]), "{line}");
    let body = json!({"lease": claimed["lease"]});
    assert_eq!(post(&daemon, &admin, &format!("/api/v1/items/{id}/return"), body).await.0, 200);

    // Each value of the claim allows what it allows where it does: more of them do not add up to more.
    let both = token(&ec, "ec", &issuer.claims("Ann Lee", &["hr", "all", "unknown"]));
    assert_eq!(get(&daemon, &both, &format!("/api/v1/items/{id}")).await, 200);
    assert_eq!(post(&daemon, &both, &format!("/api/v1/items/{id}/hold"), json!({})).await.0, 404);
    assert_eq!(post(&daemon, &both, "/api/v1/queues/hr-leave/pause", json!({})).await.0, 200);
    assert_eq!(get(&daemon, &both, "/api/v1/audit").await, 403);
    let nobody = token(&ec, "ec", &issuer.claims("joe", &["unknown"]));
    assert_eq!(get(&daemon, &nobody, "/api/v1/items").await, 403);
    let log = {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let answer = client.get(format!("{}/api/v1/audit?action=queue.pause", daemon.url())).bearer_auth(&admin);
        answer.send().await.expect("an answer").text().await.expect("a body")
    };
    assert!(log.contains("Ann_Lee") && log.contains("\"oidc\""), "{log}");
}

#[tokio::test]
async fn what_is_forged_expired_or_for_others_is_refused() {
    let issuer = Issuer::start().await;
    let (ed, rsa, other) = (Key::ed(), Key::rsa(), Key::ed());
    issuer.signs_with(&[("ed", &ed), ("rsa", &rsa)]);
    let daemon = trusting("oidc forged", &issuer).await;
    let claims = issuer.claims("root", &["wq-admins"]);
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        token(&ed, "ed", &claims)
    };
    let without = |name: &str| {
        let mut claims = claims.clone();
        claims.as_object_mut().expect("an object").remove(name);
        token(&ed, "ed", &claims)
    };
    let good = token(&ed, "ed", &claims);
    assert_eq!(get(&daemon, &good, "/api/v1/items").await, 200);

    let now = Timestamp::now().as_second();
    let parts: Vec<&str> = good.split('.').collect();
    let body = |claims: &Value| encoded(claims.to_string().as_bytes());
    let header = |header: Value| encoded(header.to_string().as_bytes());
    let mut more = claims.clone();
    more["roles"] = json!(["wq-admins", "hr"]);
    // The public key as a secret that both know: what a daemon that trusts the header would check with.
    let secret = {
        use hmac::{KeyInit as _, Mac as _};
        let message = format!("{}.{}", header(json!({"alg": "HS256", "kid": "ed"})), parts[1]);
        let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(parts[1].as_bytes()).expect("a key");
        mac.update(message.as_bytes());
        format!("{message}.{}", encoded(&mac.finalize().into_bytes()))
    };
    let swapped = format!("{}.{}.{}", header(json!({"alg": "RS256", "kid": "ed"})), parts[1], parts[2]);
    let bad = [
        ("another key", token(&other, "ed", &claims)),
        ("another key, unknown", token(&other, "new", &claims)),
        ("another content", format!("{}.{}.{}", parts[0], body(&more), parts[2])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("alg none", format!("{}.{}.", header(json!({"alg": "none"})), parts[1])),
        ("alg none, a signature", format!("{}.{}.{}", header(json!({"alg": "none", "kid": "ed"})), parts[1], parts[2])),
        ("a shared secret", secret),
        ("another algorithm", swapped),
        ("expired", with("exp", json!(now - 3600))),
        ("no end", without("exp")),
        ("an end that is no number", with("exp", json!("never"))),
        ("not yet", with("nbf", json!(now + 3600))),
        ("for others", with("aud", json!("another"))),
        ("for nobody", without("aud")),
        ("of another issuer", with("iss", json!("https://evil.example"))),
        ("of no issuer", without("iss")),
        ("nobody's", without("sub")),
        ("a name with a line in it", with("sub", json!("a\nb"))),
        ("far too long", with("more", json!("x".repeat(20_000)))),
        ("no token", "x.y.z".to_owned()),
        ("half of one", good[..good.len() / 2].to_owned()),
    ];
    // The clock goes on between, so that the limit on failed tries is not what refuses them.
    for (n, (what, token)) in bad.iter().enumerate() {
        daemon.set_clock(SignedDuration::from_secs(2 * i64::try_from(n).expect("few")));
        assert_eq!(get(&daemon, token, "/api/v1/items").await, 401, "{what}");
    }
    for (what, token) in [
        ("a little late", with("exp", json!(now + 3000))),
        ("a little early", with("nbf", json!(now + 30))),
        ("for several", with("aud", json!(["another", AUDIENCE]))),
    ] {
        assert_eq!(get(&daemon, &token, "/api/v1/items").await, 200, "{what}");
    }
}

#[tokio::test]
async fn what_one_value_reveals_others_do_not_hide() {
    let issuer = Issuer::start().await;
    let key = Key::ed();
    issuer.signs_with(&[("k", &key)]);
    let daemon = trusting("oidc reveal", &issuer).await;
    let admin = token(&key, "k", &issuer.claims("root", &["wq-admins"]));
    let ann = token(&key, "k", &issuer.claims("ann", &["hr", "all"]));
    for (queue, status) in [("invoices", 403), ("hr-leave", 200)] {
        let path = format!("/api/v1/queues/{queue}/items");
        let (_, item) = post(&daemon, &admin, &path, json!({"payload": {"iban": "X"}})).await;
        let path = format!("/api/v1/items/{}/payload?reveal=true", item["id"].as_str().expect("an id"));
        assert_eq!(get(&daemon, &ann, &path).await, status, "{queue}");
    }
}

#[tokio::test]
async fn good_tokens_are_served_beside_bad_ones_of_the_same_address() {
    let issuer = Issuer::start().await;
    let (key, other) = (Key::ed(), Key::ed());
    issuer.signs_with(&[("k", &key)]);
    let daemon = trusting("oidc beside", &issuer).await;
    let bad = token(&other, "k", &issuer.claims("root", &["wq-admins"]));
    let mut refused = 0;
    while get(&daemon, &bad, "/api/v1/items").await != 429 {
        refused += 1;
        assert!(refused < 1_000, "it is never slowed down");
    }
    let good = token(&key, "k", &issuer.claims("ann", &["all"]));
    assert_eq!(get(&daemon, &good, "/api/v1/items").await, 200);
}

#[tokio::test]
async fn keys_are_changed_and_the_old_ones_are_good_no_more() {
    let issuer = Issuer::start().await;
    let (old, new) = (Key::ed(), Key::ec());
    issuer.signs_with(&[("old", &old)]);
    let daemon = trusting("oidc rotation", &issuer).await;
    let (first, second) =
        (token(&old, "old", &issuer.claims("a", &["all"])), token(&new, "new", &issuer.claims("b", &["all"])));
    assert_eq!(get(&daemon, &first, "/api/v1/items").await, 200);
    issuer.signs_with(&[("old", &old), ("new", &new)]);
    // Whoever shows keys that nobody knows has the issuer asked once in a while and no more often.
    for _ in 0..5 {
        assert_eq!(get(&daemon, &second, "/api/v1/items").await, 401);
    }
    assert_eq!(issuer.asked(), 1);
    daemon.set_clock(SignedDuration::from_secs(40));
    assert_eq!(get(&daemon, &second, "/api/v1/items").await, 200);
    assert_eq!(issuer.asked(), 2);
    assert_eq!(get(&daemon, &first, "/api/v1/items").await, 200);
    issuer.signs_with(&[("new", &new)]);
    daemon.set_clock(SignedDuration::from_secs(40 + 700));
    assert_eq!(get(&daemon, &second, "/api/v1/items").await, 200);
    assert_eq!(get(&daemon, &first, "/api/v1/items").await, 401);
    assert_eq!(issuer.asked(), 3);
}
