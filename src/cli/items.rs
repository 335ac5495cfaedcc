//! `warrend items`: find and show items. What people ask of them is in `orders`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::Client;
use super::exit::Failed;
use super::orders::OrderCommand;
use super::output::{self, Column, Output, csv, pairs, print, print_bytes, print_list, table, text};
use super::{Daemon, EXIT_CODES, wait_for};
use crate::item::{Kind, State};
use crate::mirror::{MAX_PAGE, Sort};
use crate::units::format_duration;

#[derive(Debug, Args)]
pub(super) struct ItemsArgs {
    #[command(subcommand)]
    command: ItemsCommand,
}

#[derive(Debug, Subcommand)]
enum ItemsCommand {
    /// List items that meet every filter given
    #[command(after_help = EXIT_CODES)]
    List(Box<ListArgs>),
    /// Show one item and what happened to it
    #[command(after_help = EXIT_CODES)]
    Show(ShowArgs),
    #[command(flatten)]
    Order(OrderCommand),
}

/// Which items are meant: those that meet everything that is given.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// Items of this queue
    #[arg(long, value_name = "KEY")]
    queue: Option<String>,
    /// In this state; separate several by commas
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(State::WORDS))]
    state: Vec<String>,
    /// Exceptions of this kind; separate several by commas
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(Kind::ALL.iter().map(|kind| kind.word())))]
    kind: Vec<String>,
    /// With exactly this producer's reference
    #[arg(long)]
    reference: Option<String>,
    /// With this label; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Due before this time (RFC 3339, like 2026-05-04T08:00:00Z)
    #[arg(long, value_name = "TIME")]
    due: Option<String>,
    /// Enqueued or changed since this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// With this text in the reference, name, reason or code
    #[arg(long, value_name = "TEXT")]
    q: Option<String>,
}

impl FilterArgs {
    pub(super) fn query(&self) -> Vec<(&'static str, String)> {
        let single = [
            ("queue", &self.queue),
            ("reference", &self.reference),
            ("due", &self.due),
            ("since", &self.since),
            ("q", &self.q),
        ];
        let mut query: Vec<_> = single.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect();
        query.extend(self.state.iter().map(|state| ("state", state.clone())));
        query.extend(self.kind.iter().map(|kind| ("kind", kind.clone())));
        query.extend(self.label.iter().map(|(name, value)| ("label", format!("{name}={value}"))));
        query
    }
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Which items come first [default: newest; with a cursor, its list's order]
    #[arg(long, value_parser = PossibleValuesParser::new(Sort::ALL.map(Sort::word)))]
    sort: Option<String>,
    /// How many to show
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PAGE)))]
    limit: u32,
    /// Continue an earlier list, in its order; it ended with the cursor to give here
    #[arg(long)]
    cursor: Option<String>,
    /// How to show them
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// The item's id
    id: String,
    /// Print what the item carries, and nothing else
    #[arg(long, conflicts_with = "output")]
    payload: bool,
    /// How to show it
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    daemon: Daemon,
}

impl ItemsArgs {
    pub(super) fn run(&self, config: Option<PathBuf>) -> Result<(), Failed> {
        match &self.command {
            ItemsCommand::List(args) => wait_for(list(args, &args.daemon.client(config)?)),
            ItemsCommand::Order(order) => order.run(config),
            ItemsCommand::Show(args) => wait_for(show(args, &args.daemon.client(config)?)),
        }
    }
}

const COLUMNS: [Column; 8] = [
    Column { title: "ID", cell: |item| text(&item["id"]) },
    Column { title: "QUEUE", cell: |item| text(&item["queue"]) },
    Column { title: "REFERENCE", cell: |item| text(&item["reference"]) },
    Column { title: "STATE", cell: state },
    Column { title: "PRIORITY", cell: |item| text(&item["priority"]) },
    Column { title: "ATTEMPT", cell: |item| text(&item["attempt"]) },
    Column { title: "ENQUEUED", cell: |item| text(&item["enqueued_at"]) },
    Column { title: "REASON", cell: |item| text(&item["reason"]) },
];

