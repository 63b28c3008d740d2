//! WebSocket upgrades: tunnels that are opened, counted and closed.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::backend::{Application, Script};
use crate::harness::wire::{Wire, find};
use crate::harness::{World, eventually, in_time, route};

const ASK: &str = "GET /chat HTTP/1.1\r\nhost: one.test\r\nconnection: keep-alive, Upgrade\r\n\
                   upgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   sec-websocket-version: 13\r\n\r\n";
const AGREE: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\n\
                       upgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A backend that agrees to every upgrade and then echoes bytes.
async fn echo() -> (Script, Arc<Mutex<Vec<u8>>>) {
    let head: Arc<Mutex<Vec<u8>>> = Arc::default();
    let kept = Arc::clone(&head);
    let script = Script::start(move |mut stream: TcpStream, _| {
        let kept = Arc::clone(&kept);
        async move {
            let mut buffer = vec![0; 4096];
            let read = stream.read(&mut buffer).await.unwrap();
            kept.lock().unwrap().extend_from_slice(&buffer[..read]);
            stream.write_all(AGREE).await.unwrap();
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                stream.write_all(&buffer[..read]).await.unwrap();
            }
        }
    })
    .await;
    (script, head)
}

async fn open(world: &World) -> Wire {
    let mut wire = Wire::connect(world.address()).await;
    wire.send(ASK).await;
    let head = wire.read_head().await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(head.contains("connection: upgrade\r\n"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3p"), "{head}");
    wire
}

#[tokio::test]
async fn a_websocket_echoes_through_the_router() {
    let (backend, head) = echo().await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, backend.address)]))])
        .await;

    let mut wire = open(&world).await;
    for message in [&b"hello"[..], &[0, 255, 13, 10], &vec![7; 100_000]] {
        let (mut reader, mut writer) = wire.stream.split();
        let mut answer = vec![0; message.len()];
        let (sent, received) = in_time("the echo", async {
            tokio::join!(writer.write_all(message), reader.read_exact(&mut answer))
        })
        .await;
        sent.unwrap();
        received.unwrap();
        assert!(answer == message, "the bytes changed");
    }

    let head = String::from_utf8(head.lock().unwrap().clone()).unwrap();
    assert!(head.contains("connection: upgrade\r\n"), "{head}");
    assert!(head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(head.contains("x-forwarded-for: 127.0.0.1\r\n"), "{head}");
}

#[tokio::test]
async fn a_tunnel_counts_as_in_flight_until_it_ends() {
    let (backend, _) = echo().await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(7, backend.address)]))])
        .await;
    let wire = open(&world).await;

    world.publish(&[("one.test", route(&[]))]).await;
    assert_eq!(world.pacemaker.in_flight(7), Some(1));
    drop(wire);

    eventually("the tunnel's end is reported", || {
        world.pacemaker.in_flight(7) == Some(0)
    })
    .await;
}

#[tokio::test]
async fn nothing_is_forwarded_before_the_backend_agrees() {
    let (backend, received) = Script::recording(|_| None).await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, backend.address)]))])
        .await;

    let mut wire = Wire::connect(world.address()).await;
    wire.send(format!(
        "{ASK}GET /smuggled HTTP/1.1\r\nhost: one.test\r\n\r\n"
    ))
    .await;
    eventually("the request arrives", || {
        received
            .lock()
            .unwrap()
            .first()
            .is_some_and(|bytes| find(bytes, b"\r\n\r\n").is_some())
    })
    .await;
    drop(wire);
    eventually("the connection ends", || backend.connections() == 1).await;

    let received = received.lock().unwrap().clone();
    assert_eq!(find(&received[0], b"smuggled"), None);
    assert!(received[0].ends_with(b"\r\n\r\n"));
}

#[tokio::test]
async fn an_upgrade_that_is_refused_is_an_ordinary_answer() {
    let application = Application::start("plain").await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;

    let mut wire = Wire::connect(world.address()).await;
    wire.send(ASK.replace("/chat", "/")).await;
    let answer = wire.read_answer().await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"plain"[..]));
    wire.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
    assert_eq!(wire.read_answer().await.unwrap().status, 200);
}

#[tokio::test]
async fn no_other_protocol_is_tunnelled() {
    let application = Application::start("plain").await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;

    let mut wire = Wire::connect(world.address()).await;
    wire.send(
        "GET /headers HTTP/1.1\r\nhost: one.test\r\nconnection: upgrade, http2-settings\r\n\
         upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
    )
    .await;
    let answer = wire.read_answer().await.unwrap();

    let seen = String::from_utf8(answer.body).unwrap();
    assert_eq!(answer.status, 200);
    for gone in ["upgrade", "http2-settings", "connection"] {
        assert!(!seen.contains(gone), "{gone} in\n{seen}");
    }
}

#[tokio::test]
async fn an_unasked_101_is_a_bad_answer() {
    let backend = Script::start(|mut stream: TcpStream, _| async move {
        let mut buffer = [0; 1024];
        let _read = stream.read(&mut buffer).await;
        stream.write_all(AGREE).await.unwrap();
        let _read = stream.read(&mut buffer).await;
    })
    .await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, backend.address)]))])
        .await;

    let answer = world.get("one.test", "/").await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.headers()["x-pm-router-error"], "backend_protocol");
}

#[tokio::test]
async fn tunnels_end_with_the_drain() {
    let (backend, _) = echo().await;
    let world = World::start_with(|config| {
        config.drain_limit = std::time::Duration::from_millis(200);
    })
    .await;
    world
        .publish(&[("one.test", route(&[(1, backend.address)]))])
        .await;
    let mut wire = open(&world).await;

    let stopped = tokio::spawn(world.stop());
    assert_eq!(wire.read_to_end().await, b"");
    in_time("the router ends", stopped).await.unwrap();
}
