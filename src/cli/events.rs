//! `warrend events`: what happens, a line each, as it happens.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::Daemon;
use super::client::Client;
use super::exit::{Exit, Failed};
use super::output::print;

/// Before a stream that ended is opened again.
const AGAIN: Duration = Duration::from_secs(2);

/// The longest line of a stream; a daemon writes none that is near it.
const LONGEST_LINE: usize = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Only of these types: patterns like `item.exception.*`, separated by commas
    #[arg(long = "type", value_name = "PATTERNS", value_delimiter = ',')]
    types: Vec<String>,
    /// Only about these queues: patterns like `invoices.*`, separated by commas
    #[arg(long = "queue", value_name = "PATTERNS", value_delimiter = ',')]
    queues: Vec<String>,
    /// Begin behind this event, by its id, instead of now
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// Go on when the stream ends, behind the last event that was heard
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    pub daemon: Daemon,
}

pub(super) async fn run(args: &EventsArgs, client: &Client) -> Result<(), Failed> {
    let mut query: Vec<(&str, String)> = args.types.iter().map(|pattern| ("type", pattern.clone())).collect();
    query.extend(args.queues.iter().map(|pattern| ("queue", pattern.clone())));
    query.extend(args.after.clone().map(|after| ("after", after)));
    let mut heard = Heard::default();
    loop {
        let ended = listen(client, &query, &mut heard).await;
        match ended {
            Err(failed) if failed.exit != Exit::Unreachable || !args.follow => return Err(failed),
            Ok(()) if !args.follow => return Ok(()),
            _ => tokio::time::sleep(AGAIN).await,
        }
        heard.break_off();
    }
}

async fn listen(client: &Client, query: &[(&str, String)], heard: &mut Heard) -> Result<(), Failed> {
    let mut response = client.stream(&["events"], query, heard.last.as_deref()).await?;
    while let Some(bytes) = client.next(&mut response).await? {
        for line in heard.take(&bytes) {
            print(&line)?;
        }
    }
    Ok(())
}

/// What was read of a stream so far.
#[derive(Debug, Default)]
struct Heard {
    /// A line that did not end yet.
    begun: Vec<u8>,
    kind: String,
    data: String,
    /// The id of the last event.
    last: Option<String>,
}

impl Heard {
    /// The stream broke off: what did not end is told again.
    fn break_off(&mut self) {
        self.begun.clear();
        self.kind.clear();
        self.data.clear();
    }

    /// A JSON line for each event that ended with these bytes.
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut events = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                if self.begun.len() < LONGEST_LINE {
                    self.begun.push(byte);
                }
                continue;
            }
            let line = String::from_utf8_lossy(&self.begun).into_owned();
            self.begun.clear();
            events.extend(self.line(&line));
        }
        events
    }

    fn line(&mut self, line: &str) -> Option<String> {
        let (field, value) = line.split_once(':').map_or((line, ""), |(field, value)| (field, value.trim_start()));
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => value.clone_into(&mut self.data),
            "id" => self.last = Some(value.to_owned()),
            "" if line.is_empty() && !self.data.is_empty() => {
                let data: Value = serde_json::from_str(&self.data).unwrap_or(Value::Null);
                let event = json!({ "id": self.last, "type": self.kind, "data": data });
                self.kind.clear();
                self.data.clear();
                return Some(format!("{event}\n"));
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_read_in_whatever_pieces_it_comes() {
        let text = "retry: 2000\n\nid: m-1\n\nevent: sla.late\nid: m-2\ndata: {\"a\":\"x: y\"}\n\n: quiet\nid: m-9\n\nevent: half";
        for size in [1, 7, text.len()] {
            let mut heard = Heard::default();
            let lines: Vec<String> = text.as_bytes().chunks(size).flat_map(|piece| heard.take(piece)).collect();
            assert_eq!(lines, ["{\"data\":{\"a\":\"x: y\"},\"id\":\"m-2\",\"type\":\"sla.late\"}\n"], "{size}");
            assert_eq!(heard.last.as_deref(), Some("m-9"));
        }
    }
}
