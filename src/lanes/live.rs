//! What the daemon works by right now: the definitions in force and what commands and control ask of their queues.
//!
//! A value that is replaced as a whole. Pipelines look at it anew with each batch, so a change reaches them without
//! anybody being started again; who has to act on a change waits for it with [`Live::changed`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;

use crate::definition::{Definitions, Paused, QueueDefinition};

/// One moment's view.
#[derive(Debug, Clone, Default)]
pub struct InForce {
    pub definitions: Arc<Definitions>,
    /// Asked for by command, by queue key.
    pub paused: BTreeMap<String, Paused>,
    /// Direct queues whose breaker is not closed: their arrivals take the way through the intake, like those of a paused one.
    pub broken: BTreeSet<String>,
    /// Queues whose robots' queue is not there yet, is being made anew or deleted: nothing is dispatched to them.
    pub unready: BTreeSet<String>,
    /// Queues out of which dispatched items are being taken: nothing is dispatched to them meanwhile.
    pub recalling: BTreeSet<String>,
    /// Direct queues whose arrivals take the way through the intake for the moment.
    pub closed: BTreeSet<String>,
    /// Direct queues whose own way from `wq.items` to robots is known to be there.
    pub open: BTreeSet<String>,
}

impl InForce {
    /// What is paused of a queue, by its definition or by command.
    #[must_use]
    pub fn paused(&self, key: &str) -> Paused {
        let defined = self.definitions.get(key).map_or_else(Paused::default, |definition| definition.paused);
        let asked = self.paused.get(key).copied().unwrap_or_default();
        Paused { dispatch: defined.dispatch || asked.dispatch, intake: defined.intake || asked.intake }
    }

    /// What commands pause, and of direct queues what breakers do: what the ways on the broker go by, beside definitions.
    #[must_use]
    pub fn held(&self) -> BTreeMap<String, Paused> {
        let mut held = self.paused.clone();
        for key in &self.broken {
            held.entry(key.clone()).or_default().dispatch = true;
        }
        held
    }

    /// Items of this queue go out to robots: it is defined or retired, not paused, and nobody works on its queue.
    #[must_use]
    pub fn dispatches(&self, key: &str) -> bool {
        self.definitions.get(key).is_some()
            && !self.paused(key).dispatch
            && !self.unready.contains(key)
            && !self.recalling.contains(key)
    }

    /// New items of this queue are let in.
    #[must_use]
    pub fn takes_in(&self, key: &str) -> bool {
        self.definitions.queues.contains_key(key) && !self.paused(key).intake
    }

    /// Keys of all queues that have a robots' queue to serve.
    pub fn served(&self) -> impl Iterator<Item = &String> {
        self.definitions.queues.keys().chain(self.definitions.retired.keys())
    }
}

/// The current [`InForce`]; clones share it.
#[derive(Debug, Clone)]
pub struct Live {
    sender: watch::Sender<Arc<InForce>>,
}

impl Live {
    #[must_use]
    pub fn new(in_force: InForce) -> Self {
        Self { sender: watch::Sender::new(Arc::new(in_force)) }
    }

    /// Holds no lock: what is answered stays as it is.
    #[must_use]
    pub fn now(&self) -> Arc<InForce> {
        Arc::clone(&self.sender.borrow())
    }

    #[must_use]
    pub fn definitions(&self) -> Arc<Definitions> {
        Arc::clone(&self.sender.borrow().definitions)
    }

    /// The queue's definition as it is now, also of a retired one.
    #[must_use]
    pub fn definition(&self, key: &str) -> Option<Arc<QueueDefinition>> {
        self.sender.borrow().definitions.get(key).cloned()
    }

    /// Replaces it. Whoever waits for a change is woken.
    pub fn update(&self, change: impl FnOnce(&mut InForce)) {
        self.sender.send_modify(|current| {
            let mut next = InForce::clone(current);
            change(&mut next);
            *current = Arc::new(next);
        });
    }

    /// Told of every change from now on.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<InForce>> {
        self.sender.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_paused_stops_what_it_says() {
        const NO: Paused = Paused { dispatch: false, intake: false };
        const DISPATCH: Paused = Paused { dispatch: true, intake: false };
        const INTAKE: Paused = Paused { dispatch: false, intake: true };
        for (defined, asked, dispatches, takes_in) in [
            (NO, NO, true, true),
            (DISPATCH, NO, false, true),
            (NO, INTAKE, true, false),
            (DISPATCH, INTAKE, false, false),
        ] {
            let definition = QueueDefinition { paused: defined, ..QueueDefinition::with_defaults("a") };
            let definitions =
                Definitions { queues: [("a".to_owned(), definition.into())].into(), ..Definitions::default() };
            let in_force = InForce {
                definitions: Arc::new(definitions),
                paused: [("a".to_owned(), asked)].into(),
                ..InForce::default()
            };
            assert_eq!(
                (in_force.dispatches("a"), in_force.takes_in("a")),
                (dispatches, takes_in),
                "{defined:?} {asked:?}"
            );
        }
    }

    #[test]
    fn retired_queues_go_on_to_robots_and_let_nothing_in() {
        let retired = [("a".to_owned(), QueueDefinition::with_defaults("a").into())].into();
        let definitions = Definitions { retired, ..Definitions::default() };
        let mut in_force = InForce { definitions: Arc::new(definitions), ..InForce::default() };
        assert_eq!((in_force.dispatches("a"), in_force.takes_in("a"), in_force.dispatches("b")), (true, false, false));
        in_force.unready.insert("a".to_owned());
        assert!(!in_force.dispatches("a"));
    }
}
