//! The command line: what can be asked for, and how it ends.
//!
//! Commands about items are clients of the HTTP API, so that there is one authority over items; `check` and `schema`
//! work on files alone; `plan`, `access` and `bench` speak with the broker. Results go to standard output, everything else to
//! standard error. A reader who stops reading (`| head`) ends the command quietly.

mod access;
mod actions;
mod apply;
mod bench;
mod check;
mod client;
mod enqueue;
mod events;
mod exit;
mod export;
mod failures;
mod import;
mod items;
mod journal;
mod many;
mod mirror;
mod orders;
mod output;
mod parked;
mod particulars;
mod plan;
mod queues;
mod robots;
mod secret;
mod serve;
mod tokens;
mod top;
mod webhooks;
mod why;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::settings::Settings;
use client::{Client, Shown};
pub use exit::Exit;
use exit::Failed;
use output::print;

/// The exit codes, as every help text ends.
const EXIT_CODES: &str = "Exit codes:
   0  done
   1  it failed, or the daemon said no
  64  the command was not understood
  65  bad definitions or data
  69  the daemon cannot be reached
  78  bad settings";

/// Work queues for robots, people and integrations on RabbitMQ.
#[derive(Debug, Parser)]
#[command(name = "warrend", version, after_help = EXIT_CODES, arg_required_else_help = true, subcommand_required = true)]
struct Cli {
    /// Settings file [default: config/warrend.yaml, where it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    ///
    /// Connects to RabbitMQ, opens the mirror, declares what the definitions need and works until it gets SIGTERM or
    /// Ctrl-C. Everything it needs to know stands in the settings file; each setting can be overridden by an environment
    /// variable, like WARREND__BROKER__AMQP_URL for broker.amqp_url.
    #[command(after_help = EXIT_CODES, verbatim_doc_comment)]
    Serve,
    /// Check queue definitions, without a daemon or a broker
    ///
    /// Reports every mistake in every file at once.
    #[command(after_help = EXIT_CODES)]
    Check(check::CheckArgs),
    /// Show what is to be done so that the broker is as the definitions say
    ///
    /// Compares the definitions with what the management API shows, and changes nothing. It needs no daemon; so it knows
    /// nothing of the mirror, nor of what was paused by command.
    #[command(after_help = plan::CODES)]
    Plan(plan::PlanArgs),
    /// Have the daemon read the definitions now and make the broker so
    ///
    /// The daemon does so by itself whenever the definitions change; this is for not waiting, for trying again what was
    /// rolled back, for undoing what was changed by hand, and for the word that deletes a retired queue.
    #[command(after_help = apply::CODES)]
    Apply(apply::ApplyArgs),
    /// Print the JSON Schema of queue definitions, for editors
    #[command(after_help = EXIT_CODES)]
    Schema,
    /// Show the queues: how many items stand where, and who works; pause and resume them
    #[command(after_help = EXIT_CODES)]
    Queues(queues::QueuesArgs),
    /// Find and show items
    #[command(after_help = EXIT_CODES)]
    Items(Box<items::ItemsArgs>),
    /// Look after actions on many items: list, show, run, cancel, resume, undo
    ///
    /// `warrend items hold|release|requeue|cancel|restore|edit|note|assign` begin them, with a filter, --ids, --dry-run, --rate or
    /// --ramp.
    #[command(after_help = EXIT_CODES)]
    Actions(actions::ActionsArgs),
    /// Put one item into a queue
    ///
    /// The payload is any JSON value: in the command, from a file, or from standard input.
    #[command(after_help = enqueue::EXAMPLES)]
    Enqueue(Box<enqueue::EnqueueArgs>),
    /// Put the rows of files into a queue
    ///
    /// Reads NDJSON, JSON arrays and CSV, also the files of Power Automate's and UiPath's bulk uploads, and sends them in chunks.
    /// docs/import.md says what columns are for.
    #[command(after_help = import::EXAMPLES)]
    Import(Box<import::ImportArgs>),
    /// Write items or attempts into a file, for BI tools
    ///
    /// docs/export.md says what the columns mean.
    #[command(after_help = EXIT_CODES)]
    Export(export::ExportArgs),
    /// List messages that could not be read or belong to no item
    #[command(after_help = EXIT_CODES)]
    Parked(parked::ParkedArgs),
    /// Print what happens, a JSON line for each event, as it happens
    #[command(after_help = EXIT_CODES)]
    Events(events::EventsArgs),
    /// Have events sent to URLs (webhooks), and see how it stands with them
    #[command(after_help = EXIT_CODES)]
    Webhooks(webhooks::WebhooksArgs),
    /// Show what fails, alike failures together: new, rising, returning, and as always
    #[command(after_help = EXIT_CODES)]
    Failures(Box<failures::FailuresArgs>),
    /// Show who works: robots and people by what they report, and who is connected without a word
    #[command(after_help = EXIT_CODES)]
    Robots(robots::RobotsArgs),
    /// Say what an item waits for, in one sentence
    #[command(after_help = EXIT_CODES)]
    Why(why::WhyArgs),
    /// Watch queues, robots and new failures; q quits
    ///
    /// Where standard output is no terminal it is printed once.
    #[command(after_help = EXIT_CODES)]
    Top(top::TopArgs),
    /// Make, list and revoke API tokens
    ///
    /// As soon as there is one, the HTTP API serves nobody who shows none. docs/security.md says what the roles may do.
    #[command(after_help = tokens::EXAMPLES)]
    Token(tokens::TokenArgs),
    /// Look after the mirror, on the daemon's machine
    #[command(after_help = mirror::STEPS)]
    Mirror(mirror::MirrorArgs),
    /// Print or set the least rights that producers, robots and the daemon need on the broker
    ///
    /// Rights are of one virtual host, that of broker.amqp_url. Users have to be there already, with their passwords. What
    /// is printed can be read, copied to a shell, or set with --apply. docs/access.md says what each right is for.
    #[command(after_help = access::EXAMPLES)]
    Access(access::AccessArgs),
    /// Measure what the lanes cost beside the broker itself
    ///
    /// Works on the broker that the settings name, in virtual hosts of its own (warrend-bench-...), which it makes and
    /// deletes again, also after a failure or Ctrl-C; nothing else on the broker is touched. The user of
    /// broker.management_url has to be an administrator. The lanes are served by daemons of its own, whose mirrors lie in
    /// the directory for temporary files (TMPDIR): let that be on the disk you want to know about.
    ///
    /// Compare numbers of one run only, on a machine that does nothing else. docs/benchmarks.md says how to read them.
    #[command(after_help = bench::WAYS, verbatim_doc_comment)]
    Bench(bench::BenchArgs),
}

