//! docs/lifecycle.md says what the code does: every event from every standing, and the drawing.

use std::collections::{BTreeMap, BTreeSet};

use super::super::people;
use super::*;
use crate::item::request::{Order, Verb};

const DOC: &str = include_str!("../../../../docs/lifecycle.md");
const ITEM: &str = include_str!("../../mod.rs");

/// What is printed where the doc has to be brought up to date.
const HINT: &str = "docs/lifecycle.md and src/item/lifecycle.rs differ";

/// Where an item stands, as finely as decisions tell: state, and what else they look at.
fn standing(item: &Item) -> String {
    let pending = is_out(item) && item.rejected_at.is_some();
    let silent = may_be_explained(item);
    match item.state {
        State::Queued if pending => "queued: rejected".to_owned(),
        State::Queued if is_out(item) => "queued: out".to_owned(),
        State::Queued if silent => "queued: retried in silence".to_owned(),
        State::Queued => "queued: waiting".to_owned(),
        State::Processing if item.place == Place::Leased => "processing: leased".to_owned(),
        State::Processing if pending => "processing: rejected".to_owned(),
        State::Processed if silent => "processed: inferred".to_owned(),
        State::Exception(_) if silent => format!("{} in silence", item.state),
        State::Cancelled => match item.cancelled_from {
            Some(State::OnHold) => "cancelled: on_hold before".to_owned(),
            Some(State::Exception(_)) => "cancelled: exception before".to_owned(),
            _ => "cancelled".to_owned(),
        },
        _ => item.state.to_string(),
    }
}

fn standings() -> BTreeMap<String, Item> {
    let begun = || {
        let mut item = out(1);
        tell(&mut item, started());
        item
    };
    let dead = |mut item: Item| {
        rejected(&mut item);
        item
    };
    let waiting_again = |silent| {
        let mut item = out(1);
        back_to_queue(&mut item, second(100), second(100));
        Item { silent, retries: u32::from(silent), ..item }
    };
    let silent = |state| Item { silent: true, ..settled(state) };
    let mut items = vec![
        waiting_again(false),
        waiting_again(true),
        out(1),
        dead(out(1)),
        begun(),
        dead(begun()),
        leased(1),
        settled(State::Processed),
        silent(State::Processed),
        settled(State::OnHold),
        settled(State::Cancelled),
        Item { cancelled_from: Some(State::OnHold), ..settled(State::Cancelled) },
        Item { cancelled_from: Some(State::Exception(Kind::Business)), ..settled(State::Cancelled) },
    ];
    items.extend(Kind::ALL.iter().map(|kind| settled(State::Exception(*kind))));
    items.extend([Kind::Generic, Kind::Missing, Kind::Unreported].map(|kind| silent(State::Exception(kind))));
    items.into_iter().map(|item| (standing(&item), item)).collect()
}

type Decide = Box<dyn Fn(&mut Item)>;

