//! `warrend access`: the least rights on the broker, printed, or set with `--apply`.
//!
//! Order of effects: everything is looked at first (virtual host, users, tags, exchanges), and where something is missing nothing is
//! set. Then one user after the other; a failure says who has been given what.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use serde_json::{Value, json};

use super::exit::{Exit, Failed};
use super::output::{self, Column, print, text};
use super::settings;
use crate::broker::connection::Endpoint;
use crate::broker::management::{Management, ManagementError};
use crate::broker::management_access::User;
use crate::broker::trust::Trust;
use crate::definition::{Definitions, LoadError, load};
use crate::settings::Settings;
use crate::topology::access::{self, Grant, Keys, Permissions, Principal, Role, TopicPermission, quoted};
use crate::topology::names::Names;

/// Ends the help text.
pub(super) const EXAMPLES: &str = "Examples:
  warrend access --producer erp=invoices,letters --robot intake-7=invoices --daemon warrend
  warrend access --producer erp='inv*' --reply-queue erp=reply.erp
  WARREND__BROKER__MANAGEMENT_URL=http://ADMIN:PASSWORD@127.0.0.1:15672 warrend access --robot intake-7=invoices --apply

Exit codes:
   0  done
   1  it failed, or a user is missing; nothing was set where it does not say so
  64  the command was not understood
  65  bad definitions, or a key that they do not have
  69  the broker cannot be reached
  78  bad settings";

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whom").required(true).multiple(true).args(["producer", "robot", "daemon"]))]
pub(super) struct AccessArgs {
    /// A user that publishes items; KEY may hold `*` for anything, also for queues that come later
    #[arg(long, value_name = "NAME=KEY[,KEY...]", value_parser = named)]
    producer: Vec<Named>,
    /// A user that works on items of these queues
    #[arg(long, value_name = "NAME=KEY[,KEY...]", value_parser = named)]
    robot: Vec<Named>,
    /// The user of broker.amqp_url and broker.management_url
    #[arg(long, value_name = "NAME", value_parser = user)]
    daemon: Option<String>,
    /// A producer's own queue for answers; `amq.rabbitmq.reply-to` needs none
    #[arg(long, value_name = "NAME=QUEUE[,QUEUE...]", value_parser = named, requires = "producer")]
    reply_queue: Vec<Named>,
    /// Set it over the management API, as an administrator, in place of what these users have in this virtual host
    #[arg(long)]
    apply: bool,
    /// How to show it
    #[arg(long, value_enum, default_value = "table")]
    output: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For reading, with commands to copy
    Table,
    /// Everything, for programs
    Json,
}

/// `NAME=WORD,WORD`.
#[derive(Debug, Clone)]
struct Named {
    user: String,
    words: Vec<String>,
}

fn named(text: &str) -> Result<Named, String> {
    // Neither keys nor queues for answers have an equals sign; names of users may.
    let Some((name, words)) = text.rsplit_once('=').filter(|(_, words)| !words.is_empty()) else {
        return Err("write NAME=KEY or NAME=KEY,KEY".to_owned());
    };
    Ok(Named { user: user(name)?, words: words.split(',').map(|word| word.trim().to_owned()).collect() })
}

fn user(name: &str) -> Result<String, String> {
    if name.is_empty() || name.starts_with('-') || name.chars().any(char::is_control) {
        return Err("a user has a name, which does not begin with '-'".to_owned());
    }
    Ok(name.to_owned())
}

pub(super) async fn run(args: &AccessArgs, config: Option<PathBuf>) -> Result<(), Failed> {
    let settings = settings(config)?;
    let wrong = |message: String| Failed::new(Exit::Data, message);
    let definitions = load(&settings.definitions.dir).map_err(|error| match error {
        LoadError::Read { path, source } => {
            wrong(format!("cannot read the definitions in {}: {source}", path.display()))
        }
        LoadError::Invalid(diagnostics) => {
            wrong(format!("the definitions in {} are wrong:\n{diagnostics}", settings.definitions.dir.display()))
        }
    })?;
    let principals = principals(args, &definitions, &settings)?;
    let site = Site::open(&settings).await?;
    let names = Names::new(&settings.broker.prefix);
    let grants =
        access::grants(&names, &principals, site.version.as_deref()).map_err(|error| wrong(error.to_string()))?;
    let given = if args.apply { Some(site.apply(&grants).await?) } else { None };
    let shown = site.shown(&grants, given.as_deref());
    print(&match args.output {
        Form::Json => output::json(&shown),
        Form::Table => readable(&shown),
    })
}

