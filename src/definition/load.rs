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
use super::text::{self, Unread};
use crate::units::format_bytes;

/// Larger files are no definitions.
const LARGEST_FILE: u64 = 10 << 20;

/// All definition files of a directory together: they are in memory while they are checked.
const LARGEST_DIRECTORY: u64 = 64 << 20;

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
    /// Text of each file that was read, schemas too, by its path relative to the directory.
    pub files: BTreeMap<String, String>,
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
    let mut reader = reader.into_inner();
    let relative = |path: PathBuf| path.strip_prefix(dir).unwrap_or(&path).display().to_string();
    let files = std::mem::take(&mut reader.texts).into_iter().map(|(path, text)| (relative(path), text)).collect();
    Loaded { definitions, fingerprint: reader.fingerprint(), files }
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
            Err(unread) => {
                let message = format!("cannot be read: {}", unread.cause);
                unreadable.push(Diagnostic::of_file(&path.display().to_string(), message, Some(unread.help)));
            }
        }
    }
    let read_schema = |path: &Path| reader.borrow_mut().read(path, LARGEST_FILE).map_err(|unread| unread.cause);
    check_beside(unreadable, &sources, &read_schema).map_err(LoadError::Invalid)
}

fn yaml_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
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

/// Reads files and remembers what they held.
#[derive(Default)]
struct Reader {
    hashes: BTreeMap<PathBuf, [u8; 32]>,
    texts: BTreeMap<PathBuf, String>,
}

impl Reader {
    fn read(&mut self, path: &Path, room: u64) -> Result<String, Unread> {
        let bytes = read_file(path, room).inspect_err(|unread| self.note(path, &Err(unread.cause.clone())))?;
        // Noted before they are text: two files that are none for the same reason are two all the same.
        self.note(path, &Ok(&bytes));
        let text = text::read(bytes)?;
        self.texts.insert(path.to_owned(), text.clone());
        Ok(text)
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

fn read_file(path: &Path, room: u64) -> Result<Vec<u8>, Unread> {
    let no = |cause: String, help: &str| Unread { cause, help: help.to_owned() };
    // Asked before it is opened: opening a pipe would wait for somebody to write to it.
    let about = fs::metadata(path).map_err(|cause| no(cause.to_string(), "see to its permissions and its disk"))?;
    if !about.is_file() {
        return Err(no("it is not a file".to_owned(), "definitions are plain files; rename or move it"));
    }
    if about.len() > LARGEST_FILE {
        return Err(no(format!("it is larger than {}", format_bytes(LARGEST_FILE)), "make it several files"));
    }
    if about.len() > room {
        let message =
            format!("the definitions of one directory are at most {} together", format_bytes(LARGEST_DIRECTORY));
        return Err(no(message, "move what is no definition elsewhere"));
    }
    // It may grow meanwhile.
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|cause| no(cause.to_string(), "see to its permissions and its disk"))?;
    file.take(LARGEST_FILE.min(room) + 1)
        .read_to_end(&mut bytes)
        .map_err(|cause| no(cause.to_string(), "see to its permissions and its disk"))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LARGEST_FILE.min(room) {
        return Err(no("it grows while it is read".to_owned(), "write it elsewhere, then move it here"));
    }
    Ok(bytes)
}
