//! What definitions become on a broker of each version.

use super::*;

fn one(queue_type: QueueType, lane: Lane, version: &str) -> Topology {
    let definition = QueueDefinition { lane, queue_type, ..QueueDefinition::with_defaults("a.b") };
    let definitions = Definitions { queues: [("a.b".to_owned(), definition.into())].into(), ..Definitions::default() };
    desired(&definitions, &Wishes::default(), Version::parse(version).unwrap(), &Names::new("wq"), 1000)
}

fn robots(topology: &Topology) -> &Queue {
    topology.queues.iter().find(|queue| queue.key.is_some()).unwrap()
}

fn arguments(queue: &Queue) -> Vec<String> {
    queue
        .arguments
        .iter()
        .map(|(name, value)| match value {
            Argument::Text(text) => format!("{name}={text}"),
            Argument::Number(number) => format!("{name}={number}"),
        })
        .collect()
}

#[test]
fn the_version_decides_the_type_and_the_arguments_fit_it() {
    let quorum = [
        "x-dead-letter-exchange=wq.dead",
        "x-dead-letter-strategy=at-least-once",
        "x-overflow=reject-publish",
        "x-queue-type=quorum",
    ];
    let classic = ["x-dead-letter-exchange=wq.dead", "x-max-priority=8", "x-queue-type=classic"];
    for (wish, version, expected) in [
        (QueueType::Auto, "4.3.6", &quorum[..]),
        (QueueType::Auto, "4.2.0", &classic[..]),
        (QueueType::Auto, "3.10.8", &classic[..]),
        (QueueType::Quorum, "4.0.5", &quorum[..]),
        (QueueType::Classic, "4.3.6", &classic[..]),
    ] {
        assert_eq!(arguments(robots(&one(wish, Lane::Managed, version))), expected, "{wish:?} on {version}");
    }
}

#[test]
fn our_own_queues_switch_the_delivery_limit_off_where_there_is_one() {
    for (version, limited) in [("4.3.6", true), ("4.0.5", true), ("3.13.7", false), ("3.10.8", false)] {
        let topology = one(QueueType::Auto, Lane::Managed, version);
        let intake = topology.queues.iter().find(|queue| queue.name == "wq.intake").unwrap();
        assert_eq!(intake.arguments.contains_key("x-delivery-limit"), limited, "{version}");
    }
}

#[test]
fn policies_ask_only_for_what_the_version_knows() {
    let policy = |wish, version| {
        let topology = one(wish, Lane::Managed, version);
        topology.policies.into_iter().find(|policy| policy.name == "wq.q.a.b").map(|policy| policy.definition)
    };
    assert_eq!(
        policy(QueueType::Auto, "4.3.6"),
        Some(json!({ "delivery-limit": 4, "consumer-timeout": CONSUMER_TIMEOUT }))
    );
    assert_eq!(policy(QueueType::Auto, "3.12.0"), Some(json!({ "consumer-timeout": CONSUMER_TIMEOUT })));
    assert_eq!(policy(QueueType::Auto, "3.10.8"), None);
    let topology = one(QueueType::Auto, Lane::Direct, "4.3.6");
    assert_eq!(topology.policies[1].pattern, r"^wq\.q\.a\.b$");
}

#[test]
fn a_robot_keeps_an_item_for_the_timeout_and_a_tenth() {
    for (minutes, expected) in [(1, 120_000), (20, 22 * 60_000), (u64::from(u32::MAX), LONGEST)] {
        let processing_timeout = Some(std::time::Duration::from_secs(60 * minutes));
        let definition = QueueDefinition { processing_timeout, ..QueueDefinition::with_defaults("a") };
        assert_eq!(consumer_timeout(&definition), expected, "{minutes}");
    }
}

#[test]
fn each_lane_takes_the_other_lanes_bindings_away() {
    let way = |bindings: &[Binding]| -> Vec<String> {
        bindings.iter().filter(|binding| binding.exchange == "wq.items").map(|binding| binding.queue.clone()).collect()
    };
    let managed = one(QueueType::Auto, Lane::Managed, "4.3.6");
    assert_eq!(
        (way(&managed.bound), way(&managed.unbound)),
        (vec!["wq.intake".into()], vec!["wq.tap".into(), "wq.q.a.b".into()])
    );
    let direct = one(QueueType::Auto, Lane::Direct, "4.3.6");
    assert_eq!(
        (way(&direct.bound), way(&direct.unbound)),
        (vec!["wq.q.a.b".into(), "wq.tap".into()], vec!["wq.intake".into()])
    );
}

#[test]
fn pauses_and_what_drains_close_a_way_and_the_robots_keep_theirs() {
    let none = Paused::default();
    let (dispatch, intake) = (Paused { dispatch: true, ..none }, Paused { intake: true, ..none });
    let (door, straight, shut): (&[&str], &[&str], &[&str]) = (&["wq.intake"], &["wq.q.a", "wq.tap"], &[]);
    for (lane, defined, asked, closed, expected) in [
        (Lane::Managed, none, none, false, door),
        (Lane::Managed, dispatch, dispatch, false, door),
        (Lane::Managed, none, intake, false, shut),
        (Lane::Managed, none, none, true, door),
        (Lane::Direct, none, none, false, straight),
        (Lane::Direct, dispatch, none, false, door),
        (Lane::Direct, none, dispatch, false, door),
        (Lane::Direct, none, none, true, door),
        (Lane::Direct, intake, none, true, shut),
        (Lane::Direct, dispatch, intake, false, shut),
    ] {
        let definition = QueueDefinition { lane, paused: defined, ..QueueDefinition::with_defaults("a") };
        let definitions =
            Definitions { queues: [("a".to_owned(), definition.into())].into(), ..Definitions::default() };
        let wishes = Wishes {
            paused: [("a".to_owned(), asked)].into(),
            straight_closed: closed.then(|| "a".to_owned()).into_iter().collect(),
        };
        let topology = desired(&definitions, &wishes, Version::STRICT_PRIORITIES, &Names::new("wq"), 1);
        let from = |exchange: &str, all: &[Binding]| -> Vec<String> {
            let ours = all.iter().filter(|binding| binding.exchange == exchange && binding.key == "a");
            ours.map(|binding| binding.queue.clone()).collect()
        };
        let case = format!("{lane:?}, defined {defined:?}, asked {asked:?}, closed {closed}");
        assert_eq!(from("wq.items", &topology.bound), expected, "{case}");
        assert_eq!(from("wq.dispatch", &topology.bound), ["wq.q.a"], "{case}");
        let rest: Vec<&str> =
            ["wq.tap", "wq.q.a", "wq.intake"].into_iter().filter(|queue| !expected.contains(queue)).collect();
        assert_eq!(from("wq.items", &topology.unbound), rest, "tap before queue: {case}");
    }
}
