//! Who is in the Raft group: the leader takes pacemakers in as they join, gives them a vote when
//! they have caught up, and takes them out when an administrator says so.
//!
//! ```text
//! joined the cluster ──► learner ──(caught up, and the number becomes odd)──► voter ──► out, for good
//! ```
//! What is wanted is decided by [`pacemaker_core::membership`]. One change at a time; each is a
//! change of the log, so that a leader that fails in the middle leaves it to the next, which ends it.
//!
//! Never does: take a vote away by itself, or take in what was taken out.

mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use common::id::{Generation, NodeId};
use common::node::Role;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::package_store::fetch::Fetches;
use crate::peer::{Answer, Lane, Peers, Place, Request};
use crate::raft::{CAUGHT_UP_ENTRIES, Group, Member, ProposeError, Proposer};
use crate::replica::Replica;

pub(crate) use self::status::{MemberStatus, StatusSource};

/// The longest time between two looks: a peer that could not be reached is tried again.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two looks at the nodes while the state changes all the time: to list them all takes
/// milliseconds in a large cluster, of the time of those who write.
const CHANGES_PAUSE: Duration = Duration::from_millis(100);
/// How long a change of the group may take before it is left to itself.
const CHANGE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a pacemaker that joins may take to say which log it has.
const HELLO_PATIENCE: Duration = Duration::from_secs(1);
/// A voter that the leader has heard within this counts as alive.
const ALIVE: Duration = Duration::from_secs(1);
/// How long the removal of a member looks for a leader.
const REMOVE_PATIENCE: Duration = Duration::from_secs(8);

/// Knows and changes the group; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Members {
    proposer: Proposer,
    replica: Arc<Replica>,
    peers: Peers,
    fetches: Fetches,
    source: StatusSource,
}