/// Everything that may come to be known of an item, under the words of the doc.
fn events() -> Vec<(&'static str, Decide)> {
    fn says_with(rules: Rules<'static>, saying: Saying, ago: u32) -> Decide {
        Box::new(move |item| {
            // Room for an earlier attempt.
            item.attempt += ago;
            let attempt = item.attempt - ago;
            report(item, &says(saying.clone(), attempt), &rules, &moment(100));
        })
    }
    let dies = |reason| -> Decide { Box::new(move |item| drop(dies(item, reason))) };
    let judged = |rules: Rules<'static>| -> Decide { Box::new(move |item| drop(judge(item, &rules, &moment(100)))) };
    let asks = |verb: Verb| -> Decide {
        Box::new(move |item| {
            let order = Order { verb: verb.clone(), who: "ann".to_owned(), why: None, on_sight: false };
            drop(people::order(item, &order, true, second(100)));
        })
    };
    let times_out = |rules: Rules<'static>| -> Decide {
        Box::new(move |item| drop(time_out(item, TIMEOUT, second(1_000), &rules, &moment(1_000))))
    };
    let crashed = Rules { crash_limit: 0, ..RULES };
    let progress = Saying::Progress { note: None, percent: None };
    let no_room = |item: &mut Item| {
        item.requeues = 2;
        tell(item, again());
    };
    vec![
        ("started", says_with(RULES, started(), 0)),
        ("started, crash_limit passed", says_with(crashed, started(), 0)),
        ("progress", says_with(RULES, progress, 0)),
        ("processed", says_with(RULES, done(), 0)),
        ("processed, earlier attempt", says_with(RULES, done(), 1)),
        ("business_exception", says_with(RULES, failing(Failure::Business), 0)),
        ("it_exception, retries left", says_with(RULES, failing(Failure::It), 0)),
        ("it_exception", says_with(NO_RETRIES, failing(Failure::It), 0)),
        ("generic_exception, retries left", says_with(RULES, failing(Failure::Generic), 0)),
        ("generic_exception", says_with(NO_RETRIES, failing(Failure::Generic), 0)),
        ("any other outcome, earlier attempt", says_with(RULES, failing(Failure::Business), 1)),
        ("requeue", says_with(RULES, again(), 0)),
        ("requeue, limit reached", Box::new(no_room)),
        ("hold", says_with(RULES, hold(), 0)),
        ("dead letter: rejected", dies(DeathReason::Rejected)),
        ("dead letter: expired", dies(DeathReason::Expired)),
        ("dead letter: delivery_limit", dies(DeathReason::DeliveryLimit)),
        ("dead letter: maxlen", dies(DeathReason::MaxLength)),
        ("judged, retries left", judged(RULES)),
        ("judged", judged(NO_RETRIES)),
        (
            "life over",
            Box::new(|item| {
                item.expires_at = Some(second(1));
                expire(item, second(100));
            }),
        ),
        ("timeout, retries left", times_out(RULES)),
        ("timeout", times_out(NO_RETRIES)),
        ("cancelled", Box::new(|item| drop(cancel(item, "ann", "why", second(100))))),
        (
            "claimed",
            Box::new(|item| {
                let delivery = lease::Delivery { attempt: item.attempt, before: 0 };
                if lease::claim_delivered(item, delivery, "w", &RULES, second(100)).is_none() {
                    // A person may have what waits for a retry, too.
                    drop(lease::claim_named(item, "w", true, second(100)));
                }
            }),
        ),
        ("lease lost", Box::new(|item| drop(lease::lose(item, item.attempt, 1, TIMEOUT, &RULES, second(100))))),
        (
            "lease lost, crash_limit reached",
            Box::new(|item| drop(lease::lose(item, item.attempt, 5, TIMEOUT, &RULES, second(100)))),
        ),
        ("given back", Box::new(|item| drop(lease::give_back(item, item.attempt, "w", None, second(100))))),
        ("people hold", asks(Verb::Hold)),
        ("people release", asks(Verb::Release)),
        ("people cancel", asks(Verb::Cancel)),
        ("people restore", asks(Verb::Restore)),
        ("people requeue", asks(Verb::Requeue(Box::default()))),
        ("recalled", Box::new(|item| drop(people::recalled(item, item.attempt, false, second(100))))),
        ("acked, report required", Box::new(|item| drop(unreported(item, second(100))))),
        ("inferred", Box::new(|item| drop(infer_processed(item, second(100))))),
        ("missing", Box::new(|item| drop(missing(item, "gone", second(100))))),
        (
            "queue found deleted",
            Box::new(|item| {
                item.size = Some(2);
                drop(dispatch_again(item, second(100)));
            }),
        ),
        (
            "found again",
            Box::new(|item| {
                item.size = Some(2);
                let attempt = item.attempt + u32::from(!is_out(item));
                drop(found_again(item, attempt, second(100)));
            }),
        ),
        (
            "returned",
            Box::new(|item| {
                if has_message(item) {
                    item.place = Place::Claimed;
                }
                drop(returned(item, "no queue", second(100)));
            }),
        ),
    ]
}

