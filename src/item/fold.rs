//! A reason without what differs from item to item: numbers, times, ids, paths, addresses and quoted values are `#`.
//!
//! Folding too much makes one group of two failures, folding too little a group per item. Where it is not clear this folds: a
//! group shows the newest reason in full, and its items have their own.

/// Characters of a reason that are looked at: what comes after is a stack trace, or somebody's data.
const LOOKED_AT: usize = 1_000;

/// The longest quoted value: what is quoted beyond is a sentence, or the other mark is missing.
const LONGEST_QUOTED: usize = 300;

/// A word this long is a token or a digest, whatever it is made of.
const LONGEST_WORD: usize = 40;

const QUOTES: [(char, char); 8] =
    [('"', '"'), ('\'', '\''), ('`', '`'), ('«', '»'), ('“', '”'), ('„', '“'), ('‘', '’'), ('”', '”')];

/// What a number may count, so that `30s`, `30 s` and `30 seconds` are one. Of every amount of money the currency.
const UNITS: [&str; 40] = [
    "ms", "s", "sec", "secs", "second", "seconds", "sekunder", "m", "min", "mins", "minute", "minutes", "minutter",
    "h", "hour", "hours", "timer", "d", "day", "days", "dager", "b", "byte", "bytes", "kb", "mb", "gb", "kib", "mib",
    "gib", "nok", "sek", "dkk", "eur", "usd", "gbp", "kr", "am", "pm", "times",
];

const ZONES: [&str; 6] = ["gmt", "utc", "cet", "cest", "est", "z"];

const MONTHS: [&str; 27] = [
    "jan",
    "january",
    "januar",
    "feb",
    "february",
    "februar",
    "mar",
    "march",
    "mars",
    "apr",
    "april",
    "may",
    "mai",
    "jun",
    "june",
    "juni",
    "jul",
    "july",
    "juli",
    "aug",
    "august",
    "sep",
    "september",
    "oct",
    "october",
    "nov",
    "dec",
];

const MORE_MONTHS: [&str; 5] = ["november", "december", "okt", "oktober", "desember"];

const WEEKDAYS: [&str; 14] = [
    "mon",
    "monday",
    "tue",
    "tuesday",
    "wed",
    "wednesday",
    "thu",
    "thursday",
    "fri",
    "friday",
    "sat",
    "saturday",
    "sun",
    "sunday",
];

/// Where files lie, so that a path below needs no ending.
const ROOTS: [&str; 14] =
    ["home", "var", "tmp", "usr", "opt", "mnt", "etc", "data", "srv", "root", "media", "users", "volumes", "run"];

/// Endings of files that items are about; other words with a dot may be names of systems.
const ENDINGS: [&str; 30] = [
    "pdf", "xml", "xls", "xlsx", "xlsm", "csv", "doc", "docx", "json", "txt", "zip", "eml", "msg", "png", "jpg",
    "jpeg", "tif", "tiff", "htm", "html", "log", "edi", "dat", "tmp", "bak", "ppt", "pptx", "gz", "yaml", "yml",
];

/// The reason as alike failures share it; `paths`: also those in file systems are folded.
pub(super) fn fold(reason: &str, paths: bool) -> String {
    let chars: Vec<char> = reason.chars().take(LOOKED_AT).flat_map(char::to_lowercase).collect();
    let mut folded = Folded { text: String::with_capacity(chars.len()) };
    let mut at = 0;
    while let Some(&first) = chars.get(at) {
        let rest = &chars[at..];
        let inside = at > 0 && is_word(chars[at - 1]) && is_word(first);
        at += if first.is_whitespace() {
            folded.space()
        } else if inside {
            folded.keep(first)
        } else {
            let differs = || quoted(rest).or_else(|| address(rest)).or_else(|| path(rest).filter(|_| paths));
            match url(rest, &mut folded) {
                Some(length) => length,
                None => match differs() {
                    Some(length) => folded.hash(length),
                    None if is_word(first) => word(rest, &mut folded),
                    None => folded.keep(first),
                },
            }
        };
    }
    folded.text.trim_end().to_owned()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '-' || c == '_'
}

/// What is written so far. Each step answers how many characters it is for.
struct Folded {
    text: String,
}

impl Folded {
    fn space(&mut self) -> usize {
        if !self.text.is_empty() && !self.text.ends_with(' ') {
            self.text.push(' ');
        }
        1
    }

    fn keep(&mut self, c: char) -> usize {
        // `30 %`
        if c == '%' && self.follows_number() {
            self.text.truncate(self.text.trim_end().len());
        } else {
            self.text.push(c);
        }
        1
    }

