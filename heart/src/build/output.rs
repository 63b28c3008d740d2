//! Carries a build's output to the job's log while the commands run.
//!
//! The shim's log on disk is the buffer: it is bounded, and the commands never wait for a
//! pacemaker. What was rotated away before it could be sent is replaced by one line that says how
//! much is missing.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use common::id::JobId;
use pacemaker_client::Client;
use tokio_util::sync::CancellationToken;

use crate::failure::chain;
use crate::shim::log;

/// Output is looked for so often: often enough that a person who follows sees it flow.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// The most that is sent at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// How long after the end of the commands the rest of their output is tried to be sent.
const FINISH_WITHIN: Duration = Duration::from_secs(10);

/// Sends the output of one build.
#[derive(Debug)]
pub(super) struct Forwarder {
    client: Client,
    job: JobId,
    log_directory: PathBuf,
    /// How much of the output has been sent.
    read: u64,
    /// How long the job's log is.
    written: u64,
    /// Sent, and not known to have been taken. It is sent again as it was: when the answer was lost
    /// on its way, the log has it, says so by its length, and nothing is in it twice.
    pending: Option<Piece>,
}

/// Output on its way.
#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    /// Where the output goes on after it.
    next: u64,
}

impl Forwarder {
    pub(super) const fn new(client: Client, job: JobId, log_directory: PathBuf) -> Self {
        Self {
            client,
            job,
            log_directory,
            read: 0,
            written: 0,
            pending: None,
        }
    }

    /// Sends what there is until `over`, and then the rest.
    pub(super) async fn run(mut self, over: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !over.is_cancelled() {
            tokio::select! {
                _ = looks.tick() => {}
                () = over.cancelled() => break,
            }
            self.send_some().await;
        }
        let rest = async {
            while self.send_some().await != Sent::Everything {
                looks.tick().await;
            }
        };
        if tokio::time::timeout(FINISH_WITHIN, rest).await.is_err() {
            tracing::warn!(job = %self.job, "the end of a build's output was not sent");
        }
    }

    async fn send_some(&mut self) -> Sent {
        let piece = match self.pending.take() {
            Some(piece) => piece,
            None => match self.next_piece() {
                Ok(Some(piece)) => piece,
                Ok(None) => return Sent::Everything,
                Err(error) => {
                    tracing::warn!(job = %self.job, %error, "reading a build's output");
                    return Sent::Nothing;
                }
            },
        };
        if self.append(&piece.bytes).await {
            self.read = piece.next;
            Sent::Some
        } else {
            self.pending = Some(piece);
            Sent::Nothing
        }
    }

    fn next_piece(&self) -> std::io::Result<Option<Piece>> {
        let chunk = log::read(&self.log_directory, self.read, CHUNK_BYTES)?;
        if chunk.bytes.is_empty() {
            return Ok(None);
        }
        let begin = chunk.next_offset - chunk.bytes.len() as u64;
        let missing = begin.saturating_sub(self.read);
        let mut bytes = chunk.bytes;
        if missing > 0 {
            let marker = format!("\n[{missing} bytes of output were dropped]\n");
            bytes.splice(0..0, marker.into_bytes());
        }
        Ok(Some(Piece {
            bytes: Bytes::from(bytes),
            next: chunk.next_offset,
        }))
    }

    /// True when the log took the bytes, or has them.
    async fn append(&mut self, bytes: &Bytes) -> bool {
        let end = self.written + bytes.len() as u64;
        match self
            .client
            .append_job_log(self.job, self.written, bytes.clone())
            .await
        {
            Ok(length) => {
                // Another length: the log was longer, from a build that was begun before.
                self.written = length;
                length == end
            }
            Err(error) => {
                tracing::debug!(job = %self.job, error = chain(&error), "sending a build's output");
                false
            }
        }
    }
}

/// What came of an attempt to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// There was nothing to send.
    Everything,
    /// Something was sent; there may be more.
    Some,
    /// Nothing could be sent.
    Nothing,
}

#[cfg(test)]
mod http_tests;
