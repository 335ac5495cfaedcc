//! Undo and previews, case by case.

use super::*;
use crate::item::{ItemId, Kind, Lane};

fn item(state: State) -> Item {
    let definition = crate::definition::QueueDefinition::with_defaults("a");
    let new = crate::item::door::NewItem { name: Some("n".to_owned()), ..Default::default() };
    let id: ItemId = "00000000-0000-7000-8000-000000000001".parse().unwrap();
    let arrival = crate::item::door::Arrival { new, ..Default::default() };
    let item = crate::item::door::admit(&definition, &arrival, 4, "h".to_owned(), id, Timestamp::UNIX_EPOCH);
    let place = if state == State::Queued { Place::Ready } else { Place::Settled };
    Item { state, place, lane: Lane::Managed, revision: 5, attempt: 2, ..item }
}

fn back(state: State, verb: &Verb) -> Former {
    Former { way: Way::back(&item(state), verb), attempt: 2 }
}

#[test]
fn what_takes_an_action_back() {
    let exception = State::Exception(Kind::It);
    let cases = [
        (State::Queued, Verb::Hold, Ok(Verb::Release)),
        (exception, Verb::Hold, Err("no_way_back")),
        (State::OnHold, Verb::Release, Ok(Verb::Hold)),
        (exception, Verb::Requeue(Box::default()), Ok(Verb::Hold)),
        (exception, Verb::Cancel, Ok(Verb::Restore)),
        (State::Cancelled, Verb::Restore, Ok(Verb::Cancel)),
        (exception, Verb::Assign(Some("bob".to_owned())), Ok(Verb::Assign(None))),
        (exception, Verb::Note("n".to_owned()), Err("no_way_back")),
    ];
    for (state, verb, expected) in cases {
        let former = back(state, &verb);
        let taken_back = undo(&former, &item(state), 5, false).map(|(verb, _)| verb).map_err(|not| not.code);
        assert_eq!(taken_back, expected, "{state} {verb:?}");
    }
}

#[test]
fn an_edit_is_taken_back_value_by_value() {
    let content = crate::item::request::Content { size: 1, hash: "h".to_owned(), content_type: None };
    let changes = Changes { priority: Some(9), name: Some(None), content: Some(content), ..Changes::default() };
    let former = back(State::OnHold, &Verb::Edit(Box::new(changes)));
    assert_eq!(undo(&former, &item(State::OnHold), 5, false).unwrap_err().code, "not_kept");
    let (verb, priority) = undo(&former, &item(State::OnHold), 5, true).unwrap();
    let expected = Changes { name: Some(Some("n".to_owned())), ..Changes::default() };
    assert_eq!((verb, priority), (Verb::Edit(Box::new(expected)), Some(PriorityWish::Level(4))));
    let kept = serde_json::to_string(&former).unwrap();
    assert_eq!(serde_json::from_str::<Former>(&kept).unwrap(), former, "{kept}");
}

#[test]
fn what_changed_since_is_left_alone_and_what_was_only_handed_out_is_not() {
    let former = back(State::OnHold, &Verb::Release);
    let now = |revision: u32, attempt: u32| Item { attempt, revision, ..item(State::Queued) };
    for (item, expected) in [
        (now(5, 2), None),
        (now(6, 3), None),
        (now(6, 2), Some("changed_since")),
        (now(7, 3), Some("changed_since")),
        (Item { state: State::Processed, ..now(6, 3) }, Some("changed_since")),
    ] {
        assert_eq!(undo(&former, &item, 5, true).err().map(|not| not.code), expected, "{item:?}");
    }
    // Taken out of the robots' queue for an edit, and handed out again: the same attempt.
    let edit = back(State::Queued, &Verb::Edit(Box::new(Changes { name: Some(None), ..Changes::default() })));
    let out = |revision: u32| Item { place: Place::Broker, ..now(revision, 2) };
    for (item, expected) in [
        (out(6), None),
        (Item { place: Place::Claimed, ..out(6) }, None),
        (now(6, 2), Some("changed_since")),
        (out(7), Some("changed_since")),
        (Item { state: State::Processing, ..out(6) }, Some("changed_since")),
    ] {
        assert_eq!(undo(&edit, &item, 5, true).err().map(|not| not.code), expected, "{item:?}");
    }
    assert!(undo(&former, &out(6), 5, true).is_err(), "of what was released it is another change");
}

#[test]
fn a_preview_counts_all_and_shows_some() {
    let mut preview = Preview::default();
    for number in 0..50 {
        let would = if number % 2 == 0 { Outcome::Done } else { Outcome::Invalid };
        let code = (would == Outcome::Invalid).then(|| "schema".to_owned());
        let reasons = code.iter().map(|_| format!("n {number}")).collect();
        let (queue, state) = ("a".to_owned(), "on_hold".to_owned());
        let item = number.to_string();
        preview.add(Sample { item, queue, reference: None, state, would, code, reasons, diff: Vec::new() });
    }
    assert_eq!((preview.would.total, preview.would.done, preview.would.invalid, preview.would.left()), (50, 25, 25, 0));
    assert_eq!(preview.samples.len(), 2 * SAMPLES);
    assert_eq!(preview.queues["a"]["on_hold"], 50);
    let [reason] = preview.reasons.as_slice() else { panic!("{:?}", preview.reasons) };
    assert_eq!((reason.count, reason.example.as_str()), (25, "n 1"));
    // What a schema says of a payload may be as much as the payload.
    let mut preview = Preview::default();
    let reasons = vec!["å".repeat(10_000); 100];
    let (item, queue, state) = ("1".to_owned(), "a".to_owned(), "on_hold".to_owned());
    let code = Some("schema".to_owned());
    preview.add(Sample {
        item,
        queue,
        reference: None,
        state,
        would: Outcome::Invalid,
        code,
        reasons,
        diff: Vec::new(),
    });
    assert!(serde_json::to_string(&preview).unwrap().len() < 10_000);
    assert!(preview.samples[0].reasons.len() == REASONS && preview.reasons[0].example.ends_with("å…"));
}

#[test]
fn a_wish_is_the_same_after_it_was_kept() {
    let at = Timestamp::from_second(1).unwrap();
    let wish = Wish {
        why: Some("w".to_owned()),
        changes: Changes { name: Some(None), due_at: Some(Some(at)), ..Changes::default() },
        priority: Some(Wished::Named("high".to_owned())),
        delay: Some(5),
        patch: Some("[]".to_owned()),
        on_sight: true,
        ..Wish::of(Deed::Requeue)
    };
    for wish in [wish.clone(), Wish { priority: Some(Wished::Level(3)), ..wish }, Wish::of(Deed::Undo)] {
        let kept = serde_json::to_string(&wish).unwrap();
        assert_eq!(serde_json::from_str::<Wish>(&kept).unwrap(), wish, "{kept}");
    }
    assert!(Wish::of(Deed::Undo).verb().is_none());
    assert_eq!(why(None, "x"), "action x");
    assert_eq!(why(Some("w"), "x"), "w (action x)");
}
