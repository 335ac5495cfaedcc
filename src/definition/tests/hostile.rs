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
            if std::env::var_os("SHOW").is_some() {
                eprintln!(
                    "{what}: {took:?} {}",
                    result.as_ref().map_or_else(|e| format!("{:.300}", e.to_string()), |_| "taken".into())
                );
            }
            assert!(took < Duration::from_secs(20), "{what} took {took:?}");
            if let Err(found) = result {
                assert!(found.to_string().len() < 20_000, "{what}");
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
