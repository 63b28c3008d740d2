//! The network that openraft speaks through: its requests as those of [`crate::peer`].
//!
//! A peer that cannot be reached is reported as such at once, and openraft waits before it tries
//! again. Appends of one stream are sent one after the other without waiting for answers.

use std::future::Future;
use std::io;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use crate::peer::{Answer, CallError, Lane, Link, Peers, Request, SnapshotChunk};
use crate::raft::types::{Seat, SnapshotBytes, TypeConfig};
use crate::raft::wire;

/// Appends under way to one peer; enough to fill a line, few enough to bound memory.
const PIPELINE: usize = 32;
/// How long an append may take: a disk that stalls answers within seconds, and nobody else waits
/// for it. A peer that is gone is noticed by its connection.
const APPEND_PATIENCE: Duration = Duration::from_secs(10);
/// How long a part of a snapshot may take on a slow line.
const CHUNK_PATIENCE: Duration = Duration::from_secs(30);
/// How long the peer may take to install a snapshot.
const INSTALL_PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of a snapshot in one frame: half a second on a line of a megabit.
const CHUNK_BYTES: usize = 64 * 1024;
/// Parts of a snapshot under way.
const CHUNKS_AT_ONCE: usize = 16;
/// Pauses before openraft tries an unreachable peer again; the last goes on.
const PAUSES_MS: [u64; 4] = [20, 50, 100, 200];
/// The same before a stream that could not begin: openraft pauses between requests, not between
/// streams, and would try thousands of times in a second. Short beside an election.
const STREAM_PAUSE: Duration = Duration::from_millis(50);

/// Makes a [`Peer`] for every peer.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    peers: Peers,
}

impl Network {
    /// A network over these links.
    pub(crate) fn new(peers: Peers) -> Self {
        Self { peers }
    }

    fn peer(&self, target: u64, member: &Seat, lane: Lane) -> Peer {
        let place = member.place();
        Peer {
            own: self.peers.credentials().member,
            target,
            quick: self.peers.link(target, &place, Lane::Quick),
            appends: self.peers.link(target, &place, lane),
            is_heartbeat: lane == Lane::Quick,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, member: &Seat) -> Peer {
        self.peer(target, member, Lane::Large)
    }

    async fn new_heartbeat_client(&mut self, target: u64, member: &Seat) -> Peer {
        self.peer(target, member, Lane::Quick)
    }
}

/// One peer.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    own: u64,
    target: u64,
    quick: Link,
    appends: Link,
    is_heartbeat: bool,
}

impl Peer {
    fn failed(
        &self,
        error: &CallError,
        action: RPCTypes,
        patience: Duration,
    ) -> RPCError<TypeConfig> {
        match error {
            CallError::NotSent { .. } => RPCError::Unreachable(Unreachable::new(error)),
            CallError::Lost(_) => RPCError::Network(NetworkError::new(error)),
            CallError::TimedOut(_) => RPCError::Timeout(Timeout {
                action,
                id: self.own,
                target: self.target,
                timeout: patience,
            }),
        }
    }

    async fn ask(
        &self,
        request: &Request,
        option: &RPCOption,
        action: RPCTypes,
    ) -> Result<Answer, RPCError<TypeConfig>> {
        let patience = option.soft_ttl();
        self.quick
            .call(request, patience)
            .await
            .map_err(|error| self.failed(&error, action, patience))
    }

    async fn ask_for_vote(
        &self,
        request: &Request,
        option: &RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer = self.ask(request, option, RPCTypes::Vote).await?;
        wire::counted(answer).map_err(|answer| odd(&answer))
    }

