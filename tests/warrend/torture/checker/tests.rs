//! The checker can fail: a run whose books balance, and for every rule a small change that breaks it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;

/// A made-up run of a managed queue `m`, a `unique` one `u` and a direct one `d`, one item each, that balances.
struct Run {
    events: Vec<Event>,
    items: Vec<Shown>,
    queues: BTreeMap<String, QueueEnd>,
    parked: Vec<Value>,
}

const RULES: Rules = Rules {
    direct: false,
    unique: false,
    it: 2,
    generic: 1,
    requeues: 3,
    crash_limit: 4,
    says_what_was_out: true,
    all_report: true,
    feeds: false,
    fed: false,
};

fn publish(queue: &str) -> Publish {
    Publish { queue: queue.to_owned(), reference: Some("r".to_owned()), body: "{}".to_owned(), ..Publish::default() }
}

fn hand(queue: &str) -> Hand {
    let (id, attempt) = if queue == "d" { ("r".to_owned(), None) } else { (format!("item-{queue}"), Some(1)) };
    Hand { robot: "robot".to_owned(), queue: queue.to_owned(), id: Some(id), attempt }
}

fn delivered(hand: Hand) -> What {
    What::Delivered { hand, body: "{}".to_owned(), redelivered: false, habit: "Good".to_owned() }
}

fn reported(hand: Hand, kind: &str) -> What {
    What::Reported { hand, kind: kind.to_owned(), outcome: Outcome::Confirmed }
}

fn fault(name: &str) -> What {
    What::Fault { name: name.to_owned() }
}

fn line(revision: u64, event: &str, state: &str) -> Value {
    json!({"revision": revision, "at": format!("2026-01-01T00:00:{revision:02}Z"), "event": event, "state": state})
}

fn shown(queue: &str) -> Shown {
    Shown {
        item: json!({"id": format!("item-{queue}"), "queue": queue, "reference": "r", "state": "processed",
            "kind": null, "attempt": 1, "retries": 0, "requeues": 0, "inferred": false, "revision": 3}),
        timeline: vec![line(1, "admitted", "queued"), line(3, "processed", "processed")],
        payload: Some("{}".to_owned()),
    }
}

fn balanced() -> Run {
    let mut run = Run { events: Vec::new(), items: Vec::new(), queues: BTreeMap::new(), parked: Vec::new() };
    for queue in ["m", "u", "d"] {
        let rules = Rules { direct: queue == "d", unique: queue == "u", ..RULES };
        run.queues.insert(queue.to_owned(), QueueEnd { rules, unaccounted: 0 });
        run.note(What::Published(publish(queue)));
        run.note(delivered(hand(queue)));
        run.note(reported(hand(queue), "processed"));
        run.note(What::Released { hand: hand(queue), how: Release::Acked });
        run.items.push(shown(queue));
    }
    run
}

impl Run {
    fn note(&mut self, what: What) {
        self.events.push(Event { at: Timestamp::UNIX_EPOCH, what });
    }

    fn forget(&mut self, what: impl Fn(&What) -> bool) {
        let before = self.events.len();
        self.events.retain(|event| !what(&event.what));
        assert!(self.events.len() < before, "the change has an effect");
    }

    fn wrong(&self) -> Vec<String> {
        check(&Evidence { events: &self.events, items: &self.items, queues: &self.queues, parked: &self.parked })
    }

    /// The item of `m` ends like this, by one more line and one more thing a robot did.
    fn ends(&mut self, state: &str, kind: Option<&str>) {
        let end = kind.map_or_else(|| state.to_owned(), |kind| format!("{state}: {kind}"));
        self.items[0].item["state"] = json!(state);
        self.items[0].item["kind"] = json!(kind);
        self.items[0].timeline[1] = line(3, "whatever", &end);
        self.forget(|what| matches!(what, What::Reported { hand, .. } if hand.queue == "m"));
    }
}

