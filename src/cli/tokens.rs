//! `warrend token create|list|revoke`: API tokens.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::exit::{Exit, Failed};
use super::output::{self, Column, Output, print, print_list, text};
use super::{Daemon, EXIT_CODES, settings, wait_for, who};
use crate::daemon::{self, FirstToken};
use crate::mirror::MirrorError;
use crate::units::parse_duration;
use crate::who::{NAME_FORM, Pattern, Rights, Role, is_token_name};

/// Ends the help text.
pub(super) const EXAMPLES: &str = "The first token, while the daemon does not run:
  umask 077
  warrend token create --local --name admin --role admin > admin.token

Others, with it:
  warrend token create --token-file admin.token --name flow --role producer --queue invoices > flow.token
  warrend token create --token-file admin.token --name robots --role worker --queue 'hr-*' --expires-in 90d > robots.token
  warrend token list --token-file admin.token

Roles:
  viewer    sees everything of its queues
  producer  puts items in, and sees the items of its queues
  worker    claims and reports, and sees the items of its queues
  operator  all of that, every action on items, pause and resume
  admin     all of that, definitions, tokens, webhooks, the audit log

Exit codes:
   0  done
   1  it failed, or the daemon said no; with --local also where the daemon runs
  64  the command was not understood
  69  the daemon cannot be reached
  78  bad settings";

#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token; its secret is printed once and kept nowhere
    #[command(after_help = EXAMPLES)]
    Create(CreateArgs),
    /// List every token there ever was
    #[command(after_help = EXIT_CODES)]
    List {
        /// How to show them
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Take a token out of use, at once
    #[command(after_help = EXIT_CODES)]
    Revoke {
        /// The token's id, or its name
        token: String,
        #[command(flatten)]
        daemon: Daemon,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Who it stands for in timelines and in the audit log
    #[arg(long)]
    name: String,
    /// What it may do: viewer, producer, worker, operator or admin; once or more
    #[arg(long = "role", value_name = "ROLE", required = true, value_parser = role)]
    roles: Vec<Role>,
    /// In which queues, like invoices or 'hr-*'; once or more [default: all]
    #[arg(long = "queue", value_name = "QUEUE", value_parser = pattern)]
    queues: Vec<Pattern>,
    /// Let it see what definitions mask
    #[arg(long)]
    reveal: bool,
    /// How long it is good for, like 90d [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires_in: Option<Duration>,
    /// Write it into the mirror on this machine, while the daemon does not run: for the first one
    #[arg(long, conflicts_with_all = ["token_file", "ca_file"])]
    local: bool,
    /// Print everything about it as JSON, instead of its secret alone
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

fn role(word: &str) -> Result<Role, String> {
    Role::from_word(word).ok_or_else(|| format!("there is no such role; there are {}", Role::WORDS))
}

fn pattern(text: &str) -> Result<Pattern, String> {
    text.parse::<Pattern>().map_err(|error| error.to_string())
}

fn time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).filter(|time| !time.is_zero());
    time.ok_or_else(|| "this is no time like 90d or 12h".to_owned())
}

const COLUMNS: [Column; 8] = [
    Column { title: "ID", cell: |token| text(&token["id"]) },
    Column { title: "NAME", cell: |token| text(&token["name"]) },
    Column { title: "ROLES", cell: |token| words(&token["roles"]) },
    Column { title: "QUEUES", cell: |token| words(&token["queues"]) },
    Column { title: "REVEAL", cell: |token| text(&token["reveal"]) },
    Column { title: "EXPIRES", cell: |token| text(&token["expires_at"]) },
    Column { title: "LAST USED", cell: |token| text(&token["last_used_at"]) },
    Column { title: "REVOKED", cell: |token| text(&token["revoked_at"]) },
];

const FIELDS: [&str; 11] = [
    "id",
    "name",
    "roles",
    "queues",
    "reveal",
    "created_at",
    "created_by",
    "expires_at",
    "last_used_at",
    "revoked_at",
    "revoked_by",
];

