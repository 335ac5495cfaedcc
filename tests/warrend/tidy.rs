//! The rules of the house as a test: no broker, no daemon, only the sources (ARCHITECTURE.md says why each rule is there).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module and those it may know of. Whatever is not listed is refused, also a new module that nobody entered here.
const MAY_KNOW: &[(&str, &[&str])] = &[
    // Pure: values and decisions.
    ("item", &["definition", "units"]),
    ("definition", &["item", "units"]),
    ("topology", &["item", "definition"]),
    ("rows", &["item"]),
    ("units", &[]),
    ("who", &[]),
    // The outside worlds, and what stands beside them.
    ("broker", &["item", "topology", "metrics", "failpoint"]),
    ("mirror", &["item", "definition", "metrics", "failpoint", "who"]),
    ("settings", &["units", "who"]),
    ("status", &["item"]),
    ("metrics", &[]),
    ("failpoint", &[]),
    // The daemon's work.
    ("lanes", &["item", "definition", "topology", "broker", "mirror", "status", "metrics", "failpoint"]),
    (
        "control",
        &[
            "item",
            "definition",
            "topology",
            "broker",
            "mirror",
            "status",
            "metrics",
            "lanes",
            "failpoint",
            "units",
            "who",
        ],
    ),
    // What is sent to others than the broker: beside control, and knows of it no more than of broker and topology.
    ("outward", &["item", "definition", "mirror", "status", "metrics", "lanes", "failpoint"]),
    // The doors.
    (
        "http",
        &[
            "item",
            "definition",
            "rows",
            "topology",
            "mirror",
            "status",
            "metrics",
            "lanes",
            "control",
            "outward",
            "units",
            "who",
        ],
    ),
    (
        "daemon",
        &[
            "item",
            "definition",
            "topology",
            "broker",
            "mirror",
            "settings",
            "status",
            "metrics",
            "failpoint",
            "lanes",
            "control",
            "outward",
            "http",
            "who",
        ],
    ),
    // Measures all of it from outside.
    ("bench", &["item", "definition", "topology", "broker", "settings"]),
    (
        "cli",
        &["item", "definition", "rows", "topology", "broker", "mirror", "settings", "daemon", "bench", "units", "who"],
    ),
    ("lib", &[]),
    ("main", &[]),
];

const PURE: &[&str] = &["item", "definition", "rows", "topology", "units", "who"];

/// A crate and the only modules that may name it.
const AT_HOME: &[(&str, &[&str])] = &[
    ("lapin", &["broker", "bench"]),
    ("amq_protocol", &["broker"]),
    ("sqlx", &["mirror"]),
    ("axum", &["http"]),
    ("utoipa", &["http"]),
    ("utoipa_axum", &["http"]),
    ("reqwest", &["broker", "outward", "bench", "cli", "http"]),
    ("lettre", &["outward"]),
    ("clap", &["cli"]),
    ("jsonwebtoken", &["http"]),
    ("hyper", &["http"]),
    ("anyhow", &["daemon", "cli"]),
    ("notify", &["control"]),
    ("metrics_exporter_prometheus", &["metrics"]),
    ("tokio", &["broker", "mirror", "lanes", "control", "outward", "http", "daemon", "bench", "cli", "failpoint"]),
];

/// What reads a clock or throws dice. Everybody else is handed the time and the number.
const CLOCKS: &[&str] =
    &["SystemTime::now", "Timestamp::now", "Zoned::now", "Instant::now", "fastrand", "now_v7", "new_v4"];

/// The files that may, what they may, and why.
const MAY_ASK: &[(&str, &str, &str)] = &[
    ("src/lanes/mod.rs", "Timestamp::now", "the one clock of runners and doors"),
    ("src/lanes/mod.rs", "fastrand", "the one source of chance for decisions with jitter"),
    ("src/lanes/mod.rs", "now_v7", "the one source of item ids"),
    ("src/lanes/mod.rs", "Instant::now", "how long a lost connection may still hold deliveries"),
    ("src/lanes/events.rs", "Instant::now", "how long it is believed that somebody listens"),
    ("src/lanes/claims/desk.rs", "Instant::now", "who waits no longer"),
    ("src/lanes/claims/runner.rs", "Instant::now", "how long nobody waits, and how long the broker is left alone"),
    ("src/mirror/mod.rs", "now_v7", "a new mirror is given its identity"),
    ("src/mirror/control.rs", "now_v7", "the identity of an event, which is the same each time it is sent"),
    ("src/control/migrate.rs", "Instant::now", "how far apart two looks are, and how long robots are waited for"),
    ("src/control/retire.rs", "Instant::now", "as above"),
    ("src/broker/consume.rs", "Instant::now", "whether deliveries follow each other"),
    ("src/mirror/writer.rs", "Instant::now", "how long a commit took"),
    ("src/http/slow.rs", "Instant::now", "how long a client was waited for"),
    ("src/http/outlook.rs", "Instant::now", "what a look ahead cost, so that it is not taken too often"),
    ("src/daemon/broker_side.rs", "Instant::now", "how long a session lasted"),
    ("src/daemon/broker_side.rs", "fastrand", "daemons that lost one broker do not come back in one moment"),
    ("src/daemon/crew.rs", "Instant::now", "the deadline of a stop"),
    ("src/daemon/mod.rs", "Instant::now", "as above"),
    ("src/bench/load.rs", "Instant::now", "the stopwatch of the benchmark"),
    ("src/cli/import/mod.rs", "now_v7", "tells a run that imports once more from all before"),
    ("src/bench/mod.rs", "now_v7", "the names of the benchmark's virtual hosts"),
];

