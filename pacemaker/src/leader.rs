//! The leader's loop: hear nodes, plan, propose.
//!
//! ```text
//! reports ──► Sightings ──plan(state, sightings, now)──► Act ──► the log ──► apply ──► (again)
//! ```
//! Owns the [`Sightings`]. It plans when a report says something new, when an applied command has
//! changed the state, when the planner's deadline passes, and every [`TICK_INTERVAL`]; several
//! reasons at once make one pass. While another pacemaker leads it only waits.
//!
//! Never does: change the state other than by proposing, or trust its own plan.

mod heard;
mod probe;

use std::sync::Arc;
use std::time::Duration;

use common::assignment::Report;
use common::id::NodeId;
use common::time::Timestamp;
use pacemaker_client::Connections;
use pacemaker_core::Planner;
use pacemaker_core::command::{Command, Outcome};
use pacemaker_core::sightings::Sightings;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::leader::heard::Heard;
use crate::leader::probe::Prober;
use crate::metrics::{Metrics, SightingLabel};
use crate::peer::{Answer, Request};
use crate::raft::{Proposer, Status};
use crate::replica::Replica;

/// The longest time between two passes of a leader; liveness is judged at this grain.
const TICK_INTERVAL: Duration = Duration::from_millis(500);
/// Reports that may wait for the loop; past it their senders wait. Two roles of a thousand nodes.
const INBOX_LENGTH: usize = 2_048;
/// Reports that are heard before the next pass; bounds how long a pass waits in a storm.
const HEARD_AT_ONCE: usize = 256;
/// Passes in a row that may be caused by the plan's own effects. A plan that never comes to rest
/// is a defect of the planner; past this it costs one pass per [`TICK_INTERVAL`], not a core.
const STREAK_MAX: u32 = 200;

/// How long a report may look for a leader; the next report comes soon.
const REPORT_PATIENCE: Duration = Duration::from_secs(1);
/// How long the sightings may take; they are asked for by people.
const SIGHTINGS_PATIENCE: Duration = Duration::from_secs(2);

/// Talks to the leader's loop, here or at the pacemaker that leads; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Leader {
    proposer: Proposer,
    inbox: mpsc::Sender<Message>,
}

/// A report was not heard, or what was heard is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReportError {
    /// The loop has ended: the role is stopping.
    #[error("the leader's loop has ended")]
    Gone,
    /// No leader answers.
    #[error("no pacemaker leads the cluster; try again")]
    NoLeader,
}

#[derive(Debug)]
enum Message {
    Report(Box<Report>),
    Sightings(oneshot::Sender<Sightings>),
}

impl Leader {
    /// Hands a node's report to whoever leads.
    pub(crate) async fn report(&self, report: Report) -> Result<(), ReportError> {
        if self.proposer.status().is_leader {
            return self.report_here(report).await;
        }
        let request = Request::Report(Box::new(report));
        match self.ask(&request, REPORT_PATIENCE).await? {
            Answer::Done => Ok(()),
            _ => Err(ReportError::NoLeader),
        }
    }

    /// Hands a node's report to the loop here, which hears it only while a majority hears this leader.
    pub(crate) async fn report_here(&self, report: Report) -> Result<(), ReportError> {
        if !self.proposer.leads_a_majority() {
            return Err(ReportError::NoLeader);
        }
        let message = Message::Report(Box::new(report));
        self.inbox
            .send(message)
            .await
            .map_err(|_| ReportError::Gone)
    }

    /// A copy of what the leader has heard.
    pub(crate) async fn sightings(&self) -> Result<Sightings, ReportError> {
        if self.proposer.status().is_leader {
            return self.sightings_here().await;
        }
        match self.ask(&Request::Sightings, SIGHTINGS_PATIENCE).await? {
            Answer::Sightings(sightings) => Ok(*sightings),
            _ => Err(ReportError::NoLeader),
        }
    }

    /// A copy of what has been heard here.
    pub(crate) async fn sightings_here(&self) -> Result<Sightings, ReportError> {
        if !self.proposer.status().is_leader {
            return Err(ReportError::NoLeader);
        }
        let (reply, answer) = oneshot::channel();
        self.inbox
            .send(Message::Sightings(reply))
            .await
            .map_err(|_| ReportError::Gone)?;
        answer.await.map_err(|_| ReportError::Gone)
    }

    /// Asks the leader, until one answers or patience has run out. Repeating does no harm.
    async fn ask(&self, request: &Request, patience: Duration) -> Result<Answer, ReportError> {
        let deadline = std::time::Instant::now() + patience;
        loop {
            let status = self.proposer.status();
            if let Some(leader) = status.leader.filter(|_| !status.is_leader) {
                match self.proposer.ask(leader, request, deadline).await {
                    Ok(Answer::NotLeader(_)) => {}
                    Ok(answer) => return Ok(answer),
                    Err(error) => tracing::debug!(%error, "the leader does not answer"),
                }
            }
            self.proposer
                .wait_for_leader(deadline)
                .await
                .map_err(|_| ReportError::NoLeader)?;
        }
    }
}

/// The loop, before it runs.
#[derive(Debug)]
pub(crate) struct LeaderLoop {
    proposer: Proposer,
    replica: Arc<Replica>,
    metrics: Metrics,
    inbox: mpsc::Receiver<Message>,
    heard: Heard,
    planner: Planner,
    /// Set while this pacemaker leads and has caught up.
    leading: Option<Status>,
    streak: u32,
    prober: Prober,
}

