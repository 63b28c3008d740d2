//! Where results go: stdout, as tables and sentences or as one JSON value.
//!
//! Owns the format; never writes progress (see `progress`) or errors (see `error`).

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::time::{SystemTime, UNIX_EPOCH};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use common::time::{Span, Timestamp};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use crate::args::Format;
use crate::error::CommandError;

/// Prints results in the format that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    /// Results in this format.
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// True when a program reads the result.
    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Prints `value` as JSON, or what `human` makes of it.
    pub(crate) fn result<T: Serialize>(
        self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Result<(), CommandError> {
        let mut text = match self.format {
            Format::Human => human(value),
            Format::Json => serde_json::to_string_pretty(value).map_err(|error| {
                CommandError::new("output", "print the result", error.to_string())
            })?,
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        self.bytes(text.as_bytes())
    }

    /// True when nobody reads stdout any more, as after `head -1`; seen without writing.
    pub(crate) fn is_abandoned(self) -> bool {
        let stdout = std::io::stdout();
        let mut asked = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
        poll(&mut asked, PollTimeout::ZERO).is_ok_and(|_| {
            asked[0]
                .revents()
                .is_some_and(|events| events.contains(PollFlags::POLLERR))
        })
    }

    /// Prints bytes as they are, such as lines of a log.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), CommandError> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            // The reader has seen enough (`pm status | head -1`).
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|error| CommandError::file("print the result", &error)),
        }
    }
}

/// A table without lines, as wide as the terminal allows.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    table
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(&line).trim_end()))
        .collect()
}

/// How long ago `time` was, in one unit.
pub(crate) fn ago(time: Timestamp) -> String {
    let seconds = now().since(time).0 / 1000;
    match seconds {
        0..=119 => format!("{seconds}s ago"),
        120..=7199 => format!("{}m ago", seconds / 60),
        7200..=172_799 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// When something ends, or that it has ended, in one unit.
pub(crate) fn in_future(time: Timestamp) -> String {
    if time <= now() {
        return format!("ended {}", ago(time));
    }
    format!("ends {}", until(time))
}

/// How far away `time` is, in one unit.
pub(crate) fn until(time: Timestamp) -> String {
    let seconds = time.since(now()).0 / 1000;
    match seconds {
        0..=119 => format!("in {seconds}s"),
        120..=7199 => format!("in {}m", seconds / 60),
        7200..=172_799 => format!("in {}h", seconds / 3600),
        _ => format!("in {}d", seconds / 86_400),
    }
}

/// A length of time for a person: exact where it is short, short where it is long.
pub(crate) fn took(span: Span) -> String {
    let seconds = span.0 / 1000;
    match span.0 {
        0..10_000 => format!("{} ms", span.0),
        10_000..120_000 => format!("{seconds}.{} s", span.0 % 1000 / 100),
        120_000..7_200_000 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `word` as it is typed in a shell.
pub(crate) fn typed(word: &str) -> String {
    let is_plain =
        |character: char| character.is_ascii_alphanumeric() || "-_./:@%+,".contains(character);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The time on this machine.
pub(crate) fn now() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// The snake-case name of an enum's variant, as the API writes it.
pub(crate) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(error) => format!("({error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_no_trailing_blanks() {
        let text = table(&["A", "B"], [vec!["one".to_owned(), "two".to_owned()]]);
        assert!(text.lines().all(|line| line == line.trim_end()), "{text:?}");
        assert!(text.contains("one"));
    }

    #[test]
    fn lengths_of_time_are_short() {
        for (milliseconds, text) in [
            (0, "0 ms"),
            (9_999, "9999 ms"),
            (10_950, "10.9 s"),
            (300_000, "5m 0s"),
            (7_384_000, "2h 3m"),
        ] {
            assert_eq!(took(Span(milliseconds)), text);
        }
    }

    #[test]
    fn what_a_shell_would_read_in_its_own_way_is_quoted() {
        assert_eq!(typed("web/clean-up"), "web/clean-up");
        assert_eq!(typed("a b"), "'a b'");
        assert_eq!(typed("it's $(x)"), r"'it'\''s $(x)'");
        assert_eq!(typed(""), "''");
    }

    #[test]
    fn words_are_those_of_the_api() {
        assert_eq!(word(&common::job::JobState::Succeeded), "succeeded");
    }
}
