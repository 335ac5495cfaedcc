//! What a payload schema costs, found out before it is compiled: neither a check nor a payload at the door may take long
//! because of what a few lines of schema unfold to.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::payload::SchemaMistake;

/// Nested maps and lists.
const MAX_DEPTH: usize = 64;

/// Values of one schema.
const MAX_VALUES: usize = 20_000;

/// References of one schema.
const MAX_REFERENCES: usize = 1_000;

/// Bytes of all regular expressions of one schema together.
const MAX_PATTERNS: usize = 64 << 10;

/// Bytes that one compiled regular expression may take.
pub(super) const MAX_COMPILED: usize = 1 << 20;

/// Schemas that one value of a payload has to meet, those of references counted at each use.
const MAX_UNFOLDED: usize = 10_000;

/// Keywords whose schemas are asked of the same value.
const IN_PLACE: [&str; 9] =
    ["allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "propertyNames"];

/// Refuses what would take long to compile or to check; answers about how many bytes its regular expressions will take.
pub(super) fn measure(source: &Value) -> Result<usize, SchemaMistake> {
    let (mut values, mut references, mut patterns, mut weight) = (0, 0, 0, 0);
    let mut left = vec![(source, 0)];
    while let Some((value, depth)) = left.pop() {
        values += 1;
        if depth > MAX_DEPTH {
            return Err(SchemaMistake::new("", format!("the schema is nested deeper than {MAX_DEPTH} levels")));
        }
        match value {
            Value::Array(items) => left.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(entries) => {
                for (key, value) in entries {
                    references += usize::from(matches!(key.as_str(), "$ref" | "$dynamicRef"));
                    match (key.as_str(), value) {
                        ("pattern", Value::String(pattern)) => {
                            patterns += pattern.len();
                            weight += weigh(pattern);
                        }
                        ("patternProperties", Value::Object(named)) => {
                            patterns += named.keys().map(String::len).sum::<usize>();
                            weight += named.keys().map(|pattern| weigh(pattern)).sum::<usize>();
                        }
                        _ => {}
                    }
                    left.push((value, depth + 1));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    for (found, most, what) in [
        (values, MAX_VALUES, "values"),
        (references, MAX_REFERENCES, "references"),
        (patterns, MAX_PATTERNS, "bytes of regular expressions"),
    ] {
        if found > most {
            let message = format!("the schema is too large: it has {found} {what}, at most {most} are read");
            return Err(SchemaMistake::new("", message));
        }
    }
    if unfolds_too_far(source) {
        let message = format!("its references unfold to more than {MAX_UNFOLDED} schemas for one value");
        return Err(SchemaMistake::new("", message));
    }
    Ok(weight)
}

/// About how many bytes a regular expression takes once it is compiled: what is counted (`{1,40}`) is there so many times,
/// and a class of Unicode has hundreds of ranges. Rather too many than too few.
fn weigh(pattern: &str) -> usize {
    const STEP: usize = 32;
    const CLASS: usize = 500;
    let steps = pattern.len() + CLASS * pattern.matches("\\p").count();
    let times = pattern
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split('}').next()?.rsplit(',').find_map(|count| count.trim().parse::<usize>().ok()))
        .fold(1_usize, |times, count| times.saturating_mul(count.max(1)));
    steps.saturating_mul(STEP).saturating_mul(times).min(MAX_COMPILED)
}

/// Whether some schema of the document asks too many others of one value: `a` twice `b`, `b` twice `c`, and so on.
fn unfolds_too_far(source: &Value) -> bool {
    let names = Names::of(source);
    // By address: how many schemas each asks; 0 while it is being counted, so that a cycle, which compiles to itself, ends.
    let mut counts: HashMap<*const Value, usize> = HashMap::new();
    let mut left: Vec<(&Value, bool)> = all_maps(source).into_iter().map(|value| (value, false)).collect();
    while let Some((value, counted_below)) = left.pop() {
        let below = names.asked_in_place(value);
        if counted_below {
            let count = below
                .iter()
                .map(|below| counts.get(&std::ptr::from_ref(*below)).copied().unwrap_or(0))
                .fold(1_usize, usize::saturating_add);
            if count > MAX_UNFOLDED {
                return true;
            }
            counts.insert(value, count);
        } else if !counts.contains_key(&std::ptr::from_ref(value)) {
            counts.insert(value, 0);
            left.push((value, true));
            let new = below.into_iter().filter(|below| !counts.contains_key(&std::ptr::from_ref(*below)));
            left.extend(new.map(|below| (below, false)).collect::<Vec<_>>());
        }
    }
    false
}

fn all_maps(source: &Value) -> Vec<&Value> {
    let mut maps = Vec::new();
    let mut left = vec![source];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(items) => left.extend(items),
            Value::Object(entries) => {
                maps.push(value);
                left.extend(entries.values());
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    maps
}

/// What references may name beside pointers.
struct Names<'s> {
    root: &'s Value,
    anchors: HashMap<&'s str, &'s Value>,
    /// By the last step of their `$id`.
    ids: HashMap<&'s str, &'s Value>,
}

impl<'s> Names<'s> {
    fn of(root: &'s Value) -> Self {
        let (mut anchors, mut ids) = (HashMap::new(), HashMap::new());
        for value in all_maps(root) {
            let name = |key: &str| value.get(key).and_then(Value::as_str);
            anchors.extend([name("$anchor"), name("$dynamicAnchor")].into_iter().flatten().map(|name| (name, value)));
            ids.extend(name("$id").map(|id| (last_step(id), value)));
        }
        Self { root, anchors, ids }
    }

    /// The schemas that a schema asks of the same value as itself.
    fn asked_in_place(&self, value: &'s Value) -> Vec<&'s Value> {
        let Value::Object(entries) = value else { return Vec::new() };
        let mut asked: Vec<&'s Value> =
            ["$ref", "$dynamicRef"].iter().filter_map(|key| self.named(entries.get(*key)?.as_str()?)).collect();
        for keyword in IN_PLACE {
            asked.extend(schemas_below(entries, keyword));
        }
        asked
    }

    fn named(&self, reference: &str) -> Option<&'s Value> {
        let (base, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let within = if base.is_empty() { self.root } else { *self.ids.get(last_step(base))? };
        if fragment.is_empty() || fragment.starts_with('/') {
            within.pointer(fragment)
        } else {
            self.anchors.get(fragment).copied()
        }
    }
}

fn last_step(uri: &str) -> &str {
    let uri = uri.trim_end_matches('#');
    uri.rsplit('/').next().unwrap_or(uri)
}

fn schemas_below<'s>(entries: &'s Map<String, Value>, keyword: &str) -> Vec<&'s Value> {
    match (keyword, entries.get(keyword)) {
        (_, Some(Value::Array(items))) => items.iter().collect(),
        ("dependentSchemas", Some(Value::Object(named))) => named.values().collect(),
        (_, Some(value)) => vec![value],
        (_, None) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(schema: &Value) -> Option<String> {
        measure(schema).err().map(|mistake| mistake.message)
    }

    #[test]
    fn schemas_as_people_write_them_are_taken() {
        let tree = json!({
            "$defs": {
                "node": {"properties": {"left": {"$ref": "#/$defs/node"}, "right": {"$ref": "#/$defs/node"}}},
                "named": {"$anchor": "named", "type": "string", "pattern": "^\\p{L}{1,40}$"},
            },
            "allOf": [{"$ref": "#/$defs/node"}, {"if": {"$ref": "#named"}, "then": {"not": {"$ref": "#"}}}],
        });
        assert_eq!(refused(&tree), None);
    }

    #[test]
    fn references_that_double_and_double_are_refused() {
        for keyword in ["allOf", "anyOf", "oneOf"] {
            let mut defs = json!({"d30": {}});
            for n in 0..30 {
                let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
                defs[format!("d{n}")] = json!({keyword: [next, next]});
            }
            let found = refused(&json!({"$defs": defs})).unwrap_or_default();
            assert!(found.starts_with("its references unfold"), "{keyword}: {found}");
        }
    }

    #[test]
    fn items_of_items_cost_what_the_payload_brings() {
        let mut defs = json!({"d30": {}});
        for n in 0..30 {
            let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
            defs[format!("d{n}")] = json!({"prefixItems": [next, next]});
        }
        assert_eq!(refused(&json!({"$defs": defs})), None);
    }

    #[test]
    fn regular_expressions_weigh_what_they_count() {
        assert!(weigh("^[A-Z]{3}$") < 2_000);
        assert!(weigh("^\\p{L}{1,40}$") > 100_000);
        assert_eq!(weigh("(((a{1000}){1000}){1000})"), MAX_COMPILED);
    }
}
