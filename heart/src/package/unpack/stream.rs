//! The uncompressed bytes of a package, counted while they are read.

use std::cell::Cell;
use std::io::{self, BufReader, Chain, Cursor, Read};
use std::rc::Rc;

use flate2::read::MultiGzDecoder;

use super::{FREE_BYTES, Limits, UnpackError};

const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

/// 128 MiB, what the zstd tool itself allows by default; bounds the decoder's memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Input is read in pieces of this size, whatever the caller's reader gives.
const INPUT_BUFFER_BYTES: usize = 64 << 10;

/// A package's bytes, first those that told its kind.
type Input<Package> = Chain<Cursor<Vec<u8>>, Counted<Package>>;

/// The uncompressed bytes of a package.
pub(super) struct Stream<Package: Read> {
    decoder: Decoder<Package>,
    compressed: Rc<Cell<u64>>,
    uncompressed: u64,
    limits: Limits,
}

enum Decoder<Package: Read> {
    Zstd(Box<zstd::Decoder<'static, BufReader<Input<Package>>>>),
    Gzip(Box<MultiGzDecoder<BufReader<Input<Package>>>>),
    Plain(Box<BufReader<Input<Package>>>),
}

/// Tells the kind of `package` by its first bytes.
pub(super) fn open<Package: Read>(
    package: Package,
    limits: &Limits,
) -> Result<Stream<Package>, UnpackError> {
    let compressed = Rc::new(Cell::new(0));
    let mut counted = Counted {
        inner: package,
        count: Rc::clone(&compressed),
    };
    let mut magic = Vec::new();
    (&mut counted)
        .take(ZSTD_MAGIC.len() as u64)
        .read_to_end(&mut magic)
        .map_err(damaged)?;
    let is_zstd = magic.starts_with(ZSTD_MAGIC);
    let is_gzip = magic.starts_with(GZIP_MAGIC);
    let input = BufReader::with_capacity(INPUT_BUFFER_BYTES, Cursor::new(magic).chain(counted));
    let decoder = if is_zstd {
        let mut decoder = zstd::Decoder::with_buffer(input).map_err(damaged)?;
        decoder
            .window_log_max(ZSTD_WINDOW_LOG_MAX)
            .map_err(damaged)?;
        Decoder::Zstd(Box::new(decoder))
    } else if is_gzip {
        Decoder::Gzip(Box::new(MultiGzDecoder::new(input)))
    } else {
        Decoder::Plain(Box::new(input))
    };
    Ok(Stream {
        decoder,
        compressed,
        uncompressed: 0,
        limits: *limits,
    })
}

fn damaged(source: io::Error) -> UnpackError {
    UnpackError::Damaged {
        reason: "it cannot be read or decompressed",
        source: Some(source),
    }
}

impl<Package: Read> Stream<Package> {
    /// Reads some bytes; 0 at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, UnpackError> {
        let read = loop {
            let result = match &mut self.decoder {
                Decoder::Zstd(decoder) => decoder.read(buffer),
                Decoder::Gzip(decoder) => decoder.read(buffer),
                Decoder::Plain(input) => input.read(buffer),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result.map_err(damaged)?,
            }
        };
        self.uncompressed += read as u64;
        self.check(0)?;
        Ok(read)
    }

    /// Refuses early what `more` bytes would take beyond the limits.
    pub(super) fn check(&self, more: u64) -> Result<(), UnpackError> {
        if self.uncompressed.saturating_add(more) > self.limits.total_bytes {
            return Err(UnpackError::LimitExceeded {
                what: "uncompressed bytes",
                limit: self.limits.total_bytes,
            });
        }
        let earned = self.compressed.get().saturating_mul(self.limits.ratio);
        if self.uncompressed > FREE_BYTES.saturating_add(earned) {
            return Err(UnpackError::LimitExceeded {
                what: "uncompressed bytes for each compressed one",
                limit: self.limits.ratio,
            });
        }
        Ok(())
    }

    /// Fills `buffer`.
    pub(super) fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), UnpackError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let read = self.read(&mut buffer[filled..])?;
            if read == 0 {
                return Err(UnpackError::Damaged {
                    reason: "it ends in the middle of an entry or without its end mark",
                    source: None,
                });
            }
            filled += read;
        }
        Ok(())
    }
}

struct Counted<Inner> {
    inner: Inner,
    count: Rc<Cell<u64>>,
}

impl<Inner: Read> Read for Counted<Inner> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}
