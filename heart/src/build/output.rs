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
}

impl Forwarder {
    pub(super) const fn new(client: Client, job: JobId, log_directory: PathBuf) -> Self {
        Self {
            client,
            job,
            log_directory,
            read: 0,
            written: 0,
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
        let chunk = match log::read(&self.log_directory, self.read, CHUNK_BYTES) {
            Ok(chunk) => chunk,
            Err(error) => {
                tracing::warn!(job = %self.job, %error, "reading a build's output");
                return Sent::Nothing;
            }
        };
        let begin = chunk.next_offset - chunk.bytes.len() as u64;
        let missing = begin.saturating_sub(self.read);
        if chunk.bytes.is_empty() {
            return Sent::Everything;
        }
        let mut bytes = chunk.bytes;
        if missing > 0 {
            let marker = format!("\n[{missing} bytes of output were dropped]\n");
            bytes.splice(0..0, marker.into_bytes());
        }
        if self.append(Bytes::from(bytes)).await {
            self.read = chunk.next_offset;
            Sent::Some
        } else {
            Sent::Nothing
        }
    }

    /// True when the log took the bytes.
    async fn append(&mut self, bytes: Bytes) -> bool {
        let end = self.written + bytes.len() as u64;
        match self
            .client
            .append_job_log(self.job, self.written, bytes)
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
