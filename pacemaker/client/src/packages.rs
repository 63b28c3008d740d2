//! Moving packages: upload that resumes, download as a stream.

use std::path::Path;

use bytes::Bytes;
use common::api::{UPLOAD_OFFSET, paths};
use common::assignment::PackageReference;
use common::digest::Digest;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use reqwest::{Method, StatusCode};
use tokio::io::AsyncSeekExt as _;
use tokio_util::io::ReaderStream;

use crate::error::Error;
use crate::transport::{ANSWER_TIMEOUT, Effort, accept};
use crate::{Client, fill};

/// `Upload-Length`: the whole size of a package, sent with each part of it.
pub const UPLOAD_LENGTH: &str = "upload-length";
/// How often an upload may break off without a byte of progress before it is given up.
const UPLOAD_ATTEMPTS: u32 = 5;
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
        let stuck = |attempts| Error::UploadStuck {
            digest: package.digest.clone(),
            attempts,
        };
        let mut best = 0;
        let mut attempts = 0;
        loop {
            let offset = match self.stored_package(&package.digest).await? {
                Stored::Whole => {
                    progress(package.size);
                    return Ok(());
                }
                Stored::Part(offset) => offset,
            };
            attempts = if offset > best { 0 } else { attempts + 1 };
            best = best.max(offset);
            progress(offset);
            match self.upload_part(package, file, offset).await {
                Ok(Stored::Whole) => {
                    progress(package.size);
                    return Ok(());
                }
                Ok(Stored::Part(_)) if attempts >= UPLOAD_ATTEMPTS => return Err(stuck(attempts)),
                Err(error) if attempts >= UPLOAD_ATTEMPTS => {
                    return Err(match error {
                        Error::Unreachable { .. } | Error::Answer { .. } => stuck(attempts),
                        other => other,
                    });
                }
                Ok(Stored::Part(_)) | Err(Error::Unreachable { .. } | Error::Answer { .. }) => {}
                // Another upload of the same package is ahead of this one.
                Err(Error::Refused { ref problem, .. }) if problem.code == "offset_mismatch" => {}
                Err(error) => return Err(error),
            }
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
