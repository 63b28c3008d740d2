//! What frames are made of, for [`journal`](super::journal) and [`disk`](super::disk): one record for each thing that happened to the log, in order.
//!
//! A record is a byte that says its kind, and then numbers (little-endian) and bytes (their length
//! as 32 bits first). Entries, votes and log ids carry checks of their own; see
//! [`types::encode`](crate::raft::types::encode).

use std::io;
use std::ops::Range;

use bytes::{Buf as _, BufMut as _};

use crate::raft::types::damaged;

const SUMMARY: u8 = 1;
const ENTRY: u8 = 2;
const VOTE: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;
const COMMITTED: u8 = 6;

/// What the log is besides its entries, each as encoded; empty when there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// The last vote.
    pub(super) vote: Vec<u8>,
    /// The last entry that was removed from the front.
    pub(super) purged: Vec<u8>,
    /// The last entry known to be committed.
    pub(super) committed: Vec<u8>,
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// The first of a segment: what those before it said, so that they can be removed.
    Summary {
        /// How long the segment is.
        length: u64,
        /// What was said.
        summary: Summary,
    },
    /// An entry at the end.
    Entry {
        /// Its index.
        index: u64,
        /// Where it is in the payload.
        place: Range<usize>,
    },
    /// A vote.
    Vote(&'a [u8]),
    /// This entry and all after it are gone.
    Truncate(u64),
    /// This entry and all before it are gone.
    Purge {
        /// Its index.
        to: u64,
        /// Its log id, encoded.
        id: &'a [u8],
    },
    /// This entry, and all before it, are committed.
    Committed(&'a [u8]),
}

/// Puts a length and bytes.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("a record is far shorter than 4 GiB");
    out.put_u32_le(length);
    out.put_slice(bytes);
}

pub(super) fn put_summary(out: &mut Vec<u8>, length: u64, summary: &Summary) {
    out.put_u8(SUMMARY);
    out.put_u64_le(length);
    put_bytes(out, &summary.vote);
    put_bytes(out, &summary.purged);
    put_bytes(out, &summary.committed);
}

/// How many bytes [`put_summary`] puts.
pub(super) fn summary_length(summary: &Summary) -> usize {
    1 + 8 + 3 * 4 + summary.vote.len() + summary.purged.len() + summary.committed.len()
}

/// Puts an entry; answers where it lies in `out`.
pub(super) fn put_entry(out: &mut Vec<u8>, index: u64, bytes: &[u8]) -> Range<usize> {
    out.put_u8(ENTRY);
    out.put_u64_le(index);
    put_bytes(out, bytes);
    out.len() - bytes.len()..out.len()
}

pub(super) fn put_vote(out: &mut Vec<u8>, vote: &[u8]) {
    out.put_u8(VOTE);
    put_bytes(out, vote);
}

pub(super) fn put_truncate(out: &mut Vec<u8>, from: u64) {
    out.put_u8(TRUNCATE);
    out.put_u64_le(from);
}

pub(super) fn put_purge(out: &mut Vec<u8>, to: u64, id: &[u8]) {
    out.put_u8(PURGE);
    out.put_u64_le(to);
    put_bytes(out, id);
}

pub(super) fn put_committed(out: &mut Vec<u8>, id: &[u8]) {
    out.put_u8(COMMITTED);
    put_bytes(out, id);
}

/// Reads the records of a payload, which was whole: what cannot be read was written by another
/// release, or not by this program.
pub(super) fn read(
    payload: &[u8],
    mut each: impl FnMut(Record<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut rest = Rest(payload);
    while !rest.0.is_empty() {
        let record = match rest.number(|rest| rest.try_get_u8())? {
            SUMMARY => Record::Summary {
                length: rest.number(|rest| rest.try_get_u64_le())?,
                summary: Summary {
                    vote: rest.bytes()?.to_vec(),
                    purged: rest.bytes()?.to_vec(),
                    committed: rest.bytes()?.to_vec(),
                },
            },
            ENTRY => {
                let index = rest.number(|rest| rest.try_get_u64_le())?;
                let length = rest.bytes()?.len();
                let end = payload.len() - rest.0.len();
                Record::Entry {
                    index,
                    place: end - length..end,
                }
            }
            VOTE => Record::Vote(rest.bytes()?),
            TRUNCATE => Record::Truncate(rest.number(|rest| rest.try_get_u64_le())?),
            PURGE => Record::Purge {
                to: rest.number(|rest| rest.try_get_u64_le())?,
                id: rest.bytes()?,
            },
            COMMITTED => Record::Committed(rest.bytes()?),
            other => {
                return Err(damaged(format!(
                    "a record of kind {other}, which this release does not know"
                )));
            }
        };
        each(record)?;
    }
    Ok(())
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn number<T>(
        &mut self,
        take: impl FnOnce(&mut &'a [u8]) -> Result<T, bytes::TryGetError>,
    ) -> io::Result<T> {
        take(&mut self.0).map_err(damaged)
    }

    fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let length = self.number(|rest| rest.try_get_u32_le())?;
        let split = self
            .0
            .split_at_checked(usize::try_from(length).map_err(damaged)?);
        let (bytes, rest) = split.ok_or_else(|| damaged("a record that is cut off"))?;
        self.0 = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_put() {
        let summary = Summary {
            vote: b"vote".to_vec(),
            purged: Vec::new(),
            committed: b"committed".to_vec(),
        };
        let mut payload = Vec::new();
        put_summary(&mut payload, 4_096, &summary);
        assert_eq!(payload.len(), summary_length(&summary));
        let place = put_entry(&mut payload, 7, b"entry");
        put_vote(&mut payload, b"vote");
        put_truncate(&mut payload, 7);
        put_purge(&mut payload, 3, b"id");
        put_committed(&mut payload, b"other");

        let mut count = 0;
        let expected = [
            Record::Summary {
                length: 4_096,
                summary,
            },
            Record::Entry {
                index: 7,
                place: place.clone(),
            },
            Record::Vote(b"vote"),
            Record::Truncate(7),
            Record::Purge { to: 3, id: b"id" },
            Record::Committed(b"other"),
        ];
        read(&payload, |record| {
            assert_eq!(record, expected[count]);
            count += 1;
            Ok(())
        })
        .unwrap();

        assert_eq!(count, expected.len());
        assert_eq!(&payload[place], b"entry");
        for end in 1..payload.len() {
            // Cut anywhere, it is either whole records or an error, and never a panic.
            read(&payload[..end], |_| Ok(())).unwrap_or_default();
        }
        assert!(read(&payload[..20], |_| Ok(())).is_err());
        assert!(read(&[99], |_| Ok(())).is_err());
    }
}
