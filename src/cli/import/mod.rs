//! `warrend import`: files of rows into a queue.
//!
//! Order of effects, per chunk of rows:
//! 1. send it, named by an idempotency key that is made of the file's content, the queue, the options and its number;
//! 2. append its refused rows to the file of refused rows, and have them written to disk;
//! 3. note in the journal that it is done, and how far the file of refused rows is good.
//!
//! | broken off after | what is left | what `--resume` does |
//! |---|---|---|
//! | 1 | the chunk is in, and the journal does not say so | sends it again under the same key: nothing comes in twice |
//! | 2 | refused rows that the journal does not know | cuts the file back, as above |
//! | 3 | a whole chunk | goes on with the next |

mod refused;
mod source;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Daemon;
use super::client::Client;
use super::exit::{Exit, Failed};
use super::journal;
use super::output::{self, one_line, print};
use crate::rows::Row;
use crate::rows::columns::{Mapped, read_map};
use refused::Refused;
use source::{Chunk, Reading, Source, digest, hex};

/// Ends the help text.
pub(super) const EXAMPLES: &str = "Examples:
  warrend import invoices.csv --queue invoices --map orderID:reference,amount::number
  warrend import export.csv --queue invoices --format uipath --time-zone Europe/Oslo --dry-run
  warrend import rows.ndjson --queue invoices --resume

Rows that are refused go to FILE.refused.csv (or .ndjson) with their reasons; what was sent stands. A run that broke off left a
journal, FILE.import.json, and goes on with --resume.

Exit codes:
   0  every row is in the queue, new or there already
   1  it failed, or the daemon said no; --resume goes on
  64  the command was not understood
  65  some rows were refused, or a file cannot be read as what it is
  69  the daemon cannot be reached; --resume goes on
  78  bad settings";

/// Rows of a chunk.
const CHUNK: usize = 1000;

/// Rows that go in together or not at all, and bytes.
const MOST_ATOMIC: usize = 10_000;

/// Rows of a chunk that is only checked.
const CHUNK_DRY: usize = 20_000;

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Key of the queue
    #[arg(long, value_name = "KEY")]
    queue: String,
    /// What the files are; auto tells by their first bytes and headings
    #[arg(long, value_enum, default_value = "auto")]
    format: Format,
    /// What columns are for: COLUMN:TARGET, COLUMN:TARGET:TYPE or COLUMN::TYPE, separated by commas; may be given several times
    #[arg(long, value_name = "MAP", value_parser = map)]
    map: Vec<Map>,
    /// What stands between cells: , ; | or tab [default: what the heading has]
    #[arg(long, value_name = "CHAR", value_parser = delimiter)]
    delimiter: Option<u8>,
    /// Where times without an offset are from, like Europe/Oslo
    #[arg(long, value_name = "ZONE", default_value = "UTC", value_parser = zone)]
    time_zone: TimeZone,
    /// In which order dates are written [default: mdy of Power Automate, else ymd]
    #[arg(long, value_enum, value_name = "ORDER")]
    dates: Option<Dates>,
    /// Check every row and keep nothing
    #[arg(long)]
    dry_run: bool,
    /// All rows of a file or none; at most 10000
    #[arg(long, conflicts_with = "dry_run")]
    atomic: bool,
    /// Go on where an earlier run broke off
    #[arg(long, conflicts_with_all = ["dry_run", "atomic"])]
    resume: bool,
    /// Begin anew, and import once more what was imported before; one file at a time
    #[arg(long, conflicts_with_all = ["dry_run", "resume"])]
    again: bool,
    /// How to show the summary
    #[arg(long, value_enum, default_value = "text")]
    output: Summary,
    #[command(flatten)]
    pub daemon: Daemon,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Auto,
    /// One JSON object a line
    Ndjson,
    /// One JSON array
    Json,
    Csv,
    /// The items file of Power Automate's bulk import, or the table of its action
    PowerAutomate,
    /// Orchestrator's bulk upload
    Uipath,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Dates {
    Ymd,
    Mdy,
    Dmy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Summary {
    /// For reading
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Clone)]
struct Map {
    text: String,
    entries: Vec<Mapped>,
}

fn map(text: &str) -> Result<Map, String> {
    let entries = read_map(text).map_err(|faults| faults.join("; "))?;
    Ok(Map { text: text.to_owned(), entries })
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text {
        "," | ";" | "|" => Ok(text.as_bytes()[0]),
        "tab" | "\t" => Ok(b'\t'),
        _ => Err("allowed: , ; | tab".to_owned()),
    }
}

