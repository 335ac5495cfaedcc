//! Schemas of the words and times that the API's answers use, and the form of a body's schema.
//!
//! The words come from the types that own them, so a new one is in the document by itself.

use std::borrow::Cow;

use utoipa::openapi::schema::{ArrayBuilder, KnownFormat, ObjectBuilder, SchemaFormat, SchemaType, Type};
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::view::{List, Timed};
use crate::item::action::{Deed, Outcome, Phase};
use crate::item::breaker::Standing;
use crate::item::failures::Trend;
use crate::item::sla::Sla;
use crate::item::{Kind, Lane, State, Timestamp, why};
use crate::mirror::{FailureSort, Sort};
use crate::who::Role;

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident = $words:expr;)+) => {$(
        $(#[$doc])*
        pub(super) enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let words = ($words).into_iter().map(str::to_owned).collect::<Vec<_>>();
                ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
            }
        }

        impl ToSchema for $name {}
    )+};
}

words! {
    /// Where an item stands.
    ItemState = State::WORDS;
    /// What an exception is.
    ExceptionKind = Kind::ALL.iter().map(|kind| kind.word()).collect::<Vec<_>>();
    /// How items get to robots.
    LaneWord = [Lane::Managed, Lane::Direct].map(Lane::word);
    /// The order of a list of items.
    SortWord = Sort::ALL.map(Sort::word);
    /// How an item stands to its `due_at`.
    SlaWord = [Sla::None, Sla::InTime, Sla::AtRisk, Sla::Late].map(Sla::word);
    /// What a queue's breaker does.
    BreakerWord = [Standing::Closed, Standing::Open, Standing::Trying(Timestamp::UNIX_EPOCH)].map(Standing::word);
    /// What an action does to each item.
    ActionVerb = Deed::ALL.iter().map(|deed| deed.word()).collect::<Vec<_>>();
    /// How far an action is.
    ActionState = Phase::ALL.iter().filter(|phase| **phase != Phase::Receiving).map(|phase| phase.word()).collect::<Vec<_>>();
    /// What became of an item, or would.
    OutcomeWord = Outcome::ALL.iter().map(|outcome| outcome.word()).collect::<Vec<_>>();
    /// How a failure stands.
    TrendWord = Trend::ALL.map(Trend::word);
    /// The order of a list of failures, the greatest first.
    FailureSortWord = FailureSort::ALL.map(FailureSort::word);
    /// What an item waits for.
    WaitWord = why::WORDS;
    /// How a payload is answered.
    PayloadForm = ["raw", "json"];
    /// The form of an export.
    FormatWord = ["csv", "ndjson"];
    /// Which rows of many are told of.
    ResultsWord = ["all", "refused"];
    /// What somebody may do.
    RoleWord = Role::ALL.map(Role::word);
    /// The type of the robots' queue.
    TypeWord = ["auto", "quorum", "classic"];
}

impl PartialSchema for Timed {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for Timed {
    fn name() -> Cow<'static, str> {
        "Time".into()
    }
}

// By hand, for the derived one repeats the whole row in each list. This trait is what utoipa wants of whatever is generic.
impl<T: ToSchema> utoipa::__dev::ComposeSchema for List<T> {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        let items = ArrayBuilder::new().items(Ref::from_schema_name(T::name()));
        let next = ObjectBuilder::new()
            .schema_type(SchemaType::Array(vec![Type::String, Type::Null]))
            .description(Some("The cursor of the next page; `null`: this is the last"));
        ObjectBuilder::new().property("items", items).property("next", next).into()
    }
}

impl<T: ToSchema> ToSchema for List<T> {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}

/// A level, 0 to 31, or the name that the queue's definition gives one.
#[derive(serde::Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Priority)]
#[allow(dead_code, reason = "documents what `Reader::priority` reads")]
pub(super) enum PriorityBody {
    Level(i64),
    Name(String),
}

/// A body that a `Reader` reads: the schema that documents it and the list of its members, from one text.
macro_rules! body {
    ($(#[$doc:meta])* $name:ident, $members:ident { $($(#[$attribute:meta])* $member:ident: $type:ty,)+ }) => {
        #[derive(utoipa::ToSchema)]
        $(#[$doc])*
        #[allow(dead_code, reason = "it documents what the reader reads")]
        pub(super) struct $name { $($(#[$attribute])* $member: $type,)+ }

        pub(super) const $members: &[&str] = &[$(crate::http::words::plain(stringify!($member)),)+];
    };
}
pub(super) use body;

/// A member's name, which in Rust may have to be written with `r#`.
pub(super) const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<T: ToSchema>() -> Vec<String> {
        let schema = serde_json::to_value(T::schema()).unwrap();
        serde_json::from_value(schema["enum"].clone()).unwrap()
    }

    #[test]
    fn members_are_called_as_they_are_written() {
        assert_eq!([plain("r#type"), plain("reference"), plain("r")], ["type", "reference", "r"]);
    }

    #[test]
    fn documented_words_are_those_of_the_code() {
        assert_eq!(words::<LaneWord>(), ["managed", "direct"]);
        assert_eq!(words::<BreakerWord>(), ["closed", "open", "trying"]);
        assert_eq!(words::<ItemState>().len(), 6);
    }
}
