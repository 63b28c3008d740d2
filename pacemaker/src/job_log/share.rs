//! Keeps the logs of jobs alike on all pacemakers.
//!
//! ```text
//! builder ──► any ──► leader: append ──► followers: put ──► acknowledged when a majority has it
//! ```
//! Before a leader takes a piece it asks a majority, once for each job and term, how long their
//! logs are, and fetches what it lacks: nothing that was acknowledged to a builder is lost with a
//! leader. A follower that lacks a part is sent it with the next piece, or fetches it when it is
//! read there. A leader that was replaced is refused by those who know the newer term.
//!
//! Never does: judge whether a job takes more; that is asked of State before.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use common::api::{LOG_OFFSET, paths};
use common::id::JobId;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::{HeaderMap, Method, StatusCode};
use reqwest::Response;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{AppendError, CHUNK_MAX_BYTES, Chunk, JOB_LOG_MAX_BYTES, JobLogs};
use crate::peers::{FORWARDED, Group, LOG_LENGTH, Pacemakers, Peer, job_log_path};

/// How long a peer may take to store or to send one piece.
const PIECE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the slower followers are waited for once a majority has a piece.
const STRAGGLER_PATIENCE: Duration = Duration::from_millis(100);
/// For so long a peer that failed is not sent pieces that a majority can do without.
const AWAY_TIME: Duration = Duration::from_secs(1);
/// How long the leader may take for an append that was passed on to it.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(6);
/// Exchanges with one peer about one log: all pieces of the longest log, and a few questions.
const EXCHANGES_MAX: u64 = JOB_LOG_MAX_BYTES / CHUNK_MAX_BYTES as u64 + 16;
/// Logs that are remembered to be complete; past it they are asked about again.
const COMPLETE_MAX: usize = 10_000;

/// The logs of jobs, on all pacemakers; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct SharedLogs {
    logs: JobLogs,
    peers: Pacemakers,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The newest term in which a leader wrote here.
    newest_term: AtomicU64,
    /// The logs that this leader has completed in its term.
    complete: Mutex<(u64, BTreeSet<JobId>)>,
    /// The peers that failed a moment ago.
    away: Mutex<BTreeMap<u64, Instant>>,
}

/// Why a piece was not taken, or a log cannot be shown in full.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShareError {
    /// It does not fit onto this disk, or not there.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Too few pacemakers have it; it may be there when this is tried again.
    #[error("no majority of the pacemakers has stored the piece of the log")]
    NoMajority,
    /// Another leads.
    #[error("a newer leader writes the logs")]
    Deposed,
    /// A peer does not answer.
    #[error("pacemaker {0} does not answer")]
    Silent(u64),
}

/// Which copy of a log is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// What the peer has. A leader asks so, and is not asked back.
    AsItIs,
    /// What the leader has when it has completed its copy.
    Completed,
}

/// What the leader said to an append that was passed on to it.
#[derive(Debug)]
pub(crate) struct Forwarded {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl SharedLogs {
    /// Shares `logs` among `peers`.
    pub(crate) fn new(logs: JobLogs, peers: Pacemakers) -> Self {
        Self {
            logs,
            peers,
            shared: Arc::default(),
        }
    }

    /// Wakes when something is appended to this log here, and when its job has ended.
    pub(crate) fn follow(&self, job: JobId) -> watch::Receiver<u64> {
        self.logs.follow(job)
    }

    /// On the leader: appends a piece, and answers where the next begins once a majority has it.
    ///
    /// A refusal for the offset speaks of bytes that a majority has, too.
    pub(crate) async fn append(
        &self,
        job: JobId,
        offset: u64,
        piece: Bytes,
    ) -> Result<u64, ShareError> {
        let group = self.peers.group();
        // Whoever writes in a term leads in it.
        if group.leader != Some(group.me) {
            return Err(ShareError::Deposed);
        }
        self.complete(job, &group).await?;
        let appended = self
            .blocking(move |logs| {
                let appended = logs.append(job, offset, &piece);
                let length = logs.length(job).map_err(AppendError::Io)?;
                Ok((appended, length))
            })
            .await;
        let (appended, length) = appended?;
        match &appended {
            Ok(_) | Err(AppendError::Offset(_)) => {}
            Err(AppendError::Full | AppendError::Io(_)) => return Ok(appended?),
        }
        self.spread(job, offset.min(length), length, &group).await?;
        Ok(appended?)
    }