/// Pure modules that touch the machine nevertheless.
const MAY_TOUCH: &[(&str, &str, &str)] = &[("src/definition/load.rs", "fs", "reads the directory of definitions")];

/// The only files that write an item's state or place.
const MAY_MOVE: &[(&str, &str)] = &[
    ("src/item/lifecycle.rs", "the one place that decides where an item goes next"),
    ("src/item/lifecycle/lost.rs", "a part of it: messages that are not where they were"),
    ("src/item/lifecycle/lease.rs", "a part of it: claims over HTTP"),
    ("src/item/lifecycle/people.rs", "the part of it that people ask for"),
    ("src/item/door.rs", "makes new items and refusals"),
    (
        "src/item/direct.rs",
        "makes direct items, which begin in the broker; a stub's payload has come, so it may go out",
    ),
    ("src/mirror/dispatch.rs", "claims, marks and wakes in SQL, each only from the expected place"),
];

/// A file tells one story. Tests may be longer: tables of cases are read line by line.
const LONGEST: usize = 500;
const LONGEST_TESTS: usize = 700;

struct File {
    /// From the root of the repository: `src/lanes/tap.rs`.
    path: String,
    text: String,
}

impl File {
    /// `lanes` of `src/lanes/tap.rs`, `daemon` of `src/daemon.rs`.
    fn module(&self) -> &str {
        let inside = self.path.trim_start_matches("src/");
        inside.split(['/', '.']).next().unwrap_or_default()
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// Numbered lines of code: without comments, and without the tests at the end.
    fn code(&self) -> Vec<(usize, &str)> {
        let mut lines = Vec::new();
        if self.is_test() {
            return lines;
        }
        let mut all = self.text.lines().enumerate().peekable();
        while let Some((index, line)) = all.next() {
            if line == "#[cfg(test)]" && all.peek().is_some_and(|(_, next)| next.ends_with("mod tests {")) {
                break;
            }
            let line = line.split(" // ").next().unwrap_or_default();
            if !line.trim_start().starts_with("//") {
                lines.push((index + 1, line));
            }
        }
        lines
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<File> {
    let mut files = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push(File { path: path.strip_prefix(root()).unwrap().display().to_string(), text });
            }
        }
    }
    assert!(files.len() > 40, "only {} sources found", files.len());
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

/// `word` stands in `line`, not as a part of a longer one.
fn names(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part_of_word) && !line[at + word.len()..].starts_with(part_of_word))
}

