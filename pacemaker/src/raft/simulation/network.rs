//! The network between machines: slow, lossy, cut in one direction or in both, as told.
//!
//! A request that is lost, or whose answer is, is never answered; the caller gives up when its time
//! is over. A machine without a process refuses at once, one that dies while it works breaks the
//! connection.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, pending};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use tokio::time::timeout;

use crate::raft::simulation::machine::{Machine, Running};
use crate::raft::simulation::random::Random;
use crate::raft::simulation::runtime::{pass, spawn};
use crate::raft::simulation::witness::Witness;
use crate::raft::types::{Seat, SnapshotBytes, TypeConfig};

/// Where the clients are: near every machine.
pub(crate) const CLIENTS: u64 = 0;

/// All machines and what lies between them.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) random: Arc<Random>,
    pub(crate) witness: Arc<Witness>,
    machines: Mutex<BTreeMap<u64, Arc<Machine>>>,
    weather: Mutex<Weather>,
}

/// How the network is.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    /// From, to.
    pub(crate) cut: BTreeSet<(u64, u64)>,
    /// Percent of messages between machines that are lost.
    pub(crate) loss: u64,
    /// Percent of requests that arrive once more, later.
    pub(crate) repeated: u64,
    /// Percent of messages that take [`Weather::slowly`].
    pub(crate) slow: u64,
    /// Milliseconds on the way.
    pub(crate) delay: Range<u64>,
    /// Milliseconds on the way, now and then.
    pub(crate) slowly: Range<u64>,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            cut: BTreeSet::new(),
            loss: 0,
            repeated: 1,
            slow: 1,
            delay: 0..3,
            slowly: 5..60,
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lost {
    /// The machine has no process.
    #[error("refused")]
    Refused,
    /// Nothing came back in time.
    #[error("silent")]
    Silent,
    /// The process ended while it worked.
    #[error("broken")]
    Broken,
}

impl Network {
    /// Without machines.
    pub(crate) fn new(random: Arc<Random>, witness: Arc<Witness>) -> Self {
        Self {
            random,
            witness,
            machines: Mutex::default(),
            weather: Mutex::default(),
        }
    }

    /// Connects a machine.
    pub(crate) fn connect(&self, machine: Arc<Machine>) {
        let mut machines = self.machines.lock().expect("one thread");
        machines.insert(machine.id, machine);
    }

    /// A machine by its number.
    pub(crate) fn machine(&self, id: u64) -> Option<Arc<Machine>> {
        let machines = self.machines.lock().expect("one thread");
        machines.get(&id).map(Arc::clone)
    }

    /// All machines.
    pub(crate) fn machines(&self) -> Vec<Arc<Machine>> {
        let machines = self.machines.lock().expect("one thread");
        machines.values().map(Arc::clone).collect()
    }

    /// The weather, to be changed.
    pub(crate) fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().expect("one thread runs the simulation")
    }

    /// Cuts one direction.
    pub(crate) fn cut(&self, from: u64, to: u64) {
        self.witness.note(format_args!("cut {from}>{to}"));
        self.weather().cut.insert((from, to));
    }

    /// Mends one direction.
    pub(crate) fn mend(&self, from: u64, to: u64) {
        self.witness.note(format_args!("mend {from}>{to}"));
        self.weather().cut.remove(&(from, to));
    }

    /// Cuts all links between two groups.
    pub(crate) fn part(&self, some: &[u64], others: &[u64]) {
        for &one in some {
            for &other in others {
                self.cut(one, other);
                self.cut(other, one);
            }
        }
    }

    /// Good weather everywhere.
    pub(crate) fn clear(&self) {
        self.witness.note("the network heals");
        *self.weather() = Weather::default();
    }

    /// Asks the process of machine `to` to do something, and brings back the answer.
    pub(crate) async fn call<A, F>(
        &self,
        (from, to): (u64, u64),
        patience: Duration,
        work: impl FnOnce(Running) -> F,
    ) -> Result<A, Lost>
    where
        A: Send + 'static,
        F: Future<Output = A> + Send + 'static,
    {
        let exchange = async {
            self.pass(from, to).await;
            let running = self.machine(to).and_then(|machine| machine.running());
            let answer = match running {
                None => Err(Lost::Refused),
                Some(running) => {
                    let process = running.process.clone();
                    let work = process.spawn(work(running));
                    work.await.map_err(|_| Lost::Broken)
                }
            };
            self.pass(to, from).await;
            answer
        };
        timeout(patience, exchange)
            .await
            .unwrap_or(Err(Lost::Silent))
    }

    /// Resolves when a message has arrived; never when it is lost.
    async fn pass(&self, from: u64, to: u64) {
        let (delay, is_lost) = {
            let weather = self.weather();
            let is_between_machines = from != CLIENTS && to != CLIENTS;
            let is_lost = is_between_machines && self.random.chance(weather.loss);
            let delay = if self.random.chance(weather.slow) {
                weather.slowly.clone()
            } else {
                weather.delay.clone()
            };
            (self.random.milliseconds(delay), is_lost)
        };
        if !delay.is_zero() {
            pass(delay).await;
        }
        if is_lost || self.weather().cut.contains(&(from, to)) {
            pending::<()>().await;
        }
    }

    fn is_repeated(&self) -> Option<Duration> {
        let percent = self.weather().repeated;
        let again = self.random.milliseconds(1..400);
        self.random.chance(percent).then_some(again)
    }
}

