//! Chaining across files: every queue that is named has to be defined, and no chain may lead back to where it was.

use std::collections::{BTreeMap, HashSet};

use super::field::FileCheck;
use super::node::Place;
use super::suggest;

/// Queues of a cycle that are named.
const NAMED: usize = 50;

/// Queues that are named and not defined, for which the nearest defined one is looked for: each takes a look at all queues.
const LOOKED_FOR: usize = 100;

/// A queue makes items in another one.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// The key that says so.
    pub by: &'static str,
    pub to: String,
    /// Where the other queue is named.
    pub at: Place,
    /// In which file.
    file: usize,
    /// Where the directory's defaults say it, as `file:line:column`.
    pub in_defaults: Option<String>,
}

impl Link {
    pub fn new(by: &'static str, to: &str, at: Place, file: &FileCheck<'_>) -> Self {
        Self { by, to: to.to_owned(), at, file: file.index, in_defaults: None }
    }
}

/// A defined queue and where it leads.
pub(super) struct Chained {
    pub key_at: Place,
    /// In which file it is defined.
    pub file: usize,
    pub links: Vec<Link>,
}

/// Reports links that lead nowhere and chains that never end. `unread`: some documents could not be read, so that a queue
/// may be defined and yet not be among these.
pub(super) fn check(queues: &BTreeMap<String, Chained>, files: &mut [FileCheck<'_>], unread: bool) {
    report_undefined(queues, files, unread);
    report_cycles(queues, files);
}

fn report_undefined(queues: &BTreeMap<String, Chained>, files: &mut [FileCheck<'_>], unread: bool) {
    // Those of the defaults are every queue's, and one mistake all the same.
    let mut seen = HashSet::new();
    for link in queues.values().flat_map(|queue| &queue.links) {
        if queues.contains_key(&link.to) || !seen.insert((link.file, link.at)) {
            continue;
        }
        let near =
            if seen.len() <= LOOKED_FOR { suggest::nearest(&link.to, queues.keys().map(String::as_str)) } else { None };
        let mut help = match near {
            Some(key) => format!("did you mean '{key}'?"),
            None => "define it in this directory, or name a queue that is".to_owned(),
        };
        if unread {
            help.push_str("; it may also stand in what could not be read");
        }
        let Some(file) = files.get_mut(link.file) else { continue };
        file.report(link.at, &format!("'{}' leads to '{}', and no such queue is defined", link.by, link.to), help);
    }
}

/// Walks all chains, each queue once; a link back into the chain that leads to it closes a cycle.
fn report_cycles(queues: &BTreeMap<String, Chained>, files: &mut [FileCheck<'_>]) {
    let keys: Vec<&str> = queues.keys().map(String::as_str).collect();
    let all: Vec<&Chained> = queues.values().collect();
    let number = |key: &str| keys.binary_search(&key).ok();
    let mut seen = vec![false; keys.len()];
    for start in 0..keys.len() {
        // The chain so far: queues, and of each the next link to follow. No recursion: a chain may have thousands of links.
        let mut chain: Vec<(usize, usize)> = Vec::new();
        let mut step_of: BTreeMap<usize, usize> = BTreeMap::new();
        let mut next = Some(start);
        loop {
            if let Some(queue) = next.take().filter(|queue| !std::mem::replace(&mut seen[*queue], true)) {
                step_of.insert(queue, chain.len());
                chain.push((queue, 0));
            }
            let Some((queue, followed)) = chain.last_mut() else { break };
            let queue = *queue;
            let Some(link) = all[queue].links.get(*followed) else {
                step_of.remove(&queue);
                chain.pop();
                continue;
            };
            *followed += 1;
            let Some(to) = number(&link.to) else { continue };
            match step_of.get(&to) {
                Some(step) => {
                    let cycle: Vec<usize> = chain[*step..].iter().map(|(queue, _)| *queue).collect();
                    report_cycle(&named(&cycle, &keys), link, all[queue], files);
                }
                None => next = Some(to),
            }
        }
    }
}

/// `a -> b -> a`.
fn named(cycle: &[usize], keys: &[&str]) -> String {
    let mut names: Vec<String> = cycle.iter().take(NAMED).map(|queue| keys[*queue].to_owned()).collect();
    if cycle.len() > NAMED {
        names.push(format!("({} more)", cycle.len() - NAMED));
    }
    names.extend(cycle.first().map(|first| keys[*first].to_owned()));
    names.join(" -> ")
}

fn report_cycle(cycle: &str, link: &Link, queue: &Chained, files: &mut [FileCheck<'_>]) {
    let message = format!("this chain never ends: {cycle}");
    let (file, at, help) = match &link.in_defaults {
        None => (link.file, link.at, "let one of these queues lead elsewhere, or nowhere".to_owned()),
        Some(place) => {
            let nowhere = if link.by == "on_processed" { "on_processed: none" } else { "on_exception: {}" };
            let help = format!("'{}' is set by the defaults at {place}; write '{nowhere}' here", link.by);
            (queue.file, queue.key_at, help)
        }
    };
    if let Some(file) = files.get_mut(file) {
        file.report(at, &message, help);
    }
}
