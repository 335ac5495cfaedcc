//! A payload as a JSON document that can be changed, and what differs afterwards.
//!
//! What is not touched stays as it was written: the order of members, every digit of a number, every escape in a
//! text. Only white space between tokens goes. (A tree of numbers read as floats would make `12.10` into `12.1`, and large
//! integers into others.) Of a member that stands twice in an object the last one counts.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use super::action::cut;

/// Levels a document may have.
const DEEPEST: usize = 128;

/// Characters of a value that a difference shows.
const SHOWN: usize = 200;

/// A JSON document. Two are equal where they were written alike, white space apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A number, text, `true`, `false` or `null`, as written.
    Leaf(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

/// One place that differs, and how it reads before and after; `None` where it is not there.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Difference {
    /// JSON Pointer.
    pub path: String,
    pub before: Option<String>,
    pub after: Option<String>,
}

impl Node {
    /// Reads a document.
    ///
    /// # Errors
    /// Why it is none, or none that can be patched.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| error.to_string())?;
        Scanner { text, at: 0 }.node(DEEPEST)
    }

    /// Writes it without white space.
    #[must_use]
    pub fn write(&self) -> String {
        let mut text = String::new();
        self.write_to(&mut text);
        text
    }

    fn write_to(&self, text: &mut String) {
        match self {
            Self::Leaf(leaf) => text.push_str(leaf),
            Self::List(list) => {
                text.push('[');
                for (index, node) in list.iter().enumerate() {
                    text.push_str(if index > 0 { "," } else { "" });
                    node.write_to(text);
                }
                text.push(']');
            }
            Self::Object(members) => {
                text.push('{');
                for (index, (name, node)) in members.iter().enumerate() {
                    text.push_str(if index > 0 { "," } else { "" });
                    let _ = write!(text, "{}:", serde_json::Value::from(name.as_str()));
                    node.write_to(text);
                }
                text.push('}');
            }
        }
    }

    fn depth(&self) -> usize {
        match self {
            Self::Leaf(_) => 1,
            Self::List(list) => 1 + list.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(members) => 1 + members.iter().map(|(_, node)| node.depth()).max().unwrap_or(0),
        }
    }

    pub(super) fn size(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.len() + 1,
            Self::List(list) => 2 + list.iter().map(Self::size).sum::<usize>(),
            Self::Object(members) => 2 + members.iter().map(|(name, node)| name.len() + 4 + node.size()).sum::<usize>(),
        }
    }

    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Leaf(leaf) if leaf.starts_with('"') => serde_json::from_str(leaf).ok(),
            _ => None,
        }
    }

    pub(super) fn member(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().rfind(|(member, _)| member == name).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The same value, however it is written.
    pub(super) fn means(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Leaf(one), Self::Leaf(two)) => one == two || same_leaf(one, two),
            (Self::List(one), Self::List(two)) => {
                one.len() == two.len() && one.iter().zip(two).all(|(a, b)| a.means(b))
            }
            (Self::Object(one), Self::Object(two)) => {
                let (one, two) = (that_count(one), that_count(two));
                let same = |(name, a): (&&str, &&Self)| two.get(name).is_some_and(|b| a.means(b));
                one.len() == two.len() && one.iter().all(same)
            }
            _ => false,
        }
    }

    pub(super) fn child(&self, step: &str) -> Option<&Self> {
        match self {
            Self::Object(_) => self.member(step),
            Self::List(list) => list.get(index(step)?),
            Self::Leaf(_) => None,
        }
    }

    pub(super) fn get(&self, pointer: &[String]) -> Option<&Self> {
        pointer.iter().try_fold(self, |node, step| node.child(step))
    }

    pub(super) fn get_mut(&mut self, pointer: &[String]) -> Option<&mut Self> {
        pointer.iter().try_fold(self, |node, step| match node {
            Self::Object(members) => members.iter_mut().rfind(|(name, _)| name == step).map(|(_, node)| node),
            Self::List(list) => list.get_mut(index(step)?),
            Self::Leaf(_) => None,
        })
    }

    /// Puts a value at a place: over what is there, or, where it `inserts`, before an element and as a new member. Answers
    /// whether it can stand there.
    pub(super) fn put(&mut self, pointer: &[String], value: Self, inserts: bool) -> bool {
        if pointer.len() + value.depth() > DEEPEST {
            return false;
        }
        if !inserts {
            return self.get_mut(pointer).map(|node| *node = value).is_some();
        }
        let Some((last, parents)) = pointer.split_last() else {
            *self = value;
            return true;
        };
        match self.get_mut(parents) {
            Some(Self::Object(members)) => {
                match members.iter_mut().rfind(|(name, _)| name == last) {
                    Some((_, node)) => *node = value,
                    None => members.push((last.clone(), value)),
                }
                true
            }
            Some(Self::List(list)) => match if last == "-" { Some(list.len()) } else { index(last) } {
                Some(at) if at <= list.len() => {
                    list.insert(at, value);
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }

    pub(super) fn remove(&mut self, pointer: &[String]) -> Option<Self> {
        let (last, parents) = pointer.split_last()?;
        match self.get_mut(parents)? {
            Self::Object(members) => {
                let at = members.iter().rposition(|(name, _)| name == last)?;
                let (_, node) = members.remove(at);
                members.retain(|(name, _)| name != last);
                Some(node)
            }
            Self::List(list) => index(last).filter(|at| *at < list.len()).map(|at| list.remove(at)),
            Self::Leaf(_) => None,
        }
    }

    /// This document merged with another (RFC 7396): its members go over, those that are `null` are removed.
    #[must_use]
    pub fn merged(self, patch: &Self) -> Self {
        let Self::Object(changes) = patch else { return patch.clone() };
        let mut before = match self {
            Self::Object(members) => members,
            _ => Vec::new(),
        };
        // Each member is looked at once, however many there are: this runs in the one transaction that writes.
        let mut left = that_count(changes);
        let mut members = Vec::with_capacity(before.len() + left.len());
        let counts: Vec<bool> = {
            let mut seen = HashSet::new();
            let mut counts: Vec<bool> = before.iter().rev().map(|(name, _)| seen.insert(name.as_str())).collect();
            counts.reverse();
            counts
        };
        let mut met = HashSet::new();
        for ((name, node), counts) in before.drain(..).zip(counts) {
            match left.get_key_value(name.as_str()) {
                Some((_, change)) if change.is_null() => {}
                Some((known, change)) if counts => {
                    met.insert(*known);
                    members.push((name, node.merged(change)));
                }
                _ => members.push((name, node)),
            }
        }
        left.retain(|name, change| !met.contains(name) && !change.is_null());
        for (name, change) in changes {
            // In the order in which they are written; of one that stands twice the last.
            if left.get(name.as_str()).is_some_and(|last| std::ptr::eq(*last, change)) {
                members.push((name.clone(), Self::Object(Vec::new()).merged(change)));
            }
        }
        Self::Object(members)
    }

    fn is_null(&self) -> bool {
        matches!(self, Self::Leaf(leaf) if leaf == "null")
    }

    /// What differs between this and another document, at most `most` places.
    #[must_use]
    pub fn differences(&self, after: &Self, most: usize) -> Vec<Difference> {
        let mut found = Vec::new();
        differ(self, after, &mut String::new(), most, &mut found);
        found
    }
}

/// An object's members by name; of one that stands twice the last.
fn that_count(members: &[(String, Node)]) -> HashMap<&str, &Node> {
    members.iter().map(|(name, node)| (name.as_str(), node)).collect()
}

fn differ(before: &Node, after: &Node, path: &mut String, most: usize, found: &mut Vec<Difference>) {
    if found.len() >= most || before == after {
        return;
    }
    // Answers whether there is room for more.
    let mut below = |step: &str, pair: (Option<&Node>, Option<&Node>)| {
        let length = path.len();
        let _ = write!(path, "/{}", step.replace('~', "~0").replace('/', "~1"));
        match pair {
            (Some(before), Some(after)) => differ(before, after, path, most, found),
            (None, None) => {}
            (before, after) => {
                let (before, after) = (before.map(shown), after.map(shown));
                found.push(Difference { path: cut(path.clone(), SHOWN), before, after });
            }
        }
        path.truncate(length);
        found.len() < most
    };
    match (before, after) {
        (Node::Object(one), Node::Object(two)) => {
            let (old, new) = (that_count(one), that_count(two));
            let counts = |known: &HashMap<&str, &Node>, name: &str, node: &Node| {
                known.get(name).is_some_and(|last| std::ptr::eq(*last, node))
            };
            for (name, node) in one.iter().filter(|(name, node)| counts(&old, name, node)) {
                if !below(name, (Some(node), new.get(name.as_str()).copied())) {
                    return;
                }
            }
            for (name, node) in two.iter().filter(|(name, node)| counts(&new, name, node)) {
                if !old.contains_key(name.as_str()) && !below(name, (None, Some(node))) {
                    return;
                }
            }
        }
        (Node::List(one), Node::List(two)) => {
            for index in 0..one.len().max(two.len()) {
                if !below(&index.to_string(), (one.get(index), two.get(index))) {
                    return;
                }
            }
        }
        _ => {
            let (before, after) = (Some(shown(before)), Some(shown(after)));
            found.push(Difference { path: cut(path.clone(), SHOWN), before, after });
        }
    }
}

pub(super) fn shown(node: &Node) -> String {
    cut(node.write(), SHOWN)
}

fn same_leaf(one: &str, two: &str) -> bool {
    let text = |leaf: &str| serde_json::from_str::<String>(leaf).ok();
    if one.starts_with('"') || two.starts_with('"') {
        return text(one).is_some_and(|one| text(two) == Some(one));
    }
    if let (Ok(one), Ok(two)) = (one.parse::<i128>(), two.parse::<i128>()) {
        return one == two;
    }
    let ordered = |(one, two): (f64, f64)| one.partial_cmp(&two) == Some(std::cmp::Ordering::Equal);
    one.parse().ok().zip(two.parse().ok()).is_some_and(ordered)
}

/// An array's index as RFC 6901 has it: no sign, no leading zeros.
fn index(step: &str) -> Option<usize> {
    let plain = step == "0" || (!step.starts_with('0') && step.bytes().all(|byte| byte.is_ascii_digit()));
    if plain { step.parse().ok() } else { None }
}

/// Reads what is known to be JSON.
struct Scanner<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Scanner<'t> {
    fn peek(&mut self) -> u8 {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.text.as_bytes().get(self.at).copied().unwrap_or_default()
    }

    fn node(&mut self, depth: usize) -> Result<Node, String> {
        if depth == 0 {
            return Err(format!("it is nested in more than {DEEPEST} levels"));
        }
        match self.peek() {
            open @ (b'{' | b'[') => {
                self.at += 1;
                let (mut list, mut members) = (Vec::new(), Vec::new());
                while !matches!(self.peek(), b'}' | b']' | 0) {
                    if open == b'{' {
                        let name = self.leaf();
                        let name = serde_json::from_str(name).map_err(|error| format!("the name {name}: {error}"))?;
                        self.peek();
                        self.at += 1;
                        members.push((name, self.node(depth - 1)?));
                    } else {
                        list.push(self.node(depth - 1)?);
                    }
                    if self.peek() == b',' {
                        self.at += 1;
                    }
                }
                self.at += 1;
                Ok(if open == b'{' { Node::Object(members) } else { Node::List(list) })
            }
            _ => Ok(Node::Leaf(self.leaf().to_owned())),
        }
    }

    fn leaf(&mut self) -> &'t str {
        let start = self.at;
        let rest = &self.text.as_bytes()[start..];
        let length = if rest.first() == Some(&b'"') {
            let mut escaped = false;
            let close = rest.iter().skip(1).position(|byte| {
                let ends = *byte == b'"' && !escaped;
                escaped = *byte == b'\\' && !escaped;
                ends
            });
            close.map_or(rest.len(), |close| close + 2)
        } else {
            let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
            rest.iter().position(ends).unwrap_or(rest.len())
        };
        self.at = start + length;
        &self.text[start..self.at]
    }
}
