//! Backends that die, hang or lie, and clients that go away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::harness::backend::{Application, Script};
use crate::harness::wire::Wire;
use crate::harness::{World, eventually, route};

/// Reads one request's head and lets the connection close.
async fn read_and_close(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    let _read = stream.read(&mut buffer).await;
}

#[tokio::test]
async fn a_backend_that_refuses_is_answered_for_by_another() {
    let gone = Application::start("gone").await.stop().await;
    let alive = Application::start("alive").await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, gone.address), (2, alive.address)]))])
        .await;

    for _ in 0..50 {
        let answer = world
            .request(reqwest::Method::POST, "one.test", "/echo")
            .body("payload")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await.unwrap(), "payload");
    }
}

#[tokio::test]
async fn an_application_that_refuses_everywhere_is_a_502() {
    let gone = Application::start("gone").await.stop().await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, gone.address)]))])
        .await;

    let answer = world.get("one.test", "/").await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.headers()["x-pm-router-error"], "backend_refused");
}

#[tokio::test]
async fn a_get_without_an_answer_is_sent_to_another_backend_once() {
    let dying = Script::start(|stream, _| read_and_close(stream)).await;
    let alive = Application::start("alive").await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, dying.address), (2, alive.address)]))])
        .await;

    for _ in 0..50 {
        assert_eq!(world.text("one.test").await, "alive");
    }
    assert!(dying.connections() > 0, "the dying backend was never asked");
}

#[tokio::test]
async fn a_get_that_kills_backends_kills_no_more_than_two() {
    let asked = Arc::new(AtomicUsize::new(0));
    let mut scripts = Vec::new();
    for _ in 0..4 {
        let asked = Arc::clone(&asked);
        let script = Script::start(move |stream, _| {
            asked.fetch_add(1, Ordering::SeqCst);
            read_and_close(stream)
        });
        scripts.push(script.await);
    }
    let backends: Vec<_> = (1..)
        .zip(scripts.iter().map(|script| script.address))
        .collect();
    let world = World::start().await;
    world.publish(&[("one.test", route(&backends))]).await;

    let answer = world.get("one.test", "/").await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.headers()["x-pm-router-error"], "backend_closed");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_post_is_never_sent_twice() {
    let posts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&posts);
    let dying = Script::start(move |stream, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        read_and_close(stream)
    })
    .await;
    let other = Script::start({
        let counted = Arc::clone(&posts);
        move |stream, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            read_and_close(stream)
        }
    })
    .await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, dying.address), (2, other.address)]))])
        .await;

    for sent in 1..=20 {
        let post = world.request(reqwest::Method::POST, "one.test", "/");
        let answer = match sent % 2 {
            0 => post.body("payload").send().await.unwrap(),
            _ => post.send().await.unwrap(),
        };
        assert_eq!(answer.status(), 502);
        assert_eq!(answer.headers()["x-pm-router-error"], "backend_closed");
        assert_eq!(posts.load(Ordering::SeqCst), sent);
    }
}

#[tokio::test]
async fn connections_that_backends_close_when_idle_fail_no_request() {
    // Answers once and closes the connection a moment later, without having said so.
    let backend = Script::start(|mut stream: TcpStream, _| async move {
        let mut buffer = [0; 4096];
        if let Ok(1..) = stream.read(&mut buffer).await {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await
                .unwrap();
        }
    })
    .await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, backend.address)]))])
        .await;

    let mut wire = Wire::connect(world.address()).await;
    for number in 0..300 {
        wire.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
        let answer = wire.read_answer().await.unwrap();
        assert_eq!(answer.status, 200, "request {number}: {}", answer.head);
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_dying_backend_that_still_accepts_fails_no_request() {
    let is_dying = Arc::new(AtomicBool::new(false));
    let dies = Arc::clone(&is_dying);
    let dying = Script::start(move |mut stream: TcpStream, _| {
        let dies = Arc::clone(&dies);
        async move {
            let mut buffer = [0; 4096];
            while let Ok(1..) = stream.read(&mut buffer).await {
                if dies.load(Ordering::SeqCst) {
                    return;
                }
                stream.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    // As busy as the dying one with the request under way, so that a retry may go to either.
    let hanging = Arc::new(Notify::new());
    let hangs = Arc::clone(&hanging);
    let busy = Script::start(move |mut stream: TcpStream, _| {
        let hangs = Arc::clone(&hangs);
        async move {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                if buffer[..count].starts_with(b"GET /hang ") {
                    hangs.notify_one();
                    std::future::pending::<()>().await;
                }
                stream.write_all(OK).await.unwrap();
            }
        }
    })
    .await;

    for _ in 0..20 {
        is_dying.store(false, Ordering::SeqCst);
        let world = World::start().await;
        world
            .publish(&[("one.test", route(&[(1, dying.address), (2, busy.address)]))])
            .await;
        let mut hung = Wire::connect(world.address()).await;
        loop {
            hung.send("GET /hang HTTP/1.1\r\nhost: one.test\r\n\r\n")
                .await;
            tokio::select! {
                answer = hung.read_answer() => assert!(answer.is_some()),
                () = hanging.notified() => break,
            }
        }

        assert_eq!(world.text("one.test").await, "ok");
        is_dying.store(true, Ordering::SeqCst);
        for _ in 0..8 {
            assert_eq!(world.text("one.test").await, "ok");
        }
    }
}

async fn truncated(answer: &'static [u8]) -> (World, Script) {
    let backend = Script::start(move |mut stream: TcpStream, _| async move {
        let mut buffer = [0; 4096];
        let _read = stream.read(&mut buffer).await;
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, backend.address)]))])
        .await;
    (world, backend)
}

