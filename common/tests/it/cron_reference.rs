//! Slots over ten years in five zones, against a program that finds them by brute force.
//!
//! The reference is `cron_reference.py` beside this file: it shares no code with us, not even the
//! time zones, which it takes from Python's `zoneinfo` and the system's `tzdata`. The years lie in
//! the past, so that all versions of the database agree on them.

#![expect(
    clippy::disallowed_types,
    reason = "the reference is another program, which this test starts"
)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use common::cron::{Schedule, Zone};
use common::time::Timestamp;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::generators::expression;

/// An hour of daylight saving, at night and with rules of two continents; half an hour of it; none,
/// 5:45 ahead; and winter time as the exception, in the weeks of Ramadan.
const ZONES: [&str; 5] = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Casablanca",
];

/// How many expressions are compared in each zone.
const EXPRESSIONS: usize = 200;

/// Times in each window that a search begins at, beside the slots themselves.
const PROBES: u64 = 50;

/// How the reference ends when it has no time zones.
const NO_ZONES: i32 = 77;

const MINUTE_MS: u64 = 60_000;

#[test]
fn slots_of_ten_years_are_those_of_the_reference() {
    let expressions = expressions();
    let mut questions = String::new();
    for zone in ZONES {
        for expression in &expressions {
            writeln!(questions, "{zone}|{expression}").unwrap();
        }
    }

    let output = ask_reference(&questions);
    if output.status.code() == Some(NO_ZONES) {
        assert!(std::env::var_os("CI").is_none(), "tzdata is not installed");
        println!("SKIPPED: python3 has no time zones; install tzdata");
        return;
    }
    assert!(output.status.success(), "{}", output.status);
    let answers = String::from_utf8(output.stdout).unwrap();

    let mut compared = 0;
    assert_eq!(answers.lines().count(), questions.lines().count());
    for (question, answer) in questions.lines().zip(answers.lines()) {
        let (zone, expression) = question.split_once('|').unwrap();
        let zone = Zone::parse(zone).unwrap();
        let schedule = Schedule::parse(expression).unwrap();
        for window in answer.split(';') {
            compared += compare(question, &schedule, &zone, window);
        }
    }
    assert!(compared > 100_000, "only {compared} slots were compared");
    println!("compared {compared} slots");
}

/// The same expressions every time.
fn expressions() -> Vec<String> {
    let mut runner = TestRunner::deterministic();
    let expression = expression();
    let mut expressions: Vec<String> = [
        "* * * * *",
        "30 2 * * *",
        "0,15,30,45 1-3 * * *",
        "%90 * * * *",
    ]
    .map(str::to_owned)
    .into();
    while expressions.len() < EXPRESSIONS {
        let text = expression.new_tree(&mut runner).unwrap().current();
        if Schedule::parse(&text).is_ok() {
            expressions.push(text);
        }
    }
    expressions
}

fn ask_reference(questions: &str) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/cron_reference.py");
    let mut reference = Command::new("python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It reads all before it answers; one that ends at once says why by its status.
    let asked = reference
        .stdin
        .take()
        .unwrap()
        .write_all(questions.as_bytes());
    let output = reference.wait_with_output().unwrap();
    assert!(asked.is_ok() || !output.status.success(), "{asked:?}");
    output
}

/// Compares the slots of `FROM:TO:SLOT SLOT …`, in minutes, and returns how many they are.
fn compare(question: &str, schedule: &Schedule, zone: &Zone, window: &str) -> usize {
    let mut parts = window.splitn(3, ':');
    let mut part = || parts.next().unwrap();
    let from: u64 = part().parse().unwrap();
    let to: u64 = part().parse().unwrap();
    let expected: Vec<Timestamp> = part()
        .split_ascii_whitespace()
        .map(|minute| Timestamp(minute.parse::<u64>().unwrap() * MINUTE_MS))
        .collect();
    let end = Timestamp(to * MINUTE_MS);

    let mut after = Timestamp(from * MINUTE_MS);
    let mut rest = expected.iter();
    loop {
        let found = schedule.next_after(after, zone).filter(|slot| *slot <= end);
        assert_eq!(found, rest.next().copied(), "{question} after {after}");
        let Some(slot) = found else {
            break;
        };
        after = slot;
    }
    let step = (to - from) * MINUTE_MS / PROBES;
    for probe in 0..PROBES {
        let after = Timestamp(from * MINUTE_MS + probe * step + probe);
        let next = expected.partition_point(|slot| *slot <= after);
        assert_eq!(
            schedule.next_after(after, zone).filter(|slot| *slot <= end),
            expected.get(next).copied(),
            "{question} after {after}"
        );
    }
    expected.len()
}
