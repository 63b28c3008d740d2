//! Proposing: how a command gets into the log, whoever leads, and what is known of the group then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::id::Generation;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, Fatal, LinearizableReadError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::{RaftMetrics, ReadPolicy, ServerState};
use pacemaker_core::command::{Command, Outcome, Rejection};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::Raft;
use super::room::Room;
use super::types::{Proposal, TypeConfig};
use crate::metrics::{Metrics, ResultLabel};
use crate::peer::{Answer, CallError, Peers, Request, SharedCommand};
use crate::replica::Replica;

/// How long a proposal waits for a leader with a valid lease.
const LEADER_PATIENCE: Duration = Duration::from_secs(5);
/// Time between two tries while there is none; the lease of a new leader comes without an event.
const RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// How long a stop waits for proposals that are under way, here or at the next leader.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Why a proposal has no outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// No leader was found in time; nothing was changed.
    #[error("no pacemaker leads the cluster; try again")]
    NoLeader,
    /// Another pacemaker leads; nothing was changed.
    #[error("pacemaker {0} leads the cluster")]
    OtherLeader(u64),
    /// The leader changed, or could not be reached any more, while the command was under way.
    #[error(
        "the leader changed while the command was under way; whether it had its effect is not known"
    )]
    OutcomeUnknown,
    /// The disk of the leader's log is full; nothing was changed.
    #[error("the disk of the leading pacemaker is full")]
    DiskFull,
    /// The change of the group was refused; nothing was changed.
    #[error("the group of pacemakers cannot be changed so: {0}")]
    Membership(String),
    /// Raft has stopped for good; whether the change was made is not known.
    #[error("the replicated log has failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// How Raft stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// The term.
    pub(crate) term: u64,
    /// True on the leader.
    pub(crate) is_leader: bool,
    /// Who leads, when known.
    pub(crate) leader: Option<u64>,
}

/// Proposes commands; clones are the same.
#[derive(Clone)]
pub(crate) struct Proposer {
    pub(super) raft: Raft,
    pub(super) replica: Arc<Replica>,
    pub(super) metrics: Metrics,
    /// To whom commands go when another leads.
    pub(super) peers: Peers,
    pub(super) former: watch::Receiver<Arc<BTreeSet<u64>>>,
    pub(super) room: Room,
    /// Proposals under way, which a stop waits for.
    pub(super) working: TaskTracker,
    /// True once this pacemaker knows that it was taken out of the group.
    pub(super) removed: Arc<watch::Sender<bool>>,
}

/// What became of a command that was given to this pacemaker's Raft.
#[derive(Debug)]
pub(super) enum Here {
    /// It has been applied.
    Done {
        /// Of the log.
        index: u64,
        /// What `apply` said.
        outcome: Result<Outcome, Rejection>,
    },
    /// Nothing was done; this one leads, when it is known and not this pacemaker.
    NotLeader(Option<u64>),
    /// The leader changed after it was in the log here.
    Unknown,
}

impl std::fmt::Debug for Proposer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proposer").finish_non_exhaustive()
    }
}

impl Proposer {
    /// Puts a command into the log and waits until it has been applied here.
    ///
    /// A rejection is an answer, not an error. After [`ProposeError::Failed`] the command may or
    /// may not have had its effect.
    pub(crate) async fn propose(
        &self,
        command: Command,
    ) -> Result<Result<Outcome, Rejection>, ProposeError> {
        let started = Instant::now();
        let _working = self.working.token();
        let answer = self.write(Arc::new(command)).await;
        self.count(started, &answer);
        answer
    }

    /// As [`Self::propose`], but only while this pacemaker leads in `term`: what a leader decides
    /// must not be said by one that has been deposed.
    pub(crate) async fn propose_as_leader(
        &self,
        term: u64,
        command: Command,
    ) -> Result<Result<Outcome, Rejection>, ProposeError> {
        let started = Instant::now();
        let answer = match self.write_here(&Arc::new(command), Some(term)).await {
            Ok(Here::Done { outcome, .. }) => Ok(outcome),
            Ok(Here::NotLeader(leader)) => {
                Err(leader.map_or(ProposeError::NoLeader, ProposeError::OtherLeader))
            }
            Ok(Here::Unknown) => Err(ProposeError::OutcomeUnknown),
            Err(error) => Err(error),
        };
        self.count(started, &answer);
        answer
    }

    fn count(&self, started: Instant, answer: &Result<Result<Outcome, Rejection>, ProposeError>) {
        self.metrics
            .proposal_seconds
            .observe(started.elapsed().as_secs_f64());
        let result = match answer {
            Ok(Ok(_)) => "accepted",
            Ok(Err(_)) => "rejected",
            Err(_) => "failed",
        };
        self.metrics
            .proposals
            .get_or_create(&ResultLabel { result })
            .inc();
    }

