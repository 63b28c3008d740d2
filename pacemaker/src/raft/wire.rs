//! Between openraft's requests and those of [`crate::peer`].

use std::io;

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};

use crate::peer::{Answer, Append, Appended, Ballot, Blob, Counted, Transfer};
use crate::raft::types::{self, TypeConfig};

pub(super) fn blob(bytes: Bytes) -> Blob {
    Blob(bytes)
}

pub(super) fn append(
    stream: u64,
    request: &AppendEntriesRequest<TypeConfig>,
) -> io::Result<Append> {
    let entries = request
        .entries
        .iter()
        .map(|entry| Ok(Blob(types::encode_entry(entry)?)));
    Ok(Append {
        stream,
        vote: (&request.vote).into(),
        previous: request.prev_log_id.map(Into::into),
        committed: request.leader_commit.map(Into::into),
        entries: entries.collect::<io::Result<_>>()?,
    })
}

pub(super) fn append_request(append: Append) -> io::Result<AppendEntriesRequest<TypeConfig>> {
    let entries = append.entries.into_iter();
    Ok(AppendEntriesRequest {
        vote: append.vote.into(),
        prev_log_id: append.previous.map(Into::into),
        leader_commit: append.committed.map(Into::into),
        entries: entries
            .map(|Blob(bytes)| {
                let mut entry = types::decode_entry(&bytes)?;
                types::attach(&mut entry, &bytes);
                Ok(entry)
            })
            .collect::<io::Result<_>>()?,
    })
}

pub(super) fn append_answer(result: &StreamAppendResult<TypeConfig>) -> Answer {
    Answer::Append(match result {
        Ok(matched) => Appended::Matched(matched.map(Into::into)),
        Err(StreamAppendError::Conflict(at)) => Appended::Conflict(Some((*at).into())),
        Err(StreamAppendError::HigherVote(vote)) => Appended::HigherVote(vote.into()),
    })
}

/// The answer back, when it is one.
pub(super) fn appended(answer: Answer) -> Result<StreamAppendResult<TypeConfig>, Answer> {
    match answer {
        Answer::Append(Appended::Matched(matched)) => Ok(Ok(matched.map(Into::into))),
        Answer::Append(Appended::Conflict(Some(at))) => {
            Ok(Err(StreamAppendError::Conflict(at.into())))
        }
        Answer::Append(Appended::HigherVote(vote)) => {
            Ok(Err(StreamAppendError::HigherVote(vote.into())))
        }
        answer => Err(answer),
    }
}

pub(super) fn ballot(request: &VoteRequest<TypeConfig>) -> Ballot {
    Ballot {
        vote: (&request.vote).into(),
        last: request.last_log_id.map(Into::into),
        is_transfer: request.leadership_transfer,
    }
}

pub(super) fn vote_request(ballot: &Ballot) -> VoteRequest<TypeConfig> {
    VoteRequest {
        vote: ballot.vote.into(),
        last_log_id: ballot.last.map(Into::into),
        leadership_transfer: ballot.is_transfer,
    }
}

pub(super) fn count(response: &VoteResponse<TypeConfig>) -> Answer {
    Answer::Ballot(Counted {
        vote: (&response.vote).into(),
        is_granted: response.vote_granted,
        last: response.last_log_id.map(Into::into),
    })
}

pub(super) fn counted(answer: Answer) -> Result<VoteResponse<TypeConfig>, Answer> {
    match answer {
        Answer::Ballot(counted) => Ok(VoteResponse {
            vote: counted.vote.into(),
            vote_granted: counted.is_granted,
            last_log_id: counted.last.map(Into::into),
        }),
        answer => Err(answer),
    }
}

pub(super) fn transfer(request: &TransferLeaderRequest<TypeConfig>) -> Transfer {
    Transfer {
        from: request.from_leader().into(),
        to: *request.to_node_id(),
        last: request.last_log_id().copied().map(Into::into),
    }
}

pub(super) fn transfer_request(transfer: &Transfer) -> TransferLeaderRequest<TypeConfig> {
    TransferLeaderRequest::new(
        transfer.from.into(),
        transfer.to,
        transfer.last.map(Into::into),
    )
}
