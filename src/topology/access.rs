//! The least rights on the broker: from who does what to RabbitMQ's permissions and topic permissions.
//!
//! RabbitMQ matches a regular expression anywhere in a name, so every one here is anchored, and `^$` is nothing. The default
//! exchange is checked as `amq.default`. Where a user has several roles its rights are all of theirs together.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::names::Names;
use crate::definition::{Definitions, nearest};

/// Tag of the management API that policies need.
pub const POLICY_TAG: &str = "policymaker";

/// The first RabbitMQ that checks what a `CC` or `BCC` header names.
const CC_CHECKED: [u32; 3] = [4, 0, 3];

/// Somebody who logs in to the broker, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub user: String,
    pub role: Role,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Publishes items to queues.
    Producer { keys: Vec<Keys> },
    /// Declares and consumes a reply queue of its own.
    Asker { queue: String },
    /// Works on items of queues.
    Robot { keys: Vec<Keys> },
    /// Is warrend.
    Daemon,
}

impl Role {
    const fn word(&self) -> &'static str {
        match self {
            Self::Producer { .. } | Self::Asker { .. } => "producer",
            Self::Robot { .. } => "robot",
            Self::Daemon => "daemon",
        }
    }
}

/// One queue, or all whose keys fit a pattern, also those that come later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    written: String,
}

/// Why nothing can be granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    #[error("no queue '{key}' is defined{}", meant(.nearest))]
    UnknownKey { key: String, nearest: Option<String> },
    #[error("no defined queue fits '{pattern}'{}", meant(.nearest))]
    FitsNothing { pattern: String, nearest: Option<String> },
    #[error("'{user}' is named as daemon and as {other}: the daemon needs a user of its own")]
    DaemonShared { user: String, other: &'static str },
    #[error("'{queue}' cannot be a reply queue: names that begin with {prefix} are not for producers")]
    ReplyQueue { queue: String, prefix: String },
}

fn meant(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|key| format!("; did you mean '{key}'?")).unwrap_or_default()
}

impl Keys {
    /// Reads a key, or a pattern in which `*` stands for anything.
    ///
    /// # Errors
    /// Where no defined queue is meant by it; `*` alone means all there will ever be.
    pub fn read(text: &str, definitions: &Definitions) -> Result<Self, AccessError> {
        let keys = Self { written: text.to_owned() };
        let known = || definitions.queues.keys().map(String::as_str);
        if text == "*" || known().any(|key| keys.cover(key)) {
            return Ok(keys);
        }
        let nearest = nearest(&text.replace('*', ""), known()).map(str::to_owned);
        let text = text.to_owned();
        Err(if keys.is_pattern() {
            AccessError::FitsNothing { pattern: text, nearest }
        } else {
            AccessError::UnknownKey { key: text, nearest }
        })
    }

    fn is_pattern(&self) -> bool {
        self.written.contains('*')
    }

    /// The parts between the stars come one after the other, the first at the beginning and the last at the end.
    fn cover(&self, key: &str) -> bool {
        let Some((first, rest)) = self.written.split_once('*') else { return self.written == key };
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        let Some(mut inside) = key.strip_prefix(first).and_then(|key| key.strip_suffix(last)) else { return false };
        for part in middle.split('*') {
            let Some(at) = inside.find(part) else { return false };
            inside = &inside[at + part.len()..];
        }
        true
    }

    fn regex(&self) -> String {
        let parts: Vec<String> = self.written.split('*').map(escaped).collect();
        parts.join(".*")
    }
}

/// RabbitMQ's permissions of one user in one virtual host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    pub configure: String,
    pub write: String,
    pub read: String,
}

/// Which routing keys of a topic exchange a user may publish with (write) and bind to (read).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicPermission {
    pub exchange: String,
    pub write: String,
    pub read: String,
}

/// What one user gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grant {
    pub user: String,
    pub roles: Vec<&'static str>,
    pub permissions: Permissions,
    /// None at all: no topic exchange is restricted further.
    pub topic_permissions: Vec<TopicPermission>,
    /// Tag that the user needs for the management API.
    pub tag: Option<&'static str>,
    /// What it may do with this, for people.
    pub may: Vec<String>,
    pub may_not: Vec<String>,
    /// What RabbitMQ cannot forbid, and what follows from it.
    pub know: Vec<String>,
}

