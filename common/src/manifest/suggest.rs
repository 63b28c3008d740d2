//! "Did you mean": the allowed word that was probably meant.

use crate::cron::Zone;

/// Longer words are never compared: nobody misspells a key of this length.
const COMPARED_MAX_BYTES: usize = 64;

/// Letters that may be wrong in the longest words.
const TOLERATED_MOST: usize = 3;

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

/// The time zone that `found` looks like a misspelling of, or that is named after this city.
pub(super) fn nearest_zone(found: &str) -> Option<String> {
    let wanted = found.trim().replace(' ', "_");
    let names: Vec<String> = Zone::names().collect();
    let is_near = |name: &&str| name.len().abs_diff(wanted.len()) <= TOLERATED_MOST;
    if wanted.contains('/') {
        let near = names.iter().map(String::as_str).filter(is_near);
        return nearest(&wanted, near).map(str::to_owned);
    }
    let of_city = |wanted: &str| {
        let mut names = names.iter();
        names.find(|name| city(name).is_some_and(|city| city.eq_ignore_ascii_case(wanted)))
    };
    // Abbreviations such as PST or CEST are near to words that mean something else.
    let misspelt = || {
        let cities = names.iter().filter_map(|name| city(name)).filter(is_near);
        let is_word = wanted.len() > STEM_LEAST_BYTES;
        is_word
            .then(|| nearest(&wanted, cities))
            .flatten()
            .and_then(of_city)
    };
    of_city(&wanted).or_else(misspelt).cloned()
}

/// The last part of the name of a zone that has several.
fn city(zone: &str) -> Option<&str> {
    zone.rsplit_once('/').map(|(_, city)| city)
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
    candidate.len().div_ceil(3).clamp(1, TOLERATED_MOST)
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

    #[test]
    fn misspelt_zones_and_cities_are_recognised() {
        for (found, expected) in [
            ("Europe/Belin", Some("Europe/Berlin")),
            ("Berlin", Some("Europe/Berlin")),
            ("new york", Some("America/New_York")),
            ("America/New York", Some("America/New_York")),
            ("Amsterdm", Some("Europe/Amsterdam")),
            ("PST", None),
            ("Mars/Olympus", None),
            ("", None),
        ] {
            assert_eq!(nearest_zone(found).as_deref(), expected, "{found}");
        }
        assert_eq!(nearest_zone(&"a/".repeat(100)), None);
    }
}
