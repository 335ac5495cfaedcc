//! `warrend bench`: what do the lanes cost?

use std::io::{IsTerminal as _, Write as _};

use clap::Args;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{Exit, Failed};
use super::output::{Column, Output, csv, json as pretty, print, table, text};
use crate::bench::doors::{CLIENTS, ROWS};
use crate::bench::plan::{Plan, SMALLEST};
use crate::bench::{Bench, BenchError, Outcome};
use crate::settings::Settings;
use crate::units;

/// Ends the help text.
pub(super) const WAYS: &str = "The ways of an item, each with the same publisher and the same two robots:
  raw        one queue
  shovel     two queues, RabbitMQ's shovel between them; left out where its plugin is not enabled
  forwarder  two queues, between them a bare client that publishes with confirm, then acks
  fan-out    a topic exchange, behind it a queue and a stream: the direct lane without warrend
  direct     the direct lane
  managed    the managed lane
Both lanes are measured with reports too: every item is reported processed, until the mirror knows all of them.
Then both doors: items let in, and items taken and reported one by one, over AMQP and over HTTP.

Examples:
  warrend bench
  warrend bench --items 50000 --rounds 5 --size 4KiB --output json >bench.json

Exit codes:
   0  done
   1  it failed, or was interrupted
  64  the command was not understood
  69  the broker cannot be reached
  78  bad settings";

/// Larger items are refused at the door of the managed lane.
const LARGEST: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Items that take each way in each round
    #[arg(long, default_value_t = 8000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    items: u32,
    /// Rounds, each of which measures every way once; medians are shown
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Size of an item, from 20B to 1MiB
    #[arg(long, default_value = "1KiB", value_parser = size)]
    size: usize,
    /// Items per second while latency is measured
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// How long latency is measured for each way, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// How to show the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

fn size(text: &str) -> Result<usize, String> {
    let smallest = u64::try_from(SMALLEST).unwrap_or(u64::MAX);
    units::parse_bytes(text)
        .filter(|bytes| (smallest..=LARGEST).contains(bytes))
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| format!("write a size from {SMALLEST}B to {}, like 1KiB", units::format_bytes(LARGEST)))
}

pub(super) fn run(args: &BenchArgs, settings: &Settings) -> Result<(), Failed> {
    let cannot_start = |error: std::io::Error| Failed::new(Exit::Failure, format!("cannot start: {error}"));
    let executable = std::env::current_exe().map_err(cannot_start)?;
    let plan = Plan { items: args.items, rounds: args.rounds, size: args.size, rate: args.rate, seconds: args.seconds };
    let bench = Bench { broker: &settings.broker, executable, progress: &progress };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(cannot_start)?;
    let outcome = runtime.block_on(async { Ok(bench.run(&plan, interrupted()?).await) }).map_err(cannot_start)?;
    show(outcome, args.output)
}

/// Comes with the first SIGINT or SIGTERM.
fn interrupted() -> std::io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// A line for whoever watches; in a log it would only be in the way.
fn progress(what: &str) {
    let mut err = std::io::stderr();
    if err.is_terminal() {
        let _ = writeln!(err, "{what}");
    }
}

fn show(outcome: Outcome, output: Output) -> Result<(), Failed> {
    let left = match outcome.left.as_slice() {
        [] => None,
        names => Some(format!("these virtual hosts could not be deleted, delete them by hand: {}", names.join(", "))),
    };
    match (outcome.report, left) {
        (Ok(report), left) => {
            let report = serde_json::to_value(report)
                .map_err(|error| Failed::new(Exit::Failure, format!("cannot write the report: {error}")))?;
            print(&shown(&report, output))?;
            left.map_or(Ok(()), |left| Err(Failed::new(Exit::Failure, left)))
        }
        (Err(error), None) => Err(Failed::new(code(&error), error.to_string())),
        (Err(error), Some(left)) => Err(Failed::new(code(&error), format!("{error}\n{left}"))),
    }
}

const fn code(error: &BenchError) -> Exit {
    match error {
        BenchError::Settings(_) => Exit::Settings,
        BenchError::Unreachable(_) => Exit::Unreachable,
        BenchError::Refused { .. } | BenchError::Amqp { .. } | BenchError::Failed(_) | BenchError::Interrupted => {
            Exit::Failure
        }
    }
}

