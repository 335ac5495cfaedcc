//! `warrend plan`: what is to be done so that the broker is as the definitions say?

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::exit::{Exit, Failed};
use super::output::{self, print};
use super::{check, settings, wait_for};
use crate::broker::connection::Endpoint;
use crate::broker::management::{Management, ManagementError};
use crate::broker::trust::Trust;
use crate::definition::{Definitions, load};
use crate::settings::Settings;
use crate::topology::desired::{Wishes, desired};
use crate::topology::names::Names;
use crate::topology::observed::Observed;
use crate::topology::plan::{Facts, Plan, plan};
use crate::topology::render;
use crate::topology::version::Version;

/// Ends the help text.
pub(super) const CODES: &str = "Examples:
  warrend plan
  warrend plan --offline 4.3
  warrend plan --output json | jq '.steps[] | select(.risk.mark != \"safe\")'

Exit codes:
   0  nothing to do
   1  it failed
   2  there is something to do
  64  the command was not understood
  65  bad definitions
  69  the broker cannot be reached
  78  bad settings";

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// How to show the plan
    #[arg(long, value_enum, default_value = "table")]
    output: Form,
    /// Ask no broker: plan for an empty one of this version, like 4.3
    #[arg(long, value_name = "VERSION", value_parser = version)]
    offline: Option<Version>,
    /// Plan for the deletion of a queue that is not defined any more, with what is in it; may be repeated
    #[arg(long, value_name = "KEY")]
    retire: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// For reading
    Table,
    /// `{version, summary, steps, notes}`
    Json,
}

fn version(text: &str) -> Result<Version, String> {
    let version = Version::parse(text).ok_or("a version looks like 4.3 or 3.10.8")?;
    if version < Version::OLDEST {
        return Err(format!("the oldest that is supported is {}", Version::OLDEST));
    }
    Ok(version)
}

pub(super) fn run(args: &PlanArgs, config: Option<PathBuf>) -> Result<(), Failed> {
    let settings = settings(config)?;
    let dir = &settings.definitions.dir;
    let definitions = load(dir).map_err(|error| check::wrong(dir, error))?;
    let names = Names::new(&settings.broker.prefix);
    match args.offline {
        Some(version) => show(args, &settings, &definitions, &names, &Observed::nothing(version)),
        None => wait_for(async {
            let observed = observe(&settings, &names).await?;
            show(args, &settings, &definitions, &names, &observed)
        }),
    }
}

fn show(
    args: &PlanArgs,
    settings: &Settings,
    definitions: &Definitions,
    names: &Names,
    observed: &Observed,
) -> Result<(), Failed> {
    // What was asked for by command, and what the mirror knows, is not known here.
    let (wishes, facts) = (Wishes::default(), Facts::default());
    let desired = desired(definitions, &wishes, observed.version, names, settings.tap.max_bytes);
    let words: BTreeSet<String> = args.retire.iter().cloned().collect();
    let plan = plan(&desired, observed, names, &facts, &words);
    match args.output {
        Form::Table => {
            print(&render::text(&plan, super::colours()))?;
        }
        Form::Json => print(&output::json(&json(&plan, observed.version)))?,
    }
    if plan.is_empty() { Ok(()) } else { Err(Failed::new(Exit::Changes, "")) }
}

fn json(plan: &Plan, version: Version) -> serde_json::Value {
    json!({"version": version.to_string(), "summary": plan.tally(), "steps": plan.steps, "notes": plan.notes})
}

async fn observe(settings: &Settings, names: &Names) -> Result<Observed, Failed> {
    let broker = &settings.broker;
    let Some(urls) = &broker.management_url else {
        return Err(Failed::new(
            Exit::Settings,
            "broker.management_url is empty, and without the management API nobody can say what is on the broker: set it, \
             or plan for an empty broker with --offline VERSION",
        ));
    };
    let trust =
        Trust::read(broker.ca_file.as_deref()).map_err(|error| Failed::new(Exit::Settings, error.to_string()))?;
    let vhost = match broker.amqp_url.expose().next().map(|url| Endpoint::new(url, broker.connect_timeout)) {
        Some(Ok(endpoint)) => endpoint.vhost().to_owned(),
        Some(Err(error)) => return Err(Failed::new(Exit::Settings, error.to_string())),
        None => return Err(Failed::new(Exit::Settings, "broker.amqp_url is empty")),
    };
    let management = Management::new(urls.expose(), &vhost, &trust)
        .map_err(|error| Failed::new(Exit::Settings, error.to_string()))?;
    let version = match management.version().await.map_err(|error| failed(&error, &vhost))? {
        Some((version, text)) if version < Version::OLDEST => {
            let oldest = Version::OLDEST;
            return Err(Failed::new(
                Exit::Failure,
                format!("RabbitMQ {text} is older than {oldest}, the oldest supported"),
            ));
        }
        Some((version, _)) => version,
        None => return Err(Failed::new(Exit::Failure, "the management API answered no version that can be read")),
    };
    management.observe(version, names).await.map_err(|error| failed(&error, &vhost))
}

/// What went wrong, and what to do about it.
fn failed(error: &ManagementError, vhost: &str) -> Failed {
    let (exit, cure) = match error {
        ManagementError::Unreachable(_) => (
            Exit::Unreachable,
            "check broker.management_url, and that the plugin rabbitmq_management is enabled; or plan for an empty broker \
             with --offline VERSION"
                .to_owned(),
        ),
        ManagementError::Refused { status: 401 | 403, .. } => (
            Exit::Failure,
            "check user and password in broker.management_url; the user needs the tag policymaker".to_owned(),
        ),
        ManagementError::Refused { status: 404, .. } => {
            (Exit::Failure, format!("check that the virtual host {vhost} of broker.amqp_url is there"))
        }
        _ => (Exit::Failure, "check that broker.management_url leads to RabbitMQ's management API".to_owned()),
    };
    Failed::new(exit, format!("{error}: {cure}"))
}
