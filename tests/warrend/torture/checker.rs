//! Holds what the daemon's API says at the end of a run against what producers, robots and the nemesis noted. Pure:
//! values in, violations out. It knows the contract (docs/amqp.md, docs/lifecycle.md) and nothing of the daemon's code.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use serde_json::Value;

use super::history::{Event, Hand, Outcome, Publish, Release, What};
use super::operator;

#[cfg(test)]
mod tests;

/// What a queue is defined to be.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub direct: bool,
    pub unique: bool,
    /// Retries of `it`, of `generic`, and a robot's own requeues.
    pub it: u64,
    pub generic: u64,
    pub requeues: u64,
    pub crash_limit: u64,
    /// The broker says of what expired before the door whether it had been handed out before. Where it does not, such an
    /// item may be there once more.
    pub says_what_was_out: bool,
    /// Every delivery is reported about, so nothing is to stay unaccounted.
    pub all_report: bool,
    /// Exceptions of [`CHAINING`] kinds make an item in the queue that nobody else feeds, see [`Self::fed`].
    pub feeds: bool,
    pub fed: bool,
}

/// Kinds of exceptions that chain.
const CHAINING: [&str; 3] = ["exception: business", "exception: it", "exception: generic"];

/// An item as the API shows it at the end.
#[derive(Clone, Debug)]
pub struct Shown {
    pub item: Value,
    pub timeline: Vec<Value>,
    /// What it carries; `None` where that is not there.
    pub payload: Option<String>,
}

/// A queue at the end.
#[derive(Clone, Debug)]
pub struct QueueEnd {
    pub rules: Rules,
    pub unaccounted: u64,
}

/// Everything there is to judge.
pub struct Evidence<'e> {
    pub events: &'e [Event],
    pub items: &'e [Shown],
    pub queues: &'e BTreeMap<String, QueueEnd>,
    /// Messages the daemon could not place.
    pub parked: &'e [Value],
}

/// What is wrong, one line each; empty where the books balance.
pub fn check(evidence: &Evidence<'_>) -> Vec<String> {
    let records = Records::of(evidence);
    let mut wrong = Vec::new();
    for shown in evidence.items {
        let Some(queue) = evidence.queues.get(text(&shown.item, "queue")) else {
            wrong.push(format!("an item of a queue that is none: {}", shown.item));
            continue;
        };
        let mut say = |what: String| wrong.push(format!("{what}: {}", brief(&shown.item)));
        timeline_is_legal(shown, &mut say);
        attempts_keep_the_limits(shown, queue, &records, &mut say);
        its_end_has_a_cause(shown, queue, &records, &mut say);
        if !queue.rules.fed {
            comes_from_a_publish(shown, &records, &mut say);
        }
        last_word_counts(shown, queue, &records, &mut say);
        nobody_gets_it_too_early(shown, &records, &mut say);
        nobody_works_what_was_cancelled(shown, queue, &records, &mut say);
    }
    confirmed_is_there(evidence, &records, &mut wrong);
    no_more_items_than_sends(evidence, &records, &mut wrong);
    nameless_repeats_are_marked(evidence, &mut wrong);
    processed_is_never_refused(evidence, &records, &mut wrong);
    direct_lane_never_stops(evidence, &mut wrong);
    every_end_chains_once(evidence, &mut wrong);
    for (key, queue) in evidence.queues {
        let of_queue = evidence.items.iter().filter(|shown| text(&shown.item, "queue") == key);
        let explained = of_queue.filter(|shown| is_ambiguous(shown, queue, &records)).count() as u64;
        if queue.unaccounted > explained && queue.rules.all_report {
            wrong.push(format!("{} items of {key} are unaccounted, though robots report all", queue.unaccounted));
        }
    }
    wrong.extend(evidence.parked.iter().map(|parked| format!("the daemon could not place a message: {parked}")));
    wrong
}

