//! An upload outlasts the pacemaker that takes it.

use common::assignment::PackageReference;
use common::digest::Hasher;
use pacemaker_client::Stored;

use crate::harness::{Pacemaker, config, eventually};

/// Takes long enough to be interrupted.
const FILE_BYTES: u64 = 96 * 1024 * 1024;

#[tokio::test]
async fn an_upload_goes_on_where_a_killed_pacemaker_had_come_to() {
    let directory = tempfile::tempdir().unwrap();
    let first = Pacemaker::start(directory.path()).await;
    let mut again = config(directory.path());
    again.advertise = first.address.to_string();
    let file = directory.path().join("package");
    std::fs::File::create(&file)
        .unwrap()
        .set_len(FILE_BYTES)
        .unwrap();
    let mut hasher = Hasher::default();
    let part = vec![0; 1024 * 1024];
    (0..FILE_BYTES / part.len() as u64).for_each(|_| hasher.update(&part));
    let package = PackageReference {
        digest: hasher.finish(),
        size: FILE_BYTES,
    };
    let (client, other) = (first.administrator(), first.administrator());

    let (sent, path) = (package.clone(), file.clone());
    let uploading = tokio::spawn(async move { client.upload_package(&sent, &path, &|_| ()).await });
    eventually("some of it has arrived", async || {
        match other.stored_package(&package.digest).await.ok()? {
            Stored::Part(0) => None,
            Stored::Part(_) | Stored::Whole => Some(()),
        }
    })
    .await;
    first.crash();
    let _second = Pacemaker::start_with(again).await;

    uploading.await.unwrap().unwrap();
    let stored = other.stored_package(&package.digest).await.unwrap();
    assert_eq!(stored, Stored::Whole);
}
