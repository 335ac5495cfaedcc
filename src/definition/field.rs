//! Typed values out of the tree. Whatever is wrong is noted and the walk goes on: a reader answers `None` after it has
//! reported why.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Source;
use super::diagnostics::{Diagnostic, MOST_KEPT, QUOTED, shorten};
use super::node::{Entry, Node, Place, Value};
use super::suggest;
use crate::units::{LONGEST, format_bytes, parse_bytes, parse_duration, parse_percent};

/// Bytes of the longest line that is shown.
const LONGEST_LINE: usize = 10_000;

/// One file under check: its text and what was found wrong with it.
pub(super) struct FileCheck<'a> {
    pub source: &'a Source,
    /// Which of the files this is.
    pub index: usize,
    pub found: Vec<Diagnostic>,
    /// Mistakes beyond those that are kept.
    pub more: usize,
    /// How many are kept.
    pub most: usize,
    name: String,
    lines: Vec<&'a str>,
}

impl<'a> FileCheck<'a> {
    pub fn new(source: &'a Source, index: usize) -> Self {
        let text = source.text.trim_start_matches('\u{feff}');
        Self {
            source,
            index,
            found: Vec::new(),
            more: 0,
            most: MOST_KEPT,
            name: source.path.display().to_string(),
            lines: text.split('\n').map(|line| line.trim_end_matches('\r')).collect(),
        }
    }

    /// Notes a mistake and, where one is known, its cure.
    pub fn report(&mut self, at: Place, message: &str, help: impl Into<Option<String>>) {
        if self.is_full() {
            self.more += 1;
            return;
        }
        let line = self.line(at.line);
        let diagnostic = match at.line {
            0 => Diagnostic::of_file(&self.name, message, None),
            _ => Diagnostic::at(&self.name, (at.line, at.column, at.width), line, message),
        };
        self.found.push(diagnostic.with_help(help.into()));
    }

    /// Mistakes are only counted from here on: no use in looking for their cure.
    pub fn is_full(&self) -> bool {
        self.found.len() >= self.most
    }

    /// How many mistakes were noted.
    pub fn mistakes(&self) -> usize {
        self.found.len() + self.more
    }

    /// A part of a plain value: `width` characters after `skip` of them; the whole value where it is not written the way
    /// it reads (quotes, several lines).
    pub fn part_of(&self, node: &Node, skip: usize, width: usize) -> Place {
        let as_it_reads = match &node.value {
            Value::Text(text) => {
                node.at == node.written && self.as_written(node) == shorten(text).trim_end_matches('…')
            }
            _ => false,
        };
        if !as_it_reads {
            return node.at;
        }
        let [skip, width] = [skip, width].map(|count| u64::try_from(count).unwrap_or(u64::MAX));
        Place { column: node.at.column.saturating_add(skip), width, ..node.at }
    }

    /// `file:line:column`, to name a place in the message of another one.
    pub fn name_of(&self, at: Place) -> String {
        format!("{}:{}:{}", self.name, at.line, at.column)
    }