fn principals(args: &AccessArgs, definitions: &Definitions, settings: &Settings) -> Result<Vec<Principal>, Failed> {
    let mut principals = Vec::new();
    let keys = |named: &Named| -> Result<Vec<Keys>, Failed> {
        let keys = named.words.iter().map(|word| Keys::read(word, definitions));
        let dir = settings.definitions.dir.display();
        keys.collect::<Result<_, _>>()
            .map_err(|error| Failed::new(Exit::Data, format!("{}: {error} ({dir})", named.user)))
    };
    for named in &args.producer {
        principals.push(Principal { user: named.user.clone(), role: Role::Producer { keys: keys(named)? } });
    }
    for named in &args.reply_queue {
        if !args.producer.iter().any(|producer| producer.user == named.user) {
            let message = format!("{}: a reply queue is for a producer; name it with --producer too", named.user);
            return Err(Failed::new(Exit::Usage, message));
        }
        for queue in &named.words {
            if !settings.replies.allow.is_match(queue) {
                let allow = settings.replies.allow.as_str();
                let message = format!("{}: no answer goes to '{queue}': replies.allow is {allow}", named.user);
                return Err(Failed::new(Exit::Data, message));
            }
            principals.push(Principal { user: named.user.clone(), role: Role::Asker { queue: queue.clone() } });
        }
    }
    for named in &args.robot {
        principals.push(Principal { user: named.user.clone(), role: Role::Robot { keys: keys(named)? } });
    }
    principals.extend(args.daemon.iter().map(|user| Principal { user: user.clone(), role: Role::Daemon }));
    Ok(principals)
}

/// The broker, as far as it is asked.
struct Site {
    vhost: String,
    management: Option<Management>,
    /// `None` where nobody says it.
    version: Option<String>,
}

/// What a user had before, and what should be known of its tags.
struct Given {
    before: User,
    know: Vec<String>,
}

impl Site {
    async fn open(settings: &Settings) -> Result<Self, Failed> {
        let broker = &settings.broker;
        let trust =
            Trust::read(broker.ca_file.as_deref()).map_err(|error| Failed::new(Exit::Settings, error.to_string()))?;
        let endpoint = Endpoint::new(broker.amqp_url.first(), broker.connect_timeout)
            .map_err(|error| Failed::new(Exit::Settings, error.to_string()))?;
        let vhost = endpoint.vhost().to_owned();
        let management = match &broker.management_url {
            Some(urls) => Some(
                Management::new(urls.expose(), &vhost, &trust)
                    .map_err(|error| Failed::new(Exit::Settings, error.to_string()))?,
            ),
            None => None,
        };
        let mut version = endpoint.version().await.ok().flatten();
        if let (None, Some(management)) = (&version, &management) {
            version = management.version().await.ok().flatten();
        }
        Ok(Self { vhost, management, version: version.map(|(_, text)| text) })
    }

    /// Sets everything; answers what was there before, in the order of `grants`.
    async fn apply(&self, grants: &[Grant]) -> Result<Vec<Given>, Failed> {
        let Some(management) = &self.management else {
            return Err(Failed::new(
                Exit::Settings,
                "broker.management_url is empty: --apply needs it; nothing was set",
            ));
        };
        let nothing_set = |error: ManagementError| failed(&error, "nothing was set");
        if !management.has_vhost().await.map_err(nothing_set)? {
            let vhost = quoted(&self.vhost);
            let message =
                format!("there is no virtual host {vhost}; nothing was set. Make it: rabbitmqctl add_vhost {vhost}");
            return Err(Failed::new(Exit::Failure, message));
        }
        let (mut given, mut missing) = (Vec::new(), Vec::new());
        for grant in grants {
            match management.user(&grant.user).await.map_err(nothing_set)? {
                None => missing.push(no_user(&grant.user)),
                Some(before) => {
                    missing.extend(no_tag(grant, &before.tags));
                    given.push(Given { know: too_many_tags(grant, &before.tags), before });
                }
            }
        }
        let exchanges: BTreeSet<&str> =
            (grants.iter().flat_map(|grant| &grant.topic_permissions)).map(|topic| topic.exchange.as_str()).collect();
        for exchange in exchanges {
            if !management.has_exchange(exchange).await.map_err(nothing_set)? {
                missing.push(no_exchange(exchange));
            }
        }
        if !missing.is_empty() {
            return Err(Failed::new(Exit::Failure, format!("nothing was set:\n  {}", missing.join("\n  "))));
        }
        for (at, grant) in grants.iter().enumerate() {
            if let Err(error) = management.grant(grant).await {
                let list = |grants: &[Grant]| {
                    let users: Vec<&str> = grants.iter().map(|grant| grant.user.as_str()).collect();
                    if users.is_empty() { "none".to_owned() } else { users.join(", ") }
                };
                let so_far = format!(
                    "set for {}; for {} perhaps in part; not for {}. Once it answers, run the same again",
                    list(&grants[..at]),
                    grant.user,
                    list(&grants[at + 1..])
                );
                return Err(failed(&error, &so_far));
            }
        }
        Ok(given)
    }

