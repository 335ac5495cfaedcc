//! `warrend check`: are the definitions right?
//!
//! Exit codes: 0 nothing is wrong, 65 something is or the directory cannot be read, 64 the command was not understood, 78 the
//! settings that name the directory are wrong.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::exit::{Exit, Failed};
use super::output::{self, print};
use super::settings;
use crate::definition::{Diagnostic, Diagnostics, LoadError, load};

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
    /// An array of mistakes, each `{file, line, column, length, message, help, source}`
    Json,
}

pub(super) fn run(args: &CheckArgs, config: Option<PathBuf>) -> Result<(), Failed> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => settings(config)?.definitions.dir,
    };
    let (found, error) = match load(&dir) {
        Ok(definitions) => {
            let (count, dir) = (definitions.queues.len(), dir.display());
            return print(&match args.output {
                Form::Table => {
                    format!("{dir}: {count} {}, nothing wrong\n", if count == 1 { "queue" } else { "queues" })
                }
                Form::Json => "[]\n".to_owned(),
            });
        }
        Err(LoadError::Invalid(found)) => {
            let error = format!("the definitions in {} are wrong", dir.display());
            (found, error)
        }
        Err(LoadError::Read { path, source }) => {
            let error = format!("cannot read the definitions in {}: {source}", path.display());
            if args.output == Form::Table {
                return Err(Failed::new(Exit::Data, error));
            }
            let whole = Diagnostic::of_file(&path.display().to_string(), format!("cannot be read: {source}"), None);
            (Diagnostics::new(vec![whole]), error)
        }
    };
    print(&match args.output {
        Form::Table => format!("{found}\n"),
        Form::Json => output::json(&json!(found.iter().collect::<Vec<_>>())),
    })?;
    let error = match (args.output, found.more()) {
        (Form::Json, more) if more > 0 => format!("{error}; {more} mistakes more are not listed"),
        _ => error,
    };
    Err(Failed::new(Exit::Data, error))
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
