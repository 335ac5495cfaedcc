//! A plan as people read it: grouped by work queue, each step marked, then what else there is to know.

use serde_json::Value;

use super::desired::{Argument, Binding, Exchange, Policy, Queue};
use super::observed::Counts;
use super::plan::{Action, Difference, Plan, Risk, Step};

/// The whole plan, ending with its summary. `colour` for a terminal.
#[must_use]
pub fn text(plan: &Plan, colour: bool) -> String {
    let mut lines = Vec::new();
    for key in groups(plan) {
        lines.push(paint(colour, BOLD, key.unwrap_or("shared by all queues")));
        let mut steps = plan.steps.iter().filter(|step| step.key.as_deref() == key).peekable();
        while let Some(step) = steps.next() {
            // Several steps for one reason: it is said once, below the last of them.
            let said_later = steps.peek().is_some_and(|next| next.why == step.why && step.risk == Risk::Safe);
            lines.extend(step_lines(step, said_later, colour));
        }
        lines.push(String::new());
    }
    if !plan.notes.is_empty() {
        lines.push(paint(colour, BOLD, "to know"));
        for note in &plan.notes {
            lines.extend(wrapped(&note.text, "  * ", "    "));
        }
        lines.push(String::new());
    }
    lines.push(summary(plan));
    lines.join("\n") + "\n"
}

/// `Plan: 3 to create, 1 to change, 1 to move, 0 to remove`.
#[must_use]
pub fn summary(plan: &Plan) -> String {
    if plan.is_empty() {
        return "Nothing to do: the broker is as the definitions say.".to_owned();
    }
    let tally = plan.tally();
    let mut line = format!(
        "Plan: {} to create, {} to change, {} to move, {} to remove",
        tally.create, tally.change, tally.moved, tally.remove
    );
    if tally.blocked > 0 {
        line.push_str(&format!(", {} that only a person can mend", tally.blocked));
    }
    line
}

const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";

/// Names on a broker are anybody's, and must not steer a terminal.
fn tame(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn paint(colour: bool, code: &str, text: &str) -> String {
    let text = tame(text);
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text }
}

