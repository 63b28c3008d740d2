//! From one version to the next and back, warm, exclusive, acknowledged.

use common::api::VersionState;
use common::id::{NodeId, RunId};
use common::instance::InstanceState;
use common::job::{JobState, StepName};
use common::time::Span;
use pacemaker_core::command::{
    Command, CronDecision, CronReport, CronResult, Outcome, RejectionCode, VersionTarget,
};

use crate::crons::world::cron;
use crate::generators::{exclusive_type, instance_type, version_spec};
use crate::world::{Behaviour, SETTINGS, World};

use super::{MAIN, current, hello, job_of, state_of, versions_in};

#[test]
fn second_version_takes_over_and_the_first_stays_warm_for_the_watch_window() {
    let mut world = World::new(2, 2);
    let first = world.deploy_well(&hello(2));

    let second = world.deploy_well(&hello(2));

    assert_eq!(current(&world, first.application), Some(second.version));
    assert_eq!(
        versions_in(world.state.routes().lookup(MAIN).unwrap()),
        [second.version.0]
    );
    assert_eq!(state_of(&world, first), VersionState::Running);
    world.run_for(SETTINGS.watch_window.0 / 2);
    assert_eq!(state_of(&world, first), VersionState::Running);
    world.eventually("the first version stops", 10_000, |world| {
        state_of(world, first) == VersionState::Ready
            && world.state.instances().values().all(|instance| {
                instance.version != first.version || instance.seen.state == InstanceState::Stopped
            })
    });
}

/// An instance that has a long request of a cron is left alone until it has ended, or its time is over.
#[test]
fn retired_version_is_stopped_only_when_its_cron_has_ended() {
    let (mut world, first, run) = world_with_a_cron_under_way();
    world.deploy_well(&hello(1));

    world.run_for(SETTINGS.watch_window.0 + 3 * SETTINGS.drain_limit.0);

    let is_stopped = |world: &World| {
        let mut instances = world.state.instances().values();
        instances.all(|instance| {
            instance.version != first.version || instance.seen.state == InstanceState::Stopped
        })
    };
    assert_eq!(state_of(&world, first), VersionState::Ready);
    assert!(!is_stopped(&world));
    let report = CronReport {
        run,
        attempt: 1,
        instance: None,
        status: Some(200),
        ended: world.now,
        duration: Span::seconds(9),
        result: CronResult::Succeeded,
        words: String::new(),
    };
    let command = Command::ReportCronRuns {
        runner: NodeId(9),
        reports: vec![report],
    };
    world.apply(&command).unwrap();
    world.eventually("the first version stops", 10_000, is_stopped);
}

#[test]
fn node_that_is_drained_waits_for_a_cron_only_so_long() {
    let (mut world, target, _) = world_with_a_cron_under_way();
    let instances = world.state.instances().values();
    let node = instances.map(|instance| instance.node).next().unwrap();
    let old: Vec<_> = world.state.instances().keys().copied().collect();

    world.apply(&Command::DrainNode { node }).unwrap();

    let is_running = |world: &World| {
        let instance = world.state.instances().get(&old[0]);
        instance.is_some_and(|instance| instance.seen.state == InstanceState::Running)
    };
    world.eventually("it drains", 10_000, |world| {
        let instance = &world.state.instances()[&old[0]];
        instance.draining_since.is_some()
    });
    world.run_for(SETTINGS.drain_limit.0 / 2);
    assert!(is_running(&world));
    world.eventually("it stops", 10_000, |world| !is_running(world));
    assert_eq!(current(&world, target.application), Some(target.version));
}

fn world_with_a_cron_under_way() -> (World, VersionTarget, RunId) {
    let mut world = World::new(2, 2);
    let mut web = instance_type("web", 1);
    web.crons = vec![cron("long", "@yearly")];
    let first = world.deploy_well(&version_spec("hello", vec![web]));
    let started = world.apply(&Command::StartCronRun {
        application: first.application,
        cron: "web/long".parse().unwrap(),
    });
    let Ok(Outcome::CronRun(run)) = started else {
        panic!("a run, not {started:?}");
    };
    world
        .apply(&Command::DecideCrons {
            runner: NodeId(9),
            at: world.now,
            decisions: vec![CronDecision::Claim { run }],
        })
        .unwrap();
    (world, first, run)
}

