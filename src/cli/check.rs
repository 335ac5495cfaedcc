//! `warrend check`: are the definitions right?

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::exit::{Exit, Failed};
use super::output::{self, print};
use super::settings;
use crate::definition::{LoadError, load};

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Directory of queue definitions [default: the settings' definitions.dir]
    dir: Option<PathBuf>,
    /// How to report what was found
    #[arg(long, value_enum, default_value = "table")]
    output: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For reading
    Table,
    /// `{ok, queues, diagnostics}`
    Json,
}

pub(super) fn run(args: &CheckArgs, config: Option<PathBuf>) -> Result<(), Failed> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => settings(config)?.definitions.dir,
    };
    match (load(&dir), args.output) {
        (Ok(definitions), Form::Table) => {
            let count = definitions.queues.len();
            print(&format!(
                "{}: {count} {}, nothing wrong\n",
                dir.display(),
                if count == 1 { "queue" } else { "queues" }
            ))
        }
        (Ok(definitions), Form::Json) => {
            let queues: Vec<&String> = definitions.queues.keys().collect();
            print(&output::json(&json!({"ok": true, "queues": queues, "diagnostics": []})))
        }
        (Err(LoadError::Read { path, source }), _) => Err(unreadable(&path, &source)),
        (Err(LoadError::Invalid(diagnostics)), Form::Table) => {
            print(&format!("{diagnostics}\n"))?;
            Err(Failed::new(Exit::Data, format!("the definitions in {} are wrong", dir.display())))
        }
        (Err(LoadError::Invalid(diagnostics)), Form::Json) => {
            print(&output::json(&json!({"ok": false, "queues": [], "diagnostics": diagnostics})))?;
            Err(Failed::new(Exit::Data, ""))
        }
    }
}

fn unreadable(path: &Path, source: &std::io::Error) -> Failed {
    Failed::new(Exit::Data, format!("cannot read the definitions in {}: {source}", path.display()))
}
