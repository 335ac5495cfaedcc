//! What queues are shown with because of their notices: one look at how it stands, again and again, so that nothing stays shown which
//! is not so any more, and nothing is forgotten by a restart.

use std::collections::{BTreeMap, BTreeSet};

use url::Url;

use super::{Outward, distribute};
use crate::definition::Definitions;
use crate::item::Timestamp;
use crate::lanes::now;
use crate::mirror::MirrorError;
use crate::mirror::outward::Target;
use crate::status::Attention;

/// Words of what a queue is shown with.
const NO_MAIL: &str = "notify_no_mail_server";
const UNHEARD: &str = "notify_not_taken";

/// What is shown now, by queue and word.
#[derive(Default)]
pub(super) struct Shown(BTreeSet<(String, &'static str)>);

impl Shown {
    /// Looks how it stands, and shows that.
    pub(super) async fn look(&mut self, outward: &Outward) -> Result<(), MirrorError> {
        let failing = outward.mirror.failing_notices().await?;
        let wanted = wanted(&outward.live.definitions(), &failing, outward.post.is_some(), now());
        let before = std::mem::take(&mut self.0);
        for (queue, word) in before.iter().filter(|key| !wanted.contains_key(*key)) {
            outward.status.attend(queue, word, None);
        }
        let mut without = Vec::new();
        for ((queue, word), attention) in wanted {
            if outward.status.attend(&queue, word, Some(attention)) && word == NO_MAIL {
                without.push(queue.clone());
            }
            self.0.insert((queue, word));
        }
        if !without.is_empty() {
            let queues = without.join(", ");
            tracing::warn!(
                queues,
                "notify rules write mails, and smtp.url is not set: they wait for it, each for a day"
            );
        }
        Ok(())
    }
}

/// How its queues are to be shown, by all of their rules.
fn wanted(
    definitions: &Definitions,
    failing: &[Target],
    has_post: bool,
    now: Timestamp,
) -> BTreeMap<(String, &'static str), Attention> {
    let mut wanted: BTreeMap<(String, &'static str), Attention> = BTreeMap::new();
    let mut told: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (definition, _, rule) in distribute::rules(definitions) {
        let key = |word| (definition.key.clone(), word);
        if rule.to.scheme() == "mailto" && !has_post {
            let text =
                "a notify rule writes mails, and smtp.url is not set: they wait for it, each for a day".to_owned();
            wanted.entry(key(NO_MAIL)).or_insert(Attention { since: now, text, held: Vec::new() });
        }
        let target = failing.iter().find(|target| target.id == rule.to.as_str());
        // Several rules may be for one.
        let Some(target) = target.filter(|target| told.insert((definition.key.as_str(), target.id.as_str()))) else {
            continue;
        };
        let since = target.failing_since.unwrap_or(now);
        let error = format!("{}: {}", place(&target.id), target.last_error.as_deref().unwrap_or("nobody says why"));
        let shown = wanted.entry(key(UNHEARD)).or_insert_with(|| Attention {
            since,
            text: "notices are not taken".to_owned(),
            held: Vec::new(),
        });
        shown.since = shown.since.min(since);
        shown.text = format!("{}; {error}", shown.text);
    }
    wanted
}

/// Of where notices go what is no secret: the path of a URL may be one.
pub(super) fn place(to: &str) -> String {
    match Url::parse(to) {
        Ok(url) if url.scheme() == "mailto" => url.path().to_owned(),
        Ok(url) => url.host_str().unwrap_or_default().to_owned(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::definition::{Notice, Occasion, QueueDefinition, Rate};

    fn definitions(queues: &[(&str, &[&str])]) -> Definitions {
        let rule =
            |to: &&str| Notice { on: vec![Occasion::Late], to: Url::parse(to).unwrap(), at_most: Rate::default() };
        let queue = |(key, to): &(&str, &[&str])| {
            let notify = to.iter().map(rule).collect();
            ((*key).to_owned(), Arc::new(QueueDefinition { notify, ..QueueDefinition::with_defaults(key) }))
        };
        Definitions { queues: queues.iter().map(queue).collect(), ..Definitions::default() }
    }

    fn failing(id: &str, second: i64) -> Target {
        let since = Timestamp::from_second(second).unwrap();
        Target {
            id: id.to_owned(),
            failures: 2,
            failing_since: Some(since),
            last_error: Some("it answered 503".to_owned()),
            ..Target::default()
        }
    }

    #[test]
    fn what_is_shown_is_how_it_stands() {
        let (a, b, mail) = ("https://a.example/secret", "https://b.example/secret", "mailto:ops@example.com");
        let definitions = definitions(&[("both", &[a, b, a]), ("mails", &[mail]), ("quiet", &[])]);
        let words = |failing: &[Target], post| {
            let wanted = wanted(&definitions, failing, post, Timestamp::UNIX_EPOCH);
            wanted.into_iter().map(|((queue, word), shown)| (queue, word, shown)).collect::<Vec<_>>()
        };
        assert_eq!(words(&[], true), []);
        let shown = words(&[], false);
        assert_eq!((shown.len(), shown[0].0.as_str(), shown[0].1), (1, "mails", NO_MAIL));
        let shown = words(&[failing(a, 9), failing(b, 7), failing("https://nobody.example/", 1)], true);
        assert_eq!((shown.len(), shown[0].0.as_str(), shown[0].1), (1, "both", UNHEARD));
        assert_eq!(shown[0].2.since.as_second(), 7);
        // Each once, and no secret with it.
        assert_eq!(shown[0].2.text, "notices are not taken; a.example: it answered 503; b.example: it answered 503");
        // One is taken again: the other is shown still.
        let shown = words(&[failing(b, 7)], true);
        assert_eq!(shown[0].2.text, "notices are not taken; b.example: it answered 503");
    }
}
