//! Gets a package's bytes into a file and proves that they are the right ones.
//!
//! A download that broke off, or that a killed heart left, goes on where it ended. Bytes are hashed as
//! they are written; what does not match its digest is deleted and never unpacked.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::assignment::PackageReference;
use common::digest::Hasher;
use common::instance::{Failure, FailureCode};
use futures_util::StreamExt as _;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::Packages;
use crate::crash_point::CrashPoint;
use crate::failure::{failure, failure_of};
use crate::removal::remove_if_present;

/// How often a download may break off in a row without a byte of progress: with the pauses between,
/// long enough for a pacemaker to restart or for another to be elected.
const ATTEMPTS: u32 = 6;

/// The pause after the first of them; each is twice the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How long a download waits for the pacemaker, so that one that is stopped or cut off does not hold
/// one of the few permits for ever: the next attempt may reach another.
#[derive(Clone, Copy)]
struct Patience {
    /// For the answer.
    answer: Duration,
    /// For the next bytes, and each time anew.
    bytes: Duration,
}

/// The pacemaker only opens a file before it answers; a busy disk takes seconds for that. Bytes may
/// stay away longer: TCP repeats packets that were lost in a row after up to ten seconds and more.
const PATIENCE: Patience = Patience {
    answer: Duration::from_secs(10),
    bytes: Duration::from_secs(20),
};

/// How much of a partial file is hashed at once.
const READ_BYTES: usize = 64 * 1024;

/// A download under way.
struct Partial {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    length: u64,
}

/// A download attempt that did not reach the end.
#[derive(Debug)]
enum Broken {
    /// The connection, or nothing came over it; trying again may help.
    Off(Failure),
    /// The disk, a refusal, or more bytes than there should be.
    ForGood(Failure),
}

impl From<pacemaker_client::Error> for Broken {
    fn from(error: pacemaker_client::Error) -> Self {
        let failure = failure_of(FailureCode::FetchFailed, &error);
        if error.is_unreachable() {
            Self::Off(failure)
        } else {
            Self::ForGood(failure)
        }
    }
}

impl Broken {
    fn silent(waited: Duration) -> Self {
        let text = format!("the pacemaker has sent nothing of the package for {waited:?}");
        Self::Off(failure(FailureCode::FetchFailed, text))
    }
}

impl Packages {
    /// Downloads and verifies; returns the file.
    ///
    /// What was put together from several answers and does not fit is downloaded once more: one of
    /// the pacemakers may have sent the beginning of a damaged copy, and then noticed.
    pub(super) async fn download(&self, package: &PackageReference) -> Result<PathBuf, Failure> {
        let path = self
            .directories
            .partial_packages()
            .join(format!("{}.package", package.digest));
        let (pieced, downloaded) = self.download_to(&path, package).await?;
        match downloaded.verify(package).await {
            Err(failure) if pieced && failure.code == FailureCode::PackageDamaged => {
                let (_, downloaded) = self.download_to(&path, package).await?;
                downloaded.verify(package).await
            }
            verified => verified,
        }
    }

    /// Downloads all bytes; true when they did not come in one piece.
    async fn download_to(
        &self,
        path: &Path,
        package: &PackageReference,
    ) -> Result<(bool, Partial), Failure> {
        let mut partial = Partial::open(path.to_owned(), package.size)
            .await
            .map_err(|error| disk(&error))?;
        let mut pieced = partial.length > 0;
        let mut attempts = 0;
        while partial.length < package.size {
            let before = partial.length;
            match self.download_some(package, &mut partial, PATIENCE).await {
                Ok(()) => {}
                Err(Broken::ForGood(failure)) => return Err(failure),
                Err(Broken::Off(failure)) => {
                    pieced |= partial.length > 0;
                    attempts = if partial.length > before {
                        1
                    } else {
                        attempts + 1
                    };
                    if attempts >= ATTEMPTS {
                        return Err(failure);
                    }
                    pause(FIRST_PAUSE * 2_u32.pow(attempts - 1)).await;
                }
            }
        }
        self.crash.at(CrashPoint::AfterFetch);
        Ok((pieced, partial))
    }

