//! How each pacemaker stands, in its own words.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::api::{ClusterStatus, MemberPart, MemberView};
use common::id::{Generation, NodeId};
use common::node::{Node, Role};
use common::time::{Span, Timestamp};
use pacemaker_client::tls::{Tls, wall_clock};
use serde::{Deserialize, Serialize};

use super::Members;
use crate::peer::{Answer, Request};
use crate::raft::{Group, Member};

/// What a pacemaker says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MemberStatus {
    /// The last entry that it has applied.
    pub(crate) applied: Generation,
    /// Free bytes of the disk that holds its log.
    pub(crate) disk_available: Option<u64>,
    /// When its certificate ends.
    pub(crate) certificate_expires: Option<Timestamp>,
    /// Its release.
    pub(crate) release: String,
}

/// Where a pacemaker looks for it.
#[derive(Clone)]
pub(crate) struct StatusSource {
    /// The directory that holds the log.
    pub(crate) data_dir: PathBuf,
    /// Its certificate, when it has one.
    pub(crate) tls: Option<Tls>,
}

impl fmt::Debug for StatusSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusSource")
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

/// How long the members may take to say how they stand; a person waits.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);
/// A disk with less room than this soon keeps the log from growing.
const DISK_LOW_BYTES: u64 = 256 * 1024 * 1024;
/// A member that lacks more entries than this, while it answers, is worth a word.
const LAG_NOTABLE: u64 = 1_000;
/// A certificate is renewed long before this is left of its life.
const CERTIFICATE_SHORT: Span = Span::seconds(2 * 3600);

impl Members {
    /// The group, with what every member says of itself and what is wrong in words.
    pub(crate) async fn status(&self) -> Option<ClusterStatus> {
        let own = self.proposer.group();
        let cluster = self
            .replica
            .read(|state| state.cluster().map(|(id, _)| id.to_owned()))?;
        let group = self.leaders_view(&own).await.unwrap_or_else(|| own.clone());
        let statuses = self.ask_all(&group).await;
        let nodes = self.replica.read(pacemaker_core::State::nodes);
        let mut members: Vec<MemberView> = group
            .members
            .iter()
            .map(|member| view(&group, member, &nodes, statuses.get(&member.number)))
            .collect();
        let former = Arc::clone(&self.proposer.former().borrow());
        for node in &nodes {
            let is_pacemaker = node.description.roles.contains(&Role::Pacemaker);
            let is_new = group.member(node.id.0).is_none() && !former.contains(&node.id.0);
            if is_pacemaker && is_new {
                members.push(joining(node));
            }
        }
        let problems = problems(&group, &members, &statuses, wall_clock());
        Some(ClusterStatus {
            id: cluster,
            answered_by: NodeId(own.own),
            leader: own.leader.map(NodeId),
            term: own.term,
            committed: Generation(group.committed),
            applied: self.replica.applied(),
            members,
            problems,
        })
    }

    /// The group as the leader sees it, who knows how far each member is.
    async fn leaders_view(&self, own: &Group) -> Option<Group> {
        let leader = own.leader.filter(|_| !own.is_leader)?;
        let deadline = std::time::Instant::now() + STATUS_PATIENCE;
        match self.proposer.ask(leader, &Request::Group, deadline).await {
            Ok(Answer::Group(group)) => Some(*group),
            Ok(_) | Err(_) => None,
        }
    }

    async fn ask_all(&self, group: &Group) -> BTreeMap<u64, MemberStatus> {
        let deadline = std::time::Instant::now() + STATUS_PATIENCE;
        let asking = group.members.iter().map(|member| async move {
            if member.number == self.proposer.own() {
                return Some((member.number, self.own_status()));
            }
            let answer = self.proposer.ask(member.number, &Request::Status, deadline);
            match answer.await {
                Ok(Answer::Status(status)) => Some((member.number, *status)),
                Ok(_) | Err(_) => None,
            }
        });
        let answers = futures_util::future::join_all(asking).await;
        answers.into_iter().flatten().collect()
    }

