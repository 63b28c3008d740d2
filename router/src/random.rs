//! Cheap randomness of one worker: spreads requests and names them, keeps no secret.

use std::cell::Cell;

use http::HeaderValue;

/// SplitMix64, seeded by the operating system at start.
#[derive(Debug)]
pub(crate) struct Random {
    state: Cell<u64>,
}

impl Random {
    pub(crate) fn seeded() -> Self {
        Self {
            state: Cell::new(seed()),
        }
    }

    pub(crate) fn next(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.state.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A new request id: 32 hexadecimal digits.
    pub(crate) fn request_id(&self) -> HeaderValue {
        let number = u128::from(self.next()) << 64 | u128::from(self.next());
        let mut text = [0_u8; 32];
        for (place, digit) in text.iter_mut().enumerate() {
            let nibble = usize::try_from((number >> (124 - 4 * place)) & 15).unwrap_or(0);
            *digit = b"0123456789abcdef"[nibble];
        }
        HeaderValue::from_bytes(&text).expect("hexadecimal digits are allowed in a header")
    }
}

/// A number from the operating system, such as the incarnation of a start.
pub(crate) fn seed() -> u64 {
    let mut bytes = [0_u8; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(error) => {
            tracing::warn!(%error, "the system has no randomness; falling back to the clock");
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(1, |since| since.subsec_nanos().into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_have_32_digits_and_differ() {
        let random = Random::seeded();
        let (one, other) = (random.request_id(), random.request_id());
        assert_eq!(one.len(), 32);
        assert_ne!(one, other);
    }
}
