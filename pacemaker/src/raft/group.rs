//! The Raft group as this pacemaker sees it at the moment, and the changes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant as _, RaftMetrics, ServerState};
use serde::{Deserialize, Serialize};

use crate::peer::Place;
use crate::raft::types::{Seat, TypeConfig};
use crate::raft::{ProposeError, Proposer};

/// A leader that has heard no majority for so long may have been replaced, and acknowledges nothing to
/// nodes any more: a heart with exclusive instances takes an acknowledgement for the promise that
/// they are not started elsewhere within a TTL. Shorter than any TTL (a second at least), longer
/// than a machine with two compilers on it stalls.
const MAJORITY_SILENCE: Duration = Duration::from_millis(900);

/// The group at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    /// This pacemaker's number.
    pub(crate) own: u64,
    /// The term.
    pub(crate) term: u64,
    /// Who leads, when known.
    pub(crate) leader: Option<u64>,
    /// True when this pacemaker leads.
    pub(crate) is_leader: bool,
    /// Everyone in the group, learners too, this pacemaker included when it is in it; by number.
    pub(crate) members: Vec<Member>,
    /// Those whose majority counts: one set, or two while the group changes.
    pub(crate) voter_sets: Vec<BTreeSet<u64>>,
    /// True while the last change is not known to be on a majority.
    pub(crate) is_changing: bool,
    /// True while the group goes from one set of voters to another.
    pub(crate) is_joint: bool,
    /// The end of the log here.
    pub(crate) last: u64,
    /// What is known to be on a majority.
    pub(crate) committed: u64,
}

/// A pacemaker of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Its number, which is its node's.
    pub(crate) number: u64,
    /// `host:port` of its API.
    pub(crate) address: String,
    /// Of its log.
    pub(crate) incarnation: String,
    /// True when its disk counts for what is acknowledged.
    pub(crate) is_voter: bool,
    /// On the leader: how far its log is known to agree.
    pub(crate) matched: Option<u64>,
    /// On the leader: how long ago it last answered.
    pub(crate) heard: Option<Duration>,
}

impl Member {
    /// Where links find it.
    pub(crate) fn place(&self) -> Place {
        Place {
            address: self.address.clone(),
            incarnation: self.incarnation.clone(),
        }
    }
}

impl Group {
    pub(super) fn of(metrics: &RaftMetrics<TypeConfig>) -> Self {
        let effective = &metrics.membership_config;
        let voters: BTreeSet<u64> = effective.voter_ids().collect();
        let is_leader = metrics.state == ServerState::Leader;
        let members = effective.nodes().map(|(number, seat)| Member {
            number: *number,
            address: seat.address.clone(),
            incarnation: seat.incarnation.clone(),
            is_voter: voters.contains(number),
            matched: if is_leader && *number == metrics.id {
                metrics.last_log_index
            } else {
                let matched = metrics.replication.as_ref();
                matched.and_then(|matched| (*matched.get(number)?)?.index().into())
            },
            heard: if is_leader && *number == metrics.id {
                Some(Duration::ZERO)
            } else {
                let heard = metrics.heartbeat.as_ref();
                heard.and_then(|heard| heard.get(number)?.as_ref().map(|at| at.elapsed()))
            },
        });
        Self {
            own: metrics.id,
            term: metrics.current_term,
            leader: metrics.current_leader,
            is_leader,
            members: members.collect(),
            voter_sets: effective.get_joint_config().clone(),
            is_changing: effective.log_id() != metrics.committed_membership_config.log_id(),
            is_joint: effective.get_joint_config().len() > 1,
            last: metrics.last_log_index.unwrap_or(0),
            committed: metrics.cluster_committed.map_or(0, |id| id.index()),
        }
    }

    /// The numbers of those that vote.
    pub(crate) fn voters(&self) -> BTreeSet<u64> {
        let voters = self.members.iter().filter(|member| member.is_voter);
        voters.map(|member| member.number).collect()
    }