#[tokio::test]
async fn a_truncated_body_is_an_error_for_the_client() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nonly this\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n64\r\nonly this",
    ] {
        let (world, _backend) = truncated(answer).await;
        let request = world.request(reqwest::Method::GET, "one.test", "/");
        // The end may overtake the head, which has not been written then.
        if let Ok(response) = request.send().await {
            assert_eq!(response.status(), 200);
            assert!(response.bytes().await.is_err(), "a clean end");
        }
    }
}

#[tokio::test]
async fn a_truncated_body_is_no_clean_end_for_an_http_1_0_client_either() {
    let (world, _backend) =
        truncated(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nonly this\r\n").await;
    let mut wire = Wire::connect(world.address()).await;
    wire.send("GET / HTTP/1.0\r\nhost: one.test\r\n\r\n").await;

    let mut answer = Vec::new();
    let end = wire.stream.read_to_end(&mut answer).await;
    assert!(end.is_err(), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn an_upload_that_goes_on_may_take_longer_than_an_answer() {
    let application = Application::start("one").await;
    let world = World::start_with(|config| {
        config.response_limit = Duration::from_secs(2);
    })
    .await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;
    let mut wire = Wire::connect(world.address()).await;
    wire.send("POST /collect HTTP/1.1\r\nhost: one.test\r\ncontent-length: 8\r\n\r\n")
        .await;

    let mut pause = tokio::time::interval(Duration::from_millis(400));
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..8 {
        pause.tick().await;
        wire.send("x").await;
    }
    assert_eq!(wire.read_answer().await.unwrap().body, b"xxxxxxxx");
}

#[tokio::test]
async fn half_a_head_is_a_502() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\ncontent-le"[..],
        b"",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let (world, _backend) = truncated(answer).await;
        let response = world.get("one.test", "/").await;
        assert_eq!(response.status(), 502);
    }
}

#[tokio::test]
async fn a_backend_that_does_not_answer_in_time_is_a_504() {
    let silent = Script::start(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let world = World::start_with(|config| {
        config.response_limit = Duration::from_millis(100);
    })
    .await;
    world
        .publish(&[("one.test", route(&[(1, silent.address)]))])
        .await;

    let answer = world.get("one.test", "/").await;
    assert_eq!(answer.status(), 504);
    assert_eq!(answer.headers()["x-pm-router-error"], "backend_timeout");
    eventually("it was asked", || silent.connections() > 0).await;
    assert_eq!(silent.connections(), 1, "it was not asked again");
}

#[tokio::test]
async fn a_client_that_goes_away_frees_the_backend_and_ejects_nobody() {
    let application = Application::start("one").await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;

    for expected in 1..=20 {
        let mut wire = Wire::connect(world.address()).await;
        wire.send("GET /wait HTTP/1.1\r\nhost: one.test\r\n\r\n")
            .await;
        eventually("the request arrives", || application.requests() == expected).await;
    }
    eventually("nothing is in flight", || {
        world.metric("pm_router_requests_in_flight") == 0.0
    })
    .await;

    assert_eq!(world.text("one.test").await, "one");
    assert_eq!(world.metric("pm_router_ejections_total"), 0.0);
}