/// What is collected for one user; regular expressions without anchors.
#[derive(Default)]
struct Needs {
    roles: BTreeSet<&'static str>,
    configure: BTreeSet<String>,
    write: BTreeSet<String>,
    read: BTreeSet<String>,
    topics: BTreeMap<String, BTreeSet<String>>,
    tag: Option<&'static str>,
    may: Vec<String>,
    may_not: Vec<String>,
    know: Vec<String>,
}

/// The rights of everybody, in the order in which they were named first. `version` is the broker's, where it is known.
///
/// # Errors
/// Where two roles do not go together, or a reply queue would be one of ours.
pub fn grants(names: &Names, principals: &[Principal], version: Option<&str>) -> Result<Vec<Grant>, AccessError> {
    let mut users: Vec<(&str, Needs)> = Vec::new();
    for Principal { user, role } in principals {
        let at = users.iter().position(|(known, _)| known == user).unwrap_or_else(|| {
            users.push((user, Needs::default()));
            users.len() - 1
        });
        let needs = &mut users[at].1;
        needs.roles.insert(role.word());
        match role {
            Role::Producer { keys } => needs.producer(names, keys, version),
            Role::Asker { queue } => needs.asker(names, queue)?,
            Role::Robot { keys } => needs.robot(names, keys),
            Role::Daemon => needs.daemon(names),
        }
        if let (true, Some(other)) =
            (needs.roles.contains("daemon"), needs.roles.iter().find(|role| **role != "daemon"))
        {
            return Err(AccessError::DaemonShared { user: user.clone(), other });
        }
    }
    Ok(users.into_iter().map(|(user, needs)| needs.grant(user)).collect())
}

impl Needs {
    fn producer(&mut self, names: &Names, keys: &[Keys], version: Option<&str>) {
        let items = names.items();
        self.write.insert(escaped(&items));
        self.topics.entry(items.clone()).or_default().extend(keys.iter().map(Keys::regex));
        self.may.push(format!("publish to {items} with the keys {}", written(keys)));
        self.may.push("get answers of the managed lane to 'amq.rabbitmq.reply-to', which needs no right".to_owned());
        self.may_not.push("publish with other keys, to other exchanges, or to the default exchange".to_owned());
        self.may_not.push("declare, bind, consume, purge or delete anything else".to_owned());
        self.know.push(
            "answers go to any queue that replies.allow allows: its reply-to may name another producer's reply queue"
                .to_owned(),
        );
        match version.map(|version| (checks_cc(version), version)) {
            Some((true, _)) => {}
            Some((false, version)) => self.know.push(format!(
                "on this RabbitMQ {version} a CC or BCC header goes past these keys and reaches every queue behind {items}; \
                 RabbitMQ checks it from 4.0.3 on"
            )),
            None => self.know.push(format!(
                "the broker's version is not known: before RabbitMQ 4.0.3 a CC or BCC header goes past these keys and \
                 reaches every queue behind {items}"
            )),
        }
    }

    fn asker(&mut self, names: &Names, queue: &str) -> Result<(), AccessError> {
        for prefix in [format!("{}.", names.prefix()), "amq.".to_owned()] {
            if queue.starts_with(&prefix) {
                return Err(AccessError::ReplyQueue { queue: queue.to_owned(), prefix });
            }
        }
        self.configure.insert(escaped(queue));
        self.read.insert(escaped(queue));
        self.may.push(format!("declare, consume, purge and delete the reply queue {queue}"));
        Ok(())
    }

    fn robot(&mut self, names: &Names, keys: &[Keys]) {
        let outcomes = names.outcomes();
        self.write.insert(escaped(&outcomes));
        self.read.extend(keys.iter().map(|keys| escaped(&names.robots("")) + &keys.regex()));
        self.topics.entry(outcomes.clone()).or_default().extend(keys.iter().map(Keys::regex));
        let queues: Vec<String> = keys.iter().map(|keys| names.robots(&keys.written)).collect();
        self.may.push(format!("take, ack and reject items of {}", queues.join(", ")));
        self.may.push(format!("report to {outcomes} with these keys"));
        self.may_not.push(format!(
            "take or report items of other queues, publish to {} or to the default exchange",
            names.items()
        ));
        self.may_not.push("declare, bind or delete anything else".to_owned());
        self.know.push("it can purge its queues: RabbitMQ asks no more than read for that".to_owned());
        self.know.push("it can report on every item of its queues, also on one that another robot has".to_owned());
    }

