//! H8, E5: when the successor of an exclusive instance may start whose node is silent.

use common::assignment::FENCE_GRACE;
use common::id::NodeId;
use common::instance::InstanceState;
use common::node::NodeState;
use common::time::{Span, Timestamp};
use pacemaker_core::action::Action;
use pacemaker_core::plan;
use proptest::prelude::*;

use crate::generators::{exclusive_type, version_spec};
use crate::world::{SETTINGS, STEP, World};

/// Silence, the wait for the lease, and the grace that a lease leaves.
const WAITS: Span = Span(2 * SETTINGS.node_ttl.0 + FENCE_GRACE.0);
/// Reports, commits, draining that is found to be over, and the start elsewhere.
const STEPS: Span = Span(3_500);

/// A cluster of three in which one exclusive instance runs, and its node.
fn running(seed: u64, grace: Span) -> (World, NodeId) {
    let mut world = World::new(seed, 3);
    let mut single = exclusive_type("single", 1);
    single.stop.grace = grace;
    world.deploy_well(&version_spec("hello", vec![single]));
    let node = world.state.instances().values().next().unwrap().node;
    (world, node)
}

fn alive(world: &World) -> Vec<NodeId> {
    let is_alive = |node: &NodeId| {
        let processes = world.hearts[node].processes.values();
        processes.into_iter().any(|process| process.is_alive)
    };
    world.hearts.keys().copied().filter(is_alive).collect()
}

/// Cuts a node off and says when another runs the instance; two are never alive.
fn replaced(world: &mut World, cut: NodeId, mut meanwhile: impl FnMut(&mut World)) -> Span {
    let since = world.now;
    world.hearts.get_mut(&cut).unwrap().is_connected = false;
    world.routers.get_mut(&cut).unwrap().is_connected = false;
    loop {
        world.step();
        meanwhile(world);
        let alive = alive(world);
        assert!(alive.len() <= 1, "two are alive: {alive:?}");
        if alive.iter().any(|node| *node != cut) {
            return world.now.since(since);
        }
        assert!(
            world.now.since(since) < Span::seconds(120),
            "nobody runs it"
        );
    }
}

#[test]
fn h8_successor_waits_for_the_lease_and_not_for_the_grace_of_the_manifest() {
    let (mut world, node) = running(81, Span::seconds(30));

    let waited = replaced(&mut world, node, |_| {});

    assert!(waited <= Span(WAITS.0 + STEPS.0), "{waited}");
}

#[test]
fn e5_clock_that_is_set_starts_no_second_exclusive_instance() {
    let (mut world, node) = running(82, Span::seconds(30));
    world.hearts.get_mut(&node).unwrap().is_connected = false;
    world.routers.get_mut(&node).unwrap().is_connected = false;
    world.eventually("it is to go, and lost", 20_000, |world| {
        let mut instances = world.state.instances().values();
        world.state.node(node).unwrap().state == NodeState::Down
            && instances.any(|one| {
                one.seen.state == InstanceState::Lost && !one.wants_process() && !one.quiet
            })
    });

    // The leader's clock is set by a day, which it takes for a pause: all nodes have time again.
    let set = world.now.after(Span::seconds(24 * 3_600));
    world.sightings.elected = set;

    let presumes = |at: Timestamp| {
        plan(&world.state, &world.sightings, at)
            .iter()
            .any(|action| matches!(action, Action::PresumeStopped { .. }))
    };
    let wait = Span(SETTINGS.node_ttl.0 + FENCE_GRACE.0);
    assert!(!presumes(set));
    assert!(!presumes(set.after(Span(wait.0 - 1))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the grace, the mail, the commits and the elections: never two, and in bounded time.
    #[test]
    fn h8_successor_starts_after_the_lease_and_soon(
        seed in 0..10_000_u64,
        grace in 0..120_000_u64,
        mail_delay in 0..300_u64,
        commit_delay in 0..200_u64,
        elections in proptest::collection::vec(0..4_000_u64, 0..3),
    ) {
        let (mut world, node) = running(seed, Span(grace));
        world.mail_delay = mail_delay;
        world.commit_delay = commit_delay;
        world.run_for(seed % 500);
        let begin = world.now;
        let mut at: Vec<Timestamp> = elections.iter().map(|after| begin.after(Span(*after))).collect();

        let waited = replaced(&mut world, node, |world| {
            let now = world.now;
            if at.iter().any(|at| *at <= now) {
                at.retain(|at| *at > now);
                world.elect();
            }
        });

        // Each leader counts all of it anew.
        let latest = elections.iter().max().copied().unwrap_or(0);
        let bound = Span(latest + WAITS.0 + STEPS.0 + 10 * commit_delay + mail_delay + STEP);
        prop_assert!(waited <= bound, "{waited} and not {bound}");
    }
}
