//! What the columns of a table are for, and how a row of them becomes a JSON object.
//!
//! A column is for what its heading says: a member of an item (`reference`, `priority`, `name`, `due_at`, `expires_at`,
//! `not_before`), `label.<name>`, `payload` (the whole of it, as JSON), or `payload.<path>` with dots between the steps.
//! Any other column becomes a member of the payload's object under its own heading. A map says otherwise:
//! `column:target`, `column:target:type` or `column::type`, several separated by commas; the target `-` drops a column.
//! Cells of the payload are texts unless a type says `number`, `boolean` or `json`. A backslash makes the next `,`,
//! `:` or `\` a plain character.

use std::collections::HashSet;

use jiff::tz::TimeZone;

use super::dates::{self, DateOrder};
use super::foreign::{self, Foreign};
use super::table::LONGEST_NAME;
use super::{first_of, shown};

/// Members of an item that are texts.
const TEXTS: [&str; 2] = ["reference", "name"];

/// Members of an item that are times.
const TIMES: [&str; 3] = ["due_at", "expires_at", "not_before"];

/// Columns that an import adds to rows that were refused, and passes over when they come again.
pub const REFUSED: [&str; 3] = ["refused_line", "refused_code", "refused_reasons"];

/// Payload objects in one another.
const DEEPEST: usize = 32;

/// How a table is to be read.
#[derive(Debug, Clone)]
pub struct Columns {
    /// One byte; a comma unless said otherwise.
    pub delimiter: u8,
    /// What single columns are for, over what their headings say.
    pub map: Vec<Mapped>,
    /// The headings are those of another product.
    pub foreign: Option<Foreign>,
    /// Times may be written in other ways than RFC 3339; `None`: they may not.
    pub dates: Option<Dates>,
}

/// How times without an offset are read.
#[derive(Debug, Clone)]
pub struct Dates {
    pub zone: TimeZone,
    pub order: DateOrder,
}

impl Default for Columns {
    fn default() -> Self {
        Self { delimiter: b',', map: Vec::new(), foreign: None, dates: None }
    }
}

/// A column's entry in a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    column: String,
    /// `None`: by its heading.
    target: Option<Target>,
    cell: Option<Cell>,
}

/// Where a column's cells go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// A member of the item that is a text, or the priority.
    Member(&'static str),
    Time(&'static str),
    Label(String),
    /// The whole payload.
    Payload,
    /// A part of the payload's object.
    Part(Vec<String>),
    /// All rows have to say the same.
    Constant,
    /// It decides whether the row is taken.
    Standing,
    Nothing,
}

/// How a cell is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell {
    Text,
    Number,
    Boolean,
    Json,
    /// JSON where it is some, else a text.
    JsonOrText,
    /// A number or a name, in the words of another product or ours.
    Priority(Option<Foreign>),
}

