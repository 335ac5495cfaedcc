//! Who may ask what, and how long anybody may take over it, as those meet it who ask over the network.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, daemon};

const QUEUES: &str = "queue: invoices\n---\nqueue: hr-leave\n";

/// What a command printed, without the end of its line.
fn said(command: &mut Command) -> String {
    let ran = command.output().expect("it runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).expect("text").trim().to_owned()
}

async fn ask(daemon: &Daemon, token: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.request(method.parse().unwrap(), format!("{}{path}", daemon.url()));
    if !token.is_empty() {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or(Value::Null))
}

/// A daemon that was stopped for its first token, which is answered.
async fn closed(name: &str) -> (Daemon, String) {
    let mut daemon = daemon(name).queues(QUEUES).start().await;
    assert!(daemon.stop().success());
    let admin = said(daemon.command().args(["token", "create", "--local", "--name", "admin", "--role", "admin"]));
    daemon.start_again().await;
    (daemon, admin)
}

#[tokio::test]
async fn tokens_say_who_asks_and_what_they_may() {
    let (daemon, admin) = closed("auth tokens").await;
    assert!(admin.starts_with("wrd_"), "{admin}");
    assert_eq!(ask(&daemon, "", "GET", "/api/v1/queues", None).await.0, 401);
    assert_eq!(ask(&daemon, "wrd_no", "GET", "/api/v1/queues", None).await.0, 401);
    assert_eq!(ask(&daemon, &admin, "GET", "/api/v1/queues", None).await.0, 200);

    let file = daemon.path().join("admin.token");
    std::fs::write(&file, &admin).unwrap();
    let create = |name: &str, role: &str, queue: &str| {
        let mut command = daemon.command();
        command
            .args(["token", "create", "--name", name, "--role", role, "--queue", queue])
            .arg("--token-file")
            .arg(&file);
        said(&mut command)
    };
    let flow = create("flow", "producer", "invoices");
    let robot = create("robot", "worker", "hr-*");

    let item = json!({"payload": {"n": 1}, "reference": "A"});
    let (status, made) = ask(&daemon, &flow, "POST", "/api/v1/queues/invoices/items", Some(item.clone())).await;
    assert_eq!(status, 201, "{made}");
    let path = format!("/api/v1/items/{}", made["id"].as_str().unwrap());
    assert_eq!(ask(&daemon, &flow, "GET", &path, None).await.0, 200);
    // Of other queues' items nobody is told that they are there.
    let (status, hidden) = ask(&daemon, &robot, "GET", &path, None).await;
    assert_eq!((status, hidden["type"].as_str()), (404, Some("urn:warrend:problem:not_found")));
    assert_eq!(ask(&daemon, &robot, "GET", "/api/v1/items", None).await.1["items"], json!([]));
    assert_eq!(ask(&daemon, &flow, "POST", "/api/v1/queues/hr-leave/items", Some(item)).await.0, 404);
    for (token, method, path, body) in [
        (&flow, "POST", format!("{path}/cancel"), json!({})),
        (&flow, "POST", "/api/v1/queues/invoices/claim".to_owned(), json!({"worker": "w"})),
        (&robot, "POST", "/api/v1/queues/hr-leave/pause".to_owned(), json!({})),
        (&robot, "POST", "/api/v1/tokens".to_owned(), json!({})),
    ] {
        assert_eq!(ask(&daemon, token, method, &path, Some(body)).await.0, 403, "{path}");
    }

    // Taken away it is good no more, at once.
    said(daemon.command().args(["token", "revoke", "flow"]).arg("--token-file").arg(&file));
    assert_eq!(ask(&daemon, &flow, "GET", &path, None).await.0, 401);
    assert_eq!(ask(&daemon, &admin, "POST", &format!("{path}/cancel"), Some(json!({"by": "ann"}))).await.0, 200);
    let (_, lines) = ask(&daemon, &admin, "GET", &format!("{path}/timeline"), None).await;
    let actors: Vec<&str> =
        lines["items"].as_array().unwrap().iter().map(|line| line["actor"].as_str().unwrap()).collect();
    // Of one that is dispatched it is noted and then done.
    assert!(actors[0] == "flow" && actors.len() > 1, "{actors:?}");
    assert!(actors[1..].iter().all(|actor| *actor == "admin for ann"), "{actors:?}");
    let (_, log) = ask(&daemon, &admin, "GET", "/api/v1/audit", None).await;
    let actions: Vec<&str> =
        log["items"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    for action in ["token.create", "token.revoke"] {
        assert!(actions.contains(&action), "{actions:?}");
    }
    assert!(!log.to_string().contains("wrd_"), "no secret is written down");
}

#[tokio::test]
async fn without_a_token_nobody_else_is_listened_to() {
    let mut daemon = daemon("auth loopback").queues(QUEUES).start().await;
    let path = "/api/v1/queues";
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let elsewhere = client.get(format!("{}{path}", daemon.url())).header("host", "evil.example").send().await.unwrap();
    assert_eq!(elsewhere.status(), 421, "a page of another site that had its name lead here");
    assert!(daemon.stop().success());
    let ran = daemon.command().arg("serve").env("WARREND__HTTP__LISTEN", "0.0.0.0:0").output().unwrap();
    let err = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(!ran.status.success() && err.contains("warrend token create --local"), "{err}");
}

#[tokio::test]
async fn with_a_certificate_it_speaks_tls() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut daemon = daemon("auth tls").queues(QUEUES).start().await;
    assert!(daemon.stop().success());
    let (cert_path, key_path) = (cert.display().to_string(), key.display().to_string());
    daemon.spawn_with(&[("WARREND__HTTP__TLS_CERT", &cert_path), ("WARREND__HTTP__TLS_KEY", &key_path)]);
    let root = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
    let url = daemon.url().replace("http://127.0.0.1", "https://localhost");
    daemon
        .wait_until("it answers over TLS", async |_: &Daemon| {
            client.get(format!("{url}/healthz")).send().await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
    let plain = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(plain.get(format!("{}/healthz", daemon.url())).send().await.is_err(), "it speaks nothing else");
    let ran = daemon.command().args(["queues", "--url", &url, "--ca-file", &cert_path]).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[tokio::test]
async fn half_open_connections_huge_headers_and_odd_requests_do_no_harm() {
    let daemon = daemon("auth hostile").queues(QUEUES).start().await;
    let address = daemon.url().strip_prefix("http://").unwrap().to_owned();
    let before = daemon.memory();
    let half_open: Vec<TcpStream> = (0..300)
        .map(|n| {
            let mut stream = TcpStream::connect(&address).unwrap();
            if n % 2 == 0 {
                stream
                    .write_all(b"POST /api/v1/queues/invoices/items HTTP/1.1\r\nhost: localhost\r\ncontent-le")
                    .unwrap();
            }
            stream
        })
        .collect();
    assert_eq!(daemon.get("/healthz").await, json!({"alive": true}), "others are served");
    let raw = |request: Vec<u8>| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // It may have answered and gone before all is written.
        let _ = stream.write_all(&request);
        let mut answer = [0; 64];
        let read = stream.read(&mut answer).unwrap_or(0);
        String::from_utf8_lossy(&answer[..read]).split(' ').nth(1).unwrap_or("closed").to_owned()
    };
    let get = |path: &[u8]| [b"GET ", path, b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"].concat();
    for (request, expected) in [
        (get(b"/api/v1/../v1/queues"), "404"),
        (get(b"/api/v1/%2e%2e/queues"), "404"),
        (get(b"/api/v1//queues"), "404"),
        (get(b"/api/v1/queues/%00"), "404"),
        (get(b"/api/v1/queues/%ff"), "400"),
        (get(b"/api/v1/items/' OR 1=1 --"), "400"),
        (get(b"/api/v1/items?q=%ff"), "200"),
        (get(format!("/{}", "x".repeat(100_000)).as_bytes()), "414"),
        ([b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ".as_slice(), &vec![b'x'; 200_000], b"\r\n\r\n"].concat(), "431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n".to_vec(), "400"),
    ] {
        let answered = raw(request.clone());
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        assert!(answered == expected || (expected == "414" && answered == "431"), "{shown:?}: {answered}");
    }
    assert!(daemon.memory() < before + 32, "{} MiB, {before} before", daemon.memory());
    drop(half_open);
}
