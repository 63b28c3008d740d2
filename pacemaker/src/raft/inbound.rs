//! What peers ask of this pacemaker's Raft.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use openraft::{ReadPolicy, Snapshot};
use pacemaker_core::command::Command;
use tokio::sync::mpsc;

use crate::peer::{Answer, Answers, Append, Appended, Ballot, SnapshotChunk, Transfer};
use crate::raft::snapshot_files::Image;
use crate::raft::types::{StoredVote, TypeConfig, Vote};
use crate::raft::{Here, ProposeError, Proposer, wire};

/// Appends of one stream that wait for openraft; past it, reading the connection waits.
const APPENDS_WAITING: usize = 64;
/// The largest snapshot that is taken; a state of a million instances has a tenth of it.
const SNAPSHOT_MAX_BYTES: u64 = 1024 * 1024 * 1024;

impl Proposer {
    /// An append that belongs to no stream.
    pub(crate) async fn append_alone(&self, append: Append) -> Answer {
        let previous = append.previous;
        let request = match wire::append_request(append) {
            Ok(request) => request,
            Err(error) => return Answer::Refused(error.to_string()),
        };
        Answer::Append(match self.raft.append_entries(request).await {
            Ok(AppendEntriesResponse::Success) => Appended::Matched(previous),
            Ok(AppendEntriesResponse::PartialSuccess(matched)) => {
                Appended::Matched(matched.map(Into::into))
            }
            Ok(AppendEntriesResponse::Conflict) => Appended::Conflict(previous),
            Ok(AppendEntriesResponse::HigherVote(vote)) => Appended::HigherVote((&vote).into()),
            Err(error) => return Answer::Unknown(error.to_string()),
        })
    }

    /// A candidate asks for a vote.
    pub(crate) async fn vote(&self, ballot: Ballot) -> Answer {
        match self.raft.vote(wire::vote_request(&ballot)).await {
            Ok(response) => wire::count(&response),
            Err(error) => Answer::Unknown(error.to_string()),
        }
    }

    /// A candidate asks whether it would get a vote.
    pub(crate) async fn pre_vote(&self, ballot: Ballot) -> Answer {
        match self.raft.pre_vote(wire::vote_request(&ballot)).await {
            Ok(response) => wire::count(&response),
            Err(error) => Answer::Unknown(error.to_string()),
        }
    }

    /// The leader wants someone else to lead.
    pub(crate) async fn take_over(&self, transfer: Transfer) -> Answer {
        let request = wire::transfer_request(&transfer);
        match self.raft.handle_transfer_leader(request).await {
            Ok(Ok(())) => Answer::Done,
            Ok(Err(error)) => Answer::Refused(error.to_string()),
            Err(error) => Answer::Unknown(error.to_string()),
        }
    }

    /// A complete snapshot of the leader.
    pub(crate) async fn take_snapshot(&self, received: ReceivedSnapshot) -> Answer {
        let bytes = received.bytes.clone();
        let decoded = tokio::task::spawn_blocking(move || Image::decode(&bytes)).await;
        let meta = match decoded {
            Ok(Ok(image)) => image.meta,
            Ok(Err(error)) => return Answer::Refused(error.to_string()),
            Err(error) => return Answer::Unknown(error.to_string()),
        };
        let snapshot = Snapshot {
            meta,
            snapshot: received.bytes,
        };
        let vote: Vote = received.vote.into();
        match self.raft.install_full_snapshot(vote, snapshot).await {
            Ok(response) => Answer::Snapshot((&response.vote).into()),
            Err(error) => Answer::Unknown(error.to_string()),
        }
    }

    /// How far a state must be applied to show all that was acknowledged.
    pub(crate) async fn read_index(&self) -> Answer {
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Answer::ReadIndex(linearizer.read_log_id().index()),
            Err(error) => {
                tracing::debug!(%error, "a read cannot be confirmed here");
                Answer::NotLeader(self.status().leader.filter(|leader| *leader != self.own()))
            }
        }
    }

    /// A command that came to a pacemaker that does not lead.
    pub(crate) async fn propose_for_peer(&self, command: Arc<Command>) -> Answer {
        match self.write_here(&command, None).await {
            Ok(Here::Done { index, outcome }) => Answer::Proposed { index, outcome },
            Ok(Here::NotLeader(leader)) => Answer::NotLeader(leader),
            Ok(Here::Unknown) => {
                Answer::Unknown("the leader changed while the command was under way".to_owned())
            }
            Err(ProposeError::DiskFull) => Answer::DiskFull,
            Err(error) => Answer::Unknown(error.to_string()),
        }
    }
}

