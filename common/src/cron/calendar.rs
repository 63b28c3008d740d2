//! The calendar in whole numbers: days and months since 1970-01-01.
//!
//! The formulas are those of Howard Hinnant's `chrono`-compatible date algorithms, on the proleptic
//! Gregorian calendar, with eras of 400 years.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "callers stay within the calendar's years, of which every product fits 64 bits"
)]

use jiff::civil::DateTime;

/// Minutes of an hour.
pub(super) const HOUR: i64 = 60;

/// Minutes of a day.
pub(super) const DAY: i64 = 24 * HOUR;

/// The last minute that has a name: the end of the year 9999.
pub(super) const LAST_MINUTE: i64 = 2_932_897 * DAY - 1;

/// A month of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Month {
    /// Counted from January 1970, which is 0.
    pub(super) index: i64,
    /// Its first day, counted from 1970-01-01, which is 0.
    pub(super) first_day: i64,
    /// How many it has: 28 to 31.
    pub(super) days: i64,
}

impl Month {
    /// The month that a day since 1970 is in.
    pub(super) fn of_day(day: i64) -> Self {
        let (year, month, day_of_month) = date(day);
        Self {
            index: (year - 1970) * 12 + month - 1,
            first_day: day - (day_of_month - 1),
            days: days_of_month(year, month),
        }
    }

    /// The month of this index.
    pub(super) fn numbered(index: i64) -> Self {
        let year = 1970 + index.div_euclid(12);
        let month = index.rem_euclid(12) + 1;
        Self {
            index,
            first_day: day_number(year, month),
            days: days_of_month(year, month),
        }
    }

    /// The day of the week of its first day; Sunday is 0.
    pub(super) fn first_weekday(self) -> i64 {
        // 1970-01-01 was a Thursday.
        (self.first_day + 4).rem_euclid(7)
    }

    /// The first day after it.
    pub(super) fn end_day(self) -> i64 {
        self.first_day + self.days
    }
}

/// The local date and time of a minute since 1970; none beyond the years that have one.
pub(super) fn date_time(minute: i64) -> Option<DateTime> {
    if minute > LAST_MINUTE {
        return None;
    }
    let (year, month, day) = date(minute.div_euclid(DAY));
    let of_day = minute.rem_euclid(DAY);
    DateTime::new(
        i16::try_from(year).ok()?,
        i8::try_from(month).ok()?,
        i8::try_from(day).ok()?,
        i8::try_from(of_day / HOUR).ok()?,
        i8::try_from(of_day % HOUR).ok()?,
        0,
        0,
    )
    .ok()
}

/// The first day of a month, counted from 1970-01-01.
fn day_number(year: i64, month: i64) -> i64 {
    // Years begin in March here, so that a leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of the month of a day since 1970-01-01.
fn date(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_month)
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::Date;

    use super::*;

    #[test]
    fn every_day_of_the_calendar_is_the_librarys() {
        let mut expected = Date::constant(1969, 12, 1);
        let mut day = -31;
        while expected.year() < 2410 {
            let month = Month::of_day(day);
            assert_eq!(
                date(day),
                (
                    expected.year().into(),
                    expected.month().into(),
                    expected.day().into()
                )
            );
            assert_eq!(month, Month::numbered(month.index));
            assert_eq!(month.days, i64::from(expected.days_in_month()));
            assert_eq!(
                month.first_weekday(),
                i64::from(expected.first_of_month().weekday().to_sunday_zero_offset())
            );
            expected = expected.tomorrow().unwrap();
            day += 1;
        }
    }

    #[test]
    fn calendar_ends_with_its_last_minute() {
        assert_eq!(
            date_time(LAST_MINUTE).map(|last| last.to_string()),
            Some("9999-12-31T23:59:00".to_owned())
        );
        assert_eq!(date_time(LAST_MINUTE + 1), None);
        assert_eq!(date_time(i64::MAX), None);
        assert_eq!(
            date_time(-1).map(|before| before.to_string()),
            Some("1969-12-31T23:59:00".to_owned())
        );
    }
}