    async fn download_some(
        &self,
        package: &PackageReference,
        partial: &mut Partial,
        patience: Patience,
    ) -> Result<(), Broken> {
        let answer = self
            .client
            .download_package(&package.digest, partial.length);
        let mut stream = timeout(patience.answer, answer)
            .await
            .map_err(|_| Broken::silent(patience.answer))??;
        let before = partial.length;
        while let Some(bytes) = timeout(patience.bytes, stream.next())
            .await
            .map_err(|_| Broken::silent(patience.bytes))?
        {
            let bytes = bytes?;
            if partial.length + bytes.len() as u64 > package.size {
                partial.discard().await.map_err(Broken::ForGood)?;
                return Err(Broken::ForGood(damaged(
                    package,
                    "it is longer than its size",
                )));
            }
            partial
                .append(&bytes)
                .await
                .map_err(|error| Broken::ForGood(disk(&error)))?;
            self.crash.at(CrashPoint::DuringFetch);
        }
        if partial.length == before {
            partial.discard().await.map_err(Broken::ForGood)?;
            return Err(Broken::ForGood(damaged(
                package,
                "it is shorter than its size",
            )));
        }
        Ok(())
    }
}

impl Partial {
    /// Opens what is there already and hashes it; a file longer than it can be is begun anew.
    async fn open(path: PathBuf, size: u64) -> std::io::Result<Self> {
        let hashing = path.clone();
        let (hasher, length) = tokio::task::spawn_blocking(move || hash_existing(&hashing, size))
            .await
            .map_err(std::io::Error::other)??;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .await?;
        Ok(Self {
            path,
            file,
            hasher,
            length,
        })
    }

    async fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes).await?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    async fn verify(mut self, package: &PackageReference) -> Result<PathBuf, Failure> {
        self.file.flush().await.map_err(|error| disk(&error))?;
        if self.hasher.clone().finish() == package.digest {
            return Ok(self.path);
        }
        self.discard().await?;
        Err(damaged(package, "its bytes have another digest"))
    }

    /// Deletes the file: the next try begins at the beginning.
    async fn discard(&mut self) -> Result<(), Failure> {
        tokio::fs::remove_file(&self.path)
            .await
            .map_err(|error| disk(&error))
    }
}

fn hash_existing(path: &Path, size: u64) -> std::io::Result<(Hasher, u64)> {
    let mut hasher = Hasher::default();
    let mut file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((hasher, 0)),
        file => file?,
    };
    if file.metadata()?.len() > size {
        remove_if_present(path)?;
        return Ok((hasher, 0));
    }
    let mut length = 0;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((hasher, length));
        }
        hasher.update(&buffer[..count]);
        length += count as u64;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause between two tries of a bounded loop; who waits may give up meanwhile"
)]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

fn damaged(package: &PackageReference, reason: &str) -> Failure {
    failure(
        FailureCode::PackageDamaged,
        format!("package {} is damaged: {reason}", package.digest),
    )
}

fn disk(error: &std::io::Error) -> Failure {
    let text = format!("the package could not be written to disk: {error}");
    failure(FailureCode::Disk, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    use pacemaker_client::Client;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use crate::crash_point::Crash;
    use crate::directories::Directories;
    use crate::samples;

    #[tokio::test]
    async fn a_pacemaker_that_never_answers_is_given_up() {
        let (failure, length) = download_from("").await;

        assert!(failure.message.contains("for 100ms"), "{failure:?}");
        assert_eq!(length, 0);
    }

    #[tokio::test]
    async fn a_pacemaker_that_stops_sending_is_given_up_and_what_it_sent_is_kept() {
        let begin = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\ncon";

        let (failure, length) = download_from(begin).await;

        assert!(failure.message.contains("for 200ms"), "{failure:?}");
        assert_eq!(length, 3);
    }

    /// Downloads from a pacemaker that sends `text` and then nothing; returns why that broke off, and
    /// how many bytes there are.
    async fn download_from(text: &'static str) -> (Failure, u64) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let stopped = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            // Whoever answers before the question is no HTTP server.
            connection.read_u8().await.unwrap();
            connection.write_all(text.as_bytes()).await.unwrap();
            // Until the other end gives up.
            connection.read_to_end(&mut Vec::new()).await.ok();
        });
        let place = tempfile::tempdir().unwrap();
        let packages = Packages::new(
            Directories::new(place.path().to_owned()),
            Client::new(&[endpoint], "token").unwrap(),
            Crash(None),
            "boot".to_owned(),
            CancellationToken::new(),
        );
        let package = samples::package("content");
        let mut partial = Partial::open(place.path().join("partial"), package.size)
            .await
            .unwrap();
        let patience = Patience {
            answer: Duration::from_millis(100),
            bytes: Duration::from_millis(200),
        };

        let broken = packages
            .download_some(&package, &mut partial, patience)
            .await
            .unwrap_err();
        stopped.await.unwrap();
        let Broken::Off(failure) = broken else {
            panic!("it is worth another try");
        };
        (failure, partial.length)
    }
}
