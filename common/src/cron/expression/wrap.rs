//! Ranges that go past the end of their field and begin again, which croner has not: `22-6` in the
//! hours, `SAT-SUN` in the days of the week.

use super::Field;

/// The field with such ranges as lists; a step goes on counting past the end.
pub(super) fn as_lists(text: &str, field: &Field) -> String {
    let entries: Vec<String> = text
        .split(',')
        .map(|entry| wrapped(entry, field).unwrap_or_else(|| entry.to_owned()))
        .collect();
    entries.join(",")
}

/// The values of a range that wraps around, listed; none for any other entry.
fn wrapped(entry: &str, field: &Field) -> Option<String> {
    let (body, step) = entry.split_once('/').unwrap_or((entry, "1"));
    let (first, last) = body.split_once('-')?;
    let (first, last) = (field.number(first)?, field.number(last)?);
    let step = step.parse::<usize>().ok().filter(|step| *step > 0)?;
    if first <= last {
        return None;
    }
    // Sunday is 7 as well as 0, and is counted once.
    let most = if field.of_week { 6 } else { field.most };
    let values: Vec<String> = (first..=most)
        .chain(field.least..=last)
        .step_by(step)
        .map(|value| value.to_string())
        .collect();
    Some(values.join(","))
}
