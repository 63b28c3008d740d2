//! One run: machines, clients, faults, and at the end the proof that nothing was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::time::Timestamp;
use openraft::async_runtime::watch::WatchReceiver as _;
use pacemaker_core::command::{ClusterSettings, Command};
use tokio::task::JoinHandle;

use crate::raft::simulation::client::{Client, Written, workspace, write};
use crate::raft::simulation::disk::Stop;
use crate::raft::simulation::history::History;
use crate::raft::simulation::machine::{Machine, Raft};
use crate::raft::simulation::network::{CLIENTS, Network};
use crate::raft::simulation::random::Random;
use crate::raft::simulation::runtime::{pass, spawn};
use crate::raft::simulation::witness::Witness;
use crate::raft::types::Seat;

/// Clients that work at once.
const CLIENT_COUNT: u64 = 3;
/// After the last fault the group is writable again within this (R7).
const HEALS_WITHIN: Duration = Duration::from_secs(5);
/// After that, all machines have the same log within this.
const AGREES_WITHIN: Duration = Duration::from_secs(10);
/// A change of members is done within this, whatever is killed meanwhile.
const MEMBERS_WITHIN: Duration = Duration::from_secs(20);
/// How long one request is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at a level.
const LOOK: Duration = Duration::from_millis(20);

/// The world of one run.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) random: Arc<Random>,
    pub(crate) witness: Arc<Witness>,
    pub(crate) network: Arc<Network>,
    pub(crate) history: Arc<Mutex<History>>,
    given_up: Mutex<BTreeSet<u64>>,
    is_done: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Nothing, when all is well.
    pub(crate) wrong: Vec<String>,
    /// The same for the same seed.
    pub(crate) summary: String,
}

impl World {
    /// `count` machines that make one group, with clients at work.
    pub(crate) async fn new(seed: u64, count: u64, is_verbose: bool) -> Self {
        let random = Arc::new(Random::new(seed));
        let witness = Arc::new(Witness::new(is_verbose));
        let network = Arc::new(Network::new(Arc::clone(&random), Arc::clone(&witness)));
        let mut world = Self {
            random,
            witness,
            network,
            history: Arc::default(),
            given_up: Mutex::default(),
            is_done: Arc::default(),
            clients: Vec::new(),
        };
        for id in 1..=count {
            Machine::new(id, &world.network).start().await;
        }
        let members: Vec<u64> = (1..=count).collect();
        world.initialize(&members).await;
        for number in 0..CLIENT_COUNT {
            let client = Client {
                number,
                network: Arc::clone(&world.network),
                history: Arc::clone(&world.history),
                is_done: Arc::clone(&world.is_done),
            };
            world.clients.push(spawn(client.run()));
        }
        world
    }

    async fn initialize(&self, members: &[u64]) {
        let members: BTreeMap<u64, Seat> = members.iter().map(|&id| (id, seat(id))).collect();
        let made = self
            .network
            .call((CLIENTS, 1), HEALS_WITHIN, |running| async move {
                running.raft.initialize(members).await
            })
            .await;
        if !matches!(made, Ok(Ok(()))) {
            self.witness.wrong(format_args!("no group: {made:?}"));
        }
        let command = Command::InitializeCluster {
            id: "simulated".to_owned(),
            hostname: "localhost".to_owned(),
            tokens: BTreeMap::new(),
            settings: ClusterSettings::default(),
            join_tokens: Vec::new(),
            founder: None,
        };
        let written = self.write_within(&self.ids(), HEALS_WITHIN, &command).await;
        if written.is_none() {
            self.witness.wrong("the group is never writable");
        }
    }

    /// Lets time pass.
    pub(crate) async fn pass(&self, milliseconds: std::ops::Range<u64>) {
        pass(self.random.milliseconds(milliseconds)).await;
    }

    /// A machine that is there.
    pub(crate) fn machine(&self, id: u64) -> Arc<Machine> {
        self.network.machine(id).expect("the story made it")
    }

