//! `warrend top`: queues, robots and what fails, drawn anew every few seconds until somebody types q. Where nobody looks on, it
//! is printed once.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::time::Duration;

use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::Daemon;
use super::client::Client;
use super::exit::Failed;
use super::output::{Column, print, table, text};
use super::{failures, robots};
use crate::units::parse_duration;

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Between two looks
    #[arg(long, default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// Print it once, also on a terminal
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    pub daemon: Daemon,
}

fn interval(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|time| (1..=3_600).contains(&time.as_secs()))
        .ok_or_else(|| "write a time from 1s to 1h".to_owned())
}

const QUEUES: [Column; 10] = [
    Column { title: "QUEUE", cell: |queue| text(&queue["key"]) },
    Column { title: "QUEUED", cell: |queue| text(&queue["counts"]["queued"]) },
    Column { title: "PROCESSING", cell: |queue| text(&queue["counts"]["processing"]) },
    Column { title: "PROCESSED", cell: |queue| text(&queue["counts"]["processed"]) },
    Column { title: "EXCEPTION", cell: |queue| text(&queue["counts"]["exception"]) },
    Column { title: "ON HOLD", cell: |queue| text(&queue["counts"]["on_hold"]) },
    Column { title: "READY", cell: |queue| text(&queue["ready"]) },
    Column { title: "UNACKED", cell: |queue| text(&queue["unacked"]) },
    Column { title: "ROBOTS", cell: |queue| text(&queue["consumers"]) },
    Column { title: "STANDS STILL", cell: stands_still },
];

fn stands_still(queue: &Value) -> String {
    let mut why = Vec::new();
    for what in ["dispatch", "intake"] {
        if queue["paused"][what] == true {
            why.push(format!("{what} paused"));
        }
    }
    if let Some(state) = queue["breaker"]["state"].as_str().filter(|state| *state != "closed") {
        why.push(format!("breaker {state}"));
    }
    if queue["retired"] == true {
        why.push("retired".to_owned());
    }
    why.join(", ")
}

/// Failures that deserve a look.
const TELLING: &str = "new,returning,rising";

async fn look(client: &Client) -> Result<String, Failed> {
    let queues = client.get(&["queues"], &[]).await?;
    let robots = client.get(&["robots"], &[("limit", "100".to_owned())]).await?;
    let asked = [("status", TELLING.to_owned()), ("sort", "count".to_owned()), ("limit", "10".to_owned())];
    let failures = client.get(&["failures"], &asked).await?;
    let list = |of: &Value| of["items"].as_array().cloned().unwrap_or_default();
    let mut text = table(&QUEUES, &list(&queues));
    text.push('\n');
    text.push_str(&table(&robots::COLUMNS, &list(&robots)));
    let failures = list(&failures);
    if !failures.is_empty() {
        text.push('\n');
        text.push_str(&table(&failures::COLUMNS, &failures));
    }
    Ok(text)
}

pub(super) async fn run(args: &TopArgs, client: &Client) -> Result<(), Failed> {
    let on_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if args.once || !on_terminal {
        return print(&look(client).await?);
    }
    // A daemon that is not there is said before the screen is taken.
    let mut shown = look(client).await?;
    let screen = Screen::take()?;
    let mut keys = keys();
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        screen.draw(&shown)?;
        let next = async {
            tokio::time::sleep(args.interval).await;
            match look(client).await {
                Ok(text) => text,
                // It may come back; what was seen last is older than it looks.
                Err(failed) => format!("{}\n", failed.message),
            }
        };
        // Also while a daemon that hangs is asked.
        shown = tokio::select! {
            () = told_to_quit(&mut keys, &mut interrupt) => return Ok(()),
            text = next => text,
        };
    }
}

/// Waits for somebody who wants no more.
async fn told_to_quit(keys: &mut mpsc::UnboundedReceiver<u8>, interrupt: &mut Signal) {
    loop {
        let key = tokio::select! {
            key = keys.recv() => key,
            _ = interrupt.recv() => None,
        };
        if matches!(key, None | Some(b'q' | b'Q' | 3)) {
            return;
        }
    }
}

/// What is typed. The thread ends with the process.
fn keys() -> mpsc::UnboundedReceiver<u8> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut key = [0];
        // Nothing was typed for a moment: no end of input.
        while std::io::stdin().read(&mut key).is_ok_and(|read| read == 0 || sender.send(key[0]).is_ok()) {}
    });
    receiver
}

/// The terminal, taken over until it is dropped.
struct Screen {
    before: Termios,
}

impl Screen {
    fn take() -> Result<Self, Failed> {
        let failed = |error: rustix::io::Errno| Failed::from(std::io::Error::from(error));
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut now = before.clone();
        now.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        // A read answers after 0.2 s, also with nothing.
        now.special_codes[SpecialCodeIndex::VMIN] = 0;
        now.special_codes[SpecialCodeIndex::VTIME] = 2;
        tcsetattr(std::io::stdin(), OptionalActions::Now, &now).map_err(failed)?;
        let screen = Self { before };
        // Another screen, without a cursor.
        write("\x1b[?1049h\x1b[?25l")?;
        Ok(screen)
    }

    fn draw(&self, text: &str) -> Result<(), Failed> {
        let _ = &self.before;
        let (rows, columns) = tcgetwinsize(std::io::stdout()).map_or((24, 80), |size| (size.ws_row, size.ws_col));
        write(&frame(text, usize::from(rows), usize::from(columns)))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write("\x1b[?25h\x1b[?1049l");
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

fn write(text: &str) -> Result<(), Failed> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// What draws a text over a screen of this size: each line is cut, and what is left of the one before is wiped away.
fn frame(text: &str, rows: usize, columns: usize) -> String {
    let mut frame = String::from("\x1b[H");
    let lines: Vec<&str> = text.lines().collect();
    for line in lines.iter().take(rows.saturating_sub(1)) {
        frame.extend(line.chars().take(columns));
        frame.push_str("\x1b[K\r\n");
    }
    let more = lines.len().saturating_sub(rows.saturating_sub(1));
    let foot = if more > 0 { format!("{more} more lines; q quits") } else { "q quits".to_owned() };
    frame.extend(foot.chars().take(columns));
    frame.push_str("\x1b[K\x1b[J");
    frame
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_frame_fits_the_screen() {
        assert_eq!(frame("abcdef\ng\n", 5, 4), "\x1b[Habcd\x1b[K\r\ng\x1b[K\r\nq qu\x1b[K\x1b[J");
        assert_eq!(frame("a\nb\nc\n", 2, 40), "\x1b[Ha\x1b[K\r\n2 more lines; q quits\x1b[K\x1b[J");
        assert!(frame("a", 0, 0).starts_with("\x1b[H"));
    }

    #[test]
    fn what_stands_still_is_said() {
        let queue =
            json!({"paused": {"dispatch": true, "intake": false}, "breaker": {"state": "open"}, "retired": true});
        assert_eq!(stands_still(&queue), "dispatch paused, breaker open, retired");
        assert_eq!(stands_still(&json!({"breaker": {"state": "closed"}})), "");
    }

    #[test]
    fn times_between_looks_are_bounded() {
        assert_eq!(interval("2s"), Ok(Duration::from_secs(2)));
        for text in ["", "0s", "500ms", "2h", "soon"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }
}