    async fn write(
        &self,
        command: Arc<Command>,
    ) -> Result<Result<Outcome, Rejection>, ProposeError> {
        let deadline = Instant::now() + LEADER_PATIENCE;
        loop {
            let leader = match self.write_here(&command, None).await? {
                Here::Done { outcome, .. } => return Ok(outcome),
                Here::NotLeader(leader) => leader,
                Here::Unknown => {
                    repeatable(&command)?;
                    None
                }
            };
            if let Some(leader) = leader {
                let request = Request::Propose(SharedCommand(Arc::clone(&command)));
                match self.ask(leader, &request, deadline).await {
                    Ok(Answer::Proposed { index, outcome }) => {
                        self.applied(index, deadline).await;
                        return Ok(outcome);
                    }
                    Ok(Answer::NotLeader(_)) | Err(CallError::NotSent { .. }) => {}
                    Ok(Answer::DiskFull) => return Err(ProposeError::DiskFull),
                    Ok(answer) => {
                        tracing::debug!(?answer, "a command may have had its effect");
                        repeatable(&command)?;
                    }
                    Err(error @ (CallError::Lost(_) | CallError::TimedOut(_))) => {
                        tracing::debug!(%error, "a command may have had its effect");
                        repeatable(&command)?;
                    }
                }
            }
            self.wait_for_leader(deadline).await?;
        }
    }

    /// Gives a command to this pacemaker's Raft, which takes it only while it leads; in `term`,
    /// when one is given.
    pub(super) async fn write_here(
        &self,
        command: &Arc<Command>,
        term: Option<u64>,
    ) -> Result<Here, ProposeError> {
        if self.raft.is_leader() && !self.room.is_there() {
            return Err(ProposeError::DiskFull);
        }
        let proposal = Proposal::new(self.replica.now(), Arc::clone(command));
        let (responder, answer) = ProgressResponder::complete_only();
        let mut write = self.raft.write(proposal).responder(responder);
        if let Some(term) = term {
            write = write.with_leader(term);
        }
        write
            .await
            .map_err(|error| ProposeError::Failed(error.into()))?;
        let Ok(result) = answer.await else {
            return Err(ProposeError::Failed(Fatal::<TypeConfig>::Stopped.into()));
        };
        match result {
            Ok(response) => Ok(Here::Done {
                index: response.log_id.index(),
                outcome: response
                    .data
                    .0
                    .expect("a command is answered with its outcome"),
            }),
            Err(ClientWriteError::ForwardToLeader(forward)) => Ok(Here::NotLeader(
                forward.leader_id.filter(|leader| *leader != self.own()),
            )),
            Err(ClientWriteError::LogEntryDiscarded(_)) => Ok(Here::Unknown),
            Err(error) => Err(ProposeError::Failed(error.into())),
        }
    }

    /// Asks a peer over its quick link.
    pub(crate) async fn ask(
        &self,
        peer: u64,
        request: &Request,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let Some(link) = self.peers.quick(peer) else {
            return Err(CallError::NotSent {
                target: peer,
                reason: "it is not known".into(),
            });
        };
        let patience = deadline.saturating_duration_since(Instant::now());
        link.call(request, patience).await
    }

    /// Waits until an entry is applied here; past the deadline, whoever waits has an older state.
    async fn applied(&self, index: u64, deadline: Instant) {
        let applied = self.replica.applied_up_to(Generation(index));
        if tokio::time::timeout_at(deadline.into(), applied)
            .await
            .is_err()
        {
            tracing::debug!(index, "an entry is not applied here in time");
        }
    }

    /// Waits until everything that was acknowledged anywhere before this call is applied here.
    pub(crate) async fn barrier(&self) -> Result<(), ProposeError> {
        let deadline = Instant::now() + LEADER_PATIENCE;
        loop {
            if let Some(index) = self.barrier_index(deadline).await? {
                let applied = self.replica.applied_up_to(Generation(index));
                let in_time = tokio::time::timeout_at(deadline.into(), applied).await;
                return in_time.map_err(|_| ProposeError::NoLeader);
            }
            self.wait_for_leader(deadline).await?;
        }
    }