/// The modules a line names as `crate::<module>`; `crate::{` may hide some and counts as the module `{`.
fn imports(line: &str) -> Vec<&str> {
    line.match_indices("crate::")
        .map(|(at, found)| {
            let rest = &line[at + found.len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            &rest[..end.max(1).min(rest.len())]
        })
        .collect()
}

fn nothing_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn nobody_knows_of_what_stands_above() {
    let known: BTreeSet<&str> = MAY_KNOW.iter().map(|(module, _)| *module).collect();
    let mut wrong = Vec::new();
    for file in sources() {
        let Some((module, may)) = MAY_KNOW.iter().find(|(module, _)| *module == file.module()) else {
            wrong.push(format!("{}: the module {} has no place in MAY_KNOW", file.path, file.module()));
            continue;
        };
        for (number, line) in file.code() {
            for import in imports(line) {
                // What is no module is an item of the library itself; cli's macros and lib.rs have none.
                if import == "{" || (known.contains(import) && import != *module && !may.contains(&import)) {
                    wrong.push(format!("{}:{number}: {module} may not know of {import}: {}", file.path, line.trim()));
                }
            }
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn every_outside_world_is_spoken_to_in_one_place() {
    let mut wrong = Vec::new();
    for file in sources() {
        for (number, line) in file.code() {
            for (crate_name, homes) in AT_HOME {
                if names(line, crate_name)
                    && line.contains(&format!("{crate_name}::"))
                    && !homes.contains(&file.module())
                {
                    wrong.push(format!("{}:{number}: {crate_name} lives in {}", file.path, homes.join(", ")));
                }
            }
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn decisions_are_pure() {
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| PURE.contains(&file.module())) {
        for (number, line) in file.code() {
            for world in ["fs", "net", "env", "process", "thread"] {
                let allowed = MAY_TOUCH.iter().any(|(path, what, _)| *path == file.path && *what == world);
                if line.contains(&format!("std::{world}")) && !allowed {
                    wrong.push(format!("{}:{number}: a pure module touches std::{world}", file.path));
                }
            }
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn time_and_chance_are_handed_in() {
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for file in sources() {
        for (number, line) in file.code() {
            for clock in CLOCKS.iter().filter(|clock| names(line, clock)) {
                match MAY_ASK.iter().position(|(path, what, _)| *path == file.path && what == clock) {
                    Some(index) => drop(used.insert(index)),
                    None => wrong.push(format!("{}:{number}: {clock} is not for everybody (MAY_ASK)", file.path)),
                }
            }
        }
    }
    for (index, (path, clock, _)) in MAY_ASK.iter().enumerate() {
        if !used.contains(&index) {
            wrong.push(format!("MAY_ASK: {path} does not use {clock} any more"));
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn states_change_where_the_chart_says() {
    let mut wrong = Vec::new();
    for file in sources() {
        for (number, line) in file.code() {
            let moves = line.contains(".state = ") || line.contains(".place = ");
            if moves && !MAY_MOVE.iter().any(|(path, _)| *path == file.path) {
                wrong.push(format!("{}:{number}: moves an item: {}", file.path, line.trim()));
            }
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn every_file_says_what_it_is_and_tells_one_story() {
    let mut wrong = Vec::new();
    for file in sources() {
        if !file.text.starts_with("//! ") {
            wrong.push(format!("{}: does not begin with what it is (//!)", file.path));
        }
        let limit = if file.is_test() { LONGEST_TESTS } else { LONGEST };
        let lines = file.text.lines().count();
        if lines > limit {
            wrong.push(format!("{}: {lines} lines, at most {limit}", file.path));
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn every_pipeline_opens_with_its_order_of_effects() {
    let files = sources();
    let pipelines: Vec<&File> =
        files.iter().filter(|file| file.module() == "lanes" && file.text.contains("\npub async fn run(")).collect();
    assert!(pipelines.len() >= 5, "only {} pipelines found in src/lanes", pipelines.len());
    let mut wrong = Vec::new();
    for file in pipelines {
        let header = file.text.lines().take_while(|line| line.starts_with("//!"));
        let header: Vec<&str> = header.collect();
        let header = header.join("\n");
        if !header.contains("Order of effects") {
            wrong.push(format!("{}: its header does not say the order of effects", file.path));
        }
        if !header.contains("crash") {
            wrong.push(format!("{}: its header does not say what a crash leaves", file.path));
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn migrations_are_numbered_without_gaps_and_alike_on_every_side() {
    let mut sides = Vec::new();
    for folder in entries(&root().join("migrations")) {
        let names: Vec<String> =
            entries(&folder).iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert!(!names.is_empty(), "{} holds no migration", folder.display());
        for (index, name) in names.iter().enumerate() {
            let number = format!("{:04}_", index + 1);
            assert!(
                name.starts_with(&number) && Path::new(name).extension().is_some_and(|end| end == "sql"),
                "{name} should be {number}<what>.sql"
            );
        }
        sides.push(names);
    }
    assert!(sides.windows(2).all(|pair| pair[0] == pair[1]), "the stores have different migrations: {sides:?}");
}

#[test]
fn the_rules_see_what_they_are_meant_to_see() {
    assert_eq!(imports("use crate::lanes::intake; crate::http::x(pub(crate) y)"), ["lanes", "http"]);
    assert_eq!(imports("use crate::{lanes, http};"), ["{"]);
    assert!(names("tokio::spawn(x)", "tokio") && !names("tokio_util::x", "tokio") && !names("my_tokio", "tokio"));
    let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
    let code =
        file("src/item/a.rs", "//! a\nuse b; // crate::c\n    /// crate::d\n#[cfg(test)]\nmod tests {\nuse e;\n}\n");
    assert_eq!(code.code(), [(2, "use b;")]);
    assert_eq!((code.module(), file("src/daemon.rs", "").module()), ("item", "daemon"));
    assert!(file("src/item/lifecycle/tests/chart.rs", "").is_test() && !file("src/lanes/tap.rs", "").is_test());
}
