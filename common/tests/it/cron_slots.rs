//! Slots at clock changes, at the ends of months and years, and where there are none.

use common::cron::{Schedule, Zone};
use common::time::Timestamp;
use jiff::civil::DateTime;

fn zone(name: &str) -> Zone {
    Zone::parse(name).expect(name)
}

fn at(time: &str) -> Timestamp {
    let time: jiff::Timestamp = time.parse().expect(time);
    Timestamp(u64::try_from(time.as_millisecond()).unwrap())
}

/// The instant before a local time begins.
fn before(local: &str, zone: &Zone) -> Timestamp {
    let local: DateTime = local.parse().expect(local);
    let first = local.in_tz(zone.as_str()).unwrap().timestamp();
    Timestamp(u64::try_from(first.as_millisecond()).unwrap() - 1)
}

/// The slots from one local time up to another, which is not included.
fn slots(expression: &str, zone_name: &str, from: &str, to: &str) -> Vec<String> {
    let zone = zone(zone_name);
    let schedule = Schedule::parse(expression).expect(expression);
    let end = before(to, &zone);
    std::iter::successors(
        schedule.next_after(before(from, &zone), &zone),
        |previous| schedule.next_after(*previous, &zone),
    )
    .take_while(|slot| *slot <= end)
    .map(|slot| zone.rfc3339(slot))
    .collect()
}

fn check(expression: &str, zone: &str, from: &str, to: &str, expected: &[&str]) {
    assert_eq!(slots(expression, zone, from, to), expected, "{expression}");
}

/// Some slots after a time in UTC.
fn following(expression: &str, after: &str, count: usize) -> Vec<String> {
    let schedule = Schedule::parse(expression).expect(expression);
    let utc = Zone::utc();
    std::iter::successors(schedule.next_after(at(after), &utc), |previous| {
        schedule.next_after(*previous, &utc)
    })
    .take(count)
    .map(|slot| slot.to_string())
    .collect()
}

#[test]
fn time_that_is_skipped_is_due_once_at_the_end_of_the_gap() {
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-03-28T00:00",
        "2026-03-31T00:00",
        &[
            "2026-03-28T02:30:00+01:00",
            "2026-03-29T03:00:00+02:00",
            "2026-03-30T02:30:00+02:00",
        ],
    );
    check(
        "10,20,30 2 * * *",
        "America/New_York",
        "2026-03-08T00:00",
        "2026-03-09T00:00",
        &["2026-03-08T03:00:00-04:00"],
    );
    // What is due at the end of the gap anyway is the same slot.
    check(
        "*/20 2-3 * * *",
        "Europe/Berlin",
        "2026-03-29T00:00",
        "2026-03-30T00:00",
        &[
            "2026-03-29T03:00:00+02:00",
            "2026-03-29T03:20:00+02:00",
            "2026-03-29T03:40:00+02:00",
        ],
    );
}

#[test]
fn time_that_is_repeated_is_due_at_its_first_occurrence() {
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-10-24T00:00",
        "2026-10-27T00:00",
        &[
            "2026-10-24T02:30:00+02:00",
            "2026-10-25T02:30:00+02:00",
            "2026-10-26T02:30:00+01:00",
        ],
    );
    // The hour that is repeated is over once it was.
    check(
        "*/30 * * * *",
        "America/New_York",
        "2026-11-01T00:30",
        "2026-11-01T03:00",
        &[
            "2026-11-01T00:30:00-04:00",
            "2026-11-01T01:00:00-04:00",
            "2026-11-01T01:30:00-04:00",
            "2026-11-01T02:00:00-05:00",
            "2026-11-01T02:30:00-05:00",
        ],
    );
}

