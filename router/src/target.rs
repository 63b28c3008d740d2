//! Pure: which host a request is for, and whether it may be forwarded at all.
//!
//! A request names its host once. HTTP/1.1 may say it twice, in an absolute request target and in
//! `Host` (RFC 9112, section 3.2.2); the two agree or the request is refused, because a backend
//! that reads the other one would serve another tenant's name.

use http::header::{EXPECT, HOST};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Uri};

use crate::answer::Refusal;
use crate::headers;

/// Checks a request's head, gives its target the form that origin servers get, returns its host.
pub(crate) fn settle(parts: &mut Parts) -> Result<HeaderValue, Refusal> {
    if parts.method == Method::CONNECT {
        return Err(Refusal::BadMethod);
    }
    if !headers::has_plain_framing(&parts.headers) {
        return Err(Refusal::BadTransferCoding);
    }
    if let Some(expectation) = parts.headers.get(EXPECT)
        && !expectation.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(Refusal::BadExpectation);
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let in_header = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::HostMismatch);
    }
    let host = match (parts.uri.authority(), in_header) {
        (None, None) => return Err(Refusal::NoHost),
        (None, Some(host)) => host.clone(),
        (Some(authority), in_header) => {
            // User information is no part of a host (RFC 9110, section 4.2.4).
            if authority.as_str().contains('@') {
                return Err(Refusal::BadRequest);
            }
            let agrees = in_header.is_none_or(|host| {
                host.as_bytes()
                    .eq_ignore_ascii_case(authority.as_str().as_bytes())
            });
            if !agrees {
                return Err(Refusal::HostMismatch);
            }
            HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::BadRequest)?
        }
    };
    if host.is_empty() {
        return Err(Refusal::NoHost);
    }
    if parts.uri.authority().is_some() {
        let path = parts
            .uri
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
    }
    Ok(host)
}

/// True when doing it twice is doing it once (RFC 9110, section 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn check(target: &str, hosts: &[&str], expected: Result<(&str, &str), Refusal>) {
        let mut request = Request::builder().uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let settled = settle(&mut parts);
        let found = settled
            .as_ref()
            .map(|host| (host.to_str().unwrap(), parts.uri.to_string()));
        match expected {
            Ok((host, path)) => assert_eq!(found, Ok((host, path.to_owned())), "{target}"),
            Err(refusal) => assert_eq!(settled, Err(refusal), "{target} {hosts:?}"),
        }
    }

    #[test]
    fn one_host_is_one_host() {
        check("/a?b", &["x.test"], Ok(("x.test", "/a?b")));
        check("*", &["x.test"], Ok(("x.test", "*")));
        check("http://x.test/a?b", &["X.test"], Ok(("x.test", "/a?b")));
        check("http://x.test", &[], Ok(("x.test", "/")));
        check("http://x.test:80/", &["x.test:80"], Ok(("x.test:80", "/")));
    }

    #[test]
    fn no_host_and_two_hosts_are_refused() {
        check("/", &[], Err(Refusal::NoHost));
        check("/", &[""], Err(Refusal::NoHost));
        check("/", &["x.test", "x.test"], Err(Refusal::HostMismatch));
        check("http://x.test/", &["y.test"], Err(Refusal::HostMismatch));
        check("http://x.test/", &["x.test:80"], Err(Refusal::HostMismatch));
        check("http://u@x.test/", &["x.test"], Err(Refusal::BadRequest));
    }

    #[test]
    fn only_methods_that_may_be_repeated_are_idempotent() {
        assert!(is_idempotent(&Method::GET) && is_idempotent(&Method::DELETE));
        assert!(!is_idempotent(&Method::POST) && !is_idempotent(&Method::PATCH));
    }
}
