//! A process that may open no more files.

use std::fs::File;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpSocket;

use crate::harness::wire::Wire;
use crate::harness::{World, in_time};

/// Set for the process in which the limit is lowered: its other tests would suffer.
const INNER: &str = "ROUTER_TEST_DESCRIPTORS";
/// Clients that only sit there.
const IDLE_CLIENTS: usize = 8;

#[tokio::test]
async fn without_descriptors_idle_clients_make_room() {
    if std::env::var_os(INNER).is_some() {
        return use_up_descriptors().await;
    }
    let inner = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "descriptors::without_descriptors_idle_clients_make_room",
        ])
        .env(INNER, "1")
        .output();
    let output = in_time("the inner process ends", inner).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

async fn use_up_descriptors() {
    let world = World::start_with(|config| config.workers = 1).await;
    world.publish(&[]).await;
    let ask = "GET / HTTP/1.1\r\nhost: unknown.test\r\n\r\n";
    let mut idle = Vec::new();
    for _ in 0..IDLE_CLIENTS {
        let mut wire = Wire::connect(world.address()).await;
        wire.send(ask).await;
        assert_eq!(wire.read_answer().await.unwrap().status, 404);
        idle.push(wire);
    }
    let next = TcpSocket::new_v4().unwrap();
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(256);
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut used = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        used.push(file);
    }

    let stream = next.connect(world.address()).await.unwrap();
    let mut next = Wire::over(stream);
    next.send(ask).await;
    assert_eq!(next.read_answer().await.unwrap().status, 404);
    assert!(world.metric("pm_router_connections_evicted_total") >= 1.0);
}
