//! The types that openraft is told to use, and our own form of a log record.
//!
//! What is written to disk is never openraft's own serialisation: a [`Record`] and a
//! [`StoredMembers`] are ours, named MessagePack behind a version byte, so that another core could
//! read this log. This module converts between the two and checks what it reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use common::time::Timestamp;
use openraft::entry::RaftEntry as _;
use openraft::{EntryPayload, Membership};
use pacemaker_core::command::{Command, Outcome, Rejection};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::peer::Place;

/// In unit tests, tasks and chance may belong to a simulated machine.
#[cfg(test)]
use crate::raft::simulation::runtime::Runtime;
#[cfg(not(test))]
use openraft::impls::TokioRuntime as Runtime;

openraft::declare_raft_types!(
    /// The types of this cluster's Raft.
    pub(crate) TypeConfig:
        D = Proposal,
        R = Reply,
        Node = Seat,
        // At most one leader in a term: who obeys leaders fences them by their term alone.
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

/// A log id as openraft writes it.
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// A vote as openraft writes it.
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
/// A log entry as openraft writes it.
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
/// The members with the log id that brought them.
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot is of.
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
/// A leader's name in a log id.
pub(crate) type LeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;

/// Where a member of the group is, and which log it has; openraft's node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seat {
    /// `host:port`.
    pub(crate) address: String,
    /// Made with its log; empty for one that was added before there were any.
    pub(crate) incarnation: String,
}

impl Seat {
    /// Where links find it.
    pub(crate) fn place(&self) -> Place {
        Place {
            address: self.address.clone(),
            incarnation: self.incarnation.clone(),
        }
    }
}

impl From<Place> for Seat {
    fn from(place: Place) -> Self {
        Self {
            address: place.address,
            incarnation: place.incarnation,
        }
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// The payload of a log entry: a command and when the leader proposed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Proposal {
    /// Stamped by the proposer; what `apply` takes for now.
    pub(crate) now: Timestamp,
    /// Shared, because the log keeps it while the state machine applies it.
    #[serde(serialize_with = "write_shared", deserialize_with = "read_shared")]
    pub(crate) command: Arc<Command>,
    /// Its record, where that is known.
    #[serde(skip)]
    encoded: Encoded,
}

impl Proposal {
    /// Not in a log yet.
    pub(crate) fn new(now: Timestamp, command: Arc<Command>) -> Self {
        Self {
            now,
            command,
            encoded: Encoded::default(),
        }
    }
}

/// The record of the entry that a proposal is in, as it lies on disk and travels: an entry is
/// encoded once in the group, however many members it goes to. It says nothing that the entry does
/// not say.
#[derive(Clone, Default)]
struct Encoded(Option<(StoredLogId, Bytes)>);

impl PartialEq for Encoded {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoded").finish_non_exhaustive()
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proposal of {}", self.now)
    }
}

fn write_shared<S: Serializer>(command: &Arc<Command>, serializer: S) -> Result<S::Ok, S::Error> {
    command.serialize(serializer)
}

fn read_shared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Command>, D::Error> {
    Command::deserialize(deserializer).map(Arc::new)
}

/// What `apply` answers; `None` for entries that carry no command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reply(pub(crate) Option<Result<Outcome, Rejection>>);

/// A snapshot as it travels: the bytes of its file.
pub(crate) type SnapshotBytes = Bytes;

/// One log record as it lies on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    term: u64,
    index: u64,
    body: Body,
}

#[derive(Debug, Serialize, Deserialize)]
enum Body {
    Blank,
    Command(Proposal),
    Members(StoredMembers),
}

/// The members of the Raft group as they lie on disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StoredMembers {
    voters: Vec<BTreeSet<u64>>,
    addresses: BTreeMap<u64, String>,
    #[serde(default)]
    incarnations: BTreeMap<u64, String>,
}

/// A log id as it lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredLogId {
    term: u64,
    index: u64,
}

/// A vote as it lies on disk.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct StoredVote {
    term: u64,
    node: u64,
    committed: bool,
}

impl From<&Membership<u64, Seat>> for StoredMembers {
    fn from(membership: &Membership<u64, Seat>) -> Self {
        Self {
            voters: membership.get_joint_config().clone(),
            addresses: membership
                .nodes()
                .map(|(id, member)| (*id, member.address.clone()))
                .collect(),
            incarnations: membership
                .nodes()
                .map(|(id, member)| (*id, member.incarnation.clone()))
                .collect(),
        }
    }
}

impl StoredMembers {
    /// The members in openraft's form.
    pub(crate) fn membership(mut self) -> io::Result<Membership<u64, Seat>> {
        if self.voters.is_empty() {
            return Ok(Membership::default());
        }
        let nodes: BTreeMap<u64, Seat> = self
            .addresses
            .into_iter()
            .map(|(id, address)| {
                let incarnation = self.incarnations.remove(&id).unwrap_or_default();
                let member = Seat {
                    address,
                    incarnation,
                };
                (id, member)
            })
            .collect();
        Membership::new(self.voters, nodes).map_err(damaged)
    }
}

impl From<LogId> for StoredLogId {
    fn from(id: LogId) -> Self {
        Self {
            term: id.committed_leader_id().term,
            index: id.index(),
        }
    }
}

impl From<StoredLogId> for LogId {
    fn from(id: StoredLogId) -> Self {
        Self::new(LeaderId { term: id.term }, id.index)
    }
}

impl From<&Vote> for StoredVote {
    fn from(vote: &Vote) -> Self {
        Self {
            term: vote.leader_id.term,
            node: vote.leader_id.voted_for,
            committed: vote.committed,
        }
    }
}

