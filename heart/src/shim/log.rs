//! The output of an instance on disk: segments named by the logical offset of their first byte.
//!
//! ```text
//! output-00000000000000000000.log   bytes 0 … 4194303
//! output-00000000000004194304.log   bytes 4194304 … , being written
//! ```
//! Offsets count from the instance's first output and never restart: not at rotation, not when
//! the instance is restarted. Readers need no coordination with the writer: a segment only grows,
//! and the next begins where it ended. What rotation has removed is skipped.

mod writer;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

pub(crate) use writer::{Step, Writer};

const PREFIX: &str = "output-";
const SUFFIX: &str = ".log";

/// How often a read starts over because rotation removed the segment it was about to open.
///
/// Each time at least one whole segment was written meanwhile, so twice in a row is rare already.
const ROTATION_RETRIES: usize = 8;

/// The step in which the end of the log is searched for line ends.
const SEARCH_STEP: usize = 64 << 10;

/// A piece of output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// The output, cut anywhere; empty when there is nothing newer.
    pub bytes: Vec<u8>,
    /// Where to go on reading.
    pub next_offset: u64,
}

/// One file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The logical offset of its first byte.
    pub(crate) start: u64,
    /// Its file.
    pub(crate) path: PathBuf,
}

/// Reads at most `limit` bytes that follow the logical offset `after`.
///
/// An offset older than what is kept reads from the oldest kept byte; one beyond the end reads
/// nothing and continues at the end. A log that does not exist is empty.
///
/// # Errors
/// When a segment cannot be read.
pub fn read(log_directory: &Path, after: u64, limit: usize) -> io::Result<Chunk> {
    for _ in 0..ROTATION_RETRIES {
        match read_once(log_directory, after, limit) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
    }
    read_once(log_directory, after, limit)
}

/// The logical offset at which the last `lines` lines begin; 0 lines is the end of the log.
///
/// A last line without a line end counts as a line. When less is kept, it is the oldest kept byte.
///
/// # Errors
/// When a segment cannot be read.
pub fn offset_of_last_lines(log_directory: &Path, lines: u64) -> io::Result<u64> {
    for _ in 0..ROTATION_RETRIES {
        match search_lines(log_directory, lines) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
    }
    search_lines(log_directory, lines)
}

/// The logical offset of the end: how many bytes the instance has put out since its first start.
///
/// # Errors
/// When the directory or its last segment cannot be read.
pub fn length(log_directory: &Path) -> io::Result<u64> {
    match segments(log_directory)?.last() {
        Some(last) => Ok(last.start + fs::metadata(&last.path)?.len()),
        None => Ok(0),
    }
}

/// The segments by their start; none when the directory does not exist.
pub(crate) fn segments(log_directory: &Path) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(log_directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let start = entry.file_name().to_str().and_then(|name| {
            name.strip_prefix(PREFIX)?
                .strip_suffix(SUFFIX)?
                .parse()
                .ok()
        });
        if let Some(start) = start {
            found.push(Segment {
                start,
                path: entry.path(),
            });
        }
    }
    found.sort_by_key(|segment| segment.start);
    Ok(found)
}

/// The file that begins at `start`.
pub(crate) fn segment_path(log_directory: &Path, start: u64) -> PathBuf {
    log_directory.join(format!("{PREFIX}{start:020}{SUFFIX}"))
}

fn read_once(log_directory: &Path, after: u64, limit: usize) -> io::Result<Chunk> {
    let mut chunk = Chunk {
        bytes: Vec::new(),
        next_offset: after,
    };
    let segments = segments(log_directory)?;
    for (index, segment) in segments.iter().enumerate() {
        let ends_before = segments
            .get(index + 1)
            .is_some_and(|next| next.start <= after);
        if ends_before {
            continue;
        }
        let file = File::open(&segment.path)?;
        let end = segment.start + file.metadata()?.len();
        let is_last = index + 1 == segments.len();
        // Either older output was rotated away, or a power cut left a hole before this segment.
        chunk.next_offset = chunk.next_offset.max(segment.start);
        if is_last {
            chunk.next_offset = chunk.next_offset.min(end);
        }
        let wanted = usize::try_from(end.saturating_sub(chunk.next_offset))
            .unwrap_or(usize::MAX)
            .min(limit - chunk.bytes.len());
        let filled = chunk.bytes.len();
        chunk.bytes.resize(filled + wanted, 0);
        file.read_exact_at(
            &mut chunk.bytes[filled..],
            chunk.next_offset - segment.start,
        )?;
        chunk.next_offset += wanted as u64;
        if chunk.bytes.len() == limit {
            break;
        }
    }
    if segments.is_empty() {
        chunk.next_offset = 0;
    }
    Ok(chunk)
}

