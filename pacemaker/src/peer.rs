//! Pacemakers among themselves: numbered requests and answers over one port.
//!
//! ```text
//! GET /v1/peer, Upgrade: pm-peer/1 ──► u32 length | u8 version | u64 number | MessagePack
//! ```
//! A [`Link`] is the asking half of a connection to one peer, [`serve()`] the answering half. A link
//! connects by itself, again and again; requests are pipelined on it and answered in any order.
//! Each pair of pacemakers has two links in each direction: one for what must be quick (votes,
//! heartbeats, forwarded requests), one for what may be large (entries, snapshots).
//!
//! What may be refused, is refused at the handshake: another cluster, a member that was removed, a
//! member whose log is not the one that was added, an address that belongs to someone else.
//!
//! Never does: decide anything about the log. Everything is bounded: frames, requests under way,
//! and how long nothing may be heard.

mod connect;
mod frame;
mod link;
mod links;
mod message;
mod refusals;
mod serve;

pub(crate) use self::connect::{Credentials, Hello, MEMBER_REMOVED, PROTOCOL, headers};
pub(crate) use self::link::CallError;
pub(crate) use self::link::{Link, Place};
pub(crate) use self::links::{Event, Lane, Peers};
pub(crate) use self::message::SharedCommand;
pub(crate) use self::message::{
    Answer, Append, Appended, Ballot, Blob, Counted, Request, SnapshotChunk, Transfer,
};
pub(crate) use self::serve::{Answers, Service, serve};
