//! From the text of definition files to checked queues: every mistake of every file in one go.
//!
//! Pure: what schemas a definition names is read by a function that is passed in. A directory has at most one `defaults:`
//! document; it is read first, wherever it stands.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use super::Definitions;
#[cfg(test)]
use super::QueueDefinition;
use super::chain::{self, Chained};
use super::diagnostics::{Diagnostic, Diagnostics, MOST_KEPT};
use super::draft::{Draft, Finished, KEYS};
use super::field::FileCheck;
use super::node::{self, Entry, Node, Value};
use super::schemas::{ReadSchema, Schemas};
use super::text;

/// A definition file as it was read.
#[derive(Debug, Clone)]
pub struct Source {
    /// As it is to be named in messages; schemas beside it are looked for in its directory.
    pub path: PathBuf,
    pub text: String,
}

impl Source {
    /// Takes the bytes of a file that are text.
    ///
    /// # Errors
    /// What makes them none, and where.
    pub fn from_bytes(path: PathBuf, bytes: Vec<u8>) -> Result<Self, Diagnostics> {
        match text::read(bytes) {
            Ok(text) => Ok(Self { path, text }),
            Err(unread) => {
                let message = format!("cannot be read: {}", unread.cause);
                let found = Diagnostic::of_file(&path.display().to_string(), message, Some(unread.help));
                Err(Diagnostics::new(vec![found]))
            }
        }
    }
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
    let mut unread = !found.is_empty();
    let (mut files, mut documents) = (Vec::new(), Vec::new());
    let mut room = node::ROOM;
    for (index, source) in sources.iter().enumerate() {
        let mut file = FileCheck::new(source, index);
        let (read, errors) = node::documents(&source.text, &mut room);
        unread |= !errors.is_empty();
        for error in errors {
            file.report(error.at, &error.message, error.help);
        }
        files.push(file);
        documents.push(read);
    }

    let mut schemas = Schemas::new(read_schema);
    let shared = read_defaults(&mut files, &documents, &mut schemas);
    let mut queues = BTreeMap::new();
    let mut chained = BTreeMap::new();
    let mut first_places: HashMap<String, String> = HashMap::new();
    let mut kept = 0;
    for (file, documents) in files.iter_mut().zip(&documents) {
        // Those of earlier files are shown first.
        file.most = MOST_KEPT.saturating_sub(kept);
        for document in documents.iter().filter(|document| defaults_of(document).is_none()) {
            let Some(Finished { queue, key_at, links }) = read_queue(document, shared.clone(), file, &mut schemas)
            else {
                unread = true;
                continue;
            };
            if let Some(first) = first_places.get(&queue.key) {
                let message = format!("queue '{}' is defined twice", queue.key);
                file.report(
                    key_at,
                    &message,
                    format!("the first definition is at {first}; give one of them another key"),
                );
            } else {
                first_places.insert(queue.key.clone(), file.name_of(key_at));
                chained.insert(queue.key.clone(), Chained { key_at, file: file.index, links });
                queues.insert(queue.key.clone(), Arc::new(queue));
            }
        }
        kept += file.found.len();
    }
    chain::check(&chained, &mut files, unread);

    found.append(&mut schemas.found);
    let mut more = 0;
    for file in files {
        more += file.more;
        found.extend(file.found);
    }
    if found.is_empty() {
        Ok(Definitions { queues, ..Definitions::default() })
    } else {
        Err(Diagnostics::beside(found, more))
    }
}

/// Checks any bytes as a definition file, and those behind the first `\0\0` as the schema that it names, and tells what is
/// wrong with them: whatever they are, it comes back soon. The fuzz target and its corpus test run it.
pub fn exercise(bytes: &[u8]) {
    let cut = bytes.windows(2).position(|two| two == b"\0\0");
    let (definition, schema) = cut.map_or((bytes, &b"{}"[..]), |cut| (&bytes[..cut], &bytes[cut + 2..]));
    let schema = String::from_utf8_lossy(schema).into_owned();
    let result = Source::from_bytes(PathBuf::from("x.yaml"), definition.to_vec())
        .and_then(|source| check(&[source], &|_| Ok(schema.clone())));
    if let Err(found) = result {
        debug_assert!(!found.is_empty() && !found.to_string().is_empty());
    }
}

fn defaults_of(document: &Node) -> Option<&Entry> {
    match &document.value {
        Value::Map(entries) => entries.iter().find(|entry| entry.key == "defaults"),
        _ => None,
    }
}

/// What all queues share: the format's defaults, changed by the directory's `defaults:` document if there is one.
fn read_defaults(files: &mut [FileCheck<'_>], documents: &[Vec<Node>], schemas: &mut Schemas<'_>) -> Draft {
    let mut shared: Option<(Draft, String)> = None;
    for (file, documents) in files.iter_mut().zip(documents) {
        for document in documents {
            let Some(defaults) = defaults_of(document) else { continue };
            let draft = read_one_defaults(document, file, schemas).into_shared(file);
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

fn read_one_defaults(document: &Node, file: &mut FileCheck<'_>, schemas: &mut Schemas<'_>) -> Draft {
    let mut draft = Draft::new();
    let beside = |key: &str| {
        let known = KEYS.iter().any(|(name, _)| *name == key);
        known.then(|| format!("'{key}' stands beside 'defaults', which needs a document of its own"))
    };
    for (entry, _) in file.known_entries(document, &[("defaults", ())], beside) {
        for (entry, (name, set)) in file.known_entries(&entry.value, KEYS, |_| None) {
            if *name == "queue" {
                let help = "remove it; the queues stand in documents of their own";
                file.report(entry.key_at, "'queue' names one queue, defaults are for all", help.to_owned());
            } else {
                draft.take(name, entry, *set, file, schemas);
            }
        }
    }
    draft
}

fn read_queue(
    document: &Node,
    mut draft: Draft,
    file: &mut FileCheck<'_>,
    schemas: &mut Schemas<'_>,
) -> Option<Finished> {
    for (entry, (name, set)) in file.known_entries(document, KEYS, |_| None) {
        draft.take(name, entry, *set, file, schemas);
    }
    let is_map = matches!(document.value, Value::Map(_));
    is_map.then(|| draft.finish(document.at, file)).flatten()
}

/// One queue as far as it could be read, whatever else is wrong with it.
#[cfg(test)]
pub(super) fn read_alone(source: &Source) -> Option<QueueDefinition> {
    let mut file = FileCheck::new(source, 0);
    let mut schemas = Schemas::new(&|_| Err("no schemas here".to_owned()));
    let (documents, _) = node::documents(&source.text, &mut node::ROOM.clone());
    read_queue(documents.first()?, Draft::new(), &mut file, &mut schemas).map(|finished| finished.queue)
}
