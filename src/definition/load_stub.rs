//! STUB: stands in for the definition parser until it is merged. Delete this file and the marked lines in `mod.rs`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::Definitions;

/// JSON Schema of the definition format.
pub const JSON_SCHEMA: &str = "{}\n";

/// Everything wrong with the definitions of a directory.
#[derive(Debug, serde::Serialize)]
pub struct Diagnostics(pub Vec<String>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Why there are no definitions.
#[derive(Debug)]
pub enum LoadError {
    Read { path: PathBuf, source: io::Error },
    Invalid(Diagnostics),
}

/// Reads every definition of a directory.
///
/// # Errors
/// Where it cannot be read, or is wrong.
pub fn load(dir: &Path) -> Result<Definitions, LoadError> {
    std::fs::read_dir(dir).map_err(|source| LoadError::Read { path: dir.to_owned(), source })?;
    Ok(Definitions::default())
}