fn zone(text: &str) -> Result<TimeZone, String> {
    TimeZone::get(text).map_err(|_| "it is no time zone; write it like Europe/Oslo or UTC".to_owned())
}

/// How far the import of a file came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Journal {
    sha256: String,
    queue: String,
    /// Where the rows go: what is done there is not done elsewhere.
    daemon: String,
    /// What else decides what the rows become.
    options: String,
    /// Makes a run that imports once more another one.
    again: Option<String>,
    /// Chunks that are done.
    chunks: u64,
    rows: u64,
    created: u64,
    same: u64,
    refused: u64,
    /// How far the file of refused rows is good.
    refused_bytes: u64,
}

impl Journal {
    /// The key under which a chunk is sent, whoever sends it again.
    fn key(&self, chunk: u64) -> String {
        let again = self.again.as_deref().unwrap_or_default();
        let name = [&self.sha256, &self.queue, &self.options, again, &chunk.to_string()].join("\0");
        format!("import-{}", &hex(&Sha256::digest(name.as_bytes()))[..40])
    }

    fn is_of(&self, other: &Self) -> bool {
        self.what() == other.what()
    }

    const fn what(&self) -> [&String; 4] {
        [&self.sha256, &self.queue, &self.daemon, &self.options]
    }
}

pub(super) async fn run(args: &ImportArgs, client: &Client) -> Result<(), Failed> {
    if args.again && args.files.len() > 1 {
        // Each has keys of its own, which a later --resume knows of the one alone that broke off.
        return Err(Failed::new(Exit::Usage, "--again takes one file at a time".to_owned()));
    }
    let (mut done, mut failed) = (Vec::new(), None);
    for file in &args.files {
        match import(args, client, file).await {
            Ok(summary) => done.push(summary),
            Err(why) => {
                failed = Some(why);
                break;
            }
        }
    }
    let refused = done.iter().any(|summary| summary["refused"] != 0);
    // What is done is told, also where a file behind it failed.
    match args.output {
        _ if done.is_empty() => {}
        Summary::Json => print(&output::json(&Value::from(done)))?,
        Summary::Text => print(&done.iter().map(told).collect::<String>())?,
    }
    if let Some(failed) = failed {
        return Err(failed);
    }
    if refused { Err(Failed::new(Exit::Data, "some rows were refused")) } else { Ok(()) }
}

fn told(summary: &Value) -> String {
    let how = match (summary["dry_run"] == true, summary["kept"] == true) {
        (true, _) => " (nothing was kept: a dry run)",
        (_, false) => " (nothing was kept: all or nothing)",
        _ => "",
    };
    let whither = summary["refused_file"].as_str().map(|path| format!(", see {}", one_line(path))).unwrap_or_default();
    format!(
        "{}: {} rows, {} created, {} there already, {} refused{whither}{how}\n",
        one_line(summary["file"].as_str().unwrap_or_default()),
        summary["rows"],
        summary["created"],
        summary["same"],
        summary["refused"]
    )
}

async fn import(args: &ImportArgs, client: &Client, file: &Path) -> Result<Value, Failed> {
    let reading = Reading {
        format: args.format,
        map: args.map.iter().flat_map(|map| map.entries.clone()).collect(),
        delimiter: args.delimiter,
        zone: args.time_zone.clone(),
        dates: args.dates,
    };
    let mut source = Source::open(file, &reading)?;
    let keeps = !args.dry_run && !args.atomic;
    let journal_path = journal::beside(file, ".import.json")?;
    let mut state = begin(args, &client.base(), file, &journal_path)?;
    let end = if matches!(source.format, Format::Json | Format::Ndjson) { "ndjson" } else { "csv" };
    let refused_path = journal::beside(file, &format!(".refused.{end}"))?;
    let mut refused = Refused::new(refused_path, state.refused_bytes, char::from(source.delimiter))?;
    let bar = bar(file);
    let most = match (args.atomic, args.dry_run) {
        (true, _) => MOST_ATOMIC,
        (_, true) => CHUNK_DRY,
        _ => CHUNK,
    };
    let (mut number, mut kept) = (0, true);
    while let Some(chunk) = source.chunk(most)? {
        bar.set_position(source.read);
        refused.heading(source.heading());
        number += 1;
        // What is done was read again only to come to what is not.
        if number <= state.chunks {
            continue;
        }
        if args.atomic && source.chunk(1)?.is_some() {
            return Err(Failed::new(
                Exit::Data,
                format!("{}: all or nothing takes at most {MOST_ATOMIC} rows with 4 MiB", file.display()),
            ));
        }
        let sent =
            send(args, client, &chunk, &state.key(number)).await.map_err(|failed| hinted(failed, keeps, state.rows))?;
        for (row, code, reasons) in &sent.refused {
            refused.add(row, code, reasons)?;
        }
        kept &= sent.kept;
        state.chunks = number;
        state.rows += chunk.rows.len() as u64;
        state.created += sent.created;
        state.same += sent.same;
        state.refused += sent.refused.len() as u64;
        state.refused_bytes = refused.bytes;
        if keeps {
            refused.sync()?;
            journal::write(&journal_path, &state)?;
        }
        bar.set_message(format!("{} rows", state.rows));
    }
    bar.finish_and_clear();
    if keeps {
        journal::remove(&journal_path)?;
    }
    let refused_file = (state.refused > 0).then(|| refused.path.display().to_string());
    Ok(json!({
        "file": file.display().to_string(), "queue": args.queue, "dry_run": args.dry_run, "kept": kept, "rows": state.rows,
        "created": state.created, "same": state.same, "refused": state.refused, "refused_file": refused_file,
    }))
}

