//! An application that records every call, and answers as the path asks it to.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::id::InstanceId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(3_600);

/// How long `/slow` takes: several elections.
const SLOW: Duration = Duration::from_millis(900);

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) instance: InstanceId,
    pub(crate) method: String,
    pub(crate) uri: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// Calls of `/gate` that the caller had dropped when it came.
    pub(crate) dropped_before: u32,
}

impl Call {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn run(&self) -> u64 {
        self.header("pm-cron-run").parse().unwrap()
    }

    pub(crate) fn attempt(&self) -> u32 {
        self.header("pm-cron-attempt").parse().unwrap()
    }
}

/// Each instance has a port of its own; clones are the same.
#[derive(Clone)]
pub(crate) struct Receiver(Arc<Inner>);

struct Inner {
    calls: Mutex<Vec<Call>>,
    instances: Mutex<BTreeMap<InstanceId, (u16, JoinHandle<()>)>>,
    /// `/gate` answers once this is true.
    gate: watch::Sender<bool>,
    /// Calls of `/gate` whose connection was closed before.
    dropped: watch::Sender<u32>,
    runtime: tokio::runtime::Handle,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            calls: Mutex::default(),
            instances: Mutex::default(),
            gate: watch::Sender::new(false),
            dropped: watch::Sender::new(0),
            runtime: tokio::runtime::Handle::current(),
        }))
    }

    /// The port of an instance, which listens from the first question on.
    pub(crate) fn port(&self, instance: InstanceId) -> u16 {
        let mut instances = self.0.instances.lock().unwrap();
        if let Some((port, _)) = instances.get(&instance) {
            return *port;
        }
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let receiver = self.clone();
        let task = self.0.runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(receiver.clone().serve(instance, stream));
            }
        });
        instances.insert(instance, (port, task));
        port
    }

    /// Refuses connections to an instance from now on.
    pub(crate) fn refuse(&self, instance: InstanceId) {
        let instances = self.0.instances.lock().unwrap();
        instances[&instance].1.abort();
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.0.calls.lock().unwrap().clone()
    }

    pub(crate) fn calls_of(&self, uri: &str) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|call| call.uri == uri);
        calls
    }

    /// Lets `/gate` answer, or not.
    pub(crate) fn open_gate(&self, is_open: bool) {
        self.0.gate.send_replace(is_open);
    }

    /// How many calls of `/gate` were dropped by the caller.
    pub(crate) fn dropped(&self) -> u32 {
        *self.0.dropped.borrow()
    }

    async fn serve(self, instance: InstanceId, mut stream: TcpStream) {
        let Some(mut call) = read(instance, &mut stream).await else {
            return;
        };
        call.dropped_before = self.dropped();
        let uri = call.uri.clone();
        let here = stream.local_addr().unwrap();
        self.0.calls.lock().unwrap().push(call);
        // A caller that has gone away is no fault of the receiver.
        self.answer(&uri, here, &mut stream).await.unwrap_or(());
    }

    async fn answer(
        &self,
        uri: &str,
        here: SocketAddr,
        stream: &mut TcpStream,
    ) -> std::io::Result<()> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        match path {
            "/gate" => {
                let mut gate = self.0.gate.subscribe();
                let mut byte = [0];
                tokio::select! {
                    _ = gate.wait_for(|is_open| *is_open) => {}
                    _ = stream.read(&mut byte) => {
                        self.0.dropped.send_modify(|dropped| *dropped += 1);
                        return Ok(());
                    }
                }
                say(stream, "200 OK", "", "opened").await
            }
            "/slow" => {
                let end = tokio::time::Instant::now() + SLOW;
                tokio::time::sleep_until(end).await;
                say(stream, "200 OK", "", "at last").await
            }
            "/fail" => say(stream, "500 Internal Server Error", "", "sorry").await,
            "/moved" => {
                let location = query.replace("HERE", &here.to_string());
                say(
                    stream,
                    "302 Found",
                    &format!("Location: {location}\r\n"),
                    "",
                )
                .await
            }
            "/loop" => say(stream, "302 Found", "Location: /loop\r\n", "").await,
            "/continue" => {
                let early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n";
                stream.write_all(early).await?;
                say(stream, "200 OK", "", "in the end").await
            }
            "/old" => stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nold words").await,
            "/ok" => say(stream, "200 OK", "X-Seen: yes\r\n", "done").await,
            _ => misbehave(path, stream).await,
        }
    }
}

async fn misbehave(path: &str, stream: &mut TcpStream) -> std::io::Result<()> {
    match path {
        "/hang" => {
            tokio::time::timeout(FOREVER, std::future::pending::<()>())
                .await
                .ok();
            Ok(())
        }
        "/close" => Ok(()),
        "/garbage" => {
            stream
                .write_all(b"\x16\x03\x01 hello, this is no HTTP\r\n\r\n")
                .await
        }
        "/bomb" => {
            let line = format!("x-bomb: {}\r\n", "b".repeat(4_000));
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            for _ in 0..10_000 {
                stream.write_all(line.as_bytes()).await?;
            }
            Ok(())
        }
        "/headers" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            for number in 0..500 {
                stream
                    .write_all(format!("x-{number}: y\r\n").as_bytes())
                    .await?;
            }
            stream.write_all(b"Content-Length: 0\r\n\r\n").await
        }
        "/short" => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes!")
                .await
        }
        "/trickle" => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                .await?;
            let mut interval = tokio::time::interval(Duration::from_millis(20));
            loop {
                interval.tick().await;
                stream.write_all(b"x").await?;
            }
        }
        "/huge" => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
                .await?;
            let part = vec![b'x'; 1 << 20];
            loop {
                stream.write_all(&part).await?;
            }
        }
        _ => panic!("the receiver knows no {path}"),
    }
}

async fn say(
    stream: &mut TcpStream,
    status: &str,
    headers: &str,
    body: &str,
) -> std::io::Result<()> {
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await
}

/// The head of a request; crons send no bodies.
async fn read(instance: InstanceId, stream: &mut TcpStream) -> Option<Call> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut part = [0; 4_096];
        let count = stream
            .read(&mut part)
            .await
            .ok()
            .filter(|count| *count > 0)?;
        head.extend_from_slice(&part[..count]);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let headers = lines.filter_map(|line| line.split_once(": "));
    Some(Call {
        instance,
        method: first.next()?.to_owned(),
        uri: first.next()?.to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
        dropped_before: 0,
    })
}
