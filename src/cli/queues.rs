//! `warrend queues`: the queues, or one of them.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::Client;
use super::exit::Failed;
use super::output::{self, Column, Output, csv, one_line, pairs, print, print_list, text};
use super::{Daemon, EXIT_CODES, wait_for, who};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct QueuesArgs {
    #[command(subcommand)]
    order: Option<QueueOrder>,
    #[command(flatten)]
    show: ShowArgs,
}

#[derive(Debug, Subcommand)]
enum QueueOrder {
    /// Stop handing out items, letting items in, or both
    ///
    /// Without --dispatch and --intake both stop. What robots have, or can take from the broker already, they work off: the
    /// answer says how many that are. Items sent to a queue whose intake is paused wait on the broker.
    #[command(after_help = EXIT_CODES)]
    Pause(PauseArgs),
    /// Go on with what was paused by command
    #[command(after_help = EXIT_CODES)]
    Resume(PauseArgs),
}

#[derive(Debug, Args)]
struct PauseArgs {
    /// Key of the queue
    key: String,
    /// Only what goes out to robots
    #[arg(long)]
    dispatch: bool,
    /// Only what comes in
    #[arg(long)]
    intake: bool,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Show this queue alone, with everything known of it
    key: Option<String>,
    /// How to show them
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    daemon: Daemon,
}

const COLUMNS: [Column; 12] = [
    Column { title: "KEY", cell: |queue| text(&queue["key"]) },
    Column { title: "LANE", cell: |queue| text(&queue["lane"]) },
    Column { title: "STATE", cell: standing },
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

/// Of one queue alone, with what becomes of it.
const FIELDS: [&str; 19] = [
    "key",
    "title",
    "description",
    "owner",
    "labels",
    "lane",
    "type",
    "paused",
    "breaker",
    "retired",
    "migration",
    "counts",
    "ready",
    "unacked",
    "consumers",
    "unaccounted",
    "attention",
    "sla",
    "forecast",
];

/// Of every queue in a list.
const LISTED: &[&str] = FIELDS.split_at(17).0;

impl QueuesArgs {
    pub(super) fn run(&self, config: Option<PathBuf>) -> Result<(), Failed> {
        match &self.order {
            None => wait_for(show(&self.show, &self.show.daemon.client(config)?)),
            Some(QueueOrder::Pause(args)) => wait_for(set("pause", args, &args.daemon.client(config)?)),
            Some(QueueOrder::Resume(args)) => wait_for(set("resume", args, &args.daemon.client(config)?)),
        }
    }
}

/// In a word, what is not as usual.
fn standing(queue: &Value) -> String {
    let paused = |what: &str| queue["paused"][what] == true;
    if queue["retired"] == true {
        return "retired".to_owned();
    }
    if let Some(step) = queue["migration"]["step"].as_str() {
        return step.replace('_', " ");
    }
    if let Some(state) = queue["breaker"]["state"].as_str().filter(|state| *state != "closed" && !paused("dispatch")) {
        return format!("breaker {state}");
    }
    match (paused("dispatch"), paused("intake")) {
        (true, true) => "paused",
        (true, false) => "dispatch paused",
        (false, true) => "intake paused",
        (false, false) => "",
    }
    .to_owned()
}

async fn set(verb: &str, args: &PauseArgs, client: &Client) -> Result<(), Failed> {
    let mut body = json!({ "by": who() });
    if args.dispatch || args.intake {
        body["dispatch"] = args.dispatch.into();
        body["intake"] = args.intake.into();
    }
    let (_, answer) = client.post(&["queues", &args.key, verb], body.to_string()).await?;
    let state = |what: &str| if answer["paused"][what] == true { "paused" } else { "open" };
    let mut told = format!("{}: dispatch {}, intake {}\n", one_line(&args.key), state("dispatch"), state("intake"));
    let out = |what: &str| answer["out"][what].as_u64().unwrap_or(0);
    if answer["paused"]["dispatch"] == true && out("ready") + out("unacked") > 0 {
        told.push_str(&format!("out already: {} ready for robots, {} with them\n", out("ready"), out("unacked")));
    }
    print(&told)
}

async fn show(args: &ShowArgs, client: &Client) -> Result<(), Failed> {
    let Some(key) = &args.key else {
        let list = client.get(&["queues"], &[]).await?;
        if let Some(problem) = list["definitions_problem"].as_str() {
            let _ = writeln!(std::io::stderr(), "the definitions are wrong, the last good set is in force:\n{problem}");
        }
        return print_list(&list, args.output, &COLUMNS, LISTED);
    };
    let queue: Value = client.get(&["queues", key], &[]).await?;
    match args.output {
        Output::Table => print(&pairs(&FIELDS, &queue)),
        Output::Json => print(&output::json(&queue)),
        Output::Csv => print(&csv(&FIELDS, &[queue])),
    }
}
