//! The frames of a segment: what one flush writes, whole or not at all.
//!
//! A frame is a head of [`HEAD_BYTES`] and a payload, filled up with zeros to a multiple of
//! [`ALIGNMENT`]; numbers are little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | the number of the frame; each is one more than the one before, across segments |
//! | 8..12 | the length of the payload |
//! | 12..16 | CRC-32C of the payload |
//! | 16..20 | CRC-32C of the log's salt and the 16 bytes before |
//! | 20..24 | zero |
//!
//! A frame is written only once the one before it is flushed. So one that is not whole is the torn
//! end of the log, and nobody was told of it, unless it was whole once: then the log is damaged, and
//! that must not be taken for the other. (The distinction, and why a vote depends on it, is that of
//! "Protocol-Aware Recovery for Consensus-Based Storage", Alagappan and others, FAST 2018.)
//!
//! - What a torn frame has behind it was never written. A whole frame there with a number as high or
//!   higher, or anything behind the length that its head says, is the proof that it was whole.
//! - To have such a proof of the last frame too, an empty frame, the *seal*, is written behind it,
//!   without a flush and without using up a number: the next frame takes its place.
//! - A disk writes sectors of [`SECTOR`] bytes whole or not at all, and no head lies in two of them. So
//!   the head of a torn frame is whole, or what was there before: zeros, or the seal. And where its
//!   head is whole, another sector of it was not written, and reads as zeros.
//!
//! What is left is a power cut that takes the seal, after which a bit turns in the very last frame,
//! which is longer than a sector and has a sector of zeros of its own: that one is taken for torn.
//!
//! The salt is random and never leaves the log: nobody can give bytes to an entry that are taken for
//! a frame where a torn one ends.

use std::ops::Range;

/// Of a frame, before its payload.
pub(super) const HEAD_BYTES: usize = 24;
/// Frames begin at multiples of it.
const ALIGNMENT: usize = 8;
/// What a disk writes whole or not at all, bytes.
const SECTOR: usize = 512;
/// Of the head, what its own check covers.
const CHECKED_BYTES: usize = 16;
/// How far the number of a frame that is found behind a broken one can be ahead of it: far more than
/// a segment has.
const AHEAD_MAX: u64 = 1 << 32;

/// What a payload of so many bytes takes.
pub(super) fn length_of(payload: usize) -> usize {
    (HEAD_BYTES + payload).next_multiple_of(ALIGNMENT)
}

/// Where a frame may begin, from `at` on: where its head lies in one sector.
pub(super) fn start_from(at: u64) -> u64 {
    let sector = SECTOR as u64;
    if sector - at % sector < HEAD_BYTES as u64 {
        at.next_multiple_of(sector)
    } else {
        at
    }
}

fn start_at(at: usize) -> usize {
    usize::try_from(start_from(at as u64)).expect("it is as near as before")
}

/// Makes a frame of the bytes from `start` on, of which [`HEAD_BYTES`] are left free for its head.
///
/// # Panics
/// When the payload has 4 GiB or more; nothing that large is ever gathered.
pub(super) fn finish(salt: u64, number: u64, bytes: &mut Vec<u8>, start: usize) {
    let length = bytes.len() - start - HEAD_BYTES;
    bytes.resize(start + length_of(length), 0);
    let (head, payload) = bytes[start..].split_at_mut(HEAD_BYTES);
    let check = crc32c::crc32c(&payload[..length]);
    let length = u32::try_from(length).expect("a frame is far shorter");
    head[0..8].copy_from_slice(&number.to_le_bytes());
    head[8..12].copy_from_slice(&length.to_le_bytes());
    head[12..16].copy_from_slice(&check.to_le_bytes());
    let check = head_check(salt, &head[..CHECKED_BYTES]);
    head[16..20].copy_from_slice(&check.to_le_bytes());
    head[20..24].fill(0);
}

fn head_check(salt: u64, head: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), head)
}

/// A whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Its number.
    pub(super) number: u64,
    /// Where its payload is; empty in a seal.
    pub(super) payload: Range<usize>,
}

/// A head that is whole, and says of its frame what it is.
struct Head {
    number: u64,
    payload: Range<usize>,
    check: u32,
}

