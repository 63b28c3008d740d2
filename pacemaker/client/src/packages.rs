//! Moving packages: upload that resumes, download as a stream.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use common::api::{UPLOAD_OFFSET, paths};
use common::assignment::PackageReference;
use common::digest::Digest;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use reqwest::{Method, StatusCode};
use tokio::io::AsyncSeekExt as _;
use tokio::time::Instant;
use tokio_util::io::ReaderStream;

use crate::error::Error;
use crate::transport::{ANSWER_TIMEOUT, Effort, accept};
use crate::{Client, fill};

/// `Upload-Length`: the whole size of a package, sent with each part of it.
pub const UPLOAD_LENGTH: &str = "upload-length";
/// How often less than the rest may arrive, without a byte of progress, before an upload is given up.
const UPLOAD_ATTEMPTS: u32 = 5;
/// How long an upload that has begun waits for a pacemaker: the restart of one, or of its machine.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(60);
/// The pause before an upload that broke off is taken up again.
const UPLOAD_PAUSE: Duration = Duration::from_millis(250);
/// How much of a file is read at once.
const READ_BYTES: usize = 64 * 1024;

/// How much of a package the store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// All of it, verified.
    Whole,
    /// This many bytes of an upload that was broken off.
    Part(u64),
}

impl Client {
    /// Asks how much of a package the store has.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn stored_package(&self, digest: &Digest) -> Result<Stored, Error> {
        let action = "look up the package";
        let path = fill(paths::PACKAGE, &[("{digest}", digest.as_str())]);
        let response = self
            .transport
            .send(action, Method::HEAD, &path, Effort::OneRound, |request| {
                request.timeout(ANSWER_TIMEOUT)
            })
            .await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(Stored::Part(upload_offset(&response).unwrap_or(0)));
        }
        accept(action, response).await?;
        Ok(Stored::Whole)
    }

    /// Uploads a package, going on where an earlier upload broke off.
    ///
    /// `progress` is called with the number of bytes that the store has or has been sent.
    ///
    /// # Errors
    /// See [`Error`]; a digest that does not match is refused by the store.
    pub async fn upload_package(
        &self,
        package: &PackageReference,
        file: &Path,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Error> {
        let mut best = None;
        let mut attempts = 0;
        let mut away_since = None;
        loop {
            let (offset, step) = self.upload_rest(package, file, progress).await;
            if offset > best {
                best = offset;
                attempts = 0;
                away_since = None;
            }
            let error = match step {
                Ok(Stored::Whole) => {
                    progress(package.size);
                    return Ok(());
                }
                Ok(Stored::Part(_)) => None,
                // Another upload of the same package is ahead of this one.
                Err(Error::Refused { ref problem, .. }) if problem.code == "offset_mismatch" => {
                    None
                }
                Err(error) => Some(error),
            };
            match error {
                None if attempts >= UPLOAD_ATTEMPTS => {
                    return Err(Error::UploadStuck {
                        digest: package.digest.clone(),
                        attempts,
                    });
                }
                None => attempts += 1,
                // A pacemaker starts again, or another one leads from now on.
                Some(error) if error.is_unreachable() && best.is_some() => {
                    let since = *away_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > UPLOAD_PATIENCE {
                        return Err(error);
                    }
                    tokio::time::sleep_until(Instant::now() + UPLOAD_PAUSE).await;
                }
                Some(error) => return Err(error),
            }
        }
    }

    /// Asks how much is there, and sends the rest; answers also what was there.
    async fn upload_rest(
        &self,
        package: &PackageReference,
        file: &Path,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> (Option<u64>, Result<Stored, Error>) {
        match self.stored_package(&package.digest).await {
            Ok(Stored::Part(offset)) => {
                progress(offset);
                let sent = self.upload_part(package, file, offset).await;
                (Some(offset), sent)
            }
            Ok(Stored::Whole) => (Some(package.size), Ok(Stored::Whole)),
            Err(error) => (None, Err(error)),
        }
    }

    async fn upload_part(
        &self,
        package: &PackageReference,
        path: &Path,
        offset: u64,
    ) -> Result<Stored, Error> {
        let action = "upload the package";
        let wrap = |source| Error::File {
            path: path.to_owned(),
            source,
        };
        let mut file = tokio::fs::File::open(path).await.map_err(wrap)?;
        file.seek(std::io::SeekFrom::Start(offset))
            .await
            .map_err(wrap)?;
        let body = std::sync::Mutex::new(Some(reqwest::Body::wrap_stream(
            ReaderStream::with_capacity(file, READ_BYTES),
        )));
        let url = fill(paths::PACKAGE, &[("{digest}", package.digest.as_str())]);
        let response = self
            .transport
            .send(action, Method::PUT, &url, Effort::OneRound, |request| {
                // A second endpoint gets an empty body: the offset it then reports is resumed from.
                let body = body
                    .lock()
                    .map_or(None, |mut body| body.take())
                    .unwrap_or_default();
                request
                    .header(UPLOAD_OFFSET, offset)
                    .header(UPLOAD_LENGTH, package.size)
                    .body(body)
            })
            .await?;
        let response = accept(action, response).await?;
        // Less came than was announced: an empty body, or a file that has become shorter.
        if response.status() == StatusCode::ACCEPTED {
            return Ok(Stored::Part(upload_offset(&response).unwrap_or(offset)));
        }
        Ok(Stored::Whole)
    }

    /// Downloads a package from byte `offset` on. The caller verifies the digest.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn download_package(
        &self,
        digest: &Digest,
        offset: u64,
    ) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + Unpin + use<>, Error> {
        let action = "download the package";
        let path = fill(paths::PACKAGE, &[("{digest}", digest.as_str())]);
        let response = self
            .transport
            .send(action, Method::GET, &path, Effort::OneRound, |request| {
                if offset == 0 {
                    request
                } else {
                    request.header("range", format!("bytes={offset}-"))
                }
            })
            .await?;
        let response = accept(action, response).await?;
        Ok(response
            .bytes_stream()
            .map_err(move |source| Error::Answer { action, source })
            .boxed())
    }
}

fn upload_offset(response: &reqwest::Response) -> Option<u64> {
    response
        .headers()
        .get(UPLOAD_OFFSET)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}
