//! One action on many items, from the command line: previewed, asked back, begun as a job of the daemon, and followed.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::client::Client;
use super::exit::{Exit, Failed};
use super::items::label;
use super::output::{self, Column, Output, one_line, print, table, text};
use super::who;
use crate::item::{Kind, State};

const HEADING: &str = "Many items at once";

/// Which items, where there is not one, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = HEADING)]
pub(super) struct Many {
    /// These items; separate them by commas
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    ids: Vec<String>,
    /// Items of this queue
    #[arg(long, value_name = "KEY", conflicts_with = "ids")]
    queue: Option<String>,
    /// In this state; separate several by commas
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(State::WORDS), conflicts_with = "ids")]
    state: Vec<String>,
    /// Exceptions of this kind; separate several by commas
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(Kind::ALL.iter().map(|kind| kind.word())), conflicts_with = "ids")]
    kind: Vec<String>,
    /// With exactly this producer's reference
    #[arg(long, conflicts_with = "ids")]
    reference: Option<String>,
    /// With this label; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = label, conflicts_with = "ids")]
    label: Vec<(String, String)>,
    /// Due before this time (RFC 3339)
    #[arg(long, value_name = "TIME", conflicts_with = "ids")]
    due: Option<String>,
    /// Enqueued or changed since this time (RFC 3339)
    #[arg(long, value_name = "TIME", conflicts_with = "ids")]
    since: Option<String>,
    /// With this text in the reference, name, reason or code
    #[arg(long, value_name = "TEXT", conflicts_with = "ids")]
    q: Option<String>,
    /// That failed alike
    #[arg(long, conflicts_with = "ids")]
    fingerprint: Option<String>,
    /// Every item there is
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Show what would become of the items, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// At most so many items in a time, like 50/s
    #[arg(long, value_name = "ITEMS/TIME")]
    rate: Option<String>,
    /// Step by step, each once the one before looks good; the sizes of the steps, like 1,2,5,20 [requeue, release, restore]
    #[arg(long, value_name = "SIZES", value_delimiter = ',', num_args = 0..=1, default_missing_value = "0")]
    ramp: Vec<u32>,
    /// Do not ask back
    #[arg(long)]
    yes: bool,
}

/// A change of payloads, as files have it.
#[derive(Debug, Args)]
pub(super) struct Patches {
    /// A JSON Patch (RFC 6902) of what each item carries, from this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["payload", "merge_patch"])]
    pub patch: Option<PathBuf>,
    /// A JSON Merge Patch (RFC 7396) of it, from this file
    #[arg(long, value_name = "FILE", conflicts_with = "payload")]
    pub merge_patch: Option<PathBuf>,
}