#[test]
fn search_that_begins_in_a_repeated_hour_finds_what_follows_it() {
    let berlin = zone("Europe/Berlin");
    let schedule = Schedule::parse("* * * * *").unwrap();

    for (after, expected) in [
        ("2026-10-25T00:59:59.999Z", "2026-10-25T02:00:00Z"),
        ("2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"),
        ("2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"),
        ("2026-10-25T01:59:59.999Z", "2026-10-25T02:00:00Z"),
        ("2026-10-25T02:00:00Z", "2026-10-25T02:01:00Z"),
        ("2026-10-25T00:58:59.999Z", "2026-10-25T00:59:00Z"),
    ] {
        assert_eq!(
            schedule.next_after(at(after), &berlin),
            Some(at(expected)),
            "{after}"
        );
    }
}

#[test]
fn half_an_hour_is_skipped_and_repeated_at_lord_howe() {
    check(
        "*/15 1,2 * * *",
        "Australia/Lord_Howe",
        "2026-10-04T00:00",
        "2026-10-05T00:00",
        &[
            "2026-10-04T01:00:00+10:30",
            "2026-10-04T01:15:00+10:30",
            "2026-10-04T01:30:00+10:30",
            "2026-10-04T01:45:00+10:30",
            "2026-10-04T02:30:00+11:00",
            "2026-10-04T02:45:00+11:00",
        ],
    );
    check(
        "*/15 1,2 * * *",
        "Australia/Lord_Howe",
        "2026-04-05T00:00",
        "2026-04-06T00:00",
        &[
            "2026-04-05T01:00:00+11:00",
            "2026-04-05T01:15:00+11:00",
            "2026-04-05T01:30:00+11:00",
            "2026-04-05T01:45:00+11:00",
            "2026-04-05T02:00:00+10:30",
            "2026-04-05T02:15:00+10:30",
            "2026-04-05T02:30:00+10:30",
            "2026-04-05T02:45:00+10:30",
        ],
    );
}

#[test]
fn days_of_clock_changes_have_these_numbers_of_slots() {
    for (expression, usual, forward, back) in [
        ("@daily", 1, 1, 1),
        ("30 2 * * *", 1, 1, 1),
        ("@hourly", 24, 23, 24),
        ("*/30 * * * *", 48, 46, 48),
        ("* * * * *", 1440, 1380, 1440),
        ("%7 * * * *", 206, 197, 206),
    ] {
        for (zone, usual_day, forward_day, back_day) in [
            ("Europe/Berlin", "2026-06-01", "2026-03-29", "2026-10-25"),
            ("America/New_York", "2026-06-01", "2026-03-08", "2026-11-01"),
        ] {
            for (day, expected) in [(usual_day, usual), (forward_day, forward), (back_day, back)] {
                let date: jiff::civil::Date = day.parse().unwrap();
                let tomorrow = date.tomorrow().unwrap().to_string();
                let found = slots(
                    expression,
                    zone,
                    &format!("{day}T00:00"),
                    &format!("{tomorrow}T00:00"),
                );
                // A period may begin a minute earlier or later in a day.
                let tolerated = usize::from(expression.starts_with('%'));
                assert!(
                    found.len().abs_diff(expected) <= tolerated,
                    "{expression} in {zone} on {day}: {} and not {expected}",
                    found.len()
                );
            }
        }
    }
}

#[test]
fn day_that_a_zone_skips_is_due_once_when_it_is_over() {
    check(
        "0 8 * * *",
        "Pacific/Apia",
        "2011-12-29T00:00",
        "2012-01-01T00:00",
        &[
            "2011-12-29T08:00:00-10:00",
            "2011-12-31T00:00:00+14:00",
            "2011-12-31T08:00:00+14:00",
        ],
    );
}

#[test]
fn gap_may_end_between_two_minutes() {
    check(
        "30 0 * * *",
        "Africa/Monrovia",
        "1972-01-06T00:00",
        "1972-01-09T00:00",
        &[
            "1972-01-06T00:30:00-00:44:30",
            "1972-01-07T00:44:30+00:00",
            "1972-01-08T00:30:00+00:00",
        ],
    );
}

