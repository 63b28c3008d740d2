//! Pure: what happens to headers on their way through.
//!
//! Hop-by-hop fields end here, in both directions: the standard ones and those that `Connection`
//! names. `X-Forwarded-For`, `-Proto`, `-Host`, `-Port` and `X-Request-Id` are set by the router;
//! what a client sends of them, or of any other forwarding field, is removed unless the client is
//! trusted, and then its list of addresses is extended and the rest kept. A field that differs
//! from one of these only by `_` for `-` counts as it, because CGI-like servers cannot tell the two
//! apart. The lines of `Cookie` become one. `Host`, `traceparent` and everything else pass unchanged;
//! no `Via` is added.

use http::header::{
    CONNECTION, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
/// Names a request in every log that sees it.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The longest request id that is taken over from a trusted client.
const REQUEST_ID_MAX_BYTES: usize = 128;

/// What the router says of a request on its own authority.
#[derive(Debug)]
pub(crate) struct Origin<'request> {
    /// The address of the peer.
    pub(crate) client: &'request HeaderValue,
    /// The host as the client wrote it.
    pub(crate) host: &'request HeaderValue,
    /// The port that it came in at.
    pub(crate) port: &'request HeaderValue,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// Whether the client's own forwarding fields are believed.
    pub(crate) is_trusted: bool,
}

/// Turns the headers of a request into those that the backend gets; returns the request id.
pub(crate) fn forward_request(
    headers: &mut HeaderMap,
    origin: &Origin<'_>,
    request_id: impl FnOnce() -> HeaderValue,
) -> HeaderValue {
    remove_hop_by_hop(headers);
    headers.remove(EXPECT);
    // Without an announcement no trailer is forwarded: some servers take trailers for headers.
    headers.remove(TRAILER);
    join_cookies(headers);
    if !origin.is_trusted {
        remove_forwarding(headers);
    }
    let id = headers
        .get(REQUEST_ID)
        .filter(|id| is_request_id(id))
        .cloned()
        .unwrap_or_else(request_id);
    headers.insert(REQUEST_ID, id.clone());
    headers.insert(HOST, origin.host.clone());
    let list = match headers.get(&FORWARDED_FOR) {
        Some(_) => extend_list(headers, origin.client),
        None => origin.client.clone(),
    };
    headers.insert(FORWARDED_FOR, list);
    let scheme = HeaderValue::from_static(origin.scheme);
    headers.entry(FORWARDED_PROTO).or_insert(scheme);
    headers
        .entry(FORWARDED_HOST)
        .or_insert_with(|| origin.host.clone());
    headers
        .entry(FORWARDED_PORT)
        .or_insert_with(|| origin.port.clone());
    id
}

/// Turns the headers of a response into those that the client gets.
pub(crate) fn forward_response(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
}

/// Says that the connection is to become a tunnel of this protocol.
pub(crate) fn ask_for_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// The value of `Upgrade` when `Connection` names it and it is a WebSocket.
///
/// Other protocols are not tunnelled: `h2c` would carry requests past every rule of this router.
pub(crate) fn websocket(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    let is_named = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(tokens)
        .any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    let is_websocket = protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
    (is_named && is_websocket).then(|| protocol.clone())
}

/// True when the body's framing is one that is forwarded: none, a length, or `chunked` alone.
pub(crate) fn has_plain_framing(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(tokens)
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [
        TRANSFER_ENCODING,
        UPGRADE,
        TE,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
    ] {
        headers.remove(name);
    }
}

/// HTTP/2 may split `Cookie` for compression; HTTP/1.1 has one line (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let lines: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let joined = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
        .expect("what joins allowed values is allowed in a value");
    headers.insert(COOKIE, joined);
}

fn remove_forwarding(headers: &mut HeaderMap) {
    if !headers.keys().any(is_forwarding) {
        return;
    }
    let found: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_forwarding(name))
        .cloned()
        .collect();
    for name in found {
        headers.remove(name);
    }
}

/// True for a field by which a proxy speaks of the client, also when written with underscores.
fn is_forwarding(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    match name.first() {
        Some(b'x') => {
            is_spelled(name.get(.."x-forwarded".len()), b"x-forwarded")
                || is_spelled(Some(name), b"x-real-ip")
                || is_spelled(Some(name), b"x-request-id")
        }
        Some(b'f') => name == b"forwarded",
        Some(_) | None => false,
    }
}

fn is_spelled(name: Option<&[u8]>, expected: &[u8]) -> bool {
    name.is_some_and(|name| {
        name.len() == expected.len()
            && name
                .iter()
                .zip(expected)
                .all(|(found, wanted)| found == wanted || (*found == b'_' && *wanted == b'-'))
    })
}

fn is_request_id(id: &HeaderValue) -> bool {
    !id.is_empty()
        && id.len() <= REQUEST_ID_MAX_BYTES
        && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

/// The trusted client's list of addresses, all lines joined, with its own address at the end.
fn extend_list(headers: &HeaderMap, client: &HeaderValue) -> HeaderValue {
    let mut list = Vec::new();
    for value in headers.get_all(FORWARDED_FOR) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(client.as_bytes());
    HeaderValue::from_bytes(&list).unwrap_or_else(|_| client.clone())
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests;
