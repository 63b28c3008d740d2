//! Backends whose machine vanishes under a request: nothing ends, nothing answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reqwest::Method;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::harness::backend::{Application, Script};
use crate::harness::{PATIENCE, World, in_time, route};

/// Connections that the kernel takes for a listener that takes none: more than its backlog.
const WAITING: usize = 4;
/// A connection that is not there within this has found nobody.
const NOBODY: Duration = Duration::from_millis(300);

/// A machine that can be made to vanish: what is connected stays open, and new packets get nowhere.
struct Machine {
    address: SocketAddr,
    listener: TcpListener,
}

impl Machine {
    fn start() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        socket.listen(1).unwrap();
        socket.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(socket.into()).unwrap();
        Self {
            address: listener.local_addr().unwrap(),
            listener,
        }
    }

    /// Takes the router's connection, and nothing else ever again.
    async fn vanish(self) -> Vanished {
        let (taken, _) = in_time("the router connects", self.listener.accept())
            .await
            .unwrap();
        let mut kept = vec![taken];
        for _ in 0..WAITING {
            let connecting = TcpStream::connect(self.address);
            if let Ok(connected) = tokio::time::timeout(NOBODY, connecting).await {
                kept.push(connected.unwrap());
            }
        }
        assert!(kept.len() <= WAITING, "new connections are still taken");
        Vanished {
            _listener: self.listener,
            _kept: kept,
        }
    }
}

/// Keeps open what was.
struct Vanished {
    _listener: TcpListener,
    _kept: Vec<TcpStream>,
}

/// A request that is under way.
fn ask(world: &World, method: Method) -> JoinHandle<reqwest::Response> {
    let request = world.request(method, "one.test", "/");
    tokio::spawn(async move { request.send().await.unwrap() })
}

#[tokio::test]
async fn a_get_that_waits_for_a_vanished_machine_is_answered_by_another() {
    let machine = Machine::start();
    let address = machine.address;
    let other = Application::start("other").await;
    let world = World::start().await;
    world.publish(&[("one.test", route(&[(1, address)]))]).await;
    let waiting = ask(&world, Method::GET);
    let _vanished = machine.vanish().await;

    let left = Instant::now();
    world
        .publish(&[("one.test", route(&[(2, other.address)]))])
        .await;

    let answer = in_time("another answers", waiting).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "other");
    assert!(left.elapsed() < Duration::from_secs(8), "{left:?}");
}

#[tokio::test]
async fn a_post_that_waits_for_a_vanished_machine_is_not_sent_to_another() {
    let machine = Machine::start();
    let address = machine.address;
    let (other, received) = Script::recording(|_| None).await;
    let limit = Duration::from_secs(6);
    let world = World::start_with(|config| config.response_limit = limit).await;
    world.publish(&[("one.test", route(&[(1, address)]))]).await;
    let waiting = ask(&world, Method::POST);
    let _vanished = machine.vanish().await;

    world
        .publish(&[("one.test", route(&[(2, other.address)]))])
        .await;

    let answer = in_time("its time is over", waiting).await.unwrap();
    assert_eq!(answer.status(), 504);
    assert!(received.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_slow_backend_that_leaves_the_table_answers_what_it_has_begun() {
    let release = std::sync::Arc::new(tokio::sync::Notify::new());
    let released = std::sync::Arc::clone(&release);
    let slow = Script::start(move |mut stream, _| {
        let released = std::sync::Arc::clone(&released);
        async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).await;
            if read.is_ok_and(|read| read > 0) {
                released.notified().await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow";
                stream.write_all(answer).await.unwrap();
            }
        }
    })
    .await;
    let (other, received) = Script::recording(|_| None).await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, slow.address)]))])
        .await;
    let waiting = ask(&world, Method::GET);
    crate::harness::eventually("it is asked", || slow.connections() == 1).await;

    world
        .publish(&[("one.test", route(&[(2, other.address)]))])
        .await;
    // It is looked after once at least, which shows as a connection that nothing is asked over.
    crate::harness::eventually("it is looked after", || slow.connections() > 1).await;
    release.notify_one();

    let answer = tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    assert_eq!(answer.unwrap().text().await.unwrap(), "slow");
    assert!(received.lock().unwrap().is_empty());
}
