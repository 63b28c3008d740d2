//! Tables that change, and what the cluster hears of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::id::Generation;
use tokio_util::sync::CancellationToken;

use crate::harness::backend::{Application, Script};
use crate::harness::wire::Wire;
use crate::harness::{World, config, eventually, in_time, route, table};

/// Clients that ask without a pause while tables change.
const CLIENTS: usize = 16;
const REQUESTS_AT_LEAST: usize = 5_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_swapped_under_load_lose_no_request() {
    let blue = Application::start("blue").await;
    let green = Application::start("green").await;
    let world = World::start().await;
    let routes = [
        route(&[(1, blue.address)]),
        route(&[(1, blue.address), (2, green.address)]),
        route(&[(2, green.address)]),
    ];
    world.publish(&[("one.test", routes[0].clone())]).await;
    let done = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));

    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (done, stop, address) = (Arc::clone(&done), Arc::clone(&stop), world.address());
            tokio::spawn(async move {
                let mut wire = Wire::connect(address).await;
                while !stop.load(Ordering::SeqCst) {
                    let request = match number % 2 {
                        0 => "GET / HTTP/1.1\r\nhost: one.test\r\n\r\n",
                        _ => "POST / HTTP/1.1\r\nhost: one.test\r\ncontent-length: 1\r\n\r\nx",
                    };
                    wire.send(request).await;
                    let answer = wire.read_answer().await.expect("an answer");
                    assert_eq!(answer.status, 200, "{}", answer.head);
                    assert!(answer.body == b"blue" || answer.body == b"green");
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut swaps = 0;
    while done.load(Ordering::SeqCst) < REQUESTS_AT_LEAST || swaps < 50 {
        swaps += 1;
        world
            .publish(&[("one.test", routes[[1, 2, 1, 0][swaps % 4]].clone())])
            .await;
    }
    stop.store(true, Ordering::SeqCst);

    for client in clients {
        in_time("the client ends", client).await.unwrap();
    }
}

#[tokio::test]
async fn a_removed_router_routes_nothing_any_more_and_neither_does_its_next_start() {
    let application = Application::start("one").await;
    let world = World::start().await;
    let routes = [("one.test", route(&[(1, application.address)]))];
    world.publish(&routes).await;
    // One answer alone ends nothing.
    world.pacemaker.remove_node(true);
    world.pacemaker.remove_node(false);
    world.publish(&routes).await;
    assert_eq!(world.text("one.test").await, "one");

    world.pacemaker.remove_node(true);

    let code = async |path| {
        let answer = world.get("one.test", path).await;
        let code = answer.headers().get("x-pm-router-error");
        (
            answer.status().as_u16(),
            code.map(|code| code.to_str().unwrap().to_owned()),
        )
    };
    in_time("the router believes it", async {
        while code("/").await.0 == 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let removed = Some("node_removed".to_owned());
    assert_eq!(code("/").await, (503, removed));
    assert_eq!(code("/healthz").await, (503, None));
    let directory = world.stop().await;
    let nobody = "http://127.0.0.1:1";
    let shutdown = CancellationToken::new();
    let router = router::start(config(&directory, nobody), shutdown.clone())
        .await
        .unwrap();
    let mut wire = Wire::connect(router.address).await;
    wire.send("GET /healthz HTTP/1.1\r\nhost: one.test\r\n\r\n")
        .await;
    assert_eq!(wire.read_answer().await.unwrap().status, 503);
    shutdown.cancel();
}

#[tokio::test]
async fn a_restarted_router_serves_its_last_table_without_a_pacemaker() {
    let application = Application::start("one").await;
    let world = World::start().await;
    let generation = world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;
    let kept = world.directory.path().join("router/routes.json");
    eventually("the table is on disk", || {
        std::fs::read_to_string(&kept)
            .is_ok_and(|text| text.contains(&format!("\"generation\":{generation}")))
    })
    .await;
    let directory = world.stop().await;
    // The last word of a pacemaker is an hour old.
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    for name in ["routes.json", "routes.new.json"] {
        let file = std::fs::File::options()
            .write(true)
            .open(directory.path().join("router").join(name));
        file.unwrap().set_modified(hour_ago).unwrap();
    }

    let shutdown = CancellationToken::new();
    let router = router::start(config(&directory, "http://127.0.0.1:9"), shutdown.clone())
        .await
        .unwrap();
    let metrics = (router.metrics)();
    let age: f64 = metrics
        .lines()
        .find_map(|line| {
            line.strip_prefix("pm_router_table_age_seconds ")?
                .parse()
                .ok()
        })
        .unwrap();
    assert!((3600.0..3700.0).contains(&age), "{age}");
    assert!(
        metrics.contains("pm_router_pacemaker_contact 0"),
        "{metrics}"
    );
    let mut wire = Wire::connect(router.address).await;
    wire.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
    assert_eq!(wire.read_answer().await.unwrap().body, b"one");

    shutdown.cancel();
    in_time("the router ends", router.finished)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_damaged_table_on_disk_is_no_table() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("router")).unwrap();
    std::fs::write(directory.path().join("router/routes.json"), "{\"form").unwrap();
    let shutdown = CancellationToken::new();
    let router = router::start(config(&directory, "http://127.0.0.1:9"), shutdown)
        .await
        .unwrap();

    let mut wire = Wire::connect(router.address).await;
    wire.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
    assert_eq!(wire.read_answer().await.unwrap().status, 404);
}

#[tokio::test]
async fn a_removed_instance_is_reported_until_its_last_request_ends() {
    let old = Application::start("old").await;
    let new = Application::start("new").await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(7, old.address)]))])
        .await;
    let mut wire = Wire::connect(world.address()).await;
    wire.send("GET /wait HTTP/1.1\r\nhost: one.test\r\n\r\n")
        .await;
    eventually("the request arrives", || old.requests() == 1).await;

    let generation = world
        .publish(&[("one.test", route(&[(8, new.address)]))])
        .await;
    assert_eq!(world.pacemaker.in_flight(7), Some(1));
    assert_eq!(world.text("one.test").await, "new");
    assert_eq!(world.pacemaker.in_flight(7), Some(1));
    old.open();

    assert_eq!(wire.read_answer().await.unwrap().body, b"old");
    eventually("its end is reported", || {
        world.pacemaker.in_flight(7) == Some(0)
    })
    .await;
    let reports = world.pacemaker.reports();
    assert!(
        reports
            .iter()
            .filter(|report| report.routes < generation)
            .all(|report| report.in_flight.is_empty()),
        "an instance of the table was reported as leaving"
    );
    assert!(reports.is_sorted_by_key(|report| (report.routes, report.sequence)));
}

