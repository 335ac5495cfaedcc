//! JSON Patch (RFC 6902): payloads changed by operations, the same for many items.

use super::document::{Node, shown};
use super::mask::touches;

/// Operations one patch may have.
pub const MOST_OPERATIONS: usize = 1_000;

/// Bytes that operations may add to one document.
const LARGEST: usize = 32 * 1024 * 1024;

type Pointer = Vec<String>;

fn pointer(text: &str) -> Result<Pointer, String> {
    let Some(steps) = text.strip_prefix('/') else {
        return if text.is_empty() { Ok(Vec::new()) } else { Err(format!("'{text}' does not begin with /")) };
    };
    let step = |step: &str| {
        let mut plain = String::new();
        let mut chars = step.chars();
        while let Some(c) = chars.next() {
            plain.push(match (c, c == '~') {
                (_, false) => c,
                _ => match chars.next() {
                    Some('0') => '~',
                    Some('1') => '/',
                    _ => return Err(format!("'{text}' has a ~ that is neither ~0 nor ~1")),
                },
            });
        }
        Ok(plain)
    };
    steps.split('/').map(step).collect()
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operation {
    Add(Pointer, Node),
    Remove(Pointer),
    Replace(Pointer, Node),
    Move(Pointer, Pointer),
    Copy(Pointer, Pointer),
    Test(Pointer, Node),
}

/// A JSON Patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch(Vec<Operation>);

/// Why a patch could not be applied to a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Misfit {
    /// A `test` failed: the document is not what the patch was written for.
    pub is_test: bool,
    pub text: String,
}

impl Patch {
    /// Reads a patch.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(json: &str) -> Result<Self, Vec<String>> {
        let operations = match Node::read(json.as_bytes()) {
            Ok(Node::List(operations)) => operations,
            Ok(_) => return Err(vec!["a JSON Patch is an array of operations".to_owned()]),
            Err(error) => return Err(vec![error]),
        };
        let mut wrong = Vec::new();
        if operations.is_empty() || operations.len() > MOST_OPERATIONS {
            wrong.push(format!("a JSON Patch has 1 to {MOST_OPERATIONS} operations here"));
        }
        let mut read = Vec::new();
        for (number, node) in operations.iter().take(MOST_OPERATIONS).enumerate() {
            match operation(node) {
                Ok(operation) => read.push(operation),
                Err(faults) => wrong.extend(faults.into_iter().map(|fault| format!("operation {number}: {fault}"))),
            }
        }
        if wrong.is_empty() { Ok(Self(read)) } else { Err(wrong) }
    }

    /// Whether it reads, or moves to another place, what may be at these paths (as definitions mask them): a value could be told
    /// by what becomes of it.
    #[must_use]
    pub fn reads(&self, paths: &[String]) -> bool {
        let by_number = paths.iter().any(|path| path.split('/').any(|step| step.parse::<usize>().is_ok()));
        self.0.iter().any(|operation| match operation {
            Operation::Test(place, _) | Operation::Move(place, _) | Operation::Copy(place, _) => {
                touches(&written(place), paths)
            }
            // What stands behind in a list has another number then.
            Operation::Add(place, _) | Operation::Remove(place) if by_number => {
                let list = place.split_last().map_or(&[][..], |(_, list)| list);
                touches(&written(list), paths)
            }
            Operation::Add(..) | Operation::Remove(..) | Operation::Replace(..) => false,
        })
    }

    /// Applies it.
    ///
    /// # Errors
    /// The first operation that does not fit.
    pub fn apply(&self, mut document: Node) -> Result<Node, Misfit> {
        let mut grown = 0;
        for (number, operation) in self.0.iter().enumerate() {
            let misfit =
                |text: String| Misfit { is_test: false, text: format!("operation {number} of the patch: {text}") };
            let absent = |pointer: &Pointer| misfit(format!("there is nothing at '{}'", written(pointer)));
            let mut add = |document: &mut Node, pointer: &Pointer, value: Node| {
                grown += value.size();
                if grown > LARGEST {
                    return Err(misfit(format!("the payload would grow by more than {LARGEST} bytes")));
                }
                let place = || misfit(format!("nothing can be put at '{}'", written(pointer)));
                if document.add(pointer, value) { Ok(()) } else { Err(place()) }
            };
            match operation {
                Operation::Add(path, value) => add(&mut document, path, value.clone())?,
                Operation::Remove(path) if path.is_empty() => document = Node::Leaf("null".to_owned()),
                Operation::Remove(path) => drop(document.remove(path).ok_or_else(|| absent(path))?),
                Operation::Replace(path, value) => {
                    *document.get_mut(path).ok_or_else(|| absent(path))? = value.clone();
                }
                Operation::Move(from, path) => {
                    if path.len() > from.len() && path.starts_with(from) {
                        return Err(misfit("nothing can be moved into itself".to_owned()));
                    }
                    let value = document.get(from).cloned().ok_or_else(|| absent(from))?;
                    if from != path {
                        document.remove(from).ok_or_else(|| absent(from))?;
                        add(&mut document, path, value)?;
                    }
                }
                Operation::Copy(from, path) => {
                    let value = document.get(from).cloned().ok_or_else(|| absent(from))?;
                    add(&mut document, path, value)?;
                }
                Operation::Test(path, value) => {
                    let found = document.get(path);
                    if !found.is_some_and(|found| found.means(value)) {
                        let found = found.map_or("nothing".to_owned(), shown);
                        let (place, wanted) = (written(path), shown(value));
                        let text = format!(
                            "operation {number} of the patch tests '{place}' for {wanted}, and there is {found}"
                        );
                        return Err(Misfit { is_test: true, text });
                    }
                }
            }
        }
        Ok(document)
    }
}

fn written(pointer: &[String]) -> String {
    pointer.iter().map(|step| format!("/{}", step.replace('~', "~0").replace('/', "~1"))).collect()
}

fn operation(node: &Node) -> Result<Operation, Vec<String>> {
    if !matches!(node, Node::Object(_)) {
        return Err(vec!["it is no object".to_owned()]);
    }
    let mut wrong = Vec::new();
    let place = |name: &str, wrong: &mut Vec<String>| match node.member(name).map(Node::text) {
        Some(Some(text)) => pointer(&text).map_err(|fault| wrong.push(format!("{name} {fault}"))).unwrap_or_default(),
        Some(None) => {
            wrong.push(format!("{name} has to be text"));
            Vec::new()
        }
        None => {
            wrong.push(format!("{name} is missing"));
            Vec::new()
        }
    };
    let value = |wrong: &mut Vec<String>| {
        if node.member("value").is_none() {
            wrong.push("value is missing".to_owned());
        }
        node.member("value").cloned().unwrap_or(Node::Leaf("null".to_owned()))
    };
    let word = node.member("op").and_then(Node::text);
    let path = place("path", &mut wrong);
    let operation = match word.as_deref() {
        Some("add") => Operation::Add(path, value(&mut wrong)),
        Some("remove") => Operation::Remove(path),
        Some("replace") => Operation::Replace(path, value(&mut wrong)),
        Some("move") => Operation::Move(place("from", &mut wrong), path),
        Some("copy") => Operation::Copy(place("from", &mut wrong), path),
        Some("test") => Operation::Test(path, value(&mut wrong)),
        _ => {
            wrong.push("op has to be add, remove, replace, move, copy or test".to_owned());
            Operation::Remove(path)
        }
    };
    if wrong.is_empty() { Ok(operation) } else { Err(wrong) }
}

#[cfg(test)]
mod tests;
