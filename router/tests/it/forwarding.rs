//! What arrives at the other side: headers, bodies both ways, backpressure.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::backend::{Application, Script};
use crate::harness::wire::Wire;
use crate::harness::{World, client, eventually, in_time, route};

/// More than every buffer on the way together: sockets, hyper, the router.
const FAR_TOO_MUCH: usize = 256 * 1024 * 1024;
/// What may be under way between a sender and a receiver that does not read.
const IN_BUFFERS_MAX: usize = 32 * 1024 * 1024;

#[tokio::test]
async fn the_backend_learns_who_asked_and_nothing_that_a_stranger_forged() {
    let application = Application::start("one").await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;

    let seen = world
        .request(reqwest::Method::GET, "One.test:80", "/headers")
        .header("x-forwarded-for", "10.9.9.9")
        .header("x_forwarded_for", "10.9.9.9")
        .header("forwarded", "for=10.9.9.9")
        .header("x-request-id", "forged")
        .header("connection", "x-drop-me")
        .header("x-drop-me", "1")
        .header("proxy-authorization", "Basic eA==")
        .header("traceparent", "00-1-2-01")
        .header("cookie", "a=b")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();

    for line in [
        "host: One.test:80",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: One.test:80",
        &format!("x-forwarded-port: {}", world.address().port()),
        "traceparent: 00-1-2-01",
        "cookie: a=b",
    ] {
        assert!(seen.lines().any(|found| found == line), "{line} in\n{seen}");
    }
    for gone in [
        "10.9.9.9",
        "forged",
        "x-drop-me",
        "proxy-authorization",
        "via:",
    ] {
        assert!(!seen.contains(gone), "{gone} in\n{seen}");
    }
}

#[tokio::test]
async fn a_trusted_clients_word_is_passed_on() {
    let application = Application::start("one").await;
    let world = World::start_with(|config| {
        config.trusted_clients = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;

    let seen = world
        .request(reqwest::Method::GET, "one.test", "/headers")
        .header("x-forwarded-for", "10.9.9.9")
        .header("x-forwarded-proto", "https")
        .header("x-request-id", "theirs")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();

    for line in [
        "x-forwarded-for: 10.9.9.9, 127.0.0.1",
        "x-forwarded-proto: https",
        "x-request-id: theirs",
    ] {
        assert!(seen.lines().any(|found| found == line), "{line} in\n{seen}");
    }
}

#[tokio::test]
async fn hop_by_hop_headers_of_a_response_stay_behind() {
    let backend = Script::start(|mut stream: TcpStream, _| async move {
        let mut wire = [0; 1024];
        let _read = stream.read(&mut wire).await;
        stream
            .write_all(
                b"HTTP/1.1 200 OK\r\nconnection: x-mine, close\r\nx-mine: 1\r\nkeep-alive: timeout=5\r\n\
                  proxy-authenticate: Basic\r\nx-other: 2\r\ncontent-length: 2\r\n\r\nhi",
            )
            .await
            .unwrap();
    })
    .await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, backend.address)]))])
        .await;

    let mut wire = Wire::connect(world.address()).await;
    wire.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
    let answer = wire.read_answer().await.unwrap();

    assert_eq!(answer.body, b"hi");
    assert_eq!(answer.header("x-other"), Some("2"));
    for gone in ["x-mine", "keep-alive", "proxy-authenticate", "connection"] {
        assert_eq!(answer.header(gone), None, "{gone}");
    }
}

#[tokio::test]
async fn large_bodies_pass_both_ways_unchanged() {
    let application = Application::start("one").await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;
    let body: Vec<u8> = (0..=250).cycle().take(8_000_000).collect();

    for _ in 0..2 {
        let answer = world
            .request(reqwest::Method::POST, "one.test", "/echo")
            .body(body.clone())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.bytes().await.unwrap() == body, "the body changed");
    }
}

#[tokio::test]
async fn a_conversation_goes_both_ways_at_once() {
    let application = Application::start("one").await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;
    let (send, receive) = tokio::sync::mpsc::channel::<Result<&'static str, std::io::Error>>(1);
    let body = reqwest::Body::wrap_stream(futures_util::stream::unfold(
        receive,
        async |mut receive| receive.recv().await.map(|item| (item, receive)),
    ));

    send.send(Ok("one")).await.unwrap();
    let mut answer = client()
        .post(format!("http://{}/echo", world.address()))
        .header("host", "one.test")
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "one");
    send.send(Ok("two")).await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "two");
    drop(send);
    assert_eq!(in_time("the end", answer.chunk()).await.unwrap(), None);
}

/// Waits until `count` stops growing and returns where it stopped.
async fn plateau(count: &AtomicUsize) -> usize {
    let mut before = usize::MAX;
    let mut since = std::time::Instant::now();
    eventually("the sender is held up", || {
        let now = count.load(Ordering::SeqCst);
        if now != before {
            before = now;
            since = std::time::Instant::now();
        }
        now > 0 && since.elapsed() > Duration::from_millis(300)
    })
    .await;
    before
}

#[tokio::test]
async fn a_slow_reader_holds_the_backend_up() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let backend = Script::start(move |mut stream: TcpStream, _| {
        let counted = Arc::clone(&counted);
        async move {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {FAR_TOO_MUCH}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let block = vec![b'x'; 64 * 1024];
            for _ in 0..FAR_TOO_MUCH / block.len() {
                if stream.write_all(&block).await.is_err() {
                    return;
                }
                counted.fetch_add(block.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, backend.address)]))])
        .await;

    let mut wire = Wire::connect(world.address()).await;
    wire.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
    assert!(wire.read_head().await.is_some());

    let stopped_at = plateau(&sent).await;
    assert!(stopped_at < IN_BUFFERS_MAX, "{stopped_at} bytes were taken");
}

#[tokio::test]
async fn a_slow_backend_holds_the_upload_up() {
    let backend = Script::start(|stream: TcpStream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, backend.address)]))])
        .await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let mut wire = Wire::connect(world.address()).await;
    wire.send(format!(
        "POST / HTTP/1.1\r\nhost: one.test\r\ncontent-length: {FAR_TOO_MUCH}\r\n\r\n"
    ))
    .await;
    let upload = tokio::spawn(async move {
        let block = vec![b'x'; 64 * 1024];
        while wire.stream.write_all(&block).await.is_ok() {
            counted.fetch_add(block.len(), Ordering::SeqCst);
        }
    });

    let stopped_at = plateau(&sent).await;
    assert!(stopped_at < IN_BUFFERS_MAX, "{stopped_at} bytes were taken");
    upload.abort();
}

#[tokio::test]
async fn head_and_empty_answers_leave_the_connection_usable() {
    let application = Application::start("one").await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;

    let mut wire = Wire::connect(world.address()).await;
    for _ in 0..3 {
        wire.send("HEAD / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
        let head = wire.read_head().await.unwrap();
        assert!(head.contains("content-length: 3"), "{head}");
        wire.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
        assert_eq!(wire.read_answer().await.unwrap().body, b"one");
    }
}

#[tokio::test]
async fn a_client_that_expects_100_gets_one() {
    let application = Application::start("one").await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;

    let mut wire = Wire::connect(world.address()).await;
    for _ in 0..2 {
        wire.send(
            "POST /echo HTTP/1.1\r\nhost: one.test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n",
        )
        .await;
        let interim = wire.read_head().await.unwrap();
        assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
        wire.send("body").await;
        let answer = wire.read_answer().await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"body"[..]));
    }
}
