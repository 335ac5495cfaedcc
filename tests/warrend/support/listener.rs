//! A client of the stream of events.

#![allow(dead_code)]

use std::collections::VecDeque;

use serde_json::Value;

use super::daemon::{Daemon, PATIENCE};

/// An event as it came.
#[derive(Debug, Clone)]
pub struct Heard {
    pub id: String,
    pub kind: String,
    pub data: Value,
}

pub struct Listener {
    response: reqwest::Response,
    text: String,
    heard: VecDeque<Heard>,
    /// The last id there was, also of a block without data.
    pub last: String,
}

impl Listener {
    /// Opens a stream and waits until it has begun.
    pub async fn open(daemon: &Daemon, query: &str, last: Option<&str>) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut request = client.get(format!("{}/api/v1/events{query}", daemon.url()));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut listener = Self { response, text: String::new(), heard: VecDeque::new(), last: String::new() };
        while listener.last.is_empty() {
            assert!(listener.read().await, "the stream ended before it began");
        }
        listener
    }

    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Heard> {
        while self.heard.is_empty() {
            if !self.read().await {
                return None;
            }
        }
        self.heard.pop_front()
    }

    pub async fn take(&mut self, count: usize) -> Vec<Heard> {
        let mut taken = Vec::new();
        while taken.len() < count {
            taken.push(self.next().await.expect("the stream goes on"));
        }
        taken
    }

    async fn read(&mut self) -> bool {
        let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("the stream says something");
        let Ok(Some(bytes)) = chunk else { return false };
        self.text.push_str(std::str::from_utf8(&bytes).expect("blocks are not cut apart"));
        while let Some(end) = self.text.find("\n\n") {
            let block: String = self.text.drain(..end + 2).collect();
            let field =
                |name: &str| block.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).map(str::to_owned);
            if let Some(id) = field("id") {
                self.last = id;
            }
            if let Some(data) = field("data") {
                let (id, kind) = (self.last.clone(), field("event").expect("a type"));
                self.heard.push_back(Heard { id, kind, data: serde_json::from_str(&data).expect("JSON") });
            }
        }
        true
    }
}
