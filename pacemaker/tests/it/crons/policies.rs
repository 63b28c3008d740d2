//! Overlap, retries, missed slots, versions: what the manifest says is what happens.

use common::api::{CronRunState, CronRunView};
use common::time::Timestamp;

use crate::crons::leaders::assert_every_slot_has_one_record;
use crate::crons::{NEVER, World, key, node};
use crate::harness::{Pacemaker, config, eventually};

/// At least one slot is older than the time in which it is fired late.
const OUTAGE: u64 = 150_000;

#[tokio::test]
async fn forbidden_overlap_skips_slots_while_a_run_goes_on() {
    let world = World::fast(
        1,
        "{runspec: \"* * * * *\", uri: /gate, name: cron, timeout: 1h}",
    )
    .await;

    let skipped = world.run_in("cron", CronRunState::Skipped).await;
    assert!(!skipped.outcome.is_empty());
    assert_eq!(world.receiver.calls().len(), 1);
    let key = key();
    let refused = world.client.start_cron_run(world.application, "cron", &key);
    let refused = refused.await.unwrap_err();
    assert_eq!(refused.status(), Some(409), "{refused}");
    world.receiver.open_gate(true);
    world.run_in("cron", CronRunState::Succeeded).await;
    eventually("slots are run again", async || {
        (world.receiver.calls().len() >= 2).then_some(())
    })
    .await;

    let mut runs = world.runs("cron").await;
    runs.reverse();
    assert_every_slot_has_one_record(&runs);
}

#[tokio::test]
async fn allowed_overlap_runs_side_by_side() {
    let crons = "{runspec: \"* * * * *\", uri: /gate, name: cron, timeout: 1h, overlap: allow}";
    let world = World::fast(1, crons).await;

    eventually("two run at once", async || {
        let views = world.client.crons(world.application).await.ok()?;
        (views[0].running.len() >= 2).then_some(())
    })
    .await;
    world.receiver.open_gate(true);
    world.run_in("cron", CronRunState::Succeeded).await;

    assert_eq!(world.receiver.dropped(), 0);
}

#[tokio::test]
async fn replacing_overlap_drops_the_request_of_the_old_run() {
    let crons = "{runspec: \"* * * * *\", uri: /gate, name: cron, timeout: 1h, overlap: replace}";
    let world = World::fast(1, crons).await;

    let replaced = world.run_in("cron", CronRunState::Replaced).await;
    eventually("its request is dropped", async || {
        (world.receiver.dropped() >= 1).then_some(())
    })
    .await;
    world.receiver.open_gate(true);
    let succeeded = world.run_in("cron", CronRunState::Succeeded).await;

    assert!(succeeded.id > replaced.id);
    let again = world.client.cron_run(replaced.id).await.unwrap();
    assert_eq!(again.state, CronRunState::Replaced, "{again:?}");
    // Never two at once: the old request is over before the new one begins.
    let calls = world.receiver.calls();
    let before: Vec<u32> = calls.iter().map(|call| call.dropped_before).collect();
    assert_eq!(before[..2], [0, 1], "{before:?}");
    let log = world.log(replaced.id).await;
    assert!(log.contains("took its place"), "{log}");
}

