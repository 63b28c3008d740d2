//! Clients that are slow on purpose, too large or too many.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::harness::backend::Application;
use crate::harness::wire::Wire;
use crate::harness::{World, eventually, in_time, route};

#[tokio::test]
async fn a_head_that_trickles_is_cut_off_while_others_are_served() {
    let application = Application::start("one").await;
    let world = World::start_with(|config| config.head_limit = Duration::from_secs(3)).await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;
    let mut slow = Vec::new();
    for beginning in [
        "",
        "G",
        "GET / HTTP/1.1\r\nhost: one.te",
        "PRI * HTTP/2.0\r\n",
    ] {
        let mut wire = Wire::connect(world.address()).await;
        wire.send(beginning).await;
        slow.push(wire);
    }
    let mut kept = Wire::connect(world.address()).await;
    kept.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
    assert_eq!(kept.read_answer().await.unwrap().status, 200);

    for wire in slow {
        let mut trickle = 0;
        eventually("the slow client is cut off", || {
            trickle += 1;
            if trickle % 100 == 0 {
                // A failure is the end that is waited for.
                let _sent = wire.stream.try_write(b"x");
            }
            matches!(wire.stream.try_read(&mut [0; 64]), Ok(0)) || was_reset(&wire)
        })
        .await;
    }
    assert!(world.metric("pm_router_connections_timed_out_total") >= 4.0);
    kept.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
    assert_eq!(
        kept.read_answer().await.unwrap().status,
        200,
        "an idle connection stays"
    );
}

fn was_reset(wire: &Wire) -> bool {
    matches!(
        wire.stream.try_read(&mut [0; 64]),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset
    )
}

#[tokio::test]
async fn an_idle_connection_is_closed_cleanly() {
    let application = Application::start("one").await;
    let world = World::start_with(|config| config.idle_limit = Duration::from_secs(1)).await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;

    let mut wire = Wire::connect(world.address()).await;
    wire.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
    assert_eq!(wire.read_answer().await.unwrap().status, 200);
    assert_eq!(wire.read_to_end().await, b"");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let application = Application::start("one").await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;

    let long = format!("x-long: {}\r\n", "a".repeat(70_000));
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    for headers in [long, many] {
        let mut wire = Wire::connect(world.address()).await;
        let request = format!("GET / HTTP/1.1\r\nhost: one.test\r\n{headers}\r\n");
        // The router may answer and close before all is written.
        let _sent = wire.stream.write_all(request.as_bytes()).await;
        let answer = wire.read_answer().await;
        assert!(
            answer.is_none_or(|answer| answer.status == 431),
            "it was forwarded"
        );
    }
    assert_eq!(application.requests(), 0);
}

#[tokio::test]
async fn a_response_that_an_http_2_client_does_not_take_frees_its_backend() {
    let application = Application::start("one").await;
    let world = World::start_with(|config| config.write_limit = Duration::from_secs(1)).await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .http2_initial_stream_window_size(65_535)
        .http2_initial_connection_window_size(1024 * 1024)
        .resolve("one.test", world.address())
        .build()
        .unwrap();
    let url = |path: &str| format!("http://one.test:{}{path}", world.address().port());

    let large = client.post(url("/collect")).body(vec![b'x'; 1024 * 1024]);
    let left_lying = large.send().await.unwrap();
    assert_eq!(left_lying.status(), 200);
    eventually("the router gives it up", || {
        world.metric("pm_router_responses_stalled_total") == 1.0
            && world.metric("pm_router_requests_in_flight") == 0.0
    })
    .await;

    let other = client.get(url("/")).send().await.unwrap();
    assert_eq!(other.text().await.unwrap(), "one");
    assert_eq!(world.metric("pm_router_connections_accepted_total"), 1.0);
    let end = in_time("the end of the response", left_lying.bytes()).await;
    assert!(end.is_err(), "it looked whole");
}

async fn with_two_places() -> (Application, World) {
    let application = Application::start("one").await;
    let world = World::start_with(|config| {
        config.workers = 1;
        config.connections_max = 2;
    })
    .await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;
    (application, world)
}

#[tokio::test]
async fn when_all_places_are_busy_the_next_client_waits() {
    let (application, world) = with_two_places().await;
    let mut busy = Vec::new();
    for arrived in 1..=2 {
        let mut wire = Wire::connect(world.address()).await;
        wire.send("GET /wait HTTP/1.1\r\nhost: one.test\r\n\r\n")
            .await;
        eventually("the request arrives", || application.requests() == arrived).await;
        busy.push(wire);
    }

    let mut waiting = Wire::connect(world.address()).await;
    waiting
        .send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n")
        .await;
    assert_eq!(world.metric("pm_router_connections_accepted_total"), 2.0);
    busy.pop();

    assert_eq!(waiting.read_answer().await.unwrap().status, 200);
    application.open();
    application.open();
    assert_eq!(busy[0].read_answer().await.unwrap().status, 200);
}

#[tokio::test]
async fn clients_that_only_sit_there_keep_nobody_out() {
    let (application, world) = with_two_places().await;
    let mut idle = Wire::connect(world.address()).await;
    idle.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
    assert_eq!(idle.read_answer().await.unwrap().status, 200);
    let mut slow = Wire::connect(world.address()).await;
    slow.send("GET / HTT").await;

    // Each stays, so that the next one finds no place but one that is made for it.
    let mut staying = Vec::new();
    for _ in 0..5 {
        let mut next = Wire::connect(world.address()).await;
        next.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
        assert_eq!(next.read_answer().await.unwrap().status, 200);
        staying.push(next);
    }
    assert_eq!(application.requests(), 6);
    assert!(world.metric("pm_router_connections_evicted_total") >= 2.0);
    assert_eq!(idle.read_to_end().await, b"");
}

#[tokio::test]
async fn one_connection_with_many_requests_takes_no_more_than_its_worker_has() {
    let (application, world) = with_two_places().await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .resolve("one.test", world.address())
        .build()
        .unwrap();
    let url = |path: &str| format!("http://one.test:{}{path}", world.address().port());
    let mut waiting = Vec::new();
    for arrived in 1..=2 {
        waiting.push(tokio::spawn(client.get(url("/wait")).send()));
        eventually("the request arrives", || application.requests() == arrived).await;
    }

    let refused = client.get(url("/")).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["x-pm-router-error"], "overloaded");
    assert_eq!(application.requests(), 2);

    for request in waiting {
        application.open();
        let answer = request.await.unwrap().unwrap();
        assert_eq!(answer.text().await.unwrap(), "one");
    }
    assert_eq!(client.get(url("/")).send().await.unwrap().status(), 200);
}
