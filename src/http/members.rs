//! A body's members, read so that every mistake in them is named at once.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::extract::shown;
use super::problem::{Fault, Problem};
use crate::item::Timestamp;
use crate::item::door::PriorityWish;

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

    /// The payload where there is one.
    pub(super) fn another_payload(&mut self) -> Option<Vec<u8>> {
        self.take("payload").map(|raw| compact(raw.get()).into_bytes())
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

    /// Takes a member that has to be a `T`.
    fn value<T: for<'de> Deserialize<'de>>(&mut self, name: &str, expected: &str) -> Option<T> {
        let raw = self.take(name)?;
        if let Ok(value) = serde_json::from_str::<Option<T>>(raw.get()) {
            value
        } else {
            self.fault(name, format!("{name} is {}, and has to be {expected}", shown(raw.get())));
            None
        }
    }

    pub(super) fn fault(&mut self, name: &str, detail: String) {
        self.faults.push(Fault::member(name, detail));
    }

    pub(super) fn payload(&mut self) -> Vec<u8> {
        if let Some(raw) = self.take("payload") {
            compact(raw.get()).into_bytes()
        } else {
            self.fault("payload", "payload is missing; write null for an item that carries nothing".to_owned());
            Vec::new()
        }
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

    pub(super) fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        self.value(name, "a list of texts")
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
        match self.faults.as_slice() {
            [] => Ok(()),
            [fault] => Err(Problem::bad_request(fault.detail.clone(), self.faults)),
            faults => Err(Problem::bad_request(format!("{} fields are wrong", faults.len()), self.faults)),
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