#[test]
fn leap_days_are_those_of_the_calendar() {
    assert_eq!(
        following("0 0 29 2 *", "2023-01-01T00:00:00Z", 3),
        [
            "2024-02-29T00:00:00Z",
            "2028-02-29T00:00:00Z",
            "2032-02-29T00:00:00Z"
        ]
    );
    assert_eq!(
        following("0 0 29 2 *", "2096-03-01T00:00:00Z", 1),
        ["2104-02-29T00:00:00Z"]
    );
    // A fifth Monday needs a leap year that begins its February with one.
    assert_eq!(
        following("0 0 * 2 MON#5", "2077-01-01T00:00:00Z", 2),
        ["2112-02-29T00:00:00Z", "2140-02-29T00:00:00Z"]
    );
}

#[test]
fn months_end_when_they_end() {
    assert_eq!(
        following("0 0 31 * *", "2026-01-31T00:00:00Z", 3),
        [
            "2026-03-31T00:00:00Z",
            "2026-05-31T00:00:00Z",
            "2026-07-31T00:00:00Z"
        ]
    );
    assert_eq!(
        following("0 12 L * *", "2027-12-31T12:00:00Z", 3),
        [
            "2028-01-31T12:00:00Z",
            "2028-02-29T12:00:00Z",
            "2028-03-31T12:00:00Z"
        ]
    );
    // 2026-01-31 is a Saturday.
    assert_eq!(
        following("0 12 LW 1 *", "2026-01-01T00:00:00Z", 1),
        ["2026-01-30T12:00:00Z"]
    );
    // 2026-02-15 is a Sunday; 2026-08-01 is a Saturday, and a month is not left.
    assert_eq!(
        following("0 12 15W 2 *", "2026-01-01T00:00:00Z", 1),
        ["2026-02-16T12:00:00Z"]
    );
    assert_eq!(
        following("0 12 1W 8 *", "2026-01-01T00:00:00Z", 1),
        ["2026-08-03T12:00:00Z"]
    );
    assert_eq!(
        following("0 12 * * 7L", "2026-01-01T00:00:00Z", 2),
        ["2026-01-25T12:00:00Z", "2026-02-22T12:00:00Z"]
    );
}

#[test]
fn years_end_when_they_end() {
    assert_eq!(
        following("59 23 31 12 *", "2026-12-31T23:58:59.999Z", 2),
        ["2026-12-31T23:59:00Z", "2027-12-31T23:59:00Z"]
    );
    assert_eq!(
        following("@yearly", "2026-12-31T23:59:59.999Z", 1),
        ["2027-01-01T00:00:00Z"]
    );
    assert_eq!(
        following("* * * * *", "2026-12-31T23:59:00Z", 1),
        ["2027-01-01T00:00:00Z"]
    );
}

#[test]
fn either_field_of_days_will_do_when_both_say_something() {
    assert_eq!(
        following("0 0 13 * FRI", "2026-02-01T00:00:00Z", 3),
        [
            "2026-02-06T00:00:00Z",
            "2026-02-13T00:00:00Z",
            "2026-02-20T00:00:00Z"
        ]
    );
}

#[test]
fn periods_count_from_1970_in_local_time() {
    assert_eq!(
        following("%90 * * * *", "1970-01-01T00:00:00Z", 2),
        ["1970-01-01T01:30:00Z", "1970-01-01T03:00:00Z"]
    );
    assert_eq!(
        following("0 %36 * * *", "1970-01-01T00:00:00Z", 2),
        ["1970-01-02T12:00:00Z", "1970-01-04T00:00:00Z"]
    );
    for days in ["0 0 %10 * *", "0 0 * * %10"] {
        assert_eq!(
            following(days, "1970-01-01T00:00:00Z", 2),
            ["1970-01-11T00:00:00Z", "1970-01-21T00:00:00Z"]
        );
    }
    assert_eq!(
        following("0 0 1 %5 *", "1970-01-01T00:00:00Z", 3),
        [
            "1970-06-01T00:00:00Z",
            "1970-11-01T00:00:00Z",
            "1971-04-01T00:00:00Z"
        ]
    );
    assert_eq!(
        following("0 0 %10 * THU", "1970-01-01T00:00:00Z", 3),
        [
            "1970-01-08T00:00:00Z",
            "1970-01-11T00:00:00Z",
            "1970-01-15T00:00:00Z"
        ]
    );
    check(
        "0 0 %2 * *",
        "America/New_York",
        "1970-01-02T00:00",
        "1970-01-06T00:00",
        &["1970-01-03T00:00:00-05:00", "1970-01-05T00:00:00-05:00"],
    );
}

