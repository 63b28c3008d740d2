//! Receivers that do their worst; none gets more than its timeout and its bound.

use std::time::{Duration, Instant};

use common::api::CronRunState::{Failed, Succeeded, TimedOut};
use common::api::{CronRunState, CronRunView};

use crate::crons::{NEVER, World};

/// More than what an outcome may take, far below what a hostile receiver would.
const SOON: Duration = Duration::from_secs(10);

async fn world(quantity: u32, uris: &[&str]) -> World {
    let lines = uris.iter().map(|uri| {
        format!("{{runspec: \"{NEVER}\", uri: \"{uri}\", timeout: 2s, overlap: allow}}\n")
    });
    World::with(quantity, &lines.collect::<String>()).await
}

async fn check(world: &World, uri: &str, state: CronRunState, words: &str) -> CronRunView {
    let started = Instant::now();
    let run = world.run(uri).await;
    assert_eq!(run.state, state, "{uri}: {run:?}");
    assert!(run.outcome.contains(words), "{uri}: {run:?}");
    assert!(started.elapsed() < SOON, "{uri}");
    run
}

#[tokio::test]
async fn answers_that_break_the_rules_end_in_words() {
    let world = world(
        1,
        &[
            "/garbage",
            "/close",
            "/bomb",
            "/headers",
            "/short",
            "/old",
            "/continue",
            "/fail",
            "/loop",
            "/ok?a=b",
        ],
    )
    .await;

    check(&world, "/garbage", Failed, "not HTTP").await;
    check(&world, "/close", Failed, "closed").await;
    check(&world, "/bomb", Failed, "head of the answer").await;
    check(&world, "/headers", Failed, "head of the answer").await;
    check(&world, "/short", Failed, "broke off after 10 bytes").await;
    check(&world, "/loop", Failed, "redirects more than").await;
    let failed = check(&world, "/fail", Failed, "500").await;
    assert_eq!(failed.status, Some(500));
    let old = check(&world, "/old", Succeeded, "200").await;
    assert!(
        world
            .log(old.id)
            .await
            .contains("HTTP/1.0 200 OK\n\nold words")
    );
    let patient = check(&world, "/continue", Succeeded, "200").await;
    assert!(world.log(patient.id).await.contains("in the end"));
    let good = check(&world, "/ok?a=b", Succeeded, "200 OK").await;
    let log = world.log(good.id).await;
    assert!(
        log.contains("> GET /ok?a=b\nHTTP/1.1 200 OK\nx-seen: yes\n"),
        "{log}"
    );
}

#[tokio::test]
async fn receiver_that_never_ends_is_left_at_the_timeout() {
    let world = world(1, &["/hang", "/trickle"]).await;

    let hung = check(&world, "/hang", TimedOut, "within 2s").await;
    assert_eq!(hung.status, None);
    assert!(hung.duration.unwrap().duration() >= Duration::from_secs(2));
    let trickled = check(&world, "/trickle", TimedOut, "within 2s").await;
    assert_eq!(trickled.instance, hung.instance);
}

#[tokio::test]
async fn redirects_lead_nowhere_but_to_the_same_instance() {
    let elsewhere = [
        "http://localhost:1/",
        "http://169.254.169.254/latest/meta-data/",
        "unix:/var/run/docker.sock",
        "//localhost/",
        "https://hello.example.com/ok",
        "http://127.0.0.1:1/ok",
    ];
    let mut uris: Vec<String> = elsewhere.map(|to| format!("/moved?{to}")).into();
    uris.push("/moved?/ok".to_owned());
    uris.push("/moved?http://HERE/ok".to_owned());
    uris.push("/moved?http://hello.example.com/ok".to_owned());
    let uris: Vec<&str> = uris.iter().map(String::as_str).collect();
    let world = world(1, &uris).await;

    for uri in &uris[..elsewhere.len()] {
        check(&world, uri, Failed, "not followed").await;
    }
    for uri in &uris[elsewhere.len()..] {
        check(&world, uri, Succeeded, "200").await;
    }
    let followed = world.receiver.calls_of("/ok");
    assert_eq!(followed.len(), uris.len() - elsewhere.len());
    assert!(
        followed
            .iter()
            .all(|call| call.header("pm-cron-attempt") == "1")
    );
}

#[tokio::test]
async fn body_without_end_costs_no_memory_and_little_time() {
    let world = world(1, &["/huge"]).await;
    let before = resident_kilobytes();

    let run = check(&world, "/huge", Succeeded, "was not read further").await;

    let grown = resident_kilobytes().saturating_sub(before);
    assert!(grown < 48 * 1024, "{grown} KiB");
    let log = world.client.cron_run_log(run.id, 0).await.unwrap();
    let kept = log.bytes.iter().filter(|byte| **byte == b'x').count();
    assert!((1_048_576..1_048_700).contains(&kept), "{kept}");
    assert!(log.is_end);
}

#[tokio::test]
async fn instance_that_refuses_is_passed_over_for_another() {
    let world = world(2, &["/ok"]).await;
    let first = check(&world, "/ok", Succeeded, "200")
        .await
        .instance
        .unwrap();
    world.receiver.refuse(first);

    for _ in 0..4 {
        let run = check(&world, "/ok", Succeeded, "200").await;
        assert_ne!(run.instance, Some(first));
    }
    let other = world.receiver.calls().last().unwrap().instance;
    world.receiver.refuse(other);

    let refused = check(
        &world,
        "/ok",
        Failed,
        "none of 2 instances takes a connection",
    )
    .await;
    assert_eq!(refused.status, None);
}

#[tokio::test]
async fn calls_are_shared_among_the_instances() {
    let world = world(3, &["/ok"]).await;

    for _ in 0..9 {
        check(&world, "/ok", Succeeded, "200").await;
    }

    let mut shares = std::collections::BTreeMap::new();
    for call in world.receiver.calls() {
        *shares.entry(call.instance).or_insert(0) += 1;
    }
    assert_eq!(shares.values().copied().collect::<Vec<_>>(), [3, 3, 3]);
}

/// Of this process, in which the pacemaker runs.
fn resident_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}