    /// How this pacemaker stands.
    pub(crate) fn own_status(&self) -> MemberStatus {
        MemberStatus {
            applied: self.replica.applied(),
            disk_available: available(&self.source.data_dir),
            certificate_expires: self.source.tls.as_ref().map(Tls::expires),
            release: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

fn view(
    group: &Group,
    member: &Member,
    nodes: &[Node],
    status: Option<&MemberStatus>,
) -> MemberView {
    let node = nodes.iter().find(|node| node.id.0 == member.number);
    MemberView {
        node: NodeId(member.number),
        name: node.map_or_else(String::new, |node| node.description.name.clone()),
        api: node.map_or_else(
            || member.address.clone(),
            |node| node.description.api.clone(),
        ),
        part: if member.is_voter {
            MemberPart::Voter
        } else {
            MemberPart::Learner
        },
        is_leader: group.leader == Some(member.number),
        is_reachable: status.is_some(),
        lag: member
            .matched
            .map(|matched| group.last.saturating_sub(matched)),
        disk_available: status.and_then(|status| status.disk_available),
        certificate_expires: status.and_then(|status| status.certificate_expires),
        release: status.map(|status| status.release.clone()),
    }
}

fn joining(node: &Node) -> MemberView {
    MemberView {
        node: node.id,
        name: node.description.name.clone(),
        api: node.description.api.clone(),
        part: MemberPart::Joining,
        is_leader: false,
        is_reachable: false,
        lag: None,
        disk_available: None,
        certificate_expires: None,
        release: None,
    }
}

/// What is wrong, worst first, one sentence each.
fn problems(
    group: &Group,
    members: &[MemberView],
    statuses: &BTreeMap<u64, MemberStatus>,
    now: Timestamp,
) -> Vec<String> {
    let mut problems = Vec::new();
    let voters = group.voters();
    let alive = voters
        .iter()
        .filter(|voter| statuses.contains_key(voter))
        .count();
    if group.leader.is_none() {
        problems.push(format!(
            "No pacemaker leads: {alive} of {} voters answer, and {} are needed to change anything.",
            voters.len(),
            voters.len() / 2 + 1
        ));
    } else if voters.len() > 1 && alive <= voters.len() / 2 + 1 && alive < voters.len() {
        problems.push(format!(
            "Only {alive} of {} voters answer: with one more lost, nothing can be changed.",
            voters.len()
        ));
    }
    if group.is_joint {
        problems.push("The group of pacemakers is changing.".to_owned());
    }
    for member in members {
        let name = format!("Node {} ({})", member.node, member.name);
        if member.part == MemberPart::Joining {
            problems.push(format!(
                "{name} has joined as a pacemaker and could not be taken in yet; is it running and reachable at {}?",
                member.api
            ));
            continue;
        }
        if !member.is_reachable {
            problems.push(format!("{name} does not answer at {}.", member.api));
        }
        if let Some(lag) = member.lag.filter(|lag| *lag > LAG_NOTABLE) {
            problems.push(format!("{name} lacks {lag} entries of the log."));
        }
        if let Some(free) = member.disk_available.filter(|free| *free < DISK_LOW_BYTES) {
            let free = free / (1024 * 1024);
            problems.push(format!(
                "The disk of {name} has {free} MiB left for its log."
            ));
        }
        match member.certificate_expires {
            Some(expires) if expires <= now => {
                problems.push(format!("The certificate of {name} has ended."));
            }
            Some(expires) if expires.since(now) < CERTIFICATE_SHORT => {
                problems.push(format!(
                    "The certificate of {name} ends soon and was not renewed; its log says why."
                ));
            }
            Some(_) | None => {}
        }
    }
    if voters.len().is_multiple_of(2) {
        problems.push(format!(
            "{} pacemakers vote, which is an even number: one more would let the cluster lose one more.",
            voters.len()
        ));
    }
    problems
}

/// Free bytes of a directory's disk, for this user.
fn available(directory: &std::path::Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(directory).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}
