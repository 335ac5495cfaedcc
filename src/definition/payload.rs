//! The JSON Schema that a queue's payloads have to meet, compiled once per definition.

use std::fmt;

use serde_json::Value;

/// A compiled JSON Schema 2020-12. References to files or the network are not followed.
pub struct PayloadSchema {
    source: Value,
    validator: jsonschema::Validator,
}

impl PayloadSchema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// Says what makes the document no valid JSON Schema 2020-12, and where in it.
    pub fn compile(source: Value) -> Result<Self, String> {
        let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&source).map_err(
            |error| match error.instance_path().as_str() {
                "" => error.to_string(),
                path => format!("{error} at {path}"),
            },
        )?;
        Ok(Self { source, validator })
    }

    /// The schema document as written.
    #[must_use]
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// Every way in which `payload` breaks the schema; empty where it is valid.
    #[must_use]
    pub fn violations(&self, payload: &Value) -> Vec<String> {
        self.validator
            .iter_errors(payload)
            .map(|error| match error.instance_path().as_str() {
                "" => error.to_string(),
                path => format!("{path}: {error}"),
            })
            .collect()
    }
}

impl fmt::Debug for PayloadSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PayloadSchema").field(&self.source).finish()
    }
}