/// What the columns of one table are for.
#[derive(Debug, Clone)]
pub struct Plan {
    members: Vec<(usize, &'static str, Cell)>,
    times: Vec<(usize, &'static str)>,
    labels: Vec<(usize, String)>,
    payload: Payload,
    standing: Option<usize>,
    constant: Option<(usize, Option<String>)>,
    heading: Vec<String>,
    columns: Columns,
}

#[derive(Debug, Clone)]
enum Payload {
    Whole(usize, Cell),
    Parts(Vec<(String, Part)>),
}

#[derive(Debug, Clone)]
enum Part {
    Leaf(usize, Cell),
    Branch(Vec<(String, Part)>),
}

/// Reads a map, finding every mistake in it at once.
///
/// # Errors
/// What is wrong with its entries.
pub fn read_map(text: &str) -> Result<Vec<Mapped>, Vec<String>> {
    let (mut map, mut faults): (Vec<Mapped>, Vec<String>) = (Vec::new(), Vec::new());
    for entry in pieces(text, ',') {
        match read_entry(&entry) {
            Ok(mapped) if map.iter().any(|other| other.column == mapped.column) => {
                faults.push(format!("'{}' is mapped twice", shown(&mapped.column)));
            }
            Ok(mapped) => map.push(mapped),
            Err(fault) => faults.push(format!("'{}': {fault}", shown(&entry))),
        }
    }
    if faults.is_empty() { Ok(map) } else { Err(first_of(faults)) }
}

fn read_entry(entry: &str) -> Result<Mapped, String> {
    const FORM: &str = "an entry is column:target, column:target:type or column::type";
    let pieces: Vec<String> = pieces(entry, ':').into_iter().map(|piece| plain(&piece)).collect();
    let (column, target, cell) = match pieces.as_slice() {
        [column, target] => (column, target, None),
        [column, target, cell] => (column, target, Some(cell)),
        _ => return Err(FORM.to_owned()),
    };
    if column.is_empty() || (target.is_empty() && cell.is_none()) {
        return Err(FORM.to_owned());
    }
    if target.chars().count() > LONGEST_NAME {
        return Err(format!("a target has at most {LONGEST_NAME} characters"));
    }
    let target = match target.as_str() {
        "" => None,
        "-" => Some(Target::Nothing),
        target => Some(own(target).ok_or_else(|| {
            let members = [TEXTS.as_slice(), &["priority"], &TIMES].concat().join(", ");
            format!("'{}' is no target; allowed: {members}, label.<name>, payload, payload.<path>, -", shown(target))
        })?),
    };
    let cell = match cell.map(String::as_str) {
        None => None,
        Some("text") => Some(Cell::Text),
        Some("number") => Some(Cell::Number),
        Some("boolean") => Some(Cell::Boolean),
        Some("json") => Some(Cell::Json),
        Some(other) => {
            return Err(format!("'{}' is no type; allowed: text, number, boolean, json", shown(other)));
        }
    };
    if cell.is_some() && !matches!(target, None | Some(Target::Payload | Target::Part(_))) {
        return Err("only what goes into the payload has a type".to_owned());
    }
    Ok(Mapped { column: column.clone(), target, cell })
}

/// `text` cut at `at`, backslashes left as they are.
fn pieces(text: &str, at: char) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == at && !escaped {
            pieces.push(String::new());
            continue;
        }
        escaped = c == '\\' && !escaped;
        if let Some(piece) = pieces.last_mut() {
            piece.push(c);
        }
    }
    pieces
}

fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    plain
}

/// What a heading or a target says in our own words.
fn own(name: &str) -> Option<Target> {
    if let Some(member) = TEXTS.into_iter().chain(["priority"]).find(|member| *member == name) {
        return Some(Target::Member(member));
    }
    if let Some(member) = TIMES.into_iter().find(|member| *member == name) {
        return Some(Target::Time(member));
    }
    if name == "payload" {
        return Some(Target::Payload);
    }
    if let Some(label) = name.strip_prefix("label.").filter(|label| !label.is_empty()) {
        return Some(Target::Label(label.to_owned()));
    }
    let path = name.strip_prefix("payload.")?;
    let path: Vec<String> = path.split('.').map(str::to_owned).collect();
    (path.iter().all(|step| !step.is_empty()) && path.len() <= DEEPEST).then_some(Target::Part(path))
}

impl Columns {
    /// What the columns of this heading are for.
    ///
    /// # Errors
    /// Everything that is wrong with the heading or the map.
    pub fn plan(&self, heading: &[String]) -> Result<Plan, Vec<String>> {
        let mut faults = Vec::new();
        let mut plan = Plan {
            members: Vec::new(),
            times: Vec::new(),
            labels: Vec::new(),
            payload: Payload::Parts(Vec::new()),
            standing: None,
            constant: None,
            heading: heading.to_vec(),
            columns: self.clone(),
        };
        let columns: HashSet<&String> = heading.iter().collect();
        let there = list(heading);
        for mapped in &self.map {
            if !columns.contains(&mapped.column) {
                faults.push(format!("there is no column '{}' to map; there are {there}", shown(&mapped.column)));
            }
        }
        let foreign = self.foreign.map(|foreign| foreign.read(heading)).unwrap_or_default();
        let mut names = HashSet::new();
        for (index, name) in heading.iter().enumerate() {
            if name.is_empty() {
                faults.push(format!("column {} has no heading", index + 1));
            } else if !names.insert(name) {
                faults.push(format!("the heading '{}' stands twice", shown(name)));
            } else {
                let (target, cell) = self.of(name, &foreign);
                if let Err(fault) = plan.add(index, target, cell) {
                    faults.push(format!("column '{}': {fault}", shown(name)));
                }
            }
        }
        faults.extend(foreign.faults);
        if faults.is_empty() { Ok(plan) } else { Err(faults) }
    }

