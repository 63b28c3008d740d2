//! Clients: they write and read through any machine, try again, and write down what they were told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::id::WorkspaceStub;
use openraft::ReadPolicy;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::Linearizer;
use pacemaker_core::command::{Command, Outcome};

use crate::raft::simulation::history::{Done, History, Operation};
use crate::raft::simulation::machine::{Machine, Running};
use crate::raft::simulation::network::{CLIENTS, Network};
use crate::raft::simulation::runtime::pass;
use crate::raft::types::Proposal;

/// How long a client waits for one answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Milliseconds between two operations of a client, at most.
const THINKS_MS: u64 = 80;

/// What a machine answers to a write.
#[derive(Clone, Debug)]
pub(crate) enum Written {
    /// It is committed and applied, as this entry.
    At(u64, Outcome),
    /// Another machine leads, or none does; nothing was changed.
    Elsewhere(Option<u64>),
    /// The core refused it.
    Refused(String),
    /// It may have happened, and may not.
    Unknown,
}

/// What a machine answers to a read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen {
    /// After this entry, so many workspaces made by clients.
    At(u64, usize),
    /// Nothing can be said.
    Unknown,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) number: u64,
    pub(crate) network: Arc<Network>,
    pub(crate) history: Arc<Mutex<History>>,
    pub(crate) is_done: Arc<AtomicBool>,
}

impl Client {
    /// Works until it is told that it is done, and finishes what it has begun.
    pub(crate) async fn run(self) {
        let random = Arc::clone(&self.network.random);
        let mut count = 0;
        while !self.is_done.load(Ordering::Relaxed) {
            pass(random.milliseconds(0..THINKS_MS)).await;
            if random.chance(35) {
                self.read().await;
            } else {
                count += 1;
                self.write(count).await;
            }
        }
    }

    async fn write(&self, count: u64) {
        let key = format!("c{}-{count}", self.number);
        let begun = self.now();
        let mut target = self.any();
        // The answer may be lost; only an answer ends it, or the end of the run.
        let mut tries = 0;
        loop {
            tries += 1;
            let answer = self.ask(target, &key).await;
            match answer {
                Some(Written::At(index, outcome)) => {
                    let effect = self.network.witness.effect(&key);
                    if effect.is_none_or(|effect| effect > index) {
                        self.network.witness.wrong(format_args!(
                            "{key} is answered as entry {index} and had its effect at {effect:?}"
                        ));
                    }
                    self.keep(begun, Done::Write { key, outcome });
                    return;
                }
                Some(Written::Elsewhere(Some(leader))) if tries % 4 != 0 => target = leader,
                Some(Written::Refused(why)) => {
                    self.network.witness.wrong(format_args!("{key}: {why}"));
                    return;
                }
                Some(Written::Elsewhere(_) | Written::Unknown) | None => target = self.any(),
            }
            if self.is_done.load(Ordering::Relaxed) && tries > 400 {
                self.network
                    .witness
                    .wrong(format_args!("{key} never gets an answer"));
                return;
            }
            pass(self.network.random.milliseconds(1..40)).await;
        }
    }

    async fn ask(&self, target: u64, key: &str) -> Option<Written> {
        let machine = self.network.machine(target)?;
        let command = workspace(key);
        let answer = self
            .network
            .call((CLIENTS, target), PATIENCE, move |running| {
                write(machine, running, command)
            })
            .await;
        self.network
            .witness
            .note(format_args!("client>{target} {key} {answer:?}"));
        answer.ok()
    }

    async fn read(&self) {
        let begun = self.now();
        let target = self.any();
        let network = Arc::clone(&self.network);
        let answer = self
            .network
            .call((CLIENTS, target), PATIENCE, move |running| {
                read(target, network, running)
            })
            .await;
        self.network
            .witness
            .note(format_args!("client>{target} read {answer:?}"));
        if let Ok(Seen::At(index, count)) = answer {
            self.keep(begun, Done::Read { index, count });
        }
    }

    fn keep(&self, begun: u64, done: Done) {
        let ended = self.now();
        let mut history = self.history.lock().expect("one thread");
        history.keep(Operation { begun, ended, done });
    }

    fn any(&self) -> u64 {
        let machines = self.network.machines();
        let ids: Vec<u64> = machines.iter().map(|machine| machine.id).collect();
        self.network.random.pick(&ids)
    }

    fn now(&self) -> u64 {
        self.network.witness.now()
    }
}

/// A command whose effect can be counted.
pub(crate) fn workspace(key: &str) -> Command {
    Command::Once {
        key: key.to_owned(),
        command: Box::new(Command::CreateWorkspace {
            name: key.to_owned(),
            stub: WorkspaceStub::parse(key).expect("a key is a stub"),
            tags: BTreeMap::new(),
        }),
    }
}

/// What a machine does when it is asked to write.
pub(crate) async fn write(machine: Arc<Machine>, running: Running, command: Command) -> Written {
    let proposal = Proposal::new(machine.now(&running), Arc::new(command));
    match running.raft.client_write(proposal).await {
        Ok(response) => match response.data.0 {
            Some(Ok(outcome)) => Written::At(response.log_id.index(), outcome),
            Some(Err(rejection)) => Written::Refused(rejection.message),
            None => Written::Refused("a command is answered with its outcome".to_owned()),
        },
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            Written::Elsewhere(forward.leader_id)
        }
        // The leader changed while it was in the log.
        Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) | RaftError::Fatal(_)) => {
            Written::Unknown
        }
        Err(RaftError::APIError(error)) => Written::Refused(error.to_string()),
    }
}

/// What a machine does when it is asked to read: the leader says how far, it reads its own state.
async fn read(id: u64, network: Arc<Network>, running: Running) -> Seen {
    let own = running
        .raft
        .get_read_linearizer(ReadPolicy::ReadIndex)
        .await;
    let linearizer = match own {
        Ok(linearizer) => linearizer,
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
            let Some(leader) = forward.leader_id.filter(|&leader| leader != id) else {
                return Seen::Unknown;
            };
            let asked = network
                .call((id, leader), PATIENCE, |running| async move {
                    running.raft.get_read_log_id(ReadPolicy::ReadIndex).await
                })
                .await;
            let Ok(Ok((read_log_id, _))) = asked else {
                return Seen::Unknown;
            };
            Linearizer::new(id, read_log_id, None)
        }
        Err(_) => return Seen::Unknown,
    };
    if linearizer.await_ready(&running.raft).await.is_err() {
        return Seen::Unknown;
    }
    let index = running.replica.applied().0;
    // The cluster begins with one workspace.
    let count = running.replica.read(|state| state.workspaces().len());
    Seen::At(index, count.saturating_sub(1))
}