/// Why a member stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoveError {
    /// It is not in the group.
    #[error("node {0} is not in the group of pacemakers")]
    NotMember(NodeId),
    /// The rest could not go on.
    #[error("{0}")]
    Refused(String),
    /// No leader did it in time.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl Members {
    /// Makes it.
    pub(crate) fn new(
        proposer: Proposer,
        replica: Arc<Replica>,
        peers: Peers,
        fetches: Fetches,
        source: StatusSource,
    ) -> Self {
        Self {
            proposer,
            replica,
            peers,
            fetches,
            source,
        }
    }

    /// Brings the group to what is wanted, whenever this pacemaker leads, until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut changes = self.replica.changes();
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let looked = Instant::now();
            changes.mark_unchanged();
            let group = self.proposer.group();
            if group.is_leader {
                let changing = tokio::time::timeout(CHANGE_PATIENCE, self.tick(&group));
                match stop.run_until_cancelled(changing).await {
                    None => return,
                    Some(Ok(Ok(()))) => {}
                    Some(Ok(Err(error))) => {
                        tracing::warn!(%error, "changing the group of pacemakers failed");
                    }
                    Some(Err(_)) => {
                        tracing::warn!("a change of the group of pacemakers takes long");
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.proposer.group_changed(&group) => {}
                changed = changed_after(&mut changes, looked + CHANGES_PAUSE), if group.is_leader => {
                    if changed.is_err() {
                        return;
                    }
                }
                _ = interval.tick() => {}
            }
        }
    }

    /// One step towards what is wanted.
    async fn tick(&self, group: &Group) -> Result<(), ProposeError> {
        if group.is_changing {
            return Ok(());
        }
        if group.is_joint {
            return self.settle(group).await;
        }
        let wanted = self.pacemakers();
        let moved: BTreeMap<u64, Place> = group
            .members
            .iter()
            .filter_map(|member| {
                let address = wanted.get(&member.number)?;
                let place = Place {
                    address: address.clone(),
                    ..member.place()
                };
                (place != member.place()).then_some((member.number, place))
            })
            .collect();
        if !moved.is_empty() {
            tracing::info!(?moved, "pacemakers have moved");
            return self.proposer.move_members(moved).await;
        }
        let mut former = Arc::clone(&self.proposer.former().borrow());
        let is_new = |number: &u64, former: &BTreeSet<u64>| {
            group.member(*number).is_none() && !former.contains(number)
        };
        if wanted.keys().any(|number| is_new(number, &former)) {
            // Who was taken out is known when that is applied, a moment after it is committed; one
            // that is taken in again would count among the voters and never answer.
            self.proposer.barrier_as_leader().await?;
            former = Arc::clone(&self.proposer.former().borrow());
        }
        for (number, address) in &wanted {
            if is_new(number, &former)
                && let Some(place) = self.meet(*number, address).await
            {
                tracing::info!(member = number, address, "a pacemaker joins the group");
                return self.proposer.add_learner(*number, place).await;
            }
        }
        let caught_up = group
            .members
            .iter()
            .filter(|member| !member.is_voter && self.has_caught_up(group, member));
        let promoted = self.promoted(group, numbers(caught_up)).await;
        if promoted.is_empty() {
            return Ok(());
        }
        tracing::info!(?promoted, "pacemakers get a vote");
        let promoted = promoted.into_iter().map(|node| node.0).collect();
        self.proposer.promote(promoted).await
    }

    /// The learners that get a vote: those that have caught up with the packages, too, so that
    /// what is on a majority stays on a majority.
    async fn promoted(&self, group: &Group, mut caught_up: BTreeSet<u64>) -> BTreeSet<NodeId> {
        let voters = nodes(group.voters());
        loop {
            let promoted = pacemaker_core::membership::wanted(&voters, &nodes(caught_up.clone()));
            let mut lacking = BTreeSet::new();
            for node in &promoted {
                if !self.fetches.has_all(node.0).await {
                    lacking.insert(node.0);
                }
            }
            if lacking.is_empty() {
                return promoted;
            }
            tracing::debug!(?lacking, "pacemakers lack packages before they can vote");
            caught_up = caught_up.difference(&lacking).copied().collect();
        }
    }

    /// Ends a change that a former leader left half done; one of this leader's own ends by itself.
    async fn settle(&self, group: &Group) -> Result<(), ProposeError> {
        match self.proposer.settle().await {
            // Someone else has just begun to.
            Err(ProposeError::Membership(reason)) => {
                tracing::debug!(term = group.term, reason, "the group is changing");
                Ok(())
            }
            settled => settled,
        }
    }

    fn has_caught_up(&self, group: &Group, member: &Member) -> bool {
        let is_near = |matched: u64| group.last.saturating_sub(matched) < CAUGHT_UP_ENTRIES;
        member.matched.is_some_and(is_near) && is_alive(member)
    }

    /// The nodes that are pacemakers, with the address of their API.
    fn pacemakers(&self) -> BTreeMap<u64, String> {
        let nodes = self.replica.read(pacemaker_core::State::nodes);
        nodes
            .into_iter()
            .filter(|node| node.description.roles.contains(&Role::Pacemaker))
            .filter_map(|node| Some((node.id.0, address_of(&node.description.api)?)))
            .collect()
    }

    /// Asks a pacemaker that has joined which log it has.
    async fn meet(&self, number: u64, address: &str) -> Option<Place> {
        let anywhere = Place {
            address: address.to_owned(),
            incarnation: String::new(),
        };
        let link = self.peers.link(number, &anywhere, Lane::Quick);
        match link.call(&Request::Ping, HELLO_PATIENCE).await {
            Ok(_) => Some(Place {
                incarnation: link.hello()?.incarnation,
                ..anywhere
            }),
            Err(error) => {
                tracing::debug!(%error, "a pacemaker that has joined does not answer yet");
                None
            }
        }
    }

    /// Takes a member out of the group, whoever leads.
    pub(crate) async fn remove(&self, node: NodeId) -> Result<(), RemoveError> {
        let deadline = std::time::Instant::now() + REMOVE_PATIENCE;
        loop {
            let status = self.proposer.status();
            let answer = match status.leader {
                _ if status.is_leader => self.remove_here(node).await,
                Some(leader) => {
                    let request = Request::RemoveMember(node);
                    match self.proposer.ask(leader, &request, deadline).await {
                        Ok(answer) => answer,
                        Err(error) => {
                            // Removing twice does no harm.
                            tracing::debug!(%error, "the leader does not answer");
                            Answer::NotLeader(None)
                        }
                    }
                }
                None => Answer::NotLeader(None),
            };
            match answer {
                Answer::Done => return Ok(()),
                Answer::Refused(reason) if reason.is_empty() => {
                    return Err(RemoveError::NotMember(node));
                }
                Answer::Refused(reason) => return Err(RemoveError::Refused(reason)),
                _ => self.proposer.wait_for_leader(deadline).await?,
            }
        }
    }

    /// Takes a member out of the group that this pacemaker leads.
    pub(crate) async fn remove_here(&self, node: NodeId) -> Answer {
        let group = self.proposer.group();
        if !group.is_leader {
            return Answer::NotLeader(group.leader);
        }
        if group.member(node.0).is_none() {
            // A change that takes it out may be under way, of an earlier try or settled by the tick.
            if group.is_changing {
                return Answer::NotLeader(None);
            }
            // Who was taken out is known when that is applied, a moment after it is committed.
            if let Err(error) = self.proposer.barrier().await {
                return Answer::Unknown(error.to_string());
            }
            let is_former = self.proposer.former().borrow().contains(&node.0);
            return if is_former {
                Answer::Done
            } else {
                Answer::Refused(String::new())
            };
        }
        let voters = nodes(group.voters());
        let live = self.live(&group).await;
        if !pacemaker_core::membership::may_remove(&voters, &live, node) {
            return Answer::Refused(format!(
                "without node {node}, fewer than a majority of the pacemakers that remain are alive, so that nothing could be changed any more; bring them back first"
            ));
        }
        let is_voter = voters.contains(&node);
        let instead = if is_voter {
            let standing_by = group.members.iter().filter(|member| {
                !member.is_voter && member.number != node.0 && self.has_caught_up(&group, member)
            });
            let rest = voters.iter().filter(|voter| **voter != node).copied();
            pacemaker_core::membership::wanted(&rest.collect(), &nodes(numbers(standing_by)))
        } else {
            BTreeSet::new()
        };
        let instead = instead.into_iter().map(|node| node.0).collect();
        let expelling = self.proposer.expel(node.0, instead);
        match tokio::time::timeout_at(Instant::now() + CHANGE_PATIENCE, expelling).await {
            Ok(Ok(())) => Answer::Done,
            Ok(Err(ProposeError::Membership(reason))) => {
                tracing::info!(reason, "a removal has to wait for another change");
                Answer::NotLeader(None)
            }
            Ok(Err(error)) => Answer::Unknown(error.to_string()),
            Err(_) => Answer::Unknown("the change takes long".to_owned()),
        }
    }
}