/// One who says so has seen the whole item.
fn brief(item: &Value) -> String {
    let field = |name: &str| item[name].as_str().unwrap_or("-").to_owned();
    format!(
        "{} {} of {} ({}{}, attempt {}, retries {}, requeues {}, inferred {}, revision {})",
        field("id"),
        field("reference"),
        field("queue"),
        field("state"),
        item["kind"].as_str().map(|kind| format!(": {kind}")).unwrap_or_default(),
        item["attempt"],
        item["retries"],
        item["requeues"],
        item["inferred"],
        item["revision"],
    )
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_default()
}

/// Queue, and the `message-id` or reference in it.
type About<'e> = (&'e str, &'e str);

/// A report: whose, of which type, and whether it arrived.
type Said<'e> = (&'e Hand, &'e str, Outcome);

/// When, which verb, and what was answered.
type Asked<'e> = (Timestamp, &'e str, Option<u16>);

/// The events, by what they are about.
struct Records<'e> {
    publishes: HashMap<About<'e>, Vec<&'e Publish>>,
    bodies: HashSet<About<'e>>,
    nameless_bodies: HashSet<About<'e>>,
    /// By queue and `message-id`.
    deliveries: HashMap<About<'e>, Vec<&'e Hand>>,
    delivered_bodies: HashSet<About<'e>>,
    first_delivered: HashMap<About<'e>, Timestamp>,
    /// Every delivery with its time.
    delivered_at: HashMap<About<'e>, Vec<(&'e Hand, Timestamp)>>,
    /// What the operator asked of an item: when, what, and what was answered.
    asked: HashMap<&'e str, Vec<Asked<'e>>>,
    falls_at: Vec<Timestamp>,
    reports: HashMap<About<'e>, Vec<Said<'e>>>,
    releases: HashMap<About<'e>, Vec<(&'e Hand, Release)>>,
    /// Times at which robots lost their connections.
    broker_falls: u64,
    /// Times at which anything else happened to the daemon or its connections.
    daemon_falls: u64,
}

fn about(hand: &Hand) -> Option<(&str, &str)> {
    Some((hand.queue.as_str(), hand.id.as_deref()?))
}

impl<'e> Records<'e> {
    fn of(evidence: &'e Evidence<'_>) -> Self {
        let mut records = Self {
            publishes: HashMap::new(),
            bodies: HashSet::new(),
            nameless_bodies: HashSet::new(),
            deliveries: HashMap::new(),
            delivered_bodies: HashSet::new(),
            first_delivered: HashMap::new(),
            delivered_at: HashMap::new(),
            asked: HashMap::new(),
            falls_at: Vec::new(),
            reports: HashMap::new(),
            releases: HashMap::new(),
            broker_falls: 0,
            daemon_falls: 0,
        };
        for event in evidence.events {
            match &event.what {
                What::Published(publish) => {
                    let body = (publish.queue.as_str(), publish.body.as_str());
                    records.bodies.insert(body);
                    match &publish.reference {
                        Some(reference) => {
                            records.publishes.entry((&publish.queue, reference)).or_default().push(publish);
                        }
                        None if publish.outcome == Outcome::Confirmed => drop(records.nameless_bodies.insert(body)),
                        None => {}
                    }
                }
                What::Delivered { hand, body, .. } => {
                    records.delivered_bodies.insert((&hand.queue, body));
                    if let Some(about) = about(hand) {
                        records.deliveries.entry(about).or_default().push(hand);
                        records.first_delivered.entry(about).or_insert(event.at);
                        records.delivered_at.entry(about).or_default().push((hand, event.at));
                    }
                }
                What::Reported { hand, kind, outcome } => {
                    if let Some(about) = about(hand) {
                        records.reports.entry(about).or_default().push((hand, kind, *outcome));
                    }
                }
                What::Released { hand, how } => {
                    if let Some(about) = about(hand) {
                        records.releases.entry(about).or_default().push((hand, *how));
                    }
                }
                What::Fault { name } if matches!(name.as_str(), "broker killed" | "broker told to stop") => {
                    records.broker_falls += 1;
                    records.falls_at.push(event.at);
                }
                What::Fault { .. } => records.daemon_falls += 1,
                What::Asked { verb, item, status, .. } => {
                    records.asked.entry(item).or_default().push((event.at, verb, *status));
                }
                What::Began { .. } | What::Stood { .. } => {}
            }
        }
        records
    }
}

