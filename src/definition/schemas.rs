//! The payload schemas that definitions name or hold: read once, compiled once, and their mistakes told where they stand,
//! be it in the definition or in the schema's own file.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::Source;
use super::diagnostics::{Diagnostic, shorten};
use super::field::FileCheck;
use super::node::{self, Node, Place, Value};
use super::payload::{PATTERN_ROOM, PayloadSchema, SchemaMistake};

/// Reads a file that a definition names.
pub(super) type ReadSchema<'a> = &'a dyn Fn(&Path) -> Result<String, String>;

/// A file as a whole.
const START: Place = Place { line: 1, column: 1, width: 1 };

/// Every schema file that was named so far.
pub(super) struct Schemas<'a> {
    read: ReadSchema<'a>,
    files: HashMap<PathBuf, Outcome>,
    /// Left for the regular expressions of all of them.
    patterns: usize,
    /// What is wrong inside of schema files.
    pub found: Vec<Diagnostic>,
}

#[derive(Clone)]
enum Outcome {
    Good(Arc<PayloadSchema>),
    /// Told at every place that names the file.
    Unreadable(String),
    /// Told once, in the file itself.
    Wrong,
}

impl<'a> Schemas<'a> {
    pub fn new(read: ReadSchema<'a>) -> Self {
        Self { read, files: HashMap::new(), patterns: PATTERN_ROOM, found: Vec::new() }
    }

    /// `none`, the name of a JSON file beside the definition, or the schema itself.
    pub fn read(&mut self, file: &mut FileCheck<'_>, node: &Node) -> Option<Option<Arc<PayloadSchema>>> {
        match &node.value {
            Value::Text(name) if name == "none" => Some(None),
            Value::Text(name) => self.named(file, node, name).map(Some),
            Value::Map(_) => inline(file, node, &mut self.patterns).map(Some),
            _ => {
                let help = "write 'none', the name of a JSON file beside this one, or the schema itself as a map";
                file.expected(node, "a JSON Schema", help.to_owned());
                None
            }
        }
    }

    fn named(&mut self, file: &mut FileCheck<'_>, node: &Node, name: &str) -> Option<Arc<PayloadSchema>> {
        if name.is_empty() || leaves_its_directory(Path::new(name)) {
            let message = format!("'{}' is no file of this directory", shorten(name));
            let help = "keep the schema beside the definitions and name it relative to them";
            file.report(node.at, &message, help.to_owned());
            return None;
        }
        let path = file.source.path.parent().unwrap_or(Path::new("")).join(name);
        let outcome = match self.files.get(&path) {
            Some(outcome) => outcome.clone(),
            None => {
                let outcome = match (self.read)(&path) {
                    Ok(text) => self.compile(Source { path: path.clone(), text }, &file.name_of(node.at)),
                    Err(cause) => Outcome::Unreadable(cause),
                };
                self.files.insert(path, outcome.clone());
                outcome
            }
        };
        match outcome {
            Outcome::Good(schema) => Some(schema),
            Outcome::Wrong => None,
            Outcome::Unreadable(cause) => {
                file.report(node.at, &format!("cannot read the schema '{}': {cause}", shorten(name)), None);
                None
            }
        }
    }

    /// Compiles a schema file, or says in it what is wrong.
    fn compile(&mut self, source: Source, named_at: &str) -> Outcome {
        let mut file = FileCheck::new(&source, usize::MAX);
        let named = format!("it is named as a schema at {named_at}");
        let text = source.text.trim_start_matches('\u{feff}');
        let outcome = match serde_json::from_str(text) {
            Ok(document) => {
                let tree = tree(text);
                if let Some(tree) = &tree {
                    report_duplicates(tree, &mut file);
                }
                match PayloadSchema::compile_in(document, &mut self.patterns) {
                    Ok(schema) => Outcome::Good(Arc::new(schema)),
                    Err(mistakes) => {
                        for mistake in mistakes {
                            report(&mistake, tree.as_ref(), START, &mut file, Some(named.clone()));
                        }
                        Outcome::Wrong
                    }
                }
            }
            Err(cause) => {
                let whole = cause.to_string();
                let message = whole.split(" at line ").next().unwrap_or_default();
                let [line, column] = [cause.line(), cause.column().max(1)].map(|n| u64::try_from(n).unwrap_or(0));
                let width = u64::from(line > 0);
                file.report(Place { line, column, width }, &format!("this is no JSON: {message}"), named);
                Outcome::Wrong
            }
        };
        let wrong = !file.found.is_empty();
        self.found.append(&mut file.found);
        if wrong { Outcome::Wrong } else { outcome }
    }
}

/// JSON as a tree with places; `None` where it is not read as YAML.
fn tree(text: &str) -> Option<Node> {
    // A tab between tokens is JSON, and no YAML; it counts as one character either way.
    let (mut documents, errors) = node::documents(&text.replace('\t', " "), &mut node::ROOM.clone());
    if errors.is_empty() && documents.len() == 1 { documents.pop() } else { None }
}

fn report_duplicates(node: &Node, file: &mut FileCheck<'_>) {
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| report_duplicates(item, file)),
        Value::Map(entries) => {
            file.report_duplicates(entries);
            for entry in entries {
                report_duplicates(&entry.value, file);
            }
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {}
    }
}

fn inline(file: &mut FileCheck<'_>, node: &Node, patterns: &mut usize) -> Option<Arc<PayloadSchema>> {
    let before = file.mistakes();
    report_duplicates(node, file);
    if file.mistakes() > before {
        return None;
    }
    match PayloadSchema::compile_in(json(node), patterns) {
        Ok(schema) => Some(Arc::new(schema)),
        Err(mistakes) => {
            for mistake in mistakes {
                report(&mistake, Some(node), node.at, file, None);
            }
            None
        }
    }
}

fn report(mistake: &SchemaMistake, tree: Option<&Node>, whole: Place, file: &mut FileCheck<'_>, help: Option<String>) {
    let place = match tree {
        Some(tree) if !mistake.pointer.is_empty() => pointed_at(tree, &mistake.pointer),
        _ => None,
    };
    let message = match place {
        Some(_) => format!("this is no JSON Schema: {}", mistake.message),
        None => format!("this is no JSON Schema: {mistake}"),
    };
    file.report(place.unwrap_or(whole), &message, help);
}

/// The place of what a JSON Pointer names.
fn pointed_at(node: &Node, pointer: &str) -> Option<Place> {
    let mut node = node;
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        node = match &node.value {
            Value::List(items) => items.get(step.parse::<usize>().ok()?)?,
            Value::Map(entries) => &entries.iter().find(|entry| entry.key == step)?.value,
            _ => return None,
        };
    }
    Some(node.at)
}

/// What the author wrote as JSON.
fn json(node: &Node) -> serde_json::Value {
    use serde_json::Value as Json;
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(number) => u64::try_from(*number)
            .map(Json::from)
            .or_else(|_| i64::try_from(*number).map(Json::from))
            .unwrap_or(Json::Null),
        Value::Float(number) => Json::from(*number),
        Value::Text(text) => Json::String(text.clone()),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), json(&entry.value))).collect(),
    }
}

fn leaves_its_directory(path: &Path) -> bool {
    let mut depth = 0_usize;
    for part in path.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return true,
        }
    }
    depth == 0
}