/// A change of a balanced run, and what the checker says of it.
fn check_that(change: impl FnOnce(&mut Run), expected: &str) {
    let mut run = balanced();
    change(&mut run);
    let wrong = run.wrong();
    assert!(wrong.iter().any(|wrong| wrong.contains(expected)), "expected '{expected}', got {wrong:#?}");
}

/// A change of a balanced run that leaves it balanced.
fn fine(change: impl FnOnce(&mut Run)) {
    let mut run = balanced();
    change(&mut run);
    assert_eq!(run.wrong(), Vec::<String>::new());
}

#[test]
fn books_that_balance_are_left_alone() {
    fine(|_| {});
    fine(|run| {
        run.ends("exception", Some("business"));
        run.note(reported(hand("m"), "business_exception"));
    });
    fine(|run| {
        run.ends("on_hold", None);
        run.note(reported(hand("m"), "hold"));
    });
    // Sent and never confirmed: it may be there or not.
    fine(|run| run.note(What::Published(Publish { outcome: Outcome::Doubtful, body: "lost".into(), ..publish("m") })));
}

#[test]
fn what_was_confirmed_has_to_be_there() {
    check_that(|run| drop(run.items.remove(0)), "r of m was confirmed and is not in the mirror");
    check_that(
        |run| run.note(What::Published(Publish { body: "other".into(), ..publish("m") })),
        "is not in the mirror with other",
    );
    let nameless = Publish { reference: None, body: "n".into(), ..publish("d") };
    check_that(|run| run.note(What::Published(nameless.clone())), "without a name, was confirmed and is lost");
    let elsewhere = Hand { id: None, ..hand("d") };
    fine(|run| {
        run.note(What::Published(nameless));
        run.note(What::Delivered { hand: elsewhere, body: "n".into(), redelivered: false, habit: String::new() });
    });
}

#[test]
fn what_nobody_sent_is_not_there() {
    let is_of_m = |what: &What| matches!(what, What::Published(publish) if publish.queue == "m");
    check_that(|run| run.forget(is_of_m), "nobody ever sent it");
    check_that(
        |run| run.items[0].payload = Some("other".into()),
        "nobody ever sent it, with the content Some(\"other\")",
    );
    check_that(|run| run.items[0].item["queue"] = json!("nowhere"), "an item of a queue that is none");
}

#[test]
fn no_reference_is_there_too_often() {
    let twin = |run: &mut Run, of: usize| {
        let mut twin = run.items[of].clone();
        twin.item["id"] = json!("item-twin");
        run.note(delivered(Hand { id: Some("item-twin".into()), ..hand("m") }));
        run.items.push(twin);
    };
    check_that(|run| twin(run, 0), "r of m was sent 1 times and is there 2 times");
    check_that(
        |run| {
            twin(run, 1);
            run.note(What::Published(publish("u")));
        },
        "r of u is unique and there 2 times",
    );
}

#[test]
fn what_expired_before_the_door_is_there_twice_only_where_nobody_can_know() {
    let expired = |run: &mut Run, says: bool| {
        let mut expired = shown("m");
        (expired.item["id"], expired.item["state"]) = (json!("item-expired"), json!("exception"));
        (expired.item["kind"], expired.item["attempt"]) = (json!("expired"), json!(0));
        expired.timeline = vec![line(1, "refused", "exception: expired")];
        run.items.push(expired);
        for event in &mut run.events {
            if let What::Published(publish) = &mut event.what {
                publish.expires = true;
            }
        }
        run.queues.get_mut("m").expect("it is there").rules.says_what_was_out = says;
    };
    check_that(|run| expired(run, true), "r of m was sent 1 times and is there 2 times");
    fine(|run| expired(run, false));
}

