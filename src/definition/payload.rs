//! The JSON Schema that a queue's payloads have to meet, compiled once per definition.
//!
//! A schema is as little trusted as the rest of a definition: it is measured before it is compiled, its regular expressions
//! may not grow large, and references to files or the network are not followed.

use std::fmt;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, ValidationError, draft202012};
use serde_json::Value;

use super::diagnostics::shorten;
use super::measure::{MAX_COMPILED, measure};
use super::suggest;
use crate::item::mask;

/// The only dialect that is known.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Bytes that the compiled regular expressions of all schemas of a directory may take, as far as it can be told before.
pub(super) const PATTERN_ROOM: usize = 256 << 20;

/// Mistakes of one schema that are told.
const MAX_MISTAKES: usize = 20;

/// Ways in which one payload breaks a schema that are told, and characters of each: a message may quote the whole payload.
const MAX_VIOLATIONS: usize = 100;
const MAX_VIOLATION: usize = 300;

const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];

/// A compiled JSON Schema 2020-12.
pub struct PayloadSchema {
    source: Value,
    validator: jsonschema::Validator,
}

/// Why a document is no JSON Schema, or none that is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", at(pointer))]
pub struct SchemaMistake {
    /// Where in the schema, as a JSON Pointer; empty: as a whole.
    pub pointer: String,
    pub message: String,
}

fn at(pointer: &str) -> String {
    if pointer.is_empty() { String::new() } else { format!(" at {pointer}") }
}

impl SchemaMistake {
    pub(super) fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }

    fn of(error: &ValidationError<'_>) -> Self {
        let pointer = error.instance_path().as_str().to_owned();
        let name = pointer.rsplit('/').next().unwrap_or_default();
        let message = match (name, error.instance().as_ref()) {
            ("type", Value::String(word)) => {
                let help = suggest::nearest(word, TYPES)
                    .map_or_else(|| format!("known: {}", TYPES.join(", ")), |near| format!("did you mean '{near}'?"));
                format!("'{}' is no type of JSON ({help})", shorten(word))
            }
            ("pattern", Value::String(pattern)) => {
                format!("'{}' is no regular expression, or too large a one", shorten(pattern))
            }
            // The value may be as large as the file.
            _ => error.masked_with("the value").to_string(),
        };
        Self { pointer, message }
    }
}