    /// What [`super::desired`] declares needs of RabbitMQ: to bind is write on the queue and read on the exchange; an
    /// alternate exchange is read on the exchange and write on the alternate; a dead-letter exchange is read on the queue
    /// and write on the exchange.
    fn daemon(&mut self, names: &Names) {
        let prefix = format!("{}.", names.prefix());
        let ours = [
            names.items(),
            names.dispatch(),
            names.outcomes(),
            names.dead(),
            names.events(),
            names.unrouted(),
            names.intake(),
            names.reports(),
            names.meta(),
            names.tap(),
        ];
        // Of the queues with a key in their name there are ever new ones.
        let all_but = |left_out: &[String]| -> String {
            let rest = ours.iter().filter(|name| !left_out.contains(name));
            let mut ends: Vec<String> = rest.map(|name| escaped(name.strip_prefix(&prefix).unwrap_or(name))).collect();
            ends.sort();
            format!(r"{}({}|[qm]\..+)", escaped(&prefix), ends.join("|"))
        };
        self.configure.insert(all_but(&[]));
        // Reports come from robots alone, and wq.meta is written through the default exchange.
        self.write.insert(all_but(&[names.outcomes(), names.meta()]));
        self.write.insert(escaped("amq.default"));
        self.read.insert(all_but(&[names.events()]));
        self.tag = Some(POLICY_TAG);
        self.may.push(format!(
            "declare, bind, read and delete its own exchanges and queues, whose names begin with {prefix}"
        ));
        self.may
            .push("publish to any queue of this virtual host by its name: so answers get to reply queues".to_owned());
        self.may.push(format!("set policies in this virtual host and read its counters (the tag {POLICY_TAG})"));
        self.may_not.push("do anything in other virtual hosts, or with users and permissions".to_owned());
        self.know.push(
            "what it may publish by name reaches every queue here: give warrend a virtual host of its own".to_owned(),
        );
    }

    fn grant(self, user: &str) -> Grant {
        let topic = |(exchange, keys): (String, BTreeSet<String>)| TopicPermission {
            exchange,
            write: anchored(&keys),
            read: NOTHING.to_owned(),
        };
        Grant {
            user: user.to_owned(),
            roles: self.roles.into_iter().collect(),
            permissions: Permissions {
                configure: anchored(&self.configure),
                write: anchored(&self.write),
                read: anchored(&self.read),
            },
            topic_permissions: self.topics.into_iter().map(topic).collect(),
            tag: self.tag,
            may: self.may,
            may_not: self.may_not,
            know: self.know,
        }
    }
}

/// The same as commands of `rabbitmqctl` for a POSIX shell, one line per user. Narrower rights come first, and where they
/// cannot be set (the exchange is not there yet) the wider ones are not either.
#[must_use]
pub fn commands(grants: &[Grant], vhost: &str) -> Vec<String> {
    grants.iter().map(|grant| commands_for(grant, vhost).join(" && ")).collect()
}

fn commands_for(grant: &Grant, vhost: &str) -> Vec<String> {
    let Grant { user, permissions, topic_permissions, tag, .. } = grant;
    let command = |words: &[&str]| {
        let quoted: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        format!("rabbitmqctl {}", quoted.join(" "))
    };
    let mut commands = Vec::new();
    if topic_permissions.is_empty() {
        commands.push(command(&["clear_topic_permissions", "-p", vhost, user]));
    }
    for TopicPermission { exchange, write, read } in topic_permissions {
        commands.push(command(&["set_topic_permissions", "-p", vhost, user, exchange, write, read]));
    }
    let Permissions { configure, write, read } = permissions;
    commands.push(command(&["set_permissions", "-p", vhost, user, configure, write, read]));
    if let Some(tag) = tag {
        commands.push(command(&["set_user_tags", user, tag]));
    }
    commands
}

/// As one word for a POSIX shell.
#[must_use]
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

const NOTHING: &str = "^$";

fn anchored(any_of: &BTreeSet<String>) -> String {
    if any_of.contains(".*") {
        return "^.*$".to_owned();
    }
    let all: Vec<&str> = any_of.iter().map(String::as_str).collect();
    match all.as_slice() {
        [] => NOTHING.to_owned(),
        [one] => format!("^{one}$"),
        _ => format!("^({})$", all.join("|")),
    }
}

/// So that it stands for itself in the regular expressions of Erlang.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn written(keys: &[Keys]) -> String {
    let all: Vec<&str> = keys.iter().map(|keys| keys.written.as_str()).collect();
    all.join(", ")
}

/// A version that cannot be read is taken for an old one.
fn checks_cc(version: &str) -> bool {
    let numbers: Vec<u32> = version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect();
    numbers.len() >= 2 && numbers.as_slice() >= CC_CHECKED.as_slice()
}

#[cfg(test)]
mod tests;