/// Every move there is: what changes where an item stands. All else is noted or adds nothing.
fn moves() -> BTreeMap<(String, String), String> {
    let mut moves = BTreeMap::new();
    for (from, item) in standings() {
        for (event, decide) in events() {
            let mut item = item.clone();
            decide(&mut item);
            if standing(&item) != from {
                moves.insert((from.clone(), event.to_owned()), standing(&item));
            }
        }
    }
    moves
}

/// The rows of the doc's table under this header, cell by cell.
fn rows(header: &str) -> Vec<Vec<&'static str>> {
    let (_, table) = DOC.split_once(header).unwrap_or_else(|| panic!("the doc has no table {header}"));
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

fn moves_in_the_doc() -> BTreeMap<(String, String), String> {
    let mut moves = BTreeMap::new();
    for row in rows("| from | event | to |") {
        let [from, event, to] = row[..] else { panic!("{row:?} is no move") };
        // Several of either stand in one row, one above the other.
        for from in from.split("<br>") {
            for event in event.split("<br>") {
                let before = moves.insert((from.to_owned(), event.to_owned()), to.to_owned());
                assert_eq!(before, None, "{from} + {event} stands twice in the doc");
            }
        }
    }
    moves
}

#[test]
fn the_table_of_moves_is_what_the_code_does() {
    let text = |moves: BTreeMap<(String, String), String>| -> BTreeSet<String> {
        moves.into_iter().map(|((from, event), to)| format!("{from} | {event} | {to}")).collect()
    };
    let (code, doc) = (text(moves()), text(moves_in_the_doc()));
    let missing: Vec<_> = code.difference(&doc).collect();
    let wrong: Vec<_> = doc.difference(&code).collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "{HINT}\nonly in the code: {missing:#?}\nonly in the doc: {wrong:#?}"
    );
}

#[test]
fn the_words_of_the_table_are_explained() {
    let explained = |header| -> BTreeSet<String> { rows(header).iter().map(|row| row[0].to_owned()).collect() };
    let expected: BTreeSet<String> = standings().into_keys().collect();
    let mut standings = explained("| standing | meaning |");
    for kind in Kind::ALL {
        standings.insert(State::Exception(*kind).to_string());
    }
    assert_eq!(standings, expected, "{HINT}");
    let expected: BTreeSet<String> = events().iter().map(|(event, _)| (*event).to_owned()).collect();
    assert_eq!(explained("| event | what came to be known |"), expected, "{HINT}");
    let kinds: BTreeSet<String> = Kind::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(explained("| kind | meaning |"), kinds, "{HINT}");
}

#[test]
fn the_drawing_has_an_arrow_for_every_move_between_states() {
    let word = |standing: &str| standing.split(':').next().unwrap_or_default().to_owned();
    let expected: BTreeSet<(String, String)> = moves().iter().map(|((from, _), to)| (word(from), word(to))).collect();
    let (_, drawing) = DOC.split_once("stateDiagram-v2").expect("the doc has a drawing");
    let (drawing, _) = drawing.split_once("```").expect("the drawing ends");
    let arrows: Vec<(&str, &str)> = drawing.lines().filter_map(|line| line.split_once(" --> ")).collect();
    let drawn: BTreeSet<(String, String)> = arrows
        .iter()
        .filter(|(from, label)| from.trim() != "[*]" && !label.contains("coming"))
        .map(|(from, to)| (from.trim().to_owned(), word(to).trim().to_owned()))
        .collect();
    assert_eq!(drawn, expected, "{HINT}");
    for state in State::WORDS {
        assert!(
            arrows.iter().any(|(from, to)| from.trim() == state || word(to).trim() == state),
            "{state} is not drawn"
        );
    }
}

#[test]
fn every_field_of_an_item_has_its_row() {
    let fields = ITEM.split_once("pub struct Item {").expect("the item").1;
    let fields: BTreeSet<&str> = fields
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':'))
        .map(|(field, _)| field)
        .collect();
    let explained: BTreeSet<&str> = rows("| field | moves |")
        .iter()
        .flat_map(|row| row[0].split(", "))
        .map(|field| field.trim_matches('`'))
        .collect();
    assert_eq!(explained, fields, "{HINT}");
}
