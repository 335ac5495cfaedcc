//! A body's members, read so that every mistake in them is named at once.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::extract::shown;
use super::problem::{Fault, Problem};
use crate::item::Timestamp;
use crate::item::door::PriorityWish;
use crate::rows::MOST_FAULTS;
use crate::units::{format_duration, parse_duration};

/// What a payload is of that is written as JSON.
const JSON: &str = "application/json";

/// Members of an object; far more than anything here takes.
const MOST_MEMBERS: usize = 1000;

fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == JSON || media_type.ends_with("+json")
}

/// An object's members as written, repeated ones too.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    if members.len() == MOST_MEMBERS {
                        return Err(serde::de::Error::custom(format!("it has more than {MOST_MEMBERS} members")));
                    }
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

pub(super) struct Reader {
    members: Vec<(String, Box<RawValue>)>,
    faults: Vec<Fault>,
    allowed: &'static [&'static str],
}

impl Reader {
    /// Reads an object of which these members are known.
    pub(super) fn of(body: &[u8], allowed: &'static [&'static str]) -> Result<Self, Problem> {
        let members: Members = serde_json::from_slice(body).map_err(|error| {
            let what = if error.is_data() { "the body has to be one JSON object" } else { "the body is no JSON" };
            Problem::bad_request(format!("{what}: {error}"), Vec::new())
        })?;
        Ok(Self { members: members.0, faults: Vec::new(), allowed })
    }

    /// Takes a member that may be `null`: whether it is there, and what it says.
    pub(super) fn given<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Self, &str) -> Option<T>,
    ) -> Option<Option<T>> {
        let (_, raw) = self.members.iter().find(|(member, _)| member == name)?;
        if raw.get() == "null" {
            self.take(name);
            return Some(None);
        }
        // What is wrong with it is noted.
        read(self, name).map(Some)
    }

    pub(super) fn boolean(&mut self, name: &str) -> bool {
        self.value(name, "true or false").unwrap_or_default()
    }

    /// True or false, or nothing said.
    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        self.value(name, "true or false")
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        self.value(name, "a list of texts")
    }

    /// Whether anything was wrong so far.
    pub(super) fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    /// The payload where there is one, with its content type.
    pub(super) fn another_payload(&mut self) -> Option<(Vec<u8>, Option<String>)> {
        let content_type = self.text("content_type");
        let encoded = self.text("payload_base64");
        let json = self.take("payload").map(|raw| compact(raw.get()).into_bytes());
        match (json, encoded) {
            (Some(json), None) => {
                let content_type = content_type.unwrap_or_else(|| JSON.to_owned());
                if !is_json(&content_type) {
                    let said = shown(&content_type);
                    self.fault(
                        "content_type",
                        format!("content_type is '{said}', and payload is JSON; write it as payload_base64"),
                    );
                }
                Some((json, Some(content_type)))
            }
            (None, Some(encoded)) => match STANDARD.decode(encoded.as_bytes()) {
                Ok(bytes) => Some((bytes, content_type)),
                Err(error) => {
                    self.fault(
                        "payload_base64",
                        format!("payload_base64 is no base64 (with + and /, padded): {error}"),
                    );
                    None
                }
            },
            (Some(_), Some(_)) => {
                self.fault("payload_base64", "payload_base64 stands beside payload; one of them is enough".to_owned());
                None
            }
            (None, None) => {
                if content_type.is_some() {
                    self.fault("content_type", "content_type stands without a payload".to_owned());
                }
                None
            }
        }
    }

    /// Takes a member out; `null` is as if it were absent, except for the payload.
    fn take(&mut self, name: &str) -> Option<Box<RawValue>> {
        // What may not be said here is left over, and named as such.
        if !self.allowed.contains(&name) {
            return None;
        }
        let at = self.members.iter().position(|(member, _)| member == name)?;
        Some(self.members.remove(at).1)
    }

    /// Whether a member is there and was not taken yet.
    pub(super) fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(member, _)| member == name)
    }

    /// The same, and it is not `null`.
    pub(super) fn says(&self, name: &str) -> bool {
        self.members.iter().any(|(member, raw)| member == name && raw.get() != "null")
    }

    /// Leaves a member out that was found wrong, or does not matter any more.
    pub(super) fn skip(&mut self, name: &str) {
        drop(self.take(name));
    }

    /// Something is wrong with this member, or with one inside it.
    pub(super) fn is_faulty(&self, name: &str) -> bool {
        let pointer = format!("/{name}");
        let about = |fault: &Fault| fault.pointer.as_ref().is_some_and(|at| at.starts_with(&pointer));
        self.faults.iter().any(about)
    }

    /// Takes over what a problem says is wrong.
    pub(super) fn adopt(&mut self, problem: Problem) {
        self.faults.extend(problem.into_faults());
    }

    /// The same of what was read of one member.
    pub(super) fn adopt_below(&mut self, name: &str, problem: Problem) {
        let below = problem.into_faults().into_iter().map(|fault| {
            let pointer = format!("/{name}{}", fault.pointer.unwrap_or_default());
            Fault { pointer: Some(pointer), ..fault }
        });
        self.faults.extend(below);
    }

    /// Something is wrong at a place inside the body, whose steps a `/` parts.
    pub(super) fn fault_at(&mut self, place: &str, detail: String) {
        self.faults.push(Fault { parameter: None, pointer: Some(format!("/{place}")), detail });
    }

    /// Takes a member that has to be a `T`.
    pub(super) fn value<T: for<'de> Deserialize<'de>>(&mut self, name: &str, expected: &str) -> Option<T> {
        let raw = self.take(name)?;
        if let Ok(value) = serde_json::from_str::<Option<T>>(raw.get()) {
            value
        } else {
            self.fault(name, format!("{name} is {}, and has to be {expected}", shown(raw.get())));
            None
        }
    }

    /// Something is wrong with this member.
    pub(super) fn has_fault(&self, name: &str) -> bool {
        let pointer = format!("/{name}");
        self.faults.iter().any(|fault| fault.pointer.as_ref() == Some(&pointer))
    }

    pub(super) fn fault(&mut self, name: &str, detail: String) {
        self.faults.push(Fault::member(name, detail));
    }

    /// The payload and its content type, which have to be there.
    pub(super) fn payload(&mut self) -> (Vec<u8>, Option<String>) {
        let faults = self.faults.len();
        let payload = self.another_payload();
        if payload.is_none() && self.faults.len() == faults {
            self.fault("payload", "payload is missing; write null for an item that carries nothing".to_owned());
        }
        payload.unwrap_or_default()
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.value(name, "text")
    }

    pub(super) fn priority(&mut self) -> Option<PriorityWish> {
        const EXPECTED: &str = "a whole number or a name of the queue's priorities";
        match self.value::<serde_json::Value>("priority", EXPECTED)? {
            serde_json::Value::String(name) => Some(PriorityWish::Named(name)),
            value => {
                if let Some(level) = value.as_i64() {
                    Some(PriorityWish::Level(level))
                } else {
                    self.fault(
                        "priority",
                        format!("priority is {}, and has to be {EXPECTED}", shown(&value.to_string())),
                    );
                    None
                }
            }
        }
    }

    pub(super) fn time(&mut self, name: &str) -> Option<Timestamp> {
        const EXPECTED: &str = "an RFC 3339 time, like 2026-05-04T08:00:00Z";
        let text: String = self.value(name, EXPECTED)?;
        let time = Timestamp::from_str(&text).ok();
        if time.is_none() {
            self.fault(name, format!("{name} is '{}', and has to be {EXPECTED}", shown(&text)));
        }
        time
    }

    /// A whole number in a range.
    pub(super) fn whole(&mut self, name: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let number: u64 = self.value(name, &expected)?;
        if range.contains(&number) {
            return Some(number);
        }
        self.fault(name, format!("{name} is {number}, and has to be {expected}"));
        None
    }

    /// A time like `30s` in a range.
    pub(super) fn duration(&mut self, name: &str, range: std::ops::RangeInclusive<Duration>) -> Option<Duration> {
        let (from, to) = (format_duration(*range.start()), format_duration(*range.end()));
        let expected = format!("a time like 30s or 5m, from {from} to {to}");
        let text: String = self.value(name, &expected)?;
        match parse_duration(text.trim()).filter(|duration| range.contains(duration)) {
            Some(duration) => Some(duration),
            None => {
                self.fault(name, format!("{name} is '{}', and has to be {expected}", shown(&text)));
                None
            }
        }
    }

    /// Everything that was not taken: whoever reads it says what is known.
    pub(super) fn rest(&mut self) -> serde_json::Map<String, serde_json::Value> {
        let mut rest = serde_json::Map::new();
        for (name, raw) in std::mem::take(&mut self.members) {
            match serde_json::from_str(raw.get()) {
                Ok(value) if !rest.contains_key(&name) => drop(rest.insert(name, value)),
                Ok(_) => self.fault(&shown(&name), format!("{} stands more than once", shown(&name))),
                Err(error) => self.fault(&shown(&name), format!("{} cannot be read: {error}", shown(&name))),
            }
        }
        rest
    }

    pub(super) fn labels(&mut self) -> BTreeMap<String, String> {
        self.value("labels", "an object of texts").unwrap_or_default()
    }

    /// Refuses the body where a member was wrong, is not known or is left over because it stands twice.
    pub(super) fn done(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.members) {
            let detail = if self.allowed.contains(&name.as_str()) {
                format!("{name} stands more than once")
            } else {
                format!("there is no field '{}'; allowed: {}", shown(&name), self.allowed.join(", "))
            };
            self.fault(&shown(&name), detail);
        }
        let count = self.faults.len();
        if count > MOST_FAULTS {
            self.faults.truncate(MOST_FAULTS);
            self.faults.push(Fault::plain(format!("and {} more", count - MOST_FAULTS)));
        }
        match self.faults.as_slice() {
            [] => Ok(()),
            [fault] => Err(Problem::bad_request(fault.detail.clone(), self.faults)),
            _ => Err(Problem::bad_request(format!("{count} fields are wrong"), self.faults)),
        }
    }
}

/// Valid JSON without the white space between its tokens.
pub(super) fn compact(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c.is_ascii_whitespace() {
            continue;
        } else {
            in_string = c == '"';
        }
        text.push(c);
    }
    text
}