/// The work queues of the steps; what is shared comes first.
fn groups(plan: &Plan) -> Vec<Option<&str>> {
    let mut groups: Vec<Option<&str>> = plan.steps.iter().map(|step| step.key.as_deref()).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// A step in one line, without its details.
#[must_use]
pub fn line(step: &Step) -> String {
    step_lines(step, true, false).first().map(|line| line.trim().to_owned()).unwrap_or_default()
}

fn step_lines(step: &Step, said_later: bool, colour: bool) -> Vec<String> {
    let (mark, code, what, details) = match &step.action {
        Action::SetPolicy { policy, before: None } => ('+', GREEN, format!("policy {}", policy.name), content(policy)),
        Action::SetPolicy { policy, before: Some(before) } => {
            ('~', YELLOW, format!("policy {}", policy.name), changes(before, policy))
        }
        Action::RemovePolicy { policy } => ('-', RED, format!("policy {}", policy.name), content(policy)),
        Action::CreateExchange { exchange } => ('+', GREEN, format!("exchange {}", described(exchange)), Vec::new()),
        Action::CreateQueue { queue } => ('+', GREEN, format!("queue {}", queue.name), arguments(queue)),
        Action::Unbind { binding } => ('-', RED, format!("binding {}", way(binding)), Vec::new()),
        Action::Bind { binding } => ('+', GREEN, format!("binding {}", way(binding)), Vec::new()),
        Action::Migrate { queue, differs, .. } => ('>', CYAN, format!("queue {}", queue.name), differences(differs)),
        Action::Delete { queue, policy, .. } => {
            let with = if policy.is_some() { ", with its policy" } else { "" };
            ('-', RED, format!("queue {queue}{with}"), Vec::new())
        }
        Action::Blocked { name, differs, .. } => ('!', RED, name.clone(), differences(differs)),
    };
    let mut lines = vec![format!("  {} {}", paint(colour, code, &mark.to_string()), tame(&what))];
    lines.extend(details.iter().map(|line| format!("      {}", tame(line))));
    if !said_later {
        lines.extend(wrapped(&step.why, "      # ", "        "));
    }
    if let Some(risk) = risk(step.risk) {
        lines.extend(wrapped(&risk, "      ! ", "        "));
    }
    if let Action::Blocked { cure, .. } = &step.action {
        lines.extend(wrapped(&format!("blocked: {cure}"), "      ! ", "        "));
    }
    lines
}

fn risk(risk: Risk) -> Option<String> {
    match risk {
        Risk::Safe | Risk::Blocked => None,
        Risk::Moves { ready, unacked } => {
            let items = match (ready, unacked) {
                (None, None) => "an unknown number of items".to_owned(),
                _ => format!("{} ready, {} with robots", number(ready), number(unacked)),
            };
            Some(format!("moves: {items}; robots get basic.cancel and consume anew"))
        }
        Risk::Loses { ready, unacked, mirror } => {
            let counts = Counts { ready, unacked, total: None };
            Some(format!("loses: {}", super::plan::holds(counts, mirror)))
        }
    }
}

fn number(count: Option<u64>) -> String {
    count.map_or_else(|| "an unknown number".to_owned(), |count| count.to_string())
}

fn described(exchange: &Exchange) -> String {
    let alternate = exchange.alternate.as_ref().map(|name| format!(", else to {name}")).unwrap_or_default();
    format!("{} ({}{alternate})", exchange.name, exchange.kind.as_str())
}

fn way(binding: &Binding) -> String {
    let key = if binding.key.is_empty() { String::new() } else { format!("[{}]", binding.key) };
    format!("{} -{key}-> {}", binding.exchange, binding.queue)
}

fn arguments(queue: &Queue) -> Vec<String> {
    let lines = queue.arguments.iter().map(|(name, argument)| match argument {
        Argument::Text(text) => format!("{name}: {text}"),
        Argument::Number(number) => format!("{name}: {number}"),
    });
    lines.collect()
}

/// Everything of a policy that it says, by name.
fn said(policy: &Policy) -> Vec<(String, String)> {
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut said = vec![
        ("pattern".to_owned(), policy.pattern.clone()),
        ("apply-to".to_owned(), policy.apply_to.clone()),
        ("priority".to_owned(), policy.priority.to_string()),
    ];
    match policy.definition.as_object() {
        Some(definition) => said.extend(definition.iter().map(|(name, value)| (name.clone(), shown(value)))),
        None => said.push(("definition".to_owned(), shown(&policy.definition))),
    }
    said
}

/// What a policy sets, without whom it is for: its name says that.
fn content(policy: &Policy) -> Vec<String> {
    said(policy).into_iter().skip(3).map(|(name, value)| format!("{name}: {value}")).collect()
}

fn changes(before: &Policy, after: &Policy) -> Vec<String> {
    let (before, after) = (said(before), said(after));
    let find = |list: &[(String, String)], name: &str| {
        list.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    };
    let mut names: Vec<&String> = after.iter().map(|(name, _)| name).collect();
    names.extend(before.iter().map(|(name, _)| name).filter(|name| find(&after, name).is_none()));
    let differs: Vec<Difference> = names
        .into_iter()
        .map(|what| Difference { what: what.clone(), before: find(&before, what), after: find(&after, what) })
        .filter(|difference| difference.before != difference.after)
        .collect();
    differences(&differs)
}

fn differences(differs: &[Difference]) -> Vec<String> {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
    let line = |one: &Difference| format!("{}: {} -> {}", one.what, value(&one.before), value(&one.after));
    differs.iter().map(line).collect()
}

/// Characters of a line of text, without what stands before it.
const WIDTH: usize = 100;

/// Text in lines that fit a terminal.
fn wrapped(text: &str, first: &str, rest: &str) -> Vec<String> {
    let mut lines = vec![String::from(first)];
    let mut width = 0;
    for word in tame(text).split_whitespace() {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > WIDTH {
            lines.push(rest.to_owned());
            width = 0;
        }
        if let Some(line) = lines.last_mut() {
            if width > 0 {
                line.push(' ');
                width += 1;
            }
            line.push_str(word);
        }
        width += length;
    }
    lines
}
