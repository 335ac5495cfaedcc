//! `warrend failures`: what fails alike, and whether it is new, rising or back.

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::Value;

use super::Daemon;
use super::client::Client;
use super::exit::Failed;
use super::output::{self, Column, Output, csv, pairs, print, print_list, table, text};
use crate::item::Kind;
use crate::item::failures::Trend;
use crate::mirror::{FailureSort, MAX_PAGE};

#[derive(Debug, Args)]
pub(super) struct FailuresArgs {
    /// Show this one, with its queues and items
    #[arg(conflicts_with_all = ["queue", "kind", "status", "since", "sort", "limit", "cursor"])]
    fingerprint: Option<String>,
    /// Seen in this queue; only what was seen there is counted
    #[arg(long, value_name = "KEY")]
    queue: Option<String>,
    /// Of this kind; separate several by commas
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(Kind::ALL.iter().map(|kind| kind.word())))]
    kind: Vec<String>,
    /// That stand so; separate several by commas
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(Trend::ALL.map(Trend::word)))]
    status: Vec<String>,
    /// Seen since this time (RFC 3339, like 2026-05-04T08:00:00Z)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// What the order goes by, the greatest first [default: last_seen; with a cursor, its list's order]
    #[arg(long, value_parser = PossibleValuesParser::new(FailureSort::ALL.map(FailureSort::word)))]
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
    pub daemon: Daemon,
}

pub(super) const COLUMNS: [Column; 8] = [
    Column { title: "FINGERPRINT", cell: |failure| text(&failure["fingerprint"]) },
    Column { title: "STATUS", cell: |failure| text(&failure["status"]) },
    Column { title: "KIND", cell: |failure| text(&failure["kind"]) },
    Column { title: "OPEN", cell: |failure| text(&failure["count"]) },
    Column { title: "SEEN", cell: |failure| text(&failure["seen"]) },
    Column { title: "LAST SEEN", cell: |failure| text(&failure["last_seen"]) },
    Column { title: "QUEUES", cell: queues },
    Column { title: "REASON", cell: reason },
];

const FIELDS: [&str; 14] = [
    "fingerprint",
    "kind",
    "code",
    "reason",
    "status",
    "count",
    "seen",
    "retried",
    "resolved",
    "first_seen",
    "last_seen",
    "rate",
    "usual_rate",
    "queues",
];

const QUEUE_COLUMNS: [Column; 6] = [
    Column { title: "QUEUE", cell: |one| text(&one["queue"]) },
    Column { title: "OPEN", cell: |one| text(&one["count"]) },
    Column { title: "SEEN", cell: |one| text(&one["seen"]) },
    Column { title: "RETRIED", cell: |one| text(&one["retried"]) },
    Column { title: "FIRST SEEN", cell: |one| text(&one["first_seen"]) },
    Column { title: "LAST SEEN", cell: |one| text(&one["last_seen"]) },
];

fn queues(failure: &Value) -> String {
    let queues = failure["queues"].as_array().into_iter().flatten();
    queues.filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
}

fn reason(failure: &Value) -> String {
    let said = [text(&failure["code"]), text(&failure["reason"])];
    said.into_iter().filter(|said| !said.is_empty()).collect::<Vec<_>>().join(": ")
}

pub(super) async fn run(args: &FailuresArgs, client: &Client) -> Result<(), Failed> {
    if let Some(fingerprint) = &args.fingerprint {
        let failure = client.get(&["failures", fingerprint], &[]).await?;
        return show(&failure, args.output);
    }
    let mut query = vec![("limit", args.limit.to_string())];
    let single = [("queue", &args.queue), ("since", &args.since), ("sort", &args.sort), ("cursor", &args.cursor)];
    query.extend(single.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    query.extend(args.kind.iter().map(|kind| ("kind", kind.clone())));
    query.extend(args.status.iter().map(|status| ("status", status.clone())));
    print_list(&client.get(&["failures"], &query).await?, args.output, &COLUMNS, &FIELDS)
}

fn show(failure: &Value, output: Output) -> Result<(), Failed> {
    match output {
        Output::Json => print(&output::json(failure)),
        Output::Csv => print(&csv(&FIELDS, std::slice::from_ref(failure))),
        Output::Table => {
            let list = |name: &str| failure[name].as_array().map(Vec::as_slice).unwrap_or_default();
            let items: String = list("samples").iter().map(|item| format!("{}\n", text(item))).collect();
            let items = if items.is_empty() { items } else { format!("\nITEMS, the newest first\n{items}") };
            let queues = table(&QUEUE_COLUMNS, list("by_queue"));
            print(&format!("{}\n{queues}{items}", pairs(&FIELDS, failure)))
        }
    }
}