#[tokio::test]
async fn an_older_table_is_ignored() {
    let new = Application::start("new").await;
    let old = Application::start("old").await;
    let world = World::start().await;
    for _ in 0..3 {
        world
            .publish(&[("one.test", route(&[(2, new.address)]))])
            .await;
    }

    world.pacemaker.publish_table(table(
        Generation(1),
        &[("one.test", route(&[(1, old.address)]))],
    ));
    for _ in 0..20 {
        assert_eq!(world.text("one.test").await, "new");
    }
    world.pacemaker.publish_table(table(
        Generation(9),
        &[("one.test", route(&[(1, old.address)]))],
    ));
    world.applied(Generation(9)).await;
    assert_eq!(world.text("one.test").await, "old");
}

#[tokio::test]
async fn a_held_request_goes_on_when_a_backend_appears() {
    let application = Application::start("one").await;
    let world = World::start().await;
    let mut held = route(&[]);
    held.hold = true;
    world.publish(&[("one.test", held.clone())]).await;

    let mut wires = Vec::new();
    for _ in 0..8 {
        let mut wire = Wire::connect(world.address()).await;
        wire.send("POST /echo HTTP/1.1\r\nhost: one.test\r\ncontent-length: 2\r\n\r\nhi")
            .await;
        wires.push(wire);
    }
    eventually("the requests are held", || {
        world.metric("pm_router_requests_held") == 8.0
    })
    .await;
    world.publish(&[("one.test", held)]).await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;

    for mut wire in wires {
        assert_eq!(wire.read_answer().await.unwrap().body, b"hi");
    }
    assert_eq!(world.metric("pm_router_requests_held"), 0.0);
}

#[tokio::test]
async fn a_held_request_ends_with_its_limit() {
    let world = World::start_with(|config| {
        config.hold_limit = std::time::Duration::from_millis(50);
    })
    .await;
    let mut held = route(&[]);
    held.hold = true;
    world.publish(&[("one.test", held)]).await;

    let answer = world.get("one.test", "/").await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["x-pm-router-error"], "hold_expired");
}

/// Answers every request of a connection with one text, until told to close.
async fn answering(text: &'static str) -> Script {
    Script::start(move |mut stream, _| async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        let mut buffer = [0; 4096];
        while let Ok(1..) = stream.read(&mut buffer).await {
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn an_address_reused_by_another_instance_gets_no_old_connection() {
    let backend = answering("x").await;
    let world = World::start_with(|config| config.workers = 1).await;
    world
        .publish(&[("one.test", route(&[(1, backend.address)]))])
        .await;
    let mut wire = Wire::connect(world.address()).await;
    for _ in 0..5 {
        wire.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
        assert_eq!(wire.read_answer().await.unwrap().status, 200);
    }
    // Not one: what was idle for long on a busy machine is opened anew.
    let opened = backend.connections();
    assert!(opened < 5, "connections are kept");

    world
        .publish(&[("two.test", route(&[(2, backend.address)]))])
        .await;
    wire.send("GET / HTTP/1.1\r\nhost: two.test\r\n\r\n").await;
    assert_eq!(wire.read_answer().await.unwrap().status, 200);

    assert_eq!(
        backend.connections(),
        opened + 1,
        "the old instance's connection was used"
    );
}
