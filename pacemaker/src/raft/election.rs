//! Who leads next: what this pacemaker does when the leader's process has ended, and before its own
//! does.
//!
//! A closed connection and an address where nobody listens any more say that the leader's process
//! has ended, hundreds of milliseconds before its silence does. It is a hint, not a proof: this
//! pacemaker gives up its own lease for that leader and asks the others whether they would vote for
//! it. Whoever still hears the leader says no, and nothing has happened.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::TransferLeaderRequest;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::peer::{Event, Place};
use crate::raft::Proposer;

/// The others notice the same within this, and give up their leases too.
const NOTICE: Duration = Duration::from_millis(4);
/// Between the candidates, which stand in the order of their numbers: the first of them has won
/// within this on a quick disk, and two that stand at once may both lose.
const STAGGER: Duration = Duration::from_millis(30);
/// Time between two attempts of the same candidate.
const ROUND: Duration = Duration::from_millis(120);
/// Attempts, before the timeouts of Raft take over.
const ROUNDS: u32 = 3;
/// How long a leader that stops waits for its successor.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(1);
/// A successor has been heard within this.
const SUCCESSOR_SILENCE_MAX: Duration = Duration::from_millis(500);

impl Proposer {
    /// Keeps links to the members of the group, and stands for election when the leader's process
    /// has ended.
    pub(crate) async fn watch_peers(
        self,
        mut noticed: mpsc::UnboundedReceiver<Event>,
        stop: CancellationToken,
    ) {
        let mut former = self.former();
        loop {
            let group = self.group();
            let places = group
                .members
                .iter()
                .map(|member| (member.number, member.place()));
            self.peers.keep(&places.collect());
            if former.borrow_and_update().contains(&self.own()) {
                self.step_aside();
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                event = noticed.recv() => match event {
                    Some(Event::Gone(peer)) => self.succeed(peer, &mut noticed, &stop).await,
                    Some(Event::Removed) => self.step_aside(),
                    Some(Event::Up(_)) => {}
                    None => return,
                },
                () = self.group_changed(&group) => {}
                _ = former.changed() => {}
            }
        }
    }

    /// A pacemaker that was taken out of the group does not stand for election any more.
    fn step_aside(&self) {
        if !self.is_removed() {
            tracing::error!(
                "this pacemaker was taken out of the cluster; it takes no part any more"
            );
        }
        self.removed.send_replace(true);
        self.raft.runtime_config().elect(false);
    }

    /// True when this pacemaker was taken out of the group.
    pub(crate) fn is_removed(&self) -> bool {
        *self.removed.borrow()
    }

    /// Stands for election in place of `gone`, if that was the leader.
    async fn succeed(
        &self,
        gone: u64,
        noticed: &mut mpsc::UnboundedReceiver<Event>,
        stop: &CancellationToken,
    ) {
        let started = Instant::now();
        let group = self.group();
        let mut voters = group.voters();
        voters.remove(&gone);
        let own = self.own();
        if group.leader != Some(gone) || !voters.contains(&own) {
            return;
        }
        tracing::info!(leader = gone, "the leader's process has ended");
        let vote = self.raft.metrics().borrow_watched().vote;
        let release = TransferLeaderRequest::new(vote, gone, None);
        if self.raft.handle_transfer_leader(release).await.is_err() {
            return;
        }
        let rank = voters.iter().take_while(|voter| **voter < own).count();
        let mut at = started + NOTICE + STAGGER * u32::try_from(rank).unwrap_or(u32::MAX);
        for _ in 0..ROUNDS {
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    event = noticed.recv() => match event {
                        Some(Event::Up(peer)) if peer == gone => return,
                        Some(Event::Up(_) | Event::Gone(_)) => {}
                        Some(Event::Removed) => return self.step_aside(),
                        None => return,
                    },
                    () = self.leader_is_not(gone) => return,
                    () = tokio::time::sleep_until(at) => break,
                }
            }
            if self.raft.trigger().elect(true).await.is_err() {
                return;
            }
            at = Instant::now() + ROUND;
        }
    }

    async fn leader_is_not(&self, gone: u64) {
        loop {
            let status = self.status();
            if status.leader != Some(gone) {
                return;
            }
            self.leadership_changed(status).await;
        }
    }

    /// Lets another lead before this one stops, so that nothing waits for an election.
    pub(crate) async fn hand_over(&self) {
        let group = self.group();
        if !group.is_leader {
            return;
        }
        let successors = group.members.iter().filter(|member| {
            let is_near = member
                .heard
                .is_some_and(|heard| heard < SUCCESSOR_SILENCE_MAX);
            member.is_voter && member.number != group.own && is_near
        });
        let Some(successor) = successors.max_by_key(|member| member.matched) else {
            return;
        };
        tracing::info!(successor = successor.number, "handing the cluster over");
        let trigger = self.raft.trigger();
        if trigger.transfer_leader(successor.number).await.is_err() {
            return;
        }
        let own = self.own();
        let handed_over = async {
            loop {
                let status = self.status();
                if status.leader.is_some_and(|leader| leader != own) {
                    return;
                }
                self.leadership_changed(status).await;
            }
        };
        if tokio::time::timeout(HAND_OVER_PATIENCE, handed_over)
            .await
            .is_err()
        {
            tracing::warn!("nobody took the cluster over in time");
        }
    }

    /// Where a member is, and which log it has, when the group knows it.
    pub(crate) fn place_of(&self, number: u64) -> Option<Place> {
        self.group().member(number).map(super::Member::place)
    }
}
