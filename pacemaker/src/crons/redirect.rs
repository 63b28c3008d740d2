//! Where an answer of status 3xx leads: onto the same instance, or nowhere.
//!
//! A cron calls one instance of one application from inside the cluster. A redirect that could send
//! that request elsewhere would let whoever writes the answer reach what only pacemakers can.

use http::{Method, StatusCode};
use reqwest::Url;
use reqwest::header::{HeaderMap, LOCATION};

/// The longest target of a redirect, bytes.
const LOCATION_MAX_BYTES: usize = 8 * 1024;
/// How much of a refused target an outcome repeats, characters.
const EXCERPT_CHARACTERS: usize = 120;

/// The next request of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) method: Method,
    /// Path and query.
    pub(super) uri: String,
}

/// What was asked, and whom.
#[derive(Clone, Debug)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    /// Path and query.
    pub(super) uri: &'a str,
    /// The `Host` that was sent.
    pub(super) host: &'a str,
    /// `address:port` that was connected to.
    pub(super) address: &'a str,
}

/// Where to go on; none for an answer that is no redirect.
///
/// # Errors
/// Says in words why a redirect is not followed.
pub(super) fn next(
    asked: &Asked<'_>,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<Option<Next>, String> {
    let method = match status {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => asked.method.clone(),
        StatusCode::SEE_OTHER if asked.method != Method::HEAD => Method::GET,
        // As every browser does.
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND if asked.method == Method::POST => {
            Method::GET
        }
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
            asked.method.clone()
        }
        _ => return Ok(None),
    };
    let Some(location) = headers.get(LOCATION) else {
        return Err("the redirect names no target".to_owned());
    };
    let location = location
        .to_str()
        .ok()
        .filter(|text| text.len() <= LOCATION_MAX_BYTES)
        .ok_or("the target of the redirect is not text, or too long")?;
    let uri = same_instance(asked, location).ok_or_else(|| {
        let excerpt: String = location.chars().take(EXCERPT_CHARACTERS).collect();
        format!("it redirects to {excerpt:?}, which is not the instance itself: not followed")
    })?;
    Ok(Some(Next { method, uri }))
}

/// Path and query of a target on the instance that was asked.
fn same_instance(asked: &Asked<'_>, location: &str) -> Option<String> {
    let base = Url::parse(&format!("http://{}{}", asked.host, asked.uri)).ok()?;
    let address = Url::parse(&format!("http://{}/", asked.address)).ok()?;
    let target = base.join(location).ok()?;
    let is_at = |known: &Url| {
        target.host_str() == known.host_str()
            && target.port_or_known_default() == known.port_or_known_default()
    };
    let is_plain =
        target.scheme() == "http" && target.username().is_empty() && target.password().is_none();
    if !is_plain || !(is_at(&base) || is_at(&address)) {
        return None;
    }
    Some(match target.query() {
        Some(query) => format!("{}?{query}", target.path()),
        None => target.path().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn follow(method: &Method, status: u16, location: &str) -> Followed {
        let asked = Asked {
            method,
            uri: "/tasks/clean?now=1",
            host: "hello.example.com",
            address: "10.0.0.7:31000",
        };
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_str(location).unwrap());
        let status = StatusCode::from_u16(status).unwrap();
        Followed(next(&asked, status, &headers))
    }

    struct Followed(Result<Option<Next>, String>);

    #[test]
    fn redirects_onto_the_same_instance_are_followed() {
        for (location, uri) in [
            ("/tasks/clean/", "/tasks/clean/"),
            ("other?x=%20y", "/tasks/other?x=%20y"),
            ("../up", "/up"),
            ("http://hello.example.com/a?b#c", "/a?b"),
            ("http://HELLO.example.com:80/a", "/a"),
            ("http://10.0.0.7:31000/a", "/a"),
            ("//hello.example.com/a", "/a"),
        ] {
            let next = follow(&Method::GET, 302, location).0.unwrap().unwrap();
            assert_eq!((next.method, &*next.uri), (Method::GET, uri), "{location}");
        }
    }

    #[test]
    fn redirects_elsewhere_are_refused_with_words() {
        for location in [
            "http://localhost/",
            "http://127.0.0.1:31000/",
            "http://10.0.0.7/",
            "http://10.0.0.7:31001/",
            "http://169.254.169.254/latest/meta-data/",
            "http://[::ffff:10.0.0.7]:31000/",
            "https://hello.example.com/a",
            "//localhost/a",
            "/\\localhost/a",
            "\\\\localhost\\a",
            "http://user:word@hello.example.com/",
            "http://hello.example.com.evil.example/",
            "unix:/var/run/docker.sock",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "gopher://10.0.0.7:31000/",
        ] {
            let refused = follow(&Method::GET, 302, location).0.unwrap_err();
            assert!(refused.contains("not followed"), "{location}: {refused}");
        }
    }

    #[test]
    fn method_changes_as_http_says() {
        let method = |method, status| follow(&method, status, "/a").0.unwrap().map(|n| n.method);
        assert_eq!(method(Method::POST, 307), Some(Method::POST));
        assert_eq!(method(Method::POST, 308), Some(Method::POST));
        assert_eq!(method(Method::POST, 303), Some(Method::GET));
        assert_eq!(method(Method::POST, 302), Some(Method::GET));
        assert_eq!(method(Method::PUT, 302), Some(Method::PUT));
        assert_eq!(method(Method::HEAD, 303), Some(Method::HEAD));
        assert_eq!(method(Method::GET, 304), None);
        assert_eq!(method(Method::GET, 200), None);
    }
}
