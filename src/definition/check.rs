//! From the text of definition files to checked queues: every mistake of every file in one go.
//!
//! Pure: what schemas a definition names is read by a function that is passed in. A directory has at most one `defaults:`
//! document; it is read first, wherever it stands.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use super::diagnostics::{Diagnostic, Diagnostics};
use super::draft::{Draft, KEYS, NOT_YET};
use super::field::{FileCheck, ReadSchema};
use super::node::{self, Entry, Node, Place, Value};
use super::{Definitions, QueueDefinition};

/// A definition file as it was read.
#[derive(Debug, Clone)]
pub struct Source {
    /// As it is to be named in messages; schemas beside it are looked for in its directory.
    pub path: PathBuf,
    pub text: String,
}

/// Checks the files of one directory.
///
/// `read_schema` reads the file of a payload schema, or says why it cannot.
///
/// # Errors
/// Every mistake of every file.
pub fn check(sources: &[Source], read_schema: ReadSchema<'_>) -> Result<Definitions, Diagnostics> {
    check_beside(Vec::new(), sources, read_schema)
}

/// Checks files beside which other mistakes were `found` already.
pub(super) fn check_beside(
    mut found: Vec<Diagnostic>,
    sources: &[Source],
    read_schema: ReadSchema<'_>,
) -> Result<Definitions, Diagnostics> {
    let mut files: Vec<(FileCheck<'_>, Vec<Node>)> = sources
        .iter()
        .map(|source| {
            let mut file = FileCheck::new(source, read_schema);
            let (documents, errors) = node::documents(&source.text);
            for error in errors {
                file.report(error.at, &error.message, None);
            }
            (file, documents)
        })
        .collect();

    let shared = read_defaults(&mut files);
    let mut queues = BTreeMap::new();
    let mut first_places: HashMap<String, String> = HashMap::new();
    for (file, documents) in &mut files {
        for document in documents.iter().filter(|document| defaults_of(document).is_none()) {
            let Some((queue, key_at)) = read_queue(document, shared.clone(), file) else { continue };
            if let Some(first) = first_places.get(&queue.key) {
                let message = format!("queue '{}' is defined twice", queue.key);
                file.report(key_at, &message, format!("the first definition is at {first}"));
            } else {
                first_places.insert(queue.key.clone(), file.name_of(key_at));
                queues.insert(queue.key.clone(), Arc::new(queue));
            }
        }
    }

    found.extend(files.into_iter().flat_map(|(file, _)| file.found));
    if found.is_empty() { Ok(Definitions { queues, ..Definitions::default() }) } else { Err(Diagnostics::new(found)) }
}

fn defaults_of(document: &Node) -> Option<&Entry> {
    match &document.value {
        Value::Map(entries) => entries.iter().find(|entry| entry.key == "defaults"),
        _ => None,
    }
}

/// What all queues share: the format's defaults, changed by the directory's `defaults:` document if there is one.
fn read_defaults(files: &mut [(FileCheck<'_>, Vec<Node>)]) -> Draft {
    let mut shared: Option<(Draft, String)> = None;
    for (file, documents) in files {
        for document in documents.iter() {
            let Some(defaults) = defaults_of(document) else { continue };
            let draft = read_one_defaults(document, file).into_shared(file);
            if let Some((_, first)) = &shared {
                let help = format!("the first ones are at {first}; make them one");
                file.report(defaults.key_at, "a directory has one set of defaults, this is another", help);
            } else {
                shared = Some((draft, file.name_of(defaults.key_at)));
            }
        }
    }
    shared.map_or_else(Draft::new, |(draft, _)| draft)
}

fn read_one_defaults(document: &Node, file: &mut FileCheck<'_>) -> Draft {
    let mut draft = Draft::new();
    let beside = |key: &str| {
        let known = KEYS.iter().any(|(name, _)| *name == key) || NOT_YET.contains(&key);
        known.then(|| format!("'{key}' stands beside 'defaults', which needs a document of its own"))
    };
    for (entry, _) in file.known_entries(document, &[("defaults", ())], beside) {
        for (entry, (name, set)) in file.known_entries(&entry.value, KEYS, not_yet) {
            if *name == "queue" {
                let help = "remove it; the queues stand in documents of their own";
                file.report(entry.key_at, "'queue' names one queue, defaults are for all", help.to_owned());
            } else {
                draft.take(name, entry, *set, file);
            }
        }
    }
    draft
}

fn read_queue(document: &Node, mut draft: Draft, file: &mut FileCheck<'_>) -> Option<(QueueDefinition, Place)> {
    for (entry, (name, set)) in file.known_entries(document, KEYS, not_yet) {
        draft.take(name, entry, *set, file);
    }
    let is_map = matches!(document.value, Value::Map(_));
    is_map.then(|| draft.finish(document.at, file)).flatten()
}

fn not_yet(key: &str) -> Option<String> {
    NOT_YET.contains(&key).then(|| format!("'{key}' is known but not supported by this version"))
}
