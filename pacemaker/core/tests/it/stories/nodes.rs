//! Nodes are drained, undrained, removed, go silent and come back.

use std::collections::BTreeSet;

use common::id::{InstanceId, NodeId};
use common::instance::InstanceState;
use common::node::{NodeState, Role};
use common::time::Span;
use pacemaker_core::action::Action;
use pacemaker_core::command::{Command, RejectionCode};
use pacemaker_core::plan;

use crate::generators::{exclusive_type, instance_type, version_spec};
use crate::world::{SETTINGS, World};

use super::{MAIN, hello};

#[test]
fn drained_node_ends_empty_and_serves_until_its_replacements_do() {
    let mut world = World::new(41, 2);
    world.deploy_well(&hello(4));
    let node = first_node(&world);

    world.apply(&Command::DrainNode { node }).unwrap();
    assert_eq!(world.state.node(node).unwrap().state, NodeState::Draining);
    world.eventually("the node is empty", 20_000, |world| {
        assert!(backends(world).len() >= 4, "fewer are routed than before");
        world.state.instances_on(node) == 0
    });
    assert!(world.hearts[&node].processes.is_empty());
    assert_eq!(world.state.instances().len(), 4);

    world.apply(&Command::RemoveNode { node }).unwrap();
    assert!(!world.state.is_node(node));
}

#[test]
fn undrained_node_keeps_what_still_runs_there() {
    let mut world = World::new(42, 2);
    world.deploy_well(&hello(2));
    let before: BTreeSet<InstanceId> = world.state.instances().keys().copied().collect();
    let node = first_node(&world);

    world.apply(&Command::DrainNode { node }).unwrap();
    world.lead();
    world.apply(&Command::UndrainNode { node }).unwrap();
    world.run_for(5_000);

    let after: BTreeSet<InstanceId> = world.state.instances().keys().copied().collect();
    assert_eq!(after, before);
    assert_eq!(world.state.node(node).unwrap().state, NodeState::Active);
}

#[test]
fn drain_that_cannot_be_met_keeps_the_instances_and_says_why() {
    let mut world = World::new(43, 1);
    let target = world.deploy_well(&hello(2));
    let node = first_node(&world);
    let before = world.state.routes();

    world.apply(&Command::DrainNode { node }).unwrap();
    world.run_for(5_000);

    assert_eq!(world.state.routes(), before);
    let why = world
        .state
        .explain_application(target.application, &world.sightings)
        .unwrap();
    let text = why.lines.join("\n");
    assert!(text.contains("is being drained"), "{text}");
    assert!(text.contains("no other node can take"), "{text}");

    // A second node comes: the drain goes on by itself.
    world.add_node(2, &[Role::Heart, Role::Router]);
    world.eventually("the node is empty", 20_000, |world| {
        world.state.instances_on(node) == 0
    });
}

#[test]
fn exclusive_type_is_laid_out_elsewhere_before_it_stops_on_a_drained_node() {
    let mut world = World::new(44, 2);
    world.deploy_well(&version_spec("hello", vec![exclusive_type("single", 1)]));
    let old = world.state.instances().values().next().unwrap().clone();

    world.apply(&Command::DrainNode { node: old.node }).unwrap();
    world.eventually("the old one stops", 10_000, |world| {
        let replacement = world
            .state
            .instances()
            .values()
            .find(|instance| instance.id != old.id);
        let is_ready =
            replacement.is_some_and(|other| other.seen.state == InstanceState::Registered);
        let is_stopping = world
            .state
            .instances()
            .get(&old.id)
            .is_none_or(|old| !old.wants_process());
        assert!(
            is_ready || !is_stopping,
            "it stops before the other is ready"
        );
        let alive = world
            .hearts
            .values()
            .flat_map(|heart| heart.processes.values())
            .filter(|process| process.is_alive)
            .count();
        assert!(alive <= 1, "it runs twice");
        is_stopping
    });
    world.eventually("the new one runs", 10_000, |world| {
        let instances: Vec<_> = world.state.instances().values().collect();
        instances.len() == 1
            && instances[0].node != old.node
            && instances[0].seen.state == InstanceState::Running
    });
}

#[test]
fn node_with_instances_is_removed_only_when_it_is_down() {
    let mut world = World::new(45, 2);
    world.deploy_well(&hello(2));
    let node = first_node(&world);

    let refusal = world.apply(&Command::RemoveNode { node }).unwrap_err();
    assert_eq!(refusal.code, RejectionCode::Busy);

    silence(&mut world, node);
    world.eventually("it is down", 10_000, |world| {
        world.state.node(node).unwrap().state == NodeState::Down
    });
    world.apply(&Command::RemoveNode { node }).unwrap();
    world.eventually("both run elsewhere", 10_000, |world| {
        backends(world).len() == 2 && world.state.instances().len() == 2
    });
    let refusal = world.apply(&Command::RemoveNode { node }).unwrap_err();
    assert_eq!(refusal.code, RejectionCode::NodeNotFound);
}