fn head(salt: u64, bytes: &[u8], at: usize) -> Option<Head> {
    let head = bytes.get(at..at.checked_add(HEAD_BYTES)?)?;
    let number =
        |range: Range<usize>| u32::from_le_bytes(head[range].try_into().expect("four bytes"));
    if number(16..20) != head_check(salt, &head[..CHECKED_BYTES]) || number(20..24) != 0 {
        return None;
    }
    let start = at + HEAD_BYTES;
    let end = start.checked_add(usize::try_from(number(8..12)).ok()?)?;
    Some(Head {
        number: u64::from_le_bytes(head[0..8].try_into().expect("eight bytes")),
        payload: start..end,
        check: number(12..16),
    })
}

/// The frame that begins at `at`, if there is a whole one.
fn at(salt: u64, bytes: &[u8], at: usize) -> Option<Frame> {
    let head = head(salt, bytes, at)?;
    let payload = bytes.get(head.payload.clone())?;
    (crc32c::crc32c(payload) == head.check).then_some(Frame {
        number: head.number,
        payload: head.payload,
    })
}

/// What a segment holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    /// The whole frames from its beginning, seals left out.
    pub(super) frames: Vec<Frame>,
    /// Where the next frame goes: behind the last one, over its seal.
    pub(super) end: usize,
    /// True when there is nothing behind `end` but a seal.
    pub(super) is_clean: bool,
    /// True when something that was whole is whole no more.
    pub(super) is_damaged: bool,
}

/// Reads the frames of a segment; its first has the number `next`, or any when that is not known.
pub(super) fn scan(salt: u64, bytes: &[u8], mut next: Option<u64>) -> Scanned {
    let mut frames = Vec::new();
    let mut end = 0;
    let mut seal = 0;
    while let Some(frame) = at(salt, bytes, end)
        && next.is_none_or(|next| next == frame.number)
    {
        let length = length_of(frame.payload.len());
        if frame.payload.is_empty() {
            seal = length;
            break;
        }
        end = start_at(end + length);
        next = Some(frame.number + 1);
        frames.push(frame);
    }
    let rest = bytes.get(end + seal..).unwrap_or_default();
    let is_clean = is_zero(rest);
    let is_damaged = !is_clean
        && (seal == 0 && was_whole(salt, bytes, end, next)
            || has_frame_behind(salt, bytes, end + seal, next));
    Scanned {
        frames,
        end,
        is_clean,
        is_damaged,
    }
}

/// True when what begins at `at` is no frame, and is not what is left of a torn one.
fn was_whole(salt: u64, bytes: &[u8], at: usize, next: Option<u64>) -> bool {
    match head(salt, bytes, at) {
        Some(head) => {
            let behind = bytes.get(head.payload.end..).unwrap_or_default();
            next.is_some_and(|next| next != head.number)
                || !is_zero(behind)
                || !misses_a_sector(bytes, at, head.payload.end)
        }
        None => {
            let end = bytes.len().min(at + HEAD_BYTES);
            !is_zero(bytes.get(at..end).unwrap_or_default())
        }
    }
}