    async fn send_chunks(
        &self,
        vote: &VoteOf<TypeConfig>,
        bytes: SnapshotBytes,
    ) -> Result<VoteOf<TypeConfig>, RPCError<TypeConfig>> {
        let deadline = tokio::time::Instant::now() + CHUNK_PATIENCE;
        let failed =
            |error: CallError| self.failed(&error, RPCTypes::InstallSnapshot, CHUNK_PATIENCE);
        self.appends.connected(deadline).await.map_err(failed)?;
        let total = bytes.len();
        let transfer = self.appends.stream_number();
        let mut sent = futures_util::stream::iter((0..total).step_by(CHUNK_BYTES))
            .map(|offset| {
                let end = total.min(offset + CHUNK_BYTES);
                let chunk = Request::Snapshot(SnapshotChunk {
                    transfer,
                    vote: vote.into(),
                    offset: offset as u64,
                    total: total as u64,
                    bytes: wire::blob(bytes.slice(offset..end)),
                });
                let patience = if end == total {
                    INSTALL_PATIENCE
                } else {
                    CHUNK_PATIENCE
                };
                let asked = self.appends.begin(&chunk);
                async move {
                    let target = self.target;
                    tokio::time::timeout(patience, asked?)
                        .await
                        .unwrap_or(Err(CallError::TimedOut(target)))
                }
            })
            .buffered(CHUNKS_AT_ONCE);
        while let Some(answer) = sent.next().await {
            match answer.map_err(failed)? {
                Answer::Done => {}
                Answer::Snapshot(vote) => return Ok(vote.into()),
                answer => return Err(odd(&answer)),
            }
        }
        Err(odd(&Answer::Done))
    }
}

/// An answer that does not fit its request.
fn odd(answer: &Answer) -> RPCError<TypeConfig> {
    let error = io::Error::other(format!("an unexpected answer: {answer:?}"));
    RPCError::Unreachable(Unreachable::new(&error))
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotBytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let append = wire::append(0, &request)
            .map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        let answer = self
            .ask(&Request::Append(append), &option, RPCTypes::AppendEntries)
            .await?;
        let result = wire::appended(answer).map_err(|answer| odd(&answer))?;
        Ok(result.into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> futures_util::future::BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let this = &*self;
        let (stream, patience, pipeline) = if this.is_heartbeat {
            (0, option.soft_ttl(), 1)
        } else {
            (this.appends.stream_number(), APPEND_PATIENCE, PIPELINE)
        };
        async move {
            let failed =
                move |error: CallError| this.failed(&error, RPCTypes::AppendEntries, patience);
            let deadline = tokio::time::Instant::now() + option.soft_ttl();
            if let Err(error) = this.appends.connected(deadline).await {
                if !this.is_heartbeat {
                    tokio::time::sleep_until(tokio::time::Instant::now() + STREAM_PAUSE).await;
                }
                return Err(failed(error));
            }
            let answers = input
                .map(move |request| {
                    let asked = wire::append(stream, &request)
                        .map_err(|error| CallError::NotSent {
                            target: this.target,
                            reason: error.to_string().into(),
                        })
                        .and_then(|append| this.appends.begin(&Request::Append(append)));
                    async move {
                        let answer = tokio::time::timeout(patience, asked?).await;
                        answer.unwrap_or(Err(CallError::TimedOut(this.target)))
                    }
                })
                .buffered(pipeline)
                .map(move |answer| {
                    wire::appended(answer.map_err(failed)?).map_err(|answer| odd(&answer))
                });
            // What was sent behind an answer that is not a success has no meaning any more.
            let answers = answers.scan(false, |has_ended, answer| {
                let item = (!*has_ended).then_some(answer);
                *has_ended = !matches!(item, Some(Ok(Ok(_))));
                std::future::ready(item)
            });
            Ok(answers.boxed())
        }
        .boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = Request::Vote(wire::ballot(&request));
        self.ask_for_vote(&request, &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = Request::PreVote(wire::ballot(&request));
        self.ask_for_vote(&request, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotBytes>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sending = self.send_chunks(&vote, snapshot.snapshot);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => Ok(SnapshotResponse::new(sent?)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = Request::TransferLeader(wire::transfer(&request));
        match self
            .ask(&request, &option, RPCTypes::TransferLeader)
            .await?
        {
            Answer::Done => Ok(Ok(())),
            answer => Err(odd(&answer)),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        let last = PAUSES_MS[PAUSES_MS.len() - 1];
        let pauses = PAUSES_MS.into_iter().chain(std::iter::repeat(last));
        Some(Backoff::new(pauses.map(Duration::from_millis)))
    }
}
