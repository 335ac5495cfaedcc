//! A filter as it is kept and shown: the words that requests have for it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ItemFilter;
use crate::item::{Kind, State, Timestamp};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub(super) struct Stored {
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    state: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kind: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    label: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    q: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
}

impl From<ItemFilter> for Stored {
    fn from(filter: ItemFilter) -> Self {
        // What somebody may see is not a part of what they look for.
        let ItemFilter { queue, within: _, states, kinds, reference, labels, due, since, q, fingerprint } = filter;
        Self {
            queue,
            state: states.into_iter().map(str::to_owned).collect(),
            kind: kinds.into_iter().map(|kind| kind.word().to_owned()).collect(),
            reference,
            label: labels.into_iter().collect(),
            due,
            since,
            q,
            fingerprint,
        }
    }
}

impl TryFrom<Stored> for ItemFilter {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        let Stored { queue, state, kind, reference, label, due, since, q, fingerprint } = stored;
        let states = state.iter().map(|word| State::WORDS.into_iter().find(|known| known == word));
        let kinds = kind.iter().map(|word| Kind::from_word(word));
        Ok(Self {
            queue,
            within: None,
            states: states.collect::<Option<_>>().ok_or("no state")?,
            kinds: kinds.collect::<Option<_>>().ok_or("no kind")?,
            reference,
            labels: label.into_iter().collect(),
            due,
            since,
            q,
            fingerprint,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_the_same_after_it_was_kept() {
        let at = |second| Timestamp::from_second(second).ok();
        let filter = ItemFilter {
            queue: Some("a".to_owned()),
            within: None,
            states: vec!["exception", "queued"],
            kinds: vec![Kind::It],
            reference: Some("r".to_owned()),
            labels: vec![("site".to_owned(), "oslo".to_owned())],
            due: at(1),
            since: at(2),
            q: Some("x".to_owned()),
            fingerprint: Some("f".to_owned()),
        };
        for filter in [filter, ItemFilter::default()] {
            let kept = serde_json::to_string(&filter).unwrap();
            assert_eq!(serde_json::from_str::<ItemFilter>(&kept).unwrap(), filter, "{kept}");
        }
        assert_eq!(serde_json::to_string(&ItemFilter::default()).unwrap(), "{}");
        assert!(serde_json::from_str::<ItemFilter>(r#"{"state":["odd"]}"#).is_err());
    }
}
