//! What somebody asks of many items, read from a request's body so that everything wrong is named at once.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;

use super::super::control::name;
use super::super::extract::shown;
use super::super::members::{Reader, compact};
use super::super::problem::Problem;
use super::What;
use super::bodies::{ACTION, FILTER};
use crate::control::actions::door::Set;
use crate::item::action::{Deed, Wish, Wished};
use crate::item::document::Node;
use crate::item::door::PriorityWish;
use crate::item::patch::Patch;
use crate::item::ramp::{PATIENCE, Ramp, Rate, STEPS};
use crate::item::request::Changes;
use crate::item::{ItemId, Kind, State};
use crate::mirror::ItemFilter;
use crate::units::{DURATION_FORM, parse_duration};

/// The most ids one job may name.
const MOST_IDS: usize = 100_000;

/// Ids that are none, shown one by one.
const SHOWN_IDS: usize = 10;

/// Bytes of a patch, or a payload for everything.
const LARGEST_CHANGE: usize = 1024 * 1024;

/// Characters of a note or reason.
const LONGEST_TEXT: usize = 10_000;

/// Characters of `q`, labels and references of a filter.
const LONGEST_FILTER: usize = 200;

/// Labels of a filter.
const MOST_LABELS: usize = 20;

/// Steps of a ramp.
const MOST_STEPS: usize = 50;

/// The longest a requeue may be put off.
const LONGEST_DELAY: Duration = Duration::from_hours(24 * 366);

/// What an action may say beside what any may.
const fn particulars(deed: Deed) -> &'static [&'static str] {
    match deed {
        Deed::Hold | Deed::Release | Deed::Restore | Deed::Undo => &[],
        Deed::Cancel => &["on_sight"],
        Deed::Requeue => {
            &["delay", "payload", "patch", "merge_patch", "priority", "name", "due_at", "expires_at", "not_before"]
        }
        Deed::Edit => &["payload", "patch", "merge_patch", "priority", "name", "due_at", "expires_at", "not_before"],
        Deed::Note => &["note"],
        Deed::Assign => &["assignee"],
    }
}

const PARTICULARS: [&str; 11] = [
    "on_sight",
    "delay",
    "payload",
    "patch",
    "merge_patch",
    "priority",
    "name",
    "due_at",
    "expires_at",
    "not_before",
    "note",
];

/// What is asked for, and who the body says asks.
pub(super) fn read(body: &[u8]) -> Result<(Option<String>, What), Problem> {
    let mut reader = Reader::of(body, ACTION)?;
    let deed = deed(&mut reader);
    if let Some(deed) = deed {
        for member in PARTICULARS.into_iter().chain(["assignee"]) {
            if reader.has(member) && !particulars(deed).contains(&member) {
                reader.fault(member, format!("{member} is not for {deed}"));
                reader.skip(member);
            }
        }
    }
    let mut wish = Wish { why: longest_why(&mut reader), ..Wish::of(deed.unwrap_or(Deed::Hold)) };
    read_wish(&mut reader, &mut wish);
    if deed.is_none() {
        reader.skip("note");
        reader.skip("assignee");
    }
    let set = set(&mut reader);
    let (dry_run, rate, ramp) = (reader.boolean("dry_run"), rate(&mut reader), ramp(&mut reader));
    let works = matches!(wish.deed, Deed::Requeue | Deed::Release | Deed::Restore);
    if ramp.is_some() && deed.is_some() && !works {
        let text = "ramp is for requeue, release and restore: it waits for what becomes of items that are worked";
        reader.fault("ramp", text.to_owned());
    }
    let by = reader.text("by");
    if let Some(Err(problem)) = by.clone().map(name) {
        reader.adopt(problem);
    }
    reader.done()?;
    Ok((by, What { wish, set, dry_run, rate, ramp }))
}

fn deed(reader: &mut Reader) -> Option<Deed> {
    let asked: Vec<&str> = Deed::ALL.iter().filter(|deed| **deed != Deed::Undo).map(|deed| deed.word()).collect();
    if !reader.has("action") {
        reader.fault("action", format!("action is missing; allowed: {}", asked.join(", ")));
        return None;
    }
    let word = reader.text("action")?;
    let deed = Deed::from_word(&word).filter(|deed| *deed != Deed::Undo);
    if deed.is_none() {
        reader.fault("action", format!("action is '{}'; allowed: {}", shown(&word), asked.join(", ")));
    }
    deed
}

pub(super) fn longest_why(reader: &mut Reader) -> Option<String> {
    let why = reader.text("why")?;
    if why.chars().count() > LONGEST_TEXT {
        reader.fault("why", format!("why has at most {LONGEST_TEXT} characters"));
    }
    Some(why)
}

