//! Tests of fetching, with peers that misbehave.

use futures_util::TryStreamExt as _;
use tokio::time::timeout;

use super::*;
use crate::package_store::fake_http_peer::{FakePeer, Manner, deaf, group, nobody, put, store};

const SOON: Duration = Duration::from_secs(15);

#[tokio::test]
async fn package_comes_from_whoever_has_it_sound() {
    let (_directory, mine) = store();
    let peers = [
        FakePeer::start(Manner::Lies).await,
        FakePeer::start(Manner::BreaksOff(1)).await,
        FakePeer::start(Manner::Well).await,
        FakePeer::start(Manner::Lies).await,
    ];
    let mut package = None;
    for peer in &peers {
        package = Some(put(&peer.store).await);
    }
    let package = package.unwrap();
    let empty = FakePeer::start(Manner::Well).await;
    let mut addresses = vec![nobody().await, empty.address];
    addresses.extend(peers.iter().map(|peer| peer.address));
    let fetches = fetches(&mine, &addresses);

    assert!(timeout(SOON, fetches.fetch_one(&package)).await.unwrap());

    assert!(mine.holds(&package.digest));
    assert!(mine.is_sound(&package.digest).await);
}

#[tokio::test]
async fn those_who_want_a_package_at_once_read_it_along_from_one_fetch() {
    let (_directory, mine) = store();
    let peer = FakePeer::start(Manner::Well).await;
    let package = put(&peer.store).await;
    let fetches = fetches(&mine, &[peer.address]);

    let (begin, end) = (
        fetches.stream(&package, 0),
        fetches.stream(&package, 3_999_999),
    );
    let begin: Vec<Bytes> = timeout(SOON, begin.try_collect()).await.unwrap().unwrap();
    let end: Vec<Bytes> = timeout(SOON, end.try_collect()).await.unwrap().unwrap();

    assert_eq!(Digest::of(&begin.concat()), package.digest);
    assert_eq!(end.concat(), begin.concat()[3_999_999..]);
    assert!(mine.holds(&package.digest));
}

#[tokio::test]
async fn package_that_nobody_has_is_said_to_be_nowhere() {
    let (_directory, mine) = store();
    let empty = FakePeer::start(Manner::Well).await;
    let (_listener, deaf) = deaf().await;
    let package = put(&store().1).await;

    let nowhere = fetches(&mine, &[empty.address]).fetch(&package).await;
    assert_eq!(nowhere, Err(FetchError::Nowhere));
    let unknown = fetches(&mine, &[empty.address, deaf]).fetch(&package).await;
    assert_eq!(unknown, Err(FetchError::Unreachable));
    let elsewhere = fetches(&mine, &[empty.address, nobody().await]);
    assert!(!elsewhere.is_elsewhere(&package.digest).await);
    let stream = elsewhere.stream(&package, 0);
    let read: io::Result<Vec<Bytes>> = stream.try_collect().await;
    assert!(read.is_err());
}

fn fetches(store: &PackageStore, addresses: &[std::net::SocketAddr]) -> Fetches {
    let (peers, metrics) = (group(addresses), Metrics::new());
    Fetches::new(store.clone(), peers, metrics, CancellationToken::new())
}