#[tokio::test]
async fn failed_run_is_tried_again_under_its_number_and_counted() {
    let crons = format!("{{runspec: \"{NEVER}\", uri: /fail, name: cron, retries: 2}}");
    let world = World::fast(1, &crons).await;

    for failures in 1..=3 {
        let run = world.run("cron").await;
        assert_eq!(
            (run.state, run.attempts),
            (CronRunState::Failed, 3),
            "{run:?}"
        );
        let calls = world.receiver.calls();
        let attempts: Vec<u32> = calls
            .iter()
            .filter(|call| call.run() == run.id.0)
            .map(super::receiver::Call::attempt)
            .collect();
        assert_eq!(attempts, [1, 2, 3]);
        let view = &world.client.crons(world.application).await.unwrap()[0];
        assert_eq!(view.failures, failures);
    }
    let metrics = world
        .pacemaker
        .request(reqwest::Method::GET, "/metrics")
        .send();
    let metrics = metrics.await.unwrap().text().await.unwrap();
    assert!(
        metrics.contains("pm_pacemaker_crons_failing 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn slots_of_an_outage_are_missed_or_run_once_as_the_manifest_says() {
    let crons = "
        {runspec: \"* * * * *\", uri: /ok?skip, name: skip}
        {runspec: \"* * * * *\", uri: /ok?once, name: once, missed: once}
    ";
    let world = World::fast(1, crons).await;
    world.run_in("skip", CronRunState::Succeeded).await;
    world.run_in("once", CronRunState::Succeeded).await;
    let wall = world.wall;
    let receiver = world.receiver.clone();
    let address = world.pacemaker.address.to_string();
    let (application, directory) = (world.application, world.directory);
    drop(world.client);
    world.pacemaker.crash();
    let since = wall.now();
    eventually("the outage lasts", async || {
        (wall.now() > Timestamp(since.0 + OUTAGE)).then_some(())
    })
    .await;

    let mut config = config(directory.path());
    config.advertise = address;
    config.wall_clock = wall;
    let pacemaker = Pacemaker::start_with(config).await;
    let client = pacemaker.administrator();
    let _node = node(&pacemaker.node(), &receiver, &pacemaker.url).await;
    let started = wall.now();
    eventually("slots are run again", async || {
        (wall.now() > Timestamp(started.0 + 130_000)).then_some(())
    })
    .await;

    let runs = async |cron: &str| -> Vec<CronRunView> {
        let runs = client.cron_runs(application, Some(cron), None, 100);
        let mut runs = runs.await.unwrap();
        runs.reverse();
        runs
    };
    let skip = runs("skip").await;
    assert_every_slot_has_one_record(&skip);
    let missed: Vec<_> = skip
        .iter()
        .filter(|run| run.state == CronRunState::Missed)
        .collect();
    let [missed] = &*missed else {
        panic!("{skip:?}")
    };
    assert!(missed.count >= 2, "{missed:?}");
    let calls = receiver.calls_of("/ok?once");
    let during = |slot: Timestamp| slot > since && slot.0 + 30_000 < started.0;
    let once = runs("once").await;
    let made_up: Vec<_> = once
        .iter()
        .filter(|run| during(run.last_scheduled) && run.attempts > 0)
        .collect();
    assert_eq!(made_up.len(), 1, "{once:?}");
    let sent = calls.iter().filter(|call| call.run() == made_up[0].id.0);
    assert_eq!(sent.count(), 1);
}

#[tokio::test]
async fn new_slots_go_to_the_new_version_and_old_requests_end_by_themselves() {
    let world = World::fast(
        1,
        "{runspec: \"* * * * *\", uri: /gate, name: cron, timeout: 1h}",
    )
    .await;
    let old = world.run_in("cron", CronRunState::Running).await;

    world
        .deploy(
            1,
            "{runspec: \"* * * * *\", uri: /ok, name: cron, overlap: allow}",
        )
        .await;
    eventually("the new version is called", async || {
        (!world.receiver.calls_of("/ok").is_empty()).then_some(())
    })
    .await;
    assert_eq!(world.receiver.dropped(), 0);
    world.receiver.open_gate(true);
    let ended = crate::crons::ended(&world.client, old.id).await;

    assert_eq!(ended.state, CronRunState::Succeeded, "{ended:?}");
    assert_eq!(world.receiver.calls_of("/gate").len(), 1);
}

#[tokio::test]
async fn pacemaker_that_stops_records_the_requests_that_it_drops() {
    let crons = format!("{{runspec: \"{NEVER}\", uri: /gate, name: cron, timeout: 1h}}");
    let world = World::with(1, &crons).await;
    let run = world.start("cron").await;
    eventually("the request is under way", async || {
        (!world.receiver.calls().is_empty()).then_some(())
    })
    .await;

    let address = world.pacemaker.address.to_string();
    let directory = world.directory;
    world.pacemaker.stop().await.unwrap();
    eventually("its request is dropped", async || {
        (world.receiver.dropped() == 1).then_some(())
    })
    .await;
    let mut config = config(directory.path());
    config.advertise = address;
    let pacemaker = Pacemaker::start_with(config).await;

    let run = pacemaker.administrator().cron_run(run.id).await.unwrap();
    assert_eq!(run.state, CronRunState::Lost, "{run:?}");
    assert!(run.outcome.contains("stopped"), "{run:?}");
}
