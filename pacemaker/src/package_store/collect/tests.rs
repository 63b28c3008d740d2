//! Tests of the collector, with hours that pass at once.

use std::collections::BTreeMap;
use std::convert::Infallible;

use bytes::Bytes;
use common::assignment::PackageReference;
use futures_util::stream;
use pacemaker_core::command::ClusterSettings;
use tempfile::TempDir;

use super::*;
use crate::metrics::Metrics;
use crate::peer::{Credentials, Peers, Place};
use crate::raft;

#[tokio::test]
async fn file_that_the_state_does_not_know_goes_after_its_grace_and_not_while_it_is_used() {
    let (_directory, mut collector) = collector().await;
    let (absent, uploading) = (
        put(&collector, b"absent").await,
        put(&collector, b"up").await,
    );
    let known = put(&collector, b"known").await;
    commit(&collector, &known).await;
    let upload = collector.store.keep(&uploading.digest);
    let (begin, time) = (Instant::now(), SystemTime::now());
    let later = |grace: Duration| (begin + grace, time + grace);

    collector.remove(begin, time).await;
    let (now, then) = later(ABSENT_GRACE - Duration::from_secs(60));
    collector.remove(now, then).await;
    assert!(collector.store.holds(&absent.digest), "within its grace");

    let (now, then) = later(ABSENT_GRACE * 2);
    collector.remove(now, then).await;
    assert!(!collector.store.holds(&absent.digest));
    assert!(
        collector.store.holds(&uploading.digest),
        "an upload is under way"
    );
    assert!(collector.store.holds(&known.digest));

    drop(upload);
    collector.remove(now, then).await;
    assert!(!collector.store.holds(&uploading.digest));
}

#[tokio::test]
async fn file_is_as_young_as_this_process_knows_it_to_be_needless() {
    let (_directory, mut collector) = collector().await;
    let package = put(&collector, b"forgotten a moment ago").await;
    let old = SystemTime::now() + ABSENT_GRACE * 10;

    collector.remove(Instant::now(), old).await;

    assert!(collector.store.holds(&package.digest));
}

#[tokio::test]
async fn leader_proposes_only_what_it_has_seen_needless_for_long_enough() {
    let (_directory, mut collector) = collector().await;
    let package = put(&collector, b"needless").await;
    commit(&collector, &package).await;
    let begin = Instant::now();

    collector.forget(begin).await;
    collector.forget(begin + PACKAGE_GRACE.duration() * 2).await;

    // For the log it was committed a moment ago.
    let is_known = collector
        .replica
        .read(|state| state.has_package(&package.digest));
    assert!(is_known);
    assert!(collector.needless.0.is_empty());
}

#[test]
fn what_is_so_again_is_so_from_then_on() {
    let mut since = Since::default();
    let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
    let both = BTreeSet::from([one.clone(), other]);
    let begin = Instant::now();
    let at = |seconds| begin + Duration::from_secs(seconds);
    let grace = Duration::from_secs(10);

    assert!(since.note(&both, at(0), grace).is_empty());
    assert!(
        since
            .note(&BTreeSet::from([one.clone()]), at(5), grace)
            .is_empty()
    );
    assert_eq!(since.note(&both, at(10), grace), BTreeSet::from([one]));
    assert_eq!(since.note(&both, at(20), grace), both);
}

async fn collector() -> (TempDir, Collector) {
    let directory = tempfile::tempdir().unwrap();
    let replica = Arc::new(Replica::default());
    let (peers, _) = Peers::new(Credentials {
        member: 1,
        incarnation: "first".to_owned(),
        cluster: None,
        tls: None,
        node_token: "token".to_owned(),
        replica: Arc::clone(&replica),
    });
    let founder = Some(Place {
        address: "one:1".to_owned(),
        incarnation: "first".to_owned(),
    });
    let path = directory.path();
    let proposer = raft::start(path, founder, peers, Arc::clone(&replica), Metrics::new())
        .await
        .unwrap();
    let command = Command::InitializeCluster {
        id: "cluster".to_owned(),
        hostname: "localhost".to_owned(),
        tokens: BTreeMap::new(),
        settings: ClusterSettings::default(),
        join_tokens: Vec::new(),
        founder: None,
    };
    proposer.propose(command).await.unwrap().unwrap();
    let store = PackageStore::open(path.join("packages")).unwrap();
    (directory, Collector::new(store, replica, proposer))
}

async fn put(collector: &Collector, content: &'static [u8]) -> PackageReference {
    let package = PackageReference {
        digest: Digest::of(content),
        size: content.len() as u64,
    };
    let body = stream::iter([Ok::<_, Infallible>(Bytes::from_static(content))]);
    let store = &collector.store;
    store
        .receive(&package.digest, 0, package.size, body)
        .await
        .unwrap();
    package
}

async fn commit(collector: &Collector, package: &PackageReference) {
    let package = package.clone();
    let proposer = &collector.proposer;
    proposer
        .propose(Command::CommitPackage { package })
        .await
        .unwrap()
        .unwrap();
}
