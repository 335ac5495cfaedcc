//! Plans, made from what a little broker of values holds, and carried out on it.

mod broker;
mod cases;
mod converge;
mod golden;

use std::path::PathBuf;

use super::*;
use crate::definition::{Definitions, Source, check};
use crate::topology::desired::{Wishes, desired};
use crate::topology::version::Version;
use broker::apply;

const TAP_BYTES: u64 = 1 << 30;

fn names() -> Names {
    Names::new("wq")
}

fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

fn definitions(yaml: &str) -> Definitions {
    let source = Source { path: PathBuf::from("queues.yaml"), text: yaml.to_owned() };
    check(&[source], &|_| unreachable!("no schemas here")).unwrap_or_else(|wrong| panic!("{wrong}"))
}

/// Everything a plan is made from, but what is observed.
#[derive(Debug, Clone, Default)]
struct Want {
    definitions: Definitions,
    wishes: Wishes,
    facts: Facts,
    words: BTreeSet<String>,
}

impl Want {
    fn of(yaml: &str) -> Self {
        Self { definitions: definitions(yaml), ..Self::default() }
    }

    fn wishing(mut self, change: impl FnOnce(&mut Wishes)) -> Self {
        change(&mut self.wishes);
        self
    }

    fn knowing(mut self, open: &[(&str, u64)]) -> Self {
        self.facts.open = Some(open.iter().map(|(key, open)| ((*key).to_owned(), *open)).collect());
        self
    }

    fn saying(mut self, words: &[&str]) -> Self {
        self.words = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    fn topology(&self, version: Version) -> Topology {
        desired(&self.definitions, &self.wishes, version, &names(), TAP_BYTES)
    }

    fn plan(&self, observed: &Observed) -> Plan {
        plan(&self.topology(observed.version), observed, &names(), &self.facts, &self.words)
    }

    /// A broker on which all of it is done.
    fn settled(&self, on: &str) -> Observed {
        let mut observed = Observed::nothing(version(on));
        apply(&self.plan(&observed), &mut observed);
        assert!(self.plan(&observed).is_empty());
        observed
    }
}

fn binding(exchange: &str, key: &str, queue: &str) -> Binding {
    Binding { exchange: exchange.to_owned(), queue: queue.to_owned(), key: key.to_owned() }
}

/// `+ queue wq.q.a` and the like, in order.
fn lines(plan: &Plan) -> Vec<String> {
    let way = |binding: &Binding| format!("{} [{}] {}", binding.exchange, binding.key, binding.queue);
    let line = |step: &Step| match &step.action {
        Action::SetPolicy { policy, before: None } => format!("+ policy {}", policy.name),
        Action::SetPolicy { policy, .. } => format!("~ policy {}", policy.name),
        Action::RemovePolicy { policy } => format!("- policy {}", policy.name),
        Action::CreateExchange { exchange } => format!("+ exchange {}", exchange.name),
        Action::CreateQueue { queue } => format!("+ queue {}", queue.name),
        Action::Unbind { binding } => format!("- {}", way(binding)),
        Action::Bind { binding } => format!("+ {}", way(binding)),
        Action::Migrate { key, .. } => format!("> {key}"),
        Action::Delete { queue, .. } => format!("- queue {queue}"),
        Action::Blocked { name, .. } => format!("! {name}"),
    };
    plan.steps.iter().map(line).collect()
}