    /// The member with a number.
    pub(crate) fn member(&self, number: u64) -> Option<&Member> {
        self.members.iter().find(|member| member.number == number)
    }
}

impl Proposer {
    /// The group as it is now.
    pub(crate) fn group(&self) -> Group {
        Group::of(&self.raft.metrics().borrow_watched())
    }

    /// True on a leader that a majority has answered lately.
    pub(crate) fn leads_a_majority(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let is_alone = metrics.membership_config.voter_ids().count() <= 1;
        let heard = metrics.last_quorum_acked.as_ref();
        let is_heard = heard.is_some_and(|at| at.elapsed() < MAJORITY_SILENCE);
        metrics.state == ServerState::Leader && (is_alone || is_heard)
    }

    /// Resolves when the group may have become another than `seen`.
    pub(crate) async fn group_changed(&self, seen: &Group) {
        let seen = seen.essence();
        // How far a learner has come is told only among what changes all the time.
        let has_learners = seen.members.iter().any(|member| !member.is_voter);
        self.until(|metrics| Group::of(metrics).essence() != seen, has_learners)
            .await;
    }

    /// Lets a pacemaker follow the log without a vote.
    pub(crate) async fn add_learner(&self, number: u64, place: Place) -> Result<(), ProposeError> {
        let added = self.raft.add_learner(number, Seat::from(place), false);
        changed(added.await)
    }

    /// Gives learners a vote.
    pub(crate) async fn promote(&self, learners: BTreeSet<u64>) -> Result<(), ProposeError> {
        self.change(ChangeMembers::AddVoterIds(learners)).await
    }

    /// Ends a change that a former leader left half done.
    pub(crate) async fn settle(&self) -> Result<(), ProposeError> {
        self.change(ChangeMembers::AddVoterIds(BTreeSet::new()))
            .await
    }

    /// Follows members to other addresses.
    pub(crate) async fn move_members(
        &self,
        places: BTreeMap<u64, Place>,
    ) -> Result<(), ProposeError> {
        let seats = places.into_iter();
        let seats = seats.map(|(number, place)| (number, Seat::from(place)));
        self.change(ChangeMembers::SetNodes(seats.collect())).await
    }

    /// Takes a member out, and gives `instead` a vote in the same change.
    pub(crate) async fn expel(
        &self,
        number: u64,
        instead: BTreeSet<u64>,
    ) -> Result<(), ProposeError> {
        let group = self.group();
        if group.member(number).is_some_and(|member| member.is_voter) {
            let mut voters = group.voters();
            voters.remove(&number);
            voters.extend(instead);
            self.change(ChangeMembers::ReplaceAllVoters(voters)).await
        } else {
            let number = BTreeSet::from([number]);
            self.change(ChangeMembers::RemoveNodes(number)).await
        }
    }

    async fn change(&self, change: ChangeMembers<u64, Seat>) -> Result<(), ProposeError> {
        changed(self.raft.change_membership(change, false).await)
    }
}

impl Group {
    /// Without what changes all the time.
    fn essence(&self) -> Self {
        let mut essence = self.clone();
        (essence.last, essence.committed) = (0, 0);
        for member in &mut essence.members {
            let is_near = |matched: u64| self.last.saturating_sub(matched) < CAUGHT_UP_ENTRIES;
            // What matters is whether it has caught up.
            member.matched = member.matched.map(|matched| u64::from(is_near(matched)));
            member.heard = None;
        }
        essence
    }
}

/// A learner that lacks fewer entries than this has them within a few heartbeats.
pub(crate) const CAUGHT_UP_ENTRIES: u64 = 200;

fn changed<T>(
    result: Result<T, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>,
) -> Result<(), ProposeError> {
    match result {
        Ok(_) => Ok(()),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => Err(forward
            .leader_id
            .map_or(ProposeError::NoLeader, ProposeError::OtherLeader)),
        Err(RaftError::APIError(error)) => Err(ProposeError::Membership(error.to_string())),
        Err(RaftError::Fatal(error)) => Err(ProposeError::Failed(error.into())),
    }
}