    async fn barrier_index(&self, deadline: Instant) -> Result<Option<u64>, ProposeError> {
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(Some(linearizer.read_log_id().index())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                let Some(leader) = forward.leader_id.filter(|leader| *leader != self.own()) else {
                    return Ok(None);
                };
                match self.ask(leader, &Request::ReadIndex, deadline).await {
                    Ok(Answer::ReadIndex(index)) => Ok(Some(index)),
                    Ok(_) | Err(_) => Ok(None),
                }
            }
            Err(RaftError::APIError(_)) => Ok(None),
            Err(error) => Err(ProposeError::Failed(error.into())),
        }
    }

    /// As [`Self::barrier`], but only while this pacemaker leads.
    pub(crate) async fn barrier_as_leader(&self) -> Result<(), ProposeError> {
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(_)) => Err(ProposeError::NoLeader),
            Err(error) => Err(ProposeError::Failed(error.into())),
        }
    }

    /// One pause of a retry; an error when patience has run out.
    pub(crate) async fn wait_for_leader(&self, deadline: Instant) -> Result<(), ProposeError> {
        if Instant::now() >= deadline {
            return Err(match self.status().leader {
                Some(leader) if leader != self.own() => ProposeError::OtherLeader(leader),
                Some(_) | None => ProposeError::NoLeader,
            });
        }
        let mut metrics = self.raft.server_metrics();
        // Both the passing of time and a change are a reason to try again; a closed channel means
        // that Raft has stopped, which the next try will say better.
        if let Ok(Err(_)) = tokio::time::timeout(RETRY_INTERVAL, metrics.changed()).await {
            return Err(ProposeError::NoLeader);
        }
        Ok(())
    }

    /// This pacemaker's number.
    pub(crate) fn own(&self) -> u64 {
        *self.raft.node_id()
    }

    /// Those that were taken out of the group, ever.
    pub(crate) fn former(&self) -> watch::Receiver<Arc<BTreeSet<u64>>> {
        self.former.clone()
    }

    /// How Raft stands now.
    pub(crate) fn status(&self) -> Status {
        status_of(&self.raft.metrics().borrow_watched())
    }

    /// Resolves when this pacemaker's leadership may have changed; the caller asks [`Self::status`].
    pub(crate) async fn leadership_changed(&self, seen: Status) {
        self.until(|metrics| status_of(metrics) != seen, false)
            .await;
    }

    /// Resolves when `is_so`, which is asked when a vote, the leader or the members have changed;
    /// with `is_close`, whenever anything has.
    ///
    /// Raft says after each of its steps how it stands, several times for each entry of the log:
    /// whoever wakes for that takes the time of those who write.
    pub(super) async fn until(
        &self,
        is_so: impl Fn(&RaftMetrics<TypeConfig>) -> bool,
        is_close: bool,
    ) {
        let mut server = self.raft.server_metrics();
        let mut metrics = self.raft.metrics();
        loop {
            let is_whole = {
                let (server, metrics) = (server.borrow_and_update(), metrics.borrow_and_update());
                if is_so(&metrics) {
                    return;
                }
                // Raft tells the one before the other.
                server.vote == metrics.vote
                    && server.state == metrics.state
                    && server.current_leader == metrics.current_leader
                    && server.membership_config == metrics.membership_config
                    && server.committed_membership_config == metrics.committed_membership_config
            };
            let changed = if is_close || !is_whole {
                metrics.changed().await
            } else {
                server.changed().await
            };
            if changed.is_err() {
                // Raft has stopped: whoever waits for that hears of it elsewhere.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Resolves when Raft has stopped for good, and says why.
    pub(crate) async fn failed(&self) -> ProposeError {
        let mut server = self.raft.server_metrics();
        // Nothing is told any more once it has stopped, and why it has is what it told last.
        while server.changed().await.is_ok() {}
        match &self.raft.metrics().borrow_watched().running_state {
            Err(fatal) => ProposeError::Failed(fatal.clone().into()),
            Ok(()) => ProposeError::Failed(Fatal::<TypeConfig>::Panicked.into()),
        }
    }

    /// The first entry that the log still has.
    #[cfg(test)]
    pub(crate) fn first_index(&self) -> u64 {
        let metrics = self.raft.metrics();
        let purged = metrics.borrow_watched().purged;
        purged.map_or(0, |purged| purged.index() + 1)
    }

    /// Stops Raft in order; what was acknowledged is on disk already.
    pub(crate) async fn stop(&self) {
        self.hand_over().await;
        self.working.close();
        let finished = tokio::time::timeout(STOP_PATIENCE, self.working.wait());
        if finished.await.is_err() {
            tracing::warn!("proposals were still under way when Raft stopped");
        }
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "stopping Raft failed");
        }
    }
}

/// An error, unless the command has one effect however often it is proposed.
fn repeatable(command: &Command) -> Result<(), ProposeError> {
    match command {
        Command::Once { .. } | Command::JoinNode { .. } => Ok(()),
        _ => Err(ProposeError::OutcomeUnknown),
    }
}

fn status_of(metrics: &RaftMetrics<TypeConfig>) -> Status {
    Status {
        term: metrics.current_term,
        is_leader: metrics.state == ServerState::Leader,
        leader: metrics.current_leader,
    }
}