/// Everything of a kind about an item: under its id, and, of the first attempt of a direct one, its reference.
fn of_item<'r, T>(records: &'r HashMap<About<'r>, Vec<T>>, shown: &'r Shown, direct: bool) -> Vec<&'r T> {
    let (queue, id) = (text(&shown.item, "queue"), text(&shown.item, "id"));
    let mut found: Vec<&T> = records.get(&(queue, id)).into_iter().flatten().collect();
    if let (true, Some(reference)) = (direct, shown.item["reference"].as_str()) {
        found.extend(records.get(&(queue, reference)).into_iter().flatten());
    }
    found
}

/// Moves that the operator made.
fn by_operator<'s>(shown: &'s Shown, events: &'s [&str]) -> impl Iterator<Item = &'s Value> {
    let made = |line: &&Value| text(line, "actor") == operator::NAME && events.contains(&text(line, "event"));
    shown.timeline.iter().filter(made)
}

const MOVES: [&str; 5] = ["held", "released", "cancelled", "restored", "requeued"];

/// As docs/lifecycle.md allows it to people.
fn people_may(from: &str, to: &str) -> bool {
    match to {
        "on_hold" => from == "queued" || from == "processed" || from == "cancelled" || from.starts_with("exception"),
        "queued" => matches!(from, "on_hold" | "cancelled" | "processed") || from.starts_with("exception"),
        "cancelled" => matches!(from, "queued" | "on_hold") || from.starts_with("exception"),
        _ => from == "cancelled" || from == to,
    }
}

/// From and to of one line to the next, as docs/lifecycle.md allows it without operators. What was inferred may be
/// corrected.
fn may_follow(from: &str, inferred: bool, to: &str) -> bool {
    if from == to {
        return true; // noted
    }
    let kind = to.strip_prefix("exception: ");
    if to == "cancelled"
        || kind.is_some_and(|kind| !matches!(kind, "business" | "it" | "generic" | "expired" | "poison" | "missing"))
    {
        return false;
    }
    match from {
        "queued" | "processing" => true,
        "exception: generic" | "exception: missing" => {
            matches!(to, "processed" | "exception: business" | "exception: it" | "queued" | "on_hold")
        }
        "processed" => inferred && to != "processing",
        "on_hold" | "cancelled" => to == "processed",
        exception => exception.starts_with("exception: ") && to == "processed",
    }
}

fn timeline_is_legal(shown: &Shown, say: &mut impl FnMut(String)) {
    let Some(first) = shown.timeline.first() else {
        say("it has no timeline".to_owned());
        return;
    };
    let begins = match text(first, "event") {
        "admitted" | "seen" => text(first, "state") == "queued",
        "refused" => {
            matches!(text(first, "state"), "exception: invalid" | "exception: duplicate" | "exception: expired")
        }
        _ => false,
    };
    if !begins {
        say(format!("its timeline begins with {first}"));
    }
    for pair in shown.timeline.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        if number(after, "revision") <= number(before, "revision") {
            say(format!("revision {} comes after {}", after["revision"], before["revision"]));
        }
        let times = (text(before, "at").parse::<Timestamp>(), text(after, "at").parse::<Timestamp>());
        if !matches!(times, (Ok(before), Ok(after)) if before <= after) {
            say(format!("time goes back from {} to {}", before["at"], after["at"]));
        }
        // Lines about it that were only noted may stand between.
        let upto = shown.timeline.iter().filter(|line| number(line, "revision") <= number(before, "revision"));
        let inferred = upto.rev().find(|line| text(line, "event") == "processed");
        let inferred = inferred.is_some_and(|line| text(line, "why").contains("inferred at rest"));
        let (from, to) = (text(before, "state"), text(after, "state"));
        let people = by_operator(shown, &MOVES).any(|line| line["revision"] == after["revision"]);
        let may = if people { people_may(from, to) } else { may_follow(from, inferred, to) };
        if !may {
            say(format!("it went from {} to {} by {after}", before["state"], after["state"]));
        }
    }
    let last = &shown.timeline[shown.timeline.len() - 1];
    let state = match shown.item["kind"].as_str() {
        Some(kind) => format!("{}: {kind}", text(&shown.item, "state")),
        None => text(&shown.item, "state").to_owned(),
    };
    if text(last, "state") != state || number(last, "revision") > number(&shown.item, "revision") {
        say(format!("its last line says {} in revision {}", last["state"], last["revision"]));
    }
}