fn words(list: &Value) -> String {
    list.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ")
}

impl TokenArgs {
    pub(super) fn run(&self, config: Option<PathBuf>) -> Result<(), Failed> {
        match &self.command {
            TokenCommand::Create(args) if args.local => wait_for(args.local(config)),
            TokenCommand::Create(args) => wait_for(args.ask(config)),
            TokenCommand::List { output, daemon } => wait_for(async {
                print_list(&daemon.client(config)?.get(&["tokens"], &[]).await?, *output, &COLUMNS, &FIELDS)
            }),
            TokenCommand::Revoke { token, daemon } => wait_for(revoke(token, daemon, config)),
        }
    }
}

impl CreateArgs {
    fn rights(&self) -> Rights {
        let queues = if self.queues.is_empty() { vec![Pattern::any()] } else { self.queues.clone() };
        Rights { roles: self.roles.iter().copied().collect(), queues, reveal: self.reveal }
    }

    async fn ask(&self, config: Option<PathBuf>) -> Result<(), Failed> {
        let client = self.daemon.client(config)?;
        let rights = self.rights();
        let body = json!({
            "name": self.name, "reveal": self.reveal, "by": who(),
            "roles": rights.roles.iter().map(|role| role.word()).collect::<Vec<_>>(),
            "queues": rights.queues.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "expires_in": self.expires_in.map(|time| format!("{}s", time.as_secs().max(1))),
        });
        let (_, made) = client.post(&["tokens"], body.to_string()).await?;
        self.show(&made)
    }

    async fn local(&self, config: Option<PathBuf>) -> Result<(), Failed> {
        let settings = settings(config)?;
        let usage = |why: String| Failed::new(Exit::Usage, why);
        let rights = self.rights();
        if let Some((_, fault)) = rights.faults().into_iter().next() {
            return Err(usage(fault));
        }
        if !is_token_name(&self.name) {
            return Err(usage(format!("a token's name is {NAME_FORM}")));
        }
        let wanted = FirstToken { name: self.name.clone(), rights, good_for: self.expires_in, who: who() };
        let (token, secret) = daemon::first_token(&settings, wanted).await.map_err(|error| failed(&error))?;
        let mut made = token.terms();
        made["id"] = token.id.into();
        made["token"] = secret.into();
        self.show(&made)
    }

    /// The secret alone goes where it can be redirected to a file.
    fn show(&self, made: &Value) -> Result<(), Failed> {
        let note = "this is the only time it is shown; whoever has it is who it stands for";
        let _ = writeln!(std::io::stderr(), "token {} ({}): {note}", text(&made["name"]), text(&made["id"]));
        if self.json { print(&output::json(made)) } else { print(&format!("{}\n", text(&made["token"]))) }
    }
}

fn failed(error: &anyhow::Error) -> Failed {
    let cure = match error.downcast_ref::<MirrorError>() {
        Some(MirrorError::InUse { .. }) => {
            "\n  the daemon runs: leave --local out and show it an admin's token (WARREND_TOKEN or --token-file), or none where no \
             token was ever made;\n  where every admin's token is lost, stop the daemon and use --local again"
        }
        _ => "",
    };
    Failed::new(Exit::Failure, format!("{error:#}{cure}"))
}

async fn revoke(wanted: &str, daemon: &Daemon, config: Option<PathBuf>) -> Result<(), Failed> {
    let client = daemon.client(config)?;
    let list = client.get(&["tokens"], &[]).await?;
    let tokens = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    // Of a name that was given again the one in use is meant.
    let named = |token: &&Value| token["name"] == wanted && token["revoked_at"].is_null();
    let found = tokens.iter().find(|token| token["id"] == wanted).or_else(|| tokens.iter().find(named));
    let id = found.and_then(|token| token["id"].as_str()).unwrap_or(wanted);
    let revoked = client.delete(&["tokens", id]).await?;
    print(&format!("revoked {} ({})\n", text(&revoked["name"]), text(&revoked["id"])))
}
