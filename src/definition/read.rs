//! Readers of the values that have a form of their own: keys, priorities, retries, calendars, chaining, notices.
//!
//! Whatever is wrong is noted, and the answer is `None`, or what was there stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use url::Url;

use super::calendar::{self, Calendar};
use super::diagnostics::shorten;
use super::field::FileCheck;
use super::node::{Entry, Node, Value};
use super::rules::{Breaker, Keep, Notice, Occasion, Rate};
use super::{Paused, Priorities, suggest};
use crate::item::retry::{Backoff, Retry, RetryPolicy};
use crate::item::{HIGHEST_PRIORITY, Kind};
use crate::units::parse_duration;

/// Puts what is written under one key into a value.
pub(super) type Set<T> = fn(&mut T, &mut FileCheck<'_>, &Node);

const RETRY_KEYS: &[(&str, Set<RetryPolicy>)] = &[
    ("it", |retry, file, node| each(&mut retry.it, file, node, ONE_RETRY_KEYS)),
    ("generic", |retry, file, node| each(&mut retry.generic, file, node, ONE_RETRY_KEYS)),
    ("timeout", |retry, file, node| each(&mut retry.timeout, file, node, ONE_RETRY_KEYS)),
    ("requeue", |retry, file, node| each(&mut retry.requeue_limit, file, node, REQUEUE_KEYS)),
];

const REQUEUE_KEYS: &[(&str, Set<u32>)] = &[("limit", |limit, file, node| keep(limit, file.whole(node, 0..=1_000)))];

const ONE_RETRY_KEYS: &[(&str, Set<Retry>)] = &[
    ("limit", |retry, file, node| keep(&mut retry.limit, file.whole(node, 0..=1_000))),
    ("backoff", |retry, file, node| each(&mut retry.backoff, file, node, BACKOFF_KEYS)),
];

const BACKOFF_KEYS: &[(&str, Set<Backoff>)] = &[
    ("first", |backoff, file, node| keep(&mut backoff.first, file.duration(node))),
    ("factor", |backoff, file, node| keep(&mut backoff.factor, file.number(node, 1.0..=100.0))),
    ("max", |backoff, file, node| keep(&mut backoff.max, file.duration(node))),
    ("jitter", |backoff, file, node| keep(&mut backoff.jitter, file.percent(node))),
];

const PAUSED_KEYS: &[(&str, Set<Paused>)] = &[
    ("dispatch", |paused, file, node| keep(&mut paused.dispatch, file.boolean(node))),
    ("intake", |paused, file, node| keep(&mut paused.intake, file.boolean(node))),
];

const BREAKER_KEYS: &[(&str, Set<Breaker>)] = &[
    ("after", |breaker, file, node| keep(&mut breaker.after, file.whole(node, 1..=1_000))),
    ("pause", |breaker, file, node| keep(&mut breaker.pause, file.duration(node))),
];

const KEEP_KEYS: &[(&str, Set<Keep>)] = &[
    ("processed", |kept, file, node| keep(&mut kept.processed, kept_for(file, node))),
    ("exception", |kept, file, node| keep(&mut kept.exception, kept_for(file, node))),
    ("cancelled", |kept, file, node| keep(&mut kept.cancelled, kept_for(file, node))),
    ("payload", |kept, file, node| keep(&mut kept.payload, kept_for(file, node))),
];

#[derive(Default)]
struct NoticeDraft {
    on: Option<Vec<Occasion>>,
    to: Option<Url>,
    at_most: Rate,
}

const NOTICE_KEYS: &[(&str, Set<NoticeDraft>)] = &[
    ("on", |notice, file, node| notice.on = occasions(file, node)),
    ("to", |notice, file, node| notice.to = recipient(file, node)),
    ("at_most", |notice, file, node| keep(&mut notice.at_most, rate(file, node))),
];

const OCCASIONS: &[(&str, Occasion)] = &[
    ("exception", Occasion::Exception),
    ("exception.business", Occasion::Kind(Kind::Business)),
    ("exception.it", Occasion::Kind(Kind::It)),
    ("exception.generic", Occasion::Kind(Kind::Generic)),
    ("exception.timeout", Occasion::Kind(Kind::Timeout)),
    ("exception.expired", Occasion::Kind(Kind::Expired)),
    ("exception.poison", Occasion::Kind(Kind::Poison)),
    ("exception.invalid", Occasion::Kind(Kind::Invalid)),
    ("exception.duplicate", Occasion::Kind(Kind::Duplicate)),
    ("exception.missing", Occasion::Kind(Kind::Missing)),
    ("exception.unreported", Occasion::Kind(Kind::Unreported)),
    ("at_risk", Occasion::AtRisk),
    ("late", Occasion::Late),
    ("breaker", Occasion::Breaker),
];

/// Takes a value that could be read; a mistake leaves what was there.
pub(super) fn keep<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

/// Reads a map of known keys; what it leaves out stays as it was.
fn each<T>(value: &mut T, file: &mut FileCheck<'_>, node: &Node, keys: &'static [(&'static str, Set<T>)]) {
    for (entry, (_, set)) in file.known_entries(node, keys, |_| None) {
        set(value, file, &entry.value);
    }
}

pub(super) fn retry(policy: &mut RetryPolicy, file: &mut FileCheck<'_>, node: &Node) {
    each(policy, file, node, RETRY_KEYS);
}

pub(super) fn paused(paused: &mut Paused, file: &mut FileCheck<'_>, node: &Node) {
    each(paused, file, node, PAUSED_KEYS);
}

pub(super) fn kept(kept: &mut Keep, file: &mut FileCheck<'_>, node: &Node) {
    each(kept, file, node, KEEP_KEYS);
}

/// A report or a dead letter that comes a moment after an item's end must find it.
const KEPT_AT_LEAST: Duration = Duration::from_mins(1);

fn kept_for(file: &mut FileCheck<'_>, node: &Node) -> Option<Option<Duration>> {
    let time = file.duration_or(node, "forever")?;
    if time.is_some_and(|time| time < KEPT_AT_LEAST) {
        let help = "what is said of an item may come a little after its end; write 1m or more".to_owned();
        file.report(node.at, "what is finished is kept for 1m at least", help);
        return None;
    }
    Some(time)
}

pub(super) fn key(file: &mut FileCheck<'_>, node: &Node) -> Option<String> {
    let key = file.text(node)?;
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    if key.len() <= 100 && key.chars().all(valid) {
        return Some(key);
    }
    let cure = || key.to_lowercase().replace([' ', '/'], "-");
    let cure = Some(key.len()).filter(|length| *length <= 100).map(|_| cure());
    let help = cure.filter(|cure| cure.chars().all(valid)).map(|cure| format!("did you mean '{cure}'?"));
    file.expected(node, "a key of 1 to 100 lower-case letters, digits, '-', '_' and '.'", help);
    None
}

pub(super) fn labels(labels: &mut BTreeMap<String, String>, file: &mut FileCheck<'_>, node: &Node) {
    for entry in file.named_entries(node) {
        if let Some(text) = file.text(&entry.value) {
            labels.insert(entry.key.clone(), text);
        }
    }
}

pub(super) fn priorities(file: &mut FileCheck<'_>, node: &Node) -> Option<Priorities> {
    let mut names = BTreeMap::new();
    let entries = file.named_entries(node);
    for entry in &entries {
        let level =
            file.whole(&entry.value, 0..=u32::from(HIGHEST_PRIORITY)).and_then(|level| u8::try_from(level).ok());
        names.insert(entry.key.clone(), level);
    }
    if matches!(node.value, Value::Map(_)) && !names.contains_key("normal") {
        file.report(
            node.at,
            "no priority is named 'normal'",
            "name the one that items get which ask for none, e.g. normal: 4".to_owned(),
        );
    }
    // A level that could not be read was reported; nothing is built from the rest.
    let names: Option<BTreeMap<String, u8>> = names.into_iter().map(|(name, level)| Some((name, level?))).collect();
    names.and_then(Priorities::new)
}

pub(super) fn max_working(file: &mut FileCheck<'_>, node: &Node) -> Option<Option<u32>> {
    if file.says(node, "none", "a whole number")? { Some(None) } else { file.whole(node, 1..=100_000).map(Some) }
}

pub(super) fn breaker(file: &mut FileCheck<'_>, node: &Node) -> Option<Option<Breaker>> {
    if file.says(node, "none", "a map of keys and values")? {
        return Some(None);
    }
    let before = file.mistakes();
    let mut breaker = Breaker::default();
    each(&mut breaker, file, node, BREAKER_KEYS);
    (file.mistakes() == before).then_some(Some(breaker))
}

pub(super) fn calendar(file: &mut FileCheck<'_>, node: &Node) -> Option<Calendar> {
    let Value::Text(text) = &node.value else {
        file.expected(node, "a calendar", calendar::FORM.to_owned());
        return None;
    };
    match Calendar::parse(text) {
        Ok(calendar) => Some(calendar),
        Err(mistake) => {
            let at = file.part_of(node, mistake.skip, mistake.width);
            file.report(at, &mistake.message, mistake.help);
            None
        }
    }
}

/// The queue that work goes on to, or none. Whether there is such a queue shows when all files were read.
pub(super) fn next_queue(file: &mut FileCheck<'_>, node: &Node) -> Option<Option<String>> {
    match &node.value {
        Value::Text(word) if word == "none" => Some(None),
        _ => key(file, node).map(Some),
    }
}

/// For each kind of exception the queue that takes it, with the node that names it.
pub(super) fn queues_by_kind<'n>(file: &mut FileCheck<'_>, node: &'n Node) -> Option<Vec<(Kind, String, &'n Node)>> {
    let before = file.mistakes();
    let mut next = Vec::new();
    for entry in file.named_entries(node) {
        match Kind::from_word(&entry.key) {
            Some(kind) => next.extend(key(file, &entry.value).map(|key| (kind, key, &entry.value))),
            None => unknown_kind(file, entry),
        }
    }
    (file.mistakes() == before).then_some(next)
}

fn unknown_kind(file: &mut FileCheck<'_>, entry: &Entry) {
    let kinds = || Kind::ALL.iter().map(|kind| kind.word());
    let help = match suggest::nearest(&entry.key, kinds()) {
        Some(kind) => format!("did you mean '{kind}'?"),
        None => format!("known here: {}", kinds().collect::<Vec<_>>().join(", ")),
    };
    file.report(entry.key_at, &format!("no exception is of kind '{}'", shorten(&entry.key)), help);
}

pub(super) fn notices(file: &mut FileCheck<'_>, node: &Node) -> Option<Vec<Notice>> {
    let before = file.mistakes();
    let mut notices = Vec::new();
    for item in file.items(node, "a list of notices") {
        let mut draft = NoticeDraft::default();
        let complete = file.mistakes();
        each(&mut draft, file, item, NOTICE_KEYS);
        match (draft.on, draft.to) {
            (Some(on), Some(to)) => {
                let notice = Notice { on, to, at_most: draft.at_most };
                // They would share one limit, under two rates.
                if notices.iter().any(|other| is_same(other, &notice)) {
                    let help = "write one rule with the at_most that is meant".to_owned();
                    file.report(item.at, "another rule here has the same 'on' and 'to'", help);
                }
                notices.push(notice);
            }
            // Without another mistake of this one a key is not there at all.
            (on, _) if file.mistakes() == complete => {
                let (name, example) =
                    if on.is_none() { ("on", "on: [exception]") } else { ("to", "to: https://example.com/hook") };
                file.report(item.at, &format!("'{name}' is missing"), format!("every notice has one: {example}"));
            }
            _ => {}
        }
    }
    (matches!(node.value, Value::List(_)) && file.mistakes() == before).then_some(notices)
}

fn is_same(one: &Notice, other: &Notice) -> bool {
    let about_the_same = one.on.len() == other.on.len() && one.on.iter().all(|occasion| other.on.contains(occasion));
    about_the_same && one.to == other.to
}

fn occasions(file: &mut FileCheck<'_>, node: &Node) -> Option<Vec<Occasion>> {
    let items = file.items(node, "a list of occasions");
    if matches!(&node.value, Value::List(items) if items.is_empty()) {
        file.report(node.at, "a notice needs an occasion", "write one: on: [exception]".to_owned());
    }
    let mut occasions = Vec::new();
    for item in items {
        let Some(occasion) = file.word(item, OCCASIONS) else { continue };
        if occasions.contains(&occasion) {
            file.report(item.at, "this occasion stands here twice", "remove one of them".to_owned());
        }
        occasions.push(occasion);
    }
    (occasions.len() == items.len() && !items.is_empty()).then_some(occasions)
}

fn recipient(file: &mut FileCheck<'_>, node: &Node) -> Option<Url> {
    let help = "write a URL: https://example.com/hook, or mailto:ops@example.com";
    let text = file.text(node)?;
    let url = Url::parse(&text);
    let good = url.ok().filter(|url| match url.scheme() {
        "http" | "https" => url.has_host(),
        "mailto" => is_one_address(url.path()),
        _ => false,
    });
    if good.is_none() {
        file.expected(node, "an http, https or mailto URL", help.to_owned());
    }
    good
}

/// As mail servers take it everywhere. What a URL has to escape is in none, so `%` is not either.
fn is_one_address(text: &str) -> bool {
    let atom = |part: &str, more: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    text.split_once('@').is_some_and(|(who, host)| {
        let who = who.len() <= 64 && who.split('.').all(|part| atom(part, "!#$&'*+-/=^_`{|}~"));
        let label = |part: &str| atom(part, "-") && part.len() <= 63 && !part.starts_with('-') && !part.ends_with('-');
        who && host.len() <= 253 && host.split('.').all(label)
    })
}

fn rate(file: &mut FileCheck<'_>, node: &Node) -> Option<Rate> {
    let text = file.text(node)?;
    let read = text.split_once('/').and_then(|(times, within)| {
        let digits = times.bytes().all(|byte| byte.is_ascii_digit());
        let times = times.parse::<u32>().ok().filter(|times| digits && (1..=1_000).contains(times))?;
        let within: Duration = parse_duration(within).filter(|within| !within.is_zero())?;
        Some(Rate { times, within })
    });
    if read.is_none() {
        file.expected(node, "a rate", "write a number from 1 to 1000 and a duration: 1/15m".to_owned());
    }
    read
}

/// Paths into payloads: JSON Pointers, in which `*` stands for every element or key.
pub(super) fn paths(file: &mut FileCheck<'_>, node: &Node) -> Option<Vec<String>> {
    let before = file.mistakes();
    let mut paths = Vec::new();
    let mut seen = BTreeSet::new();
    for item in file.items(node, "a list of payload paths") {
        let Some(path) = file.text(item) else { continue };
        if !is_pointer(&path) {
            // `$.lines[*].price` and `lines[0].price` are written by many.
            let dotted = path.trim_start_matches('$').replace(['.', '['], "/").replace(['\'', '"', ']'], "");
            let dotted = format!("/{}", dotted.trim_start_matches('/'));
            let help =
                format!("write it as a JSON Pointer: {}", if is_pointer(&dotted) { &dotted } else { "/customer/iban" });
            file.expected(item, "a payload path", help);
        } else if !seen.insert(path.clone()) {
            file.report(item.at, "this path stands here twice", "remove one of them".to_owned());
        }
        paths.push(path);
    }
    (matches!(node.value, Value::List(_)) && file.mistakes() == before).then_some(paths)
}

fn is_pointer(path: &str) -> bool {
    let escapes = |step: &str| step.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    // Keys of JSON may have blanks in them: /bank account
    let plain = path.chars().count() <= 200 && !path.chars().any(|c| c.is_control() || (c.is_whitespace() && c != ' '));
    plain && path.strip_prefix('/').is_some_and(|steps| steps.split('/').all(|step| !step.is_empty() && escapes(step)))
}
