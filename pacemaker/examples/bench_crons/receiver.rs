//! A heart that obeys at once, and the instances that it says are running.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use common::assignment::{
    Assignment, HeartReport, InstanceReport, REPORT_INTERVAL, Report, RouterReport,
};
use common::id::{Generation, InstanceId, NodeId};
use common::instance::{InstanceGoal, InstanceState};
use common::time::Span;
use pacemaker_client::Client;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Fallible;
use crate::times::pause;

/// Between two tries to report.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// The header with the slot.
const SCHEDULED: &str = "pm-cron-scheduled: ";

/// A heart and a router that obey at once.
pub(crate) async fn obey(client: Client, node: NodeId, receiver: Receiver) -> Fallible<()> {
    let mut held = Assignment {
        cluster: String::new(),
        node_ttl: Span(0),
        node,
        term: 0,
        generation: Generation(0),
        instances: Vec::new(),
        builds: Vec::new(),
    };
    let mut routes = Generation(0);
    for sequence in 1.. {
        let mut instances = Vec::new();
        for instance in &held.instances {
            let is_running = instance.goal == InstanceGoal::Running;
            instances.push(InstanceReport {
                id: instance.id,
                state: if is_running {
                    InstanceState::Running
                } else {
                    InstanceState::Registered
                },
                port: if is_running {
                    Some(receiver.port(instance.id)?)
                } else {
                    None
                },
                pid: is_running.then_some(1),
                restarts: 0,
                failure: None,
            });
        }
        let report = Report {
            cluster: String::new(),
            node,
            heart: Some(HeartReport {
                incarnation: 1,
                sequence,
                assignment: held.generation,
                instances,
                ..HeartReport::default()
            }),
            router: Some(RouterReport {
                incarnation: 1,
                sequence,
                routes,
                in_flight: BTreeMap::new(),
            }),
        };
        while client.report(&report).await.is_err() {
            pause(RETRY_INTERVAL).await;
        }
        tokio::select! {
            newer = client.watch_assignment(node, held.generation) => {
                if let Ok(Some(newer)) = newer {
                    held = newer;
                }
            }
            newer = client.watch_routes(routes) => {
                if let Ok(Some(newer)) = newer {
                    routes = newer.generation;
                }
            }
            () = pause(REPORT_INTERVAL.duration()) => {}
        }
    }
    Ok(())
}

/// A request that has arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) at: SystemTime,
    /// Its slot, milliseconds since 1970 by the clock of crons.
    pub(crate) scheduled: u64,
}

/// All instances; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Receiver {
    ports: Arc<Mutex<BTreeMap<InstanceId, u16>>>,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
}

impl Receiver {
    /// Where an instance listens, from the first question on.
    fn port(&self, instance: InstanceId) -> Fallible<u16> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(port) = ports.get(&instance) {
            return Ok(*port);
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        ports.insert(instance, port);
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let receiver = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(receiver.clone().answer(stream));
            }
        });
        Ok(port)
    }

    /// A request of a cron fits into one read.
    async fn answer(self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = [0; 2_048];
        let length = stream.read(&mut head).await?;
        if length > 0 {
            let arrival = Arrival {
                at: SystemTime::now(),
                scheduled: scheduled(&head[..length]).unwrap_or_default(),
            };
            self.locked().push(arrival);
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
            .await
    }

    pub(crate) fn count(&self) -> usize {
        self.locked().len()
    }

    /// What has arrived since the last time.
    pub(crate) fn take(&self) -> Vec<Arrival> {
        std::mem::take(&mut *self.locked())
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Arrival>> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slot that a request says it is for.
fn scheduled(head: &[u8]) -> Option<u64> {
    let head = str::from_utf8(head).ok()?;
    let line = head.lines().find_map(|line| line.strip_prefix(SCHEDULED))?;
    let time: jiff::Timestamp = line.trim().parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}
