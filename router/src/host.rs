//! Pure: the hostname that a `Host` header means, in the form that tables are keyed by.
//!
//! Nothing is allocated: the name is written in lower case into a buffer on the stack.

use common::id::HOSTNAME_MAX_BYTES;

/// A hostname in lower case, without port and trailing dot.
#[derive(Clone)]
pub(crate) struct HostName {
    bytes: [u8; HOSTNAME_MAX_BYTES],
    length: usize,
}

impl HostName {
    /// Reads the value of a `Host` header; `None` when it cannot name any route.
    ///
    /// A name that is too long, empty, not ASCII, or an IPv6 literal names no route.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let name = without_port(value)?;
        let name = name.strip_suffix(b".").unwrap_or(name);
        if name.is_empty() || name.len() > HOSTNAME_MAX_BYTES {
            return None;
        }
        let mut host = Self {
            bytes: [0; HOSTNAME_MAX_BYTES],
            length: name.len(),
        };
        for (to, from) in host.bytes.iter_mut().zip(name) {
            if !(from.is_ascii_alphanumeric() || matches!(from, b'-' | b'_' | b'.')) {
                return None;
            }
            *to = from.to_ascii_lowercase();
        }
        Some(host)
    }

    pub(crate) fn as_str(&self) -> &str {
        self.bytes
            .get(..self.length)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }
}

/// Cuts `:port` off; `None` when what follows the colon is no port.
fn without_port(value: &[u8]) -> Option<&[u8]> {
    let Some(colon) = value.iter().position(|byte| *byte == b':') else {
        return Some(value);
    };
    let (name, port) = value.split_at(colon);
    port.iter()
        .skip(1)
        .all(u8::is_ascii_digit)
        .then_some(name)
        .filter(|_| port.len() <= ":65535".len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(value: &str, expected: Option<&str>) {
        let host = HostName::parse(value.as_bytes());
        assert_eq!(host.as_ref().map(HostName::as_str), expected, "{value}");
    }

    #[test]
    fn case_port_and_trailing_dot_do_not_matter() {
        check("example.com", Some("example.com"));
        check("EXAMPLE.com:8080", Some("example.com"));
        check("example.com.", Some("example.com"));
        check("example.com.:80", Some("example.com"));
        check("example.com:", Some("example.com"));
        check("xn--bcher-kva.example", Some("xn--bcher-kva.example"));
    }

    #[test]
    fn what_is_no_hostname_names_no_route() {
        for bad in [
            "",
            ".",
            ":80",
            "[::1]:80",
            "a b",
            "bücher.example",
            "a@b",
            "a.com:http",
            "a.com:80:80",
            "a.com/x",
        ] {
            check(bad, None);
        }
        check(&"a".repeat(8192), None);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_name_in_lower_case_or_none(
            bytes in proptest::collection::vec(any::<u8>(), 0..300)
        ) {
            if let Some(host) = HostName::parse(&bytes) {
                let name = host.as_str();
                prop_assert!(!name.is_empty());
                prop_assert_eq!(name, name.to_ascii_lowercase());
            }
        }
    }
}
