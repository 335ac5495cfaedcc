//! Whatever bytes stand in a definition: no panic, no hang, no unbounded memory.

use std::time::Instant;

use proptest::prelude::*;

use super::*;

#[test]
fn bombs_and_depths_are_refused_at_once() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..20 {
        let uses = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{uses}]\n"));
    }
    let nested = format!("schema: {}1{}", "{a: ".repeat(200), "}".repeat(200));
    let blocks: String = (0..200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    let many = "queue: x\n---\n".repeat(100_000);
    let one_line = format!("{{{}}}", (0..20_000).map(|n| format!("k{n}: 1,{}", " ".repeat(400))).collect::<String>());
    let bombs = format!("{bomb}---\n").repeat(1_000);
    for text in
        [bomb, nested, blocks, "[".repeat(100_000), "- ".repeat(100_000), many, bombs, "x".repeat(10 << 20), one_line]
    {
        let start = Instant::now();
        assert!(!mistakes(&text).is_empty());
        assert!(start.elapsed() < Duration::from_secs(60), "{:.80} took {:?}", text, start.elapsed());
    }
}

/// Text that comes close to a definition, so that chance gets past the parser.
fn almost_yaml() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "queue",
        "retry",
        "it",
        "limit",
        "schema",
        "labels",
        "priorities",
        "normal",
        "defaults",
        "lane",
        "direct",
        "window",
        "max_payload",
        "due_after",
        ": ",
        ":",
        "\n",
        "\n  ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "---\n",
        "- ",
        "30s",
        "1MiB",
        "20%",
        "'",
        "\"",
        "&a ",
        "*a",
        "<<",
        "!x ",
        "~",
        "1",
        "-1",
        "1e999",
        ".nan",
        "no",
        "|\n",
        "\t",
        "\r\n",
        "\u{feff}",
        "\0",
        "é",
        "#",
        "? ",
        "%YAML",
    ]);
    prop::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn any_text_is_checked_or_refused(text in prop_oneof![".*", almost_yaml()]) {
        if let Err(found) = check_one(&text) {
            prop_assert!(!found.is_empty());
            prop_assert!(!found.to_string().is_empty());
        }
    }

    #[test]
    fn any_bytes_are_loaded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("x.yaml"), bytes).expect("written");
        let _ = load(dir.path()).map_err(|error| error.to_string());
    }
}