    fn shown(&self, grants: &[Grant], given: Option<&[Given]>) -> Value {
        let users = grants.iter().enumerate().map(|(at, grant)| {
            let mut shown = json!(grant);
            if let Some(Given { before, know }) = given.and_then(|given| given.get(at)) {
                shown["before"] = json!({
                    "permissions": before.permissions,
                    "topic_permissions": before.topic_permissions,
                });
                let all: Vec<&String> = grant.know.iter().chain(know).collect();
                shown["know"] = json!(all);
            }
            shown
        });
        json!({
            "vhost": self.vhost,
            "broker_version": self.version,
            "applied": given.is_some(),
            "users": users.collect::<Vec<_>>(),
            "commands": access::commands(grants, &self.vhost),
        })
    }
}

fn failed(error: &ManagementError, so_far: &str) -> Failed {
    match error {
        ManagementError::Unreachable(cause) => Failed::new(Exit::Unreachable, format!("{error} ({cause}): {so_far}")),
        ManagementError::Refused { status: 401 | 403, .. } => Failed::new(
            Exit::Failure,
            format!(
                "{error}: {so_far}. It takes an administrator of the broker: \
                 WARREND__BROKER__MANAGEMENT_URL=http://ADMIN:PASSWORD@HOST:15672 warrend access ... --apply"
            ),
        ),
        _ => Failed::new(Exit::Failure, format!("{error}: {so_far}")),
    }
}

fn no_user(user: &str) -> String {
    let user = quoted(user);
    format!(
        "there is no user {user}. Make it: rabbitmqctl add_user {user} (it asks for the password), or in the management page under Admin"
    )
}

fn no_exchange(exchange: &str) -> String {
    format!(
        "there is no exchange {exchange} yet, and RabbitMQ takes no topic permission before it is there. The daemon makes it \
         at its first start: set the daemon's rights (--daemon NAME --apply, without the others), start it, then run this again"
    )
}

/// Only the daemon needs one; an administrator may do all a policymaker may.
fn no_tag(grant: &Grant, tags: &[String]) -> Option<String> {
    let tag = grant.tag?;
    if tags.iter().any(|has| has == tag || has == "administrator") {
        return None;
    }
    let all: Vec<String> = tags.iter().map(|tag| quoted(tag)).chain([tag.to_owned()]).collect();
    let user = quoted(&grant.user);
    Some(format!("{user} has not the tag {tag}. Give it: rabbitmqctl set_user_tags {user} {}", all.join(" ")))
}

fn too_many_tags(grant: &Grant, tags: &[String]) -> Vec<String> {
    let meant = |tag: &String| match tag.as_str() {
        "administrator" => Some("over the management API it may do everything, whatever it may here"),
        "policymaker" if grant.tag.is_none() => Some("it may change and delete policies, also those of warrend"),
        "impersonator" => Some("it may publish in the name of others"),
        _ => None,
    };
    tags.iter().filter_map(|tag| meant(tag).map(|why| format!("it has the tag {tag}: {why}"))).collect()
}

const COLUMNS: [Column; 6] = [
    Column { title: "USER", cell: |user| text(&user["user"]) },
    Column { title: "ROLE", cell: |user| words(&user["roles"]).join(", ") },
    Column { title: "CONFIGURE", cell: |user| text(&user["permissions"]["configure"]) },
    Column { title: "WRITE", cell: |user| text(&user["permissions"]["write"]) },
    Column { title: "READ", cell: |user| text(&user["permissions"]["read"]) },
    Column { title: "TOPICS", cell: |user| topics(&user["topic_permissions"]) },
];