/// Where the daemon is, for commands that ask it.
#[derive(Debug, Args)]
struct Daemon {
    /// The daemon's HTTP API, like `http://127.0.0.1:7070` [default: where the settings' http.listen says]
    #[arg(long, env = "WARREND_URL", value_name = "URL")]
    url: Option<String>,
    /// File with the API token, for daemons that want one [default: the variable WARREND_TOKEN, if it is set]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file of the certificates that vouch for the daemon's, beside those of the machine
    #[arg(long, env = "WARREND_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

impl Daemon {
    fn client(&self, config: Option<PathBuf>) -> Result<Client, Failed> {
        let shown =
            Shown { token: secret::token(self.token_file.as_deref())?, ca: secret::ca(self.ca_file.as_deref())? };
        match &self.url {
            Some(url) => Client::new(url, shown),
            None => {
                let http = settings(config)?.http;
                Client::listening_at(http.listen, http.tls.is_some(), shown)
            }
        }
    }
}

/// Runs the command that `args` (with the program's name in front) asks for, and says how it went.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too. Nobody is left to tell where this cannot be printed.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    match execute(cli) {
        Ok(()) => Exit::Done,
        Err(failed) => {
            failed.print();
            failed.exit
        }
    }
}

fn execute(cli: Cli) -> Result<(), Failed> {
    let config = cli.config;
    match cli.command {
        Command::Serve => serve::run(settings(config)?),
        Command::Check(args) => check::run(&args, config),
        Command::Plan(args) => plan::run(&args, config),
        Command::Schema => print(crate::definition::JSON_SCHEMA),
        Command::Apply(args) => wait_for(apply::run(&args, &args.daemon.client(config)?)),
        Command::Queues(args) => args.run(config),
        Command::Items(args) => args.run(config),
        Command::Actions(args) => args.run(config),
        Command::Enqueue(args) => wait_for(enqueue::run(&args, &args.daemon.client(config)?)),
        Command::Events(args) => wait_for(events::run(&args, &args.daemon.client(config)?)),
        Command::Webhooks(args) => args.run(config),
        Command::Failures(args) => wait_for(failures::run(&args, &args.daemon.client(config)?)),
        Command::Robots(args) => wait_for(robots::run(&args, &args.daemon.client(config)?)),
        Command::Why(args) => wait_for(why::run(&args, &args.daemon.client(config)?)),
        Command::Top(args) => wait_for(top::run(&args, &args.daemon.client(config)?)),
        Command::Import(args) => wait_for(import::run(&args, &args.daemon.client(config)?)),
        Command::Export(args) => args.run(config),
        Command::Token(args) => args.run(config),
        Command::Mirror(args) => mirror::run(&args, config),
        Command::Access(args) => wait_for(access::run(&args, config)),
        Command::Bench(args) => bench::run(&args, &settings(config)?),
        Command::Parked(args) => wait_for(parked::run(&args, &args.daemon.client(config)?)),
    }
}

/// Who gives an order, for the record: `user@host` as far as that is known.
fn who() -> String {
    let known = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = known("USER").or_else(|| known("LOGNAME")).unwrap_or_else(|| "cli".to_owned());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let who = match host.trim() {
        "" => user,
        host => format!("{user}@{host}"),
    };
    who.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// Whether what is printed may have colours.
fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

fn settings(config: Option<PathBuf>) -> Result<Settings, Failed> {
    Settings::load(config.as_deref()).map_err(|error| Failed::new(Exit::Settings, error.to_string()))
}

/// Runs a client's command: one request after the other, so one thread does.
fn wait_for(command: impl Future<Output = Result<(), Failed>>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failed::new(Exit::Failure, format!("cannot start: {error}")))?.block_on(command)
}

#[cfg(test)]
mod tests;
