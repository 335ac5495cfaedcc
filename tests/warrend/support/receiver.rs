//! Who is told from outside: an endpoint for webhooks and a mail server, each as small as can be and of the test's own.

#![allow(dead_code)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::daemon::PATIENCE;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    pub headers: HeaderMap,
    pub text: String,
}

impl Received {
    pub fn id(&self) -> String {
        self.header("webhook-id")
    }

    pub fn body(&self) -> Value {
        serde_json::from_str(&self.text).expect("a body is JSON")
    }

    pub fn kind(&self) -> String {
        self.body()["type"].as_str().expect("a type").to_owned()
    }

    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default()
    }

    /// How many of its signatures are of this secret, as Standard Webhooks says, worked out anew here.
    pub fn signed_with(&self, secret: &str) -> usize {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").expect("a secret")).expect("base64");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key");
        mac.update(format!("{}.{}.{}", self.id(), self.header("webhook-timestamp"), self.text).as_bytes());
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        self.header("webhook-signature").split(' ').filter(|signature| *signature == expected).count()
    }
}

#[derive(Clone)]
struct Shared {
    received: Arc<Mutex<Vec<Received>>>,
    answer: Arc<Mutex<(u16, Duration)>>,
    wish: Arc<Mutex<Option<u64>>>,
}

/// An endpoint.
pub struct Receiver {
    pub url: String,
    shared: Shared,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("its address"));
        let answer = Arc::new(Mutex::new((204, Duration::ZERO)));
        let shared = Shared { received: Arc::default(), answer, wish: Arc::default() };
        let router = Router::new().fallback(take).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, shared }
    }

    /// What it answers from now on, and after how long.
    pub fn answers(&self, status: u16, after: Duration) {
        *self.shared.answer.lock().expect("no panic") = (status, after);
    }

    /// It asks to be left alone for so many seconds.
    pub fn wishes(&self, seconds: u64) {
        *self.shared.wish.lock().expect("no panic") = Some(seconds);
    }

    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().expect("no panic").clone()
    }

    /// Waits for so many requests.
    pub async fn wait_for(&self, count: usize) -> Vec<Received> {
        let began = Instant::now();
        loop {
            let received = self.received();
            if received.len() >= count {
                return received;
            }
            assert!(began.elapsed() < PATIENCE, "{} instead of {count}: {received:?}", received.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn take(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> (StatusCode, HeaderMap) {
    let text = String::from_utf8(body.to_vec()).expect("a body is text");
    shared.received.lock().expect("no panic").push(Received { headers, text });
    let (status, after) = *shared.answer.lock().expect("no panic");
    tokio::time::sleep(after).await;
    let mut headers = HeaderMap::new();
    // Where a redirect would lead to; nobody is to go there.
    headers.insert("location", "/elsewhere".parse().expect("a value"));
    if let Some(seconds) = *shared.wish.lock().expect("no panic") {
        headers.insert("retry-after", seconds.into());
    }
    (StatusCode::from_u16(status).expect("a status"), headers)
}

/// A mail server that takes everything.
pub struct MailServer {
    pub url: String,
    mails: Arc<Mutex<Vec<String>>>,
}

impl MailServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("smtp://{}", listener.local_addr().expect("its address"));
        let mails: Arc<Mutex<Vec<String>>> = Arc::default();
        let taken = Arc::clone(&mails);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, Arc::clone(&taken)));
            }
        });
        Self { url, mails }
    }

    /// Waits for so many mails: envelope and text of each.
    pub async fn wait_for(&self, count: usize) -> Vec<String> {
        let began = Instant::now();
        loop {
            let mails = self.mails.lock().expect("no panic").clone();
            if mails.len() >= count {
                return mails;
            }
            assert!(began.elapsed() < PATIENCE, "{} instead of {count}: {mails:?}", mails.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn converse(stream: TcpStream, mails: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 test ready\r\n").await.ok()?;
    let (mut mail, mut in_data) = (String::new(), false);
    while let Some(line) = lines.next_line().await.ok()? {
        if in_data && line != "." {
            mail.push_str(&format!("{line}\n"));
            continue;
        }
        let answer = match line.get(..4).unwrap_or(&line).to_uppercase().as_str() {
            "." => {
                in_data = false;
                mails.lock().expect("no panic").push(std::mem::take(&mut mail));
                "250 taken"
            }
            "EHLO" | "HELO" => "250 test",
            "MAIL" | "RCPT" => {
                mail.push_str(&format!("{line}\n"));
                "250 fine"
            }
            "DATA" => {
                in_data = true;
                "354 go on"
            }
            "QUIT" => "221 bye",
            _ => "500 what",
        };
        write.write_all(format!("{answer}\r\n").as_bytes()).await.ok()?;
    }
    Some(())
}
