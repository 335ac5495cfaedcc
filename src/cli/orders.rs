//! `warrend items hold|release|cancel|restore|requeue|edit|note|assign`: what people ask of one item.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::StatusCode;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::client::Client;
use super::exit::{Exit, Failed};
use super::items::FIELDS;
use super::output::{self, Output, csv, one_line, print, text};
use super::particulars::Particulars;
use super::{Daemon, EXIT_CODES, wait_for, who};

/// Commands about one item.
#[derive(Debug, Subcommand)]
pub(super) enum OrderCommand {
    /// Set an item aside
    ///
    /// Of an item that robots may take already it is asked for: its message is taken back, unless a robot has it.
    #[command(after_help = EXIT_CODES)]
    Hold(PlainArgs),
    /// Let an item wait again that was set aside
    #[command(after_help = EXIT_CODES)]
    Release(PlainArgs),
    /// Give an item up; restore takes that back
    #[command(after_help = EXIT_CODES)]
    Cancel(CancelArgs),
    /// Take the cancelling of an item back
    #[command(after_help = EXIT_CODES)]
    Restore(PlainArgs),
    /// Have an item worked again: an exception, one on hold, or one that is processed
    #[command(after_help = EXIT_CODES)]
    Requeue(RequeueArgs),
    /// Change what an item carries, or when and how urgently it is to be worked
    #[command(after_help = EXIT_CODES)]
    Edit(EditArgs),
    /// Write a note beside an item
    #[command(after_help = EXIT_CODES)]
    Note(NoteArgs),
    /// Say who is to look after an item
    #[command(after_help = EXIT_CODES)]
    Assign(AssignArgs),
}

#[derive(Debug, Args)]
struct Common {
    /// The item's id
    id: String,
    /// How to show the item
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Args)]
pub(super) struct PlainArgs {
    #[command(flatten)]
    common: Common,
    /// For the item's timeline
    #[arg(long)]
    why: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct CancelArgs {
    #[command(flatten)]
    plain: PlainArgs,
    /// Do not look for its message: cancel it when it next passes the daemon, unless a robot is done with it first
    #[arg(long)]
    on_sight: bool,
}

/// What may be changed; an empty text takes a value away.
#[derive(Debug, Args)]
struct Changed {
    /// Another payload, any JSON value
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    payload: Option<String>,
    #[command(flatten)]
    particulars: Particulars,
}

#[derive(Debug, Args)]
pub(super) struct RequeueArgs {
    #[command(flatten)]
    plain: PlainArgs,
    #[command(flatten)]
    changed: Changed,
    /// Not to be started for so long, like 10m
    #[arg(long, value_name = "TIME", conflicts_with = "not_before")]
    delay: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct EditArgs {
    #[command(flatten)]
    plain: PlainArgs,
    #[command(flatten)]
    changed: Changed,
}

#[derive(Debug, Args)]
pub(super) struct NoteArgs {
    #[command(flatten)]
    common: Common,
    /// The note
    note: String,
}

#[derive(Debug, Args)]
pub(super) struct AssignArgs {
    #[command(flatten)]
    plain: PlainArgs,
    /// Who; left out: nobody
    assignee: Option<String>,
}

impl OrderCommand {
    pub(super) fn run(&self, config: Option<PathBuf>) -> Result<(), Failed> {
        let payload = match self {
            Self::Requeue(args) => args.changed.payload()?,
            Self::Edit(args) => args.changed.payload()?,
            _ => None,
        };
        let (verb, common, body) = match self {
            Self::Hold(args) => ("hold", &args.common, args.body()),
            Self::Release(args) => ("release", &args.common, args.body()),
            Self::Restore(args) => ("restore", &args.common, args.body()),
            Self::Cancel(args) => ("cancel", &args.plain.common, args.body()),
            Self::Requeue(args) => ("requeue", &args.plain.common, args.body()),
            Self::Edit(args) => ("", &args.plain.common, args.changed.body(args.plain.body())),
            Self::Note(args) => ("notes", &args.common, by(json!({ "note": args.note }))),
            Self::Assign(args) => {
                let mut body = args.plain.body();
                body.insert("assignee".to_owned(), args.assignee.clone().into());
                ("assign", &args.plain.common, body)
            }
        };
        let mut text = Value::Object(body).to_string();
        if let Some(payload) = payload {
            // An object that is not empty: it says who asks.
            text = format!("{{\"payload\":{},{}", payload.get(), text.trim_start_matches('{'));
        }
        wait_for(send(verb, common, text, &common.daemon.client(config)?))
    }
}

fn by(body: Value) -> Map<String, Value> {
    let mut body = match body {
        Value::Object(body) => body,
        _ => Map::new(),
    };
    body.insert("by".to_owned(), who().into());
    body
}

impl PlainArgs {
    fn body(&self) -> Map<String, Value> {
        let mut body = by(Value::Null);
        body.extend(self.why.iter().map(|why| ("why".to_owned(), why.as_str().into())));
        body
    }
}

impl CancelArgs {
    fn body(&self) -> Map<String, Value> {
        let mut body = self.plain.body();
        if self.on_sight {
            body.insert("on_sight".to_owned(), true.into());
        }
        body
    }
}

impl RequeueArgs {
    fn body(&self) -> Map<String, Value> {
        let mut body = self.changed.body(self.plain.body());
        body.extend(self.delay.iter().map(|delay| ("delay".to_owned(), delay.as_str().into())));
        body
    }
}

impl Changed {
    /// Adds what is changed but for the payload.
    fn body(&self, mut body: Map<String, Value>) -> Map<String, Value> {
        let said = &self.particulars;
        body.extend(said.priority().map(|priority| ("priority".to_owned(), priority)));
        let texts = [
            ("name", &said.name),
            ("due_at", &said.due_at),
            ("expires_at", &said.expires_at),
            ("not_before", &said.not_before),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                let value = if text.is_empty() { Value::Null } else { text.as_str().into() };
                body.insert(name.to_owned(), value);
            }
        }
        body
    }

    /// The payload as it was written, with every digit.
    fn payload(&self) -> Result<Option<&RawValue>, Failed> {
        let read = |text| serde_json::from_str(text);
        (self.payload.as_deref().map(read).transpose())
            .map_err(|error| Failed::new(Exit::Data, format!("the payload is no JSON: {error}")))
    }
}

async fn send(verb: &str, common: &Common, body: String, client: &Client) -> Result<(), Failed> {
    let (status, item) = if verb.is_empty() {
        client.patch(&["items", &common.id], body).await?
    } else {
        client.post(&["items", &common.id, verb], body).await?
    };
    match common.output {
        Output::Json => print(&output::json(&item)),
        Output::Csv => print(&csv(&FIELDS, &[item])),
        Output::Table => {
            let (id, state) = (one_line(&text(&item["id"])), one_line(&text(&item["state"])));
            let how = match status {
                StatusCode::ACCEPTED => "asked for; it waits until its message is taken back, see `pending`",
                _ => "done",
            };
            print(&format!("{id}  {how}, {state}\n"))
        }
    }
}
