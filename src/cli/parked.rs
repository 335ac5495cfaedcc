//! `warrend parked`: what could not be read or belongs to no item.

use clap::Args;

use super::Daemon;
use super::client::Client;
use super::exit::Failed;
use super::output::{Column, Output, print_list, text};
use crate::mirror::MAX_PAGE;

#[derive(Debug, Args)]
pub(super) struct ParkedArgs {
    /// How many to show, the newest first
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PAGE)))]
    limit: u32,
    /// Continue an earlier list; it ended with the cursor to give here
    #[arg(long)]
    cursor: Option<String>,
    /// How to show them
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    pub daemon: Daemon,
}

const COLUMNS: [Column; 6] = [
    Column { title: "ID", cell: |parked| text(&parked["id"]) },
    Column { title: "AT", cell: |parked| text(&parked["at"]) },
    Column { title: "FROM", cell: |parked| text(&parked["source"]) },
    Column { title: "QUEUE", cell: |parked| text(&parked["queue"]) },
    Column { title: "SIZE", cell: |parked| text(&parked["size"]) },
    Column { title: "REASON", cell: |parked| text(&parked["reason"]) },
];

const FIELDS: [&str; 9] = ["id", "at", "source", "queue", "reason", "properties", "size", "preview", "masked"];

pub(super) async fn run(args: &ParkedArgs, client: &Client) -> Result<(), Failed> {
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.cursor.clone().map(|cursor| ("cursor", cursor)));
    print_list(&client.get(&["parked"], &query).await?, args.output, &COLUMNS, &FIELDS)
}
