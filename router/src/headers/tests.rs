//! Tests of the header rules.

use proptest::prelude::*;

use super::*;

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )
        })
        .collect()
}

fn forwarded(fields: &[(&str, &str)], is_trusted: bool) -> HeaderMap {
    let mut headers = map(fields);
    forward(&mut headers, is_trusted);
    headers
}

fn forward(headers: &mut HeaderMap, is_trusted: bool) -> HeaderValue {
    let origin = Origin {
        client: &HeaderValue::from_static("192.0.2.7"),
        host: &HeaderValue::from_static("App.example:4253"),
        port: &HeaderValue::from_static("4253"),
        scheme: "http",
        is_trusted,
    };
    forward_request(headers, &origin, || HeaderValue::from_static("made-here"))
}

fn check(headers: &HeaderMap, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        let found: Vec<&str> = headers
            .get_all(*name)
            .iter()
            .map(|found| found.to_str().unwrap())
            .collect();
        assert_eq!(found, [*value], "{name}");
    }
}

#[test]
fn the_router_says_who_asked_for_what() {
    let headers = forwarded(&[("host", "App.example:4253"), ("accept", "*/*")], false);
    check(
        &headers,
        &[
            ("host", "App.example:4253"),
            ("accept", "*/*"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "App.example:4253"),
            ("x-forwarded-port", "4253"),
            ("x-request-id", "made-here"),
        ],
    );
    assert!(!headers.contains_key("via"));
}

#[test]
fn a_strangers_own_forwarding_fields_are_replaced() {
    let headers = forwarded(
        &[
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "bank.example"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-prefix", "/admin"),
            ("x_forwarded_for", "10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("x-request-id", "theirs"),
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
        ],
        false,
    );
    check(
        &headers,
        &[
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "App.example:4253"),
            ("x-forwarded-port", "4253"),
            ("x-request-id", "made-here"),
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
        ],
    );
    for gone in [
        "x-forwarded-prefix",
        "x_forwarded_for",
        "x-real-ip",
        "forwarded",
    ] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
}

#[test]
fn a_trusted_clients_fields_are_kept_and_its_list_extended() {
    let headers = forwarded(
        &[
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "https"),
            ("x-request-id", "theirs"),
        ],
        true,
    );
    check(
        &headers,
        &[
            ("x-forwarded-for", "10.0.0.1, 10.0.0.2, 192.0.2.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "App.example:4253"),
            ("x-request-id", "theirs"),
        ],
    );
}

#[test]
fn hop_by_hop_fields_end_at_the_router() {
    let headers = forwarded(
        &[
            ("connection", "keep-alive, X-Secret"),
            ("connection", "x-forwarded-for,host , ,upgrade"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic eA=="),
            ("te", "trailers"),
            ("trailer", "x-forwarded-for"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("authorization", "Bearer x"),
        ],
        false,
    );
    check(
        &headers,
        &[
            ("authorization", "Bearer x"),
            ("host", "App.example:4253"),
            ("x-forwarded-for", "192.0.2.7"),
        ],
    );
    for gone in [
        "connection",
        "x-secret",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
    ] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
}

#[test]
fn only_a_websocket_that_connection_names_is_an_upgrade() {
    let check = |fields: &[(&str, &str)], expected: bool| {
        assert_eq!(websocket(&map(fields)).is_some(), expected, "{fields:?}");
    };
    check(&[("connection", "Upgrade"), ("upgrade", "WebSocket")], true);
    check(
        &[
            ("connection", "keep-alive, upgrade"),
            ("upgrade", "websocket"),
        ],
        true,
    );
    check(&[("upgrade", "websocket")], false);
    check(&[("connection", "upgrade"), ("upgrade", "h2c")], false);
    check(
        &[("connection", "upgrade"), ("upgrade", "websocket, h2c")],
        false,
    );
}

#[test]
fn only_chunked_alone_is_forwarded() {
    let check = |fields: &[(&str, &str)], expected: bool| {
        assert_eq!(has_plain_framing(&map(fields)), expected, "{fields:?}");
    };
    check(&[], true);
    check(&[("transfer-encoding", "Chunked")], true);
    check(&[("transfer-encoding", "gzip, chunked")], false);
    check(&[("transfer-encoding", "chunked, chunked")], false);
    check(
        &[
            ("transfer-encoding", "gzip"),
            ("transfer-encoding", "chunked"),
        ],
        false,
    );
}

fn field() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![
        "[a-z][a-z_-]{0,12}",
        "(x|X)[-_](forwarded|FORWARDED)[-_](for|host|proto|port|ssl)",
        Just("connection".to_owned()),
        Just("x-request-id".to_owned()),
    ];
    let value = prop_oneof![
        "[ -~]{0,20}",
        "[a-z-]{1,10}(, ?[a-z-]{1,10}){0,3}",
        Just("x-forwarded-for, x-request-id, host".to_owned()),
    ];
    (name, value)
}

proptest! {
    #[test]
    fn whatever_a_stranger_sends_the_backend_sees_the_routers_word(
        fields in proptest::collection::vec(field(), 0..12)
    ) {
        let mut headers: HeaderMap = fields
            .iter()
            .filter_map(|(name, value)| {
                Some((
                    HeaderName::from_bytes(name.as_bytes()).ok()?,
                    HeaderValue::from_str(value).ok()?,
                ))
            })
            .collect();
        forward(&mut headers, false);

        check(&headers, &[
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-host", "App.example:4253"),
            ("x-request-id", "made-here"),
            ("host", "App.example:4253"),
        ]);
        prop_assert!(!headers.contains_key(CONNECTION));
        let others = headers.keys().filter(|name| is_forwarding(name)).count();
        prop_assert_eq!(others, 5);
    }
}

#[test]
fn the_lines_of_cookie_become_one_in_their_order() {
    let mut headers = map(&[("accept", "*/*")]);
    for line in ["a=1", "b=2; c=3", "d=4"] {
        headers.append("cookie", HeaderValue::from_static(line));
    }
    forward(&mut headers, false);
    check(&headers, &[("cookie", "a=1; b=2; c=3; d=4")]);

    let headers = forwarded(&[("cookie", "a=1; b=2")], false);
    check(&headers, &[("cookie", "a=1; b=2")]);
}
