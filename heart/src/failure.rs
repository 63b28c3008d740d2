//! Makes the [`Failure`]s that reports carry.

use std::error::Error;
use std::fmt::Write as _;

use common::instance::{Failure, FailureCode, OUTPUT_TAIL_MAX_BYTES};

/// A failure without output.
pub(crate) fn failure(code: FailureCode, message: impl Into<String>) -> Failure {
    Failure {
        code,
        message: message.into(),
        output_tail: String::new(),
    }
}

/// A failure that says what was being done and the whole chain of causes.
pub(crate) fn failure_of(code: FailureCode, error: &dyn Error) -> Failure {
    failure(code, chain(error))
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        write!(text, ": {next}").expect("writing to a String cannot fail");
        cause = next.source();
    }
    text
}

/// The end of `output`, beginning with a whole line where that is possible, lossy UTF-8, at most
/// [`OUTPUT_TAIL_MAX_BYTES`].
pub(crate) fn output_tail(output: &[u8]) -> String {
    let start = output.len().saturating_sub(OUTPUT_TAIL_MAX_BYTES);
    let mut tail = &output[start..];
    if start > 0
        && let Some(line_end) = tail.iter().position(|byte| *byte == b'\n')
    {
        tail = &tail[line_end + 1..];
    }
    let mut text = String::from_utf8_lossy(tail).into_owned();
    // A replacement character is longer than the byte that it stands for.
    while text.len() > OUTPUT_TAIL_MAX_BYTES {
        let excess = text.len() - OUTPUT_TAIL_MAX_BYTES;
        let cut = (excess..text.len())
            .find(|index| text.is_char_boundary(*index))
            .unwrap_or(text.len());
        text.drain(..cut);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_begins_with_a_whole_line_and_keeps_its_limit() {
        let long = "0123456789\n".repeat(1000);

        let tail = output_tail(long.as_bytes());

        assert!(tail.len() <= OUTPUT_TAIL_MAX_BYTES);
        assert!(tail.starts_with("0123456789\n"));
        assert_eq!(output_tail(b"short"), "short");
    }

    #[test]
    fn bytes_that_are_no_text_stay_within_the_limit() {
        let tail = output_tail(&[0xff; 3 * OUTPUT_TAIL_MAX_BYTES]);

        assert!(!tail.is_empty());
        assert!(tail.len() <= OUTPUT_TAIL_MAX_BYTES);
    }
}
