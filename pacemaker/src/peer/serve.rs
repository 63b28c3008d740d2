//! The answering half of a connection.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pacemaker_core::command::Command;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::frame;
use super::message::{Answer, Request, SharedCommand};
use crate::leader::{Leader, ReportError};
use crate::membership::Members;
use crate::raft::{AppendStream, Proposer, SnapshotReceiver};

/// Requests of one connection that are worked on at once; past it, reading waits.
const AT_ONCE: usize = 4_096;
/// Answers that wait to be written.
const ANSWERS_LENGTH: usize = 1_024;

/// What requests are about.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// For the log.
    pub(crate) proposer: Proposer,
    /// For reports.
    pub(crate) leader: Leader,
    /// For the group.
    pub(crate) members: Members,
}

/// Answers the peer until it is gone or `stop`.
pub(crate) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    service: Service,
    stop: CancellationToken,
) {
    let (reader, writer) = tokio::io::split(stream);
    let (answers, waiting) = mpsc::channel(ANSWERS_LENGTH);
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        ended = read(reader, service, answers) => ended,
        ended = write(writer, waiting) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection from a pacemaker ended");
    }
}

/// Where the answer to one request goes.
#[derive(Clone, Debug)]
pub(crate) struct Answers(mpsc::Sender<Bytes>);

impl Answers {
    /// Sends an answer; one whose asker is gone is dropped.
    pub(crate) async fn send(&self, number: u64, answer: &Answer) {
        let mut bytes = BytesMut::new();
        let put = frame::put(number, answer, &mut bytes)
            .or_else(|error| frame::put(number, &Answer::Unknown(error.to_string()), &mut bytes));
        match put {
            Ok(()) if self.0.send(bytes.freeze()).await.is_err() => {
                tracing::trace!(number, "the asker is gone");
            }
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, "an answer could not be encoded"),
        }
    }
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
    service: Service,
    answers: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let answers = Answers(answers);
    let service = Arc::new(service);
    let mut buffer = BytesMut::new();
    let mut working = JoinSet::new();
    let mut appends = AppendStream::new(service.proposer.clone(), answers.clone());
    let mut snapshots = SnapshotReceiver::default();
    while let Some((number, bytes)) = frame::next(&mut reader, &mut buffer).await? {
        while working.try_join_next().is_some() {}
        if working.len() >= AT_ONCE {
            working.join_next().await;
        }
        let request = match frame::body(&bytes) {
            Ok(request) => request,
            Err(error) => {
                let answer = Answer::Refused(format!("the request is not understood: {error}"));
                answers.send(number, &answer).await;
                continue;
            }
        };
        match request {
            Request::Ping => answers.send(number, &Answer::Done).await,
            Request::Append(append) if append.stream != 0 => appends.take(number, append).await,
            Request::Snapshot(chunk) => match snapshots.take(&chunk) {
                Ok(None) => answers.send(number, &Answer::Done).await,
                Ok(Some(snapshot)) => {
                    let (service, answers) = (Arc::clone(&service), answers.clone());
                    working.spawn(async move {
                        let answer = service.proposer.take_snapshot(snapshot).await;
                        answers.send(number, &answer).await;
                    });
                }
                Err(reason) => answers.send(number, &Answer::Refused(reason)).await,
            },
            request => {
                let (service, answers) = (Arc::clone(&service), answers.clone());
                working.spawn(async move {
                    let answer = service.answer(request).await;
                    answers.send(number, &answer).await;
                });
            }
        }
    }
    Ok(())
}

async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut waiting: mpsc::Receiver<Bytes>,
) -> io::Result<()> {
    while let Some(first) = waiting.recv().await {
        let bytes = frame::gather(first, || waiting.try_recv().ok());
        writer.write_all(&bytes).await?;
        writer.flush().await?;
    }
    Ok(())
}

impl Service {
    async fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Append(append) => self.proposer.append_alone(append).await,
            Request::Vote(ballot) => self.proposer.vote(ballot).await,
            Request::PreVote(ballot) => self.proposer.pre_vote(ballot).await,
            Request::TransferLeader(transfer) => self.proposer.take_over(transfer).await,
            Request::Propose(SharedCommand(command)) => self.propose(command).await,
            Request::ReadIndex => self.proposer.read_index().await,
            Request::Report(report) => match self.leader.report_here(*report).await {
                Ok(()) => Answer::Done,
                Err(error) => self.refuse(&error),
            },
            Request::Sightings => match self.leader.sightings_here().await {
                Ok(sightings) => Answer::Sightings(Box::new(sightings)),
                Err(error) => self.refuse(&error),
            },
            Request::RemoveMember(node) => self.members.remove_here(node).await,
            Request::Status => Answer::Status(Box::new(self.members.own_status())),
            Request::Group => Answer::Group(Box::new(self.proposer.group())),
            Request::Ping => Answer::Done,
            Request::Snapshot(_) => Answer::Refused("a part of a snapshot out of order".to_owned()),
        }
    }

    async fn propose(&self, command: Arc<Command>) -> Answer {
        self.proposer.propose_for_peer(command).await
    }

    fn refuse(&self, error: &ReportError) -> Answer {
        match error {
            ReportError::NoLeader => Answer::NotLeader(self.proposer.status().leader),
            ReportError::Gone => Answer::Refused(error.to_string()),
        }
    }
}
