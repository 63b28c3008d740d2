//! Requests on whose borders two parsers could disagree (faults.md, D5).
//!
//! For each the backend sees either nothing, and the client an error and a close, or exactly one
//! request whose framing nobody can read in two ways.

use std::time::Duration;

use crate::harness::backend::Script;
use crate::harness::wire::{Wire, find};
use crate::harness::{World, eventually, route};

const MARK: &[u8] = b"smuggled";

/// What becomes of one hostile request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Refused: an error, the connection closed, nothing forwarded.
    Refused,
    /// Forwarded as one request with this body.
    One(&'static [u8]),
    /// Two requests on one connection, as everyone reads it.
    Two,
}

const CORPUS: &[(&str, &[u8], Fate)] = &[
    (
        "CL.TE",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: one.test\r\n\r\n",
        Fate::One(b""),
    ),
    (
        "TE.CL",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n1\r\na\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: one.test\r\n\r\n",
        Fate::One(b"a"),
    ),
    (
        "TE.TE",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        Fate::Refused,
    ),
    (
        "TE twice",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        Fate::Refused,
    ),
    (
        "TE with a vertical tab",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        Fate::Refused,
    ),
    (
        "TE xchunked",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        Fate::Refused,
    ),
    (
        "TE gzip, chunked",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        Fate::Refused,
    ),
    (
        "CL.CL",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        Fate::Refused,
    ),
    (
        "CL list",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ncontent-length: 1, 2\r\n\r\nab",
        Fate::Refused,
    ),
    (
        "CL plus",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ncontent-length: +2\r\n\r\nab",
        Fate::Refused,
    ),
    (
        "CL negative",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ncontent-length: -1\r\n\r\nab",
        Fate::Refused,
    ),
    (
        "CL huge",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ncontent-length: 99999999999999999999999\r\n\r\nab",
        Fate::Refused,
    ),
    (
        "CL hexadecimal",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ncontent-length: 0x2\r\n\r\nab",
        Fate::Refused,
    ),
    (
        "TE on 1.0",
        b"POST / HTTP/1.0\r\nhost: one.test\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        Fate::Refused,
    ),
    (
        "space before colon",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ncontent-length : 2\r\n\r\nab",
        Fate::Refused,
    ),
    (
        "obs-fold",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ntransfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        Fate::Refused,
    ),
    (
        "header without a colon",
        b"GET / HTTP/1.1\r\nhost: one.test\r\nsmuggled\r\n\r\n",
        Fate::Refused,
    ),
    (
        "bare CR in a header",
        b"GET / HTTP/1.1\r\nhost: one.test\r\nx: a\rtransfer-encoding: chunked\r\n\r\n",
        Fate::Refused,
    ),
    (
        "NUL in a header",
        b"GET / HTTP/1.1\r\nhost: one.test\r\nx: a\0b\r\n\r\n",
        Fate::Refused,
    ),
    (
        "host twice",
        b"GET / HTTP/1.1\r\nhost: one.test\r\nhost: two.test\r\n\r\n",
        Fate::Refused,
    ),
    (
        "absolute target beside another host",
        b"GET http://two.test/ HTTP/1.1\r\nhost: one.test\r\n\r\n",
        Fate::Refused,
    ),
    (
        "space in the target",
        b"GET /a HTTP/1.1 /b HTTP/1.1\r\nhost: one.test\r\n\r\n",
        Fate::Refused,
    ),
    (
        "chunk size with a plus",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ntransfer-encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n",
        Fate::Refused,
    ),
    (
        "chunk size too large",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\na\r\n0\r\n\r\n",
        Fate::Refused,
    ),
    (
        "chunk without its end",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        Fate::Refused,
    ),
    (
        "bare LF",
        b"GET / HTTP/1.1\nhost: one.test\n\n",
        Fate::One(b""),
    ),
    (
        "chunk extension",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ntransfer-encoding: chunked\r\n\r\n1;a=b\r\na\r\n0\r\n\r\n",
        Fate::One(b"a"),
    ),
    (
        "equal lengths twice",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
        Fate::One(b"a"),
    ),
    (
        "a length on GET",
        b"GET / HTTP/1.1\r\nhost: one.test\r\ncontent-length: 1\r\n\r\na",
        Fate::One(b"a"),
    ),
    (
        "trailers",
        b"POST / HTTP/1.1\r\nhost: one.test\r\ntrailer: x-smuggled\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-smuggled: 1\r\n\r\n",
        Fate::One(b"a"),
    ),
    (
        "connection names the length",
        b"POST / HTTP/1.1\r\nhost: one.test\r\nconnection: content-length\r\ncontent-length: 1\r\n\r\na",
        Fate::One(b"a"),
    ),
    (
        "pipelined",
        b"GET / HTTP/1.1\r\nhost: one.test\r\n\r\nGET / HTTP/1.1\r\nhost: one.test\r\n\r\n",
        Fate::Two,
    ),
];

