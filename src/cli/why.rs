//! `warrend why`: what an item waits for.

use clap::Args;

use super::Daemon;
use super::client::Client;
use super::exit::Failed;
use super::output::{self, Output, csv, one_line, print, text};

#[derive(Debug, Args)]
pub(super) struct WhyArgs {
    /// The item's id
    id: String,
    /// How to say it; table is one sentence
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    pub daemon: Daemon,
}

const FIELDS: [&str; 4] = ["why", "waits_for", "until", "since"];

pub(super) async fn run(args: &WhyArgs, client: &Client) -> Result<(), Failed> {
    let why = client.get(&["items", &args.id, "why"], &[]).await?;
    match args.output {
        Output::Table => print(&format!("{}\n", one_line(&text(&why["why"])))),
        Output::Json => print(&output::json(&why)),
        Output::Csv => print(&csv(&FIELDS, &[why])),
    }
}
