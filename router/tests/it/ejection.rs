//! Backends that refuse: passed over, asked again in the background, never all of them.

use crate::harness::backend::Application;
use crate::harness::{World, eventually, route};

#[tokio::test]
async fn a_backend_that_refuses_is_ejected_and_comes_back() {
    let first = Application::start("first").await;
    let second = Application::start("second").await;
    let world = World::start_with(|config| config.workers = 1).await;
    world
        .publish(&[(
            "one.test",
            route(&[(1, first.address), (2, second.address)]),
        )])
        .await;
    let second = second.stop().await;

    for _ in 0..50 {
        assert_eq!(world.text("one.test").await, "first");
    }
    assert_eq!(world.metric("pm_router_ejections_total"), 1.0);
    assert!(world.metric("pm_router_retries_total") >= 1.0);
    let opened = world.metric("pm_router_backend_connections_total");
    for _ in 0..50 {
        assert_eq!(world.text("one.test").await, "first");
    }
    assert!(
        world.metric("pm_router_backend_connections_total") - opened < 5.0,
        "the ejected backend is still asked"
    );

    let second = second.revive("second").await;
    eventually("it is admitted again", || {
        world.metric("pm_router_readmissions_total") == 1.0
    })
    .await;
    while second.requests() == 0 {
        assert_eq!(world.get("one.test", "/").await.status(), 200);
    }
}

#[tokio::test]
async fn when_all_are_ejected_all_are_tried() {
    let first = Application::start("first").await;
    let second = Application::start("second").await;
    let world = World::start_with(|config| config.workers = 1).await;
    world
        .publish(&[(
            "one.test",
            route(&[(1, first.address), (2, second.address)]),
        )])
        .await;
    let (first, second) = (first.stop().await, second.stop().await);
    while world.metric("pm_router_ejections_total") < 2.0 {
        assert_eq!(world.get("one.test", "/").await.status(), 502);
    }

    let revived = first.revive("first").await;
    assert_eq!(
        world.text("one.test").await,
        "first",
        "without waiting for a probe"
    );
    drop(revived);
    let _second = second;
}