/// The network as one machine has it.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    pub(crate) from: u64,
    pub(crate) network: Arc<Network>,
}

impl RaftNetworkFactory<TypeConfig> for Connections {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _seat: &Seat) -> Connection {
        Connection {
            link: (self.from, target),
            network: Arc::clone(&self.network),
        }
    }
}

/// From one machine to another.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    link: (u64, u64),
    network: Arc<Network>,
}

fn rpc_error(lost: Lost) -> RPCError<TypeConfig> {
    match lost {
        Lost::Refused | Lost::Silent => RPCError::Unreachable(Unreachable::new(&lost)),
        Lost::Broken => RPCError::Network(NetworkError::new(&lost)),
    }
}

fn failed<E: std::error::Error>(error: E) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(&io::Error::other(error.to_string())))
}

impl Connection {
    fn note(&self, what: impl std::fmt::Display) {
        let (from, to) = self.link;
        self.network
            .witness
            .note(format_args!("{from}>{to} {what}"));
    }

    /// Lets the same request arrive once more, as over a connection that was made again.
    fn repeat<F>(&self, work: impl FnOnce(Running) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if let Some(again) = self.network.is_repeated() {
            let (network, link) = (Arc::clone(&self.network), self.link);
            spawn(async move {
                pass(again).await;
                let repeated = network.call(link, Duration::from_secs(1), work).await;
                network
                    .witness
                    .note(format_args!("{}>{} again {repeated:?}", link.0, link.1));
            });
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotBytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let vote = request.vote;
        let last = request.entries.last().map(|entry| entry.log_id);
        let last = last.or(request.prev_log_id);
        self.network.witness.leads(&vote);
        let copy = request.clone();
        self.repeat(async move |running| drop(running.raft.append_entries(copy).await));
        let count = request.entries.len();
        let answer = self
            .network
            .call(self.link, option.soft_ttl(), move |running| async move {
                running.raft.append_entries(request).await
            })
            .await;
        self.note(format_args!("append {count} {answer:?}"));
        let answer = answer.map_err(rpc_error)?.map_err(failed)?;
        if answer == AppendEntriesResponse::Success {
            self.network.witness.promised(self.link.1, vote, last);
        }
        Ok(answer)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let vote = request.vote;
        let copy = request.clone();
        self.repeat(async move |running| drop(running.raft.vote(copy).await));
        let answer = self
            .network
            .call(self.link, option.soft_ttl(), move |running| async move {
                running.raft.vote(request).await
            })
            .await;
        self.note(format_args!("vote {vote} {answer:?}"));
        let answer = answer.map_err(rpc_error)?.map_err(failed)?;
        if answer.vote_granted {
            self.network.witness.promised(self.link.1, vote, None);
        }
        Ok(answer)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer = self
            .network
            .call(self.link, option.soft_ttl(), move |running| async move {
                running.raft.pre_vote(request).await
            })
            .await;
        self.note(format_args!("pre-vote {answer:?}"));
        answer.map_err(rpc_error)?.map_err(failed)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotBytes>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let what = snapshot.meta.last_log_id;
        let answer = self
            .network
            .call(self.link, option.soft_ttl(), move |running| async move {
                running.raft.install_full_snapshot(vote, snapshot).await
            })
            .await;
        self.note(format_args!("snapshot {what:?} {answer:?}"));
        let unreachable = |lost| StreamingError::Unreachable(Unreachable::new(&lost));
        let answer = answer.map_err(unreachable)?;
        answer.map_err(|fatal| {
            StreamingError::Network(NetworkError::new(&io::Error::other(fatal.to_string())))
        })
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer = self
            .network
            .call(self.link, option.soft_ttl(), move |running| async move {
                running.raft.handle_transfer_leader(request).await
            })
            .await;
        self.note(format_args!("transfer {answer:?}"));
        answer.map_err(rpc_error)?.map_err(failed)
    }
}