#[test]
fn timelines_go_by_the_chart() {
    check_that(|run| run.items[0].timeline.clear(), "it has no timeline");
    check_that(|run| run.items[0].timeline[0] = line(1, "processed", "processed"), "its timeline begins with");
    check_that(|run| run.items[0].timeline[1]["revision"] = json!(1), "revision 1 comes after 1");
    check_that(|run| run.items[0].timeline[1]["at"] = json!("2025-01-01T00:00:00Z"), "time goes back");
    check_that(|run| run.items[0].timeline.push(line(4, "noted", "processed")), "its last line says");
    check_that(|run| run.items[0].timeline[1] = line(3, "hold", "on_hold"), "its last line says \"on_hold\"");
    for (way, expected) in [
        (&["processed", "queued", "processed"][..], "from \"processed\" to \"queued\""),
        (&["on_hold", "queued", "processed"], "from \"on_hold\" to \"queued\""),
        (&["exception: it", "queued", "processed"], "from \"exception: it\" to \"queued\""),
        (&["exception: timeout", "processed"], "to \"exception: timeout\""),
        (&["cancelled", "processed"], "to \"cancelled\""),
    ] {
        check_that(
            |run| {
                let states = (2..).zip(way).map(|(revision, state)| line(revision, "x", state));
                run.items[0].timeline.splice(1.., states);
                run.items[0].item["revision"] = json!(9);
            },
            expected,
        );
    }
    fine(|run| {
        let states = ["processing", "queued", "exception: generic", "queued", "processed"];
        let states = (2..).zip(states).map(|(revision, state)| line(revision, "x", state));
        run.items[0].timeline.splice(1.., states);
        run.items[0].item["revision"] = json!(9);
    });
}

#[test]
fn what_was_inferred_may_be_corrected_and_nothing_else() {
    let way = |run: &mut Run, why: &str| {
        let inferred = json!({"revision": 2, "at": "2026-01-01T00:00:02Z", "event": "processed", "state": "processed", "why": why});
        run.items[0].timeline.splice(1.., [inferred, line(3, "requeued", "queued"), line(4, "processed", "processed")]);
        run.items[0].item["revision"] = json!(4);
    };
    fine(|run| way(run, "acked without a report; inferred at rest"));
    check_that(|run| way(run, "done"), "from \"processed\" to \"queued\"");
}

#[test]
fn attempts_keep_the_limits() {
    check_that(|run| run.items[0].item["retries"] = json!(3), "it was retried 3 times");
    check_that(|run| run.items[0].item["requeues"] = json!(4), "it was requeued 4 times");
    check_that(|run| run.items[0].item["attempt"] = json!(2), "more attempts than retries and requeues explain");
    check_that(|run| run.note(delivered(Hand { attempt: Some(2), ..hand("m") })), "attempt 2 was delivered");
    check_that(
        |run| {
            run.items[0].item["attempt"] = json!(3);
            run.items[0].item["retries"] = json!(2);
            run.note(delivered(Hand { attempt: Some(3), ..hand("m") }));
        },
        "attempt 2 was never delivered, attempt 3 was",
    );
}

#[test]
fn every_end_has_a_cause() {
    let nobody = "nobody did what would lead there";
    check_that(|run| run.items[0].item["state"] = json!("queued"), "it is still open");
    let is_said = |what: &What| matches!(what, What::Reported { hand, .. } if hand.queue == "m");
    check_that(|run| run.forget(is_said), nobody);
    for (state, kind) in [
        ("on_hold", None),
        ("exception", Some("business")),
        ("exception", Some("it")),
        ("exception", Some("generic")),
        ("exception", Some("poison")),
        ("exception", Some("expired")),
        ("exception", Some("duplicate")),
        ("exception", Some("invalid")),
        ("exception", Some("missing")),
    ] {
        check_that(|run| run.ends(state, kind), nobody);
    }
    fine(|run| {
        run.ends("exception", Some("poison"));
        (0..2).for_each(|_| run.note(delivered(hand("m"))));
        run.note(fault("broker killed"));
    });
    // What nobody ever delivered is not done.
    check_that(
        |run| {
            run.items[0].item["inferred"] = json!(true);
            run.forget(|what| matches!(what, What::Delivered { hand, .. } if hand.queue == "m"));
        },
        nobody,
    );
}

