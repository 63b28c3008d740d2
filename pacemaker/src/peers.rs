//! The other pacemakers: who they are at the moment, and HTTP to them.
//!
//! Who belongs to the group is what Raft says, asked anew each time; nothing is kept but
//! connections. Pacemakers have paths of their own, those below `/v1/replicas`: who is
//! asked there answers with what it has itself and asks nobody else.
//!
//! Never does: decide what is sent, or repeat a request.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use common::digest::Digest;
use common::id::{JobId, NodeId, RunId};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Method};
use pacemaker_client::Connections;
use reqwest::RequestBuilder;

use crate::raft;

/// HEAD, GET, PUT of a package's bytes on the disk of the one that is asked.
pub(crate) const REPLICA_PACKAGE: &str = "/v1/replicas/packages/{digest}";
/// GET: the digests of packages that the one that is asked lacks, as JSON.
pub(crate) const REPLICA_PACKAGES: &str = "/v1/replicas/packages";
/// GET `?after=N`, POST `?offset=N&term=T`: a job's log on the disk of the one that is asked.
pub(crate) const REPLICA_JOB_LOG: &str = "/v1/replicas/jobs/{job}/log";
/// GET `?after=N`: a cron run's log on the disk of the one that is asked.
pub(crate) const REPLICA_CRON_LOG: &str = "/v1/replicas/cron-runs/{run}/log";
/// `PM-Log-Length`: how long a log is on the disk of the one that answers.
pub(crate) const LOG_LENGTH: &str = "pm-log-length";
/// `PM-Forwarded`: a request that another pacemaker took for the leader; it is not passed on again.
pub(crate) const FORWARDED: &str = "pm-forwarded";

/// How long a peer may take to answer what needs no more than a look at its disk.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The Raft group as one of its members sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    /// The one that looks.
    pub(crate) me: u64,
    /// The newest term that it has seen.
    pub(crate) term: u64,
    /// Who leads, when known.
    pub(crate) leader: Option<u64>,
    /// Those whose majority counts: one set, or two while the group changes; of each a majority.
    pub(crate) voters: Vec<BTreeSet<u64>>,
    /// Where all members are, learners too, as `host:port`.
    pub(crate) members: BTreeMap<u64, String>,
}

/// Another pacemaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its number in the group.
    pub(crate) member: u64,
    /// Where it is.
    address: String,
}

impl From<raft::Group> for Group {
    fn from(group: raft::Group) -> Self {
        Self {
            me: group.own,
            term: group.term,
            leader: group.leader,
            voters: group.voter_sets,
            members: group
                .members
                .iter()
                .map(|member| (member.number, member.address.clone()))
                .collect(),
        }
    }
}

impl Group {
    /// All members but this one.
    pub(crate) fn others(&self) -> Vec<Peer> {
        self.members
            .iter()
            .filter(|(member, _)| **member != self.me)
            .map(|(member, address)| Peer {
                member: *member,
                address: address.clone(),
            })
            .collect()
    }

    /// Another member by its number.
    pub(crate) fn other(&self, member: u64) -> Option<Peer> {
        self.others().into_iter().find(|peer| peer.member == member)
    }

    /// True for a member whose disk counts.
    pub(crate) fn is_voter(&self, member: u64) -> bool {
        self.voters.iter().any(|voters| voters.contains(&member))
    }

    /// True when `members` are enough for what is acknowledged to survive.
    pub(crate) fn has_majority(&self, members: &BTreeSet<u64>) -> bool {
        let is_majority =
            |voters: &BTreeSet<u64>| voters.intersection(members).count() * 2 > voters.len();
        !self.voters.is_empty() && self.voters.iter().all(is_majority)
    }
}

/// The other pacemakers; clones are the same.
#[derive(Clone)]
pub(crate) struct Pacemakers {
    look: Arc<dyn Fn() -> Group + Send + Sync>,
    connections: Connections,
    /// Shown where there are no certificates. Marked as sensitive, so that nothing prints it.
    authorization: Option<HeaderValue>,
}

impl fmt::Debug for Pacemakers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pacemakers").finish_non_exhaustive()
    }
}

impl Pacemakers {
    /// Makes them from a way to look at the group, and from how they know this one: by its
    /// certificate, or else by the token.
    pub(crate) fn new(
        look: impl Fn() -> Group + Send + Sync + 'static,
        connections: Connections,
        node_token: &str,
    ) -> Self {
        let authorization = (!connections.is_tls()).then(|| {
            let mut value = HeaderValue::from_str(&format!("Bearer {node_token}"))
                .expect("the configuration was checked: a token has visible characters");
            value.set_sensitive(true);
            value
        });
        Self {
            look: Arc::new(look),
            connections,
            authorization,
        }
    }

    /// The group as it is now.
    pub(crate) fn group(&self) -> Group {
        (self.look)()
    }

    /// Begins a request to a peer.
    ///
    /// # Errors
    /// When no client can be made.
    pub(crate) fn request(
        &self,
        peer: &Peer,
        method: Method,
        path: &str,
    ) -> Result<RequestBuilder, pacemaker_client::Error> {
        let scheme = if self.connections.is_tls() {
            "https"
        } else {
            "http"
        };
        let request = self
            .connections
            .to(NodeId(peer.member))?
            .request(method, format!("{scheme}://{}{path}", peer.address));
        Ok(match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        })
    }
}

/// Where a peer's copy of a package is.
pub(crate) fn package_path(digest: &Digest) -> String {
    REPLICA_PACKAGE.replace("{digest}", digest.as_str())
}

/// Where a peer's copy of a job's log is.
pub(crate) fn job_log_path(job: JobId) -> String {
    REPLICA_JOB_LOG.replace("{job}", &job.to_string())
}

/// Where a peer's log of a cron run is.
pub(crate) fn cron_log_path(run: RunId) -> String {
    REPLICA_CRON_LOG.replace("{run}", &run.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majority_is_one_of_every_set_of_voters() {
        let check = |voters: &[&[u64]], stored: &[u64], is_enough: bool| {
            let group = Group {
                voters: voters
                    .iter()
                    .map(|set| set.iter().copied().collect())
                    .collect(),
                ..Group::default()
            };
            let stored = stored.iter().copied().collect();
            assert_eq!(
                group.has_majority(&stored),
                is_enough,
                "{voters:?} {stored:?}"
            );
        };

        check(&[&[1]], &[1], true);
        check(&[&[1, 2, 3]], &[1], false);
        check(&[&[1, 2, 3]], &[1, 3], true);
        check(&[&[1, 2, 3]], &[1, 4, 5], false);
        check(&[&[1, 2], &[1, 2, 3]], &[1, 3], false);
        check(&[&[1, 2], &[1, 2, 3]], &[1, 2], true);
        check(&[], &[1, 2], false);
    }
}
