//! The keys of a web cron.

use super::super::rule;
use super::super::shape::{Key, Shape, Table};

/// One entry of `crons`.
pub(in super::super) static CRON: Table = Table {
    keys: &[
        Key::required(
            "runspec",
            "When: minute, hour, day of month, month, day of week; or @hourly, @daily, @weekly, @monthly, @yearly.",
            Shape::Text(&rule::RUNSPEC),
        ),
        Key::required(
            "uri",
            "The path that is requested.",
            Shape::Text(&rule::URI),
        ),
        Key::optional(
            "username",
            "For HTTP basic authentication.",
            Shape::OptionalText(&rule::USERNAME),
        ),
        Key::optional(
            "password",
            "For HTTP basic authentication.",
            Shape::OptionalText(&rule::PASSWORD),
        ),
        Key::optional(
            "name",
            "What it is called; the uri when not given.",
            Shape::Text(&rule::CRON_NAME),
        ),
        Key::optional(
            "method",
            "How it is requested; GET when not given.",
            Shape::Word(&["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]),
        ),
        Key::optional(
            "timezone",
            "The IANA name of the zone of its times; UTC when not given. What a clock change skips is due once just after, what it repeats is due once.",
            Shape::Text(&rule::TIMEZONE),
        ),
        Key::optional(
            "timeout",
            "How long an answer may take; 5m when not given.",
            Shape::Text(&rule::UP_TO_A_DAY),
        ),
        Key::optional(
            "overlap",
            "What happens when it is due while it runs; forbid when not given.",
            Shape::Word(&["allow", "forbid", "replace"]),
        ),
        Key::optional(
            "missed",
            "What happens to a time at which no leader lived; skip when not given.",
            Shape::Word(&["skip", "once"]),
        ),
        Key::optional(
            "retries",
            "How often a failed request is tried again; 0 when not given.",
            Shape::Whole { least: 0, most: 10 },
        ),
    ],
};
