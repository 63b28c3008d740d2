//! Packages over HTTP: whole or not at all.

use std::path::{Path, PathBuf};

use common::assignment::PackageReference;
use common::digest::Digest;
use futures_util::TryStreamExt as _;
use pacemaker_client::{Client, Error, Stored};
use reqwest::Method;
use tokio::task::JoinSet;

use crate::harness::{Pacemaker, config, fresh, problem};
use crate::small_disk::SmallDisk;

/// Pushes of the same package at once.
const PUSHERS: usize = 20;
/// Room on the small disk, bytes.
const SMALL_DISK_BYTES: usize = 1024 * 1024;
/// The grain in which a tmpfs gives room.
const PAGE_BYTES: usize = 4096;

#[tokio::test]
async fn package_is_stored_and_comes_back() {
    let (_directory, pacemaker) = fresh().await;
    let client = pacemaker.node();
    let content = noise(3_000_000);
    let (file, package) = package(&content);

    assert_eq!(
        client.stored_package(&package.digest).await.unwrap(),
        Stored::Part(0)
    );
    client
        .upload_package(&package, file.path(), &|_| ())
        .await
        .unwrap();

    assert_eq!(
        client.stored_package(&package.digest).await.unwrap(),
        Stored::Whole
    );
    assert_eq!(download(&client, &package.digest, 0).await, content);
    assert_eq!(
        download(&client, &package.digest, 2_999_990).await,
        content[2_999_990..]
    );
}

#[tokio::test]
async fn broken_upload_is_gone_on_with_even_after_a_crash() {
    let (directory, pacemaker) = fresh().await;
    let content = noise(1_000_000);
    let (file, package) = package(&content);

    let half = put(&pacemaker, &package, 0, content[..400_000].to_vec()).await;
    assert_eq!(half.status(), 202);
    assert_eq!(half.headers()["upload-offset"], "400000");
    pacemaker.crash();

    let pacemaker = Pacemaker::start(directory.path()).await;
    let client = pacemaker.node();
    assert_eq!(
        client.stored_package(&package.digest).await.unwrap(),
        Stored::Part(400_000)
    );
    let wrong = put(&pacemaker, &package, 5, content[5..].to_vec()).await;
    assert_eq!(wrong.headers()["upload-offset"], "400000");
    assert_eq!(problem(wrong).await, (409, "offset_mismatch".to_owned()));
    client
        .upload_package(&package, file.path(), &|_| ())
        .await
        .unwrap();
    assert_eq!(download(&client, &package.digest, 0).await, content);
}

#[tokio::test]
async fn file_that_has_become_shorter_is_not_taken_for_uploaded() {
    let (_directory, pacemaker) = fresh().await;
    let client = pacemaker.node();
    let (file, package) = package(&noise(100_000));
    file.as_file().set_len(60_000).unwrap();

    let error = client
        .upload_package(&package, file.path(), &|_| ())
        .await
        .unwrap_err();

    assert!(matches!(error, Error::UploadStuck { .. }), "{error}");
    assert_eq!(
        client.stored_package(&package.digest).await.unwrap(),
        Stored::Part(60_000)
    );
}

