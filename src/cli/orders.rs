//! `warrend items hold|release|cancel|restore|requeue|edit|note|assign`: what people ask of one item, or of many.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::StatusCode;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::client::Client;
use super::exit::{Exit, Failed};
use super::items::FIELDS;
use super::many::{Many, Patches};
use super::output::{self, Output, csv, one_line, print, text};
use super::particulars::Particulars;
use super::{Daemon, EXIT_CODES, wait_for, who};

/// Commands about one item, or about many.
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
    /// The item's id; without one a filter or --ids says which items
    id: Option<String>,
    /// How to show the item, or what became of the items
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    many: Many,
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
    patches: Patches,
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
    note: Option<String>,
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
        let changed = match self {
            Self::Requeue(args) => Some(&args.changed),
            Self::Edit(args) => Some(&args.changed),
            _ => None,
        };
        let payload = changed.map(Changed::payload).transpose()?.flatten();
        let patch = changed.map(|changed| changed.patches.read()).transpose()?.flatten();
        let (action, verb, common) = match self {
            Self::Hold(args) => ("hold", "hold", &args.common),
            Self::Release(args) => ("release", "release", &args.common),
            Self::Restore(args) => ("restore", "restore", &args.common),
            Self::Cancel(args) => ("cancel", "cancel", &args.plain.common),
            Self::Requeue(args) => ("requeue", "requeue", &args.plain.common),
            Self::Edit(args) => ("edit", "", &args.plain.common),
            Self::Note(args) => ("note", "notes", &args.common),
            Self::Assign(args) => ("assign", "assign", &args.plain.common),
        };
        // Beside a filter the first word is no id.
        let (id, word) = match (&common.id, self.word()) {
            (word, None) if common.many.names_items() && self.takes_word() => (None, word.as_ref()),
            (id, word) => (id.as_ref(), word),
        };
        let body = match self {
            Self::Hold(args) | Self::Release(args) | Self::Restore(args) => args.body(),
            Self::Cancel(args) => args.body(),
            Self::Requeue(args) => args.body(),
            Self::Edit(args) => args.changed.body(args.plain.body()),
            Self::Note(_) => {
                let note =
                    word.ok_or_else(|| Failed::new(Exit::Usage, "what is to be noted? write it behind the id"))?;
                by(json!({ "note": note }))
            }
            Self::Assign(args) => {
                let mut body = args.plain.body();
                body.insert("assignee".to_owned(), word.map(String::as_str).into());
                body
            }
        };
        let client = common.daemon.client(config)?;
        let Some(id) = id.filter(|_| !common.many.is_asked_for() && patch.is_none()) else {
            let payload = payload.map(|payload| ("payload", payload));
            let raw: Vec<(&str, &RawValue)> =
                payload.into_iter().chain(patch.as_ref().map(|(name, json)| (*name, &**json))).collect();
            return wait_for(common.many.run(action, id.map(String::as_str), body, &raw, common.output, &client));
        };
        let mut text = Value::Object(body).to_string();
        if let Some(payload) = payload {
            // An object that is not empty: it says who asks.
            text = format!("{{\"payload\":{},{}", payload.get(), text.trim_start_matches('{'));
        }
        wait_for(send(verb, id, common.output, text, &client))
    }

    /// What is written behind the id.
    fn word(&self) -> Option<&String> {
        match self {
            Self::Note(args) => args.note.as_ref(),
            Self::Assign(args) => args.assignee.as_ref(),
            _ => None,
        }
    }

    const fn takes_word(&self) -> bool {
        matches!(self, Self::Note(_) | Self::Assign(_))
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

async fn send(verb: &str, id: &str, output: Output, body: String, client: &Client) -> Result<(), Failed> {
    let (status, item) = if verb.is_empty() {
        client.patch(&["items", id], body).await?
    } else {
        client.post(&["items", id, verb], body).await?
    };
    match output {
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
