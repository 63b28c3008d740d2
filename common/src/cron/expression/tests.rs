//! What is an expression, and what is none.

use proptest::prelude::*;

use super::super::Schedule;
use super::*;

fn pattern(text: &str) -> Pattern {
    parse(text).expect(text)
}

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
        "50-10/7 22-6 25-5 NOV-feb SAT-sun",
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
        "5-70 * * * *",
        "70-5 * * * *",
        "5-1/0 * * * *",
        "5/10 * * * *",
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
        "%+5 * * * *",
        "%5,7 * * * *",
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

#[test]
fn range_past_the_end_begins_again() {
    for (wrapping, listed) in [
        ("0 22-6 * * *", "0 22,23,0,1,2,3,4,5,6 * * *"),
        ("30-10/7 * * * *", "30,37,44,51,58,5 * * * *"),
        ("0 0 30-2 * *", "0 0 30,31,1,2 * *"),
        ("0 0 1 NOV-2 *", "0 0 1 11,12,1,2 *"),
        ("0 0 * * FRI-SUN", "0 0 * * 5,6,0"),
        ("0 0 * * sat-mon,3", "0 0 * * 6,0,1,3"),
        ("0 0 * * 7-2", "0 0 * * 0,1,2"),
        ("0 0 * * 5-7", "0 0 * * 5,6,7"),
    ] {
        assert_eq!(pattern(wrapping), pattern(listed), "{wrapping}");
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(text in "[-0-9*,/#?%@LWa-z ]{0,40}") {
        drop(Schedule::parse(&text));
    }
}
