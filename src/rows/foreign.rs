//! Tables made for other products, column by column. Headings are known in any case and with or without spaces.
//!
//! **Power Automate.** Two forms: the items file of its bulk import (business columns beside `WorkQueueItemId`,
//! `WorkQueueKey`, `ComponentState` and `OverwriteTime`, the business columns becoming the input;
//! <https://learn.microsoft.com/en-us/power-automate/desktop-flows/work-queues-bulk-import>), and the table of the action "Add
//! multiple work queue items" (`Name`, `Input`, `Expires in`, `Processing notes`, `Priority`, `Unique reference`, `Status`, `Delay
//! until`; <https://learn.microsoft.com/en-us/power-automate/desktop-flows/actions-reference/workqueues>). Its priorities are
//! numbers of which lower ones go first: 100 high, 200 normal, 300 low.
//!
//! **UiPath.** The file of Orchestrator's "Upload Items": `Reference`, `Deadline`, `Postpone`, `Priority` (`Low` or 1, `Normal` or 2,
//! `High` or 3); every other column is specific data
//! (<https://docs.uipath.com/orchestrator/docs/bulk-uploading-queue-items-using-a-csv-file>). `DueDate`, `DeferDate` and `SpecificContent`,
//! the names of its API, are taken too.

use super::columns::{Cell, REFUSED, Target};
use super::shown;

/// Whose table it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    PowerAutomate,
    UiPath,
}

/// What the items file of the bulk import has beside business columns.
const BULK: [&str; 5] = ["name", "workqueueitemid", "workqueuekey", "componentstate", "overwritetime"];

/// What the headings of a foreign table are for.
#[derive(Debug, Default)]
pub(super) struct Heading {
    known: Vec<(String, Target, Cell)>,
    pub faults: Vec<String>,
}

impl Heading {
    pub(super) fn of(&self, name: &str) -> Option<(Target, Cell)> {
        let found = self.known.iter().find(|(known, ..)| known == name);
        found.map(|(_, target, cell)| (target.clone(), *cell))
    }
}

/// A heading without its case, spaces and the like.
fn folded(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

impl Foreign {
    /// Tells a table by its headings; `None` for one of nobody's in particular.
    #[must_use]
    pub fn of(heading: &[String]) -> Option<Self> {
        let has = |name: &str| heading.iter().any(|heading| folded(heading) == name);
        if has("workqueuekey")
            || has("workqueueitemid")
            || (has("input") && (has("expiresin") || has("uniquereference")))
        {
            return Some(Self::PowerAutomate);
        }
        // `reference` and `priority` alone are ours as well.
        let theirs = ["Reference", "Deadline", "Postpone", "Priority"];
        let theirs = theirs.iter().filter(|name| heading.iter().any(|heading| heading == *name)).count();
        (theirs > 1 || has("specificcontent")).then_some(Self::UiPath)
    }

    pub(super) fn read(self, heading: &[String]) -> Heading {
        let mut read = Heading::default();
        let has = |name: &str| heading.iter().any(|heading| folded(heading) == name);
        let whole = match self {
            Self::PowerAutomate => has("input"),
            Self::UiPath => has("specificcontent"),
        };
        for name in heading {
            let known = match self {
                // Without an input every column is a part of it, but for those that the import itself needs.
                Self::PowerAutomate if !whole && !BULK.contains(&folded(name).as_str()) => None,
                Self::PowerAutomate => {
                    power_automate(&folded(name), whole && (has("uniquereference") || has("uniqueidbyqueue")))
                }
                Self::UiPath => uipath(&folded(name)),
            };
            match known {
                Some((target, cell)) => read.known.push((name.clone(), target, cell)),
                // Beside a whole input there is no place for more.
                None if whole && !REFUSED.contains(&name.as_str()) => read.faults.push(format!(
                    "there is no place for the column '{}' beside a column with the whole input; map it to label.<name> or -",
                    shown(name)
                )),
                None => {}
            }
        }
        read
    }

    /// Our name for one of its priorities.
    pub(super) fn priority(self, text: &str) -> Option<&'static str> {
        let level = text.parse::<i64>().ok();
        let name = text.to_ascii_lowercase();
        match (self, level, name.as_str()) {
            (_, None, "high") | (Self::PowerAutomate, Some(1..=100), _) | (Self::UiPath, Some(3), _) => Some("high"),
            (_, None, "normal") | (Self::PowerAutomate, Some(101..=200), _) | (Self::UiPath, Some(2), _) => {
                Some("normal")
            }
            (_, None, "low") | (Self::PowerAutomate, Some(201..=2_147_483_647), _) | (Self::UiPath, Some(1), _) => {
                Some("low")
            }
            _ => None,
        }
    }

    pub(super) const fn priorities(self) -> &'static str {
        match self {
            Self::PowerAutomate => {
                "a priority of Power Automate: from 1 (100 is high, 200 normal, 300 low), or High, Normal, Low"
            }
            Self::UiPath => "a priority of UiPath: Low, Normal, High, or 1, 2, 3",
        }
    }
}

fn power_automate(name: &str, has_reference: bool) -> Option<(Target, Cell)> {
    Some(match name {
        "name" => (Target::Member("name"), Cell::Text),
        "input" => (Target::Payload, Cell::JsonOrText),
        "expiresin" | "expires" | "expirydate" => (Target::Time("expires_at"), Cell::Text),
        "delayuntil" => (Target::Time("not_before"), Cell::Text),
        "processingnotes" => (Target::Label("processing_notes".to_owned()), Cell::Text),
        "priority" => (Target::Member("priority"), Cell::Priority(Some(Foreign::PowerAutomate))),
        "uniquereference" | "uniqueidbyqueue" => (Target::Member("reference"), Cell::Text),
        // Its bulk import knows rows again by this.
        "workqueueitemid" if !has_reference => (Target::Member("reference"), Cell::Text),
        "workqueueitemid" => (Target::Label("workqueueitemid".to_owned()), Cell::Text),
        "workqueuekey" => (Target::Constant, Cell::Text),
        "status" => (Target::Standing, Cell::Text),
        // What Dataverse's import needs and says nothing of the item.
        "componentstate" | "overwritetime" => (Target::Nothing, Cell::Text),
        _ => return None,
    })
}

fn uipath(name: &str) -> Option<(Target, Cell)> {
    Some(match name {
        "reference" => (Target::Member("reference"), Cell::Text),
        "priority" => (Target::Member("priority"), Cell::Priority(Some(Foreign::UiPath))),
        "deadline" | "duedate" => (Target::Time("due_at"), Cell::Text),
        "postpone" | "deferdate" => (Target::Time("not_before"), Cell::Text),
        "specificcontent" => (Target::Payload, Cell::JsonOrText),
        _ => return None,
    })
}

/// Why a row with this status is not taken. There is no way to make an item that is on hold from its first moment, and
/// letting it go out to robots would be the opposite of what was asked.
pub(super) fn not_queued(status: &str) -> Option<String> {
    match folded(status).as_str() {
        "" | "0" | "queued" => None,
        "1" | "onhold" | "paused" => Some(
            "it is on hold, and items cannot come in on hold; import it as queued once it may be worked on".to_owned(),
        ),
        _ => Some(format!("its status is '{}'; only queued ones are taken", shown(status))),
    }
}