/// The journal to go on with.
fn begin(args: &ImportArgs, daemon: &str, file: &Path, path: &Path) -> Result<Journal, Failed> {
    let maps: Vec<&str> = args.map.iter().map(|map| map.text.as_str()).collect();
    let zone = args.time_zone.iana_name().unwrap_or_default();
    let mut fresh = Journal {
        sha256: digest(file)?,
        queue: args.queue.clone(),
        daemon: daemon.to_owned(),
        options: format!("{:?} {maps:?} {:?} {zone} {:?} {}", args.format, args.delimiter, args.dates, args.atomic),
        ..Journal::default()
    };
    if args.again {
        fresh.again = Some(uuid::Uuid::now_v7().to_string());
        // What was noted of the run before tells of a file of refused rows that is about to go.
        if args.atomic {
            journal::remove(path)?;
        } else {
            journal::write(path, &fresh)?;
        }
        return Ok(fresh);
    }
    let before: Option<Journal> = journal::read(path)?;
    if args.resume {
        return match before {
            None => Ok(fresh),
            Some(before) if before.is_of(&fresh) => Ok(before),
            Some(before) => Err(Failed::new(
                Exit::Data,
                format!(
                    "the import that broke off was of another content of {}, into another queue or daemon ({}), or had other options ({}); \
                     with --again it begins anew",
                    file.display(),
                    before.daemon,
                    path.display()
                ),
            )),
        };
    }
    match before {
        None => Ok(fresh),
        Some(before) => Err(Failed::new(
            Exit::Failure,
            format!(
                "an import of {} broke off after {} rows ({}); --resume goes on, --again begins anew",
                file.display(),
                before.rows,
                path.display()
            ),
        )),
    }
}

/// Bytes of the file; nothing where nobody watches.
fn bar(file: &Path) -> ProgressBar {
    let bar = ProgressBar::new(std::fs::metadata(file).map_or(0, |data| data.len()));
    if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:30}] {percent}% {msg} {eta}") {
        bar.set_style(style);
    }
    bar.set_prefix(one_line(&file.display().to_string()));
    bar
}

fn hinted(failed: Failed, keeps: bool, rows: u64) -> Failed {
    if !keeps {
        return failed;
    }
    Failed::new(failed.exit, format!("{}\n  {rows} rows are done; --resume goes on behind them", failed.message))
}

/// What became of a chunk.
struct Sent<'c> {
    created: u64,
    same: u64,
    refused: Vec<(&'c Row, String, Vec<String>)>,
    /// What was not refused is in, unless it was only a check.
    kept: bool,
}

