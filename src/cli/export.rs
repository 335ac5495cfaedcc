//! `warrend export`: items or attempts into a file, page by page.
//!
//! Order of effects, per page: append it to the file, then note in the journal how far the file is good and where the next page
//! starts. What a run that broke off left behind that is cut away when it goes on.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use super::client::Client;
use super::exit::{Exit, Failed};
use super::items::FilterArgs;
use super::journal::{self, cannot};
use super::output::print_bytes;
use super::{Daemon, EXIT_CODES, wait_for};

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One row per item
    #[command(after_help = EXIT_CODES)]
    Items {
        #[command(flatten)]
        args: Box<RowArgs>,
        /// What they carry, too
        #[arg(long)]
        payload: bool,
    },
    /// One row per attempt, of the items that meet the filters
    #[command(after_help = EXIT_CODES)]
    Attempts {
        #[command(flatten)]
        args: Box<RowArgs>,
    },
}

#[derive(Debug, Args)]
struct RowArgs {
    #[command(flatten)]
    filter: FilterArgs,
    #[arg(long, value_enum, default_value = "csv")]
    format: Format,
    /// Leave texts as they are that a spreadsheet takes for formulas
    #[arg(long)]
    raw: bool,
    /// Write them into this file [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Go on where an earlier run into the same file broke off
    #[arg(long, requires = "output")]
    resume: bool,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Csv,
    Ndjson,
}

/// How far an export came.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Journal {
    /// Where from: a cursor of another daemon's would be read as one's own.
    daemon: String,
    /// What is exported, and how.
    query: String,
    /// Where the next page starts.
    cursor: Option<String>,
    /// How far the file is good.
    bytes: u64,
}

impl ExportArgs {
    pub(super) fn run(&self, config: Option<PathBuf>) -> Result<(), Failed> {
        let (what, args, payload) = match &self.what {
            What::Items { args, payload } => ("items", args, *payload),
            What::Attempts { args } => ("attempts", args, false),
        };
        let mut query = args.filter.query();
        query.push(("format", if args.format == Format::Csv { "csv" } else { "ndjson" }.to_owned()));
        for (name, is) in [("payload", payload), ("raw", args.raw)] {
            if is {
                query.push((name, "true".to_owned()));
            }
        }
        let client = args.daemon.client(config)?;
        wait_for(async {
            match &args.output {
                None => client.page(&["export", what], &query, print_bytes).await.map(|_| ()),
                Some(file) => pages(&client, what, args, &query, file).await,
            }
        })
    }
}

async fn pages(
    client: &Client,
    what: &str,
    args: &RowArgs,
    query: &[(&str, String)],
    path: &Path,
) -> Result<(), Failed> {
    let journal_path = journal::beside(path, ".export.json")?;
    let fresh = Journal { daemon: client.base(), query: format!("{what} {query:?}"), cursor: None, bytes: 0 };
    let mut state = begin(fresh, args.resume, &journal_path)?;
    let mut file = journal::open_behind(path, state.bytes, "without --resume it begins anew")?;
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {bytes} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(path.display().to_string());
    loop {
        let mut query = query.to_vec();
        query.push(("limit", "1000".to_owned()));
        query.extend(state.cursor.clone().map(|cursor| ("cursor", cursor)));
        // Each page has a heading, and the file one.
        let mut heading = args.format == Format::Csv && state.bytes > 0;
        let next = client
            .page(&["export", what], &query, |piece| {
                let mut piece = piece;
                if heading {
                    let Some(end) = piece.iter().position(|byte| *byte == b'\n') else { return Ok(()) };
                    piece = &piece[end + 1..];
                    heading = false;
                }
                state.bytes += piece.len() as u64;
                bar.set_position(state.bytes);
                file.write_all(piece).map_err(|error| cannot("write", path, &error))
            })
            .await?;
        file.sync_data().map_err(|error| cannot("write", path, &error))?;
        match next {
            None => break,
            Some(next) => {
                state.cursor = Some(next);
                journal::write(&journal_path, &state)?;
            }
        }
    }
    bar.finish_and_clear();
    journal::remove(&journal_path)
}

/// The journal to go on with.
fn begin(fresh: Journal, resume: bool, path: &Path) -> Result<Journal, Failed> {
    if !resume {
        // It tells of a file that is about to be cut to nothing.
        journal::remove(path)?;
        return Ok(fresh);
    }
    match journal::read::<Journal>(path)? {
        None => Ok(fresh),
        Some(before) if (&before.daemon, &before.query) == (&fresh.daemon, &fresh.query) => Ok(before),
        Some(before) => Err(Failed::new(
            Exit::Usage,
            format!(
                "the export that broke off asked for something else, or another daemon ({}; {})",
                before.daemon,
                path.display()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(daemon: &str, query: &str, bytes: u64) -> Journal {
        Journal { daemon: daemon.to_owned(), query: query.to_owned(), cursor: None, bytes }
    }

    #[test]
    fn a_journal_is_of_one_daemon_and_ends_where_an_export_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let begin = |daemon: &str, query: &str, resume| begin(state(daemon, query, 0), resume, &path);
        journal::write(&path, &state("http://a/", "q", 7)).ok().unwrap();
        assert_eq!(begin("http://a/", "q", true).ok().unwrap().bytes, 7);
        for (daemon, query) in [("http://a/", "r"), ("http://b/", "q")] {
            assert_eq!(begin(daemon, query, true).err().unwrap().exit, Exit::Usage);
        }
        assert_eq!(begin("http://a/", "q", false).ok().unwrap().bytes, 0);
        assert!(!path.exists());
        assert_eq!(begin("http://a/", "q", true).ok().unwrap().bytes, 0);
    }
}