impl LeaderLoop {
    /// Makes the loop and its handle.
    pub(crate) fn new(
        proposer: Proposer,
        replica: Arc<Replica>,
        metrics: Metrics,
        nodes: Connections,
    ) -> (Leader, Self) {
        let (sender, inbox) = mpsc::channel(INBOX_LENGTH);
        let leader = Leader {
            proposer: proposer.clone(),
            inbox: sender,
        };
        let leader_loop = Self {
            proposer,
            replica,
            metrics,
            inbox,
            heard: Heard::default(),
            planner: Planner::default(),
            leading: None,
            streak: 0,
            prober: Prober::new(nodes),
        };
        (leader, leader_loop)
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut changes = self.replica.changes();
        let mut interval = tokio::time::interval(TICK_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looking = tokio::time::interval(probe::LOOK_INTERVAL);
        looking.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deadline = None;
        loop {
            let status = self.proposer.status();
            let at = deadline.unwrap_or_else(|| Instant::now() + TICK_INTERVAL);
            let is_due = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = self.proposer.leadership_changed(status) => true,
                message = self.inbox.recv() => match message {
                    Some(message) => self.hear(message),
                    None => return,
                },
                node = self.prober.answered() => {
                    let now = self.replica.now();
                    self.heard.sightings.probes.insert(node, now);
                    false
                }
                _ = looking.tick(), if self.leading.is_some() => {
                    let now = self.replica.now();
                    self.prober.look(&self.replica, &self.heard.sightings, now);
                    false
                }
                changed = changes.changed(), if self.streak < STREAK_MAX => changed.is_ok(),
                _ = interval.tick() => {
                    self.streak = 0;
                    true
                }
                () = tokio::time::sleep_until(at), if deadline.is_some() => true,
            };
            if is_due {
                changes.mark_unchanged();
                self.lead().await;
                deadline = self.tick().await;
            }
        }
    }

    /// Takes a message and those that wait behind it; true when a pass is due.
    fn hear(&mut self, first: Message) -> bool {
        let mut is_due = false;
        let mut next = Some(first);
        let mut count = 0;
        while let Some(message) = next {
            match message {
                Message::Report(report) => {
                    is_due |= self.heard.take(*report, self.replica.now());
                }
                Message::Sightings(reply) => {
                    if reply.send(self.heard.sightings.clone()).is_err() {
                        tracing::debug!("nobody waits for the sightings any more");
                    }
                }
            }
            count += 1;
            next = if count < HEARD_AT_ONCE {
                self.inbox.try_recv().ok()
            } else {
                None
            };
        }
        is_due
    }

    /// Notices the beginning and the end of this pacemaker's leadership.
    async fn lead(&mut self) {
        let status = self.proposer.status();
        if self.leading == Some(status) {
            return;
        }
        self.leading = None;
        self.prober.stop();
        if !status.is_leader {
            return;
        }
        // A plan is made from all that earlier leaders have done, never from a part of it.
        match self.proposer.barrier_as_leader().await {
            Ok(()) => {
                tracing::info!(term = status.term, "leading the cluster");
                self.heard.sightings.elected = self.replica.now();
                self.heard.passed = None;
                self.planner = Planner::default();
                self.leading = Some(status);
            }
            Err(error) => tracing::debug!(%error, "not leading yet"),
        }
    }

    /// One pass; answers when the next is due though nothing happens.
    async fn tick(&mut self) -> Option<Instant> {
        self.observe();
        let term = self.leading?.term;
        self.metrics.ticks.inc();
        let now = self.replica.now();
        self.heard.begin_pass(now);
        let computed_at = self.replica.applied();
        let sightings = &self.heard.sightings;
        let reported = std::mem::take(&mut self.heard.reported);
        let planner = &mut self.planner;
        let actions = self
            .replica
            .read(|state| planner.plan_after(state, sightings, &reported, now));
        if actions.is_empty() {
            self.streak = 0;
            let next = self.planner.next_deadline(now)?;
            return Some(Instant::now() + next.since(now).duration());
        }
        self.streak += 1;
        if self.streak == STREAK_MAX {
            tracing::error!("the plan does not come to rest; planning more slowly");
        }
        let count = actions.len();
        self.metrics
            .actions
            .inc_by(u64::try_from(count).unwrap_or(u64::MAX));
        let command = Command::Act {
            computed_at,
            actions,
        };
        match self.proposer.propose_as_leader(term, command).await {
            Ok(Ok(Outcome::Acted { rejected })) => {
                for (position, rejection) in rejected {
                    tracing::debug!(position, %rejection, "an action was stale");
                }
            }
            Ok(Ok(outcome)) => tracing::warn!(?outcome, "a plan had an odd outcome"),
            Ok(Err(rejection)) => tracing::warn!(%rejection, "a plan was rejected"),
            Err(error) => tracing::warn!(%error, "a plan could not be proposed"),
        }
        None
    }

    fn observe(&self) {
        let status = self.proposer.status();
        self.metrics.is_leader.set(i64::from(status.is_leader));
        self.metrics
            .term
            .set(i64::try_from(status.term).unwrap_or(i64::MAX));
        self.metrics
            .applied
            .set(i64::try_from(self.replica.applied().0).unwrap_or(i64::MAX));
        let now = self.replica.now();
        let age = |role, node: NodeId, at: Timestamp| {
            self.metrics
                .sighting_age_ms
                .get_or_create(&SightingLabel { node: node.0, role })
                .set(i64::try_from(now.since(at).0).unwrap_or(i64::MAX));
        };
        for (node, sighting) in &self.heard.sightings.hearts {
            age("heart", *node, sighting.at);
        }
        for (node, sighting) in &self.heard.sightings.routers {
            age("router", *node, sighting.at);
        }
    }
}
