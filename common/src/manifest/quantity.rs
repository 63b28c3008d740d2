//! Lengths of time, sizes of memory, and shares of processors, as texts.
//!
//! All arithmetic is on whole numbers: `1.5` is 1500 thousandths.

use crate::time::Span;

/// A length of time as a regular expression, for editors.
pub(super) const SPAN_PATTERN: &str = r"^[0-9]+(\.[0-9]{1,3})?(ms|s|m|h)?$";

/// The least memory that a limit may say: no process starts with less.
const MEMORY_LEAST_BYTES: u64 = 1 << 20;

/// The most memory that a limit may say: more than any machine has.
const MEMORY_MOST_BYTES: u64 = 16 << 40;

/// Reads `500ms`, `30s`, `5m`, `1h`, `1.5s`, or a plain number of seconds.
pub(super) fn span(text: &str) -> Option<Span> {
    let digits_end = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits_end)?;
    let unit_ms = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let thousandths = thousandths(number)?.checked_mul(unit_ms)?;
    // A part of a millisecond is nothing that can be waited for.
    (thousandths.checked_rem(1000) == Some(0)).then_some(())?;
    thousandths.checked_div(1000).map(Span)
}

/// True for a length of time within its bounds.
pub(super) fn span_within(text: &str, least_ms: u64, most_ms: u64) -> bool {
    span(text).is_some_and(|span| (least_ms..=most_ms).contains(&span.0))
}

/// True for `512M`, `1G`, `1GiB`, or a plain number of bytes. Units are powers of 1024.
pub(super) fn is_memory(text: &str) -> bool {
    memory_bytes(text)
        .is_some_and(|bytes| (MEMORY_LEAST_BYTES..=MEMORY_MOST_BYTES).contains(&bytes))
}

fn memory_bytes(text: &str) -> Option<u64> {
    let digits_end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits_end)?;
    let unit_bytes: u64 = match unit {
        "" => 1,
        "K" | "KB" | "KiB" => 1 << 10,
        "M" | "MB" | "MiB" => 1 << 20,
        "G" | "GB" | "GiB" => 1 << 30,
        "T" | "TB" | "TiB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_bytes)
}

/// True for a number of cores with at most three decimals.
pub(super) fn is_cpu(text: &str) -> bool {
    thousandths(text).is_some_and(|cores| (10..=1_024_000).contains(&cores))
}

/// `1.5` is 1500; `None` when it is not a decimal number with at most three decimals.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) || fraction.len() > 3 {
        return None;
    }
    let fraction = format!("{fraction:0<3}").parse::<u64>().ok()?;
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1000)?
        .checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_units_and_plain_numbers_are_seconds() {
        for (text, expected) in [
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("20", Some(20_000)),
            ("1.5", Some(1500)),
            ("0.25m", Some(15_000)),
            ("0", Some(0)),
            ("", None),
            ("s", None),
            ("-5s", None),
            ("5 s", None),
            ("5S", None),
            ("1d", None),
            ("1m30s", None),
            ("0.5ms", None),
            ("1e3", None),
            ("1.", None),
            (".5", None),
            ("1.0001", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(span(text).map(|span| span.0), expected, "{text}");
        }
    }

    #[test]
    fn memory_has_binary_units() {
        for text in ["512M", "1G", "1GiB", "1GB", "1048576", "2048K", "16T"] {
            assert!(is_memory(text), "{text}");
        }
        for text in [
            "",
            "M",
            "512",
            "1K",
            "17T",
            "-1G",
            "1.5G",
            "1g",
            "1P",
            "1B",
            "1GiBB",
            "1Gii",
            "99999999999999999999G",
        ] {
            assert!(!is_memory(text), "{text}");
        }
    }

    #[test]
    fn cpu_is_a_decimal_number_of_cores() {
        for text in ["1", "1.5", "0.01", "1024", "0.125"] {
            assert!(is_cpu(text), "{text}");
        }
        for text in ["0", "0.001", "1025", "-1", "1,5", "1.0001", "1e2", ""] {
            assert!(!is_cpu(text), "{text}");
        }
    }
}