#[test]
fn node_is_not_removed_while_an_exclusive_instance_may_still_run_there() {
    let mut world = World::new(46, 2);
    world.deploy_well(&version_spec("hello", vec![exclusive_type("single", 1)]));
    let node = world.state.instances().values().next().unwrap().node;
    silence(&mut world, node);
    world.eventually("it is down", 10_000, |world| {
        world.state.node(node).unwrap().state == NodeState::Down
    });

    let refusal = world.apply(&Command::RemoveNode { node }).unwrap_err();
    assert_eq!(refusal.code, RejectionCode::Busy, "{refusal}");
    assert!(refusal.message.contains("exclusive"), "{refusal}");

    // The wait begins anew when it is told to go, which is after its requests have drained.
    world.run_for(SETTINGS.drain_limit.0 + 2 * SETTINGS.node_ttl.0 + 300);
    world.apply(&Command::RemoveNode { node }).unwrap();
}

#[test]
fn replacement_that_runs_stays_when_the_silent_node_comes_back() {
    let mut world = World::new(47, 2);
    world.deploy_well(&hello(1));
    let old = world.state.instances().values().next().unwrap().clone();
    silence(&mut world, old.node);
    world.eventually("the replacement runs", 10_000, |world| {
        let new = world
            .state
            .instances()
            .values()
            .find(|one| one.id != old.id);
        new.is_some_and(|new| new.seen.state == InstanceState::Running)
    });
    hear(&mut world, old.node);

    world.eventually("one remains", 5_000, |world| {
        world.state.instances().len() == 1
    });
    assert!(!world.state.instances().contains_key(&old.id));
}

#[test]
fn returned_instance_stays_when_its_replacement_does_not_run_yet() {
    let mut world = World::new(48, 2);
    world.deploy_well(&hello(1));
    let old = world.state.instances().values().next().unwrap().clone();
    silence(&mut world, old.node);
    world.eventually("a replacement is placed", 10_000, |world| {
        world.state.instances().len() == 2
    });
    hear(&mut world, old.node);
    // Its heart hears of it and no more: it takes long to lay out.
    for heart in world
        .hearts
        .values_mut()
        .filter(|heart| heart.node != old.node)
    {
        heart.is_up = false;
    }
    world.eventually("the returned one runs", 900, |world| {
        world.state.instances()[&old.id].seen.state == InstanceState::Running
    });
    for heart in world.hearts.values_mut() {
        heart.is_up = true;
    }

    world.eventually("one remains", 5_000, |world| {
        world.state.instances().len() == 1
    });
    assert!(world.state.instances().contains_key(&old.id));
}

#[test]
fn every_node_has_one_ttl_of_grace_after_a_change_of_leader() {
    let mut world = World::new(49, 2);
    world.deploy_well(&hello(2));
    world.elect();

    let just_before = world.now.after(Span(SETTINGS.node_ttl.0 - 1));
    let early = plan(&world.state, &world.sightings, just_before);
    let late = plan(
        &world.state,
        &world.sightings,
        world.now.after(SETTINGS.node_ttl),
    );

    let marks = |actions: &[Action]| {
        let is_mark = |action: &&Action| matches!(action, Action::MarkSilent { .. });
        actions.iter().filter(is_mark).count()
    };
    assert_eq!((marks(&early), marks(&late)), (0, 4));
}

#[test]
fn answered_probe_is_a_sign_of_life_but_not_for_ever() {
    let mut world = World::new(50, 2);
    world.deploy_well(&hello(2));
    let node = first_node(&world);
    silence(&mut world, node);
    let since = world.now;

    world.eventually("it is down", 20_000, |world| {
        world.state.node(node).unwrap().state == NodeState::Down
    });
    let without = world.now.since(since);

    hear(&mut world, node);
    world.eventually("it is back", 5_000, |world| {
        world.state.node(node).unwrap().state == NodeState::Active
    });
    silence(&mut world, node);
    let since = world.now;
    while world.state.node(node).unwrap().state == NodeState::Active {
        let now = world.now;
        world.sightings.probes.insert(node, now);
        world.step();
    }
    let with = world.now.since(since);
    assert!(without < Span(2_000), "{without:?}");
    assert!(Span(9_000) < with && with < Span(11_000), "{with:?}");
}

#[test]
fn instance_that_keeps_crashing_on_one_node_is_replaced_on_another() {
    let mut world = World::new(51, 2);
    world.deploy_well(&version_spec("hello", vec![instance_type("web", 1)]));
    let old = world.state.instances().values().next().unwrap().clone();

    let end = world.now.after(Span(30_000));
    while world.state.instances().contains_key(&old.id) {
        assert!(world.now < end, "{:#?}", world.state.instances());
        let now = world.now;
        let heart = world.hearts.get_mut(&old.node).unwrap();
        heart.crash(old.id, now, 40);
        world.step();
    }
    assert_eq!(backends(&world).len(), 1);
}

fn first_node(world: &World) -> NodeId {
    *world.hearts.first_key_value().unwrap().0
}

fn backends(world: &World) -> Vec<InstanceId> {
    let table = world.state.routes();
    let route = table.lookup(MAIN).unwrap();
    route
        .backends
        .iter()
        .map(|backend| backend.instance)
        .collect()
}

fn silence(world: &mut World, node: NodeId) {
    world.hearts.get_mut(&node).unwrap().is_connected = false;
    world.routers.get_mut(&node).unwrap().is_connected = false;
}

fn hear(world: &mut World, node: NodeId) {
    world.hearts.get_mut(&node).unwrap().is_connected = true;
    world.routers.get_mut(&node).unwrap().is_connected = true;
}
