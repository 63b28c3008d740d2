//! From a source to a serving version, or to a failure that says why.

use std::collections::BTreeMap;

use common::api::VersionState;
use common::id::{ApplicationId, InstanceTypeName, VersionNumber};
use common::job::{JobState, StepName};
use pacemaker_core::command::{Command, RejectionCode, VersionTarget};

use crate::generators::{standalone_type, version_spec, with_prepare};
use crate::world::{Behaviour, SETTINGS, World};

use super::{MAIN, current, hello, job_of, state_of, versions_in};

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
            cron_key: None,
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
