//! What holds for every expression, time, and zone.

use common::cron::{Schedule, Zone};
use common::time::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use proptest::prelude::*;

use crate::generators::{Times, expression, times};

/// Every zone there is.
fn zone() -> impl Strategy<Value = Zone> {
    let names: Vec<String> = Zone::names().collect();
    prop::sample::select(names).prop_map(|name| Zone::parse(&name).unwrap_or_else(|_| Zone::utc()))
}

/// From 1970 to 2100.
fn time() -> impl Strategy<Value = Timestamp> {
    (0..4_102_444_800_000_u64).prop_map(Timestamp)
}

/// Around a clock change of a zone, where there is one within the years.
fn zone_and_time() -> impl Strategy<Value = (Zone, Timestamp)> {
    (zone(), time(), -7_200_000..7_200_000_i64, any::<bool>()).prop_map(
        |(zone, time, away, near)| {
            let change = time_zone(&zone)
                .following(instant(time))
                .next()
                .map(|change| change.timestamp().as_millisecond().saturating_add(away))
                .and_then(|near_change| u64::try_from(near_change).ok());
            match change {
                Some(change) if near => (zone, Timestamp(change)),
                Some(_) | None => (zone, time),
            }
        },
    )
}

fn time_zone(zone: &Zone) -> TimeZone {
    TimeZoneDatabase::bundled().get(zone.as_str()).unwrap()
}

fn instant(time: Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(i64::try_from(time.0).unwrap()).unwrap()
}

/// What the clock shows, in whole minutes, and one millisecond before.
fn shown(zone: &TimeZone, time: Timestamp) -> (jiff::civil::DateTime, jiff::civil::DateTime) {
    let now = instant(time);
    let before = now
        .checked_sub(jiff::SignedDuration::from_millis(1))
        .unwrap();
    (zone.to_datetime(now), zone.to_datetime(before))
}

/// True when the slot is the first showing of a minute that matches, or the end of a gap in which
/// one matches.
fn is_due(times: &Times, zone: &TimeZone, slot: Timestamp) -> bool {
    let (now, before) = shown(zone, slot);
    if now.second() == 0 && now.subsec_nanosecond() == 0 && times.matches(now) {
        return true;
    }
    let mut skipped = before;
    loop {
        skipped = skipped
            .checked_add(jiff::SignedDuration::from_millis(1))
            .unwrap()
            .round(jiff::Unit::Minute)
            .unwrap();
        if skipped >= now {
            return false;
        }
        if times.matches(skipped) {
            return true;
        }
        skipped = skipped
            .checked_add(jiff::SignedDuration::from_secs(59))
            .unwrap();
    }
}

proptest! {
    #[test]
    fn any_expression_any_time_any_zone_has_an_answer(
        text in "[-0-9*,/#?%@LWa-z ]{0,40}",
        generated in expression(),
        time in any::<u64>(),
        zone in zone(),
    ) {
        for text in [text, generated] {
            if let Ok(schedule) = Schedule::parse(&text) {
                let next = schedule.next_after(Timestamp(time), &zone);
                prop_assert!(next.is_none_or(|next| next.0 > time));
            }
        }
    }

    #[test]
    fn slots_only_grow((zone, start) in zone_and_time(), text in expression()) {
        let Ok(schedule) = Schedule::parse(&text) else {
            return Ok(());
        };
        let mut after = start;
        for _ in 0..100 {
            let Some(slot) = schedule.next_after(after, &zone) else {
                break;
            };
            prop_assert!(slot > after, "{text} in {zone}: {slot} after {after}");
            // Nothing lies between: any time before leads to the same slot.
            let between = Timestamp(after.0.midpoint(slot.0));
            prop_assert_eq!(schedule.next_after(between, &zone), Some(slot));
            prop_assert_eq!(schedule.next_after(Timestamp(slot.0 - 1), &zone), Some(slot));
            after = slot;
        }
    }

    #[test]
    fn slot_matches_or_ends_a_gap((zone, start) in zone_and_time(), times in times()) {
        let schedule = Schedule::parse(&times.expression()).unwrap();
        let time_zone = time_zone(&zone);
        let mut after = start;
        for _ in 0..20 {
            let slot = schedule.next_after(after, &zone).unwrap();
            prop_assert!(is_due(&times, &time_zone, slot), "{times:?} in {zone}: {slot}");
            after = slot;
        }
    }
}