fn read_wish(reader: &mut Reader, wish: &mut Wish) {
    wish.on_sight = reader.boolean("on_sight");
    wish.changes = Changes {
        name: reader.given("name", Reader::text),
        due_at: reader.given("due_at", Reader::time),
        expires_at: reader.given("expires_at", Reader::time),
        not_before: reader.given("not_before", Reader::time),
        ..Changes::default()
    };
    wish.priority = reader.priority().map(|priority| match priority {
        PriorityWish::Level(level) => Wished::Level(level),
        PriorityWish::Named(name) => Wished::Named(name),
    });
    if let Some(delay) = duration(reader, "delay", LONGEST_DELAY) {
        if wish.changes.not_before.is_some() {
            reader.fault("delay", "delay stands beside not_before; one of them is enough".to_owned());
        }
        wish.delay = u64::try_from(delay.as_millis()).ok();
    }
    wish.payload = reader.another_payload().and_then(|(body, _)| String::from_utf8(body).ok());
    wish.patch = raw(reader, "patch");
    wish.merge = raw(reader, "merge_patch");
    if [&wish.payload, &wish.patch, &wish.merge].into_iter().flatten().count() > 1 {
        reader.fault("patch", "payload, patch and merge_patch exclude each other".to_owned());
    }
    for (member, text) in [("payload", &wish.payload), ("patch", &wish.patch), ("merge_patch", &wish.merge)] {
        if text.as_ref().is_some_and(|text| text.len() > LARGEST_CHANGE) {
            reader.fault(member, format!("{member} has more than {LARGEST_CHANGE} bytes"));
        }
    }
    if let Some(Err(wrong)) = wish.patch.as_deref().map(Patch::read) {
        for wrong in wrong.into_iter().take(SHOWN_IDS) {
            reader.fault("patch", format!("patch: {wrong}"));
        }
    }
    if let Some(Err(wrong)) = wish.merge.as_ref().map(|merge| Node::read(merge.as_bytes())) {
        reader.fault("merge_patch", format!("merge_patch: {wrong}"));
    }
    if wish.deed == Deed::Note {
        wish.note = reader.text("note");
        let length = wish.note.as_deref().map_or(0, |note| note.trim().chars().count());
        if length == 0 || length > LONGEST_TEXT {
            reader.fault("note", format!("note has to be a text of 1 to {LONGEST_TEXT} characters"));
        }
    }
    if wish.deed == Deed::Assign {
        match reader.given("assignee", Reader::text) {
            None if !reader.has("assignee") && !reader.is_faulty("assignee") => {
                reader.fault("assignee", "assignee is missing; write a name, or null for nobody".to_owned());
            }
            None => {}
            Some(assignee) => match assignee.map(name).transpose() {
                Ok(assignee) => wish.assignee = assignee,
                Err(_) => reader.fault("assignee", "assignee is no name of 1 to 100 printable characters".to_owned()),
            },
        }
    }
    let nothing = wish.changes == Changes::default() && wish.priority.is_none() && !wish.touches_payload();
    if wish.deed == Deed::Edit && nothing {
        reader.fault("action", "there is nothing to change; name what edit is to change".to_owned());
    }
}

fn raw(reader: &mut Reader, member: &str) -> Option<String> {
    let raw: Box<RawValue> = reader.value(member, "JSON")?;
    Some(compact(raw.get()))
}

fn duration(reader: &mut Reader, member: &str, longest: Duration) -> Option<Duration> {
    let text = reader.text(member)?;
    let duration = parse_duration(&text).filter(|duration| *duration <= longest);
    if duration.is_none() {
        let text = format!("{member} is '{}', and has to be {DURATION_FORM}, at most a year", shown(&text));
        reader.fault(member, text);
    }
    duration
}

fn set(reader: &mut Reader) -> Set {
    let (ids, filter) = (reader.says("ids"), reader.says("filter"));
    let all = reader.boolean("all");
    if ids && filter {
        reader.fault("filter", "ids and filter exclude each other".to_owned());
    }
    if ids && all {
        reader.fault("all", "all stands beside ids; it is for a filter that is empty".to_owned());
    }
    let named = read_ids(reader);
    let matched = read_filter(reader);
    if ids {
        return Set::Ids(named);
    }
    if !filter && !all {
        let text = "which items? name ids, or a filter; all: true is every item there is";
        reader.fault("ids", text.to_owned());
    } else if matched == ItemFilter::default() && !all && !reader.is_faulty("filter") {
        let text = "filter is empty and would match every item there is; say all: true where that is meant";
        reader.fault("filter", text.to_owned());
    }
    Set::Filter(matched)
}