#[test]
fn long_period_is_found_without_walking_to_it() {
    assert_eq!(
        following("%99999 * * * *", "2026-01-01T00:00:00Z", 2),
        ["2026-02-01T21:45:00Z", "2026-04-12T08:24:00Z"]
    );
    // Every 1439 minutes is a minute earlier each day: it is in the hour for an hour of days.
    assert_eq!(
        following("%1439 3 29 2 *", "2026-01-01T00:00:00Z", 1).len(),
        1
    );
}

#[test]
fn there_is_no_slot_beyond_the_calendar() {
    let schedule = Schedule::parse("* * * * *").unwrap();
    for zone in [Zone::utc(), zone("Europe/Berlin"), zone("Pacific/Apia")] {
        assert_eq!(schedule.next_after(Timestamp(u64::MAX), &zone), None);
        assert_eq!(schedule.next_after(Timestamp(1 << 62), &zone), None);
        let mut after = at("9999-12-30T21:57:00Z");
        let mut found = 0;
        while let Some(slot) = schedule.next_after(after, &zone) {
            assert!(slot > after);
            after = slot;
            found += 1;
        }
        assert_eq!(found, 3, "{zone}");
    }
    let centuries = Schedule::parse("%99999999 * * * *").unwrap();
    assert_eq!(
        centuries.next_after(at("9960-01-01T00:00:00Z"), &Zone::utc()),
        None
    );
}

#[test]
fn zones_are_found_by_any_case_and_keep_their_name() {
    assert_eq!(zone("europe/berlin").as_str(), "Europe/Berlin");
    assert_eq!(zone("utc").as_str(), "UTC");
    for name in [
        "",
        "Paris",
        "Mars/Olympus",
        "Etc/Unknown",
        "+01:00",
        "EST5EDT,M3.2.0,M11.1.0",
    ] {
        assert!(Zone::parse(name).is_err(), "{name}");
    }
}

#[test]
fn schedules_and_zones_are_kept_as_their_text() {
    let schedule = Schedule::parse(" @daily ").unwrap();
    let json = serde_json::to_string(&(&schedule, zone("Asia/Kathmandu"))).unwrap();
    assert_eq!(json, r#"["@daily","Asia/Kathmandu"]"#);
    assert_eq!(
        serde_json::from_str::<(Schedule, Zone)>(&json).unwrap(),
        (schedule.clone(), zone("Asia/Kathmandu"))
    );
    assert!(schedule.is_known());
    // So is an expression that only another release accepts.
    for text in ["0 0 30 2 *", "@reboot", "0 0 * * * 2030", ""] {
        assert!(Schedule::parse(text).is_err(), "{text}");
        let json = serde_json::to_string(text).unwrap();
        let other: Schedule = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&other).unwrap(), json);
        assert!(!other.is_known(), "{text}");
        assert_eq!(other.next_after(Timestamp(0), &Zone::utc()), None, "{text}");
    }
    // A zone that only a newer release knows is kept, and nothing is due in it here.
    let newer: Zone = serde_json::from_str("\"Mars/Olympus\"").unwrap();
    assert_eq!(newer.as_str(), "Mars/Olympus");
    assert!(!newer.is_known() && Zone::utc().is_known());
    assert_eq!(schedule.next_after(Timestamp(0), &newer), None);
}

#[test]
fn local_times_are_written_with_their_offset() {
    let berlin = zone("Europe/Berlin");
    let time = at("2026-11-20T13:05:00Z");

    assert_eq!(berlin.rfc3339(time), "2026-11-20T14:05:00+01:00");
    assert_eq!(berlin.in_words(time), "Fri 2026-11-20 14:05 +01:00");
    assert_eq!(Zone::utc().rfc3339(time), "2026-11-20T13:05:00+00:00");
}
