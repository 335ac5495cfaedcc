//! Who gets what, and that the daemon gets what its topology needs.

use super::*;
use crate::definition::{QueueDefinition, QueueType};
use crate::item::Lane;
use crate::topology::desired::{Argument, Wishes, desired};
use crate::topology::version::Version;

fn definitions() -> Definitions {
    let keys = ["invoices", "invoices.de", "letters", "a-b_c"];
    Definitions {
        queues: keys.map(|key| (key.to_owned(), QueueDefinition::with_defaults(key).into())).into(),
        ..Definitions::default()
    }
}

fn keys(text: &str) -> Vec<Keys> {
    text.split(',').map(|key| Keys::read(key, &definitions()).unwrap()).collect()
}

fn principal(user: &str, role: Role) -> Principal {
    Principal { user: user.to_owned(), role }
}

fn producer(user: &str, of: &str) -> Principal {
    principal(user, Role::Producer { keys: keys(of) })
}

fn robot(user: &str, of: &str) -> Principal {
    principal(user, Role::Robot { keys: keys(of) })
}

fn asker(user: &str, queue: &str) -> Principal {
    principal(user, Role::Asker { queue: queue.to_owned() })
}

fn daemon(user: &str) -> Principal {
    principal(user, Role::Daemon)
}

fn granted(principals: &[Principal]) -> Vec<Grant> {
    grants(&Names::new("wq"), principals, Some("4.3.6")).unwrap()
}

/// `configure | write | read | exchange: write / read`
fn shown(grant: &Grant) -> String {
    let Permissions { configure, write, read } = &grant.permissions;
    let topics: Vec<String> = (grant.topic_permissions.iter())
        .map(|topic| format!("{}: {} / {}", topic.exchange, topic.write, topic.read))
        .collect();
    format!("{configure} | {write} | {read} | {}", topics.join(", "))
}

#[test]
fn each_role_gets_the_least_it_works_with() {
    for (principals, expected) in [
        (vec![producer("u", "invoices")], r"^$ | ^wq\.items$ | ^$ | wq.items: ^invoices$ / ^$"),
        (
            vec![producer("u", "letters,invoices.de")],
            r"^$ | ^wq\.items$ | ^$ | wq.items: ^(invoices\.de|letters)$ / ^$",
        ),
        (vec![producer("u", "inv*,letters")], r"^$ | ^wq\.items$ | ^$ | wq.items: ^(inv.*|letters)$ / ^$"),
        (vec![producer("u", "*,letters")], r"^$ | ^wq\.items$ | ^$ | wq.items: ^.*$ / ^$"),
        (
            vec![producer("u", "letters"), asker("u", "reply.a+b")],
            r"^reply\.a\+b$ | ^wq\.items$ | ^reply\.a\+b$ | wq.items: ^letters$ / ^$",
        ),
        (vec![robot("u", "a-b_c")], r"^$ | ^wq\.outcomes$ | ^wq\.q\.a-b_c$ | wq.outcomes: ^a-b_c$ / ^$"),
        (
            vec![robot("u", "letters,invoices.de")],
            r"^$ | ^wq\.outcomes$ | ^(wq\.q\.invoices\.de|wq\.q\.letters)$ | wq.outcomes: ^(invoices\.de|letters)$ / ^$",
        ),
        (vec![robot("u", "*")], r"^$ | ^wq\.outcomes$ | ^wq\.q\..*$ | wq.outcomes: ^.*$ / ^$"),
        (
            vec![robot("u", "letters"), producer("u", "invoices")],
            r"^$ | ^(wq\.items|wq\.outcomes)$ | ^wq\.q\.letters$ | wq.items: ^invoices$ / ^$, wq.outcomes: ^letters$ / ^$",
        ),
    ] {
        let granted = granted(&principals);
        assert_eq!(granted.len(), 1, "one user: {principals:?}");
        assert_eq!(shown(&granted[0]), expected, "{principals:?}");
    }
}

#[test]
fn users_come_in_the_order_they_were_named_and_once_each() {
    let granted = granted(&[robot("r", "letters"), producer("p", "letters"), robot("r", "invoices"), daemon("d")]);
    let users: Vec<&str> = granted.iter().map(|grant| grant.user.as_str()).collect();
    assert_eq!(users, ["r", "p", "d"]);
}

#[test]
fn what_cannot_be_meant_is_refused_with_the_nearest_key() {
    let read = |text: &str| Keys::read(text, &definitions()).map(|_| ()).map_err(|error| error.to_string());
    for (text, expected) in [
        ("invoices", Ok(())),
        ("*", Ok(())),
        ("*.de", Ok(())),
        ("i*s", Ok(())),
        ("a*b*c", Ok(())),
        ("a**c", Ok(())),
        ("invocies", Err("no queue 'invocies' is defined; did you mean 'invoices'?")),
        ("leters*", Err("no defined queue fits 'leters*'; did you mean 'letters'?")),
        ("invoices*invoices", Err("no defined queue fits 'invoices*invoices'")),
        ("c*b*a", Err("no defined queue fits 'c*b*a'")),
        ("invoices.*.de", Err("no defined queue fits 'invoices.*.de'; did you mean 'invoices.de'?")),
        ("invoicesxde", Err("no queue 'invoicesxde' is defined; did you mean 'invoices.de'?")),
        ("", Err("no queue '' is defined")),
    ] {
        assert_eq!(read(text), expected.map_err(str::to_owned), "{text}");
    }
}