/// True when a sector of what lies from `at` to `end` was not written, other than that of the head.
fn misses_a_sector(bytes: &[u8], at: usize, end: usize) -> bool {
    let second = (at / SECTOR + 1) * SECTOR;
    let mut sectors = (second..end).step_by(SECTOR);
    sectors.any(|start| {
        let part = bytes.get(start..end.min(start + SECTOR));
        part.is_none_or(is_zero)
    })
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// True when a whole frame that cannot have been written before `next` was flushed lies behind
/// `from`.
fn has_frame_behind(salt: u64, bytes: &[u8], from: usize, next: Option<u64>) -> bool {
    let numbers = match next {
        Some(next) => next..next.saturating_add(AHEAD_MAX),
        None => 0..u64::MAX,
    };
    let mut starts = (from..bytes.len()).step_by(ALIGNMENT);
    starts.any(|start| at(salt, bytes, start).is_some_and(|frame| numbers.contains(&frame.number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 0x1234_5678_9abc_def0;

    /// Frames with these payloads, numbered from 5, and a seal.
    fn segment(payloads: &[&[u8]]) -> Vec<u8> {
        let mut segment = Vec::new();
        let mut number = 5;
        for payload in payloads {
            segment.extend(frame(number, payload));
            segment.resize(start_at(segment.len()), 0);
            number += 1;
        }
        segment.extend(frame(number, b""));
        segment.resize((segment.len() + SECTOR).next_multiple_of(SECTOR), 0);
        segment
    }

    fn frame(number: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEAD_BYTES];
        bytes.extend_from_slice(payload);
        finish(SALT, number, &mut bytes, 0);
        bytes
    }

    #[test]
    fn frames_are_read_up_to_the_seal() {
        let bytes = segment(&[b"one", b"twelve bytes"]);

        let scanned = scan(SALT, &bytes, Some(5));

        let payloads: Vec<&[u8]> = scanned
            .frames
            .iter()
            .map(|frame| &bytes[frame.payload.clone()])
            .collect();
        assert_eq!(payloads, [b"one".as_slice(), b"twelve bytes"]);
        assert_eq!(scanned.end, length_of(3) + length_of(12));
        assert!(scanned.is_clean && !scanned.is_damaged);
        assert_eq!(scan(SALT, &bytes, None), scanned);
        assert!(scan(SALT, &bytes, Some(6)).is_damaged, "5 came before");
        assert!(scan(SALT + 1, &bytes, None).frames.is_empty());
    }

    #[test]
    fn bit_that_turned_is_damage_and_costs_no_whole_frame_where_it_is_none() {
        let good = segment(&[b"one", b"two", b"three"]);
        let sealed = scan(SALT, &good, Some(5)).end;
        for bit in 0..(sealed + HEAD_BYTES) * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let scanned = scan(SALT, &bad, Some(5));
            let is_whole = scanned.frames.len() == 3;
            // What fills a frame up means nothing.
            assert!(is_whole || scanned.is_damaged, "bit {bit}");
            assert!(bit / 8 < sealed || is_whole, "bit {bit}");
        }
    }

    #[test]
    fn all_frames_from_one_on_that_are_broken_are_damage() {
        let payload = [7; 300];
        let good = segment(&[payload.as_slice(); 20]);
        for from in (0..3_000).step_by(8) {
            let mut bad = good.clone();
            for byte in bad.iter_mut().skip(from).step_by(64) {
                *byte ^= 0x40;
            }
            assert!(scan(SALT, &bad, Some(5)).is_damaged, "{from}");
        }
    }

    #[test]
    fn torn_frame_is_the_end() {
        // Before the seal there is another sector, so that heads are at many places in theirs.
        for before in 1..300 {
            let first = vec![1; before];
            let short = segment(&[b"first", &first]);
            let whole = segment(&[b"first", &first, &[7; 2_000]]);
            let from = scan(SALT, &short, Some(5)).end;
            let last = from + length_of(2_000);
            let sectors: Vec<usize> = (from / SECTOR..=(last - 1) / SECTOR).collect();
            for there in 0..1_u32 << sectors.len() {
                // Behind the frame the seal was not written yet.
                let mut bytes = whole.clone();
                bytes[last..].fill(0);
                for (bit, sector) in sectors.iter().enumerate() {
                    if there & 1 << bit == 0 {
                        let sector = sector * SECTOR..(sector + 1) * SECTOR;
                        let former = short.get(sector.clone()).unwrap_or(&[0; SECTOR]);
                        bytes[sector].copy_from_slice(former);
                    }
                }
                let scanned = scan(SALT, &bytes, Some(5));
                let is_whole = bytes[..last] == whole[..last];
                assert_eq!(scanned.frames.len(), 2 + usize::from(is_whole));
                assert!(!scanned.is_damaged, "{before} {there:b}");
            }
        }
    }

    #[test]
    fn bit_that_turned_in_the_last_frame_is_damage_without_a_seal_too() {
        let whole = segment(&[b"first", &[7; 1_500]]);
        let end = scan(SALT, &whole, Some(5)).end;
        for bit in 0..end * 8 {
            let mut bytes = whole.clone();
            bytes[end..].fill(0);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let scanned = scan(SALT, &bytes, Some(5));
            assert!(scanned.frames.len() == 2 || scanned.is_damaged, "{bit}");
        }
    }

    #[test]
    fn no_head_lies_in_two_sectors() {
        assert_eq!(start_from(0), 0);
        assert_eq!(start_from(488), 488);
        assert_eq!(start_from(496), 512);
        assert_eq!(start_from(1_016), 1_024);
        assert_eq!(start_from(1_024), 1_024);
    }
}