fn words(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(text).collect()
}

fn topics(list: &Value) -> String {
    let topics = list.as_array().into_iter().flatten();
    let all: Vec<String> =
        topics.map(|topic| format!("{} write {}", text(&topic["exchange"]), text(&topic["write"]))).collect();
    all.join(", ")
}

fn readable(shown: &Value) -> String {
    let users = shown["users"].as_array().map(Vec::as_slice).unwrap_or_default();
    let version = shown["broker_version"].as_str().unwrap_or("of a version that it did not tell");
    let mut page = format!("Virtual host {}, RabbitMQ {version}\n\n", text(&shown["vhost"]));
    page.push_str(&output::table(&COLUMNS, users));
    for user in users {
        page.push_str(&format!("\n{} ({})\n", text(&user["user"]), words(&user["roles"]).join(", ")));
        for (what, list) in [("may", "may"), ("may not", "may_not"), ("know", "know")] {
            for line in words(&user[list]) {
                page.push_str(&format!("  {what:<7}  {line}\n"));
            }
        }
        if shown["applied"] == true {
            page.push_str(&format!("  set      before it had {}\n", before(&user["before"])));
        }
    }
    page.push('\n');
    if shown["applied"] == true {
        page.push_str("Set. Connections that are open may keep what they had until they reconnect.\n");
    } else {
        page.push_str(
            "Nothing was set. --apply does it, or an administrator with these commands. Users have to be there, and the exchanges \
             of\ntopic permissions too: the daemon makes them at its first start. set_user_tags takes other tags away.\n\n",
        );
        for command in words(&shown["commands"]) {
            page.push_str(&format!("{command}\n"));
        }
    }
    page
}

fn before(before: &Value) -> String {
    let permissions: Option<Permissions> = serde_json::from_value(before["permissions"].clone()).ok().flatten();
    let topics: Vec<TopicPermission> = serde_json::from_value(before["topic_permissions"].clone()).unwrap_or_default();
    let Some(Permissions { configure, write, read }) = permissions else { return "no right here".to_owned() };
    let mut line = format!("configure '{configure}', write '{write}', read '{read}'");
    for TopicPermission { exchange, write, read } in topics {
        line.push_str(&format!(", on {exchange} write '{write}', read '{read}'"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_are_told_apart() {
        for (text, expected) in [
            ("erp=a", Some(("erp", vec!["a"]))),
            ("erp=a, b.c,*", Some(("erp", vec!["a", "b.c", "*"]))),
            ("cn=erp=a", Some(("cn=erp", vec!["a"]))),
            ("erp", None),
            ("erp=", None),
            ("=a", None),
            ("-p=a", None),
            ("e\nrp=a", None),
        ] {
            let read = named(text).ok().map(|named| (named.user, named.words));
            let expected =
                expected.map(|(user, words)| (user.to_owned(), words.iter().map(ToString::to_string).collect()));
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn a_missing_tag_is_told_with_the_command_that_keeps_the_others() {
        let grant = |tag| Grant {
            user: "the daemon".to_owned(),
            roles: Vec::new(),
            permissions: Permissions::default(),
            topic_permissions: Vec::new(),
            tag,
            may: Vec::new(),
            may_not: Vec::new(),
            know: Vec::new(),
        };
        let tags = |tags: &[&str]| tags.iter().map(ToString::to_string).collect::<Vec<_>>();
        let needs = grant(Some(access::POLICY_TAG));
        for (has, expected) in [
            (tags(&["policymaker"]), None),
            (tags(&["administrator"]), None),
            (tags(&["monitoring"]), Some("rabbitmqctl set_user_tags 'the daemon' monitoring policymaker")),
            (tags(&[]), Some("rabbitmqctl set_user_tags 'the daemon' policymaker")),
        ] {
            let told = no_tag(&needs, &has);
            assert_eq!(told.is_some(), expected.is_some(), "{has:?}");
            assert!(told.is_none_or(|told| told.ends_with(expected.unwrap())), "{has:?}");
        }
        assert_eq!(no_tag(&grant(None), &[]), None);
        assert_eq!(too_many_tags(&needs, &tags(&["policymaker"])).len(), 0);
        assert_eq!(too_many_tags(&grant(None), &tags(&["policymaker", "management", "administrator"])).len(), 2);
    }
}
