//! What of a payload is shown: everything, or what its queue's definition does not hide. Whoever shows a payload asks here.

use crate::definition::QueueDefinition;
use crate::item::mask::{Shown, mask};

/// What may be shown of a payload of a queue. Of a queue that nobody defines any more nobody knows what it hid, so nothing of
/// it is.
pub(super) fn masked(definition: Option<&QueueDefinition>, payload: &[u8], reveal: bool) -> Shown {
    match definition {
        _ if reveal => Shown::Whole,
        Some(definition) => mask(payload, &definition.mask),
        None => Shown::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nobody_knows_what_is_hidden_nothing_is_shown() {
        let open = QueueDefinition::with_defaults("q");
        let hiding = QueueDefinition { mask: vec!["/a".to_owned()], ..open.clone() };
        assert_eq!(masked(Some(&open), b"x", false), Shown::Whole);
        assert_eq!(masked(Some(&hiding), b"x", false), Shown::Nothing);
        assert_eq!(masked(Some(&hiding), b"{\"a\":1}", false), Shown::Part(b"{\"a\":\"[masked]\"}".to_vec()));
        assert_eq!(masked(Some(&hiding), b"{\"a\":1}", true), Shown::Whole);
        assert_eq!(masked(None, b"{}", false), Shown::Nothing);
        assert_eq!(masked(None, b"{}", true), Shown::Whole);
    }
}