const THROUGHPUT: [Column; 10] = [
    Column { title: "WAY", cell: |line| text(&line["way"]) },
    Column { title: "ITEMS/S", cell: |line| number(&line["items_per_second"]) },
    Column { title: "TO RAW", cell: |line| hundredths(&line["to_raw"]) },
    Column { title: "TO FAN-OUT", cell: |line| hundredths(&line["to_fan_out"]) },
    Column { title: "TO SHOVEL", cell: |line| hundredths(&line["to_shovel"]) },
    Column { title: "TO FORWARDER", cell: |line| hundredths(&line["to_forwarder"]) },
    Column { title: "DAEMON CPU", cell: |line| hundredths(&line["daemon_cpu"]) },
    Column { title: "BROKER CPU", cell: |line| hundredths(&line["broker_cpu"]) },
    Column { title: "DAEMON MEM", cell: |line| mebibytes(&line["daemon_memory"]) },
    Column { title: "BROKER MEM", cell: |line| mebibytes(&line["broker_memory"]) },
];

const LATENCY: [Column; 6] = [
    Column { title: "WAY", cell: |line| text(&line["way"]) },
    Column { title: "P50", cell: |line| number(&line["latency"]["p50_ms"]) },
    Column { title: "P95", cell: |line| number(&line["latency"]["p95_ms"]) },
    Column { title: "P99", cell: |line| number(&line["latency"]["p99_ms"]) },
    Column { title: "MAX", cell: |line| number(&line["latency"]["max_ms"]) },
    Column { title: "PUBLISHER BEHIND", cell: |line| number(&line["latency"]["publisher_behind_ms"]) },
];

const DOORS: [Column; 8] = [
    Column { title: "DEED", cell: |line| text(&line["deed"]) },
    Column { title: "DOOR", cell: |line| text(&line["door"]) },
    Column { title: "ITEMS/S", cell: |line| number(&line["items_per_second"]) },
    Column { title: "TO AMQP", cell: |line| hundredths(&line["to_amqp"]) },
    Column { title: "CALL P50", cell: |line| number(&line["call_p50_ms"]) },
    Column { title: "CALL P99", cell: |line| number(&line["call_p99_ms"]) },
    Column { title: "REPORT P50", cell: |line| number(&line["report_p50_ms"]) },
    Column { title: "REPORT P99", cell: |line| number(&line["report_p99_ms"]) },
];

const FIELDS: [&str; 18] = [
    "way",
    "unavailable",
    "items_per_second",
    "to_raw",
    "to_fan_out",
    "to_shovel",
    "to_forwarder",
    "daemon_cpu",
    "broker_cpu",
    "client_cpu",
    "daemon_memory",
    "broker_memory",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "max_ms",
    "publisher_behind_ms",
    "rounds",
];

/// A line without a second level, but for its rounds.
fn flat(line: &Value) -> Value {
    let (mut line, latency) = (line.clone(), line["latency"].clone());
    if let (Some(line), Value::Object(latency)) = (line.as_object_mut(), latency) {
        line.extend(latency);
    }
    line
}

/// Without the `.0` of whole numbers.
fn number(value: &Value) -> String {
    value.as_f64().map_or_else(String::new, |number| number.to_string())
}

fn hundredths(value: &Value) -> String {
    value.as_f64().map_or_else(String::new, |number| format!("{number:.2}"))
}

fn mebibytes(bytes: &Value) -> String {
    bytes.as_u64().map_or_else(String::new, |bytes| (bytes >> 20).to_string())
}

fn shown(report: &Value, output: Output) -> String {
    let lines = report["ways"].as_array().map(Vec::as_slice).unwrap_or_default();
    match output {
        Output::Json => pretty(report),
        Output::Csv => csv(&FIELDS, &lines.iter().map(flat).collect::<Vec<_>>()),
        Output::Table => tables(report, lines),
    }
}

