//! Reading and appending logs by byte offset.

use bytes::Bytes;
use common::api::{LOG_END, LOG_OFFSET, paths};
use common::id::{InstanceId, JobId};
use reqwest::{Method, StatusCode};

use crate::error::Error;
use crate::transport::{ANSWER_TIMEOUT, Effort, WATCH_TIMEOUT, accept};
use crate::{Client, fill};

/// A piece of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    /// The bytes; empty when nothing came in time.
    pub bytes: Bytes,
    /// Pass this as `after` to go on.
    pub next_offset: u64,
    /// True when the log will not grow any more and all of it has been read.
    pub is_end: bool,
}

/// Where to begin reading a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogPosition {
    /// At this many bytes since the first output.
    After(u64),
    /// This many lines before the end.
    LastLines(u32),
}

impl Client {
    /// Reads a job's log; with `follow` waits for more when there is nothing new.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn job_log(&self, job: JobId, after: u64, follow: bool) -> Result<LogChunk, Error> {
        let path = fill(paths::JOB_LOG, &[("{job}", &job.to_string())]);
        self.read_log(
            "read the job's log",
            &path,
            LogPosition::After(after),
            follow,
        )
        .await
    }

    /// Reads an instance's log from its node.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn instance_log(
        &self,
        instance: InstanceId,
        position: LogPosition,
        follow: bool,
    ) -> Result<LogChunk, Error> {
        let path = fill(
            paths::INSTANCE_LOG,
            &[("{instance}", &instance.to_string())],
        );
        self.read_log("read the instance's log", &path, position, follow)
            .await
    }

    /// Appends to a job's log at `offset` and answers its new length.
    ///
    /// A writer that has lost count is told the length instead of having its bytes written twice.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn append_job_log(
        &self,
        job: JobId,
        offset: u64,
        bytes: Bytes,
    ) -> Result<u64, Error> {
        let action = "append to the job's log";
        let path = fill(paths::JOB_LOG, &[("{job}", &job.to_string())]);
        let length = bytes.len();
        let response = self
            .transport
            .send(action, Method::POST, &path, Effort::OneRound, |request| {
                request
                    .query(&[("offset", offset)])
                    .body(bytes.clone())
                    .timeout(ANSWER_TIMEOUT)
            })
            .await?;
        let told = header_number(&response, LOG_OFFSET);
        if response.status() == StatusCode::CONFLICT
            && let Some(length) = told
        {
            return Ok(length);
        }
        accept(action, response).await?;
        Ok(told.unwrap_or(offset + length as u64))
    }

    pub(crate) async fn read_log(
        &self,
        action: &'static str,
        path: &str,
        position: LogPosition,
        follow: bool,
    ) -> Result<LogChunk, Error> {
        let begin = match position {
            LogPosition::After(offset) => ("after", offset.to_string()),
            LogPosition::LastLines(lines) => ("tail", lines.to_string()),
        };
        let query = [begin, ("follow", follow.to_string())];
        let response = self
            .transport
            .send(action, Method::GET, path, Effort::OneRound, |request| {
                request.query(&query).timeout(WATCH_TIMEOUT)
            })
            .await?;
        let response = accept(action, response).await?;
        let told = header_number(&response, LOG_OFFSET);
        let is_end = response
            .headers()
            .get(LOG_END)
            .is_some_and(|value| value == "true");
        let bytes = response
            .bytes()
            .await
            .map_err(|source| Error::Answer { action, source })?;
        let fallback = match position {
            LogPosition::After(offset) => offset + bytes.len() as u64,
            LogPosition::LastLines(_) => bytes.len() as u64,
        };
        Ok(LogChunk {
            next_offset: told.unwrap_or(fallback),
            is_end,
            bytes,
        })
    }
}

fn header_number(response: &reqwest::Response, name: &str) -> Option<u64> {
    response.headers().get(name)?.to_str().ok()?.parse().ok()
}
