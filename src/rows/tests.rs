//! Inputs of every kind, whole, in pieces and broken.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::columns::{Columns, Dates, read_map};
use super::dates::DateOrder;
use super::foreign::Foreign;
use super::*;

/// Rows as `line: item` or `line! faults`.
fn rows(reader: Reader, input: &[u8]) -> Result<Vec<String>, String> {
    let whole = read(reader, input, input.len().max(1));
    whole.map(|rows| rows.iter().map(told).collect()).map_err(|broken| broken.to_string())
}

fn told(row: &Row) -> String {
    match &row.item {
        Ok(item) => format!("{}: {item}", row.line),
        Err(faults) => format!("{}! {}", row.line, faults.join("; ")),
    }
}

fn read(mut reader: Reader, input: &[u8], step: usize) -> Result<Vec<Row>, Broken> {
    let mut rows = Vec::new();
    for piece in input.chunks(step) {
        reader.feed(piece, &mut rows)?;
    }
    reader.finish(&mut rows)?;
    Ok(rows)
}

fn csv(map: &str) -> Columns {
    Columns { map: if map.is_empty() { Vec::new() } else { read_map(map).unwrap() }, ..Columns::default() }
}

fn foreign(foreign: Foreign, order: DateOrder) -> Columns {
    let zone = jiff::tz::TimeZone::get("Europe/Oslo").unwrap();
    Columns { foreign: Some(foreign), dates: Some(Dates { zone, order }), ..Columns::default() }
}

fn values(columns: Columns, input: &str) -> Vec<Result<Value, String>> {
    let rows = read(Reader::csv(columns), input.as_bytes(), input.len()).unwrap();
    rows.into_iter()
        .map(|row| row.item.map(|item| serde_json::from_str(&item).unwrap()).map_err(|faults| faults.join("; ")))
        .collect()
}

#[test]
fn lines_are_rows() {
    let input = b"\xef\xbb\xbf{\"payload\": 1}\r\n\n  \n{\"payload\": \"\xc3\xa5\"}\n\xff\xfe\n[]";
    assert_eq!(
        rows(Reader::ndjson(), input).unwrap(),
        [
            "1: {\"payload\": 1}",
            "4: {\"payload\": \"å\"}",
            "5! it is no UTF-8 (at its byte 1); save the input as UTF-8",
            "6: []"
        ]
    );
    assert_eq!(rows(Reader::ndjson(), b"").unwrap(), Vec::<String>::new());
    // What only begins like a byte order mark is content.
    assert_eq!(rows(Reader::ndjson(), b"\xef\xbb").unwrap().len(), 1);
}

#[test]
fn a_line_too_long_is_a_row_of_its_own() {
    let mut input = vec![b'x'; LONGEST_ROW + 1];
    input.extend_from_slice(b"\n{}\n");
    let rows = rows(Reader::ndjson(), &input).unwrap();
    assert_eq!(rows, [format!("1! the line has more than {LONGEST_ROW} bytes"), "2: {}".to_owned()]);
}

#[test]
fn arrays_are_cut_into_their_elements() {
    for (input, expected) in [
        ("[]", vec![]),
        (
            " \n[ {\"a\": [1, \"],{\\\"\"]} ,\n {\"b\": {}}, 7 ] \n",
            vec!["2: {\"a\": [1, \"],{\\\"\"]}", "3: {\"b\": {}}", "3: 7"],
        ),
        ("\u{feff}[{}]", vec!["1: {}"]),
        // What is no JSON inside is for whoever reads the element.
        ("[{nonsense}, {}]", vec!["1: {nonsense}", "1: {}"]),
    ] {
        assert_eq!(rows(Reader::array(), input.as_bytes()).unwrap(), expected, "{input}");
    }
    for (input, expected) in [
        ("", "line 1: there is no array; write [] for none"),
        ("{}", "line 1: this is no JSON array: it has to begin with ["),
        ("[{},\n,{}]", "line 2: an element is missing before a comma"),
        ("[{},]", "line 1: an element is missing behind a comma"),
        ("[{}", "line 1: the input ends in the middle: the array's ] is missing"),
        ("[{\"a\": \"]", "line 1: the input ends in the middle: the array's ] is missing"),
        ("[{]}", "line 1: a ] closes nothing that is open"),
        ("[}", "line 1: a } closes nothing that is open"),
        ("[{}]\n[]", "line 2: something stands behind the array's ]"),
    ] {
        assert_eq!(rows(Reader::array(), input.as_bytes()), Err(expected.to_owned()), "{input}");
    }
    let deep = "[".repeat(1000);
    assert!(rows(Reader::array(), deep.as_bytes()).unwrap_err().contains("256 deep"));
}

