//! What a scalar means: the YAML 1.2 core schema, and the booleans that 2013's YAML had.
//!
//! Never guesses: a number that does not fit is refused, not rounded.

use serde_json::{Number, Value};

use super::tree::Scalar;

impl Scalar {
    /// True for `null`, `~`, and nothing at all, when not quoted.
    pub(super) fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// The boolean that this stands for where only a boolean is allowed.
    ///
    /// `yes`, `no`, `on`, and `off` are the booleans of YAML 1.1, and `"true"` was one for the
    /// schema of 2013 even when quoted.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.text.as_str() {
            "true" | "True" | "TRUE" | "1" => Some(true),
            "false" | "False" | "FALSE" | "0" => Some(false),
            "yes" | "Yes" | "YES" | "on" | "On" | "ON" if self.plain => Some(true),
            "no" | "No" | "NO" | "off" | "Off" | "OFF" if self.plain => Some(false),
            _ => None,
        }
    }

    /// The value where anything is allowed: the core schema of YAML 1.2.
    ///
    /// # Errors
    /// Says why a number cannot be kept exactly.
    pub(super) fn json(&self) -> Result<Value, &'static str> {
        if self.is_null() {
            return Ok(Value::Null);
        }
        if !self.plain {
            return Ok(Value::String(self.text.clone()));
        }
        match self.text.as_str() {
            "true" | "True" | "TRUE" => Ok(Value::Bool(true)),
            "false" | "False" | "FALSE" => Ok(Value::Bool(false)),
            text => match number(text) {
                Some(number) => number.map(Value::Number),
                None => Ok(Value::String(text.to_owned())),
            },
        }
    }
}

/// `None` when `text` is not a number of the core schema.
fn number(text: &str) -> Option<Result<Number, &'static str>> {
    if let Some(digits) = text.strip_prefix("0x") {
        return radix(digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return radix(digits, 8);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if is_infinite_or_not_a_number(unsigned, unsigned.len() == text.len()) {
        return Some(Err("a number must be finite"));
    }
    if is_digits(unsigned) {
        return Some(integer(text));
    }
    is_float(unsigned).then(|| float(text))
}

fn radix(digits: &str, radix: u32) -> Option<Result<Number, &'static str>> {
    let is_number = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    is_number.then(|| {
        u64::from_str_radix(digits, radix)
            .map(Number::from)
            .map_err(|_| TOO_LARGE)
    })
}

const TOO_LARGE: &str = "a whole number must fit 64 bits; quote it to keep it as text";

fn integer(text: &str) -> Result<Number, &'static str> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    digits
        .parse::<u64>()
        .map(Number::from)
        .or_else(|_| digits.parse::<i64>().map(Number::from))
        .map_err(|_| TOO_LARGE)
}

fn float(text: &str) -> Result<Number, &'static str> {
    text.parse()
        .ok()
        .and_then(Number::from_f64)
        .ok_or("a number must fit 64 bits; quote it to keep it as text")
}

fn is_infinite_or_not_a_number(unsigned: &str, has_no_sign: bool) -> bool {
    matches!(unsigned, ".inf" | ".Inf" | ".INF")
        || has_no_sign && matches!(unsigned, ".nan" | ".NaN" | ".NAN")
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(unsigned: &str) -> bool {
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let mantissa_is_number = match mantissa.split_once('.') {
        Some(("", fraction)) => is_digits(fraction),
        Some((whole, fraction)) => is_digits(whole) && (fraction.is_empty() || is_digits(fraction)),
        None => is_digits(mantissa),
    };
    let exponent_is_number = exponent
        .is_none_or(|exponent| is_digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)));
    mantissa_is_number && exponent_is_number
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plain(text: &str) -> Scalar {
        Scalar {
            text: text.to_owned(),
            plain: true,
        }
    }

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        for (text, expected) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("True", json!(true)),
            ("yes", json!("yes")),
            ("12", json!(12)),
            ("+12", json!(12)),
            ("-12", json!(-12)),
            ("0x1F", json!(31)),
            ("0o17", json!(15)),
            (
                "18446744073709551615",
                json!(18_446_744_073_709_551_615_u64),
            ),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            ("1.", json!(1.0)),
            ("-1e3", json!(-1000.0)),
            ("1.9.3", json!("1.9.3")),
            ("2013-01-01", json!("2013-01-01")),
            ("1_000", json!("1_000")),
            (".", json!(".")),
            ("e5", json!("e5")),
            ("0x", json!("0x")),
        ] {
            assert_eq!(plain(text).json(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn quoted_scalar_is_text() {
        let quoted = Scalar {
            text: "12".to_owned(),
            plain: false,
        };

        assert_eq!(quoted.json(), Ok(json!("12")));
    }

    #[test]
    fn number_that_cannot_be_kept_is_refused() {
        for text in [
            "18446744073709551616",
            "-9223372036854775809",
            "0x1ffffffffffffffff",
            "1e309",
            "-1e309",
            ".inf",
            "-.INF",
            ".nan",
        ] {
            assert!(plain(text).json().is_err(), "{text}");
        }
    }
}