impl Patches {
    /// The member's name and what it says.
    pub(super) fn read(&self) -> Result<Option<(&'static str, Box<RawValue>)>, Failed> {
        let (name, path) = match (&self.patch, &self.merge_patch) {
            (Some(path), _) => ("patch", path),
            (None, Some(path)) => ("merge_patch", path),
            (None, None) => return Ok(None),
        };
        let wrong = |error: String| Failed::new(Exit::Data, format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let json = serde_json::from_str(&text).map_err(|error| wrong(format!("this is no JSON: {error}")))?;
        Ok(Some((name, json)))
    }
}

impl Many {
    fn filter(&self) -> Map<String, Value> {
        let mut filter = Map::new();
        let texts = [
            ("queue", &self.queue),
            ("reference", &self.reference),
            ("due", &self.due),
            ("since", &self.since),
            ("q", &self.q),
            ("fingerprint", &self.fingerprint),
        ];
        filter.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text.as_deref()?.into()))));
        for (name, words) in [("state", &self.state), ("kind", &self.kind)] {
            if !words.is_empty() {
                filter.insert(name.to_owned(), json!(words));
            }
        }
        if !self.label.is_empty() {
            let labels: Map<String, Value> =
                self.label.iter().cloned().map(|(name, value)| (name, value.into())).collect();
            filter.insert("label".to_owned(), labels.into());
        }
        filter
    }

    /// Something says which items beside the one that the command names.
    pub(super) fn names_items(&self) -> bool {
        !self.ids.is_empty() || self.all || !self.filter().is_empty()
    }

    /// It takes a job, be it for one item.
    pub(super) fn is_asked_for(&self) -> bool {
        self.names_items() || self.dry_run || self.rate.is_some() || !self.ramp.is_empty()
    }

    /// Adds what is said here to a request for `id`, or for what is named here.
    fn request(&self, id: Option<&str>, mut body: Map<String, Value>) -> Result<Map<String, Value>, Failed> {
        let filter = self.filter();
        match (id, self.names_items()) {
            (Some(_), true) => {
                return Err(Failed::new(
                    Exit::Usage,
                    "an item's id stands beside a filter or --ids; one of them is enough",
                ));
            }
            (None, false) => {
                return Err(Failed::new(Exit::Usage, "which items? give an id, --ids, or a filter like --queue"));
            }
            (Some(id), false) => drop(body.insert("ids".to_owned(), json!([id]))),
            (None, true) if !self.ids.is_empty() => drop(body.insert("ids".to_owned(), json!(self.ids))),
            (None, true) => drop(body.insert("filter".to_owned(), filter.into())),
        }
        if self.all {
            body.insert("all".to_owned(), true.into());
        }
        if let Some(rate) = &self.rate {
            body.insert("rate".to_owned(), rate.as_str().into());
        }
        match self.ramp.as_slice() {
            [] => {}
            [0] => drop(body.insert("ramp".to_owned(), true.into())),
            steps => drop(body.insert("ramp".to_owned(), json!(steps))),
        }
        Ok(body)
    }

    /// Has it done, or shows what would be. `raw`: members that are JSON as it was written.
    pub(super) async fn run(
        &self,
        action: &str,
        id: Option<&str>,
        body: Map<String, Value>,
        raw: &[(&str, &RawValue)],
        output: Output,
        client: &Client,
    ) -> Result<(), Failed> {
        let mut body = self.request(id, body)?;
        body.insert("action".to_owned(), action.into());
        let by_filter = id.is_none() && self.ids.is_empty();
        let asks = by_filter && !self.yes && !self.dry_run;
        if asks && !std::io::stdin().is_terminal() {
            let text = "there is nobody to ask back; say --yes, or --dry-run to see what would become of which items";
            return Err(Failed::new(Exit::Usage, text));
        }
        body.insert("dry_run".to_owned(), (self.dry_run || asks).into());
        let mut request = Value::Object(body).to_string();
        for (name, json) in raw {
            // An object that is not empty: it says what is asked.
            request = format!("{{\"{name}\":{},{}", json.get(), request.trim_start_matches('{'));
        }
        let (_, job) = client.post(&["items", "actions"], request).await?;
        let job = follow(client, &job).await?;
        if !asks {
            return finish(&job, output, client).await;
        }
        print(&preview(&job))?;
        let by = json!({ "by": who() }).to_string();
        if !agreed()? {
            client.post(&["items", "actions", &text(&job["id"]), "cancel"], by).await?;
            return Err(Failed::new(Exit::Failure, "nothing was done"));
        }
        let (_, job) = client.post(&["items", "actions", &text(&job["id"]), "run"], by).await?;
        finish(&follow(client, &job).await?, output, client).await
    }
}