/// A request with the number that its answer carries.
type Numbered = (u64, AppendEntriesRequest<TypeConfig>);

/// The appends of one connection, which are taken in order while answers are under way.
#[derive(Debug)]
pub(crate) struct AppendStream {
    proposer: Proposer,
    answers: Answers,
    current: Option<(u64, mpsc::Sender<Numbered>)>,
}

impl AppendStream {
    /// Nothing has come yet.
    pub(crate) fn new(proposer: Proposer, answers: Answers) -> Self {
        Self {
            proposer,
            answers,
            current: None,
        }
    }

    /// Takes the next append; its answer is sent when it is on disk.
    pub(crate) async fn take(&mut self, number: u64, append: Append) {
        let stream = append.stream;
        let request = match wire::append_request(append) {
            Ok(request) => request,
            Err(error) => {
                let answer = Answer::Refused(error.to_string());
                return self.answers.send(number, &answer).await;
            }
        };
        let is_current = matches!(&self.current, Some((current, _)) if *current == stream);
        if !is_current {
            let (sender, receiver) = mpsc::channel(APPENDS_WAITING);
            tokio::spawn(run(self.proposer.clone(), receiver, self.answers.clone()));
            self.current = Some((stream, sender));
        }
        if let Some((_, sender)) = &self.current
            && sender.send((number, request)).await.is_err()
        {
            // The stream has ended with an answer that is no success: what follows has no meaning.
            let answer = Answer::Refused("the stream of appends has ended".to_owned());
            self.answers.send(number, &answer).await;
        }
    }
}

/// Feeds one stream to openraft and sends its answers, until it ends.
async fn run(proposer: Proposer, receiver: mpsc::Receiver<Numbered>, answers: Answers) {
    let numbers = Arc::new(Mutex::new(VecDeque::new()));
    let given = Arc::clone(&numbers);
    let requests = futures_util::stream::unfold(receiver, move |mut receiver| {
        let given = Arc::clone(&given);
        async move {
            let (number, request) = receiver.recv().await?;
            given
                .lock()
                .expect("no one panics while holding the numbers")
                .push_back(number);
            Some((request, receiver))
        }
    });
    let results = proposer.raft.stream_append(requests);
    futures_util::pin_mut!(results);
    while let Some(result) = results.next().await {
        let number = numbers
            .lock()
            .expect("no one panics while holding the numbers")
            .pop_front();
        let Some(number) = number else { return };
        let answer = match result {
            Ok(result) => wire::append_answer(&result),
            Err(error) => Answer::Unknown(error.to_string()),
        };
        answers.send(number, &answer).await;
    }
}

/// A snapshot that has arrived completely.
#[derive(Debug)]
pub(crate) struct ReceivedSnapshot {
    vote: StoredVote,
    bytes: Bytes,
}

/// Puts the parts of a snapshot together.
#[derive(Debug, Default)]
pub(crate) struct SnapshotReceiver {
    transfer: u64,
    bytes: BytesMut,
}

impl SnapshotReceiver {
    /// Takes the next part; the last one gives the whole. A reason, when it does not fit.
    pub(crate) fn take(
        &mut self,
        chunk: &SnapshotChunk,
    ) -> Result<Option<ReceivedSnapshot>, String> {
        if chunk.offset == 0 {
            self.transfer = chunk.transfer;
            self.bytes = BytesMut::new();
        }
        let arrived = self.bytes.len() as u64;
        let end = chunk.offset.saturating_add(chunk.bytes.0.len() as u64);
        if chunk.transfer != self.transfer || chunk.offset != arrived || end > chunk.total {
            return Err(format!(
                "a part at {} does not follow {arrived} bytes",
                chunk.offset
            ));
        }
        if chunk.total > SNAPSHOT_MAX_BYTES {
            return Err(format!("a snapshot of {} bytes", chunk.total));
        }
        self.bytes.extend_from_slice(&chunk.bytes.0);
        if end < chunk.total {
            return Ok(None);
        }
        Ok(Some(ReceivedSnapshot {
            vote: chunk.vote,
            bytes: std::mem::take(&mut self.bytes).freeze(),
        }))
    }
}
