//! `warrend robots`: who works, and who is connected without a word.

use clap::Args;
use serde_json::Value;

use super::Daemon;
use super::client::Client;
use super::exit::Failed;
use super::output::{self, Column, Output, csv, print, print_list, table, text};
use crate::mirror::MAX_PAGE;

#[derive(Debug, Args)]
pub(super) struct RobotsArgs {
    /// Who works in this queue
    #[arg(long, value_name = "KEY")]
    queue: Option<String>,
    /// How many to show
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

pub(super) const COLUMNS: [Column; 9] = [
    Column { title: "ROBOT", cell: name },
    Column { title: "USER", cell: |robot| text(&robot["user"]) },
    Column { title: "QUEUES", cell: |robot| words(&robot["queues"]) },
    Column { title: "WORKS ON", cell: |robot| first(robot, "id") },
    Column { title: "SINCE", cell: |robot| first(robot, "since") },
    Column { title: "BUSY", cell: busy },
    Column { title: "OK", cell: |robot| text(&robot["ok"]) },
    Column { title: "FAILED", cell: |robot| text(&robot["failed"]) },
    Column { title: "LAST SEEN", cell: |robot| text(&robot["last_seen"]) },
];

const CONSUMER_COLUMNS: [Column; 5] = [
    Column { title: "QUEUE", cell: |one| text(&one["queue"]) },
    Column { title: "CONNECTED", cell: |one| known(&one["consumers"]) },
    Column { title: "ITEMS WITH THEM", cell: |one| known(&one["unacked"]) },
    Column { title: "HEARD WITHIN 1h", cell: |one| text(&one["heard"]) },
    Column { title: "SILENT", cell: |one| known(&one["silent"]) },
];

const FIELDS: [&str; 11] =
    ["name", "user", "queues", "items", "busy", "ok", "failed", "other", "first_seen", "last_seen", "hanging"];

fn name(robot: &Value) -> String {
    let name = robot["name"].as_str().unwrap_or("(no name)");
    if robot["hanging"] == true { format!("{name} (hanging)") } else { name.to_owned() }
}

fn words(list: &Value) -> String {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
}

/// Of the item that it has for longest, and how many more there are.
fn first(robot: &Value, what: &str) -> String {
    let items = robot["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    match items {
        [] => String::new(),
        [one] => text(&one[what]),
        [one, more @ ..] if what == "id" => format!("{} and {} more", text(&one[what]), more.len()),
        [one, ..] => text(&one[what]),
    }
}

fn busy(robot: &Value) -> String {
    robot["busy"].as_f64().map_or_else(|| "?".to_owned(), |share| format!("{:.0}%", share * 100.0))
}

fn known(value: &Value) -> String {
    if value.is_null() { "?".to_owned() } else { text(value) }
}

pub(super) async fn run(args: &RobotsArgs, client: &Client) -> Result<(), Failed> {
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.queue.clone().map(|queue| ("queue", queue)));
    query.extend(args.cursor.clone().map(|cursor| ("cursor", cursor)));
    let robots = client.get(&["robots"], &query).await?;
    match args.output {
        Output::Json => print(&output::json(&robots)),
        Output::Csv => print(&csv(&FIELDS, robots["items"].as_array().map(Vec::as_slice).unwrap_or_default())),
        Output::Table => {
            print_list(&robots, Output::Table, &COLUMNS, &FIELDS)?;
            let consumers = robots["consumers"].as_array().map(Vec::as_slice).unwrap_or_default();
            print(&format!("\n{}", table(&CONSUMER_COLUMNS, consumers)))
        }
    }
}
