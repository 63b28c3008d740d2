//! What is an expression, and what is none.

use proptest::prelude::*;

use super::super::Schedule;
use super::*;

#[test]
fn expressions_of_every_form_are_accepted() {
    for text in [
        "* * * * *",
        "*/5 * * * *",
        "0,15,30-45/5 0-6 1,15 jan-mar,Dec MON-fri",
        "0 0 29 2 *",
        "0 0 31 1-2 *",
        "0 0 30 2 mon",
        "0 0 L * *",
        "0 0 15W * *",
        "0 0 * * MON#2",
        "0 0 * 2 MON#5",
        "0 0 * * 5L",
        "0 0 * * 7L",
        "0 0 * * 1,7#L",
        "0 0 LW * *",
        "0 0 * * 7",
        "0 0 ? * *",
        "%7 * * * *",
        "  @hourly ",
        "@daily",
        "@midnight",
        "@weekly",
        "@monthly",
        "@yearly",
        "@annually",
    ] {
        assert_eq!(
            Schedule::parse(text).as_ref().map(Schedule::as_str),
            Ok(text.trim())
        );
    }
}

#[test]
fn expressions_that_mean_nothing_are_refused() {
    for text in [
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "1,,2 * * * *",
        "-1 * * * *",
        "a * * * *",
        "* * * FOO *",
        "* * * JANFEB *",
        "* * * MON *",
        "* * * * JAN",
        "* * * * MONDAY",
        "* * * * +MON",
        "0 0 * * L",
        "0 0 1 * L",
        "%0 * * * *",
        "%x * * * *",
        "@never",
        "@reboot",
        "99999999999999999999 * * * *",
        "*/99999999999 * * * *",
    ] {
        assert!(Schedule::parse(text).is_err(), "{text}");
    }
}

#[test]
fn expression_that_never_fires_is_refused() {
    for text in [
        "0 0 31 2 *",
        "0 0 30 2 *",
        "0 0 31 4,6,9,11 *",
        "0 0 31 FEB ?",
        "%1440 3 * * *",
        "%120 1-23/2 * * *",
        "%4294967295 * * * *",
    ] {
        assert_eq!(
            Schedule::parse(text),
            Err(ScheduleError::NeverFires),
            "{text}"
        );
    }
}

#[test]
fn fault_names_the_field() {
    let message = Schedule::parse("* 24 * * *").unwrap_err().to_string();

    assert!(message.contains("the hour `24`"), "{message}");
}

proptest! {
    #[test]
    fn parsing_never_panics(text in "[-0-9*,/#?%@LWa-z ]{0,40}") {
        drop(Schedule::parse(&text));
    }
}
