//! `warrend enqueue`: one item into a queue.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use clap::{ArgGroup, Args};
use reqwest::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Daemon;
use super::client::Client;
use super::exit::{Exit, Failed};
use super::items::{FIELDS, label};
use super::output::{self, Output, csv, one_line, print, text};
use super::particulars::Particulars;

/// Ends the help text.
pub(super) const EXAMPLES: &str = "Examples:
  warrend enqueue invoices --payload '{\"total\": 100}' --reference INV-1 --priority high
  warrend enqueue invoices --file invoice.json --label site=oslo
  produce | warrend enqueue invoices -

Exit codes:
   0  the item is in the queue, new or (where the queue is unique) already there
   1  it was refused; every reason is printed
  64  the command was not understood
  65  the payload is no JSON
  69  the daemon cannot be reached
  78  bad settings";

#[derive(Debug, Args)]
#[command(override_usage = "warrend enqueue [OPTIONS] <QUEUE> <-|--payload JSON|--file FILE>")]
#[command(group = ArgGroup::new("source").required(true).args(["payload", "file", "stdin"]))]
pub(super) struct EnqueueArgs {
    /// Key of the queue
    queue: String,
    /// Read the payload from standard input
    #[arg(value_name = "-", value_parser = ["-"])]
    stdin: Option<String>,
    /// The payload itself
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    payload: Option<String>,
    /// Read the payload from this file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Your own identity of the item, like an invoice number
    #[arg(long)]
    reference: Option<String>,
    #[command(flatten)]
    particulars: Particulars,
    /// A label; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// How to show the item
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    pub daemon: Daemon,
}

/// The request as the API takes it.
#[derive(Serialize)]
struct Body<'a> {
    payload: &'a RawValue,
    reference: Option<&'a str>,
    priority: Option<serde_json::Value>,
    name: Option<&'a str>,
    due_at: Option<&'a str>,
    expires_at: Option<&'a str>,
    not_before: Option<&'a str>,
    labels: BTreeMap<&'a str, &'a str>,
}

pub(super) async fn run(args: &EnqueueArgs, client: &Client) -> Result<(), Failed> {
    let payload = payload(args)?;
    let (status, item) = client.post(&["queues", &args.queue, "items"], body(args, &payload)?).await?;
    match args.output {
        Output::Json => print(&output::json(&item)),
        Output::Csv => print(&csv(&FIELDS, &[item])),
        Output::Table => {
            let how = if status == StatusCode::CREATED { "enqueued" } else { "there already" };
            let (id, state) = (one_line(&text(&item["id"])), one_line(&text(&item["state"])));
            print(&format!("{id}  {how}, {state}\n"))
        }
    }
}

/// The payload's text, which is valid JSON.
fn payload(args: &EnqueueArgs) -> Result<Box<RawValue>, Failed> {
    let unreadable =
        |from: &str, error: std::io::Error| Failed::new(Exit::Data, format!("cannot read {from}: {error}"));
    let text = match (&args.payload, &args.file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => {
            std::fs::read_to_string(file).map_err(|error| unreadable(&file.display().to_string(), error))?
        }
        (None, None) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|error| unreadable("standard input", error))?;
            text
        }
    };
    serde_json::from_str(&text).map_err(|error| {
        Failed::new(
            Exit::Data,
            format!("the payload is no JSON: {error}\n  text is written with quotes inside the quotes: '\"text\"'"),
        )
    })
}

fn body(args: &EnqueueArgs, payload: &RawValue) -> Result<String, Failed> {
    let body = Body {
        payload,
        reference: args.reference.as_deref(),
        priority: args.particulars.priority(),
        name: args.particulars.name.as_deref(),
        due_at: args.particulars.due_at.as_deref(),
        expires_at: args.particulars.expires_at.as_deref(),
        not_before: args.particulars.not_before.as_deref(),
        labels: args.label.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
    };
    serde_json::to_string(&body)
        .map_err(|error| Failed::new(Exit::Failure, format!("cannot write the request: {error}")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: EnqueueArgs,
    }

    fn args(words: &[&str]) -> EnqueueArgs {
        Only::try_parse_from([&["x"], words].concat()).unwrap().args
    }

    #[test]
    fn the_request_says_what_the_command_said() {
        let args = args(&["q", "--payload", "{\"n\": 1.10}", "--priority", "8", "--label", "a=b=c", "--name", "n"]);
        let payload = payload(&args).ok().unwrap();
        assert_eq!(
            body(&args, &payload).ok().unwrap(),
            r#"{"payload":{"n": 1.10},"reference":null,"priority":8,"name":"n","due_at":null,"expires_at":null,"not_before":null,"labels":{"a":"b=c"}}"#
        );
    }

    #[test]
    fn priorities_are_numbers_or_names() {
        for (given, sent) in [("-1", serde_json::json!(-1)), ("high", serde_json::json!("high"))] {
            let args = args(&["q", "--payload", "1", &format!("--priority={given}")]);
            let sent_body: serde_json::Value =
                serde_json::from_str(&body(&args, &payload(&args).ok().unwrap()).ok().unwrap()).unwrap();
            assert_eq!(sent_body["priority"], sent);
        }
    }

    #[test]
    fn a_payload_that_is_no_json_is_bad_data() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.json");
        std::fs::write(&file, "[1").unwrap();
        let file = file.display().to_string();
        for words in [["q", "--payload", "text"], ["q", "--file", &file], ["q", "--file", "no/such/file"]] {
            assert_eq!(payload(&args(&words)).err().map(|failed| failed.exit), Some(Exit::Data));
        }
    }
}
