//! Packages of several pacemakers: on a majority before they are known, and on all soon after.

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::api::MemberPart;
use common::assignment::PackageReference;
use common::digest::Digest;
use futures_util::TryStreamExt as _;
use pacemaker_client::{Client, Stored};
use tokio::time::Instant;

use crate::group::Group;
use crate::harness::{eventually, problem};
use crate::packages::{download, noise, package, put};
use crate::small_disk::SmallDisk;

/// Enough for several pieces, little enough for a quick test.
const SIZE: usize = 3_000_000;

#[tokio::test]
async fn package_is_on_a_majority_when_its_upload_is_answered_and_on_all_soon() {
    let group = Group::of(3).await;
    for member in 1..=3 {
        let (file, package) = package(&noise(SIZE + usize::try_from(member).unwrap()));
        let client = group.running[&member].node();

        client
            .upload_package(&package, file.path(), &|_| ())
            .await
            .unwrap();

        let holders = (1..=3).filter(|holder| is_held(&group, *holder, &package.digest));
        assert!(holders.count() >= 2, "the upload is answered");
        for holder in 1..=3 {
            complete(&group, holder, &package.digest).await;
        }
    }
}

#[tokio::test]
async fn dead_pacemaker_delays_no_upload_and_has_it_when_it_is_back() {
    let mut group = Group::of(3).await;
    let dead = other_than(group.leader().await);
    group.crash(dead);
    let (file, package) = package(&noise(SIZE));
    let client = node(&group);

    let begun = Instant::now();
    client
        .upload_package(&package, file.path(), &|_| ())
        .await
        .unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );

    group.start(dead).await;
    complete(&group, dead, &package.digest).await;
    assert_eq!(read(&group, dead, &package).await, noise(SIZE));
}

#[tokio::test]
async fn upload_without_a_majority_is_refused_and_nothing_is_sent_twice_later() {
    let mut group = Group::of(3).await;
    group.leader().await;
    group.crash(2);
    group.crash(3);
    let content = noise(SIZE);
    let (file, package) = package(&content);

    let answer = put(&group.running[&1], &package, 0, content).await;

    let arrived = answer.headers()["upload-offset"].clone();
    assert_eq!(arrived, package.size.to_string());
    let refusal = problem(answer).await;
    assert_eq!(refusal, (503, "package_not_replicated".to_owned()));
    let client = group.running[&1].node();
    let stored = client.stored_package(&package.digest).await.unwrap();
    assert_eq!(
        stored,
        Stored::Part(package.size),
        "whole, and not committed"
    );

    group.start(2).await;
    group.start(3).await;
    group.running[&2].ready().await;
    group.running[&3].ready().await;
    let sent_from = std::sync::Mutex::new(Vec::new());
    let progress = |bytes| sent_from.lock().unwrap().push(bytes);
    client
        .upload_package(&package, file.path(), &progress)
        .await
        .unwrap();
    assert_eq!(sent_from.lock().unwrap()[0], package.size);
    for member in 1..=3 {
        complete(&group, member, &package.digest).await;
    }
}

#[tokio::test]
async fn emptied_pacemaker_streams_what_it_lacks_and_becomes_complete() {
    let mut group = Group::of(3).await;
    let emptied = other_than(group.leader().await);
    let mut packages = Vec::new();
    for number in 0..5 {
        let content = noise(SIZE + number);
        let (file, package) = package(&content);
        let client = node(&group);
        client
            .upload_package(&package, file.path(), &|_| ())
            .await
            .unwrap();
        packages.push((package, content));
    }
    group.crash(emptied);
    std::fs::remove_dir_all(store(&group, emptied)).unwrap();

    group.start(emptied).await;
    group.running[&emptied].ready().await;
    let client = group.running[&emptied].node();
    let mut readers = tokio::task::JoinSet::new();
    for (package, content) in packages.clone() {
        let client = client.clone();
        readers.spawn(async move {
            assert_eq!(download(&client, &package.digest, 0).await, content);
            assert_eq!(
                download(&client, &package.digest, 100).await,
                content[100..]
            );
            client.stored_package(&package.digest).await.unwrap()
        });
    }
    for stored in readers.join_all().await {
        assert_eq!(stored, Stored::Whole);
    }
    for (package, _) in &packages {
        complete(&group, emptied, &package.digest).await;
    }
}

