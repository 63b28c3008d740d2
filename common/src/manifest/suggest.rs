//! "Did you mean": the allowed word that was probably meant.

/// Longer words are never compared: nobody misspells a key of this length.
const COMPARED_MAX_BYTES: usize = 64;

/// Shorter words begin too many others.
const STEM_LEAST_BYTES: usize = 4;

/// The candidate that `found` looks like a misspelling of.
pub(super) fn nearest<'a>(
    found: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if found.len() > COMPARED_MAX_BYTES {
        return None;
    }
    let wanted = normal(found);
    candidates
        .into_iter()
        .map(|candidate| (distance(&wanted, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= tolerated(candidate))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A word with a wrong ending is as near as one with a wrong letter.
fn distance(wanted: &str, candidate: &str) -> usize {
    let candidate = normal(candidate);
    if candidate.len() >= STEM_LEAST_BYTES && wanted.starts_with(&candidate) {
        return 1;
    }
    strsim::osa_distance(wanted, &candidate)
}

/// Case and the choice of separator are the commonest mistakes; they cost nothing.
fn normal(word: &str) -> String {
    word.to_lowercase().replace('-', "_")
}

/// One letter in a short word, one in three of a longer one, never more than three.
fn tolerated(candidate: &str) -> usize {
    candidate.len().div_ceil(3).clamp(1, 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_words_are_recognised() {
        let keys = ["quantity", "name", "hostnames", "start_timeout", "env"];

        assert_eq!(nearest("qantity", keys), Some("quantity"));
        assert_eq!(nearest("naem", keys), Some("name"));
        assert_eq!(nearest("Start-Timeout", keys), Some("start_timeout"));
        assert_eq!(nearest("hostname", keys), Some("hostnames"));
        assert_eq!(nearest("environment", keys), None);
        assert_eq!(nearest("quantity_of_instances", keys), Some("quantity"));
        assert_eq!(nearest("replicas", keys), None);
        assert_eq!(nearest(&"name".repeat(1000), keys), None);
    }
}