    /// The numbers of all machines.
    pub(crate) fn ids(&self) -> Vec<u64> {
        let machines = self.network.machines();
        machines.iter().map(|machine| machine.id).collect()
    }

    /// All machines but these.
    pub(crate) fn others(&self, but: &[u64]) -> Vec<u64> {
        let mut ids = self.ids();
        ids.retain(|id| !but.contains(id));
        ids
    }

    /// The machines that have not been given up.
    fn members(&self) -> Vec<u64> {
        let given_up = self.given_up.lock().expect("one thread");
        let mut ids = self.ids();
        ids.retain(|id| !given_up.contains(id));
        ids
    }

    /// A machine that believes that it leads, in the newest term.
    pub(crate) fn leader(&self) -> Option<u64> {
        let believers = self.network.machines().into_iter().filter_map(|machine| {
            let running = machine.running()?;
            let metrics = running.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            let leads = metrics.current_leader == Some(machine.id);
            leads.then_some((metrics.vote.leader_id.term, machine.id))
        });
        believers.max().map(|(_, id)| id)
    }

    /// Waits until a machine leads.
    pub(crate) async fn some_leader(&self) -> u64 {
        loop {
            if let Some(leader) = self.leader() {
                return leader;
            }
            pass(LOOK).await;
        }
    }

    /// Stops a machine and starts it again after a time.
    pub(crate) async fn restart(&self, id: u64, how: Stop, after: std::ops::Range<u64>) {
        self.machine(id).stop(how);
        self.pass(after).await;
        self.machine(id).start().await;
    }

    /// Writes through one of these machines within the limit, or says that it is wrong.
    pub(crate) async fn majority_writes(&self, ids: &[u64], limit: Duration) {
        let begun = self.witness.now();
        let command = workspace(&format!("probe-{begun}"));
        if self.write_within(ids, limit, &command).await.is_none() {
            self.witness.wrong(format_args!(
                "machines {ids:?} have not written within {limit:?}"
            ));
        }
        let took = self.witness.now() - begun;
        self.witness
            .note(format_args!("{ids:?} wrote in {took} ms"));
    }

    /// The group is writable again in time.
    pub(crate) async fn is_writable(&self) {
        self.majority_writes(&self.members(), HEALS_WITHIN).await;
    }

    /// The time in the log, as far as any machine has come.
    pub(crate) fn log_time(&self) -> Timestamp {
        let machines = self.network.machines();
        let times = machines.iter().filter_map(|machine| machine.running());
        times
            .map(|running| running.replica.newest_time())
            .max()
            .unwrap_or_default()
    }

    /// Tries these machines in turn until one has written `command`; none in time is `None`.
    async fn write_within(
        &self,
        ids: &[u64],
        limit: Duration,
        command: &Command,
    ) -> Option<Written> {
        let patience = PATIENCE.max(limit / 3);
        let tries = async {
            loop {
                for &id in ids {
                    let machine = self.machine(id);
                    let command = command.clone();
                    let written = self
                        .network
                        .call((CLIENTS, id), patience, move |running| {
                            write(machine, running, command)
                        })
                        .await;
                    if let Ok(written @ Written::At(..)) = written {
                        return written;
                    }
                }
                pass(LOOK).await;
            }
        };
        tokio::time::timeout(limit, tries).await.ok()
    }

    /// Ends all faults, and waits until the group is whole again.
    pub(crate) async fn heal(&self) {
        self.network.clear();
        for machine in self.network.machines() {
            machine.disk.mend();
            machine.slow_down(Duration::from_millis(1));
            machine.resume();
            machine.start().await;
        }
        self.is_writable().await;
    }

    /// Hands the leadership over, which may fail.
    pub(crate) async fn hand_over(&self, leader: u64, to: u64) {
        self.witness
            .note(format_args!("{leader} hands over to {to}"));
        let asked = self
            .network
            .call((CLIENTS, leader), PATIENCE, move |running| async move {
                running.raft.trigger().transfer_leader(to).await
            })
            .await;
        self.witness
            .note(format_args!("{leader} handed over: {asked:?}"));
    }

