//! Refuses what croner would read in a way of its own, or with words that say little.

use super::{Field, ScheduleError};

/// Checks the form of one field: its characters, names, steps, and numbers.
pub(super) fn check(text: &str, field: &Field) -> Result<(), ScheduleError> {
    let reason = match text.strip_prefix('%') {
        Some(period) => wrong_period(period),
        None => wrong_entry(text)
            .or_else(|| wrong_word(text, field))
            .or_else(|| wrong_character(text, field))
            .or_else(|| wrong_number(text, field)),
    };
    match reason {
        None => Ok(()),
        Some(reason) => Err(field.fault(text, reason)),
    }
}

fn wrong_period(period: &str) -> Option<&'static str> {
    let is_number = is_digits(period) && matches!(period.parse::<u32>(), Ok(1..));
    (!is_number).then_some("`%` is followed by a number from 1")
}

fn wrong_entry(text: &str) -> Option<&'static str> {
    text.split(',')
        .any(str::is_empty)
        .then_some("a list has an empty entry")
}

/// croner replaces names wherever they stand.
fn wrong_word(text: &str, field: &Field) -> Option<&'static str> {
    if field.of_week && text.split(',').any(|entry| entry.eq_ignore_ascii_case("L")) {
        return Some("`L` follows the number of a day here, such as 5L for the last Friday");
    }
    let is_known = |word: &str| {
        let is = |name: &&str| name.eq_ignore_ascii_case(word);
        word.is_empty() || field.names.iter().any(is) || field.letters.iter().any(is)
    };
    let mut words = text.split(|character: char| !character.is_ascii_alphabetic());
    (!words.all(is_known)).then_some(field.names_rule)
}

fn wrong_character(text: &str, field: &Field) -> Option<&'static str> {
    let is_allowed = |character: char| {
        character.is_ascii_alphanumeric()
            || "*,-/".contains(character)
            || character == '#' && field.of_week
            || character == '?' && !field.letters.is_empty()
    };
    (!text.chars().all(is_allowed)).then_some("it has a character that means nothing here")
}

fn wrong_number(text: &str, field: &Field) -> Option<&'static str> {
    let is_wrong = |digits: &str, least: u32, most: u32| {
        let is_within = |number: u32| (least..=most).contains(&number);
        is_digits(digits) && !digits.parse().is_ok_and(is_within)
    };
    text.split(',').find_map(|entry| {
        let (body, step) = entry.split_once('/').unwrap_or((entry, "1"));
        if is_wrong(step, 1, u32::MAX) {
            return Some("a step is a number from 1");
        }
        let body = body.split('#').next().unwrap_or_default();
        body.split('-')
            .map(|number| number.trim_end_matches(char::is_alphabetic))
            .any(|number| is_wrong(number, field.least, field.most))
            .then_some(field.rule)
    })
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
