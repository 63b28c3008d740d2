//! What a user would tell of the core: one story per test, on a modelled cluster without faults.

use std::collections::BTreeMap;

use common::api::VersionState;
use common::application::VersionSpec;
use common::id::{ApplicationId, InstanceTypeName, VersionNumber};
use common::instance::InstanceState;
use common::job::{JobState, StepName};
use common::routing_table::Route;
use common::time::Span;
use pacemaker_core::command::{Command, Outcome, RejectionCode, VersionTarget};

use crate::generators::{
    exclusive_type, instance_type, standalone_type, version_spec, with_hostname, with_prepare,
};
use crate::world::{Behaviour, SETTINGS, World};

const MAIN: &str = "web.hello.default.cluster.test";

fn hello(quantity: u32) -> VersionSpec {
    version_spec("hello", vec![instance_type("web", quantity)])
}

fn job_of(outcome: &Outcome) -> common::id::JobId {
    let Outcome::Job { job, .. } = outcome else {
        panic!("a job, not {outcome:?}");
    };
    *job
}

fn versions_in(route: &Route) -> Vec<u64> {
    let mut versions: Vec<u64> = route
        .backends
        .iter()
        .map(|backend| backend.version.0)
        .collect();
    versions.dedup();
    versions
}

fn state_of(world: &World, target: VersionTarget) -> VersionState {
    world
        .state
        .application_view(target.application, 80)
        .unwrap()
        .versions
        .into_iter()
        .find(|version| version.number == target.version)
        .unwrap()
        .state
}

fn current(world: &World, application: ApplicationId) -> Option<VersionNumber> {
    world.state.applications()[&application].current
}

#[test]
fn first_deployment_becomes_current_and_is_routed() {
    let mut world = World::new(1, 1);

    let target = world.deploy_well(&hello(2));

    let application = world
        .state
        .application_view(target.application, 4253)
        .unwrap();
    assert_eq!(application.current, Some(target.version));
    assert_eq!(
        application.urls,
        ["http://web.hello.default.cluster.test:4253/"]
    );
    let table = world.state.routes();
    let route = table.lookup(MAIN).unwrap();
    assert_eq!(route.backends.len(), 2);
    assert!(table.lookup("1.web.hello.default.cluster.test").is_some());
    let job = world.state.jobs(None, None, 1).remove(0);
    assert!(
        job.steps
            .iter()
            .all(|step| step.state == JobState::Succeeded)
    );
}

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
fn second_request_while_a_job_runs_is_refused_as_busy() {
    let mut world = World::new(6, 1);
    let (job, _) = world.deploy(&hello(1), Behaviour::Good, true).unwrap();

    let refusal = world.deploy(&hello(1), Behaviour::Good, true).unwrap_err();

    assert_eq!(refusal.code, RejectionCode::Busy);
    assert!(refusal.message.contains(&format!("job {job}")), "{refusal}");
}

#[test]
fn prepare_commands_are_built_on_a_heart_and_the_package_runs() {
    let mut world = World::new(7, 2);

    let target = world.deploy_well(&with_prepare(hello(1)));

    let version = &world.state.applications()[&target.application].versions[&target.version];
    assert_ne!(version.package.as_ref(), Some(&version.source));
    assert!(world.hearts.values().all(|heart| heart.builds.is_empty()));
}

#[test]
fn failed_build_fails_the_job_and_says_why() {
    let mut world = World::new(8, 1);
    let first = world.deploy_well(&hello(1));

    let spec = with_prepare(hello(1));
    let (job, target) = world.deploy(&spec, Behaviour::FailsToBuild, true).unwrap();
    let job = world.finish(job);

    let failure = job.failure.unwrap();
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(failure.step, StepName::Prepare);
    assert_eq!(failure.code, "prepare_failed");
    assert_eq!(failure.output_tail, "make: *** no rule");
    assert_eq!(state_of(&world, target), VersionState::New);
    assert_eq!(current(&world, first.application), Some(first.version));
}