    fn of(&self, name: &str, foreign: &foreign::Heading) -> (Target, Cell) {
        let mapped = self.map.iter().find(|mapped| mapped.column == name);
        let by_heading = foreign.of(name).or_else(|| {
            if REFUSED.contains(&name) {
                return Some((Target::Nothing, Cell::Text));
            }
            // With another product's headings ours are columns like any other.
            let target = own(name).filter(|_| self.foreign.is_none())?;
            let cell = match &target {
                Target::Member("priority") => Cell::Priority(None),
                Target::Payload => Cell::Json,
                _ => Cell::Text,
            };
            Some((target, cell))
        });
        let by_heading = by_heading.unwrap_or_else(|| (Target::Part(vec![name.to_owned()]), Cell::Text));
        let Some(mapped) = mapped else { return by_heading };
        match &mapped.target {
            None => (by_heading.0, mapped.cell.unwrap_or(by_heading.1)),
            Some(target) => {
                let cell = match target {
                    Target::Member("priority") => Cell::Priority(None),
                    Target::Payload => mapped.cell.unwrap_or(Cell::Json),
                    _ => mapped.cell.unwrap_or(Cell::Text),
                };
                (target.clone(), cell)
            }
        }
    }
}

fn list(heading: &[String]) -> String {
    let names: Vec<String> = heading.iter().map(|name| shown(name)).collect();
    shown(&names.join(", "))
}

impl Plan {
    fn add(&mut self, index: usize, target: Target, cell: Cell) -> Result<(), String> {
        let taken = |heading: &[String], by: usize| format!("'{}' is for the same", shown(&heading[by]));
        match target {
            Target::Nothing => {}
            Target::Standing => self.standing = Some(index),
            Target::Constant => self.constant = Some((index, None)),
            Target::Member(member) => {
                if let Some((by, ..)) = self.members.iter().find(|(_, other, _)| *other == member) {
                    return Err(taken(&self.heading, *by));
                }
                self.members.push((index, member, cell));
            }
            Target::Time(member) => {
                if let Some((by, _)) = self.times.iter().find(|(_, other)| *other == member) {
                    return Err(taken(&self.heading, *by));
                }
                self.times.push((index, member));
            }
            Target::Label(label) => {
                if let Some((by, _)) = self.labels.iter().find(|(_, other)| *other == label) {
                    return Err(taken(&self.heading, *by));
                }
                self.labels.push((index, label));
            }
            Target::Payload => match &self.payload {
                Payload::Parts(parts) if parts.is_empty() => self.payload = Payload::Whole(index, cell),
                Payload::Whole(by, _) => return Err(taken(&self.heading, *by)),
                Payload::Parts(_) => return Err(WHOLE.to_owned()),
            },
            Target::Part(path) => match &mut self.payload {
                Payload::Whole(..) => return Err(WHOLE.to_owned()),
                Payload::Parts(parts) => {
                    if !plant(parts, &path, Part::Leaf(index, cell)) {
                        return Err(format!("payload.{} is there already, or a part of it", path.join(".")));
                    }
                }
            },
        }
        Ok(())
    }

    /// The item a row is for, as JSON.
    pub(super) fn item(&mut self, cells: &[String]) -> Result<String, Vec<String>> {
        let mut faults = Vec::new();
        self.check(cells, &mut faults);
        let mut item = String::from("{\"payload\":");
        match &self.payload {
            Payload::Whole(index, cell) => self.value(*index, *cell, cells, &mut item, &mut faults),
            Payload::Parts(parts) => self.object(parts, cells, &mut item, &mut faults),
        }
        for (index, member, cell) in &self.members {
            if !cells[*index].is_empty() {
                item.push_str(&format!(",\"{member}\":"));
                self.value(*index, *cell, cells, &mut item, &mut faults);
            }
        }
        for (index, member) in &self.times {
            if !cells[*index].trim().is_empty() {
                item.push_str(&format!(",\"{member}\":"));
                self.time(*index, cells, &mut item, &mut faults);
            }
        }
        let labels: Vec<_> = self.labels.iter().filter(|(index, _)| !cells[*index].is_empty()).collect();
        for (n, (index, label)) in labels.iter().enumerate() {
            item.push_str(if n == 0 { ",\"labels\":{" } else { "," });
            quote(label, &mut item);
            item.push(':');
            quote(&cells[*index], &mut item);
        }
        if !labels.is_empty() {
            item.push('}');
        }
        item.push('}');
        if faults.is_empty() { Ok(item) } else { Err(faults) }
    }

