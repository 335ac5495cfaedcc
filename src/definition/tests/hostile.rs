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
    let text = "x".repeat(1 << 20);
    let long_texts = format!("a: &a '{text}'\nb: [{}]", "*a, ".repeat(40_000));
    let many_texts = format!("a: &a '{}'\nb: [{}]", &text[..60_000], "*a, ".repeat(900));
    let long_key = format!("{text}: 1\n? {text}\n: 2\n");
    let one_line = format!("{{{}}}", (0..20_000).map(|n| format!("k{n}: 1,{}", " ".repeat(400))).collect::<String>());
    let bombs = format!("{bomb}---\n").repeat(30);
    for text in [
        bomb,
        nested,
        blocks,
        "[".repeat(100_000),
        "- ".repeat(100_000),
        many,
        bombs,
        "x".repeat(10 << 20),
        one_line,
        long_texts,
        many_texts,
        long_key,
    ] {
        let start = Instant::now();
        assert!(!mistakes(&text).is_empty());
        assert!(start.elapsed() < Duration::from_secs(60), "{:.80} took {:?}", text, start.elapsed());
    }
}

/// Schemas that cost those who wrote them little, as JSON.
fn hostile_schemas() -> Vec<(&'static str, String)> {
    let nested = |open: &str, close: &str, times: usize| format!("{}{{}}{}", open.repeat(times), close.repeat(times));
    let chain = |keyword: &str, twice: bool, length: usize| {
        let defs: Vec<String> = (0..length)
            .map(|n| {
                let next = format!("{{\"$ref\": \"#/$defs/d{}\"}}", n + 1);
                let list = if twice { format!("{next}, {next}") } else { next };
                format!("\"d{n}\": {{\"{keyword}\": [{list}]}}")
            })
            .collect();
        format!("{{\"$ref\": \"#/$defs/d0\", \"$defs\": {{{}, \"d{length}\": {{}}}}}}", defs.join(", "))
    };
    let unevaluated = |length: usize| {
        let mut schema = "{}".to_owned();
        for _ in 0..length {
            schema = format!(
                "{{\"allOf\": [{schema}], \"unevaluatedProperties\": false, \"unevaluatedItems\": {{\"$ref\": \"#\"}}}}"
            );
        }
        schema
    };
    let patterns: Vec<String> =
        (0..3_000).map(|n| format!("\"p{n}\": {{\"pattern\": \"^([a-z]{{1,20}}){{1,20}}{n}$\"}}")).collect();
    vec![
        ("deep", nested("{\"not\": ", "}", 120)),
        ("deeper", nested("{\"not\": ", "}", 100_000)),
        ("deep lists", nested("{\"allOf\": [", "]}", 30)),
        ("doubling references", chain("allOf", true, 60)),
        ("doubling choices", chain("anyOf", true, 60)),
        ("doubling items", chain("prefixItems", true, 60)),
        ("long chain", chain("allOf", false, 900)),
        ("too long a chain", chain("allOf", false, 5_000)),
        ("itself", "{\"$ref\": \"#\"}".to_owned()),
        ("itself all over", "{\"allOf\": [{\"$ref\": \"#\"}, {\"$ref\": \"#\"}]}".to_owned()),
        ("two by two", "{\"$ref\": \"#/$defs/a\", \"$defs\": {\"a\": {\"$ref\": \"#/$defs/b\"}, \"b\": {\"$ref\": \"#/$defs/a\"}}}".to_owned()),
        ("unevaluated", unevaluated(18)),
        ("network", "{\"$ref\": \"http://10.255.255.1/x\"}".to_owned()),
        ("file", "{\"$ref\": \"file:///dev/zero\"}".to_owned()),
        ("relative", "{\"$id\": \"http://a/b\", \"$ref\": \"../../../../dev/zero\"}".to_owned()),
        ("dialect", "{\"$schema\": \"file:///dev/zero\"}".to_owned()),
        ("inner dialect", "{\"$defs\": {\"a\": {\"$schema\": \"http://10.255.255.1/x\", \"$id\": \"http://a/b\"}}}".to_owned()),
        ("large pattern", "{\"pattern\": \"(((a{1000}){1000}){1000})\"}".to_owned()),
        ("nested pattern", format!("{{\"pattern\": \"{}a{}\"}}", "(".repeat(20_000), ")".repeat(20_000))),
        ("long pattern", format!("{{\"pattern\": \"{}\"}}", "a?".repeat(1_000_000))),
        ("unicode pattern", "{\"pattern\": \"(\\\\p{L}{1,500}){1,500}\"}".to_owned()),
        ("back references", "{\"pattern\": \"^(a+)+(?=b)\\\\1{1,1000}$\"}".to_owned()),
        ("many patterns", format!("{{\"properties\": {{{}}}}}", patterns.join(", "))),
        ("large enum", format!("{{\"enum\": [{}]}}", (0..100_000).map(|n| n.to_string()).collect::<Vec<_>>().join(","))),
        ("large numbers", "{\"multipleOf\": 1e-308, \"minItems\": 18446744073709551615, \"maximum\": 1e400}".to_owned()),
    ]
}