fn attempts_keep_the_limits(shown: &Shown, queue: &QueueEnd, records: &Records<'_>, say: &mut impl FnMut(String)) {
    let (item, rules) = (&shown.item, &queue.rules);
    let (attempt, retries, requeues) = (number(item, "attempt"), number(item, "retries"), number(item, "requeues"));
    if retries > rules.it.max(rules.generic) {
        say(format!("it was retried {retries} times"));
    }
    if requeues > rules.requeues {
        say(format!("it was requeued {requeues} times"));
    }
    let times = |events: &[&str]| by_operator(shown, events).count() as u64;
    // What a robot had before it was taken back counts as an attempt.
    let recalled: Vec<u64> = (shown.timeline.iter())
        .filter(|line| text(line, "event") == "recalled")
        .map(|line| number(line, "attempt"))
        .collect();
    // What was claimed over HTTP counts, however its lease ended, and though nobody may have heard of it.
    let events = |event: &str| shown.timeline.iter().filter(|line| text(line, "event") == event).collect::<Vec<_>>();
    let claimed: Vec<u64> = events("claimed").into_iter().map(|line| number(line, "attempt")).collect();
    let ended = events("lease_lost").len() + events("returned").len();
    let again = (recalled.len() + ended) as u64 + times(&["released", "restored"]);
    let most = match times(&["requeued"]) {
        0 => 1 + retries + requeues,
        // Retries and requeues count from 0 each time.
        requeued => (1 + rules.it.max(rules.generic) + rules.requeues) * (1 + requeued),
    };
    if attempt > most + again {
        say("it has more attempts than retries and requeues explain".to_owned());
    }
    let delivered: BTreeSet<u64> = of_item(&records.deliveries, shown, rules.direct)
        .into_iter()
        .map(|hand| hand.attempt.map_or(1, |attempt| u64::try_from(attempt).unwrap_or_default()))
        .collect();
    if let Some(last) = delivered.last().copied() {
        // A broker that falls forgets whom it handed a message: taken back afterwards, the attempt counts as none.
        let forgotten = u64::from(records.broker_falls > 0 && !records.asked.is_empty());
        if last > attempt + forgotten && !is_ambiguous(shown, queue, records) {
            say(format!("attempt {last} was delivered"));
        }
        // A nameless direct item was delivered under no id of its own the first time.
        let first = if rules.direct && item["reference"].is_null() { 2 } else { 1 };
        let known = |attempt: &u64| [&recalled, &claimed].iter().any(|all| all.contains(attempt));
        let missing = |attempt: &u64| !delivered.contains(attempt) && !known(attempt);
        if let Some(gap) = (first..=last).find(missing) {
            say(format!("attempt {gap} was never delivered, attempt {last} was"));
        }
    }
}