#[test]
fn an_item_stays_open_only_where_that_is_explained() {
    let open = |run: &mut Run, of: usize, queue: &str| {
        run.items[of].item["state"] = json!("queued");
        run.items[of].timeline.pop();
        run.queues.get_mut(queue).expect("it is there").unaccounted = 1;
        run.forget(|what| matches!(what, What::Reported { hand, .. } if hand.queue == queue));
    };
    let may_be_silent = |run: &mut Run| run.queues.get_mut("m").expect("it is there").rules.all_report = false;
    check_that(|run| open(run, 0, "m"), "it is still open");
    fine(|run| {
        open(run, 0, "m");
        may_be_silent(run);
    });
    check_that(
        |run| {
            open(run, 0, "m");
            may_be_silent(run);
            run.forget(|what| matches!(what, What::Released { hand, .. } if hand.queue == "m"));
        },
        "it is still open",
    );
    check_that(|run| open(run, 2, "d"), "1 items of d are unaccounted");
    fine(|run| {
        open(run, 2, "d");
        run.note(What::Published(publish("d")));
    });
}

#[test]
fn the_last_word_counts() {
    let said = |run: &mut Run, kind: &str| {
        run.ends("exception", Some("business"));
        run.note(reported(hand("m"), "business_exception"));
        run.items[0].item["kind"] = json!(kind);
        run.items[0].timeline[1]["state"] = json!(format!("exception: {kind}"));
    };
    fine(|run| said(run, "business"));
    check_that(|run| said(run, "generic"), "robots said business_exception of its last attempt and nothing else");
}

#[test]
fn nobody_gets_it_before_its_time() {
    check_that(
        |run| run.items[0].item["not_before"] = json!("1970-01-01T00:00:01Z"),
        "it was not to be handed out before",
    );
    fine(|run| run.items[0].item["not_before"] = json!("1970-01-01T00:00:00Z"));
}

#[test]
fn a_repeat_without_a_name_is_marked() {
    let twin = |run: &mut Run, marked: bool| {
        run.note(What::Published(Publish { reference: None, ..publish("m") }));
        for id in ["one", "two"] {
            let mut twin = run.items[0].clone();
            (twin.item["id"], twin.item["reference"]) = (json!(id), Value::Null);
            twin.item["possible_repeat"] = json!(marked && id == "two");
            run.note(delivered(Hand { id: Some(id.into()), ..hand("m") }));
            run.note(reported(Hand { id: Some(id.into()), ..hand("m") }, "processed"));
            run.items.push(twin);
        }
    };
    fine(|run| twin(run, true));
    check_that(|run| twin(run, false), "{} of m was sent 1 times and is there 2 times, unmarked");
}

#[test]
fn work_done_is_never_refused() {
    check_that(
        |run| {
            run.ends("exception", Some("business"));
            run.note(reported(hand("m"), "business_exception"));
            run.note(reported(hand("m"), "processed"));
        },
        "item-m of m was reported processed and is",
    );
    check_that(|run| drop(run.items.remove(2)), "r of d was reported processed and is");
}

#[test]
fn the_direct_lane_never_stops() {
    check_that(
        |run| {
            run.note(fault("daemon killed"));
            run.note(delivered(hand("m")));
            run.note(fault("daemon started"));
        },
        "no direct item was delivered",
    );
    fine(|run| {
        run.note(fault("daemon stopped"));
        run.note(delivered(hand("d")));
        run.note(fault("daemon started"));
        run.note(fault("daemon killed without a broker"));
        run.note(fault("daemon started"));
    });
    check_that(|run| run.note(What::Stood { what: "the direct lane".into() }), "it stood still: the direct lane");
}