fn search_lines(log_directory: &Path, lines: u64) -> io::Result<u64> {
    let segments = segments(log_directory)?;
    let mut wanted = lines;
    let mut is_last_byte = true;
    let mut buffer = vec![0_u8; SEARCH_STEP];
    for segment in segments.iter().rev() {
        let file = File::open(&segment.path)?;
        let mut end = file.metadata()?.len();
        if lines == 0 {
            return Ok(segment.start + end);
        }
        while end > 0 {
            let step = end.min(SEARCH_STEP as u64);
            let begin = end - step;
            let piece = &mut buffer[..usize::try_from(step).unwrap_or(SEARCH_STEP)];
            file.read_exact_at(piece, begin)?;
            for (position, byte) in piece.iter().enumerate().rev() {
                // The line end at the very end of the log closes the last line, it begins none.
                let begins_a_line = *byte == b'\n' && !is_last_byte;
                is_last_byte = false;
                if begins_a_line {
                    wanted -= 1;
                    if wanted == 0 {
                        return Ok(segment.start + begin + position as u64 + 1);
                    }
                }
            }
            end = begin;
        }
    }
    Ok(segments.first().map_or(0, |oldest| oldest.start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(segments: &[(u64, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (start, text) in segments {
            fs::write(segment_path(directory.path(), *start), text).unwrap();
        }
        directory
    }

    #[test]
    fn reading_crosses_segments() {
        let log = log_of(&[(0, "0123"), (4, "4567"), (8, "89")]);

        let all = read(log.path(), 0, 100).unwrap();
        assert_eq!(all.bytes, b"0123456789");
        assert_eq!(all.next_offset, 10);

        let part = read(log.path(), 3, 4).unwrap();
        assert_eq!(part.bytes, b"3456");
        assert_eq!(part.next_offset, 7);
    }

    #[test]
    fn offsets_outside_what_is_kept_are_moved_inside() {
        let log = log_of(&[(4, "4567"), (8, "89")]);

        assert_eq!(read(log.path(), 0, 3).unwrap().bytes, b"456");
        assert_eq!(read(log.path(), 0, 3).unwrap().next_offset, 7);
        assert_eq!(read(log.path(), 99, 3).unwrap().next_offset, 10);
        assert_eq!(length(log.path()).unwrap(), 10);

        let absent = log.path().join("absent");
        assert_eq!(read(&absent, 7, 3).unwrap(), Chunk::default());
        assert_eq!(length(&absent).unwrap(), 0);
    }

    #[test]
    fn a_hole_between_segments_is_skipped() {
        let log = log_of(&[(0, "01"), (4, "4567")]);

        let chunk = read(log.path(), 0, 100).unwrap();
        assert_eq!(chunk.bytes, b"014567");
        assert_eq!(chunk.next_offset, 8);
    }

    #[test]
    fn last_lines_are_found_across_segments() {
        let log = log_of(&[(10, "a\nb"), (13, "c\nd"), (16, "\ne\n")]);

        for (lines, offset) in [(0, 19), (1, 17), (2, 15), (3, 12), (4, 10), (9, 10)] {
            assert_eq!(offset_of_last_lines(log.path(), lines).unwrap(), offset);
        }
    }

    #[test]
    fn an_unfinished_last_line_counts() {
        let log = log_of(&[(0, "a\nbc")]);

        assert_eq!(offset_of_last_lines(log.path(), 1).unwrap(), 2);
    }
}