#[tokio::test]
async fn new_pacemakers_get_every_package() {
    let mut group = Group::found().await;
    let mut digests = Vec::new();
    for number in 0..20 {
        let (file, package) = package(&noise(100_000 + number));
        let client = node(&group);
        client
            .upload_package(&package, file.path(), &|_| ())
            .await
            .unwrap();
        digests.push(package.digest);
    }

    group.join(2).await;
    group.join(3).await;

    for member in [2, 3] {
        for digest in &digests {
            complete(&group, member, digest).await;
        }
    }
}

#[tokio::test]
async fn learner_that_lacks_packages_has_no_vote() {
    let mut group = Group::found().await;
    let (file, package) = package(&noise(SIZE));
    node(&group)
        .upload_package(&package, file.path(), &|_| ())
        .await
        .unwrap();
    std::fs::create_dir_all(store(&group, 2)).unwrap();
    let Some(disk) = SmallDisk::mount(&store(&group, 2), SIZE / 2) else {
        eprintln!("SKIPPED: a small tmpfs cannot be mounted here, so no learner lacks anything");
        return;
    };

    group.join(2).await;
    group.join(3).await;
    complete(&group, 3, &package.digest).await;
    let client = group.client();
    eventually("both have caught up with the log", async || {
        let status = client.cluster_status().await.ok()?;
        let others = status.members.iter().filter(|member| !member.is_leader);
        let has_all = others.filter(|member| member.lag == Some(0)).count() == 2;
        has_all.then_some(())
    })
    .await;
    let status = client.cluster_status().await.unwrap();
    let voters = status
        .members
        .iter()
        .filter(|member| member.part == MemberPart::Voter);
    assert_eq!(voters.count(), 1, "an even number of voters is not wanted");

    disk.resize(SIZE * 2);
    group.voters(3).await;
    assert!(is_held(&group, 2, &package.digest));
}

#[tokio::test]
async fn damaged_package_is_never_sent_in_full_and_is_fetched_again() {
    let mut group = Group::of(3).await;
    let content = noise(SIZE);
    let (file, package) = package(&content);
    node(&group)
        .upload_package(&package, file.path(), &|_| ())
        .await
        .unwrap();
    complete(&group, 2, &package.digest).await;
    complete(&group, 3, &package.digest).await;

    // Found when it is read.
    flip_a_bit(&path(&group, 2, &package.digest));
    let client = group.running[&2].node();
    let pieces = client.download_package(&package.digest, 0).await.unwrap();
    let read: Result<Vec<bytes::Bytes>, _> = pieces.try_collect().await;
    assert!(read.is_err(), "the damage is in the last piece");
    assert_eq!(read_well(&client, &package.digest).await, content);
    sound(&group, 2, &package.digest).await;

    // Found by the scrub, though nobody reads it.
    group.crash(3);
    flip_a_bit(&path(&group, 3, &package.digest));
    group.start(3).await;
    sound(&group, 3, &package.digest).await;
}

fn node(group: &Group) -> Client {
    let (_, first) = group.running.first_key_value().unwrap();
    first.node()
}

fn other_than(leader: u64) -> u64 {
    leader % 3 + 1
}

fn store(group: &Group, member: u64) -> PathBuf {
    group.data(member).join("packages")
}

fn path(group: &Group, member: u64, digest: &Digest) -> PathBuf {
    let (shard, _) = digest.as_str().split_at(2);
    store(group, member).join(shard).join(digest.as_str())
}

fn is_held(group: &Group, member: u64, digest: &Digest) -> bool {
    path(group, member, digest).exists()
}

async fn complete(group: &Group, member: u64, digest: &Digest) {
    eventually("the pacemaker has the package", async || {
        is_held(group, member, digest).then_some(())
    })
    .await;
}

async fn sound(group: &Group, member: u64, digest: &Digest) {
    let path = path(group, member, digest);
    eventually("the package on the disk is sound", async || {
        let bytes = std::fs::read(&path).ok()?;
        (Digest::of(&bytes) == *digest).then_some(())
    })
    .await;
}

async fn read(group: &Group, member: u64, package: &PackageReference) -> Vec<u8> {
    group.running[&member].ready().await;
    read_well(&group.running[&member].node(), &package.digest).await
}

async fn read_well(client: &Client, digest: &Digest) -> Vec<u8> {
    eventually("the package can be read", async || {
        let pieces = client.download_package(digest, 0).await.ok()?;
        let pieces: Vec<bytes::Bytes> = pieces.try_collect().await.ok()?;
        Some(pieces.concat())
    })
    .await
}

/// In the last byte, which comes when everything before it has been sent.
fn flip_a_bit(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, bytes).unwrap();
}
