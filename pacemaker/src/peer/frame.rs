//! Frames: how requests and answers lie on the wire.

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The layout that this release speaks; another is refused with the connection.
const VERSION: u8 = 1;
/// Length, version, number.
const HEADER_BYTES: usize = 4 + 1 + 8;
/// The largest frame. A node's report may have 32 MiB, a batch of entries less.
pub(super) const FRAME_MAX_BYTES: usize = 48 * 1024 * 1024;
/// What is asked of the connection at once.
const READ_BYTES: usize = 64 * 1024;

/// What is put into one write.
const WRITE_BYTES: usize = 256 * 1024;

/// Puts frames that wait behind the first into one write with it; alone it is not copied.
pub(super) fn gather(first: Bytes, mut next: impl FnMut() -> Option<Bytes>) -> Bytes {
    let Some(second) = next() else {
        return first;
    };
    let mut together = BytesMut::with_capacity(first.len() + second.len());
    together.extend_from_slice(&first);
    together.extend_from_slice(&second);
    while together.len() < WRITE_BYTES
        && let Some(another) = next()
    {
        together.extend_from_slice(&another);
    }
    together.freeze()
}

/// Puts a frame at the end of `into`.
pub(super) fn put<T: Serialize>(number: u64, body: &T, into: &mut BytesMut) -> io::Result<()> {
    let start = into.len();
    into.put_u32(0);
    into.put_u8(VERSION);
    into.put_u64(number);
    let mut writer = into.writer();
    body.serialize(&mut rmp_serde::Serializer::new(&mut writer).with_struct_map())
        .map_err(io::Error::other)?;
    let length = into.len() - start - 4;
    if length > FRAME_MAX_BYTES {
        into.truncate(start);
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("a frame of {length} bytes; at most {FRAME_MAX_BYTES} are sent"),
        ));
    }
    let length = u32::try_from(length).map_err(io::Error::other)?;
    into[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// The next frame: its number and the bytes of its body; `None` at the end.
pub(super) async fn next(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> io::Result<Option<(u64, Bytes)>> {
    loop {
        if let Some(frame) = take(buffer)? {
            return Ok(Some(frame));
        }
        buffer.reserve(READ_BYTES);
        if reader.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
    }
}

/// A frame that is complete in the buffer.
fn take(buffer: &mut BytesMut) -> io::Result<Option<(u64, Bytes)>> {
    let Some(length) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(io::Error::other)?;
    if !(HEADER_BYTES - 4..=FRAME_MAX_BYTES).contains(&length) {
        return Err(wrong(format!("a frame of {length} bytes")));
    }
    if let Some(version) = buffer.get(4)
        && *version != VERSION
    {
        return Err(wrong(format!("a frame of version {version}")));
    }
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Ok(None);
    }
    let mut frame = buffer.split_to(4 + length).freeze();
    frame.advance(5);
    let number = frame.get_u64();
    Ok(Some((number, frame)))
}

/// The body of a frame.
pub(super) fn body<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    rmp_serde::from_slice(bytes).map_err(|error| wrong(error.to_string()))
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_survive_any_cut_and_nonsense_is_refused() {
        let mut wire = BytesMut::new();
        put(7, &"seven", &mut wire).unwrap();
        put(8, &"eight", &mut wire).unwrap();
        let wire = wire.freeze();

        for cut in 0..wire.len() {
            let mut reader = tokio::io::AsyncReadExt::chain(&wire[..cut], &wire[cut..]);
            let mut buffer = BytesMut::new();
            for (number, text) in [(7, "seven"), (8, "eight")] {
                let (found, bytes) = next(&mut reader, &mut buffer).await.unwrap().unwrap();
                assert_eq!((found, &*body::<String>(&bytes).unwrap()), (number, text));
            }
            assert!(next(&mut reader, &mut buffer).await.unwrap().is_none());
        }

        let mut truncated = &wire[..wire.len() - 1];
        let mut buffer = BytesMut::new();
        assert!(next(&mut truncated, &mut buffer).await.is_ok());
        assert!(next(&mut truncated, &mut buffer).await.is_err());

        for nonsense in [
            &[0xff; 32][..],
            &[0, 0, 0, 9, 2, 0][..],
            &[0, 0, 0, 1, 1][..],
        ] {
            let mut reader = nonsense;
            let found = next(&mut reader, &mut BytesMut::new()).await;
            assert!(found.is_err(), "{nonsense:?}");
        }
    }
}