#[tokio::test]
async fn upload_that_breaks_off_keeps_what_arrived() {
    use tokio::io::AsyncWriteExt as _;

    let (_directory, pacemaker) = fresh().await;
    let content = noise(200_000);
    let (_file, package) = package(&content);

    let address = pacemaker.url.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "PUT /v1/packages/{} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nupload-offset: 0\r\nupload-length: 200000\r\ncontent-length: 200000\r\n\r\n",
        package.digest,
        crate::harness::NODE
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&content[..150_000]).await.unwrap();
    drop(stream);

    let client = pacemaker.node();
    crate::harness::eventually("what arrived is kept", async || {
        let stored = client.stored_package(&package.digest).await.unwrap();
        (stored == Stored::Part(150_000)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn wrong_bytes_and_wrong_headers_are_refused_and_leave_nothing() {
    let (directory, pacemaker) = fresh().await;
    let content = noise(100_000);
    let (_file, package) = package(&content);

    let wrong = put(&pacemaker, &package, 0, vec![0; 100_000]).await;
    assert_eq!(problem(wrong).await, (422, "digest_mismatch".to_owned()));
    let mut longer = content.clone();
    longer.push(0);
    let long = put(&pacemaker, &package, 0, longer).await;
    assert_eq!(problem(long).await, (400, "upload_too_long".to_owned()));
    let huge = PackageReference {
        digest: package.digest.clone(),
        size: pacemaker::PACKAGE_MAX_BYTES + 1,
    };
    let large = put(&pacemaker, &huge, 0, vec![0; 10]).await;
    assert_eq!(problem(large).await, (413, "package_too_large".to_owned()));
    let path = format!("/v1/packages/{}", package.digest);
    let bare = pacemaker
        .request(Method::PUT, &path)
        .body("x")
        .send()
        .await
        .unwrap();
    assert_eq!(problem(bare).await, (400, "upload_headers".to_owned()));
    let range = pacemaker
        .request(Method::GET, &path)
        .header("range", "bytes=5-");
    assert_eq!(problem(range.send().await.unwrap()).await.0, 404);

    assert_eq!(
        files(&directory.path().join("packages")),
        Vec::<PathBuf>::new()
    );
}

#[tokio::test]
async fn many_pushes_of_one_package_all_succeed() {
    let (directory, pacemaker) = fresh().await;
    let client = pacemaker.node();
    let content = noise(5_000_000);
    let (file, package) = package(&content);
    let path = file.path().to_owned();

    let mut pushers = JoinSet::new();
    for _ in 0..PUSHERS {
        let (client, package, path) = (client.clone(), package.clone(), path.clone());
        pushers.spawn(async move { client.upload_package(&package, &path, &|_| ()).await });
    }
    for result in pushers.join_all().await {
        result.unwrap();
    }

    assert_eq!(download(&client, &package.digest, 0).await, content);
    assert_eq!(files(&directory.path().join("packages")).len(), 1);
}

#[tokio::test]
async fn full_disk_refuses_a_package_whole_and_clearly() {
    let directory = tempfile::tempdir().unwrap();
    let packages = directory.path().join("packages");
    std::fs::create_dir(&packages).unwrap();
    let Some(_disk) = SmallDisk::mount(&packages, SMALL_DISK_BYTES) else {
        eprintln!("SKIPPED: a small tmpfs cannot be mounted here, so a full disk is not tested");
        return;
    };
    let pacemaker = Pacemaker::start_with(config(directory.path())).await;
    let client = pacemaker.node();
    let content = noise(PAGE_BYTES * 100);
    let (file, package) = package(&content);
    let filler = packages.join("filler");

    // Each time the disk ends one page later in the upload, at last in the flush or the rename.
    for free_pages in 0..100 {
        std::fs::write(&filler, vec![1; SMALL_DISK_BYTES + PAGE_BYTES]).unwrap_err();
        let filled = std::fs::metadata(&filler).unwrap().len();
        let keep = filled - (PAGE_BYTES * free_pages) as u64;
        std::fs::File::options()
            .write(true)
            .open(&filler)
            .unwrap()
            .set_len(keep)
            .unwrap();
        let answer = put(&pacemaker, &package, 0, content.clone()).await;
        assert_eq!(
            problem(answer).await,
            (507, "storage_full".to_owned()),
            "{free_pages}"
        );
        assert_eq!(files(&packages), [filler.as_path()], "nothing is left");
        assert_eq!(
            client.stored_package(&package.digest).await.unwrap(),
            Stored::Part(0)
        );
    }

    std::fs::remove_file(&filler).unwrap();
    client
        .upload_package(&package, file.path(), &|_| ())
        .await
        .unwrap();
    assert_eq!(
        client.stored_package(&package.digest).await.unwrap(),
        Stored::Whole
    );
}

pub(crate) async fn put(
    pacemaker: &Pacemaker,
    package: &PackageReference,
    offset: u64,
    body: Vec<u8>,
) -> reqwest::Response {
    pacemaker
        .request(Method::PUT, &format!("/v1/packages/{}", package.digest))
        .header("upload-offset", offset)
        .header("upload-length", package.size)
        .body(body)
        .send()
        .await
        .unwrap()
}

pub(crate) async fn download(client: &Client, digest: &Digest, offset: u64) -> Vec<u8> {
    let pieces: Vec<bytes::Bytes> = client
        .download_package(digest, offset)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    pieces.concat()
}

pub(crate) fn package(content: &[u8]) -> (tempfile::NamedTempFile, PackageReference) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    let package = PackageReference {
        digest: Digest::of(content),
        size: content.len() as u64,
    };
    (file, package)
}

/// Bytes that differ everywhere, the same each time.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64 ^ length as u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .collect()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(directory).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}
