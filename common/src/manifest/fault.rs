//! Collects faults and notices, and says what was found without repeating all of it.

use super::limits::{EXCERPT_CHARACTERS, FAULTS_MAX};
use super::path::Path;
use super::tree::{Content, Node, Place};
use super::{Fault, Notice};

/// What was found to say so far.
#[derive(Debug, Default)]
pub(super) struct Faults {
    faults: Vec<Fault>,
    notices: Vec<Notice>,
}

impl Faults {
    /// Notes that something is wrong.
    pub(super) fn push(&mut self, place: Place, path: &Path, message: impl Into<String>) {
        if self.is_full() {
            return;
        }
        self.faults.push(Fault {
            line: place.line,
            column: place.column,
            path: path.to_string(),
            message: message.into(),
        });
    }

    /// Notes what a user should know.
    pub(super) fn notice(&mut self, place: Place, path: &Path, message: impl Into<String>) {
        self.notices.push(Notice {
            line: place.line,
            path: path.to_string(),
            message: message.into(),
        });
    }

    /// True when no more faults are listed, so that looking for them is of no use.
    pub(super) fn is_full(&self) -> bool {
        self.faults.len() >= FAULTS_MAX
    }

    /// The notices, or the faults when there are any; both in the order of their places.
    pub(super) fn into_result(mut self) -> Result<Vec<Notice>, Vec<Fault>> {
        if self.faults.is_empty() {
            self.notices.sort_by_key(|notice| notice.line);
            return Ok(self.notices);
        }
        let is_full = self.is_full();
        self.faults.sort_by_key(|fault| (fault.line, fault.column));
        // What aliases stand for is looked at once per use.
        self.faults.dedup();
        if is_full {
            let (line, column) = self
                .faults
                .last()
                .map_or((1, 1), |last| (last.line, last.column));
            self.faults.push(Fault {
                line,
                column,
                path: String::new(),
                message: format!("no more than {FAULTS_MAX} faults are listed"),
            });
        }
        Err(self.faults)
    }
}

/// `text` in backquotes, cut short, with control characters escaped.
pub(super) fn excerpt(text: &str) -> String {
    let mut result = String::from("`");
    for (index, character) in text.chars().enumerate() {
        if index >= EXCERPT_CHARACTERS {
            result.push('…');
            break;
        }
        if character.is_control() {
            result.extend(character.escape_default());
        } else {
            result.push(character);
        }
    }
    result.push('`');
    result
}

/// What a value is, in words: `a list`, `nothing`, or the text itself.
pub(super) fn found(node: &Node) -> String {
    match &node.content {
        Content::List(items) if items.is_empty() => "an empty list".to_owned(),
        Content::List(_) => "a list".to_owned(),
        Content::Map(entries) if entries.is_empty() => "an empty mapping".to_owned(),
        Content::Map(_) => "a mapping".to_owned(),
        Content::Scalar(scalar) if scalar.is_null() => "nothing".to_owned(),
        Content::Scalar(scalar) if scalar.text.is_empty() => "an empty text".to_owned(),
        Content::Scalar(scalar) => excerpt(&scalar.text),
    }
}