#[test]
fn failed_start_leaves_the_current_version_serving_and_no_debris() {
    for (behaviour, step) in [
        (Behaviour::FailsToRegister, StepName::Register),
        (Behaviour::FailsToStart, StepName::Healthy),
    ] {
        let mut world = World::new(9, 2);
        let first = world.deploy_well(&hello(2));

        let (job, target) = world.deploy(&hello(2), behaviour, true).unwrap();
        let job = world.finish(job);

        let failure = job.failure.unwrap();
        assert_eq!(failure.step, step);
        assert!(failure.message.contains("`web`"), "{}", failure.message);
        assert!(failure.instance.is_some());
        assert_eq!(failure.output_tail, "last words");
        world.eventually("its instances are gone", 10_000, |world| {
            world.state.applications()[&target.application].versions[&target.version]
                .instances
                .is_empty()
        });
        assert_eq!(state_of(&world, target), VersionState::Prepared);
        assert_eq!(
            versions_in(world.state.routes().lookup(MAIN).unwrap()),
            [first.version.0]
        );
        assert!(
            world
                .hearts
                .values()
                .flat_map(|heart| heart.processes.values())
                .all(|process| process.assigned.subject.version == first.version)
        );
    }
}

#[test]
fn deployment_without_promotion_runs_beside_the_current_version() {
    let mut world = World::new(10, 1);
    let first = world.deploy_well(&hello(1));

    let (job, second) = world.deploy(&hello(1), Behaviour::Good, false).unwrap();
    let job = world.finish(job);

    assert_eq!(job.state, JobState::Succeeded);
    assert_eq!(state_of(&world, second), VersionState::Running);
    assert_eq!(current(&world, first.application), Some(first.version));
    let table = world.state.routes();
    assert_eq!(
        versions_in(table.lookup("2.web.hello.default.cluster.test").unwrap()),
        [2]
    );
    assert_eq!(versions_in(table.lookup(MAIN).unwrap()), [1]);
}

#[test]
fn version_is_started_stopped_and_deregistered_by_hand() {
    let mut world = World::new(11, 1);
    let first = world.deploy_well(&hello(1));
    world.deploy_well(&hello(1));
    world.run_for(SETTINGS.watch_window.0 + 3_000);

    for (command, state) in [
        (Command::StartVersion(first), VersionState::Running),
        (Command::StopVersion(first), VersionState::Ready),
        (Command::DeregisterVersion(first), VersionState::Prepared),
        (Command::StartVersion(first), VersionState::Running),
    ] {
        let outcome = world.apply(&command).unwrap();
        let job = world.finish(job_of(&outcome));
        assert_eq!(job.state, JobState::Succeeded, "{command:?}");
        assert_eq!(state_of(&world, first), state, "{command:?}");
    }
}

#[test]
fn current_version_can_be_neither_stopped_nor_deregistered() {
    let mut world = World::new(12, 1);
    let target = world.deploy_well(&hello(1));

    for command in [
        Command::StopVersion(target),
        Command::DeregisterVersion(target),
        Command::PromoteVersion(target),
    ] {
        let refusal = world.apply(&command).unwrap_err();
        assert_eq!(refusal.code, RejectionCode::VersionState, "{command:?}");
    }
}

#[test]
fn scaling_adds_and_removes_instances_of_the_current_version() {
    let mut world = World::new(13, 3);
    let target = world.deploy_well(&hello(1));
    let web = InstanceTypeName::parse("web").unwrap();

    for quantity in [4, 2, 0, 3] {
        world
            .apply(&Command::Scale {
                application: target.application,
                quantities: BTreeMap::from([(web.clone(), quantity)]),
            })
            .unwrap();
        world.eventually("the quantity is met", 20_000, |world| {
            let table = world.state.routes();
            let count = table.lookup(MAIN).unwrap().backends.len();
            count == quantity as usize && world.state.instances().len() == quantity as usize
        });
    }
}

