//! What values of a claim allow, as a setting says it: `wq-admins=admin; hr=operator,worker@hr-*,leave`.

use std::collections::BTreeSet;

use crate::who::{Pattern, Rights, Role};

/// How it is written.
pub(super) const FORM: &str = "write VALUE=ROLE[,ROLE...][@QUEUE[,QUEUE...]], several separated by semicolons, like \
     wq-admins=admin; hr=operator@hr-*; the word reveal among the roles lets see what definitions mask";

/// Reads it; without queues all are meant.
///
/// # Errors
/// What is wrong with the first part that is.
pub(super) fn read(text: &str) -> Result<Vec<(String, Rights)>, String> {
    text.split(';').map(str::trim).filter(|part| !part.is_empty()).map(one).collect()
}

fn one(part: &str) -> Result<(String, Rights), String> {
    let (value, given) = part.rsplit_once('=').ok_or_else(|| format!("'{part}' has no ="))?;
    let (roles, queues) = given.split_once('@').unwrap_or((given, "*"));
    let mut rights = Rights { roles: BTreeSet::new(), queues: Vec::new(), reveal: false };
    for word in roles.split(',').map(str::trim) {
        match Role::from_word(word) {
            Some(role) => drop(rights.roles.insert(role)),
            None if word == "reveal" => rights.reveal = true,
            None => return Err(format!("there is no role '{word}', only {}", Role::WORDS)),
        }
    }
    for pattern in queues.split(',').map(str::trim) {
        rights.queues.push(pattern.parse::<Pattern>().map_err(|error| format!("'{pattern}': {error}"))?);
    }
    let value = value.trim();
    if value.is_empty() {
        return Err(format!("'{part}' names no value of the claim"));
    }
    match rights.faults().into_iter().next() {
        Some((_, fault)) => Err(format!("'{part}': {fault}")),
        None => Ok((value.to_owned(), rights)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_allow_roles_in_queues() {
        let read = read("wq-admins=admin; hr=operator, worker,reveal@hr-*, leave;https://x/y=z=viewer;").unwrap();
        let shown: Vec<String> = read
            .iter()
            .map(|(value, rights)| format!("{value} {:?} {:?} {}", rights.roles, rights.queues, rights.reveal))
            .collect();
        assert_eq!(
            shown,
            [
                r#"wq-admins {Admin} [Pattern("*")] false"#,
                r#"hr {Worker, Operator} [Pattern("hr-*"), Pattern("leave")] true"#,
                r#"https://x/y=z {Viewer} [Pattern("*")] false"#
            ]
        );
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (text, part) in [
            ("admin", "no ="),
            ("a=boss", "no role 'boss'"),
            ("a=", "no role ''"),
            ("=admin", "no value"),
            ("a=reveal", "roles is empty"),
            ("a=viewer@HR", "pattern"),
            ("a=admin@hr-*", "cannot be limited"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