    /// The entries of a map with known keys, each with what is known of its key. All others are reported: those that
    /// `refuse` has a word for with that word, the rest as unknown.
    pub fn known_entries<'n, K>(
        &mut self,
        node: &'n Node,
        known: &'static [(&'static str, K)],
        refuse: impl Fn(&str) -> Option<String>,
    ) -> Vec<(&'n Entry, &'static (&'static str, K))> {
        let mut good = Vec::new();
        for entry in self.entries(node) {
            if let Some(key) = known.iter().find(|(name, _)| *name == entry.key) {
                if self.has_value(entry) {
                    good.push((entry, key));
                }
            } else if let Some(message) = refuse(&entry.key) {
                self.report(entry.key_at, &message, "remove it".to_owned());
            } else if self.is_full() {
                self.more += 1;
            } else {
                let names = known.iter().map(|(name, _)| *name);
                let help = match suggest::nearest(&entry.key, names.clone()) {
                    Some(name) => format!("did you mean '{name}'?"),
                    None => format!("known here: {}", names.collect::<Vec<_>>().join(", ")),
                };
                self.report(entry.key_at, &format!("unknown key '{}'", shorten(&entry.key)), help);
            }
        }
        good
    }

    /// The entries of a map whose keys are the author's own.
    pub fn named_entries<'n>(&mut self, node: &'n Node) -> Vec<&'n Entry> {
        let mut good = self.entries(node);
        good.retain(|entry| self.has_value(entry));
        for entry in &good {
            if entry.key.is_empty() || entry.key.chars().count() > 100 || entry.key.chars().any(char::is_control) {
                self.report(entry.key_at, "a name has 1 to 100 printable characters", None);
            }
        }
        good
    }

    fn has_value(&mut self, entry: &Entry) -> bool {
        let given = entry.value.value != Value::Null;
        if !given {
            let message = format!("'{}' has no value", shorten(&entry.key));
            self.report(entry.key_at, &message, "give it a value, or remove the key to get the default".to_owned());
        }
        given
    }

    fn entries<'n>(&mut self, node: &'n Node) -> Vec<&'n Entry> {
        let Value::Map(entries) = &node.value else {
            self.expected(node, "a map of keys and values", None);
            return Vec::new();
        };
        self.report_duplicates(entries);
        entries.iter().collect()
    }

    /// The values of a list.
    pub fn items<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Node] {
        if let Value::List(items) = &node.value {
            return items;
        }
        let help = match &node.value {
            Value::Text(text) => Some(format!("write it as a list: [{}]", shorten(text))),
            _ => None,
        };
        self.expected(node, what, help);
        &[]
    }

    pub fn report_duplicates(&mut self, entries: &[Entry]) {
        let mut first = std::collections::HashMap::new();
        for entry in entries {
            if let Some(line) = first.get(entry.key.as_str()) {
                let message = format!("key '{}' stands here twice", shorten(&entry.key));
                self.report(entry.key_at, &message, format!("it stands on line {line} already; remove one of them"));
            } else {
                first.insert(entry.key.as_str(), entry.key_at.line);
            }
        }
    }

    pub fn expected(&mut self, node: &Node, what: &str, help: impl Into<Option<String>>) {
        let found = self.describe(node);
        self.report(node.at, &format!("expected {what}, found {found}"), help);
    }

    fn describe(&self, node: &Node) -> String {
        match &node.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Int(_) | Value::Float(_) => format!("the number {}", self.as_written(node)),
            Value::Text(text) => format!("the text '{}'", shorten(text)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }

    /// A plain value letter for letter: `1.0` stays `1.0`.
    fn as_written(&self, node: &Node) -> String {
        let skip = usize::try_from(node.written.column.saturating_sub(1)).unwrap_or(usize::MAX);
        let width = usize::try_from(node.written.width).unwrap_or(usize::MAX).min(QUOTED);
        self.line(node.written.line).chars().skip(skip).take(width).collect()
    }

    /// A line of the source; nothing of one that nobody can have written by hand, where looking up columns takes long.
    fn line(&self, number: u64) -> &'a str {
        let line = usize::try_from(number).ok().and_then(|number| self.lines.get(number.checked_sub(1)?));
        line.copied().filter(|line| line.len() <= LONGEST_LINE).unwrap_or_default()
    }

    /// Text that says something.
    pub fn text(&mut self, node: &Node) -> Option<String> {
        match &node.value {
            Value::Text(text) if !text.trim().is_empty() => Some(text.trim_end().to_owned()),
            Value::Text(_) => {
                self.report(node.at, "expected text, found none between the quotes", None);
                None
            }
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                let written = self.as_written(node);
                self.expected(node, "text", format!("write it in quotes: \"{written}\""));
                None
            }
            Value::Null | Value::List(_) | Value::Map(_) => {
                self.expected(node, "text", None);
                None
            }
        }
    }

    pub fn boolean(&mut self, node: &Node) -> Option<bool> {
        match &node.value {
            Value::Bool(value) => Some(*value),
            Value::Text(text) => {
                let help = match text.to_ascii_lowercase().as_str() {
                    "yes" | "on" | "y" | "true" => Some("write true, without quotes".to_owned()),
                    "no" | "off" | "n" | "false" => Some("write false, without quotes".to_owned()),
                    _ => None,
                };
                self.expected(node, "true or false", help);
                None
            }
            _ => {
                self.expected(node, "true or false", None);
                None
            }
        }
    }

    /// One of a few words.
    pub fn word<T: Copy>(&mut self, node: &Node, words: &[(&'static str, T)]) -> Option<T> {
        let text = if let Value::Text(text) = &node.value { text.as_str() } else { "" };
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*meaning);
        }
        let names: Vec<&'static str> = words.iter().map(|(word, _)| *word).collect();
        let help = suggest::nearest(text, names.iter().copied()).map(|word| format!("did you mean '{word}'?"));
        self.expected(node, &one_of(&names), help);
        None
    }

    pub fn whole(&mut self, node: &Node, range: RangeInclusive<u32>) -> Option<u32> {
        match &node.value {
            Value::Int(number) => match u32::try_from(*number) {
                Ok(number) if range.contains(&number) => return Some(number),
                _ => self.expected(node, &format!("{} to {}", range.start(), range.end()), None),
            },
            Value::Text(text) if text.replace('_', "").parse::<u64>().is_ok() => {
                let number = text.replace('_', "");
                let number = Some(number.trim_start_matches('0')).filter(|number| !number.is_empty()).unwrap_or("0");
                self.expected(node, "a whole number", format!("write {}, without quotes", shorten(number)));
            }
            _ => self.expected(node, "a whole number", None),
        }
        None
    }

    pub fn number(&mut self, node: &Node, range: RangeInclusive<f64>) -> Option<f64> {
        let number = match &node.value {
            #[expect(clippy::cast_precision_loss, reason = "what loses precision is far outside every range")]
            Value::Int(number) => *number as f64,
            Value::Float(number) => *number,
            _ => {
                self.expected(node, "a number", None);
                return None;
            }
        };
        if range.contains(&number) {
            return Some(number);
        }
        self.expected(node, &format!("{} to {}", range.start(), range.end()), None);
        None
    }

    pub fn duration(&mut self, node: &Node) -> Option<Duration> {
        let help = "write a whole number and its unit: 30s, 5m, 8h, 7d or 1h30m";
        match &node.value {
            Value::Text(text) => match parse_duration(text) {
                Some(duration) if !duration.is_zero() => return Some(duration),
                Some(_) => self.report(node.at, "a duration has to be longer than 0", None),
                None => {
                    let help = format!("{help}; at most {}d", LONGEST.as_secs() / 86_400);
                    self.expected(node, "a duration", help);
                }
            },
            _ => self.expected(node, "a duration", help.to_owned()),
        }
        None
    }

    /// A duration, or `Some(None)` for `word`, which means that there is none.
    pub fn duration_or(&mut self, node: &Node, word: &'static str) -> Option<Option<Duration>> {
        if self.says(node, word, "a duration")? { Some(None) } else { self.duration(node).map(Some) }
    }

    /// Whether a value is the word for none. Other words that mean the same were reported, and there is no answer.
    pub fn says(&mut self, node: &Node, word: &'static str, else_what: &str) -> Option<bool> {
        let Value::Text(text) = &node.value else { return Some(false) };
        if text == word {
            return Some(true);
        }
        let meant =
            ["never", "none", "forever", "no", "off", "always"].iter().any(|other| text.eq_ignore_ascii_case(other));
        if meant || suggest::nearest(text, [word]).is_some() {
            self.expected(node, &format!("{else_what} or '{word}'"), format!("did you mean '{word}'?"));
            return None;
        }
        Some(false)
    }

    /// A share, 0..=1.
    pub fn percent(&mut self, node: &Node) -> Option<f64> {
        let share = if let Value::Text(text) = &node.value { parse_percent(text) } else { None };
        if share.is_none() {
            let example = match &node.value {
                Value::Float(number) if (0.0..=1.0).contains(number) => format!("{}%", (number * 1e4).round() / 100.0),
                Value::Int(number) if (0..=100).contains(number) => format!("{number}%"),
                _ => "20%".to_owned(),
            };
            self.expected(node, "a share from 0% to 100%", format!("write it with its sign: {example}"));
        }
        share
    }

    /// A size in bytes, 1 to `most`.
    pub fn bytes(&mut self, node: &Node, most: u64) -> Option<u64> {
        let size = match &node.value {
            Value::Int(number) => Some(u64::try_from(*number).unwrap_or(if *number < 0 { 0 } else { u64::MAX })),
            Value::Text(text) => parse_bytes(text),
            _ => None,
        };
        match size {
            Some(bytes) if (1..=most).contains(&bytes) => return size,
            Some(_) => self.expected(node, &format!("a size of 1 byte to {}", format_bytes(most)), None),
            None => {
                let help = "write a whole number and its unit, 1MiB, 512KiB or 100KB, or a number of bytes: 4096";
                self.expected(node, "a size", help.to_owned());
            }
        }
        None
    }
}

/// `'a', 'b' or 'c'`.
fn one_of(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}
