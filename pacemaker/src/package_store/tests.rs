//! Tests of the package store without HTTP.

use std::convert::Infallible;

use futures_util::stream;
use tempfile::TempDir;

use super::*;

#[tokio::test]
async fn upload_in_parts_becomes_one_package() {
    let (directory, store) = store();
    let digest = Digest::of(b"hello, world");

    assert_eq!(
        put(&store, &digest, 0, 12, &[b"hel", b"lo"]).await.unwrap(),
        Received::Part(5)
    );
    assert_eq!(store.partial_size(&digest).await.unwrap(), 5);
    let wrong = put(&store, &digest, 3, 12, &[b"lo, world"])
        .await
        .unwrap_err();
    assert!(matches!(wrong, ReceiveError::Offset(5)));
    assert_eq!(
        put(&store, &digest, 5, 12, &[b", world"]).await.unwrap(),
        Received::Whole
    );

    store.make_durable(&digest).await.unwrap();
    assert_eq!(store.size(&digest).await.unwrap(), Some(12));
    assert_eq!(
        put(&store, &digest, 0, 12, &[b"hello, world"])
            .await
            .unwrap(),
        Received::Already
    );
    assert_eq!(names(&directory, "partial"), Vec::<String>::new());
    assert!(store.busy().len() <= 1);
}

#[tokio::test]
async fn bytes_that_are_not_the_package_leave_nothing() {
    let (directory, store) = store();
    let digest = Digest::of(b"right");

    let error = put(&store, &digest, 0, 5, &[b"wrong"]).await.unwrap_err();
    assert!(matches!(error, ReceiveError::Mismatch { .. }));
    let error = put(&store, &digest, 0, 5, &[b"right", b"!"])
        .await
        .unwrap_err();
    assert!(matches!(error, ReceiveError::TooLong(5)));

    assert_eq!(store.size(&digest).await.unwrap(), None);
    assert_eq!(names(&directory, "partial"), Vec::<String>::new());
}

#[tokio::test]
async fn broken_upload_keeps_what_arrived() {
    let (_directory, store) = store();
    let digest = Digest::of(b"abcdef");

    let body = stream::iter([Ok(Bytes::from_static(b"abc")), Err("reset by peer")]);
    let error = store.receive(&digest, 0, 6, body).await.unwrap_err();

    assert!(matches!(error, ReceiveError::BrokenOff { length: 3 }));
    assert_eq!(
        put(&store, &digest, 3, 6, &[b"def"]).await.unwrap(),
        Received::Whole
    );
}

#[tokio::test]
async fn upload_that_was_given_up_is_removed_at_the_next_start() {
    let (directory, store) = store();
    let (old, young) = (Digest::of(b"old"), Digest::of(b"young"));
    put(&store, &old, 0, 3, &[b"o"]).await.unwrap();
    put(&store, &young, 0, 5, &[b"y"]).await.unwrap();
    let age = SystemTime::now() - PARTIAL_MAX_AGE - Duration::from_secs(60);
    fs::File::options()
        .write(true)
        .open(store.partial(&old))
        .unwrap()
        .set_modified(age)
        .unwrap();

    PackageStore::open(directory.path().to_owned()).unwrap();

    assert_eq!(names(&directory, "partial"), [young.to_string()]);
}

fn store() -> (TempDir, PackageStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = PackageStore::open(directory.path().to_owned()).unwrap();
    (directory, store)
}

async fn put(
    store: &PackageStore,
    digest: &Digest,
    offset: u64,
    total: u64,
    pieces: &[&'static [u8]],
) -> Result<Received, ReceiveError> {
    let pieces: Vec<Result<Bytes, Infallible>> = pieces
        .iter()
        .map(|piece| Ok(Bytes::from_static(piece)))
        .collect();
    store
        .receive(digest, offset, total, stream::iter(pieces))
        .await
}

fn names(directory: &TempDir, inner: &str) -> Vec<String> {
    fs::read_dir(directory.path().join(inner))
        .unwrap()
        .map(|item| item.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}