#[test]
fn rollback_within_the_window_starts_nothing() {
    let mut world = World::new(3, 1);
    let first = world.deploy_well(&hello(1));
    world.deploy_well(&hello(1));
    let placed = world.state.instances().len();
    let before = world.now;

    let application = first.application;
    let outcome = world.apply(&Command::Rollback { application }).unwrap();
    let job = world.finish(job_of(&outcome));

    assert_eq!(job.state, JobState::Succeeded);
    assert_eq!(current(&world, application), Some(first.version));
    assert_eq!(world.state.instances().len(), placed);
    assert!(world.now.since(before) < Span(1_000));
}

#[test]
fn rollback_after_the_window_starts_the_old_version_again() {
    let mut world = World::new(4, 1);
    let first = world.deploy_well(&hello(1));
    let second = world.deploy_well(&hello(1));
    world.run_for(SETTINGS.watch_window.0 + 3_000);
    assert_eq!(state_of(&world, first), VersionState::Ready);

    let application = first.application;
    let outcome = world.apply(&Command::Rollback { application }).unwrap();
    let job = world.finish(job_of(&outcome));

    assert_eq!(job.state, JobState::Succeeded);
    assert_eq!(current(&world, application), Some(first.version));
    assert_eq!(
        world.state.applications()[&application].previous,
        Some(second.version)
    );
}

#[test]
fn rollback_without_an_earlier_version_is_refused() {
    let mut world = World::new(5, 1);
    let target = world.deploy_well(&hello(1));

    let refusal = world
        .apply(&Command::Rollback {
            application: target.application,
        })
        .unwrap_err();

    assert_eq!(refusal.code, RejectionCode::NothingToRollBack);
}

#[test]
fn exclusive_type_stops_before_its_successor_starts_and_requests_are_held() {
    let mut world = World::new(20, 2);
    let spec = version_spec(
        "single",
        vec![exclusive_type("one", 1), instance_type("web", 1)],
    );
    world.deploy_well(&spec);
    let name = "one.single.default.cluster.test";
    let mut was_held = false;

    let (job, second) = world.deploy(&spec, Behaviour::Good, true).unwrap();
    while !world.job(job).state.is_final() {
        world.step();
        let table = world.state.routes();
        let route = table.lookup(name).unwrap();
        was_held |= route.hold;
        assert_eq!(route.hold, route.backends.is_empty());
        let alive: Vec<u64> = alive_versions(&world, "one");
        assert!(alive.len() <= 1, "{alive:?}");
    }

    assert!(was_held);
    assert_eq!(world.job(job).state, JobState::Succeeded);
    assert_eq!(alive_versions(&world, "one"), [second.version.0]);
}

#[test]
fn exclusive_type_that_does_not_start_gives_way_to_the_old_version() {
    let mut world = World::new(21, 1);
    let spec = version_spec(
        "single",
        vec![exclusive_type("one", 1), instance_type("web", 1)],
    );
    let first = world.deploy_well(&spec);

    let (job, _) = world
        .deploy(&spec, Behaviour::FailsExclusively, true)
        .unwrap();
    let job = world.finish(job);

    assert_eq!(job.state, JobState::Failed);
    assert_eq!(job.failure.unwrap().step, StepName::Promote);
    assert_eq!(current(&world, first.application), Some(first.version));
    world.eventually("the old one runs again", 10_000, |world| {
        let table = world.state.routes();
        let route = table.lookup("one.single.default.cluster.test").unwrap();
        versions_in(route) == [first.version.0] && !route.hold
    });
}

