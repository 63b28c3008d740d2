//! What a request may name.

/// The one name with a leading dot that is served: RFC 8615 puts public things below it.
const WELL_KNOWN: &str = ".well-known";

/// The longest path that is looked at; the file system's own limit is 4,096.
const PATH_MAX_BYTES: usize = 2048;

/// A request's path, decoded and checked: names below the root, none of them hidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestPath {
    /// Names without slashes; empty for the root.
    pub(super) names: Vec<String>,
    /// True for `/` and `/a/`: a directory is meant.
    pub(super) is_directory: bool,
}

impl RequestPath {
    /// Takes the path of a request apart; `None` for what is never served.
    pub(super) fn parse(raw: &str) -> Option<Self> {
        if raw.len() > PATH_MAX_BYTES || !raw.starts_with('/') {
            return None;
        }
        let mut names = Vec::new();
        for part in raw.split('/').filter(|part| !part.is_empty()) {
            let name = decode(part)?;
            let is_hidden = name.starts_with('.') && name != WELL_KNOWN;
            if is_hidden || name.is_empty() || name.contains(['/', '\0']) {
                return None;
            }
            names.push(name);
        }
        Some(Self {
            is_directory: raw.ends_with('/'),
            names,
        })
    }

    /// The names joined, relative to the root.
    pub(super) fn relative(&self) -> String {
        if self.names.is_empty() {
            ".".to_owned()
        } else {
            self.names.join("/")
        }
    }

    /// The path of this directory in a `Location` header.
    ///
    /// Made of the names again, never of what the client wrote: `//host/` would lead elsewhere.
    pub(super) fn directory_location(&self) -> String {
        let mut location = String::from("/");
        for name in &self.names {
            for byte in name.bytes() {
                if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) {
                    location.push(char::from(byte));
                } else {
                    location.push_str(&format!("%{byte:02X}"));
                }
            }
            location.push('/');
        }
        location
    }
}

fn decode(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_once() {
        let path = RequestPath::parse("/a%20b//c/").unwrap();
        assert_eq!(path.names, ["a b", "c"]);
        assert!(path.is_directory);
        assert_eq!(RequestPath::parse("/%2541").unwrap().names, ["%41"]);
    }

    #[test]
    fn what_leads_out_or_is_hidden_is_not_served() {
        for raw in [
            "/..",
            "/../x",
            "/a/../../x",
            "/%2e%2e/x",
            "/%2E./x",
            "/a%2f..%2fb",
            "/.git/config",
            "/a/.env",
            "/a%00b",
            "/%",
            "/%zz",
            "/%ff",
            "relative",
            "*",
            "/./a",
        ] {
            assert_eq!(RequestPath::parse(raw), None, "{raw}");
        }
        assert!(RequestPath::parse("/.well-known/security.txt").is_some());
    }

    #[test]
    fn a_redirect_stays_on_the_host() {
        let path = RequestPath::parse("//evil.example").unwrap();
        assert_eq!(path.directory_location(), "/evil.example/");
        let path = RequestPath::parse("/a%0d%0ab%20c").unwrap();
        assert_eq!(path.directory_location(), "/a%0D%0Ab%20c/");
    }
}