fn read_ids(reader: &mut Reader) -> Vec<ItemId> {
    let Some(texts) = reader.value::<Vec<String>>("ids", "an array of item ids") else { return Vec::new() };
    if texts.is_empty() || texts.len() > MOST_IDS {
        reader.fault("ids", format!("ids has {} entries; allowed: 1 to {MOST_IDS}", texts.len()));
    }
    let mut wrong = 0;
    let mut ids = Vec::with_capacity(texts.len().min(MOST_IDS));
    for (index, text) in texts.iter().enumerate().take(MOST_IDS) {
        match text.parse() {
            Ok(id) => ids.push(id),
            Err(_) => {
                wrong += 1;
                if wrong <= SHOWN_IDS {
                    reader.fault_at(&format!("ids/{index}"), format!("'{}' is no item id", shown(text)));
                }
            }
        }
    }
    if wrong > SHOWN_IDS {
        reader.fault("ids", format!("{} more entries are no item ids", wrong - SHOWN_IDS));
    }
    ids
}

fn read_filter(reader: &mut Reader) -> ItemFilter {
    let mut filter = ItemFilter::default();
    let Some(raw) = reader.value::<Box<RawValue>>("filter", "an object") else { return filter };
    let Ok(mut members) = Reader::of(raw.get().as_bytes(), FILTER) else {
        reader.fault("filter", format!("filter is {}, and has to be an object", shown(raw.get())));
        return filter;
    };
    filter.queue = filter_text(&mut members, "queue");
    filter.reference = filter_text(&mut members, "reference");
    filter.q = filter_text(&mut members, "q");
    filter.fingerprint = filter_text(&mut members, "fingerprint");
    filter.due = members.time("due");
    filter.since = members.time("since");
    let known = |word: &str| State::WORDS.into_iter().find(|known| *known == word);
    filter.states = words(&mut members, "state", known, &State::WORDS);
    let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.word()).collect();
    filter.kinds = words(&mut members, "kind", Kind::from_word, &kinds);
    if let Some(labels) =
        members.value::<BTreeMap<String, String>>("label", "an object of texts, like {\"site\": \"oslo\"}")
    {
        let long = |text: &String| text.chars().count() > LONGEST_FILTER;
        if labels.is_empty()
            || labels.len() > MOST_LABELS
            || labels.iter().any(|(name, value)| long(name) || long(value))
        {
            let text =
                format!("label has to be 1 to {MOST_LABELS} names and values of at most {LONGEST_FILTER} characters");
            members.fault("label", text);
        }
        filter.labels = labels.into_iter().collect();
    }
    if let Err(problem) = members.done() {
        reader.adopt_below("filter", problem);
    }
    filter
}

fn filter_text(members: &mut Reader, name: &str) -> Option<String> {
    let text = members.text(name)?;
    if text.is_empty() || text.chars().count() > LONGEST_FILTER {
        members.fault(name, format!("{name} has to be a text of 1 to {LONGEST_FILTER} characters"));
    }
    Some(text)
}

/// A word, or an array of them.
fn words<T>(members: &mut Reader, name: &str, known: impl Fn(&str) -> Option<T>, allowed: &[&str]) -> Vec<T> {
    let Some(value) = members.value::<Value>(name, "a word or an array of words") else { return Vec::new() };
    let list = match &value {
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    // None at all is what a program says that found none, and not everything.
    if list.is_empty() || list.len() > allowed.len() {
        members.fault(name, format!("{name} has to be one or more of: {}", allowed.join(", ")));
        return Vec::new();
    }
    let read = |word: &Value| word.as_str().and_then(&known).ok_or_else(|| super::view::plain(word));
    match list.iter().map(read).collect() {
        Ok(words) => words,
        Err(word) => {
            let word: String = word;
            members.fault(name, format!("{name} '{}' is not known; allowed: {}", shown(&word), allowed.join(", ")));
            Vec::new()
        }
    }
}

pub(super) fn rate(reader: &mut Reader) -> Option<Rate> {
    let text = reader.text("rate")?;
    let rate = Rate::read(&text);
    if rate.is_none() {
        reader.fault(
            "rate",
            format!("rate is '{}', and has to be so many items in a time, like 50/s or 10/15m", shown(&text)),
        );
    }
    rate
}

fn ramp(reader: &mut Reader) -> Option<Ramp> {
    const EXPECTED: &str = "true, or the sizes of its steps, like [1, 2, 5, 20]";
    let patience = duration(reader, "ramp_wait", LONGEST_DELAY);
    let value: Option<Value> = reader.value("ramp", EXPECTED);
    let steps = match value {
        None | Some(Value::Bool(false)) => {
            if patience.is_some() {
                reader.fault("ramp_wait", "ramp_wait stands without ramp".to_owned());
            }
            return None;
        }
        Some(Value::Bool(true)) => STEPS.to_vec(),
        Some(value) => {
            let steps: Vec<u32> = serde_json::from_value(value).unwrap_or_default();
            if steps.is_empty() || steps.contains(&0) || steps.len() > MOST_STEPS {
                reader.fault("ramp", format!("ramp has to be {EXPECTED}; at most {MOST_STEPS} steps of 1 or more"));
                return None;
            }
            steps
        }
    };
    Some(Ramp::new(steps, patience.unwrap_or(PATIENCE)))
}

#[cfg(test)]
mod tests;