/// Whether anybody did what leads to where it stands.
fn its_end_has_a_cause(shown: &Shown, queue: &QueueEnd, records: &Records<'_>, say: &mut impl FnMut(String)) {
    let (item, direct) = (&shown.item, queue.rules.direct);
    let (key, reference) = (text(item, "queue"), item["reference"].as_str());
    let reports = of_item(&records.reports, shown, direct);
    let releases = of_item(&records.releases, shown, direct);
    let deliveries = of_item(&records.deliveries, shown, direct);
    let said = |kind: &str| reports.iter().any(|(_, said, _)| *said == kind);
    let released = |any: &[Release]| releases.iter().any(|(_, how)| any.contains(how));
    let asked = |verbs: &[&str]| {
        let all = records.asked.get(text(item, "id"));
        all.is_some_and(|all| all.iter().any(|(_, verb, _)| verbs.contains(verb)))
    };
    let publishes = reference.and_then(|reference| records.publishes.get(&(key, reference)));
    let nameless = direct && reference.is_none();
    let holds = match (text(item, "state"), text(item, "kind")) {
        ("queued" | "processing", _) => {
            let acked_in_silence = !queue.rules.all_report && released(&[Release::Acked, Release::Unsure]);
            if !(acked_in_silence || is_ambiguous(shown, queue, records)) {
                say("it is still open".to_owned());
            }
            true
        }
        // As much as with the open ones nobody knows.
        ("exception", "missing") => {
            let acked_in_silence = !queue.rules.all_report && released(&[Release::Acked, Release::Unsure]);
            acked_in_silence || is_ambiguous(shown, queue, records)
        }
        ("processed", _) if item["inferred"] == true => {
            !deliveries.is_empty() && released(&[Release::Acked, Release::Unsure])
        }
        ("processed", _) => said("processed"),
        ("on_hold", _) => said("hold") || asked(&["hold"]),
        ("cancelled", _) => asked(&["cancel"]),
        ("exception", "business") => said("business_exception"),
        ("exception", "it") => said("it_exception"),
        ("exception", "generic") => {
            let rejected = released(&[Release::Rejected, Release::Unsure]);
            said("generic_exception") || said("requeue") || rejected || nameless
        }
        ("exception", "poison") => {
            let attempt = number(item, "attempt");
            let of_attempt = |hand: &&&&Hand| hand.attempt.map_or(attempt == 1, |of| of.unsigned_abs() == attempt);
            let seen = deliveries.iter().filter(of_attempt).count() as u64;
            let lost = shown.timeline.iter().filter(|line| text(line, "event") == "lease_lost").count() as u64;
            // A robot may lose its connection before it sees what the broker had handed to it, and so may the daemon, which
            // takes out of the queue what is claimed over HTTP.
            nameless || seen + lost + records.broker_falls + records.daemon_falls >= queue.rules.crash_limit
        }
        ("exception", "expired") => publishes.is_some_and(|sent| sent.iter().any(|publish| publish.expires)),
        ("exception", "duplicate") => {
            let contents: BTreeSet<&str> =
                publishes.into_iter().flatten().map(|publish| publish.body.as_str()).collect();
            queue.rules.unique && contents.len() > 1
        }
        _ => false,
    };
    if !holds {
        say("nobody did what would lead there".to_owned());
    }
}

/// Where robots said one thing alone of the last attempt, that is where the item stands.
fn last_word_counts(shown: &Shown, queue: &QueueEnd, records: &Records<'_>, say: &mut impl FnMut(String)) {
    let (item, direct) = (&shown.item, queue.rules.direct);
    let touched = by_operator(shown, &MOVES).next().is_some();
    if touched || is_ambiguous(shown, queue, records) || matches!(text(item, "kind"), "poison" | "expired") {
        return;
    }
    let reports = of_item(&records.reports, shown, direct);
    if reports.iter().any(|(_, kind, _)| *kind == "processed") {
        return;
    }
    let last = |hand: &Hand| hand.attempt.map_or(1, i64::unsigned_abs) == number(item, "attempt");
    let words: BTreeSet<(&str, bool)> = reports
        .iter()
        .filter(|(hand, kind, _)| last(hand) && *kind != "started")
        .map(|(_, kind, outcome)| (*kind, *outcome == Outcome::Confirmed))
        .collect();
    let [(word, true)] = Vec::from_iter(words)[..] else { return };
    let expected = match word {
        "business_exception" => ("exception", "business"),
        "it_exception" => ("exception", "it"),
        "hold" => ("on_hold", ""),
        _ => ("exception", "generic"),
    };
    if expected != (text(item, "state"), text(item, "kind")) {
        say(format!("robots said {word} of its last attempt and nothing else"));
    }
}

