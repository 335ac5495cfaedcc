//! JSON Patch (RFC 6902): payloads changed by operations, the same for many items.

use super::document::{Node, shown};

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
    pub cause: Cause,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A `test` failed: the document is not what the patch was written for.
    Test,
    /// What became of it would tell of something that is hidden.
    Masked,
    Unfit,
}

/// A document as it is shown where something of it is hidden. It changes with the document, so that it is known at each
/// operation what may be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veil {
    pub document: Node,
    by_number: bool,
}

impl Veil {
    /// `document`: what these paths, as definitions mask them, leave to be seen.
    #[must_use]
    pub fn of(document: Node, paths: &[String]) -> Self {
        let by_number = paths.iter().any(|path| path.split('/').any(|step| step.parse::<usize>().is_ok()));
        Self { document, by_number }
    }

    /// Whether it tells of something hidden how an operation ends, or what is there afterwards.
    fn is_told_of(&self, whole: &Node, operation: &Operation) -> bool {
        let differs = |place: &[String]| self.document.get(place) != whole.get(place);
        // What stands behind in a list has another number then, and would be shown.
        let shifts = |place: &[String]| {
            let list = place.split_last().map_or(&[][..], |(_, list)| list);
            self.by_number && matches!(whole.get(list), Some(Node::List(_))) && differs(list)
        };
        let below = |place: &[String]| self.is_hidden_above(whole, place);
        match operation {
            Operation::Test(place, _) => below(place) || differs(place),
            Operation::Replace(place, _) => below(place),
            Operation::Add(place, _) | Operation::Remove(place) => below(place) || shifts(place),
            Operation::Copy(from, to) => below(from) || differs(from) || below(to) || shifts(to),
            Operation::Move(from, to) => below(from) || differs(from) || shifts(from) || below(to) || shifts(to),
        }
    }

    /// A place lies inside of what is hidden whole: not even whether it is there may be told.
    fn is_hidden_above(&self, whole: &Node, place: &[String]) -> bool {
        let (mut open, mut whole) = (&self.document, whole);
        for step in place {
            if matches!(open, Node::Leaf(_)) {
                return open != whole;
            }
            match (open.child(step), whole.child(step)) {
                (Some(one), Some(two)) => (open, whole) = (one, two),
                _ => return false,
            }
        }
        false
    }
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

    /// Applies it.
    ///
    /// # Errors
    /// The first operation that does not fit.
    pub fn apply(&self, document: &mut Node, mut veil: Option<&mut Veil>) -> Result<(), Misfit> {
        let mut grown = 0;
        for (number, operation) in self.0.iter().enumerate() {
            if veil.as_ref().is_some_and(|veil| veil.is_told_of(document, operation)) {
                let text = format!("operation {number} of the patch would tell of what the queue masks");
                return Err(Misfit { cause: Cause::Masked, text });
            }
            let misfit = |(cause, text)| Misfit { cause, text: format!("operation {number} of the patch{text}") };
            operation.carry_out(document, &mut grown).map_err(misfit)?;
            if let Some(veil) = &mut veil {
                operation.carry_out(&mut veil.document, &mut 0).map_err(misfit)?;
            }
        }
        Ok(())
    }
}

impl Operation {
    /// `grown`: bytes that were added so far.
    fn carry_out(&self, document: &mut Node, grown: &mut usize) -> Result<(), (Cause, String)> {
        let misfit = |text: String| (Cause::Unfit, format!(": {text}"));
        let absent = |pointer: &Pointer| misfit(format!("there is nothing at '{}'", written(pointer)));
        let put = |document: &mut Node, pointer: &Pointer, value: Node, inserts: bool| {
            let is_put = document.put(pointer, value, inserts);
            is_put.then_some(()).ok_or_else(|| misfit(format!("nothing can be put at '{}'", written(pointer))))
        };
        let mut grow = |value: &Node| {
            *grown += value.size();
            let too_much = || misfit(format!("the payload would grow by more than {LARGEST} bytes"));
            (*grown <= LARGEST).then_some(()).ok_or_else(too_much)
        };
        match self {
            Self::Add(path, value) => {
                grow(value)?;
                put(document, path, value.clone(), true)
            }
            Self::Remove(path) if path.is_empty() => {
                *document = Node::Leaf("null".to_owned());
                Ok(())
            }
            Self::Remove(path) => document.remove(path).map(drop).ok_or_else(|| absent(path)),
            Self::Replace(path, value) => {
                document.get(path).ok_or_else(|| absent(path))?;
                put(document, path, value.clone(), false)
            }
            Self::Move(from, path) => {
                if path.len() > from.len() && path.starts_with(from) {
                    return Err(misfit("nothing can be moved into itself".to_owned()));
                }
                document.get(from).ok_or_else(|| absent(from))?;
                if from == path {
                    return Ok(());
                }
                let value = document.remove(from).ok_or_else(|| absent(from))?;
                put(document, path, value, true)
            }
            Self::Copy(from, path) => {
                let value = document.get(from).ok_or_else(|| absent(from))?;
                grow(value)?;
                let value = value.clone();
                put(document, path, value, true)
            }
            Self::Test(path, value) => {
                let found = document.get(path);
                if found.is_some_and(|found| found.means(value)) {
                    return Ok(());
                }
                let found = found.map_or("nothing".to_owned(), shown);
                let text = format!(" tests '{}' for {}, and there is {found}", written(path), shown(value));
                Err((Cause::Test, text))
            }
        }
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
