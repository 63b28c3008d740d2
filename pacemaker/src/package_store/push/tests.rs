//! Tests of pushing, with peers that misbehave.

use tokio::time::timeout;

use super::*;
use crate::package_store::fake_http_peer::{FakePeer, Manner, deaf, group, nobody, put, store};

/// Less than a peer is waited for that takes nothing.
const SOON: Duration = Duration::from_secs(15);

#[tokio::test]
async fn majority_is_enough_whatever_the_others_do() {
    let (_directory, store) = store();
    let package = put(&store).await;
    let one = FakePeer::start(Manner::Well).await;
    let other = FakePeer::start(Manner::BreaksOff(1)).await;
    let (_listener, deaf) = deaf().await;
    let voters = [deaf, one.address, nobody().await, other.address];
    let pushes = Pushes::new(store, group(&voters));

    let pushed = timeout(SOON, pushes.to_majority(&package)).await;

    pushed.expect("the deaf one is not waited for").unwrap();
    for peer in [one, other] {
        assert_eq!(
            peer.store.size(&package.digest).await.unwrap(),
            Some(package.size)
        );
    }
}

#[tokio::test]
async fn peer_that_breaks_off_is_sent_the_rest() {
    let (_directory, store) = store();
    let package = put(&store).await;
    // Each time half of what is left arrives, so it never counts as stuck.
    let peer = FakePeer::start(Manner::BreaksOff(3 + ATTEMPTS)).await;
    let pushes = Pushes::new(store, group(&[peer.address]));

    timeout(SOON, pushes.to_majority(&package))
        .await
        .unwrap()
        .unwrap();

    assert!(peer.store.holds(&package.digest));
}

#[tokio::test]
async fn without_a_majority_it_says_how_many_there_are() {
    let (_directory, store) = store();
    let package = put(&store).await;
    let one = FakePeer::start(Manner::Well).await;
    let full = FakePeer::start(Manner::Full).await;
    let voters = [one.address, full.address, nobody().await, nobody().await];
    let pushes = Pushes::new(store.clone(), group(&voters));

    let pushed = timeout(SOON, pushes.to_majority(&package)).await.unwrap();

    let error = pushed.unwrap_err();
    assert!(
        matches!(
            error,
            PushError::NoMajority {
                stored: 2,
                voters: 5
            }
        ),
        "{error}"
    );
    assert!(store.holds(&package.digest), "it can be tried again");
}

#[tokio::test]
async fn damaged_package_is_not_pushed_and_goes() {
    let (directory, store) = store();
    let package = put(&store).await;
    let (shard, _) = package.digest.as_str().split_at(2);
    let path = directory.path().join(shard).join(package.digest.as_str());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let peer = FakePeer::start(Manner::Well).await;
    let pushes = Pushes::new(store.clone(), group(&[peer.address]));

    let error = timeout(SOON, pushes.to_majority(&package))
        .await
        .unwrap()
        .unwrap_err();

    assert!(matches!(error, PushError::Damaged), "{error}");
    assert!(!store.holds(&package.digest));
    assert!(!peer.store.holds(&package.digest));
}
