//! Definitions again from the text of the files they were read from: of a set that was in force, and whose directory holds
//! something else by now.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Definitions;
use super::check::{Source, check};
use super::load::{LoadError, is_definition};

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
    check(&sources, &reader).map_err(LoadError::Invalid)
}

#[cfg(test)]
mod tests {
    use super::super::load::read_dir;
    use super::*;

    #[test]
    fn a_set_is_kept_whole_and_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("a.yaml", "queue: a\nschema: a.json\n---\nqueue: b\n");
        write("a.json", r#"{"type": "object"}"#);
        write("notes.txt", "nothing of ours");
        let first = read_dir(dir.path());
        assert_eq!(first.files.keys().collect::<Vec<_>>(), ["a.json", "a.yaml"]);
        let kept = from_kept_files(&first.files).unwrap();
        assert!(kept.get("a").unwrap().schema.is_some());
        assert_eq!(kept.queues.len(), 2);

        assert_eq!(read_dir(dir.path()).fingerprint, first.fingerprint);
        write("a.json", r#"{"type": "array"}"#);
        assert_ne!(read_dir(dir.path()).fingerprint, first.fingerprint);
        write("b.yaml", "queue: [");
        let broken = read_dir(dir.path());
        assert!(broken.definitions.is_err());
        assert!(broken.files.contains_key("b.yaml"));
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(matches!(read_dir(dir.path()).definitions, Err(LoadError::Read { .. })));
    }
}
