//! Several pacemakers, and pacemakers of another cluster.

use std::time::{Duration, Instant};

use common::id::Generation;
use common::routing_table::RoutingTable;
use pacemaker_client::Client;
use tokio_util::sync::CancellationToken;

use crate::harness::backend::Application;
use crate::harness::pacemaker::Pacemaker;
use crate::harness::wire::Wire;
use crate::harness::{World, config, eventually, in_time, route, table};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pacemaker_that_hangs_delays_a_table_by_a_moment() {
    let application = Application::start("one").await;
    let pacemaker = Pacemaker::start().await;
    let others = [pacemaker.another().await, pacemaker.another().await];
    let endpoints = [&pacemaker, &others[0], &others[1]].map(Pacemaker::endpoint);
    let directory = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let mut config = config(&directory, &endpoints[0]);
    config.client = Client::new(&endpoints, "token").unwrap();
    let router = router::start(config, shutdown.clone()).await.unwrap();
    let world = World {
        pacemaker,
        router,
        shutdown,
        directory,
    };
    let routes = [("one.test", route(&[(1, application.address)]))];
    world.publish(&routes).await;

    // The watch waits for the one that begins to hang; a watch takes half a minute.
    let begun = Instant::now();
    world.pacemaker.hang(true);
    world.publish(&routes).await;
    assert!(begun.elapsed() < Duration::from_secs(15));

    world.pacemaker.hang(false);
    for other in &others {
        other.hang(true);
    }
    world.publish(&routes).await;
    assert_eq!(world.text("one.test").await, "one");
}

#[tokio::test]
async fn another_clusters_table_is_refused_whatever_its_generation() {
    let ours = Application::start("ours").await;
    let theirs = Application::start("theirs").await;
    let world = World::start().await;
    let of = |cluster: &str, generation, application: &Application| RoutingTable {
        cluster: cluster.to_owned(),
        ..table(
            Generation(generation),
            &[("one.test", route(&[(1, application.address)]))],
        )
    };
    world.pacemaker.publish_table(of("a", 1, &ours));
    world.applied(Generation(1)).await;
    eventually("the report says whose the router is", || {
        world.pacemaker.reported_cluster() == "a"
    })
    .await;

    let before = world.pacemaker.tables_given();
    world.pacemaker.publish_table(of("b", 99, &theirs));
    eventually("it is given more than once", || {
        world.pacemaker.tables_given() > before + 2
    })
    .await;
    assert_eq!(world.text("one.test").await, "ours");

    world.pacemaker.publish_table(of("a", 2, &theirs));
    world.applied(Generation(2)).await;
    assert_eq!(world.text("one.test").await, "theirs");
}

#[tokio::test]
async fn a_kept_table_of_another_cluster_is_not_served() {
    let application = Application::start("one").await;
    let world = World::start().await;
    world.pacemaker.publish_table(RoutingTable {
        cluster: "a".to_owned(),
        ..table(
            Generation(7),
            &[("one.test", route(&[(1, application.address)]))],
        )
    });
    world.applied(Generation(7)).await;
    let directory = world.stop().await;

    for (cluster, status) in [("a", 200), ("b", 404), ("", 200)] {
        let shutdown = CancellationToken::new();
        let mut config = config(&directory, "http://127.0.0.1:9");
        config.cluster = cluster.to_owned();
        let router = router::start(config, shutdown.clone()).await.unwrap();
        let mut wire = Wire::connect(router.address).await;
        wire.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;

        assert_eq!(
            wire.read_answer().await.unwrap().status,
            status,
            "`{cluster}`"
        );

        shutdown.cancel();
        drop(wire);
        in_time("the router ends", router.finished)
            .await
            .unwrap()
            .unwrap();
    }
}