    /// On a follower: takes a piece of the leader of `term`, and answers the log's length.
    pub(crate) async fn put(
        &self,
        job: JobId,
        offset: u64,
        term: u64,
        piece: Bytes,
    ) -> Result<u64, ShareError> {
        let known = self.peers.group().term.max(term);
        let newest = self.shared.newest_term.fetch_max(known, Ordering::AcqRel);
        if term < known.max(newest) {
            return Err(ShareError::Deposed);
        }
        Ok(self
            .blocking(move |logs| logs.put(job, offset, &piece))
            .await?)
    }

    /// A piece of a log as it is on this disk, and the log's length here.
    pub(crate) async fn read(&self, job: JobId, after: u64) -> io::Result<(Chunk, u64)> {
        let logs = self.logs.clone();
        tokio::task::spawn_blocking(move || {
            let chunk = logs.read(job, after)?;
            let length = logs.length(job)?;
            Ok((chunk, length))
        })
        .await
        .map_err(io::Error::other)?
    }

    /// Makes this disk's copy of a log as complete as the leader's.
    pub(crate) async fn refresh(&self, job: JobId) -> Result<(), ShareError> {
        let group = self.peers.group();
        match group.leader {
            Some(leader) if leader == group.me => self.complete(job, &group).await,
            Some(leader) => match group.other(leader) {
                Some(peer) => self.fetch(&peer, Extent::Completed, job, group.term).await,
                None => Err(ShareError::Silent(leader)),
            },
            None => Err(ShareError::NoMajority),
        }
    }

    /// Passes an append on to the leader; none when it does not answer.
    pub(crate) async fn forward(
        &self,
        leader: &Peer,
        job: JobId,
        offset: u64,
        piece: Bytes,
    ) -> Option<Forwarded> {
        let path = paths::JOB_LOG.replace("{job}", &job.to_string());
        let answer = self
            .peers
            .request(leader, Method::POST, &path)
            .ok()?
            .query(&[("offset", offset)])
            .header(FORWARDED, "true")
            .timeout(FORWARD_TIMEOUT)
            .body(piece)
            .send()
            .await
            .ok()?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.ok()?;
        Some(Forwarded {
            status,
            headers,
            body,
        })
    }

    /// On the leader: once for each job and term, asks a majority for what it lacks.
    async fn complete(&self, job: JobId, group: &Group) -> Result<(), ShareError> {
        if self.is_complete(job, group.term) {
            return Ok(());
        }
        let mut answered = BTreeSet::from([group.me]);
        let mut fetches: FuturesUnordered<_> = group
            .others()
            .into_iter()
            .map(|peer| async move {
                let fetched = self.fetch(&peer, Extent::AsItIs, job, group.term).await;
                fetched.map(|()| peer.member)
            })
            .collect();
        while !group.has_majority(&answered) {
            match fetches.next().await {
                Some(Ok(member)) => {
                    answered.insert(member);
                }
                Some(Err(error)) => tracing::debug!(%job, %error, "asking for a job's log"),
                None => return Err(ShareError::NoMajority),
            }
        }
        self.note_complete(job, group.term);
        Ok(())
    }

    /// Gets what a peer has beyond this disk's copy.
    async fn fetch(
        &self,
        peer: &Peer,
        extent: Extent,
        job: JobId,
        term: u64,
    ) -> Result<(), ShareError> {
        let silent = |_| ShareError::Silent(peer.member);
        let path = job_log_path(job);
        for _ in 0..EXCHANGES_MAX {
            let length = self
                .blocking(move |logs| logs.length(job).map_err(AppendError::Io))
                .await?;
            let answer = self
                .peers
                .request(peer, Method::GET, &path)
                .map_err(|_| ShareError::Silent(peer.member))?
                .query(&[("after", length)])
                .query(&[("completed", extent == Extent::Completed)])
                .timeout(PIECE_TIMEOUT)
                .send()
                .await
                .and_then(Response::error_for_status)
                .map_err(silent)?;
            let there = number(answer.headers(), LOG_LENGTH).unwrap_or(0);
            let bytes = answer.bytes().await.map_err(silent)?;
            if !bytes.is_empty() {
                match self.put(job, length, term, bytes).await {
                    // The leader's own piece came meanwhile.
                    Ok(_) | Err(ShareError::Append(AppendError::Offset(_))) => {}
                    Err(error) => return Err(error),
                }
            }
            let now = self
                .blocking(move |logs| logs.length(job).map_err(AppendError::Io))
                .await?;
            if now >= there {
                return Ok(());
            }
        }
        Err(ShareError::Silent(peer.member))
    }

