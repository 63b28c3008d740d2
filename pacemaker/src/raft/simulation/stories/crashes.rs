//! Processes that end, machines that lose power, processes that stand still.

use crate::raft::simulation::disk::{Failure, Stop};
use crate::raft::simulation::world::World;

pub(super) async fn kill_leader(world: &World) {
    for _ in 0..4 {
        let leader = world.some_leader().await;
        world.restart(leader, Stop::Process, 50..2_000).await;
        world.pass(0..1_500).await;
    }
}

pub(super) async fn kill_all(world: &World) {
    for _ in 0..3 {
        for id in world.ids() {
            world.machine(id).stop(Stop::Process);
        }
        for id in world.ids() {
            world.pass(0..700).await;
            world.machine(id).start().await;
        }
        world.pass(200..2_000).await;
    }
}

/// On the first machine the power goes in the middle of a flush, on the others at any time.
pub(super) async fn power_loss(world: &World) {
    for count in 1..=3 {
        let leader = world.some_leader().await;
        let mut ids = world.ids();
        ids.sort_by_key(|&id| (id != leader, id));
        if world.random.chance(50) {
            ids.reverse();
        }
        ids.truncate(count);
        let first = world.machine(ids[0]);
        first.disk.fail(world.random.within(1..20), Failure::Power);
        for _ in 0..100 {
            world.pass(5..10).await;
            if first.running().is_none() {
                break;
            }
        }
        for &id in &ids {
            let how = world.random.pick(&[Stop::Power, Stop::PowerTorn]);
            world.machine(id).stop(how);
        }
        world.pass(0..800).await;
        for &id in &ids {
            world.machine(id).start().await;
            world.pass(0..500).await;
        }
        world.pass(300..2_000).await;
    }
}

pub(super) async fn pause_leader(world: &World) {
    for _ in 0..2 {
        let leader = world.some_leader().await;
        world.machine(leader).pause();
        world.pass(3_000..6_000).await;
        world.machine(leader).resume();
        world.pass(200..2_000).await;
    }
}
