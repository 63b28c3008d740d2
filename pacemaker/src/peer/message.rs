//! What pacemakers ask each other, and what they answer.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use common::assignment::Report;
use common::id::NodeId;
use pacemaker_core::command::{Command, Outcome, Rejection};
use pacemaker_core::sightings::Sightings;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::membership::MemberStatus;
use crate::raft::{Group, StoredLogId, StoredVote};

/// A request to a peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// A sign of life.
    Ping,
    /// Entries for the log, or a heartbeat.
    Append(Append),
    /// A candidate asks for a vote.
    Vote(Ballot),
    /// A candidate asks whether it would get a vote.
    PreVote(Ballot),
    /// A part of a snapshot, in order.
    Snapshot(SnapshotChunk),
    /// The leader wants another to lead.
    TransferLeader(Transfer),
    /// A command for the log; the leader stamps its time.
    Propose(SharedCommand),
    /// How far must a state be applied, to show everything that was acknowledged?
    ReadIndex,
    /// A node's report that came to a pacemaker that does not lead.
    Report(Box<Report>),
    /// What has the leader heard?
    Sightings,
    /// An administrator takes a member out of the group.
    RemoveMember(NodeId),
    /// How does this pacemaker stand?
    Status,
    /// How does this pacemaker see the group?
    Group,
}

/// The answer to a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It has been done.
    Done,
    /// To [`Request::Append`].
    Append(Appended),
    /// To [`Request::Vote`] and [`Request::PreVote`].
    Ballot(Counted),
    /// To the last [`Request::Snapshot`]: the vote of the one that took it.
    Snapshot(StoredVote),
    /// To [`Request::Propose`]: applied at the leader under this index.
    Proposed {
        /// Of the log.
        index: u64,
        /// What `apply` said.
        outcome: Result<Outcome, Rejection>,
    },
    /// To [`Request::ReadIndex`].
    ReadIndex(u64),
    /// To [`Request::Sightings`].
    Sightings(Box<Sightings>),
    /// To [`Request::Status`].
    Status(Box<MemberStatus>),
    /// To [`Request::Group`].
    Group(Box<Group>),
    /// Nothing was done: only the leader does this, and it may be this one.
    NotLeader(Option<u64>),
    /// Nothing was done: the disk of the leader's log is full.
    DiskFull,
    /// Nothing was done, for a reason that a person can read.
    Refused(String),
    /// It may or may not have been done.
    Unknown(String),
}

/// Entries with what must lie before them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Append {
    /// Appends of one stream are taken in order; 0 stands alone.
    pub(crate) stream: u64,
    /// The leader's.
    pub(crate) vote: StoredVote,
    /// The entry before the first.
    pub(crate) previous: Option<StoredLogId>,
    /// How far the leader's log is committed.
    pub(crate) committed: Option<StoredLogId>,
    /// As they lie on disk.
    pub(crate) entries: Vec<Blob>,
}

/// What became of an [`Append`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Appended {
    /// The logs agree up to here, and it is on disk.
    Matched(Option<StoredLogId>),
    /// The entry before the first is another one, or missing.
    Conflict(Option<StoredLogId>),
    /// Someone else has been voted for.
    HigherVote(StoredVote),
}

/// A candidate's request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ballot {
    /// What is asked for.
    pub(crate) vote: StoredVote,
    /// The end of the candidate's log.
    pub(crate) last: Option<StoredLogId>,
    /// True when the present leader wants it.
    pub(crate) is_transfer: bool,
}

/// The answer to a candidate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// The vote of the one that was asked.
    pub(crate) vote: StoredVote,
    /// True when the candidate has it.
    pub(crate) is_granted: bool,
    /// The end of the log of the one that was asked.
    pub(crate) last: Option<StoredLogId>,
}

/// A part of a snapshot's file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotChunk {
    /// Parts of one transfer belong together.
    pub(crate) transfer: u64,
    /// The leader's.
    pub(crate) vote: StoredVote,
    /// Where the part begins.
    pub(crate) offset: u64,
    /// Of the whole file.
    pub(crate) total: u64,
    /// The part.
    pub(crate) bytes: Blob,
}

/// The leader wants another to lead.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Transfer {
    /// The present leader's vote.
    pub(crate) from: StoredVote,
    /// Who shall lead.
    pub(crate) to: u64,
    /// The log that it must have for that.
    pub(crate) last: Option<StoredLogId>,
}

/// A command that is shared while it is sent again and again.
#[derive(Clone, Debug)]
pub(crate) struct SharedCommand(pub(crate) Arc<Command>);

impl Serialize for SharedCommand {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedCommand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Command::deserialize(deserializer).map(|command| Self(Arc::new(command)))
    }
}

/// Bytes that travel as bytes, not as a list of numbers.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Blob(pub(crate) Bytes);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = Blob;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(Bytes::copy_from_slice(bytes)))
            }

            fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes.into()))
            }
        }
        deserializer.deserialize_bytes(BytesVisitor)
    }
}
