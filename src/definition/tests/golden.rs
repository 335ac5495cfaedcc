//! Bad definitions and what is said of them, word for word: `tests/fixtures/definitions`.
//!
//! `bad/form` is wrong in form, so that the schema for editors refuses each of its documents as well; `bad/meaning` is right
//! in form; `good` is right. A case is a file with its diagnostics in a `.txt` beside it, or a folder with an `expected.txt`.
//! `WARREND_BLESS=1 cargo test --lib golden` writes them anew: read them before they are committed.

use super::super::node;
use super::editors::{editor_schema, plain};
use super::*;

struct Case {
    name: String,
    sources: Vec<Source>,
    /// Where its schemas lie.
    folder: PathBuf,
    expected: PathBuf,
}

fn cases(kind: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/definitions").join(kind);
    let mut cases = Vec::new();
    for path in entries(&folder) {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let (files, folder, expected) = if path.is_dir() {
            (entries(&path), path.clone(), path.join("expected.txt"))
        } else {
            (vec![path.clone()], folder.clone(), path.with_extension("txt"))
        };
        let yaml = files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "yaml"));
        let sources: Vec<Source> = yaml
            .map(|file| Source {
                path: PathBuf::from(file.file_name().expect("a name")),
                text: fs::read_to_string(file).expect("text"),
            })
            .collect();
        if !sources.is_empty() {
            cases.push(Case { name, sources, folder, expected });
        }
    }
    assert!(!cases.is_empty(), "no cases in {kind}");
    cases
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    entries
}

impl Case {
    fn check(&self) -> Result<Definitions, Diagnostics> {
        let read = |path: &Path| fs::read_to_string(self.folder.join(path)).map_err(|_| "no such file".to_owned());
        check(&self.sources, &read)
    }

    /// Each document with what the schema for editors says of it.
    fn documents(&self) -> Vec<(u64, Vec<String>)> {
        let (_, schema) = editor_schema();
        let documents = self.sources.iter().flat_map(|source| node::documents(&source.text, &mut node::ROOM.clone()).0);
        documents.map(|document| (document.at.line, schema.violations(&plain(&document), &[]))).collect()
    }
}

#[test]
fn bad_definitions_are_told_word_for_word() {
    let bless = std::env::var_os("WARREND_BLESS").is_some();
    let mut wrong = Vec::new();
    for case in ["bad/form", "bad/meaning"].into_iter().flat_map(cases) {
        let Err(found) = case.check() else { panic!("{} is taken", case.name) };
        let found = format!("{found}\n");
        if bless {
            fs::write(&case.expected, &found).expect("written");
        } else if fs::read_to_string(&case.expected).unwrap_or_default() != found {
            wrong.push(format!("{}: found\n{found}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn good_definitions_are_taken_by_check_and_editors() {
    for case in cases("good") {
        case.check().unwrap_or_else(|found| panic!("{}: {found}", case.name));
        for (line, violations) in case.documents() {
            assert!(violations.is_empty(), "{}:{line}: {violations:?}", case.name);
        }
    }
}

#[test]
fn editors_refuse_what_is_wrong_in_form_and_nothing_else() {
    for case in cases("bad/form") {
        for (line, violations) in case.documents() {
            assert!(!violations.is_empty(), "{}:{line}: the schema takes it", case.name);
        }
    }
    for case in cases("bad/meaning") {
        for (line, violations) in case.documents() {
            assert!(violations.is_empty(), "{}:{line}: {violations:?}", case.name);
        }
    }
}