#[test]
fn no_schema_holds_up_the_check_or_lets_it_out() {
    for (what, schema) in hostile_schemas() {
        for text in ["queue: x\nschema: s.json".to_owned(), format!("queue: x\nschema: {schema}")] {
            let start = Instant::now();
            let result = check(&sources(&[("q/x.yaml", &text)]), &|_| Ok(schema.clone()));
            let took = start.elapsed();
            assert!(took < Duration::from_secs(20), "{what} took {took:?}");
            if let Err(found) = result {
                assert!(found.to_string().len() < 20_000, "{what}");
            } else if let Some(schema) = result.ok().and_then(|set| set.get("x").and_then(|queue| queue.schema.clone()))
            {
                let start = Instant::now();
                let _ = schema.violations(&json!({"a": [1, "x"]}), &[]);
                let took = start.elapsed();
                assert!(took < Duration::from_secs(20), "{what}: a payload took {took:?}");
            }
        }
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
        exercise(text.as_bytes());
    }

    #[test]
    fn any_bytes_are_checked_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        exercise(&bytes);
    }

    #[test]
    fn any_bytes_are_loaded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("x.yaml"), bytes).expect("written");
        let _ = load(dir.path()).map_err(|error| error.to_string());
    }

    #[test]
    fn good_definitions_with_a_slip_are_checked_or_refused(cut in 0_usize..900, slip in ".{0,3}") {
        let good = include_str!("../../../tests/fixtures/definitions/good/every-key.yaml");
        let cut = good.floor_char_boundary(cut);
        let (before, behind) = good.split_at(cut);
        exercise(format!("{before}{slip}{behind}").as_bytes());
        exercise(format!("{before}{slip}{}", behind.chars().skip(1).collect::<String>()).as_bytes());
    }
}

/// What the fuzz target has found and starts from; see fuzz/README.md.
#[test]
fn the_corpus_is_checked_or_refused() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/definitions");
    let mut seen = 0;
    for entry in fs::read_dir(corpus).expect("a corpus") {
        let path = entry.expect("an entry").path();
        let start = Instant::now();
        exercise(&fs::read(&path).expect("bytes"));
        assert!(start.elapsed() < Duration::from_secs(20), "{} takes too long", path.display());
        seen += 1;
    }
    assert!(seen >= 10, "only {seen} files");
}

#[test]
fn what_is_no_utf_8_says_so() {
    let read =
        |bytes: &[u8]| Source::from_bytes(PathBuf::from("x.yaml"), bytes.to_vec()).err().map(|found| found.to_string());
    let utf_16: Vec<u8> = "\u{feff}queue: x".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let silent: Vec<u8> = "queue: x".encode_utf16().flat_map(u16::to_be_bytes).collect();
    for (bytes, part) in [
        (&utf_16[..], "UTF-16"),
        (&silent[..], "NUL"),
        (b"queue: x\ntitle: caf\xe9", "line 2, column 11"),
        (b"queue: x\ntitle: '\0'", "line 2, column 9"),
        (b"\xff\xfe\x00", "UTF-16"),
    ] {
        let found = read(bytes).unwrap_or_default();
        assert!(found.contains(part), "{part}: {found}");
    }
    assert_eq!(read("\u{feff}queue: é".as_bytes()), None);
}

#[test]
fn of_very_many_mistakes_the_first_thousand_are_told() {
    let one = format!("queue: x\n{}", (0..10_000).map(|n| format!("k{n}: 1\n")).collect::<String>());
    let found =
        check(&sources(&[("q/1.yaml", &one), ("q/2.yaml", &one), ("q/3.yaml", &one)]), &schemas).expect_err("wrong");
    assert_eq!(found.iter().count(), 1_000);
    assert_eq!(found.len(), 3 * 10_000 + 2);
    assert!(found.iter().all(|found| found.file == "q/1.yaml"));
    assert!(found.to_string().ends_with("30002 mistakes in the definitions; 29002 of them are not shown"));
}

#[test]
fn thousands_of_files_with_a_mistake_each_are_all_read() {
    let start = Instant::now();
    let files: Vec<Source> = (0..3_000)
        .map(|n| Source {
            path: PathBuf::from(format!("q/{n:05}.yaml")),
            text: format!("queue: q{n}\nwindov: {n}\non_processed: q{}\n", n + 1),
        })
        .collect();
    let found = check(&files, &schemas).expect_err("all wrong");
    // Each its typing mistake, and the last one leads nowhere.
    assert_eq!((found.iter().count(), found.len()), (1_000, 3_001));
    assert!(start.elapsed() < Duration::from_secs(60), "it took {:?}", start.elapsed());
}