    /// Sends what begins at `from` to the followers; returns when a majority has all of it, and
    /// the others had a moment.
    async fn spread(
        &self,
        job: JobId,
        from: u64,
        length: u64,
        group: &Group,
    ) -> Result<(), ShareError> {
        let mut stored = BTreeSet::from([group.me]);
        let (away, near): (Vec<Peer>, Vec<Peer>) = group
            .others()
            .into_iter()
            .partition(|peer| self.is_away(peer.member));
        let mut late = None;
        for (peers, is_needed) in [(near, true), (away, false)] {
            if !is_needed && group.has_majority(&stored) {
                break;
            }
            let mut sends: FuturesUnordered<_> = peers
                .iter()
                .map(|peer| async move {
                    let sent = self.send(peer, job, from, length, group.term).await;
                    (peer.member, sent)
                })
                .collect();
            loop {
                let next = match late {
                    None => sends.next().await,
                    Some(late) => tokio::time::timeout_at(late, sends.next())
                        .await
                        .unwrap_or(None),
                };
                let Some((member, sent)) = next else {
                    break;
                };
                self.note_away(member, sent.is_err());
                match sent {
                    Ok(()) => {
                        stored.insert(member);
                    }
                    Err(ShareError::Deposed) => return Err(ShareError::Deposed),
                    Err(error) => {
                        tracing::debug!(%job, %error, "a piece of a log is not everywhere");
                    }
                }
                if late.is_none() && group.has_majority(&stored) {
                    late = Some(Instant::now() + STRAGGLER_PATIENCE);
                }
            }
        }
        if group.has_majority(&stored) {
            Ok(())
        } else {
            Err(ShareError::NoMajority)
        }
    }

    /// Brings a peer's copy to `length`; sends nothing when it is told that all is there.
    async fn send(
        &self,
        peer: &Peer,
        job: JobId,
        from: u64,
        length: u64,
        term: u64,
    ) -> Result<(), ShareError> {
        let silent = |_| ShareError::Silent(peer.member);
        let path = job_log_path(job);
        let mut at = from;
        for _ in 0..EXCHANGES_MAX {
            let (chunk, _) = self.read(job, at).await.map_err(AppendError::Io)?;
            let sent = chunk.bytes.len() as u64;
            let answer = self
                .peers
                .request(peer, Method::POST, &path)
                .map_err(|_| ShareError::Silent(peer.member))?
                .query(&[("offset", at), ("term", term)])
                .timeout(PIECE_TIMEOUT)
                .body(chunk.bytes)
                .send()
                .await
                .map_err(silent)?;
            let there = number(answer.headers(), LOG_OFFSET);
            match (answer.status(), there) {
                (StatusCode::NO_CONTENT, _) => {
                    at += sent;
                    if at >= length {
                        return Ok(());
                    }
                }
                (StatusCode::CONFLICT, Some(there)) if there < at => at = there,
                (StatusCode::CONFLICT, None) => return Err(ShareError::Deposed),
                _ => return Err(ShareError::Silent(peer.member)),
            }
        }
        Err(ShareError::Silent(peer.member))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&JobLogs) -> Result<T, AppendError> + Send + 'static,
    ) -> Result<T, AppendError> {
        let logs = self.logs.clone();
        tokio::task::spawn_blocking(move || work(&logs))
            .await
            .map_err(|error| AppendError::Io(io::Error::other(error)))?
    }

    fn is_complete(&self, job: JobId, term: u64) -> bool {
        let complete = self.shared.complete.lock();
        let complete = complete.unwrap_or_else(PoisonError::into_inner);
        complete.0 == term && complete.1.contains(&job)
    }

    fn note_complete(&self, job: JobId, term: u64) {
        let complete = self.shared.complete.lock();
        let mut complete = complete.unwrap_or_else(PoisonError::into_inner);
        if complete.0 != term || complete.1.len() >= COMPLETE_MAX {
            *complete = (term, BTreeSet::new());
        }
        complete.1.insert(job);
    }

    fn is_away(&self, member: u64) -> bool {
        let away = self.shared.away.lock();
        let away = away.unwrap_or_else(PoisonError::into_inner);
        away.get(&member)
            .is_some_and(|since| since.elapsed() < AWAY_TIME)
    }

    fn note_away(&self, member: u64, is_away: bool) {
        let away = self.shared.away.lock();
        let mut away = away.unwrap_or_else(PoisonError::into_inner);
        if is_away {
            away.insert(member, Instant::now());
        } else {
            away.remove(&member);
        }
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
