//! Reads the definitions of a directory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Definitions;
use super::check::{Source, check_beside};
use super::diagnostics::{Diagnostic, Diagnostics};
use crate::units::format_bytes;

/// Larger files are no definitions.
const LARGEST_FILE: u64 = 10 << 20;

/// All definition files of a directory together: they are in memory while they are checked.
const LARGEST_DIRECTORY: u64 = 100 << 20;

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

/// What a directory holds at one moment.
#[derive(Debug)]
pub struct Loaded {
    /// The set, or why there is none.
    pub definitions: Result<Definitions, LoadError>,
    /// Of everything that was read for it.
    pub fingerprint: Fingerprint,
}

/// Names and contents of all files that were read, in one hash: another one means that something changed. Files that could not be
/// read count with the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl fmt::Display for Fingerprint {
    /// In hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
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
    read_dir(dir).definitions
}

/// As [`load`], with a fingerprint of what was read, good or bad: for those who watch a directory.
///
/// Blocking: reads files.
#[must_use]
pub fn read_dir(dir: &Path) -> Loaded {
    let reader = RefCell::new(Reader::default());
    let definitions = read_all(dir, &reader);
    if let Err(LoadError::Read { path, source }) = &definitions {
        reader.borrow_mut().note(path, &Err(source.to_string()));
    }
    Loaded { definitions, fingerprint: reader.into_inner().fingerprint() }
}

fn read_all(dir: &Path, reader: &RefCell<Reader>) -> Result<Definitions, LoadError> {
    let paths = yaml_files(dir).map_err(|source| LoadError::Read { path: dir.to_owned(), source })?;
    let (mut sources, mut unreadable) = (Vec::new(), Vec::new());
    let mut room = LARGEST_DIRECTORY;
    for path in paths {
        let read = reader.borrow_mut().read(&path, room);
        match read {
            Ok(text) => {
                room = room.saturating_sub(u64::try_from(text.len()).unwrap_or(u64::MAX));
                sources.push(Source { path, text });
            }
            Err(cause) => {
                let message = format!("cannot be read: {cause}");
                unreadable.push(Diagnostic::of_file(&path.display().to_string(), message, None));
            }
        }
    }
    let read_schema = |path: &Path| reader.borrow_mut().read(path, LARGEST_FILE);
    check_beside(unreadable, &sources, &read_schema).map_err(LoadError::Invalid)
}

fn yaml_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if yaml && !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Reads files and remembers what they held.
#[derive(Default)]
struct Reader {
    hashes: BTreeMap<PathBuf, [u8; 32]>,
}

impl Reader {
    fn read(&mut self, path: &Path, room: u64) -> Result<String, String> {
        let read = read_file(path, room).and_then(|bytes| {
            as_text(bytes).map_err(|(bytes, cause)| {
                // Two files that are no text for the same reason are two all the same.
                self.note(path, &Ok(&bytes));
                cause
            })
        });
        if let Ok(text) = &read {
            self.note(path, &Ok(text.as_bytes()));
        } else if let Err(cause) = &read
            && !self.hashes.contains_key(path)
        {
            self.note(path, &Err(cause.clone()));
        }
        read
    }

    fn note(&mut self, path: &Path, held: &Result<&[u8], String>) {
        let mut hash = Sha256::new();
        match held {
            Ok(bytes) => hash.update(bytes),
            Err(cause) => {
                hash.update(b"unreadable: ");
                hash.update(cause.as_bytes());
            }
        }
        self.hashes.insert(path.to_owned(), hash.finalize().into());
    }

    fn fingerprint(self) -> Fingerprint {
        let mut whole = Sha256::new();
        for (path, hash) in &self.hashes {
            let name = path.as_os_str().as_encoded_bytes();
            whole.update(u64::try_from(name.len()).unwrap_or(u64::MAX).to_be_bytes());
            whole.update(name);
            whole.update(hash);
        }
        Fingerprint(whole.finalize().into())
    }
}

fn read_file(path: &Path, room: u64) -> Result<Vec<u8>, String> {
    // Asked before it is opened: opening a pipe would wait for somebody to write to it.
    let about = fs::metadata(path).map_err(|cause| cause.to_string())?;
    if !about.is_file() {
        return Err("it is not a file".to_owned());
    }
    if about.len() > LARGEST_FILE {
        return Err(format!("it is larger than {}", format_bytes(LARGEST_FILE)));
    }
    if about.len() > room {
        return Err(format!(
            "the definitions of one directory are at most {} together",
            format_bytes(LARGEST_DIRECTORY)
        ));
    }
    // It may grow meanwhile.
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|cause| cause.to_string())?;
    file.take(LARGEST_FILE.min(room) + 1).read_to_end(&mut bytes).map_err(|cause| cause.to_string())?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LARGEST_FILE.min(room) {
        return Err("it grows while it is read".to_owned());
    }
    Ok(bytes)
}

/// The text of a file, or its bytes and why they are none.
fn as_text(bytes: Vec<u8>) -> Result<String, (Vec<u8>, String)> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err((bytes, "it is UTF-16 text: save it as UTF-8".to_owned()));
    }
    String::from_utf8(bytes).map_err(|cause| {
        let before = &cause.as_bytes()[..cause.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let column = String::from_utf8_lossy(column).chars().count() + 1;
        let message = format!(
            "it is not UTF-8 text: line {line}, column {column} has bytes that are no characters; save it as UTF-8"
        );
        (cause.into_bytes(), message)
    })
}