/// How long before a broker falls its word may be lost with it: an ack is no confirm.
const UNSURE: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);

/// No robot gets hold of an item and acks it after its cancel was answered as done, unless it was restored.
fn nobody_works_what_was_cancelled(
    shown: &Shown,
    queue: &QueueEnd,
    records: &Records<'_>,
    say: &mut impl FnMut(String),
) {
    let Some(asked) = records.asked.get(text(&shown.item, "id")) else { return };
    if is_ambiguous(shown, queue, records) {
        return;
    }
    let mut cancelled: Option<Timestamp> = None;
    let mut spans = Vec::new();
    for (at, verb, status) in asked {
        match (*verb, status) {
            ("cancel", Some(200)) => cancelled = cancelled.or(Some(*at)),
            ("restore", None) => spans.extend(cancelled.take().map(|since| (since, Some(*at)))),
            _ => {}
        }
    }
    spans.extend(cancelled.map(|since| (since, None)));
    let acked: Vec<&Hand> = of_item(&records.releases, shown, queue.rules.direct)
        .into_iter()
        .filter(|(_, how)| *how == Release::Acked)
        .map(|(hand, _)| *hand)
        .collect();
    for (hand, at) in of_item(&records.delivered_at, shown, queue.rules.direct) {
        let within =
            |(since, until): &(Timestamp, Option<Timestamp>)| at > since && until.is_none_or(|until| *at < until);
        let Some((since, _)) = spans.iter().find(|span| within(span)) else { continue };
        let fell = |fall: &Timestamp| *fall < *at && fall.duration_since(*since) > -UNSURE && *since + UNSURE > *fall;
        if acked.contains(hand) && !records.falls_at.iter().any(fell) {
            say(format!("it was cancelled at {since}, and {} got it at {at}", hand.robot));
        }
    }
}

fn nobody_gets_it_too_early(shown: &Shown, records: &Records<'_>, say: &mut impl FnMut(String)) {
    let about = (text(&shown.item, "queue"), text(&shown.item, "id"));
    let first = records.first_delivered.get(&about);
    let not_before = text(&shown.item, "not_before").parse::<Timestamp>();
    if let (Ok(not_before), Some(first)) = (not_before, first)
        && *first < not_before
    {
        say(format!("it was not to be handed out before {not_before}, and was at {first}"));
    }
}

/// A first direct delivery is known by its reference alone. Where that was sent more than once, a report cannot say
/// which of the messages it is about: an item may stay open whose robot has spoken.
fn is_ambiguous(shown: &Shown, queue: &QueueEnd, records: &Records<'_>) -> bool {
    let about = (text(&shown.item, "queue"), text(&shown.item, "reference"));
    queue.rules.direct && records.publishes.get(&about).is_some_and(|sent| sent.len() > 1)
}

fn comes_from_a_publish(shown: &Shown, records: &Records<'_>, say: &mut impl FnMut(String)) {
    let queue = text(&shown.item, "queue");
    let known = match shown.item["reference"].as_str() {
        Some(reference) => records.publishes.get(&(queue, reference)).is_some_and(|sent| match &shown.payload {
            Some(payload) => sent.iter().any(|publish| publish.body == *payload),
            None => true,
        }),
        None => shown.payload.as_deref().is_none_or(|payload| records.bodies.contains(&(queue, payload))),
    };
    if !known {
        say(format!("nobody ever sent it, with the content {:?}", shown.payload));
    }
}

/// The items of each queue and reference, with their content.
fn by_reference(items: &[Shown]) -> HashMap<About<'_>, Vec<&Shown>> {
    let mut found: HashMap<(&str, &str), Vec<&Shown>> = HashMap::new();
    for shown in items {
        if let Some(reference) = shown.item["reference"].as_str() {
            found.entry((text(&shown.item, "queue"), reference)).or_default().push(shown);
        }
    }
    found
}

