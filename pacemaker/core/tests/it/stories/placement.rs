//! Where instances go: tags, zones, spread, what machines have free.

use std::collections::BTreeMap;

use common::application::{InstanceTypeSpec, PlacementSpec};
use common::assignment::Load;
use common::id::NodeId;
use common::node::{NodeDescription, Role};
use pacemaker_core::action::Action;
use pacemaker_core::command::{Command, RejectionCode};
use pacemaker_core::plan;

use crate::generators::{instance_type, node, version_spec};
use crate::world::{Behaviour, World};

/// A world of nodes in these zones, each with a tag that says its number.
fn world(zones: &[&str]) -> World {
    let mut world = World::new(61, 0);
    for (number, zone) in (1..).zip(zones) {
        world.add_node(number, &[Role::Heart]);
        let description = NodeDescription {
            zone: Some((*zone).to_owned()),
            tags: BTreeMap::from([("number".to_owned(), number.into())]),
            ..node(number, &[Role::Heart])
        };
        world.apply(&Command::RegisterNode { description }).unwrap();
    }
    world
}

fn placed(quantity: u32, placement: PlacementSpec) -> InstanceTypeSpec {
    InstanceTypeSpec {
        placement,
        ..instance_type("web", quantity)
    }
}

/// The nodes of the instances that a deployment would place, sorted.
fn places(world: &mut World, spec: InstanceTypeSpec) -> Vec<u64> {
    let spec = version_spec("hello", vec![spec]);
    world.deploy(&spec, Behaviour::Good, true).unwrap();
    let mut nodes: Vec<u64> = plan(&world.state, &world.sightings, world.now)
        .into_iter()
        .filter_map(|action| match action {
            Action::Place { node, .. } => Some(node.0),
            _ => None,
        })
        .collect();
    nodes.sort_unstable();
    nodes
}

#[test]
fn every_tag_and_the_zone_must_match() {
    let mut world = world(&["a", "a", "b"]);
    let by_tag = PlacementSpec {
        tags: BTreeMap::from([("number".to_owned(), 2.into())]),
        ..PlacementSpec::default()
    };
    assert_eq!(places(&mut world, placed(2, by_tag.clone())), [2, 2]);

    let both = PlacementSpec {
        zone: Some("b".to_owned()),
        ..by_tag
    };
    let spec = version_spec("other", vec![placed(1, both)]);
    let refusal = world.deploy(&spec, Behaviour::Good, true).unwrap_err();
    assert_eq!(refusal.code, RejectionCode::NotOffered);
}

#[test]
fn instances_are_spread_over_nodes_and_then_over_zones() {
    let mut world = world(&["a", "a", "a", "b"]);
    let spec = placed(2, PlacementSpec::default());
    assert_eq!(
        places(&mut world, spec),
        [1, 4],
        "another zone before an equal node"
    );
}

#[test]
fn instances_are_spread_over_zones_first_where_the_manifest_asks_for_it() {
    let mut world = world(&["a", "a", "a", "b"]);
    let spec = placed(
        4,
        PlacementSpec {
            spread_zones: true,
            ..PlacementSpec::default()
        },
    );
    assert_eq!(places(&mut world, spec), [1, 2, 4, 4]);
}

#[test]
fn more_memory_free_comes_before_more_processor_and_unknown_counts_as_half() {
    let mut world = world(&["a", "a", "a", "a"]);
    world.run_for(500);
    let loads = [(1, 16, 0), (2, 48, 16_000), (3, 48, 1_000)];
    for (number, gibibytes_free, load_milli) in loads {
        let sighting = world.sightings.hearts.get_mut(&NodeId(number)).unwrap();
        sighting.report.load = Load {
            memory_total: 64 << 30,
            memory_available: gibibytes_free << 30,
            cpus: 16,
            load_milli,
            disk_available: 0,
        };
    }
    let first = |world: &mut World, quantity: u32| {
        let spec = placed(quantity, PlacementSpec::default());
        places(world, spec)
    };
    // The fourth has said nothing: it comes after those with more than half free.
    assert_eq!(first(&mut world, 3), [2, 3, 4]);
}

#[test]
fn many_placed_at_once_do_not_pile_up_on_the_emptiest_node() {
    let mut world = world(&["a", "a"]);
    world.run_for(500);
    for (number, gibibytes_free) in [(1, 4), (2, 3)] {
        let sighting = world.sightings.hearts.get_mut(&NodeId(number)).unwrap();
        sighting.report.load = Load {
            memory_total: 8 << 30,
            memory_available: gibibytes_free << 30,
            cpus: 16,
            ..Load::default()
        };
    }
    let types = (0..20).map(|number| instance_type(&format!("web{number}"), 1));
    let spec = version_spec("hello", types.collect());
    world.deploy(&spec, Behaviour::Good, true).unwrap();
    let plan = plan(&world.state, &world.sightings, world.now);
    let on_first = plan
        .iter()
        .filter(|action| {
            matches!(
                action,
                Action::Place {
                    node: NodeId(1),
                    ..
                }
            )
        })
        .count();
    // What is placed counts as 128 MiB until it runs, so the second node's turn comes.
    assert!(
        (10..20).contains(&on_first),
        "{on_first} of 20 on the first"
    );
}

#[test]
fn placement_that_cannot_be_met_is_explained_node_by_node() {
    let mut world = world(&["a", "b", "b"]);
    let spec = placed(
        1,
        PlacementSpec {
            tags: BTreeMap::from([("number".to_owned(), 3.into())]),
            zone: Some("b".to_owned()),
            spread_zones: false,
        },
    );
    let spec = version_spec("hello", vec![spec]);
    let (job, _) = world.deploy(&spec, Behaviour::Good, true).unwrap();
    world
        .apply(&Command::DrainNode { node: NodeId(3) })
        .unwrap();
    world.run_for(500);

    let text = world
        .state
        .explain_job(job, &world.sightings)
        .unwrap()
        .lines
        .join("\n");
    for line in [
        "node 1 (node1) has the tag number: 1, and `placement` asks for 3",
        "node 3 (node3) is being drained",
    ] {
        assert!(text.contains(line), "{text}");
    }
}