/// Every field of an item, in the API's order.
pub(super) const FIELDS: [&str; 39] = [
    "id",
    "queue",
    "reference",
    "name",
    "state",
    "kind",
    "code",
    "reason",
    "note",
    "result",
    "progress",
    "priority",
    "lane",
    "attempt",
    "deliveries",
    "retries",
    "retries_used_up",
    "requeues",
    "inferred",
    "pending",
    "possible_repeat",
    "ran_anyway",
    "ignored",
    "content_type",
    "payload_gone",
    "labels",
    "worker",
    "assignee",
    "parent",
    "children",
    "enqueued_at",
    "not_before",
    "due_at",
    "expires_at",
    "dispatched_at",
    "started_at",
    "finished_at",
    "sla",
    "revision",
];

const LINE_COLUMNS: [Column; 6] = [
    Column { title: "AT", cell: |line| text(&line["at"]) },
    Column { title: "WHO", cell: |line| text(&line["actor"]) },
    Column { title: "WHAT", cell: |line| text(&line["event"]) },
    Column { title: "ATTEMPT", cell: |line| text(&line["attempt"]) },
    Column { title: "STATE", cell: |line| text(&line["state"]) },
    Column { title: "WHY", cell: |line| text(&line["why"]) },
];

const ATTEMPT_COLUMNS: [Column; 8] = [
    Column { title: "ATTEMPT", cell: |attempt| text(&attempt["attempt"]) },
    Column { title: "ROBOT", cell: |attempt| text(&attempt["robot"]) },
    Column { title: "DISPATCHED", cell: |attempt| text(&attempt["dispatched_at"]) },
    Column { title: "STARTED", cell: |attempt| text(&attempt["started_at"]) },
    Column { title: "ENDED", cell: |attempt| text(&attempt["ended_at"]) },
    Column { title: "OUTCOME", cell: outcome },
    Column { title: "DELIVERIES", cell: |attempt| text(&attempt["deliveries"]) },
    Column { title: "REASON", cell: |attempt| text(&attempt["reason"]) },
];

fn outcome(attempt: &Value) -> String {
    let outcome = text(&attempt["outcome"]);
    match (outcome.is_empty(), attempt["delay_ms"].as_u64()) {
        (true, _) => "open".to_owned(),
        (false, Some(delay)) => format!("{outcome}, again in {}", format_duration(Duration::from_millis(delay))),
        (false, None) => outcome,
    }
}

fn state(item: &Value) -> String {
    let (state, kind) = (text(&item["state"]), text(&item["kind"]));
    if kind.is_empty() { state } else { format!("{state}: {kind}") }
}

async fn list(args: &ListArgs, client: &Client) -> Result<(), Failed> {
    let page = client.get(&["items"], &query(args)).await?;
    print_list(&page, args.output, &COLUMNS, &FIELDS)
}

fn query(args: &ListArgs) -> Vec<(&'static str, String)> {
    let mut query = args.filter.query();
    query.push(("limit", args.limit.to_string()));
    let single = [("sort", &args.sort), ("cursor", &args.cursor)];
    query.extend(single.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    query
}

async fn show(args: &ShowArgs, client: &Client) -> Result<(), Failed> {
    if args.payload {
        return print_bytes(&client.get_bytes(&["items", &args.id, "payload"]).await?);
    }
    let item = client.get(&["items", &args.id], &[]).await?;
    if args.output == Output::Csv {
        return print(&csv(&FIELDS, &[item]));
    }
    let timeline = client.get(&["items", &args.id, "timeline"], &[]).await?;
    let lines = timeline["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let attempts = client.get(&["items", &args.id, "attempts"], &[]).await?;
    let attempts = attempts["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    if args.output == Output::Json {
        return print(&output::json(&json!({"item": item, "attempts": attempts, "timeline": lines})));
    }
    let attempts = if attempts.is_empty() { String::new() } else { format!("{}\n", table(&ATTEMPT_COLUMNS, attempts)) };
    print(&format!("{}\n{attempts}{}", pairs(&FIELDS, &item), table(&LINE_COLUMNS, lines)))
}

/// Reads `NAME=VALUE`.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a label is written NAME=VALUE".to_owned()),
    }
}