fn alive_versions(world: &World, instance_type: &str) -> Vec<u64> {
    world
        .hearts
        .values()
        .flat_map(|heart| heart.processes.values())
        .filter(|process| process.is_alive)
        .filter(|process| process.assigned.instance_type.as_str() == instance_type)
        .map(|process| process.assigned.subject.version.0)
        .collect()
}

#[test]
fn switch_waits_for_every_live_router_and_for_no_dead_one() {
    let mut world = World::new(24, 2);
    let first = world.deploy_well(&hello(1));
    let (router, _) = world.routers.first_key_value().unwrap();
    let router = *router;
    // It reports, but never takes a newer table.
    world.routers.get_mut(&router).unwrap().is_stuck = true;

    let (job, _) = world.deploy(&hello(1), Behaviour::Good, true).unwrap();
    world.run_for(10_000);

    let step = |world: &World| {
        world
            .job(job)
            .steps
            .iter()
            .find(|step| step.state != JobState::Succeeded)
            .map(|step| step.name)
    };
    assert_eq!(step(&world), Some(StepName::Route));
    assert_eq!(current(&world, first.application), Some(first.version));
    world.routers.get_mut(&router).unwrap().is_connected = false;
    assert_eq!(world.finish(job).state, JobState::Succeeded);
}

#[test]
fn new_version_that_loses_a_node_while_it_is_routed_is_not_promoted_yet() {
    let mut world = World::new(29, 2);
    let first = world.deploy_well(&hello(2));
    let nodes: Vec<_> = world.routers.keys().copied().collect();
    // The switch waits for this router while the other node is lost.
    world.routers.get_mut(&nodes[0]).unwrap().is_stuck = true;
    let (job, second) = world.deploy(&hello(2), Behaviour::Good, true).unwrap();
    world.run_for(4_000);
    world.hearts.get_mut(&nodes[1]).unwrap().is_connected = false;
    // Nothing fits elsewhere while its only other heart cannot be reached either.
    world.hearts.get_mut(&nodes[0]).unwrap().is_connected = false;
    world.run_for(2_000);

    world.routers.get_mut(&nodes[0]).unwrap().is_stuck = false;
    world.run_for(3_000);

    assert_eq!(current(&world, first.application), Some(first.version));
    for node in nodes {
        world.hearts.get_mut(&node).unwrap().is_connected = true;
    }
    assert_eq!(world.finish(job).state, JobState::Succeeded);
    assert_eq!(current(&world, first.application), Some(second.version));
}

#[test]
fn version_that_is_being_started_keeps_its_instances_when_a_window_ends() {
    let mut world = World::new(30, 1);
    let oldest = world.deploy_well(&hello(1));
    for _ in 0..5 {
        world.deploy_well(&hello(1));
        world.run_for(SETTINGS.watch_window.0 + 3_000);
    }
    world.deploy_well(&hello(1));

    let outcome = world.apply(&Command::StartVersion(oldest)).unwrap();
    let job = world.finish(job_of(&outcome));
    world.run_for(SETTINGS.watch_window.0 + 3_000);

    assert_eq!(job.state, JobState::Succeeded);
    assert_eq!(state_of(&world, oldest), VersionState::Running);
}

#[test]
fn started_version_is_promoted_without_another_start() {
    let mut world = World::new(31, 1);
    world.deploy_well(&hello(1));
    let (job, second) = world.deploy(&hello(1), Behaviour::Good, false).unwrap();
    world.finish(job);
    let instances = world.state.instances().len();

    let outcome = world.apply(&Command::PromoteVersion(second)).unwrap();
    let job = world.finish(job_of(&outcome));

    assert_eq!(job.state, JobState::Succeeded);
    assert_eq!(world.state.instances().len(), instances);
    assert_eq!(current(&world, second.application), Some(second.version));
}

#[test]
fn third_version_stops_the_first_at_once() {
    let mut world = World::new(32, 1);
    let first = world.deploy_well(&hello(1));
    let second = world.deploy_well(&hello(1));
    world.deploy_well(&hello(1));

    assert_eq!(state_of(&world, first), VersionState::Ready);
    assert_eq!(state_of(&world, second), VersionState::Running);
}