impl From<StoredVote> for Vote {
    fn from(vote: StoredVote) -> Self {
        if vote.committed {
            Self::new_committed(vote.term, vote.node)
        } else {
            Self::new(vote.term, vote.node)
        }
    }
}

/// The bytes of one entry for the disk and the wire.
pub(crate) fn encode_entry(entry: &Entry) -> io::Result<Bytes> {
    let id = StoredLogId::from(entry.log_id);
    if let EntryPayload::Normal(proposal) = &entry.payload
        && let Some((of, bytes)) = &proposal.encoded.0
        && *of == id
    {
        return Ok(bytes.clone());
    }
    let record = encode(&Record {
        term: id.term,
        index: id.index,
        body: match &entry.payload {
            EntryPayload::Blank => Body::Blank,
            EntryPayload::Normal(proposal) => Body::Command(proposal.clone()),
            EntryPayload::Membership(membership) => Body::Members(membership.into()),
        },
    })?;
    Ok(record.into())
}

/// The entry of bytes from the disk.
pub(crate) fn decode_entry(bytes: &[u8]) -> io::Result<Entry> {
    let record: Record = decode(bytes)?;
    let id = StoredLogId {
        term: record.term,
        index: record.index,
    };
    let payload = match record.body {
        Body::Blank => EntryPayload::Blank,
        Body::Command(proposal) => EntryPayload::Normal(proposal),
        Body::Members(members) => EntryPayload::Membership(members.membership()?),
    };
    Ok(Entry::new(id.into(), payload))
}

/// Keeps the bytes of an entry with it; true when it has a place for them.
pub(crate) fn attach(entry: &mut Entry, bytes: &Bytes) -> bool {
    let id = StoredLogId::from(entry.log_id);
    let EntryPayload::Normal(proposal) = &mut entry.payload else {
        return false;
    };
    proposal.encoded = Encoded(Some((id, bytes.clone())));
    true
}

/// Gives up the bytes that are kept with an entry.
pub(crate) fn detach(entry: &mut Entry) {
    if let EntryPayload::Normal(proposal) = &mut entry.payload {
        proposal.encoded = Encoded::default();
    }
}

/// The version of the record format that this release writes.
const RECORD_VERSION: u8 = 1;
/// Bytes of the SHA-256 that guard a record; a flipped bit passes with a chance of 2^-64.
const CHECK_BYTES: usize = 8;

/// Version byte, check, named MessagePack.
pub(crate) fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 1 + CHECK_BYTES];
    bytes[0] = RECORD_VERSION;
    value
        .serialize(&mut rmp_serde::Serializer::new(&mut bytes).with_struct_map())
        .map_err(io::Error::other)?;
    let check = Sha256::digest(&bytes[1 + CHECK_BYTES..]);
    bytes[1..=CHECK_BYTES].copy_from_slice(&check[..CHECK_BYTES]);
    Ok(bytes)
}

/// The reverse of [`encode`]; an unknown version and a wrong check are errors of their own.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let [version, rest @ ..] = bytes else {
        return Err(damaged("an empty record"));
    };
    if *version != RECORD_VERSION {
        return Err(damaged(format!(
            "a record of format {version}; this release reads format {RECORD_VERSION}"
        )));
    }
    let Some((check, body)) = rest.split_at_checked(CHECK_BYTES) else {
        return Err(damaged("a record that is cut off"));
    };
    if Sha256::digest(body)[..CHECK_BYTES] != *check {
        return Err(damaged("a record whose check does not match its bytes"));
    }
    rmp_serde::from_slice(body).map_err(damaged)
}

/// Data on disk that cannot be right.
pub(crate) fn damaged(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_an_entry_are_kept_with_it_and_are_of_that_entry_only() {
        let command = Arc::new(Command::ForgetPackages {
            digests: BTreeSet::new(),
        });
        let proposal = Proposal::new(Timestamp(1), command);
        let id = |index| LogId::new(LeaderId { term: 3 }, index);
        let entry = Entry::new(id(7), EntryPayload::Normal(proposal));
        let bytes = encode_entry(&entry).unwrap();

        let mut received = decode_entry(&bytes).unwrap();
        assert!(attach(&mut received, &bytes));
        assert_eq!(received, entry);
        let again = encode_entry(&received).unwrap();
        assert_eq!(again.as_ptr(), bytes.as_ptr(), "not encoded again");

        received.log_id = id(8);
        let other = decode_entry(&encode_entry(&received).unwrap()).unwrap();
        assert_eq!(other.log_id, id(8));

        received.log_id = id(7);
        detach(&mut received);
        let again = encode_entry(&received).unwrap();
        assert_eq!(again, bytes);
        assert_ne!(again.as_ptr(), bytes.as_ptr());
    }

    #[test]
    fn record_survives_the_disk_and_a_flipped_bit_is_seen() {
        let id = LogId::new(LeaderId { term: 3 }, 7);
        let members = Membership::new(
            vec![BTreeSet::from([1])],
            BTreeMap::from([(1, Seat::from(Place::new("one")))]),
        )
        .unwrap();
        let entry = Entry::new(id, EntryPayload::Membership(members));

        let bytes = encode_entry(&entry).unwrap();
        assert_eq!(decode_entry(&bytes).unwrap(), entry);

        for position in 0..bytes.len() {
            let mut broken = bytes.to_vec();
            broken[position] ^= 0x10;
            assert!(decode_entry(&broken).is_err(), "byte {position}");
        }
        assert!(decode_entry(&bytes[..5]).is_err());
        assert!(decode_entry(&[]).is_err());
    }
}
