//! The names on the broker. They are part of the contract with producers and robots.

/// All names, under one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

macro_rules! names {
    ($($(#[$doc:meta])* $function:ident = $suffix:literal;)+) => {
        $($(#[$doc])* #[must_use] pub fn $function(&self) -> String { format!(concat!("{}.", $suffix), self.prefix) })+
    };
}

impl Names {
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The first part of every name.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    names! {
        /// Topic exchange: producers publish here, routing key = queue key.
        items = "items";
        /// Direct exchange: the daemon's own way into the robots' queues.
        dispatch = "dispatch";
        /// Queue: entry of the managed lane.
        intake = "intake";
        /// Stream: copies of what takes the direct lane.
        tap = "tap";
        /// Topic exchange: robots report here.
        outcomes = "outcomes";
        /// Fanout exchange: the dead-letter exchange of everything that holds items.
        dead = "dead";
        /// Queue: reports and dead letters in one.
        reports = "reports";
        /// Queue of one message: the mirror's identity.
        meta = "meta";
        /// Topic exchange: every change, for anyone who binds a queue.
        events = "events";
        /// Fanout exchange and queue of one name: items for a queue nobody defined.
        unrouted = "unrouted";
    }

    /// The robots' queue of a work queue.
    #[must_use]
    pub fn robots(&self, key: &str) -> String {
        format!("{}.q.{key}", self.prefix)
    }

    /// The work queue whose robots' queue this is.
    #[must_use]
    pub fn key_of<'q>(&self, queue: &'q str) -> Option<&'q str> {
        queue.strip_prefix(self.prefix.as_str())?.strip_prefix(".q.")
    }

    /// The queue that holds a work queue's items during a migration.
    #[must_use]
    pub fn moving(&self, key: &str) -> String {
        format!("{}.m.{key}", self.prefix)
    }

    /// The work queue whose items this queue holds during a migration.
    #[must_use]
    pub fn key_of_moving<'q>(&self, queue: &'q str) -> Option<&'q str> {
        queue.strip_prefix(self.prefix.as_str())?.strip_prefix(".m.")
    }

    /// Every exchange.
    #[must_use]
    pub fn exchanges(&self) -> [String; 6] {
        [self.unrouted(), self.items(), self.dispatch(), self.outcomes(), self.dead(), self.events()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_robots_queue_names_its_work_queue_and_back() {
        let names = Names::new("wq");
        assert_eq!(names.robots("a.b"), "wq.q.a.b");
        assert_eq!(names.key_of("wq.q.a.b"), Some("a.b"));
        assert_eq!(names.key_of("wq.intake"), None);
        assert_eq!(names.key_of("other.q.a"), None);
        assert_eq!(names.key_of_moving(&names.moving("a.b")), Some("a.b"));
        assert_eq!(names.key_of_moving("wq.q.m.a"), None);
    }
}
