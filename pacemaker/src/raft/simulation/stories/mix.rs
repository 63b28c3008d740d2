//! Whatever comes: crashes, power losses, pauses, cuts, bad weather and slow disks in any order.

use std::time::Duration;

use crate::raft::simulation::disk::{Failure, Stop};
use crate::raft::simulation::world::World;

/// Faults in a run.
const FAULTS: usize = 25;

pub(super) async fn everything(world: &World) {
    for _ in 0..FAULTS {
        fault(world).await;
        world.pass(20..900).await;
    }
}

async fn fault(world: &World) {
    let ids = world.ids();
    let id = world.random.pick(&ids);
    let machine = world.machine(id);
    match world.random.within(0..14) {
        0 => machine.stop(Stop::Process),
        1 => machine.stop(Stop::Power),
        2 => machine.stop(Stop::PowerTorn),
        3 => machine
            .disk
            .fail(world.random.within(1..30), Failure::Power),
        4 => machine.disk.fail(
            world.random.within(1..30),
            if world.random.chance(50) {
                Failure::Error
            } else {
                Failure::Kept
            },
        ),
        5 => machine.pause(),
        6 => machine.resume(),
        7 => {
            let other = world.random.pick(&ids);
            world.network.cut(id, other);
            if world.random.chance(60) {
                world.network.cut(other, id);
            }
        }
        8 => world.network.part(&[id], &world.others(&[id])),
        9 => {
            world.network.clear();
            let mut weather = world.network.weather();
            weather.loss = world.random.within(0..30);
            weather.repeated = world.random.within(0..30);
            weather.slow = world.random.within(0..30);
        }
        10 => machine.slow_down(world.random.milliseconds(1..500)),
        11 => {
            if let Some(leader) = world.leader() {
                world.hand_over(leader, id).await;
            }
        }
        // Something gets better, more often than each thing gets worse.
        _ => {
            world.network.clear();
            machine.slow_down(Duration::from_millis(1));
            for machine in world.network.machines() {
                machine.resume();
                machine.start().await;
            }
        }
    }
}
