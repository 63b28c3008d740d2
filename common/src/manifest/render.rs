//! Faults for people: place, path, message, and the line itself with a caret.

use super::Fault;

/// Characters of a line that are shown; a longer one is shown around the fault.
const SHOWN_CHARACTERS: usize = 120;

/// Renders `faults` of `text`, which was read from `file`, as plain text.
///
/// ```
/// let text = "manifest: {format: 1}\napplication: {name: a}\ninstance: []\n";
/// let faults = common::manifest::parse(text).unwrap_err();
/// let rendered = common::manifest::render_faults("manifest.yml", text, &faults);
/// assert!(rendered.contains("manifest.yml:3:1: instance: unknown key `instance`; did you mean `instances`?"));
/// assert!(rendered.contains("3 | instance: []\n    | ^"));
/// ```
#[must_use]
pub fn render_faults(file: &str, text: &str, faults: &[Fault]) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut result = String::new();
    for fault in faults {
        result.push_str(&sentence(file, fault));
        let line = usize::try_from(fault.line)
            .ok()
            .and_then(|line| line.checked_sub(1))
            .and_then(|index| lines.get(index));
        if let Some(line) = line {
            result.push_str(&frame(line, fault));
        }
    }
    result
}

fn sentence(file: &str, fault: &Fault) -> String {
    let colon = if fault.path.is_empty() { "" } else { ": " };
    format!(
        "{file}:{}:{}: {}{colon}{}\n",
        fault.line, fault.column, fault.path, fault.message
    )
}

/// The line with its number, and a caret under the column.
fn frame(line: &str, fault: &Fault) -> String {
    let number = fault.line.to_string();
    let margin = " ".repeat(number.len());
    let column = usize::try_from(fault.column)
        .unwrap_or(usize::MAX)
        .saturating_sub(1);
    let first = if column < SHOWN_CHARACTERS {
        0
    } else {
        column.saturating_sub(SHOWN_CHARACTERS / 2)
    };
    let shown: String = line
        .chars()
        .skip(first)
        .take(SHOWN_CHARACTERS)
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .collect();
    let indent = " ".repeat(column.saturating_sub(first));
    format!(
        "  {number} | {}\n  {margin} | {indent}^\n",
        shown.trim_end()
    )
}