/// Splits what a backend received into heads and bodies by the strictest reading; panics when a
/// head could be read in two ways.
fn requests(mut bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let Some(end) = find(bytes, b"\r\n\r\n") else {
            break;
        };
        let head = String::from_utf8(bytes[..end + 4].to_vec()).unwrap();
        bytes = &bytes[end + 4..];
        let values = |name: &str| -> Vec<&str> {
            head.lines()
                .skip(1)
                .filter_map(|line| line.split_once(':'))
                .filter(|(found, _)| found.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim())
                .collect()
        };
        let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
        assert!(lengths.len() + codings.len() <= 1, "two framings:\n{head}");
        assert_eq!(values("host").len(), 1, "{head}");
        let mut body = Vec::new();
        if let [length] = lengths[..] {
            let length = length.parse::<usize>().unwrap();
            body.extend_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
        } else if let [coding] = codings[..] {
            assert_eq!(coding, "chunked", "{head}");
            loop {
                let line = find(bytes, b"\r\n").unwrap();
                let digits = std::str::from_utf8(&bytes[..line]).unwrap();
                let length = usize::from_str_radix(digits, 16).unwrap();
                body.extend_from_slice(&bytes[line + 2..line + 2 + length]);
                bytes = &bytes[line + 2 + length + 2..];
                if length == 0 {
                    break;
                }
            }
        }
        all.push((head, body));
    }
    all
}

/// Answers as soon as a whole request seems to be there.
fn answer(received: &[u8]) -> Option<&'static [u8]> {
    let head = find(received, b"\r\n\r\n")? + 4;
    let is_chunked = find(&received[..head], b"chunked").is_some();
    let has_body = find(&received[..head], b"content-length: 1").is_some();
    let is_whole = match (is_chunked, has_body) {
        (true, _) => received.ends_with(b"0\r\n\r\n"),
        (false, true) => received.len() > head,
        (false, false) => true,
    };
    is_whole.then_some(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
}

#[tokio::test]
async fn every_hostile_request_is_refused_or_forwarded_as_one() {
    for (name, bytes, fate) in CORPUS {
        let (backend, received) = Script::recording(answer).await;
        let world = World::start_with(|config| config.workers = 1).await;
        world
            .publish(&[
                ("one.test", route(&[(1, backend.address)])),
                ("two.test", route(&[(1, backend.address)])),
            ])
            .await;

        let mut wire = Wire::connect(world.address()).await;
        wire.send(bytes).await;
        let first = wire.read_answer().await;
        match fate {
            Fate::Refused => {
                assert!(
                    first.as_ref().is_none_or(|answer| answer.status >= 400),
                    "{name}: {first:?}"
                );
                assert_eq!(
                    wire.read_to_end().await,
                    b"",
                    "{name}: the connection stays open"
                );
            }
            Fate::One(_) => assert_eq!(first.expect(name).status, 200, "{name}"),
            Fate::Two => {
                assert_eq!(first.expect(name).status, 200, "{name}");
                assert_eq!(wire.read_answer().await.expect(name).status, 200, "{name}");
            }
        }
        drop(wire);
        settle(&world).await;

        let received: Vec<u8> = received.lock().unwrap().concat();
        let seen = match fate {
            // A body may have begun before its fault showed; no whole request may have arrived.
            Fate::Refused => {
                assert_eq!(find(&received, MARK), None, "{name}");
                continue;
            }
            Fate::One(_) | Fate::Two => requests(&received),
        };
        match fate {
            Fate::One(body) => {
                assert_eq!(seen.len(), 1, "{name}: {seen:?}");
                assert_eq!(&seen[0].1, body, "{name}");
                assert_eq!(find(&received, MARK), None, "{name}");
            }
            Fate::Two => assert_eq!(seen.len(), 2, "{name}"),
            Fate::Refused => {}
        }
    }
}

/// Waits until the router has nothing to do with its clients any more.
async fn settle(world: &World) {
    let mut since = std::time::Instant::now();
    eventually("the router is idle", || {
        let is_idle = world.metric("pm_router_requests_in_flight") == 0.0
            && world.metric("pm_router_connections_open") == 0.0;
        if !is_idle {
            since = std::time::Instant::now();
        }
        since.elapsed() > Duration::from_millis(5)
    })
    .await;
}