fn confirmed_is_there(evidence: &Evidence<'_>, records: &Records<'_>, wrong: &mut Vec<String>) {
    let items = by_reference(evidence.items);
    for ((queue, reference), publishes) in &records.publishes {
        let found = items.get(&(*queue, *reference)).map_or(&[][..], Vec::as_slice);
        let contents: BTreeSet<&str> = publishes
            .iter()
            .filter(|publish| publish.outcome == Outcome::Confirmed)
            .map(|publish| publish.body.as_str())
            .collect();
        for content in contents {
            if !found.iter().any(|shown| shown.payload.as_deref() == Some(content)) {
                wrong.push(format!("{reference} of {queue} was confirmed and is not in the mirror with {content}"));
            }
        }
    }
    // Without a name it is known by what robots got, or, refused or expired, by its content in the mirror.
    let contents: HashSet<(&str, &str)> = evidence
        .items
        .iter()
        .filter_map(|shown| Some((text(&shown.item, "queue"), shown.payload.as_deref()?)))
        .collect();
    for body in records.nameless_bodies.iter().filter(|body| evidence.queues.contains_key(body.0)) {
        let direct = evidence.queues[body.0].rules.direct;
        if !records.delivered_bodies.contains(body) || (!direct && !contents.contains(body)) {
            wrong.push(format!("{} of {}, without a name, was confirmed and is lost", body.1, body.0));
        }
    }
}

fn no_more_items_than_sends(evidence: &Evidence<'_>, records: &Records<'_>, wrong: &mut Vec<String>) {
    for ((queue, reference), found) in by_reference(evidence.items) {
        let Some(QueueEnd { rules, .. }) = evidence.queues.get(queue).filter(|queue| !queue.rules.fed) else {
            continue;
        };
        let sends = records.publishes.get(&(queue, reference)).map_or(0, Vec::len);
        // Expired before the door, perhaps after the door had seen it.
        let repeats_expiry = |shown: &&&Shown| {
            let (first, kind) = (&shown.timeline[0], text(&shown.item, "kind"));
            let by_broker = kind == "duplicate" && text(first, "actor") == "broker";
            text(first, "event") == "refused" && (kind == "expired" || by_broker)
        };
        let doubtful = if rules.says_what_was_out { 0 } else { found.iter().filter(repeats_expiry).count() };
        let refused = |shown: &&&Shown| matches!(text(&shown.item, "kind"), "invalid" | "duplicate");
        let admitted = found.iter().filter(|shown| !refused(shown)).count();
        if rules.unique && admitted > 1 {
            wrong.push(format!("{reference} of {queue} is unique and there {admitted} times"));
        }
        if found.len() - doubtful > sends {
            wrong.push(format!("{reference} of {queue} was sent {sends} times and is there {} times", found.len()));
        }
    }
}

/// No end makes more than one item, each makes one or finds one of its reference there, and nothing else makes any.
fn every_end_chains_once(evidence: &Evidence<'_>, wrong: &mut Vec<String>) {
    let rules = |shown: &Shown| evidence.queues.get(text(&shown.item, "queue")).map(|queue| queue.rules);
    let mut made: HashMap<&str, Vec<&Shown>> = HashMap::new();
    let mut names: HashSet<&str> = HashSet::new();
    for shown in evidence.items.iter().filter(|shown| rules(shown).is_some_and(|rules| rules.fed)) {
        made.entry(text(&shown.item, "parent")).or_default().push(shown);
        names.insert(text(&shown.item, "reference"));
    }
    for shown in evidence.items.iter().filter(|shown| rules(shown).is_some_and(|rules| rules.feeds)) {
        let changed = |pair: &&[Value]| pair[0]["state"] != pair[1]["state"] && pair[1]["event"] != "restored";
        let ends: BTreeSet<(u64, &str)> = (shown.timeline.windows(2).filter(changed))
            .map(|pair| (number(&pair[1], "attempt"), text(&pair[1], "state")))
            .filter(|(_, state)| CHAINING.contains(state))
            .collect();
        let made = made.remove(text(&shown.item, "id")).unwrap_or_default();
        if made.len() > ends.len() {
            wrong.push(format!("it ended {ends:?} and made {} items: {}", made.len(), brief(&shown.item)));
        }
        if !ends.is_empty() && !names.contains(text(&shown.item, "reference")) {
            wrong.push(format!("it ended {ends:?} and made no item: {}", brief(&shown.item)));
        }
        let other = |child: &&&Shown| child.payload != shown.payload;
        wrong.extend(
            made.iter().filter(other).map(|child| format!("its payload is not its parent's: {}", brief(&child.item))),
        );
    }
    let orphans = made.into_values().flatten();
    wrong.extend(orphans.map(|shown| format!("no end made it: {}", brief(&shown.item))));
}

