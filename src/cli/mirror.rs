//! `warrend mirror`: on the daemon's machine, while the daemon does not run.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::exit::{Exit, Failed};
use super::output::{self, Column, print, table, text};
use super::{settings, wait_for};
use crate::broker::BrokerError;
use crate::daemon;
use crate::mirror::MirrorError;

/// Ends the help text.
pub(super) const STEPS: &str = "What to do when the mirror was lost:
  1. stop the daemon, and the robots: what they hold goes back to their queues, and is learnt
  2. warrend mirror rebuild
  3. start the daemon, then the robots

Exit codes:
   0  done
   1  it failed, for example because the daemon runs; what was learnt stays, and it may be run again
  64  the command was not understood
  69  the broker cannot be reached
  78  bad settings";

#[derive(Debug, Args)]
pub(super) struct MirrorArgs {
    #[command(subcommand)]
    command: MirrorCommand,
}

#[derive(Debug, Subcommand)]
enum MirrorCommand {
    /// Learn what is in the robots' queues, after the mirror was lost or an old copy was restored
    ///
    /// Takes every ready message out of the robots' queues of the definitions, keeps its item, and takes the queues over for
    /// this mirror. The daemon then sends all of it out again, the same attempts under the same ids, and reads the direct
    /// lane's copies from the first that the tap still has. What only the lost mirror had, it lists as far as anybody knows.
    #[command(after_help = STEPS)]
    Rebuild {
        /// How to show what was learnt, and what is gone
        #[arg(long, value_enum, default_value = "table")]
        output: Form,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For reading
    Table,
    /// `{taken_over, before, queues}`
    Json,
}

const LEARNT: [Column; 4] = [
    Column { title: "QUEUE", cell: |queue| text(&queue["queue"]) },
    Column { title: "LEARNT", cell: |queue| text(&queue["items"]) },
    Column { title: "KNOWN", cell: |queue| text(&queue["known"]) },
    Column { title: "WITH ROBOTS", cell: |queue| text(&queue["held"]) },
];

const GONE: [Column; 9] = [
    Column { title: "QUEUE", cell: |queue| text(&queue["queue"]) },
    Column { title: "WAITING", cell: |queue| text(&queue["waiting"]) },
    Column { title: "OLDEST", cell: |queue| text(&queue["oldest"]) },
    Column { title: "NEWEST", cell: |queue| text(&queue["newest"]) },
    Column { title: "OUT", cell: |queue| text(&queue["out"]) },
    Column { title: "ON HOLD", cell: |queue| text(&queue["on_hold"]) },
    Column { title: "EXCEPTIONS", cell: |queue| text(&queue["exception"]) },
    Column { title: "PROCESSED", cell: |queue| text(&queue["processed"]) },
    Column { title: "CANCELLED", cell: |queue| text(&queue["cancelled"]) },
];

pub(super) fn run(args: &MirrorArgs, config: Option<PathBuf>) -> Result<(), Failed> {
    let MirrorCommand::Rebuild { output } = &args.command;
    let settings = settings(config)?;
    wait_for(async {
        let rebuilt = daemon::rebuild(&settings).await.map_err(|error| failed(&error))?;
        let shown = json(&rebuilt);
        print(&match output {
            Form::Json => output::json(&shown),
            Form::Table => for_reading(&shown),
        })
    })
}

fn failed(error: &anyhow::Error) -> Failed {
    let cure = match error.downcast_ref::<MirrorError>() {
        Some(MirrorError::InUse { .. }) => " (stop the daemon first)",
        _ => "",
    };
    let exit = if error.is::<BrokerError>() { Exit::Unreachable } else { Exit::Failure };
    Failed::new(exit, format!("{error:#}{cure}"))
}

fn json(rebuilt: &daemon::Rebuilt) -> Value {
    let queues: Vec<Value> = (rebuilt.queues.iter())
        .map(|(key, learnt)| json!({"queue": key, "items": learnt.items, "known": learnt.known, "held": learnt.held}))
        .collect();
    json!({"taken_over": rebuilt.taken_over, "before": rebuilt.before, "queues": queues})
}

fn for_reading(shown: &Value) -> String {
    let mut out = table(&LEARNT, shown["queues"].as_array().map(Vec::as_slice).unwrap_or_default());
    let before = &shown["before"];
    let (whose, at) = match shown["taken_over"].as_bool() {
        Some(true) => ("another mirror, which is taken to be lost", &before["at"]),
        _ => ("this mirror", &before["at"]),
    };
    if before.is_null() {
        out.push_str("\nNobody left a note in wq.meta: what only the lost mirror had cannot be said.\n");
        return out;
    }
    let Some(at) = at.as_str() else {
        out.push_str(&format!("\nThe queues were those of {whose}. It left no numbers of what it had.\n"));
        return out;
    };
    out.push_str(&format!("\nThe queues were those of {whose}. At {at} it had:\n\n"));
    let had: Vec<Value> = before["queues"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, holdings)| {
            let mut holdings = holdings.clone();
            holdings["queue"] = json!(key);
            holdings
        })
        .collect();
    out.push_str(&table(&GONE, &had));
    if shown["taken_over"] == true {
        out.push_str(
            "\nAll but what was out is gone with it, and what came through the door since then; nobody else had it. Of what \
             was out\nthat is not learnt, and not with robots, nobody knows what became of it.\n",
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_is_gone_and_since_when() {
        let queues = json!([{"queue": "a", "items": 3, "known": 0, "held": 1}]);
        let had = json!({"a": {"waiting": 70, "out": 4, "oldest": "2030-01-01T00:00:00Z", "exception": 9}});
        let before = json!({"mirror": "m", "sequence": 5, "at": "2030-01-02T00:00:00Z", "queues": had});
        let text = for_reading(&json!({"taken_over": true, "before": before, "queues": queues}));
        for expected in ["another mirror", "At 2030-01-02T00:00:00Z", "70", "2030-01-01T00:00:00Z", "gone with it"] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        let old = for_reading(&json!({"taken_over": true, "before": {"mirror": "m", "sequence": 0}, "queues": queues}));
        assert!(old.contains("no numbers"), "{old}");
        let nobody = for_reading(&json!({"taken_over": false, "before": null, "queues": queues}));
        assert!(nobody.contains("cannot be said"), "{nobody}");
    }
}