    /// Something that differs: with others before it that nothing but punctuation parts, it is one.
    fn hash(&mut self, length: usize) -> usize {
        let before = self.text.trim_end_matches([' ', ',', '.', ':', ';', '/', '+', '-', '_', '=']);
        if before.ends_with('#') {
            self.text.truncate(before.len());
        } else {
            self.text.push('#');
        }
        length
    }

    fn follows_number(&self) -> bool {
        self.text.trim_end_matches([' ', ',', '.']).ends_with('#')
    }
}

/// `'Acme AS'`: how long it is with its marks.
fn quoted(rest: &[char]) -> Option<usize> {
    let (_, closes) = QUOTES.into_iter().find(|(opens, _)| *opens == rest[0])?;
    let inside = rest[1..].iter().take(LONGEST_QUOTED).take_while(|c| **c != '\n');
    let ends = |(at, c): (usize, &char)| {
        // An apostrophe in the middle of a word ends nothing.
        let in_word = closes == '\'' && rest.get(at + 2).is_some_and(|next| next.is_alphanumeric());
        (*c == closes && !in_word).then_some(at + 2)
    };
    inside.enumerate().find_map(ends)
}

/// What reaches to the next white space, bracket or mark, without the punctuation at its end.
fn run(rest: &[char]) -> &[char] {
    let ends = |c: &char| {
        c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>' | '|' | ',' | ';' | '(' | ')' | '«' | '»')
    };
    let run = &rest[..rest.iter().position(ends).unwrap_or(rest.len())];
    let length = run.iter().rposition(|c| !matches!(c, '.' | ':' | '!' | '?')).map_or(0, |last| last + 1);
    &run[..length]
}

/// Of an address on the web the system stays, where it is no number.
fn url(rest: &[char], folded: &mut Folded) -> Option<usize> {
    let run = run(rest);
    let scheme = run.iter().position(|c| !c.is_ascii_alphabetic()).filter(|length| (2..=10).contains(length))?;
    let after = run.get(scheme..)?.strip_prefix(&[':', '/', '/'])?;
    let authority = after.iter().position(|c| matches!(c, '/' | '?' | '#')).unwrap_or(after.len());
    let (authority, path) = after.split_at(authority);
    // Whoever is named before the host differs, and may be a secret.
    let host = authority.rsplit(|c| *c == '@').next().unwrap_or_default();
    let host = host.split(|c| *c == ':').next().unwrap_or_default();
    folded.text.extend(&run[..scheme]);
    folded.text.push_str("://");
    if host.iter().any(|c| c.is_numeric()) {
        folded.text.push('#');
    } else {
        folded.text.extend(host);
    }
    if path.iter().any(|c| c.is_alphanumeric()) {
        folded.text.push_str("/#");
    }
    Some(run.len())
}

/// `ola.nordmann@example.com`
fn address(rest: &[char]) -> Option<usize> {
    let run = run(rest);
    let at = run.iter().position(|c| *c == '@').filter(|at| *at > 0)?;
    let (name, host) = (&run[..at], &run[at + 1..]);
    let named = name.iter().all(|c| is_word(*c) || matches!(c, '.' | '+'));
    let hosted = host.contains(&'.') && host.iter().all(|c| is_word(*c) || *c == '.');
    (named && hosted).then_some(run.len())
}

/// A file or folder: with a backslash, below a known root, or with a file's ending.
fn path(rest: &[char]) -> Option<usize> {
    let run = run(rest);
    if run.windows(2).any(|pair| pair[0] == '\\' && (is_word(pair[1]) || pair[1] == '\\')) {
        return Some(run.len());
    }
    let text: String = run.iter().collect();
    let name = text.rsplit('/').next().unwrap_or_default();
    let has_ending = name.rsplit_once('.').is_some_and(|(name, ending)| !name.is_empty() && ENDINGS.contains(&ending));
    let home = text.starts_with("~/") || text.starts_with("./") || text.starts_with("../");
    let root =
        text.strip_prefix('/').and_then(|below| below.split('/').next()).is_some_and(|root| ROOTS.contains(&root));
    (has_ending || home || root).then_some(run.len())
}

