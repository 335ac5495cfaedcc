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
        (Err(LoadError::Invalid(diagnostics)), Form::Table) => {
            print(&format!("{diagnostics}\n"))?;
            Err(Failed::new(Exit::Data, format!("the definitions in {} are wrong", dir.display())))
        }
        (Err(LoadError::Invalid(diagnostics)), Form::Json) => {
            print(&output::json(&json!({"ok": false, "queues": [], "diagnostics": diagnostics})))?;
            Err(Failed::new(Exit::Data, ""))
        }
        (Err(error), _) => Err(wrong(&dir, error)),
    }
}

/// Why there are no definitions, for a command whose result is something else.
pub(super) fn wrong(dir: &Path, error: LoadError) -> Failed {
    let message = match error {
        LoadError::Read { path, source } => format!("cannot read the definitions in {}: {source}", path.display()),
        LoadError::Invalid(diagnostics) => {
            format!("the definitions in {} are wrong:\n{diagnostics}", dir.display())
        }
    };
    Failed::new(Exit::Data, message)
}