#[test]
fn aborted_deployment_is_undone() {
    let mut world = World::new(14, 1);
    let first = world.deploy_well(&hello(1));
    let (job, second) = world.deploy(&hello(1), Behaviour::Good, true).unwrap();
    world.step();

    world.apply(&Command::AbortJob { job }).unwrap();

    assert_eq!(world.job(job).state, JobState::Aborted);
    world.run_for(3_000);
    assert_eq!(current(&world, first.application), Some(first.version));
    assert_eq!(state_of(&world, second), VersionState::Prepared);
    assert_eq!(world.state.instances().len(), 1);
}

#[test]
fn abort_after_the_version_became_current_is_refused() {
    let mut world = World::new(15, 1);
    world.deploy_well(&hello(1));
    let (job, second) = world.deploy(&hello(1), Behaviour::Good, true).unwrap();
    world.eventually("it is current", 10_000, |world| {
        current(world, second.application) == Some(second.version)
    });

    let refusal = world.apply(&Command::AbortJob { job }).unwrap_err();

    assert_eq!(refusal.code, RejectionCode::VersionState);
    assert_eq!(world.finish(job).state, JobState::Succeeded);
}

#[test]
fn hostname_belongs_to_one_application() {
    let mut world = World::new(16, 1);
    let type_with = |hostname: &str| with_hostname(instance_type("web", 1), hostname);
    world.deploy_well(&version_spec("one", vec![type_with("example.com")]));

    for (taken, code) in [
        ("example.com", RejectionCode::HostnameTaken),
        ("web.one.default.cluster.test", RejectionCode::HostnameTaken),
        ("*.cluster.test", RejectionCode::HostnameTaken),
        ("*.test", RejectionCode::HostnameTaken),
    ] {
        let spec = version_spec("two", vec![type_with(taken)]);
        let refusal = world.deploy(&spec, Behaviour::Good, true).unwrap_err();
        assert_eq!(refusal.code, code, "{taken}");
    }
    world.deploy_well(&version_spec("two", vec![type_with("*.example.com")]));
    let table = world.state.routes();
    assert_eq!(table.lookup("example.com").unwrap().application_name, "one");
    assert_eq!(
        table.lookup("a.example.com").unwrap().application_name,
        "two"
    );
}

#[test]
fn generated_names_of_dotted_applications_do_not_collide() {
    let mut world = World::new(17, 1);
    // Version 1 of type `web` of `b` would be `1.web.b…`, and so would type `1` of `web.b`.
    world.deploy_well(&version_spec("b", vec![instance_type("web", 1)]));

    let spec = version_spec("web.b", vec![instance_type("1", 1)]);
    let refusal = world.deploy(&spec, Behaviour::Good, true).unwrap_err();

    assert_eq!(refusal.code, RejectionCode::HostnameTaken);
}

#[test]
fn runtime_that_no_node_offers_is_refused_with_what_is_offered() {
    let mut world = World::new(18, 1);
    let mut spec = hello(1);
    spec.instance_types[0].runtime.version = "9".to_owned();

    let refusal = world.deploy(&spec, Behaviour::Good, true).unwrap_err();

    assert_eq!(refusal.code, RejectionCode::NotOffered);
    assert!(
        refusal.message.contains("paasmaker.runtime.shell (1)"),
        "{refusal}"
    );
}