    /// Makes these the voters, against all faults.
    pub(crate) async fn change_members(&self, voters: &[u64]) {
        let change = async {
            loop {
                let leader = self.some_leader().await;
                let wanted: BTreeSet<u64> = voters.iter().copied().collect();
                let done = self
                    .network
                    .call((CLIENTS, leader), HEALS_WITHIN, move |running| {
                        change(running.raft, wanted)
                    })
                    .await;
                self.witness.note(format_args!(
                    "{leader} makes {voters:?} the voters: {done:?}"
                ));
                if matches!(done, Ok(Ok(()))) {
                    return;
                }
                pass(LOOK).await;
            }
        };
        if tokio::time::timeout(MEMBERS_WITHIN, change).await.is_err() {
            self.witness
                .wrong(format_args!("{voters:?} never become the voters"));
        }
    }

    /// This machine is no longer expected to agree: it was removed, or its disk is damaged.
    pub(crate) fn give_up(&self, id: u64) {
        self.witness.note(format_args!("{id} is given up"));
        self.given_up.lock().expect("one thread").insert(id);
    }

    /// Ends the clients, and compares everything with everything.
    pub(crate) async fn finish(mut self) -> Verdict {
        self.heal().await;
        self.pass(300..600).await;
        self.is_done.store(true, Ordering::Relaxed);
        for client in std::mem::take(&mut self.clients) {
            if let Err(error) = client.await {
                self.witness.wrong(format_args!("a client: {error}"));
            }
        }
        self.no_change_is_half_done();
        if tokio::time::timeout(AGREES_WITHIN, self.agreement())
            .await
            .is_err()
        {
            let applied = self.applied();
            self.witness
                .wrong(format_args!("the machines do not agree: {applied:?}"));
        }
        for id in self.members() {
            let machine = self.machine(id);
            if let Some(running) = machine.running() {
                let index = running.replica.applied().0;
                self.witness.state(machine.id, index, &running.replica);
            }
        }
        let counts = {
            let history = self.history.lock().expect("one thread");
            history.check(&self.witness);
            history.counts()
        };
        let (wrong, lines, hash) = self.witness.verdict();
        let summary = format!(
            "trace {hash:016x} of {lines} lines, {} ms, {} writes, {} reads, {} leaders",
            self.witness.now(),
            counts.0,
            counts.1,
            self.witness.leaders(),
        );
        Verdict { wrong, summary }
    }

    async fn agreement(&self) {
        loop {
            let applied = self.applied();
            let first = applied.first();
            if applied.iter().all(|index| Some(index) == first) && first != Some(&None) {
                return;
            }
            pass(LOOK).await;
        }
    }

    fn applied(&self) -> Vec<Option<u64>> {
        let members = self.members().into_iter();
        let applied = members.map(|id| {
            let running = self.machine(id).running()?;
            Some(running.replica.applied().0)
        });
        applied.collect()
    }

    fn no_change_is_half_done(&self) {
        for id in self.members() {
            if let Some(running) = self.machine(id).running()
                && self.leader() == Some(id)
            {
                let metrics = running.raft.metrics();
                let metrics = metrics.borrow_watched();
                let configurations = metrics.membership_config.membership().get_joint_config();
                if configurations.len() > 1 {
                    self.witness.wrong(format_args!(
                        "a change of members is half done: {configurations:?}"
                    ));
                }
            }
        }
    }
}

fn seat(id: u64) -> Seat {
    Seat {
        address: id.to_string(),
        incarnation: String::new(),
    }
}

async fn change(raft: Raft, voters: BTreeSet<u64>) -> Result<(), String> {
    for &id in &voters {
        raft.add_learner(id, seat(id), true)
            .await
            .map_err(|error| error.to_string())?;
    }
    let changed = raft.change_membership(voters, false).await;
    changed.map(drop).map_err(|error| error.to_string())
}
