//! A directory's definitions together with the text of every file they were read from, schemas included: so that a set can
//! be kept, told apart from another one, and read again where the directory is gone.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::Definitions;
use super::check::{Source, check_beside};
use super::diagnostics::Diagnostic;
use super::load::{LoadError, is_definition, read, yaml_files};

/// What a directory holds at one moment.
#[derive(Debug)]
pub struct Loaded {
    pub definitions: Result<Definitions, LoadError>,
    /// Text of each file by its path relative to the directory; one that could not be read is not among them.
    pub files: BTreeMap<String, String>,
    /// Tells whether anything changed: of all names and texts, and of what could not be read.
    pub fingerprint: String,
}

/// Reads and checks a directory as [`super::load`] does, and keeps what it read.
///
/// Blocking: reads files.
#[must_use]
pub fn load_set(dir: &Path) -> Loaded {
    let seen = RefCell::new(BTreeMap::new());
    let reader = |path: &Path| {
        let text = read(path);
        let name = path.strip_prefix(dir).unwrap_or(path).display().to_string();
        seen.borrow_mut().insert(name, text.clone());
        text
    };
    let definitions = match yaml_files(dir) {
        Ok(paths) => check_files(&paths, &reader),
        Err(source) => Err(LoadError::Read { path: dir.to_owned(), source }),
    };
    let seen = seen.into_inner();
    let mut hash = Sha256::new();
    if let Err(LoadError::Read { source, .. }) = &definitions {
        hash.update(source.to_string());
    }
    for (name, text) in &seen {
        let text = text.as_ref().unwrap_or_else(|why| why);
        hash.update(format!("{} {} ", name.len(), text.len()));
        hash.update(name);
        hash.update(text);
    }
    let fingerprint = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let files = seen.into_iter().filter_map(|(name, text)| Some((name, text.ok()?))).collect();
    Loaded { definitions, files, fingerprint }
}

fn check_files(paths: &[PathBuf], reader: &dyn Fn(&Path) -> Result<String, String>) -> Result<Definitions, LoadError> {
    let (mut sources, mut unreadable) = (Vec::new(), Vec::new());
    for path in paths {
        match reader(path) {
            Ok(text) => sources.push(Source { path: path.clone(), text }),
            Err(cause) => {
                let message = format!("cannot be read: {cause}");
                unreadable.push(Diagnostic::of_file(&path.display().to_string(), message, None));
            }
        }
    }
    check_beside(unreadable, &sources, reader).map_err(LoadError::Invalid)
}

/// The definitions of files that were kept.
///
/// # Errors
/// [`LoadError::Invalid`] where they are none (any more).
pub fn from_kept_files(files: &BTreeMap<String, String>) -> Result<Definitions, LoadError> {
    let is_source = |name: &str| !name.contains('/') && is_definition(Path::new(name));
    let sources: Vec<Source> = (files.iter().filter(|(name, _)| is_source(name)))
        .map(|(name, text)| Source { path: PathBuf::from(name), text: text.clone() })
        .collect();
    let reader = |path: &Path| {
        let name = path.display().to_string();
        files.get(&name).cloned().ok_or_else(|| format!("{name} was not kept"))
    };
    check_beside(Vec::new(), &sources, &reader).map_err(LoadError::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_kept_whole_and_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("a.yaml", "queue: a\nschema: a.json\n---\nqueue: b\n");
        write("a.json", r#"{"type": "object"}"#);
        write("notes.txt", "nothing of ours");
        let first = load_set(dir.path());
        assert_eq!(first.files.keys().collect::<Vec<_>>(), ["a.json", "a.yaml"]);
        let kept = from_kept_files(&first.files).unwrap();
        assert!(kept.get("a").unwrap().schema.is_some());
        assert_eq!(kept.queues.len(), 2);

        assert_eq!(load_set(dir.path()).fingerprint, first.fingerprint);
        write("a.json", r#"{"type": "array"}"#);
        assert_ne!(load_set(dir.path()).fingerprint, first.fingerprint);
        write("b.yaml", "queue: [");
        let broken = load_set(dir.path());
        assert!(broken.definitions.is_err());
        assert!(broken.files.contains_key("b.yaml"));
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(matches!(load_set(dir.path()).definitions, Err(LoadError::Read { .. })));
    }
}