    /// What another product's columns say of the row as a whole.
    fn check(&mut self, cells: &[String], faults: &mut Vec<String>) {
        if let Some(fault) = self.standing.and_then(|index| foreign::not_queued(&cells[index])) {
            faults.push(fault);
        }
        if let Some((index, first)) = &mut self.constant {
            let cell = cells[*index].trim();
            match first {
                None => *first = Some(cell.to_owned()),
                Some(first) if first == cell => {}
                Some(first) => faults.push(format!(
                    "it is of the queue '{}' and the first row of '{}'; import them one by one",
                    shown(cell),
                    shown(first)
                )),
            }
        }
    }

    fn object(&self, parts: &[(String, Part)], cells: &[String], item: &mut String, faults: &mut Vec<String>) {
        item.push('{');
        for (n, (name, part)) in parts.iter().enumerate() {
            if n > 0 {
                item.push(',');
            }
            quote(name, item);
            item.push(':');
            match part {
                Part::Leaf(index, cell) => self.value(*index, *cell, cells, item, faults),
                Part::Branch(parts) => self.object(parts, cells, item, faults),
            }
        }
        item.push('}');
    }

    fn value(&self, index: usize, cell: Cell, cells: &[String], item: &mut String, faults: &mut Vec<String>) {
        let text = cells[index].as_str();
        let mut fault = |expected: &str| {
            faults.push(format!("{} is '{}', and has to be {expected}", shown(&self.heading[index]), shown(text)));
        };
        let bare = text.trim();
        match cell {
            Cell::Text => quote(text, item),
            _ if bare.is_empty() => item.push_str("null"),
            Cell::Number if is_number(bare) => item.push_str(bare),
            Cell::Number => fault("a number as JSON writes it, like 14 or -0.5"),
            Cell::Boolean => match bare.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" => item.push_str("true"),
                "false" | "0" | "no" => item.push_str("false"),
                _ => fault("true or false (or yes, no, 1, 0)"),
            },
            Cell::Json if is_json(bare) => item.push_str(bare),
            Cell::Json => fault("JSON; text is JSON in quotes"),
            Cell::JsonOrText if is_json(bare) => item.push_str(bare),
            Cell::JsonOrText => quote(text, item),
            Cell::Priority(None) if bare.parse::<i64>().is_ok() => {
                // JSON knows no leading zeros nor plus signs.
                item.push_str(&bare.parse::<i64>().unwrap_or_default().to_string());
            }
            Cell::Priority(None) => quote(bare, item),
            Cell::Priority(Some(foreign)) => match foreign.priority(bare) {
                Some(name) => quote(name, item),
                None => fault(foreign.priorities()),
            },
        }
    }

    fn time(&self, index: usize, cells: &[String], item: &mut String, faults: &mut Vec<String>) {
        let text = cells[index].trim();
        match &self.columns.dates {
            // Whoever reads the item reads RFC 3339.
            None => quote(text, item),
            Some(dates) => match dates::read(text, dates.order, &dates.zone) {
                Ok(time) => quote(&time.to_string(), item),
                Err(fault) => {
                    faults.push(format!("{} is '{}': {fault}", shown(&self.heading[index]), shown(text)));
                }
            },
        }
    }
}

const WHOLE: &str =
    "a payload comes whole from one column, or in parts from several; map one of them to - or elsewhere";

/// Puts a leaf at its path; `false` where something stands there or on the way.
fn plant(parts: &mut Vec<(String, Part)>, path: &[String], leaf: Part) -> bool {
    let Some((step, rest)) = path.split_first() else { return false };
    let at = parts.iter().position(|(name, _)| name == step);
    match (at.map(|at| &mut parts[at].1), rest.is_empty()) {
        (None, true) => {
            parts.push((step.clone(), leaf));
            true
        }
        (None, false) => {
            let mut branch = Vec::new();
            let planted = plant(&mut branch, rest, leaf);
            parts.push((step.clone(), Part::Branch(branch)));
            planted
        }
        (Some(Part::Branch(branch)), false) => plant(branch, rest, leaf),
        (Some(_), _) => false,
    }
}

fn quote(text: &str, item: &mut String) {
    item.push_str(&serde_json::Value::from(text).to_string());
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) && is_json(text)
}