#[test]
fn nothing_is_unaccounted_or_parked_without_a_reason() {
    let unaccounted = |run: &mut Run| run.queues.get_mut("m").expect("it is there").unaccounted = 2;
    check_that(unaccounted, "2 items of m are unaccounted, though robots report all");
    fine(|run| {
        unaccounted(run);
        run.queues.get_mut("m").expect("it is there").rules.all_report = false;
    });
    check_that(|run| run.parked.push(json!({"reason": "what is this"})), "could not place a message");
}

#[test]
fn nobody_works_what_was_cancelled() {
    let at = |second: i64| Timestamp::from_second(second).expect("a time");
    let asked = |verb: &str, status| What::Asked {
        verb: verb.to_owned(),
        item: "item-m".to_owned(),
        queue: "m".to_owned(),
        status,
    };
    let note = |run: &mut Run, second, what| run.events.push(Event { at: at(second), what });
    // Cancelled at 10, and a robot gets it at 20.
    let story = |run: &mut Run, between: &[(i64, What)]| {
        run.forget(|what| matches!(what, What::Delivered { hand, .. } if hand.queue == "m"));
        note(run, 10, asked("cancel", Some(200)));
        for (second, what) in between {
            note(run, *second, what.clone());
        }
        note(run, 20, delivered(hand("m")));
    };
    check_that(|run| story(run, &[]), "it was cancelled at 1970-01-01T00:00:10Z, and robot got it at");
    fine(|run| story(run, &[(15, asked("restore", None))]));
    fine(|run| story(run, &[(12, fault("broker killed"))]));
    check_that(|run| story(run, &[(18, fault("broker killed"))]), "it was cancelled at");
    fine(|run| {
        story(run, &[]);
        let ended = |what: &What| matches!(what, What::Released { hand, .. } if hand.queue == "m");
        run.forget(ended);
        note(run, 21, What::Released { hand: hand("m"), how: Release::Unsure });
    });
    // Only asked for, and a robot was faster.
    fine(|run| {
        note(run, 10, asked("cancel", Some(202)));
        note(run, 20, delivered(hand("m")));
    });

    let moved = |run: &mut Run, event: &str, state: &str| {
        run.ends(state, None);
        run.items[0].timeline[1] = line(3, event, state);
        run.items[0].timeline[1]["actor"] = json!(operator::NAME);
    };
    check_that(|run| moved(run, "cancelled", "cancelled"), "nobody did what would lead there");
    fine(|run| {
        moved(run, "cancelled", "cancelled");
        note(run, 30, asked("cancel", None));
    });
    fine(|run| {
        moved(run, "held", "on_hold");
        note(run, 30, asked("hold", Some(200)));
    });
}

#[test]
fn an_end_makes_one_item_in_the_queue_it_feeds() {
    let feeding = |children: usize| {
        move |run: &mut Run| {
            run.ends("exception", Some("business"));
            run.note(reported(hand("m"), "business_exception"));
            run.queues.get_mut("m").unwrap().rules.feeds = true;
            let rules = Rules { fed: true, ..RULES };
            run.queues.insert("c".to_owned(), QueueEnd { rules, unaccounted: 0 });
            for child in 0..children {
                let hand = Hand { id: Some(format!("child-{child}")), ..hand("c") };
                let mut shown = shown("c");
                (shown.item["id"], shown.item["parent"]) = (json!(hand.id), json!("item-m"));
                run.items.push(shown);
                run.note(delivered(hand.clone()));
                run.note(reported(hand.clone(), "processed"));
                run.note(What::Released { hand, how: Release::Acked });
            }
        }
    };
    fine(feeding(1));
    check_that(feeding(0), "made no item");
    check_that(feeding(2), "made 2 items");
    check_that(
        |run| {
            feeding(1)(run);
            run.items.last_mut().unwrap().item["parent"] = json!("item-u");
        },
        "no end made it",
    );
    check_that(
        |run| {
            feeding(1)(run);
            run.items.last_mut().unwrap().payload = Some("other".to_owned());
        },
        "its payload is not its parent's",
    );
}