impl PayloadSchema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// What makes the document no valid JSON Schema 2020-12, and where in it; at least one mistake, at most twenty.
    pub fn compile(source: Value) -> Result<Self, Vec<SchemaMistake>> {
        Self::compile_in(source, &mut PATTERN_ROOM.clone())
    }

    /// As [`Self::compile`], with what room other schemas left for regular expressions.
    pub(super) fn compile_in(source: Value, room: &mut usize) -> Result<Self, Vec<SchemaMistake>> {
        let weight = measure(&source).map_err(|mistake| vec![mistake])?;
        *room = room.checked_sub(weight).ok_or_else(|| {
            let message =
                "the regular expressions of this directory's schemas are too large together: count less in them";
            vec![SchemaMistake::new("", message)]
        })?;
        if let Some(dialect) = source.get("$schema").filter(|dialect| *dialect != DIALECT) {
            // A trailing `#` means the same.
            if dialect.as_str().map(|dialect| dialect.trim_end_matches('#')) != Some(DIALECT) {
                let message = format!("schemas are read as JSON Schema 2020-12: write \"{DIALECT}\", or leave it out");
                return Err(vec![SchemaMistake::new("/$schema", message)]);
            }
        }
        let mut mistakes: Vec<SchemaMistake> = draft202012::meta::validator()
            .iter_errors(&source)
            .take(MAX_MISTAKES)
            .map(|error| SchemaMistake::of(&error))
            .collect();
        if mistakes.is_empty() {
            let patterns = PatternOptions::fancy_regex().size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED);
            let options = draft202012::options().should_validate_formats(true).offline().with_pattern_options(patterns);
            match options.build(&source) {
                Ok(validator) => return Ok(Self { source, validator }),
                Err(error) => mistakes.push(unresolved(&source, &error).unwrap_or_else(|| SchemaMistake::of(&error))),
            }
        }
        mistakes.dedup();
        Err(mistakes)
    }

    /// The schema document as written.
    #[must_use]
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// The ways in which `payload` breaks the schema, the first hundred of them; empty where it is valid. Nothing is told of
    /// what stands at the `hidden` paths.
    #[must_use]
    pub fn violations(&self, payload: &Value, hidden: &[String]) -> Vec<String> {
        let mut violations: Vec<String> = self
            .validator
            .iter_errors(payload)
            .take(MAX_VIOLATIONS + 1)
            .map(|error| {
                let path = error.instance_path().as_str().to_owned();
                // The message quotes the value, or what of it is wrong.
                let said = match &error.kind() {
                    _ if !mask::touches(&path, hidden) => error.to_string(),
                    // These name keys.
                    ValidationErrorKind::PropertyNames { .. }
                    | ValidationErrorKind::AdditionalProperties { .. }
                    | ValidationErrorKind::UnevaluatedProperties { .. } => {
                        format!("{} has keys that the schema does not allow", mask::MARK)
                    }
                    _ => error.masked_with(mask::MARK).to_string(),
                };
                let path = mask::open_part(&path, hidden);
                cut(if path.is_empty() { said } else { format!("{path}: {said}") })
            })
            .collect();
        if violations.len() > MAX_VIOLATIONS {
            violations.truncate(MAX_VIOLATIONS);
            violations.push("and more".to_owned());
        }
        violations
    }
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_VIOLATION) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A reference that leads nowhere, and which one it is.
fn unresolved(source: &Value, error: &ValidationError<'_>) -> Option<SchemaMistake> {
    let ValidationErrorKind::Referencing(cause) = error.kind() else { return None };
    let cause = cause.to_string();
    let mut left = vec![(source, String::new())];
    while let Some((value, pointer)) = left.pop() {
        match value {
            Value::Array(items) => {
                left.extend(items.iter().enumerate().map(|(index, item)| (item, format!("{pointer}/{index}"))));
            }
            Value::Object(entries) => {
                for (key, value) in entries {
                    let pointer = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
                    match (key.as_str(), value) {
                        ("$ref" | "$dynamicRef", Value::String(to)) if names(&cause, to) => {
                            let message = format!(
                                "'{}' is not in this schema, and references to files or the network are not followed",
                                shorten(to)
                            );
                            return Some(SchemaMistake::new(pointer, message));
                        }
                        _ => left.push((value, pointer)),
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    None
}

/// What could not be resolved is named without its fragment, or by its fragment alone.
fn names(cause: &str, reference: &str) -> bool {
    let (whole, fragment) = reference.split_once('#').unwrap_or((reference, ""));
    let part = if whole.is_empty() { fragment } else { whole };
    !part.is_empty() && cause.contains(&format!("'{part}'"))
}

impl fmt::Debug for PayloadSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PayloadSchema").field(&self.source).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_told_of_a_payload_is_bounded() {
        let schema = PayloadSchema::compile(json!({"maxItems": 3, "items": {"type": "number"}})).unwrap();
        let few = schema.violations(&json!([1, "a", "b"]), &[]);
        assert_eq!(few, ["/1: \"a\" is not of type \"number\"", "/2: \"b\" is not of type \"number\""]);
        let many = schema.violations(&json!(vec!["ü".repeat(1000); 20_000]), &[]);
        assert_eq!((many.len(), many.last().map(String::as_str)), (MAX_VIOLATIONS + 1, Some("and more")));
        assert!(many.iter().all(|text| text.chars().count() <= MAX_VIOLATION + 1), "{many:#?}");
    }
}
