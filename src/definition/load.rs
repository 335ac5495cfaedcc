//! Reads the definitions of a directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Definitions;
use super::check::{Source, check_beside};
use super::diagnostics::{Diagnostic, Diagnostics};
use crate::units::format_bytes;

/// Larger files are no definitions.
const LARGEST_FILE: u64 = 10 << 20;

/// Why a directory yields no definitions.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The directory itself cannot be read.
    #[error("cannot read the definitions in {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Every mistake in its files.
    #[error("{0}")]
    Invalid(Diagnostics),
}

/// Reads and checks every `*.yaml` and `*.yml` of a directory, hidden files and subdirectories left out. A directory
/// without any is a set of no queues.
///
/// Blocking: reads files.
///
/// # Errors
/// [`LoadError::Read`] where the directory cannot be listed, else [`LoadError::Invalid`] with every mistake of every
/// file; a file that cannot be read is one of them.
pub fn load(dir: &Path) -> Result<Definitions, LoadError> {
    let paths = yaml_files(dir).map_err(|source| LoadError::Read { path: dir.to_owned(), source })?;
    let (mut sources, mut unreadable) = (Vec::new(), Vec::new());
    for path in paths {
        match read(&path) {
            Ok(text) => sources.push(Source { path, text }),
            Err(cause) => {
                let message = format!("cannot be read: {cause}");
                unreadable.push(Diagnostic::of_file(&path.display().to_string(), message, None));
            }
        }
    }
    check_beside(unreadable, &sources, &read).map_err(LoadError::Invalid)
}

pub(super) fn yaml_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if is_definition(&path) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether a file of this name is one of definitions.
pub(super) fn is_definition(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

pub(super) fn read(path: &Path) -> Result<String, String> {
    // Asked before it is opened: opening a pipe would wait for somebody to write to it.
    let about = fs::metadata(path).map_err(|cause| cause.to_string())?;
    if !about.is_file() {
        return Err("it is not a file".to_owned());
    }
    if about.len() > LARGEST_FILE {
        return Err(format!("it is larger than {}", format_bytes(LARGEST_FILE)));
    }
    let bytes = fs::read(path).map_err(|cause| cause.to_string())?;
    String::from_utf8(bytes).map_err(|cause| {
        let before = &cause.as_bytes()[..cause.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("it is not UTF-8 text: line {line} has bytes that are no characters")
    })
}
