//! A plain HTTP/1.1 client on one connection, with nothing hidden: it never retries, never follows,
//! and a connection that breaks is an error.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The largest head of an answer.
const HEAD_MAX_BYTES: usize = 64 * 1024;
/// How much is read at once.
const READ_BYTES: usize = 16 * 1024;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header with this name, given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection that is kept alive.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Bytes that have arrived and not been used.
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody accepts.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true).context("setting TCP_NODELAY")?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(READ_BYTES),
        })
    }

    /// Sends a GET and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks before the end of the answer, or the answer is no HTTP.
    pub async fn get(&mut self, host: &str, path: &str) -> Result<Answer> {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"))
            .await
    }

    /// Sends a whole request as text and reads the whole answer.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn send(&mut self, request: &str) -> Result<Answer> {
        self.stream
            .write_all(request.as_bytes())
            .await
            .context("sending the request")?;
        let (status, headers) = self.read_head().await?;
        let header = |name: &str| {
            headers
                .iter()
                .find(|(found, _)| found == name)
                .map(|(_, value)| value.as_str())
        };
        let body = if header("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            self.read_chunks().await?
        } else {
            let length = header("content-length").map_or(Ok(0), str::parse);
            let length: usize = length.context("reading the content length")?;
            self.read_bytes(length).await?
        };
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    async fn read_head(&mut self) -> Result<(u16, Vec<(String, String)>)> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            if self.buffer.len() > HEAD_MAX_BYTES {
                bail!("the head of the answer is larger than {HEAD_MAX_BYTES} bytes");
            }
            self.fill("the head of the answer").await?;
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.lines();
        let status_line = lines.next().unwrap_or_default();
        let status = status_line
            .split(' ')
            .nth(1)
            .and_then(|text| text.parse().ok())
            .with_context(|| format!("reading the status line {status_line:?}"))?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok((status, headers))
    }

    async fn read_chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = find(&self.buffer, b"\r\n") {
                    break end;
                }
                self.fill("the size of a chunk").await?;
            };
            let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
            let line = String::from_utf8_lossy(&line);
            let size = usize::from_str_radix(line.trim(), 16).context("reading a chunk's size")?;
            let chunk = self.read_bytes(size + 2).await?;
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    async fn read_bytes(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.fill("the body of the answer").await?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    async fn fill(&mut self, what: &str) -> Result<()> {
        self.buffer.reserve(READ_BYTES);
        let count = self
            .stream
            .read_buf(&mut self.buffer)
            .await
            .with_context(|| format!("reading {what}"))?;
        if count == 0 {
            bail!("the connection was closed while reading {what}");
        }
        Ok(())
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
