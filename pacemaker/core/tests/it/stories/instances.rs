//! Instances come, go, crash and get lost.

use std::collections::BTreeMap;

use common::api::VersionState;
use common::id::InstanceTypeName;
use common::instance::InstanceState;
use common::job::JobState;
use pacemaker_core::command::{Command, Outcome, RejectionCode};

use crate::world::{SETTINGS, World};

use super::{MAIN, current, hello, job_of, state_of};

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
