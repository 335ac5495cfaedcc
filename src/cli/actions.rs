//! `warrend actions`: jobs that act on many items, listed, shown and steered. `warrend items ...` begins them.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::Client;
use super::exit::Failed;
use super::many::{RESULTS, finish, follow};
use super::output::{self, Column, Output, csv, pairs, print, print_list, text};
use super::{Daemon, EXIT_CODES, wait_for, who};

#[derive(Debug, Args)]
pub(super) struct ActionsArgs {
    #[command(subcommand)]
    command: ActionsCommand,
}

#[derive(Debug, Subcommand)]
enum ActionsCommand {
    /// List actions on many items, the newest first
    #[command(after_help = EXIT_CODES)]
    List(ListArgs),
    /// Show one of them and how far it is
    #[command(after_help = EXIT_CODES)]
    Show(OneArgs),
    /// List what became of each of its items
    #[command(after_help = EXIT_CODES)]
    Results(ResultsArgs),
    /// Do what a dry run showed, to exactly the items it looked at
    #[command(after_help = EXIT_CODES)]
    Run(OneArgs),
    /// End one; what it did stays
    #[command(after_help = EXIT_CODES)]
    Cancel(OneArgs),
    /// Let one go on that its ramp stopped
    #[command(after_help = EXIT_CODES)]
    Resume(OneArgs),
    /// Take back what one did, as far as that can be, from items that nobody touched since
    #[command(after_help = EXIT_CODES)]
    Undo(OneArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// How many to show
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Continue an earlier list; it ended with the cursor to give here
    #[arg(long)]
    cursor: Option<String>,
    /// How to show them
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Args)]
struct OneArgs {
    /// The action's id
    id: String,
    /// How to show it
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Args)]
struct ResultsArgs {
    /// The action's id
    id: String,
    /// Those alone that ended so, like refused
    #[arg(long)]
    outcome: Option<String>,
    #[command(flatten)]
    list: ListArgs,
}

impl ActionsArgs {
    pub(super) fn run(&self, config: Option<PathBuf>) -> Result<(), Failed> {
        match &self.command {
            ActionsCommand::List(args) => wait_for(list(args, &args.daemon.client(config)?)),
            ActionsCommand::Results(args) => wait_for(results(args, &args.list.daemon.client(config)?)),
            ActionsCommand::Show(args) => wait_for(show(args, &args.daemon.client(config)?)),
            ActionsCommand::Run(args) => wait_for(steer("run", args, &args.daemon.client(config)?)),
            ActionsCommand::Cancel(args) => wait_for(steer("cancel", args, &args.daemon.client(config)?)),
            ActionsCommand::Resume(args) => wait_for(steer("resume", args, &args.daemon.client(config)?)),
            ActionsCommand::Undo(args) => wait_for(steer("undo", args, &args.daemon.client(config)?)),
        }
    }
}

const COLUMNS: [Column; 8] = [
    Column { title: "ID", cell: |job| text(&job["id"]) },
    Column { title: "ACTION", cell: |job| text(&job["action"]) },
    Column { title: "STATE", cell: |job| text(&job["state"]) },
    Column { title: "ITEMS", cell: |job| text(&job["counts"]["total"]) },
    Column { title: "DONE", cell: |job| text(&job["counts"]["done"]) },
    Column { title: "LEFT", cell: |job| text(&job["counts"]["left"]) },
    Column { title: "BY", cell: |job| text(&job["by"]) },
    Column { title: "AT", cell: |job| text(&job["at"]) },
];

/// Every field of an action, in the API's order.
const FIELDS: [&str; 19] = [
    "id",
    "action",
    "state",
    "dry_run",
    "by",
    "why",
    "at",
    "ended_at",
    "ids",
    "filter",
    "undo_of",
    "undone_by",
    "arguments",
    "counts",
    "rate",
    "ramp",
    "next_at",
    "stopped",
    "preview",
];

const RESULT_FIELDS: [&str; 8] =
    ["item", "would", "outcome", "code", "reason", "revision_before", "revision_after", "at"];

fn query(args: &ListArgs) -> Vec<(&'static str, String)> {
    let cursor = args.cursor.iter().map(|cursor| ("cursor", cursor.clone()));
    std::iter::once(("limit", args.limit.to_string())).chain(cursor).collect()
}

async fn list(args: &ListArgs, client: &Client) -> Result<(), Failed> {
    print_list(&client.get(&["items", "actions"], &query(args)).await?, args.output, &COLUMNS, &FIELDS)
}

async fn results(args: &ResultsArgs, client: &Client) -> Result<(), Failed> {
    let mut query = query(&args.list);
    query.extend(args.outcome.iter().map(|outcome| ("outcome", outcome.clone())));
    let page = client.get(&["items", "actions", &args.id, "results"], &query).await?;
    print_list(&page, args.list.output, &RESULTS, &RESULT_FIELDS)
}

async fn show(args: &OneArgs, client: &Client) -> Result<(), Failed> {
    let job = client.get(&["items", "actions", &args.id], &[]).await?;
    print(&shown(&job, args.output))
}

fn shown(job: &Value, output: Output) -> String {
    match output {
        Output::Table => pairs(&FIELDS, job),
        Output::Json => output::json(job),
        Output::Csv => csv(&FIELDS, std::slice::from_ref(job)),
    }
}

/// Asks for something, and follows what goes on then.
async fn steer(verb: &str, args: &OneArgs, client: &Client) -> Result<(), Failed> {
    let body = json!({ "by": who() }).to_string();
    let (_, job) = client.post(&["items", "actions", &args.id, verb], body).await?;
    if verb == "cancel" {
        return print(&shown(&job, args.output));
    }
    finish(&follow(client, &job).await?, args.output, client).await
}
