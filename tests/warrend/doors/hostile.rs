//! The listener under attack: what only holds a place is given up, and everybody else is served meanwhile.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::daemon::{Daemon, PATIENCE, daemon};

const QUEUES: &str = "queue: invoices
";

/// A connection that a test speaks on as it likes.
async fn raw(daemon: &Daemon) -> TcpStream {
    let address = daemon.url().trim_start_matches("http://");
    TcpStream::connect(address).await.expect("a connection")
}

/// Sends this and reads until the daemon closes, or has said its status.
async fn said(daemon: &Daemon, bytes: &[u8]) -> String {
    let mut stream = raw(daemon).await;
    // It may close before all of it was sent.
    let _ = stream.write_all(bytes).await;
    answer(&mut stream).await
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = async {
        while !text.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read_buf(&mut text).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("it answers or closes");
    String::from_utf8_lossy(&text).into_owned()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn half_open_connections_by_the_hundred_do_no_harm() {
    let daemon = daemon("hostile half-open").queues(QUEUES).start().await;
    daemon.get("/api/v1/items").await;
    let before = daemon.memory();
    let mut open = Vec::new();
    for n in 0..300 {
        let mut stream = raw(&daemon).await;
        let begun: &[u8] = match n % 3 {
            0 => b"",
            1 => b"GET /api/v1/items HTTP/1.1\r\nHost: loc",
            _ => b"POST /api/v1/queues/invoices/items HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n{",
        };
        stream.write_all(begun).await.expect("it is taken");
        open.push(stream);
    }
    for n in 0..50 {
        let (status, _) = daemon.post("/api/v1/queues/invoices/items", &json!({"payload": n})).await;
        assert_eq!(status, 201);
    }
    let grown = daemon.memory().saturating_sub(before);
    assert!(grown < 64, "{grown} MiB for three hundred connections");
    // Each is given up by itself: what began a body is told so.
    let mut told = 0;
    for stream in &mut open {
        let answer = answer(stream).await;
        assert!(answer.is_empty() || status(&answer) == 408, "{answer}");
        told += u32::from(!answer.is_empty());
    }
    assert!(told >= 90, "{told}");
}

#[tokio::test]
async fn places_that_nobody_uses_are_given_to_others() {
    let daemon = daemon("hostile places").queues(QUEUES).setting("HTTP__MAX_CONNECTIONS", "10").start().await;
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(raw(&daemon).await);
    }
    daemon
        .wait_until("somebody is served", async |daemon: &Daemon| {
            daemon.get_with_status("/api/v1/items").await.is_some_and(|(status, _)| status == 200)
        })
        .await;
    drop(idle);
}

#[tokio::test]
async fn a_long_poll_is_no_slow_client() {
    let daemon = daemon("hostile long poll").queues(QUEUES).start().await;
    let began = Instant::now();
    let (status, _) = daemon.post("/api/v1/queues/invoices/claim", &json!({"worker": "w", "wait": "35s"})).await;
    // Longer than headers, or a body that does not come, are waited for.
    assert!(status == 204 && began.elapsed() >= Duration::from_secs(34), "{status} after {:?}", began.elapsed());
}

#[tokio::test]
async fn requests_that_are_no_requests_get_their_4xx() {
    let daemon = daemon("hostile requests").queues(QUEUES).start().await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    for (path, expected) in [
        ("/api/v1/queues/../items", 405),
        ("/api/v1/queues/%2e%2e/items", 405),
        ("/api/v1/queues/..%2f..%2fetc%2fpasswd", 404),
        ("/../../etc/passwd", 404),
        ("//api/v1/items", 404),
        ("/api//v1/items", 404),
        ("/api/v1/items/", 404),
        ("/api/v1/items/%00", 404),
        ("/api/v1/queues/%00", 404),
        ("/api/v1/queues/%ff%fe", 400),
        ("/api/v1/queues/%zz", 404),
        ("/api/v1/items?q=%ff", 400),
        ("/api/v1/items?queue=' OR 1=1 --", 400),
        ("/api/v1/items?queue='%20OR%201=1%20--", 200),
        ("/api/v1/items\u{0}", 400),
        ("/api/v1/items/<script>", 400),
        ("/api/v1/items/%3Cscript%3E", 404),
    ] {
        let answer = said(&daemon, get(path).as_bytes()).await;
        assert_eq!(status(&answer), expected, "{path}: {answer}");
        assert!(!answer.contains("/etc") || !answer.contains("root:"), "{answer}");
    }
    let huge = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    let many: String = (0..500).map(|n| format!("X{n}: y\r\n")).collect();
    let many = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{many}\r\n");
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(200_000));
    for (what, bytes, expected) in [
        ("a huge header", huge.into_bytes(), &[431][..]),
        ("many headers", many.into_bytes(), &[431]),
        ("a long path", long.into_bytes(), &[414, 431]),
        ("no HTTP", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03".repeat(20), &[400]),
        ("another protocol", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[0, 400, 505]),
        ("a broken header", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA B: c\r\n\r\n".to_vec(), &[400]),
        (
            "two lengths",
            b"POST /api/v1/apply HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x"
                .to_vec(),
            &[400],
        ),
        (
            "a length and chunks of none",
            b"POST /api/v1/apply HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
            &[400, 415],
        ),
        (
            "bytes in a header",
            b"GET /api/v1/items HTTP/1.1\r\nHost: localhost\r\nAuthorization: \xff\xfe\r\nConnection: close\r\n\r\n"
                .to_vec(),
            &[200],
        ),
    ] {
        let answer = said(&daemon, &bytes).await;
        assert!(expected.contains(&status(&answer)), "{what}: {answer}");
    }
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""] {
        let url = format!("{}/api/v1/queues/invoices/pause", daemon.url());
        let answer = client.post(url).header("content-type", kind).body("{}").send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 415, "{kind}");
    }
    let lines = daemon.log();
    assert!(!lines.contains("panicked"), "{lines}");
    assert_eq!(daemon.get("/api/v1/queues/invoices").await["paused"]["dispatch"], false);
}

#[tokio::test]
async fn a_body_that_hardly_comes_is_not_waited_for() {
    let daemon = daemon("hostile slow").queues(QUEUES).start().await;
    let head = "POST /api/v1/queues/invoices/items HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 100000\r\n\r\n{\"payload\": \"";
    let (mut read, mut write) = raw(&daemon).await.into_split();
    write.write_all(head.as_bytes()).await.expect("it is taken");
    let drip = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let mut text = String::new();
    let mut bytes = [0; 4096];
    let began = Instant::now();
    while !text.contains("too_slow") {
        let count = tokio::time::timeout(PATIENCE, read.read(&mut bytes)).await.expect("it answers").unwrap_or(0);
        assert_ne!(count, 0, "closed after {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    assert_eq!(status(&text), 408, "{text}");
    assert!(began.elapsed() >= Duration::from_secs(15));
    drip.abort();
    let items: Value = daemon.get("/api/v1/items").await;
    assert_eq!(items["items"], json!([]));
}
