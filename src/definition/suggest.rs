//! The nearest known word, for "did you mean".

/// Longer words are nobody's typing mistake.
const LONGEST: usize = 40;

/// The word of `known` that `word` was most likely meant to be; `None` where nothing is close.
///
/// Case and separators do not count (`maxPayload`, `max-payload`), otherwise about one slip in three letters is forgiven.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let word = letters(word);
    if word.is_empty() || word.len() > LONGEST {
        return None;
    }
    known
        .into_iter()
        .map(|candidate| (letters(candidate), candidate))
        // Cheap, and there may be many: so many letters more or less are as many slips.
        .filter(|(letters, _)| letters.len().abs_diff(word.len()) <= (word.len() / 3).max(1))
        .map(|(letters, candidate)| (distance(&word, &letters), candidate))
        .filter(|(distance, _)| *distance <= (word.len() / 3).max(1))
        // A word of two letters is one slip away from everything.
        .filter(|(distance, _)| *distance < word.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn letters(word: &str) -> Vec<char> {
    word.chars()
        .take(LONGEST + 1)
        .filter(|c| !matches!(c, '_' | '-' | ' ' | '.'))
        .flat_map(char::to_lowercase)
        .collect()
}

/// Fewest letters to insert, remove, replace or swap with their neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, other) in b.iter().enumerate() {
            let mut fewest = (last[j] + usize::from(letter != other)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *letter == b[j - 1] && a[i - 1] == *other {
                fewest = fewest.min(before_last[j - 1] + 1);
            }
            row.push(fewest);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_what_was_meant_and_nothing_far_fetched() {
        let known = ["queue", "priorities", "max_payload", "unique", "lane", "it", "retry", "window"];
        for (word, meant) in [
            ("prioritys", Some("priorities")),
            ("maxPayload", Some("max_payload")),
            ("max-payload", Some("max_payload")),
            ("qeuue", Some("queue")),
            ("quue", Some("queue")),
            ("LANE", Some("lane")),
            ("ti", Some("it")),
            ("colour", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
        assert_eq!(nearest(&"q".repeat(1_000_000), known), None);
    }
}