async fn send<'c>(args: &ImportArgs, client: &Client, chunk: &'c Chunk, key: &str) -> Result<Sent<'c>, Failed> {
    let mut sent = Sent { created: 0, same: 0, refused: Vec::new(), kept: true };
    let mut body = String::new();
    let mut rows = Vec::with_capacity(chunk.rows.len());
    for row in &chunk.rows {
        match &row.item {
            Ok(item) => {
                body.extend(on_one_line(item));
                body.push('\n');
                rows.push(row);
            }
            Err(faults) => sent.refused.push((row, "unreadable".to_owned(), faults.clone())),
        }
    }
    // One row that cannot be read spoils all; the others are checked all the same.
    let spoilt = args.atomic && !sent.refused.is_empty();
    let mut query: Vec<(&str, String)> = match (args.dry_run || spoilt, args.atomic) {
        (true, _) => vec![("dry_run", "true".to_owned())],
        (false, true) => vec![("atomic", "true".to_owned())],
        (false, false) => Vec::new(),
    };
    if !rows.is_empty() {
        let key = (!args.dry_run && !spoilt).then_some(key);
        query.push(("results", "refused".to_owned()));
        let (status, answer) = client.upload(&["queues", &args.queue, "items"], &query, key, body).await?;
        sent.kept = status.is_success() && !spoilt;
        if !status.is_success() && answer["type"] != "urn:warrend:problem:rows_refused" {
            let detail = answer["detail"].as_str().unwrap_or_default();
            return Err(Failed::new(Exit::Failure, format!("the daemon answered {status}: {}", one_line(detail))));
        }
        sent.created = answer["created"].as_u64().unwrap_or_default();
        sent.same = answer["same"].as_u64().unwrap_or_default();
        for result in answer["results"].as_array().into_iter().flatten() {
            let index = result["index"].as_u64().and_then(|index| usize::try_from(index).ok());
            let Some(row) = index.and_then(|index| rows.get(index)).filter(|_| result["status"] == "refused") else {
                continue;
            };
            let reasons =
                result["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
            sent.refused.push((row, result["code"].as_str().unwrap_or("refused").to_owned(), reasons.collect()));
        }
        sent.refused.sort_by_key(|(row, ..)| row.line);
    } else if args.atomic {
        sent.kept = false;
    }
    Ok(sent)
}

/// An element of an array may have lines; between tokens they mean nothing.
fn on_one_line(json: &str) -> impl Iterator<Item = char> {
    json.chars().map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Words {
        #[command(flatten)]
        args: ImportArgs,
    }

    #[test]
    fn what_broke_off_is_neither_lost_nor_taken_for_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let (file, path) = (folder.path().join("f"), folder.path().join("j"));
        std::fs::write(&file, "a\n1\n").unwrap();
        let begin = |daemon: &str, words: &[&str]| {
            let name = file.display().to_string();
            let words = [&["import", &name, "--queue", "q"], words].concat();
            begin(&Words::try_parse_from(words).unwrap().args, daemon, &file, &path)
        };
        let fresh = begin("http://a/", &[]).ok().unwrap();
        assert_ne!(begin("http://a/", &["--atomic"]).ok().unwrap().key(1), fresh.key(1));
        assert!(!path.exists());
        journal::write(&path, &Journal { chunks: 2, refused_bytes: 9, ..fresh.clone() }).ok().unwrap();
        for words in [&[][..], &["--dry-run"], &["--atomic"]] {
            let failed = begin("http://a/", words).err().unwrap();
            assert!(failed.message.contains("--resume goes on, --again begins anew"), "{}", failed.message);
        }
        for (daemon, words) in [("http://b/", &["--resume"][..]), ("http://a/", &["--resume", "--delimiter", ";"])] {
            assert_eq!(begin(daemon, words).err().unwrap().exit, Exit::Data);
        }
        assert_eq!(begin("http://a/", &["--resume"]).ok().unwrap().chunks, 2);
        // Begun anew, the run before is over, and this one can be gone on with from the start.
        let again = begin("http://a/", &["--again"]).ok().unwrap();
        assert_eq!(begin("http://a/", &["--resume"]).ok().unwrap(), again);
        assert_ne!(again.key(1), fresh.key(1));
        begin("http://a/", &["--again", "--atomic"]).ok().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_chunk_has_a_key_of_its_own_that_never_changes() {
        let journal = |sha256: &str, again: Option<&str>| Journal {
            sha256: sha256.to_owned(),
            queue: "q".to_owned(),
            again: again.map(str::to_owned),
            ..Journal::default()
        };
        let keys = [
            journal("a", None).key(1),
            journal("a", None).key(2),
            journal("b", None).key(1),
            journal("a", Some("x")).key(1),
        ];
        for (n, key) in keys.iter().enumerate() {
            assert!(key.starts_with("import-") && key.len() == 47, "{key}");
            assert!(!keys[..n].contains(key));
        }
        assert_eq!(Journal { chunks: 7, rows: 9, ..journal("a", None) }.key(1), keys[0]);
    }
}
