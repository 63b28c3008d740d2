//! Shutdown: nothing new is taken, what is in flight ends.

use std::time::Duration;

use crate::harness::backend::Application;
use crate::harness::wire::Wire;
use crate::harness::{World, eventually, in_time, route};

#[tokio::test]
async fn requests_in_flight_end_and_their_connections_close() {
    let application = Application::start("one").await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;
    let address = world.address();
    let mut idle = Wire::connect(address).await;
    idle.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
    assert_eq!(idle.read_answer().await.unwrap().status, 200);
    let mut busy = Wire::connect(address).await;
    busy.send("GET /wait HTTP/1.1\r\nhost: one.test\r\n\r\n")
        .await;
    eventually("the request arrives", || application.requests() == 2).await;

    let stopped = tokio::spawn(world.stop());
    assert_eq!(
        idle.read_to_end().await,
        b"",
        "idle connections close at once"
    );
    eventually("nobody is accepted", || {
        std::net::TcpStream::connect(address).is_err()
    })
    .await;
    application.open();

    let answer = busy.read_answer().await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"one"[..]));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(busy.read_to_end().await, b"");
    in_time("the router ends", stopped).await.unwrap();
}

#[tokio::test]
async fn the_drain_ends_at_its_limit() {
    let application = Application::start("one").await;
    let world = World::start_with(|config| config.drain_limit = Duration::from_millis(100)).await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;
    let mut busy = Wire::connect(world.address()).await;
    busy.send("GET /wait HTTP/1.1\r\nhost: one.test\r\n\r\n")
        .await;
    eventually("the request arrives", || application.requests() == 1).await;

    in_time("the router ends", world.stop()).await;
    assert!(busy.read_answer().await.is_none());
}

#[tokio::test]
async fn a_request_whose_head_has_begun_is_served_before_its_connection_closes() {
    let application = Application::start("one").await;
    let world = World::start_with(|config| config.workers = 1).await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;
    let mut kept = Wire::connect(world.address()).await;
    let mut other = Wire::connect(world.address()).await;
    for wire in [&mut kept, &mut other] {
        wire.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
        assert_eq!(wire.read_answer().await.unwrap().status, 200);
    }
    kept.send("GET / HTTP/1.1\r\nhost: one.").await;
    // What the only worker answers here came after the beginning above.
    other.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
    assert_eq!(other.read_answer().await.unwrap().status, 200);

    world.shutdown.cancel();
    assert_eq!(other.read_to_end().await, b"", "the drain has begun");
    kept.send("test\r\n\r\n").await;

    assert_eq!(kept.read_answer().await.unwrap().status, 200);
    assert_eq!(kept.read_to_end().await, b"");
    world.stop().await;
}
