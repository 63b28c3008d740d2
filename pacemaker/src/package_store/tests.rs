//! Tests of the package store without HTTP.

use std::convert::Infallible;

use common::assignment::PackageReference;
use futures_util::{TryStreamExt as _, stream};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::fetch::FetchError;
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
    assert!(store.holds(&digest));
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

#[tokio::test]
async fn damaged_package_is_never_read_to_its_end_and_goes() {
    let (_directory, store) = store();
    let content = vec![7; 3 * READ_BYTES];
    let digest = Digest::of(&content);
    let size = content.len() as u64;
    for (at, is_read) in [(0, true), (size - 1, true), (READ_BYTES as u64, false)] {
        let body = stream::iter([Ok::<_, Infallible>(Bytes::from(content.clone()))]);
        store.receive(&digest, 0, size, body).await.unwrap();
        flip_a_bit(&store.whole(&digest), at);
        let losses = store.losses();

        if is_read {
            let bytes = store.read(&digest, size, 0).await.unwrap().unwrap();
            let read: Vec<io::Result<Bytes>> = bytes.collect().await;
            let (last, before) = read.split_last().unwrap();
            assert_eq!(
                last.as_ref().unwrap_err().kind(),
                io::ErrorKind::InvalidData
            );
            assert!(before.len() < 3, "the last piece is held back");
        } else {
            assert!(!store.is_sound(&digest).await);
        }

        assert!(losses.has_changed().unwrap());
        assert!(!store.holds(&digest));
        assert_eq!(store.size(&digest).await.unwrap(), None);
    }
}

#[tokio::test]
async fn package_that_was_cut_short_is_not_read() {
    let (_directory, store) = store();
    let digest = Digest::of(b"hello, world");
    put(&store, &digest, 0, 12, &[b"hello, world"])
        .await
        .unwrap();
    let file = fs::File::options()
        .write(true)
        .open(store.whole(&digest))
        .unwrap();
    file.set_len(5).unwrap();

    assert!(store.read(&digest, 12, 0).await.unwrap().is_none());
    assert!(!store.holds(&digest));
}

#[tokio::test]
async fn package_is_read_while_it_arrives_but_for_its_last_byte() {
    let (directory, store) = store();
    let package = package(b"hello, world");
    let (ended, outcome) = watch::channel(None);
    let mut reading = store.read_along(&package, 2, outcome);
    let (pieces, body) = mpsc::channel::<Result<Bytes, Infallible>>(1);
    let writing = tokio::spawn({
        let (store, digest) = (store.clone(), package.digest.clone());
        let body = stream::unfold(body, async |mut body| Some((body.recv().await?, body)));
        async move { store.receive(&digest, 0, 12, Box::pin(body)).await }
    });

    pieces.send(Ok(Bytes::from("hello"))).await.unwrap();
    assert_eq!(reading.try_next().await.unwrap().unwrap(), "llo");
    pieces.send(Ok(Bytes::from(", world"))).await.unwrap();
    assert_eq!(reading.try_next().await.unwrap().unwrap(), ", worl");
    drop(pieces);
    assert_eq!(writing.await.unwrap().unwrap(), Received::Whole);
    ended.send_replace(Some(Ok(())));

    let rest: Vec<Bytes> = reading.try_collect().await.unwrap();
    assert_eq!(rest.concat(), b"d");
    assert_eq!(names(&directory, PARTIAL), Vec::<String>::new());
}

#[tokio::test]
async fn reader_of_a_package_that_does_not_arrive_hears_why() {
    let (_directory, store) = store();
    let package = package(b"hello, world");
    let (ended, outcome) = watch::channel(None);
    let reading = store.read_along(&package, 0, outcome);
    put(&store, &package.digest, 0, 12, &[b"hello, dad??"])
        .await
        .unwrap_err();
    ended.send_replace(Some(Err(FetchError::Nowhere)));

    let read: io::Result<Vec<Bytes>> = reading.try_collect().await;

    assert!(read.is_err(), "{read:?}");
}

#[tokio::test]
async fn package_that_someone_counts_on_is_not_removed() {
    let (directory, store) = store();
    let digest = Digest::of(b"abc");
    put(&store, &digest, 0, 3, &[b"abc"]).await.unwrap();

    let kept = store.keep(&digest);
    assert!(!store.remove_unused(&digest).unwrap());
    assert_eq!(store.size(&digest).await.unwrap(), Some(3));
    drop(kept);
    assert!(store.remove_unused(&digest).unwrap());

    assert_eq!(store.size(&digest).await.unwrap(), None);
    assert_eq!(names(&directory, PARTIAL), Vec::<String>::new());
}

#[tokio::test]
async fn package_that_someone_took_from_the_disk_is_missed() {
    let (directory, store) = store();
    let (gone, there) = (Digest::of(b"gone"), Digest::of(b"there"));
    put(&store, &gone, 0, 4, &[b"gone"]).await.unwrap();
    put(&store, &there, 0, 5, &[b"there"]).await.unwrap();
    fs::remove_file(store.whole(&gone)).unwrap();
    let losses = store.losses();

    store.look().unwrap();

    assert!(losses.has_changed().unwrap());
    assert_eq!(store.held_packages(), BTreeSet::from([there.clone()]));
    let again = PackageStore::open(directory.path().to_owned()).unwrap();
    assert_eq!(again.held_packages(), BTreeSet::from([there]));
}

fn flip_a_bit(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt as _;

    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn package(content: &[u8]) -> PackageReference {
    PackageReference {
        digest: Digest::of(content),
        size: content.len() as u64,
    }
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
