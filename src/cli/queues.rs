//! `warrend queues`: the queues, or one of them.

use clap::Args;
use serde_json::Value;

use super::Daemon;
use super::client::Client;
use super::exit::Failed;
use super::output::{Column, Output, csv, json, pairs, print, print_list, text};

#[derive(Debug, Args)]
pub(super) struct QueuesArgs {
    /// Show this queue alone, with everything known of it
    key: Option<String>,
    /// How to show them
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    pub daemon: Daemon,
}

const COLUMNS: [Column; 11] = [
    Column { title: "KEY", cell: |queue| text(&queue["key"]) },
    Column { title: "LANE", cell: |queue| text(&queue["lane"]) },
    Column { title: "QUEUED", cell: |queue| text(&queue["counts"]["queued"]) },
    Column { title: "PROCESSING", cell: |queue| text(&queue["counts"]["processing"]) },
    Column { title: "PROCESSED", cell: |queue| text(&queue["counts"]["processed"]) },
    Column { title: "ON HOLD", cell: |queue| text(&queue["counts"]["on_hold"]) },
    Column { title: "EXCEPTION", cell: |queue| text(&queue["counts"]["exception"]) },
    Column { title: "CANCELLED", cell: |queue| text(&queue["counts"]["cancelled"]) },
    Column { title: "READY", cell: |queue| text(&queue["ready"]) },
    Column { title: "UNACKED", cell: |queue| text(&queue["unacked"]) },
    Column { title: "ROBOTS", cell: |queue| text(&queue["consumers"]) },
];

const FIELDS: [&str; 13] = [
    "key",
    "title",
    "description",
    "owner",
    "labels",
    "lane",
    "type",
    "paused",
    "counts",
    "ready",
    "unacked",
    "consumers",
    "unaccounted",
];

pub(super) async fn run(args: &QueuesArgs, client: &Client) -> Result<(), Failed> {
    let Some(key) = &args.key else {
        return print_list(&client.get(&["queues"], &[]).await?, args.output, &COLUMNS, &FIELDS);
    };
    let queue: Value = client.get(&["queues", key], &[]).await?;
    match args.output {
        Output::Table => print(&pairs(&FIELDS, &queue)),
        Output::Json => print(&json(&queue)),
        Output::Csv => print(&csv(&FIELDS, &[queue])),
    }
}