impl Members {
    /// The members that answer now: what was heard a moment ago is not enough to give up a vote for.
    async fn live(&self, group: &Group) -> BTreeSet<NodeId> {
        let deadline = std::time::Instant::now() + HELLO_PATIENCE;
        let asking = group.members.iter().map(|member| async move {
            let number = member.number;
            let is_own = number == group.own;
            let answer = self.proposer.ask(number, &Request::Ping, deadline);
            (is_own || answer.await.is_ok()).then_some(NodeId(number))
        });
        let answers = futures_util::future::join_all(asking).await;
        answers.into_iter().flatten().collect()
    }
}

/// Waits for a change of the state, from `at` on.
async fn changed_after(
    changes: &mut watch::Receiver<Generation>,
    at: Instant,
) -> Result<(), watch::error::RecvError> {
    tokio::time::sleep_until(at).await;
    changes.changed().await
}

fn is_alive(member: &Member) -> bool {
    member.heard.is_some_and(|heard| heard < ALIVE)
}

fn numbers<'a>(members: impl Iterator<Item = &'a Member>) -> BTreeSet<u64> {
    members.map(|member| member.number).collect()
}

fn nodes(numbers: BTreeSet<u64>) -> BTreeSet<NodeId> {
    numbers.into_iter().map(NodeId).collect()
}

/// `host:port` of an API's URL.
fn address_of(api: &str) -> Option<String> {
    let uri: http::Uri = api.parse().ok()?;
    let authority = uri.authority()?;
    authority.port().map(|_| authority.as_str().to_owned())
}