fn agreed() -> Result<bool, Failed> {
    let mut error = std::io::stderr();
    let _ = write!(error, "Do it? [y/N] ");
    let _ = error.flush();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// How often a job is looked at, and how often what it does is said where there is no terminal.
const LOOK: Duration = Duration::from_millis(300);
const LOOKS_PER_LINE: u32 = 10;

/// Follows a job until it does nothing more by itself, and answers it then.
pub(super) async fn follow(client: &Client, job: &Value) -> Result<Value, Failed> {
    let id = text(&job["id"]);
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {elapsed}");
        ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    });
    let mut said = String::new();
    for look in 0_u32.. {
        let job = client.get(&["items", "actions", &id], &[]).await?;
        let state = text(&job["state"]);
        let counts = if matches!(state.as_str(), "previewing" | "previewed") {
            &job["preview"]["would"]
        } else {
            &job["counts"]
        };
        let number = |name: &str| counts[name].as_u64().unwrap_or_default();
        let total = job["counts"]["total"].as_u64().unwrap_or_default();
        let acted = match state.as_str() {
            "previewing" | "previewed" => number("total"),
            "collecting" => 0,
            _ => total - number("left").min(total),
        };
        if let Some(bar) = &bar {
            bar.set_length(total);
            bar.set_position(acted);
            bar.set_message(match job["ramp"]["waiting_since"].is_string() {
                true => format!("{state}, step {} is waited for", job["ramp"]["step"]),
                false => state.clone(),
            });
        }
        let over = matches!(state.as_str(), "done" | "previewed" | "stopped" | "cancelled");
        if bar.is_none() && (over || look % LOOKS_PER_LINE == LOOKS_PER_LINE - 1) {
            let line = format!("action {id}: {state}, {acted} of {total}");
            if line != said {
                let _ = writeln!(std::io::stderr(), "{line}");
                said = line;
            }
        }
        if over {
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
            return Ok(job);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(job.clone())
}

/// Says how a job ended, and of items that were left alone why.
pub(super) async fn finish(job: &Value, output: Output, client: &Client) -> Result<(), Failed> {
    if output != Output::Table {
        print(&output::json(job))?;
    } else if job["state"] == "previewed" {
        print(&preview(job))?;
    } else {
        let counts = job["counts"].as_object().into_iter().flatten();
        let told: Vec<String> = counts
            .filter(|(name, count)| *name != "total" && count.as_u64() > Some(0))
            .map(|(name, count)| format!("{count} {}", name.replace('_', " ")))
            .collect();
        let (id, state) = (text(&job["id"]), text(&job["state"]));
        print(&format!("action {id} is {state}: {} of {} items\n", told.join(", "), job["counts"]["total"]))?;
    }
    let id = text(&job["id"]);
    if job["state"] == "stopped" {
        let why = one_line(&text(&job["stopped"]["reason"]));
        return Err(Failed::new(
            Exit::Failure,
            format!("it stopped: {why}\n  warrend actions resume {id} goes on, warrend actions cancel {id} ends it"),
        ));
    }
    let count = |name: &str| job["counts"][name].as_u64().unwrap_or_default();
    let not_done = count("refused") + count("invalid") + count("not_found");
    if job["state"] == "previewed" || not_done == 0 {
        return Ok(());
    }
    let mut shown = Vec::new();
    for outcome in ["refused", "invalid", "not_found"] {
        let query = [("outcome", outcome.to_owned()), ("limit", "3".to_owned())];
        let page = client.get(&["items", "actions", &id, "results"], &query).await?;
        shown.extend(page["items"].as_array().cloned().unwrap_or_default());
    }
    let _ = write!(std::io::stderr(), "{}", table(&RESULTS, &shown));
    Err(Failed::new(
        Exit::Failure,
        format!("{not_done} items were left alone; warrend actions results {id} says why of each"),
    ))
}

/// What became of items.
pub(super) const RESULTS: [Column; 4] = [
    Column { title: "ITEM", cell: |result| text(&result["item"]) },
    Column {
        title: "OUTCOME",
        cell: |result| {
            if result["outcome"].is_null() {
                format!("would be {}", text(&result["would"]))
            } else {
                text(&result["outcome"])
            }
        },
    },
    Column { title: "CODE", cell: |result| text(&result["code"]) },
    Column { title: "REASON", cell: |result| text(&result["reason"]) },
];

const SAMPLES: [Column; 5] = [
    Column { title: "ITEM", cell: |sample| text(&sample["item"]) },
    Column { title: "REFERENCE", cell: |sample| text(&sample["reference"]) },
    Column { title: "STATE", cell: |sample| text(&sample["state"]) },
    Column { title: "WOULD BE", cell: |sample| text(&sample["would"]) },
    Column { title: "DIFFERENCE, OR WHY NOT", cell: difference },
];

fn difference(sample: &Value) -> String {
    let list = |name: &str| sample[name].as_array().cloned().unwrap_or_default();
    let reasons: Vec<String> = list("reasons").iter().map(text).collect();
    if !reasons.is_empty() {
        return reasons.join("; ");
    }
    let side = |value: &Value| if value.is_null() { "nothing".to_owned() } else { text(value) };
    let differences = list("diff");
    let told = differences
        .iter()
        .map(|at| format!("{}: {} -> {}", text(&at["path"]), side(&at["before"]), side(&at["after"])));
    told.collect::<Vec<_>>().join(", ")
}

/// A dry run as people read it.
fn preview(job: &Value) -> String {
    let preview = &job["preview"];
    let would = preview["would"].as_object().into_iter().flatten();
    let mut lines = format!("action {}: {} items, nothing changed yet\n", text(&job["id"]), job["counts"]["total"]);
    for (name, count) in would.filter(|(name, count)| *name != "total" && count.as_u64() > Some(0)) {
        lines.push_str(&format!("  {count} would be {}\n", name.replace('_', " ")));
    }
    for (queue, states) in preview["queues"].as_object().into_iter().flatten() {
        let states = states.as_object().into_iter().flatten().map(|(state, count)| format!("{count} {state}"));
        lines.push_str(&format!("  {queue}: {}\n", states.collect::<Vec<_>>().join(", ")));
    }
    for reason in preview["reasons"].as_array().into_iter().flatten() {
        let example = one_line(&text(&reason["example"]));
        lines.push_str(&format!("  {} {}: {example}\n", reason["count"], text(&reason["code"])));
    }
    let samples = preview["samples"].as_array().map(Vec::as_slice).unwrap_or_default();
    if samples.is_empty() { lines } else { format!("{lines}\n{}", table(&SAMPLES, samples)) }
}
