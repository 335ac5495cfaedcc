//! `warrend webhooks`: whom events are sent to over HTTP.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::Client;
use super::exit::{Exit, Failed};
use super::output::{Column, Output, one_line, print, print_list, text};
use super::{Daemon, EXIT_CODES, wait_for, who};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct WebhooksArgs {
    #[command(subcommand)]
    order: Option<Order>,
    #[command(flatten)]
    show: ShowArgs,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Show all of them, and how it stands with each
    #[command(after_help = EXIT_CODES)]
    List(ShowArgs),
    /// Have events sent to a URL from now on; prints its secret, which is shown this once
    #[command(after_help = EXIT_CODES)]
    Add(AddArgs),
    /// Send nothing more to one, nor what waits for it
    #[command(after_help = EXIT_CODES)]
    Remove(OneArgs),
    /// Send one a test now, and say how that went
    #[command(after_help = EXIT_CODES)]
    Test(OneArgs),
    /// Try one again that was given up
    #[command(after_help = EXIT_CODES)]
    Resume(OneArgs),
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// How to show them
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Args)]
struct AddArgs {
    /// Where to send to, like `https://example.com/hook`
    #[arg(id = "target", value_name = "URL")]
    url: String,
    /// Only these types: patterns like `item.exception.*`, separated by commas
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    events: Vec<String>,
    /// Only these queues: patterns like `invoices.*`, separated by commas
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    queues: Vec<String>,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Args)]
struct OneArgs {
    /// Its id
    id: String,
    #[command(flatten)]
    daemon: Daemon,
}

const COLUMNS: [Column; 7] = [
    Column { title: "ID", cell: |webhook| text(&webhook["id"]) },
    Column { title: "STATE", cell: |webhook| text(&webhook["state"]) },
    Column { title: "URL", cell: |webhook| text(&webhook["url"]) },
    Column { title: "EVENTS", cell: |webhook| patterns(&webhook["events"]) },
    Column { title: "QUEUES", cell: |webhook| patterns(&webhook["queues"]) },
    Column { title: "WAITING", cell: |webhook| text(&webhook["waiting"]) },
    Column { title: "LAST ERROR", cell: |webhook| text(&webhook["last_error"]) },
];

const FIELDS: [&str; 19] = [
    "id",
    "url",
    "events",
    "queues",
    "enabled",
    "disabled_why",
    "state",
    "waiting",
    "missed",
    "failures",
    "failing_since",
    "next_at",
    "paused_at",
    "last_error",
    "last_ok_at",
    "created_at",
    "created_by",
    "changed_at",
    "changed_by",
];

fn patterns(list: &Value) -> String {
    let patterns: Vec<String> = list.as_array().into_iter().flatten().map(text).collect();
    if patterns.is_empty() { "all".to_owned() } else { patterns.join(",") }
}

impl WebhooksArgs {
    pub(super) fn run(&self, config: Option<PathBuf>) -> Result<(), Failed> {
        match &self.order {
            None => wait_for(list(&self.show, &self.show.daemon.client(config)?)),
            Some(Order::List(args)) => wait_for(list(args, &args.daemon.client(config)?)),
            Some(Order::Add(args)) => wait_for(add(args, &args.daemon.client(config)?)),
            Some(Order::Remove(args)) => wait_for(remove(args, &args.daemon.client(config)?)),
            Some(Order::Test(args)) => wait_for(test(args, &args.daemon.client(config)?)),
            Some(Order::Resume(args)) => wait_for(resume(args, &args.daemon.client(config)?)),
        }
    }
}

async fn list(args: &ShowArgs, client: &Client) -> Result<(), Failed> {
    print_list(&client.get(&["webhooks"], &[]).await?, args.output, &COLUMNS, &FIELDS)
}

async fn add(args: &AddArgs, client: &Client) -> Result<(), Failed> {
    let body = json!({ "url": args.url, "events": args.events, "queues": args.queues, "by": who() });
    let (_, webhook) = client.post(&["webhooks"], body.to_string()).await?;
    print(&format!("{}\nsecret: {}\n", text(&webhook["id"]), text(&webhook["secret"])))
}

async fn remove(args: &OneArgs, client: &Client) -> Result<(), Failed> {
    client.delete(&["webhooks", &args.id]).await?;
    print(&format!("{} is gone\n", one_line(&args.id)))
}

async fn test(args: &OneArgs, client: &Client) -> Result<(), Failed> {
    let body = json!({ "by": who() }).to_string();
    let (_, sent) = client.post(&["webhooks", &args.id, "test"], body).await?;
    let took = text(&sent["took_ms"]);
    if sent["taken"] == true {
        return print(&format!("taken, with status {}, after {took} ms\n", text(&sent["status"])));
    }
    let error = one_line(&text(&sent["error"]));
    Err(Failed::new(Exit::Failure, format!("not taken: {error} (after {took} ms)")))
}

async fn resume(args: &OneArgs, client: &Client) -> Result<(), Failed> {
    let body = json!({ "by": who() }).to_string();
    let (_, webhook) = client.post(&["webhooks", &args.id, "resume"], body).await?;
    print(&format!("{}: {}\n", one_line(&args.id), text(&webhook["state"])))
}