fn tables(report: &Value, lines: &[Value]) -> String {
    let (broker, plan) = (&report["broker"], &report["plan"]);
    let (measured, missing): (Vec<&Value>, Vec<&Value>) = lines.iter().partition(|line| line["unavailable"].is_null());
    let measured: Vec<Value> = measured.into_iter().cloned().collect();
    let timed: Vec<Value> = measured.iter().filter(|line| !line["latency"].is_null()).cloned().collect();
    let bytes = units::format_bytes(plan["size"].as_u64().unwrap_or_default());
    let mut shown = format!(
        "warrend {}, RabbitMQ {} ({} queues), {} cores; {bytes} items, persistent, with confirms\n\n\
         Throughput: medians of {} of {} items. CPU: seconds per 1,000 items. Memory: MiB at the peak.\n{}",
        text(&report["warrend"]),
        text(&broker["version"]),
        text(&broker["queue_type"]),
        text(&report["machine"]["cores"]),
        if plan["rounds"] == 1 { "1 round".to_owned() } else { format!("{} rounds", text(&plan["rounds"])) },
        text(&plan["items"]),
        table(&THROUGHPUT, &measured),
    );
    for line in missing {
        shown.push_str(&format!("{}: left out, {}\n", text(&line["way"]), text(&line["unavailable"])));
    }
    shown.push_str(&format!(
        "\nLatency: milliseconds from publish to delivery, at {} items/s for {} s.\n{}",
        text(&plan["rate"]),
        text(&plan["seconds"]),
        table(&LATENCY, &timed),
    ));
    let doors = report["doors"].as_array().map(Vec::as_slice).unwrap_or_default();
    shown.push_str(&format!(
        "\nDoors: items let in ({ROWS} rows a request over HTTP), and worked one by one by {CLIENTS} robots; milliseconds per call.\n{}",
        table(&DOORS, doors),
    ));
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> Value {
        json!({
            "warrend": "0.0.1",
            "broker": {"version": "4.3.6", "node": "a@b", "queue_type": "quorum", "on_this_machine": true},
            "machine": {"cores": 2},
            "plan": {"items": 8000, "rounds": 3, "size": 1024, "rate": 500, "seconds": 10},
            "doors": [{"deed": "work", "door": "http", "items_per_second": 900.0, "to_amqp": 0.5, "call_p50_ms": 8.0, "call_p99_ms": 20.0,
                "report_p50_ms": 3.0, "report_p99_ms": 9.5}],
            "ways": [
                {"way": "raw", "unavailable": null, "items_per_second": 7000.0, "to_raw": 1.0, "broker_cpu": 0.21,
                 "broker_memory": 220_200_960, "latency": {"p50_ms": 1.2, "p95_ms": 2.0, "p99_ms": 3.0, "max_ms": 9.0, "publisher_behind_ms": 0.5}},
                {"way": "shovel", "unavailable": "no plugin", "latency": null},
                {"way": "managed, with reports", "unavailable": null, "items_per_second": 1900.0, "to_raw": 0.27,
                 "to_forwarder": 0.6, "daemon_cpu": 0.4, "daemon_memory": 41_943_040, "latency": null},
            ],
        })
    }

    #[test]
    fn tables_say_what_was_measured_on_what() {
        let shown = shown(&report(), Output::Table);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let line = |start: &str| shown.lines().find(|line| line.starts_with(start)).map(words).unwrap_or_default();
        assert!(shown.starts_with("warrend 0.0.1, RabbitMQ 4.3.6 (quorum queues), 2 cores; 1KiB items"), "{shown}");
        assert_eq!(line("raw  "), ["raw", "7000", "1.00", "0.21", "210"]);
        assert_eq!(line("managed"), ["managed,", "with", "reports", "1900", "0.27", "0.60", "0.40", "40"]);
        assert!(shown.contains("\nshovel: left out, no plugin\n"), "{shown}");
        let latency: Vec<&str> = shown.lines().skip_while(|line| !line.starts_with("Latency")).collect();
        assert_eq!(latency[3], "", "{shown}");
        assert_eq!(words(latency[2]), ["raw", "1.2", "2", "3", "9", "0.5"]);
        assert_eq!(line("work"), ["work", "http", "900", "0.50", "8", "20", "3", "9.5"]);
        assert!(shown.lines().all(|line| line.chars().count() <= 130), "{shown}");
    }

    #[test]
    fn spreadsheets_get_every_line() {
        let shown = shown(&report(), Output::Csv);
        assert_eq!(shown.matches("\r\n").count(), 4, "{shown}");
        assert!(shown.starts_with("way,unavailable,items_per_second,to_raw,"), "{shown}");
        assert!(shown.contains("\r\nraw,,7000.0,1.0,,,,,0.21,,,220200960,1.2,2.0,3.0,9.0,0.5,"), "{shown}");
    }

    #[test]
    fn sizes_have_their_bounds() {
        for (given, expected) in [("1KiB", Some(1024)), ("20B", Some(20)), ("1MiB", Some(1 << 20))] {
            assert_eq!(size(given).ok(), expected);
        }
        for given in ["19B", "2MiB", "1024", "much"] {
            assert_eq!(size(given), Err("write a size from 20B to 1MiB, like 1KiB".to_owned()));
        }
    }
}
