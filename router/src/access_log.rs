//! The access log: one JSON object for each request, written by a thread of its own.
//!
//! A request only hands its facts over. When the queue is full the line is dropped and counted: a
//! slow disk never slows a request. The file is rotated by size. The path is logged without its
//! query, which may carry secrets.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use common::id::{InstanceId, VersionNumber};
use common::time::Timestamp;
use http::{HeaderValue, Method, Uri};
use serde::Serialize;

use crate::answer::Refusal;
use crate::statistics::RouteStatistics;

/// Lines that wait for the writer: a tenth of a second at full speed, a few megabytes.
const QUEUE_LINES: usize = 8_192;
/// A file is set aside when it has reached this size.
const FILE_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Files that were set aside and are kept.
const FILES_KEPT: u32 = 4;
/// The longest path that is written whole.
const PATH_MAX_BYTES: usize = 2_048;
/// Written at once when the queue is empty, at the latest when this much has gathered.
const BUFFER_BYTES: usize = 64 * 1024;

/// The facts of one request.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) time: SystemTime,
    pub(crate) remote: SocketAddr,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) host: Option<HeaderValue>,
    pub(crate) request_id: Option<HeaderValue>,
    pub(crate) status: u16,
    pub(crate) route: Option<Arc<RouteStatistics>>,
    pub(crate) backend: Option<(InstanceId, VersionNumber)>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) duration: Duration,
    pub(crate) upstream: Option<Duration>,
    pub(crate) retries: u32,
    pub(crate) refusal: Option<Refusal>,
    pub(crate) is_whole: bool,
}

/// A line as it is written; absent facts are left out.
#[derive(Serialize)]
struct Written<'line> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'line str>,
    remote: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<std::borrow::Cow<'line, str>>,
    method: &'line str,
    path: &'line str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace: Option<&'line str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<&'line str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_type: Option<&'line str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<VersionNumber>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<InstanceId>,
    bytes_in: u64,
    bytes_out: u64,
    duration_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_us: Option<u64>,
    retries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "is_true")]
    whole: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
fn is_true(value: &bool) -> bool {
    *value
}

/// The handle by which workers log.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    entries: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
}

/// What the writer is told.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every entry is a line, and boxing each would cost the request"
)]
enum Entry {
    /// One request has ended.
    Line(Line),
    /// Nothing more will come.
    End,
}