/// Without a reference a crash may admit a message twice: then the second is marked.
fn nameless_repeats_are_marked(evidence: &Evidence<'_>, wrong: &mut Vec<String>) {
    let mut sends: HashMap<About<'_>, usize> = HashMap::new();
    for event in evidence.events {
        if let What::Published(Publish { queue, reference: None, body, .. }) = &event.what {
            *sends.entry((queue, body)).or_default() += 1;
        }
    }
    let mut items: BTreeMap<About<'_>, usize> = BTreeMap::new();
    for shown in evidence.items {
        let queue = text(&shown.item, "queue");
        let managed = evidence.queues.get(queue).is_some_and(|queue| !queue.rules.direct);
        if let (true, true, Some(payload)) = (managed, shown.item["reference"].is_null(), &shown.payload) {
            *items.entry((queue, payload)).or_default() += usize::from(shown.item["possible_repeat"] != true);
        }
    }
    for ((queue, body), found) in items {
        let sends = sends.get(&(queue, body)).copied().unwrap_or_default();
        if found > sends {
            wrong.push(format!("{body} of {queue} was sent {sends} times and is there {found} times, unmarked"));
        }
    }
}

/// One `processed` that the broker confirmed, of whichever attempt, ends its item as processed.
fn processed_is_never_refused(evidence: &Evidence<'_>, records: &Records<'_>, wrong: &mut Vec<String>) {
    let by_id: HashMap<&str, &Shown> = evidence.items.iter().map(|shown| (text(&shown.item, "id"), shown)).collect();
    let by_reference = by_reference(evidence.items);
    for (about, reports) in &records.reports {
        let done = reports.iter().any(|(_, kind, outcome)| *kind == "processed" && *outcome == Outcome::Confirmed);
        if !done {
            continue;
        }
        let items = match by_id.get(about.1) {
            Some(shown) => vec![*shown],
            None => by_reference.get(about).cloned().unwrap_or_default(),
        };
        // Somebody set aside what was processed already.
        let held = |shown: &&&Shown| by_operator(shown, &["held"]).next().is_some();
        if !items.iter().any(|shown| shown.item["state"] == "processed") && items.iter().find(held).is_none() {
            let shown: Vec<String> = items.iter().map(|shown| brief(&shown.item)).collect();
            wrong.push(format!("{} of {} was reported processed and is {}", about.1, about.0, shown.join(", ")));
        }
    }
}

/// Where the nemesis took the daemon away and left the broker alone, direct items were handed out meanwhile.
fn direct_lane_never_stops(evidence: &Evidence<'_>, wrong: &mut Vec<String>) {
    let mut away: Option<(Timestamp, usize)> = None;
    for event in evidence.events {
        match &event.what {
            What::Fault { name } => match name.as_str() {
                "daemon killed" | "daemon stopped" => away = Some((event.at, 0)),
                "daemon started" => {
                    if let Some((since, 0)) = away.take() {
                        wrong.push(format!(
                            "no direct item was delivered from {since} to {}, without the daemon",
                            event.at
                        ));
                    }
                }
                _ => {}
            },
            What::Delivered { hand, .. } => {
                let direct = evidence.queues.get(&hand.queue).is_some_and(|queue| queue.rules.direct);
                if let (true, Some((_, delivered))) = (direct, away.as_mut()) {
                    *delivered += 1;
                }
            }
            What::Stood { what } => wrong.push(format!("it stood still: {what}")),
            _ => {}
        }
    }
}
