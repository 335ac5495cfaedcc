//! The account of a queue's acks, and what a rest means for the items that are out: decisions of reconciliation alone.
//!
//! `acks - base - explained` is the number of acks that no item explains yet. `explained` grows with every attempt that ends
//! by a word and shrinks when its dead letter shows that it was a reject. Where it cannot be known (a dispatch repeated
//! after a crash, a repeated, anonymous or lost copy, a dead letter of an attempt that timed out, beside a newer one) it errs upwards: then items stay `unaccounted` that were done, and
//! none is done that was lost. A queue at rest with nothing out is even: there the account begins anew.
//!
//! At a rest nothing is on the broker. Where the acks cover all that is out, all of it is done. Where they do not, nobody
//! knows which are done: the rest is remembered, and how many acks were unexplained then. What was out at that rest can
//! only have been acked before it, so acks that came later are those of items sent out later: these are done where such
//! acks cover them. What was out at the remembered rest and is still not reported about a grace later is missing.

use std::fmt;

use crate::item::Timestamp;
use crate::mirror::acks::{AckAccount, Rest};

/// What a verified rest showed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// Items out, and of them those that were sent out after the remembered rest.
    pub out: u64,
    pub young: u64,
    /// Acks that no item explains.
    pub unexplained: i64,
    pub rest: Option<Rest>,
    /// When it was seen.
    pub at: Timestamp,
    pub grace: jiff::SignedDuration,
}

/// What is to be done about items that are out at a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// None are.
    Even,
    /// All were acked.
    Done,
    /// Those sent out after the remembered rest were acked.
    YoungDone,
    /// Those that were out at the remembered rest are given up.
    Missing,
    /// They stay open, unaccounted.
    Open,
}

pub(super) fn judge(found: &Found) -> Verdict {
    let covered = |items: u64, acks: i64| items > 0 && i64::try_from(items).is_ok_and(|items| items <= acks);
    if found.out == 0 {
        return Verdict::Even;
    }
    if covered(found.out, found.unexplained) {
        return Verdict::Done;
    }
    let Some(rest) = found.rest else { return Verdict::Open };
    if covered(found.young, found.unexplained - rest.acked) {
        return Verdict::YoungDone;
    }
    let is_over = found.at.duration_since(rest.at) >= found.grace;
    if is_over && found.young < found.out { Verdict::Missing } else { Verdict::Open }
}

/// Why items are missing, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reason {
    /// So many were out at the remembered rest ...
    gone: u64,
    /// ... and so many of them were acked.
    acked: u64,
}

impl Reason {
    pub(super) fn of(found: &Found) -> Self {
        let acked = found.rest.map_or(0, |rest| rest.acked.max(0)).cast_unsigned();
        Self { gone: found.out.saturating_sub(found.young), acked }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is not in the robots' queue any more, nobody has it, and no report came")?;
        match self.acked {
            0 => f.write_str("; it was not acked"),
            acked => {
                write!(f, "; of {} such items {acked} were acked without a report, nobody can tell which", self.gone)
            }
        }
    }
}

/// The account after the counter was seen at `acks`; `None` where nothing changes but the sight of it.
pub(super) fn observe(account: AckAccount, acks: i64) -> Option<AckAccount> {
    let base = match account.last_seen {
        // Never seen: what was acked before we came is not ours to explain.
        None => acks,
        // It began anew (queue or broker restarted): so did what it can explain, but for reports whose ack had not
        // come yet.
        Some(last_seen) if acks < last_seen => {
            let ahead = (account.explained_then - (last_seen - account.base)).max(0);
            ahead - account.explained_then
        }
        Some(last_seen) if acks == last_seen && account.explained == account.explained_then => return None,
        Some(_) => account.base,
    };
    Some(AckAccount { base, last_seen: Some(acks), explained_then: account.explained, ..account })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(explained: i64, base: i64, last_seen: Option<i64>, explained_then: i64) -> AckAccount {
        AckAccount { explained, base, last_seen, explained_then, rest: None }
    }

    fn unexplained(account: AckAccount, acks: i64) -> i64 {
        let account = observe(account, acks).unwrap_or(account);
        acks - account.base - account.explained
    }

    #[test]
    fn acks_that_no_item_explains() {
        for (what, account, acks, expected) in [
            ("a queue of ours, nothing said", account(0, 0, Some(0), 0), 7, 7),
            ("all by a word", account(7, 0, Some(5), 5), 7, 0),
            ("a queue adopted with a history", account(0, 0, None, 0), 500, 0),
            ("reports ahead of the lagging counter", account(3, 0, None, 0), 1, -3),
            ("the counter began anew", account(12, 0, Some(10), 10), 3, 1),
            ("it began anew before a reported one was acked", account(10, 0, Some(9), 10), 1, 0),
        ] {
            assert_eq!(unexplained(account, acks), expected, "{what}");
        }
    }

    #[test]
    fn what_a_rest_means_for_what_is_out() {
        let second = |at: i64| Timestamp::from_second(at).unwrap();
        for (what, (out, young), unexplained, rest, at, expected) in [
            ("nothing is out", (0, 0), 7, None, 100, Verdict::Even),
            ("all acked", (5, 5), 5, None, 100, Verdict::Done),
            ("one ack too few", (5, 5), 4, None, 100, Verdict::Open),
            ("a restarted counter", (5, 5), -3, None, 100, Verdict::Open),
            ("purged, in the grace", (5, 0), 0, Some((90, 0)), 100, Verdict::Open),
            ("purged, after the grace", (5, 0), 0, Some((70, 0)), 100, Verdict::Missing),
            ("some of them acked, after the grace", (5, 0), 4, Some((70, 4)), 100, Verdict::Missing),
            ("acks seen late cover all", (5, 0), 5, Some((70, 4)), 100, Verdict::Done),
            ("purged ones beside acked ones", (9, 4), 4, Some((90, 0)), 100, Verdict::YoungDone),
            ("old acks are not those of new items", (9, 4), 4, Some((90, 4)), 100, Verdict::Open),
            ("nor after the grace", (9, 4), 4, Some((70, 4)), 100, Verdict::Missing),
            ("what came since has its own grace", (4, 4), 0, Some((70, 0)), 100, Verdict::Open),
        ] {
            let rest = rest.map(|(at, acked)| Rest { at: second(at), acked });
            let grace = jiff::SignedDuration::from_secs(30);
            let found = Found { out, young, unexplained, rest, at: second(at), grace };
            assert_eq!(judge(&found), expected, "{what}");
        }
    }

    #[test]
    fn it_is_said_what_cannot_be_told() {
        let found = |acked| Found {
            out: 30,
            young: 0,
            unexplained: acked,
            rest: Some(Rest { at: Timestamp::UNIX_EPOCH, acked }),
            at: Timestamp::UNIX_EPOCH,
            grace: jiff::SignedDuration::ZERO,
        };
        assert!(Reason::of(&found(0)).to_string().ends_with("; it was not acked"));
        assert!(Reason::of(&found(10)).to_string().contains("of 30 such items 10 were acked"));
    }
}