#[test]
fn columns_are_for_what_their_headings_say() {
    let input = "\u{feff}reference,priority,label.site,payload.buyer.name,amount,due_at,name,payload.buyer.no\r\n\
        INV-1,high,oslo,\"Ås, \"\"AS\"\"\",014.50,2026-05-04T08:00:00Z,,7\r\n\
        \r\n\
        ,08,,\"two\nlines\",,,n,\r\n\
        INV-3,1\r\n\
        INV-4,,,,,,,";
    assert_eq!(
        rows(Reader::csv(csv("")), input.as_bytes()).unwrap(),
        [
            r#"2: {"payload":{"buyer":{"name":"Ås, \"AS\"","no":"7"},"amount":"014.50"},"reference":"INV-1","priority":"high","due_at":"2026-05-04T08:00:00Z","labels":{"site":"oslo"}}"#,
            r#"4: {"payload":{"buyer":{"name":"two\nlines","no":""},"amount":""},"priority":8,"name":"n"}"#,
            "6! the row has 2 cells and the heading 8; text with a delimiter or a line's end in it needs quotes around it",
            r#"7: {"payload":{"buyer":{"name":"","no":""},"amount":""},"reference":"INV-4"}"#,
        ]
    );
}

#[test]
fn a_map_goes_over_the_headings_and_gives_types() {
    let map = r"orderID:reference,freight:payload.cost.freight:number,paid::boolean,tags::json,odd\:name\,x:label.odd,secret:-";
    let input = "orderID,freight,paid,tags,\"odd:name,x\",secret\n10248,32.380,yes,\"[1, \"\"a\"\"]\",o,s\n1,,,,,\n2,007,maybe,{,,\n";
    assert_eq!(
        rows(Reader::csv(csv(map)), input.as_bytes()).unwrap(),
        [
            r#"2: {"payload":{"cost":{"freight":32.380},"paid":true,"tags":[1, "a"]},"reference":"10248","labels":{"odd":"o"}}"#,
            r#"3: {"payload":{"cost":{"freight":null},"paid":null,"tags":null},"reference":"1"}"#,
            "4! freight is '007', and has to be a number as JSON writes it, like 14 or -0.5; paid is 'maybe', and has to \
             be true or false (or yes, no, 1, 0); tags is '{', and has to be JSON; text is JSON in quotes",
        ]
    );
    assert_eq!(
        rows(Reader::csv(csv("")), b"payload,reference\n\"{\"\"n\"\": 1.10}\",a\n").unwrap(),
        [r#"2: {"payload":{"n": 1.10},"reference":"a"}"#]
    );
}

#[test]
fn every_mistake_in_a_map_or_a_heading_is_named_at_once() {
    let faults = read_map("a,b:c:d:e,x:nowhere,x:-,y:name:number,z::date,:a,q:").unwrap_err();
    let form = "an entry is column:target, column:target:type or column::type";
    assert_eq!(
        faults,
        [
            format!("'a': {form}"),
            format!("'b:c:d:e': {form}"),
            "'x:nowhere': 'nowhere' is no target; allowed: reference, name, priority, due_at, expires_at, not_before, \
             label.<name>, payload, payload.<path>, -"
                .to_owned(),
            "'y:name:number': only what goes into the payload has a type".to_owned(),
            "'z::date': 'date' is no type; allowed: text, number, boolean, json".to_owned(),
            format!("':a': {form}"),
            format!("'q:': {form}"),
        ]
    );
    assert_eq!(read_map("a:-,a:name").unwrap_err(), ["'a' is mapped twice"]);
    for (map, heading, expected) in [
        ("gone:name", "a,b", "there is no column 'gone' to map; there are a, b"),
        ("", "a,,a", "column 2 has no heading; the heading 'a' stands twice"),
        ("b:reference", "reference,b", "column 'b': 'reference' is for the same"),
        (
            "",
            "payload,x",
            "column 'x': a payload comes whole from one column, or in parts from several; map one of them to - or elsewhere",
        ),
        ("", "payload.a,payload.a.b", "column 'payload.a.b': payload.a.b is there already, or a part of it"),
        ("", "a;b", "the heading is one column with ';' in it: say delimiter=;"),
    ] {
        let input = format!("{heading}\n1,2\n");
        assert_eq!(rows(Reader::csv(csv(map)), input.as_bytes()), Err(format!("line 1: {expected}")), "{heading}");
    }
    assert_eq!(
        rows(Reader::csv(csv("")), b""),
        Err("line 1: there is no heading: the first row has to name the columns".to_owned())
    );
    assert_eq!(
        rows(Reader::csv(csv("")), b"a\xff,b\n"),
        Err("line 1: the heading is no UTF-8; save the input as UTF-8".to_owned())
    );
    let latin = rows(Reader::csv(csv("")), b"name,city\na,M\xfcnster\nb,Oslo\n").unwrap();
    assert_eq!(latin[0], "2! city is no UTF-8 (at its byte 2); save the input as UTF-8");
    assert_eq!(latin[1], r#"3: {"payload":{"city":"Oslo"},"name":"b"}"#);
}

#[test]
fn power_automates_bulk_file_folds_business_columns_into_the_payload() {
    let heading = "Name,Vendor,Status,WorkQueueItemId,WorkQueueKey,ComponentState,OverwriteTime";
    let heading: Vec<String> = heading.split(',').map(str::to_owned).collect();
    assert_eq!(Foreign::of(&heading), Some(Foreign::PowerAutomate));
    let input = format!(
        "{}\nInvoice 1,Acme,paid,5f0c,invoices,0,01/01/1900 00:00\nInvoice 2,Acme,open,5f0d,letters,0,01/01/1900 00:00\n",
        heading.join(",")
    );
    let read = values(foreign(Foreign::PowerAutomate, DateOrder::MonthFirst), &input);
    assert_eq!(
        read[0].as_ref().unwrap(),
        &json!({"payload": {"Vendor": "Acme", "Status": "paid"}, "name": "Invoice 1", "reference": "5f0c"})
    );
    assert_eq!(
        read[1].as_ref().unwrap_err(),
        "it is of the queue 'letters' and the first row of 'invoices'; import them one by one"
    );
}

#[test]
fn power_automates_table_has_priorities_times_and_a_status() {
    let input = "Name,Input,Expires in,Processing notes,Priority,Unique reference,Status,Delay until\n\
        One,\"{\"\"n\"\": 1}\",7/1/2026 2:30 PM,checked,100,U-1,0,\n\
        Two,plain text,,,300,U-2,Queued,12/31/2026\n\
        Three,1,,,200,U-3,1,\n\
        Four,1,,,0,U-4,0,31/12/2026\n";
    let heading: Vec<String> = input.lines().next().unwrap().split(',').map(str::to_owned).collect();
    assert_eq!(Foreign::of(&heading), Some(Foreign::PowerAutomate));
    let read = values(foreign(Foreign::PowerAutomate, DateOrder::MonthFirst), input);
    // Oslo is two hours ahead in July, one in December.
    assert_eq!(
        read[0].as_ref().unwrap(),
        &json!({"payload": {"n": 1}, "name": "One", "priority": "high", "reference": "U-1",
            "expires_at": "2026-07-01T12:30:00Z", "labels": {"processing_notes": "checked"}})
    );
    assert_eq!(
        read[1].as_ref().unwrap(),
        &json!({"payload": "plain text", "name": "Two", "priority": "low", "reference": "U-2", "not_before": "2026-12-30T23:00:00Z"})
    );
    assert!(read[2].as_ref().unwrap_err().starts_with("it is on hold, and items cannot come in on hold"));
    assert_eq!(
        read[3].as_ref().unwrap_err(),
        "Priority is '0', and has to be a priority of Power Automate: from 1 (100 is high, 200 normal, 300 low), or High, \
         Normal, Low; Delay until is '31/12/2026': it has to be a time like 2026-05-04T08:00:00Z or 5/4/2026 8:00 AM"
    );
    let more = "Input,Expires in,Vendor\n1,,x\n";
    let broken = rows(Reader::csv(foreign(Foreign::PowerAutomate, DateOrder::MonthFirst)), more.as_bytes());
    assert!(broken.unwrap_err().contains("there is no place for the column 'Vendor'"));
}

#[test]
fn uipaths_columns_and_specific_data() {
    let input = "Reference,Priority,Deadline,Postpone,Amount,Vendor\n\
        A-1,High,2026-07-01,2026/06/30 08:15,100,Acme\n\
        A-2,1,2026 07 01 10:00:30,,,\n\
        A-3,urgent,soon,,1,x\n";
    let heading: Vec<String> = input.lines().next().unwrap().split(',').map(str::to_owned).collect();
    assert_eq!(Foreign::of(&heading), Some(Foreign::UiPath));
    let read = values(foreign(Foreign::UiPath, DateOrder::YearFirst), input);
    assert_eq!(
        read[0].as_ref().unwrap(),
        &json!({"payload": {"Amount": "100", "Vendor": "Acme"}, "reference": "A-1", "priority": "high",
            "due_at": "2026-06-30T22:00:00Z", "not_before": "2026-06-30T06:15:00Z"})
    );
    assert_eq!(read[1].as_ref().unwrap()["due_at"], "2026-07-01T08:00:30Z");
    assert_eq!(read[1].as_ref().unwrap()["priority"], "low");
    let faults = read[2].as_ref().unwrap_err();
    assert!(faults.contains("a priority of UiPath") && faults.contains("Deadline is 'soon'"), "{faults}");
    assert_eq!(Foreign::of(&["reference".to_owned(), "priority".to_owned()]), None);
    let mapped = Columns {
        map: read_map("Amount:payload.amount:number").unwrap(),
        ..foreign(Foreign::UiPath, DateOrder::YearFirst)
    };
    assert_eq!(values(mapped, input)[0].as_ref().unwrap()["payload"], json!({"amount": 100, "Vendor": "Acme"}));
}

#[test]
fn names_are_short_and_faults_are_not_told_without_end() {
    // Each of these names would stand in the JSON of every row.
    let input = format!("a,{},{}\n1,2,3\n", "b".repeat(200), "c".repeat(201));
    let broken = rows(Reader::csv(csv("")), input.as_bytes()).unwrap_err();
    assert!(broken.starts_with("line 1: the heading of column 3 has more than 200 characters (ccc"), "{broken}");
    assert!(broken.len() < 200, "{broken}");
    let long = read_map(&format!("a:payload.{}", "b".repeat(200))).unwrap_err();
    assert!(long[0].ends_with("a target has at most 200 characters"), "{long:?}");

    let heading: Vec<String> = (0..1000).map(|n| format!("c{n}")).collect();
    let cells = |cell: &[u8]| [&vec![cell; 1000].join(&b','), &b"\n"[..]].concat();
    let map: Vec<String> = heading.iter().map(|name| format!("{name}::number")).collect();
    let input = [heading.join(",").as_bytes(), b"\n", &cells(b"\xff"), &cells(b"x")].concat();
    let read = read(Reader::csv(csv(&map.join(","))), &input, input.len()).unwrap();
    for row in read {
        let faults = row.item.unwrap_err();
        assert_eq!((faults.len(), faults[100].as_str()), (101, "and 900 more"));
    }
    let twice = format!("{}\n", vec!["a"; 1000].join(","));
    assert!(rows(Reader::csv(csv("")), twice.as_bytes()).unwrap_err().ends_with("; and 899 more"));
}

#[test]
fn dates_are_read_as_they_are_written_elsewhere() {
    let oslo = jiff::tz::TimeZone::get("Europe/Oslo").unwrap();
    let read = |text: &str, order| dates::read(text, order, &oslo).map(|time| time.to_string()).ok();
    use DateOrder::{DayFirst, MonthFirst, YearFirst};
    for (text, order, expected) in [
        ("2026-05-04T08:00:00Z", MonthFirst, Some("2026-05-04T08:00:00Z")),
        ("2026-05-04T08:00:00+05:00", YearFirst, Some("2026-05-04T03:00:00Z")),
        ("1996-07-04 00:00:00.000", YearFirst, Some("1996-07-03T22:00:00Z")),
        ("2026.1.2", YearFirst, Some("2026-01-01T23:00:00Z")),
        ("2026-05-04T8:00", YearFirst, Some("2026-05-04T06:00:00Z")),
        ("5/4/2026", MonthFirst, Some("2026-05-03T22:00:00Z")),
        ("5/4/2026 12:05:01 am", MonthFirst, Some("2026-05-03T22:05:01Z")),
        ("5/4/2026 12:05 PM", MonthFirst, Some("2026-05-04T10:05:00Z")),
        ("4.5.2026 14:00", DayFirst, Some("2026-05-04T12:00:00Z")),
        // The hour that a change of clocks leaves out, and the one that it brings twice.
        ("2026-03-29 02:30", YearFirst, Some("2026-03-29T01:30:00Z")),
        ("2026-10-25 02:30", YearFirst, Some("2026-10-25T00:30:00Z")),
        ("5/4/2026", YearFirst, None),
        ("2026-02-30", YearFirst, None),
        ("2026-05-04 25:00", YearFirst, None),
        ("2026-05-04 13:00 PM", YearFirst, None),
        ("2026-05-04 8", YearFirst, None),
        ("26-05-04", YearFirst, None),
        ("tomorrow", YearFirst, None),
        ("", YearFirst, None),
    ] {
        assert_eq!(read(text, order).as_deref(), expected, "{text}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic_or_a_piece_matter(input in proptest::collection::vec(any::<u8>(), 0..300), step in 1usize..9) {
        let readers: [fn() -> Reader; 4] = [
            Reader::ndjson,
            Reader::array,
            || Reader::csv(Columns::default()),
            || Reader::csv(foreign(Foreign::PowerAutomate, DateOrder::MonthFirst)),
        ];
        for reader in readers {
            prop_assert_eq!(read(reader(), &input, step), read(reader(), &input, input.len().max(1)));
        }
    }

    #[test]
    fn what_looks_like_a_table_never_makes_anything_but_json(input in "([a-c\",;\n\r{}\\[\\]: .é-]|payload|label\\.|Input){0,60}", step in 1usize..5) {
        for columns in [Columns::default(), foreign(Foreign::UiPath, DateOrder::DayFirst)] {
            let whole = read(Reader::csv(columns.clone()), input.as_bytes(), input.len().max(1));
            prop_assert_eq!(&read(Reader::csv(columns), input.as_bytes(), step), &whole);
            for row in whole.into_iter().flatten() {
                if let Ok(item) = row.item {
                    prop_assert!(serde_json::from_str::<Value>(&item).is_ok_and(|item| item.is_object()), "{}", item);
                }
            }
        }
    }

    #[test]
    fn an_array_of_any_values_comes_out_as_it_went_in(values in proptest::collection::vec("[\\[\\]{},\"\\\\a ]{0,12}", 0..8), step in 1usize..7) {
        let input = json!(values.iter().map(|text| json!({"payload": text})).collect::<Vec<_>>());
        let rows = read(Reader::array(), input.to_string().as_bytes(), step).unwrap();
        let read: Vec<Value> = rows.iter().map(|row| serde_json::from_str(row.item.as_ref().unwrap()).unwrap()).collect();
        prop_assert_eq!(Value::from(read), input);
    }

    #[test]
    fn any_text_is_no_panic_for_maps_and_dates(text in ".{0,40}") {
        let _ = read_map(&text);
        for order in [DateOrder::YearFirst, DateOrder::MonthFirst, DateOrder::DayFirst] {
            let _ = dates::read(&text, order, &jiff::tz::TimeZone::UTC);
        }
    }
}
