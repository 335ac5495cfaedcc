//! `warrend apply`: has the running daemon read the definitions now and make the broker so.

use clap::Args;
use serde_json::{Value, json};

use super::Daemon;
use super::client::Client;
use super::exit::{Exit, Failed};
use super::output::{self, one_line, print, text};
use super::plan::Form;
use crate::topology::plan::Plan;
use crate::topology::render;

/// Ends the help text.
pub(super) const CODES: &str = "Examples:
  warrend plan && echo nothing to do
  warrend apply
  warrend apply --retire old-invoices

Exit codes:
   0  done
   1  something could not be done, or the daemon said no
  64  the command was not understood
  69  the daemon cannot be reached
  78  bad settings";

#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    /// Delete a queue that is not defined any more; what still waits in it is cancelled and kept in the mirror; may be
    /// repeated
    #[arg(long, value_name = "KEY")]
    retire: Vec<String>,
    /// How to show what was done
    #[arg(long, value_enum, default_value = "table")]
    output: Form,
    #[command(flatten)]
    pub daemon: Daemon,
}

pub(super) async fn run(args: &ApplyArgs, client: &Client) -> Result<(), Failed> {
    let body = json!({ "retire": args.retire, "by": super::who() });
    let (_, applied) = client.post(&["apply"], body.to_string()).await?;
    match args.output {
        Form::Json => print(&output::json(&applied))?,
        Form::Table => print(&told(&applied)?)?,
    }
    if applied["problems"].as_array().is_some_and(|problems| !problems.is_empty()) {
        return Err(Failed::new(Exit::Failure, "not everything could be done"));
    }
    Ok(())
}

fn told(applied: &Value) -> Result<String, Failed> {
    let plan: Plan =
        serde_json::from_value(json!({ "steps": applied["plan"]["steps"], "notes": applied["plan"]["notes"] }))
            .map_err(|error| Failed::new(Exit::Failure, format!("the daemon's answer cannot be read: {error}")))?;
    let mut told = render::text(&plan, super::colours());
    let count = |name: &str| applied[name].as_array().map_or(0, Vec::len);
    if !plan.is_empty() {
        told.push_str(&format!("\nDone: {} steps.\n", text(&applied["done"])));
    }
    if count("migrating") > 0 {
        told.push_str(&format!("Moving, and going on by itself: {}.\n", listed(&applied["migrating"])));
    }
    if count("deleted") > 0 {
        told.push_str(&format!("Deleted: {}.\n", listed(&applied["deleted"])));
    }
    for problem in applied["problems"].as_array().into_iter().flatten() {
        told.push_str(&format!("Not done: {}\n", one_line(&text(problem))));
    }
    Ok(told)
}

fn listed(names: &Value) -> String {
    names.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ")
}