#[test]
fn standalone_instances_run_and_are_never_routed() {
    let mut world = World::new(19, 1);
    let spec = version_spec("worker", vec![standalone_type("work", 2)]);

    let target = world.deploy_well(&spec);

    assert_eq!(state_of(&world, target), VersionState::Running);
    assert!(world.state.routes().routes.is_empty());
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
fn lost_node_moves_its_instances_and_gets_none_back() {
    let mut world = World::new(22, 2);
    let target = world.deploy_well(&hello(2));
    let (lost, _) = world.hearts.first_key_value().unwrap();
    let lost = *lost;

    world.hearts.get_mut(&lost).unwrap().is_connected = false;
    world.routers.get_mut(&lost).unwrap().is_connected = false;
    world.eventually("both run elsewhere", 20_000, |world| {
        let table = world.state.routes();
        let backends = &table.lookup(MAIN).unwrap().backends;
        backends.len() == 2
            && backends
                .iter()
                .all(|backend| world.state.instances()[&backend.instance].node != lost)
    });
    world.hearts.get_mut(&lost).unwrap().is_connected = true;
    world.routers.get_mut(&lost).unwrap().is_connected = true;

    world.eventually("the node is empty", 20_000, |world| {
        world.hearts[&lost].processes.is_empty() && world.state.instances().len() == 2
    });
    assert_eq!(current(&world, target.application), Some(target.version));
}

#[test]
fn silence_of_the_only_node_takes_no_route_away_and_moves_nothing() {
    let mut world = World::new(23, 1);
    world.deploy_well(&hello(2));
    let routes = world.state.routes().routes;
    let (node, _) = world.hearts.first_key_value().unwrap();
    let node = *node;

    world.hearts.get_mut(&node).unwrap().is_connected = false;
    world.eventually("the instances are lost", 10_000, |world| {
        world
            .state
            .instances()
            .values()
            .all(|instance| instance.seen.state == InstanceState::Lost)
    });
    assert_eq!(world.state.routes().routes, routes);
    world.hearts.get_mut(&node).unwrap().is_connected = true;

    world.eventually("they run again", 10_000, |world| {
        world
            .state
            .instances()
            .values()
            .all(|instance| instance.seen.state == InstanceState::Running)
    });
    assert_eq!(world.state.routes().routes, routes);
    assert_eq!(world.state.instances().len(), 2);
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
fn repeated_request_with_the_same_key_has_one_effect() {
    let mut world = World::new(25, 1);
    let source = world.upload("source").digest;
    let once = |quantity: u32, key: &str| Command::Once {
        key: key.to_owned(),
        command: Box::new(Command::Deploy {
            workspace: "default".parse().unwrap(),
            spec: Box::new(hello(quantity)),
            manifest: String::new(),
            source: source.clone(),
            promote: true,
        }),
    };

    let first = world.apply(&once(1, "a")).unwrap();
    world.finish(job_of(&first));
    let second = world.apply(&once(1, "a")).unwrap();
    let other = world.apply(&once(2, "a")).unwrap_err();

    assert_eq!(first, second);
    assert_eq!(other.code, RejectionCode::Invalid);
    assert_eq!(world.state.jobs(None, None, 10).len(), 1);
}

#[test]
fn old_versions_and_jobs_age_out() {
    let mut world = World::new(26, 1);
    let mut target = world.deploy_well(&hello(1));
    for _ in 0..30 {
        target = world.deploy_well(&hello(1));
    }
    world.run_for(SETTINGS.watch_window.0 + 5_000);

    let application = &world.state.applications()[&target.application];
    assert_eq!(application.versions.len(), 20);
    assert_eq!(application.current, Some(target.version));
    let ready = application
        .versions
        .values()
        .filter(|version| version.state == VersionState::Ready)
        .count();
    assert!(ready <= 4, "{ready} stopped versions keep their disk");
}

#[test]
fn explanation_names_the_router_that_is_waited_for() {
    let mut world = World::new(27, 2);
    let target = world.deploy_well(&hello(1));
    let (router, _) = world.routers.first_key_value().unwrap();
    let router = *router;
    world.routers.get_mut(&router).unwrap().is_stuck = true;
    let (job, _) = world.deploy(&hello(1), Behaviour::Good, true).unwrap();
    world.run_for(5_000);

    let by_job = world.state.explain_job(job, &world.sightings).unwrap();
    let by_application = world
        .state
        .explain_application(target.application, &world.sightings)
        .unwrap();

    let line = format!("waiting for the router of node {router} (node1) to acknowledge");
    for explanation in [by_job, by_application] {
        assert!(
            explanation
                .lines
                .iter()
                .any(|other| other.starts_with(&line)),
            "{explanation:#?}"
        );
    }
}

#[test]
fn explanation_of_a_missing_instance_goes_node_by_node() {
    let mut world = World::new(28, 1);
    let target = world.deploy_well(&hello(1));
    let (node, _) = world.hearts.first_key_value().unwrap();
    let node = *node;
    world.hearts.get_mut(&node).unwrap().is_connected = false;
    world.run_for(3_000);

    let explanation = world
        .state
        .explain_application(target.application, &world.sightings)
        .unwrap();

    assert!(
        explanation
            .lines
            .iter()
            .any(|line| line == "node 1 (node1) is silent"),
        "{explanation:#?}"
    );
    let (instance, _) = world.state.instances().first_key_value().unwrap();
    let explanation = world
        .state
        .explain_instance(*instance, &world.sightings)
        .unwrap();
    assert!(explanation.summary.contains("is lost"), "{explanation:#?}");
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

#[test]
fn crashed_instance_leaves_the_table_and_comes_back() {
    let mut world = World::new(33, 1);
    world.deploy_well(&hello(2));
    let instance = *world.state.instances().first_key_value().unwrap().0;
    let now = world.now;

    let heart = world.hearts.values_mut().next().unwrap();
    heart.crash(instance, now, 500);
    let backends = |world: &World| world.state.routes().lookup(MAIN).unwrap().backends.len();
    world.eventually("it is out", 2_000, |world| backends(world) == 1);

    world.eventually("it is back", 5_000, |world| backends(world) == 2);
    assert_eq!(world.state.instances()[&instance].seen.restarts, 1);
}

#[test]
fn refusals_say_what_to_do() {
    let mut world = World::new(34, 1);
    let target = world.deploy_well(&hello(1));
    let application = target.application;
    let unknown = VersionTarget {
        application,
        version: VersionNumber(9),
    };
    let quantities =
        |name: &str, quantity| BTreeMap::from([(InstanceTypeName::parse(name).unwrap(), quantity)]);

    for (command, code) in [
        (
            Command::PromoteVersion(unknown),
            RejectionCode::VersionNotFound,
        ),
        (
            Command::Rollback {
                application: ApplicationId(9),
            },
            RejectionCode::ApplicationNotFound,
        ),
        (
            Command::Scale {
                application,
                quantities: quantities("db", 1),
            },
            RejectionCode::InstanceTypeNotFound,
        ),
        (
            Command::Scale {
                application,
                quantities: quantities("web", 1_000_000_000),
            },
            RejectionCode::LimitExceeded,
        ),
        (
            Command::AbortJob {
                job: common::id::JobId(99),
            },
            RejectionCode::JobNotFound,
        ),
        (
            Command::CreateWorkspace {
                name: "Other".to_owned(),
                stub: "default".parse().unwrap(),
                tags: BTreeMap::new(),
            },
            RejectionCode::WorkspaceExists,
        ),
    ] {
        let refusal = world.apply(&command).unwrap_err();
        assert_eq!(refusal.code, code, "{command:?}");
        assert!(!refusal.message.is_empty());
    }
}

#[test]
fn node_that_registers_again_is_the_same_node_and_its_routes_follow_its_address() {
    let mut world = World::new(35, 1);
    world.deploy_well(&hello(1));
    let mut description = world.state.nodes()[0].description.clone();
    description.address = "10.9.9.9".parse().unwrap();

    let outcome = world.apply(&Command::RegisterNode { description }).unwrap();

    assert_eq!(outcome, Outcome::Node(world.state.nodes()[0].id));
    let table = world.state.routes();
    let backend = &table.lookup(MAIN).unwrap().backends[0];
    assert_eq!(backend.address.ip().to_string(), "10.9.9.9");
}