fn word(rest: &[char], folded: &mut Folded) -> usize {
    let length = rest.iter().position(|c| !is_word(*c)).unwrap_or(rest.len());
    let word: String = rest[..length].iter().collect();
    let number = word.contains(|c: char| c.is_numeric());
    let digits = length >= 8 && word.chars().all(|c| c.is_ascii_hexdigit());
    if number || digits || length >= LONGEST_WORD {
        return folded.hash(length);
    }
    let is_one_of = |words: &[&str]| words.contains(&word.as_str());
    let is_month = |word: &str| MONTHS.contains(&word) || MORE_MONTHS.contains(&word);
    if folded.follows_number() && (is_one_of(&UNITS) || is_one_of(&ZONES) || is_month(&word)) {
        return folded.hash(length);
    }
    let next: String = rest[length..].iter().skip_while(|c| !is_word(**c)).take_while(|c| is_word(**c)).collect();
    let next_is_number = next.starts_with(|c: char| c.is_numeric());
    let dated = (is_month(&word) && next_is_number) || (is_one_of(&WEEKDAYS) && (next_is_number || is_month(&next)));
    if dated {
        return folded.hash(length);
    }
    folded.text.push_str(&word);
    length
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_differs_from_item_to_item_is_left_out() {
        for (reason, expected) in [
            ("", ""),
            ("SAP is down", "sap is down"),
            ("a\n  broken\tline ", "a broken line"),
            ("retry-after was given", "retry-after was given"),
            ("Følgeseddel 7 mangler", "følgeseddel # mangler"),
            // Numbers, with what they count.
            ("Timeout after 30 s", "timeout after #"),
            ("Timeout after 30s", "timeout after #"),
            ("Timeout after 1.5 seconds!", "timeout after #!"),
            ("used 97 % of 2 GiB", "used # of #"),
            ("total 1 234,50 NOK differs from 1.200,00 NOK", "total # differs from #"),
            ("vendor 4711, 4712 are locked", "vendor # are locked"),
            ("vendor 4711 are locked", "vendor # are locked"),
            ("٣ items", "# items"),
            ("host srv-12 (eu) said: 503", "host # (eu) said: #"),
            ("step 3 may fail", "step # fail"),
            // Ids.
            ("item 018f3a6e-7d3b-7a10-beef-cafebabe0001 is gone", "item # is gone"),
            ("commit deadbeefcafe at 0x7ffe12", "commit # at #"),
            ("a decade of facades", "a decade of facades"),
            ("token eyjhbgcioijubxkzhcxvcydrwzzzabcdefghijklmnopq expired", "token # expired"),
            // Times.
            ("no answer of 10.0.0.17:8080 at 12:30:05.123", "no answer of # at #"),
            ("since 2026-05-04T08:00:00+02:00", "since #"),
            ("since 2026-05-04 08:00:00 UTC it waits", "since # it waits"),
            ("on Mon, 04 May 2026 10:00:00 GMT", "on #"),
            ("on 4. mai 2026 it was", "on # it was"),
            ("on May 4, 2026 it was", "on # it was"),
            ("you may go, monday is off", "you may go, monday is off"),
            // Paths and files.
            ("cannot read /var/spool/acme/in.box", "cannot read #"),
            ("cannot read /mnt/share/new: denied", "cannot read #: denied"),
            (r"cannot read C:\Robots\acme\invoice.xlsx.", "cannot read #."),
            (r"cannot read \\nas\share\acme", "cannot read #"),
            ("cannot open acme_invoice.pdf", "cannot open #"),
            ("cannot open inbox/acme.pdf (locked)", "cannot open # (locked)"),
            ("POST /orders failed", "post /orders failed"),
            ("either/or of erp.example.com", "either/or of erp.example.com"),
            // Addresses.
            ("GET https://erp.example.com/api/orders/abc?x=y failed", "get https://erp.example.com/# failed"),
            ("GET http://10.0.0.1:8080/ failed", "get http://# failed"),
            ("at https://ola:secret@erp.example.com.", "at https://erp.example.com."),
            ("no mailbox ola.nordmann@example.com here", "no mailbox # here"),
            ("a@b", "a@b"),
            // Quoted values.
            ("vendor 'Acme AS' is not known", "vendor # is not known"),
            ("vendor \"Ola's Shop\" is not known", "vendor # is not known"),
            ("vendor «Acme» is not known", "vendor # is not known"),
            ("can't find it, isn't there", "can't find it, isn't there"),
            ("an open ' mark", "an open ' mark"),
            ("'a', 'b' and 'c' are locked", "# and # are locked"),
        ] {
            assert_eq!(fold(reason, true), expected, "{reason}");
        }
    }

    proptest! {
        #[test]
        fn any_reason_is_folded_and_no_digit_is_left(reason in "\\PC{0,80}") {
            let once = fold(&reason, true);
            prop_assert!(!once.contains(|c: char| c.is_ascii_digit()), "{once}");
        }

        #[test]
        fn numbers_make_no_difference(a in 0u64.., b in 0u64..) {
            let reason = |n: u64| format!("order {n} of vendor {} was not found in {n} ms", n.wrapping_mul(7));
            prop_assert_eq!(fold(&reason(a), true), fold(&reason(b), true));
        }
    }
}