#[test]
fn a_pattern_covers_what_its_regular_expression_matches() {
    for pattern in ["*", "inv*", "*.de", "i*s", "a*b*c", "a**c", "letters", "*e*"] {
        let keys = keys(pattern);
        let regex = regex_lite::Regex::new(&format!("^{}$", keys[0].regex())).unwrap();
        for key in ["invoices", "invoices.de", "letters", "a-b_c", "ac", "abc", "invoicesxde", "letter", ""] {
            assert_eq!(keys[0].cover(key), regex.is_match(key), "{pattern} {key}");
        }
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let refused = |principals: &[Principal]| grants(&Names::new("wq"), principals, None).unwrap_err().to_string();
    let shared = "'u' is named as daemon and as robot: the daemon needs a user of its own";
    assert_eq!(refused(&[daemon("u"), robot("u", "letters")]), shared);
    assert_eq!(refused(&[robot("u", "letters"), daemon("u")]), shared);
    for queue in ["wq.q.letters", "amq.default"] {
        assert!(refused(&[asker("u", queue)]).contains("cannot be a reply queue"), "{queue}");
    }
}

#[test]
fn the_bypass_is_told_where_there_is_one() {
    for (version, expected) in [
        (Some("3.10.8"), Some("on this RabbitMQ 3.10.8 a CC")),
        (Some("3.13.7"), Some("on this RabbitMQ 3.13.7 a CC")),
        (Some("4.0.2"), Some("on this RabbitMQ 4.0.2 a CC")),
        (Some("4.0"), Some("on this RabbitMQ 4.0 a CC")),
        (Some("odd"), Some("on this RabbitMQ odd a CC")),
        (Some("4.0.3"), None),
        (Some("4.1.0-rc.1"), None),
        (Some("4.3.6"), None),
        (Some("5.0.0"), None),
        (None, Some("the broker's version is not known")),
    ] {
        let granted = grants(&Names::new("wq"), &[producer("u", "letters")], version).unwrap();
        let told = granted[0].know.iter().find(|line| line.contains("CC"));
        assert_eq!(told.is_some(), expected.is_some(), "{version:?}: {told:?}");
        assert!(told.is_none_or(|told| told.starts_with(expected.unwrap())), "{version:?}: {told:?}");
    }
}

/// Everything that declaring, binding, consuming and publishing asks of RabbitMQ, as (right, name).
fn needed(version: &str) -> BTreeSet<(&'static str, String)> {
    let names = Names::new("wq");
    let mut all = definitions();
    for (key, lane, queue_type) in [("d", Lane::Direct, QueueType::Auto), ("c.c", Lane::Managed, QueueType::Classic)] {
        let definition = QueueDefinition { lane, queue_type, ..QueueDefinition::with_defaults(key) };
        all.queues.insert(key.to_owned(), definition.into());
    }
    let topology = desired(&all, &Wishes::default(), Version::parse(version).unwrap(), &names, 1000);
    let mut needed = BTreeSet::new();
    for exchange in topology.exchanges {
        needed.insert(("configure", exchange.name.clone()));
        if let Some(alternate) = exchange.alternate {
            needed.extend([("read", exchange.name), ("write", alternate)]);
        }
    }
    for queue in topology.queues {
        needed.insert(("configure", queue.name.clone()));
        if let Some(Argument::Text(exchange)) = queue.arguments.get("x-dead-letter-exchange") {
            needed.extend([("read", queue.name), ("write", exchange.clone())]);
        }
    }
    for binding in topology.bound.into_iter().chain(topology.unbound) {
        needed.extend([("write", binding.queue), ("read", binding.exchange)]);
    }
    for consumed in [names.intake(), names.reports(), names.tap(), names.unrouted(), names.meta()] {
        needed.insert(("read", consumed));
    }
    for published in [names.dispatch(), names.items(), names.events(), "amq.default".to_owned()] {
        needed.insert(("write", published));
    }
    needed
}

#[test]
fn the_daemon_can_do_what_its_topology_needs_and_touches_nothing_of_others() {
    let granted = granted(&[daemon("warrend")]);
    let Permissions { configure, write, read } = &granted[0].permissions;
    let may = |right: &str, name: &str| {
        let regex = match right {
            "configure" => configure,
            "write" => write,
            _ => read,
        };
        regex_lite::Regex::new(regex).unwrap().is_match(name)
    };
    for version in ["3.10.8", "4.0.5", "4.3.6"] {
        for (right, name) in needed(version) {
            assert!(may(right, &name), "{version}: {right} {name}");
        }
    }
    for (right, name) in [
        ("configure", "amq.default"),
        ("configure", "wq.other"),
        // A neighbour whose prefix begins with ours.
        ("configure", "wq.b.items"),
        ("write", "wq.b.items"),
        ("write", "wq.outcomes"),
        ("write", "xwq.items"),
        ("write", "reply.erp"),
        ("read", "reply.erp"),
        ("read", "amq.rabbitmq.trace"),
    ] {
        assert!(!may(right, name), "{right} {name}");
    }
    assert_eq!((granted[0].tag, granted[0].topic_permissions.len()), (Some("policymaker"), 0));
}

#[test]
fn commands_narrow_first_and_survive_a_shell() {
    let granted = granted(&[producer("o'hara $x", "letters"), daemon("d")]);
    let commands = commands(&granted, "/");
    assert_eq!(
        commands[0],
        r"rabbitmqctl set_topic_permissions -p / 'o'\''hara $x' wq.items '^letters$' '^$' && rabbitmqctl set_permissions -p / 'o'\''hara $x' '^$' '^wq\.items$' '^$'"
    );
    let daemon = &commands[1];
    let narrowed = r"rabbitmqctl clear_topic_permissions -p / d && rabbitmqctl set_permissions -p / d '^wq\.(";
    assert!(daemon.starts_with(narrowed), "{daemon}");
    assert!(daemon.ends_with("' && rabbitmqctl set_user_tags d policymaker"), "{daemon}");
    assert_eq!(commands.len(), 2);
}