/// A failure to begin the log.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the access log {path}")]
pub struct OpenError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl AccessLog {
    /// Opens the log in `directory` and starts its writer, which ends at [`end`](Self::end).
    pub(crate) fn open(directory: &Path) -> Result<(Self, std::thread::JoinHandle<()>), OpenError> {
        let path = directory.join("access.log");
        let failed = |source| OpenError {
            path: path.clone(),
            source,
        };
        let file = LogFile::open(path.clone()).map_err(failed)?;
        let (entries, queue) = sync_channel(QUEUE_LINES);
        let writer = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(file, &queue))
            .map_err(failed)?;
        let dropped = Arc::new(AtomicU64::new(0));
        Ok((Self { entries, dropped }, writer))
    }

    /// Hands a line over, or drops it when the writer is behind.
    pub(crate) fn write(&self, line: Line) {
        if self.entries.try_send(Entry::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lets the writer end when it has written what was handed over; blocks while it is behind.
    pub(crate) fn end(&self) {
        if self.entries.send(Entry::End).is_err() {
            tracing::debug!("the access log's writer had ended before");
        }
    }

    /// Lines that were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn write_all(mut file: LogFile, queue: &Receiver<Entry>) {
    while let Ok(first) = queue.recv() {
        let mut next = Some(first);
        let mut has_ended = false;
        while let Some(entry) = next {
            match entry {
                Entry::Line(line) => file.append(&line),
                Entry::End => has_ended = true,
            }
            next = queue.try_recv().ok();
        }
        file.flush();
        if has_ended {
            return;
        }
    }
}

struct LogFile {
    path: PathBuf,
    file: BufWriter<File>,
    length: u64,
    /// So that a full disk is reported once, not once for each request.
    has_failed: bool,
    buffer: Vec<u8>,
}

impl LogFile {
    fn open(path: PathBuf) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let length = file.metadata()?.len();
        Ok(Self {
            path,
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            length,
            has_failed: false,
            buffer: Vec::new(),
        })
    }

    fn append(&mut self, line: &Line) {
        self.buffer.clear();
        if let Err(error) = serde_json::to_writer(&mut self.buffer, &written(line)) {
            tracing::error!(%error, "an access log line cannot be written as JSON");
            return;
        }
        self.buffer.push(b'\n');
        let result = self.file.write_all(&self.buffer);
        self.length += u64::try_from(self.buffer.len()).unwrap_or(0);
        self.note(result);
        if self.length >= FILE_MAX_BYTES {
            let result = self.rotate();
            self.note(result);
        }
    }

    fn flush(&mut self) {
        let result = self.file.flush();
        self.note(result);
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        self.file.flush()?;
        let aside = |number: u32| self.path.with_extension(format!("log.{number}"));
        for number in (1..FILES_KEPT).rev() {
            match std::fs::rename(aside(number), aside(number + 1)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        std::fs::rename(&self.path, aside(1))?;
        *self = Self::open(self.path.clone())?;
        Ok(())
    }

    fn note(&mut self, result: std::io::Result<()>) {
        match result {
            Ok(()) => {}
            Err(error) if !self.has_failed => {
                tracing::error!(path = %self.path.display(), %error, "cannot write the access log");
                self.has_failed = true;
            }
            Err(_) => {}
        }
    }
}

fn written(line: &Line) -> Written<'_> {
    let labels = line.route.as_ref().map(|route| &route.labels);
    let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let path = line.uri.path();
    let ms = line
        .time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
    Written {
        time: Timestamp(ms).to_string(),
        request_id: line.request_id.as_ref().and_then(|id| id.to_str().ok()),
        remote: line.remote,
        host: line
            .host
            .as_ref()
            .map(|host| String::from_utf8_lossy(host.as_bytes())),
        method: line.method.as_str(),
        path: path.get(..PATH_MAX_BYTES).unwrap_or(path),
        status: line.status,
        workspace: labels.map(|labels| labels.workspace.as_str()),
        application: labels.map(|labels| labels.application_name.as_str()),
        instance_type: labels.map(|labels| labels.instance_type.as_str()),
        version: line.backend.map(|(_, version)| version),
        instance: line.backend.map(|(instance, _)| instance),
        bytes_in: line.bytes_in,
        bytes_out: line.bytes_out,
        duration_us: us(line.duration),
        upstream_us: line.upstream.map(us),
        retries: line.retries,
        error: line.refusal.map(Refusal::code),
        whole: line.is_whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line {
            time: SystemTime::UNIX_EPOCH,
            remote: SocketAddr::from(([192, 0, 2, 7], 1234)),
            method: Method::GET,
            uri: Uri::from_static("/secret?token=x"),
            host: Some(HeaderValue::from_static("a.test")),
            request_id: None,
            status: 404,
            route: None,
            backend: None,
            bytes_in: 0,
            bytes_out: 3,
            duration: Duration::from_micros(7),
            upstream: None,
            retries: 0,
            refusal: Some(Refusal::NoRoute),
            is_whole: true,
        }
    }

    #[test]
    fn a_line_is_one_json_object_without_the_query() {
        let directory = tempfile::tempdir().unwrap();
        let (log, writer) = AccessLog::open(directory.path()).unwrap();
        log.write(line());
        log.end();
        writer.join().unwrap();

        let text = std::fs::read_to_string(directory.path().join("access.log")).unwrap();
        assert_eq!(
            text,
            "{\"time\":\"1970-01-01T00:00:00Z\",\"remote\":\"192.0.2.7:1234\",\"host\":\"a.test\",\
             \"method\":\"GET\",\"path\":\"/secret\",\"status\":404,\"bytes_in\":0,\"bytes_out\":3,\
             \"duration_us\":7,\"retries\":0,\"error\":\"no_route\"}\n"
        );
    }

    #[test]
    fn a_full_file_is_set_aside_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = LogFile::open(directory.path().join("access.log")).unwrap();
        for _ in 0..FILES_KEPT + 3 {
            file.length = FILE_MAX_BYTES;
            file.append(&line());
        }

        let mut names: Vec<String> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "access.log",
                "access.log.1",
                "access.log.2",
                "access.log.3",
                "access.log.4"
            ]
        );
    }
}
