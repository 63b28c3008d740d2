//! Disks that fail, lie, fill up or take their time.

use std::time::Duration;

use crate::raft::simulation::disk::{Failure, Stop};
use crate::raft::simulation::world::World;

/// A follower's slow disk costs nobody anything but itself.
const WRITES_BESIDE_A_SLOW_FOLLOWER: Duration = Duration::from_millis(1_500);

/// The process ends, and comes back on what is really on the disk.
pub(super) async fn flush_fails(world: &World) {
    for _ in 0..3 {
        let leader = world.some_leader().await;
        let id = world.random.pick(&[leader, world.others(&[leader])[0]]);
        let machine = world.machine(id);
        let how = world.random.pick(&[Failure::Error, Failure::Kept]);
        machine.disk.fail(world.random.within(1..10), how);
        let mut is_running = true;
        for _ in 0..200 {
            world.pass(5..15).await;
            is_running = machine.running().is_some();
            if !is_running {
                break;
            }
        }
        if is_running {
            world
                .witness
                .wrong(format_args!("{id} goes on after a flush that failed"));
        }
        world.pass(100..1_500).await;
        machine.stop(Stop::Process);
        machine.start().await;
        world.pass(200..1_500).await;
        if world.random.chance(50) {
            // What it has read since and counted as there is there.
            machine.stop(Stop::Power);
            machine.start().await;
            world.pass(200..1_500).await;
        }
    }
}

/// On fewer than half of the machines; what is damaged stays out, or does no harm.
pub(super) async fn bit_turns(world: &World) {
    let leader = world.some_leader().await;
    let ids = world.ids();
    let victim = world.random.pick(&[leader, world.others(&[leader])[0]]);
    let machine = world.machine(victim);
    let how = [Stop::Process, Stop::Power, Stop::PowerTorn];
    machine.stop(world.random.pick(&how));
    if world.random.chance(70) {
        machine.disk.damage();
    } else {
        machine.shelf.damage(world.random.number());
    }
    world.pass(0..2_000).await;
    if !machine.start().await {
        world.give_up(victim);
    }
    world.pass(500..2_000).await;
    let others: Vec<u64> = ids.into_iter().filter(|&id| id != victim).collect();
    world.majority_writes(&others, Duration::from_secs(5)).await;
}

pub(super) async fn slow_disk(world: &World) {
    for is_leader in [false, true] {
        let leader = world.some_leader().await;
        let id = if is_leader {
            leader
        } else {
            world.random.pick(&world.others(&[leader]))
        };
        let before = world.witness.leaders();
        let flush = world.random.milliseconds(100..2_000);
        world.machine(id).slow_down(flush);
        for _ in 0..6 {
            let limit = if is_leader {
                // One flush may be under way, and one more is waited for.
                flush * 3 + Duration::from_secs(3)
            } else {
                WRITES_BESIDE_A_SLOW_FOLLOWER
            };
            world.majority_writes(&world.ids(), limit).await;
            world.pass(100..600).await;
        }
        let changes = world.witness.leaders() - before;
        if changes > 1 {
            world.witness.wrong(format_args!(
                "{changes} changes of the leader because {id} flushes in {flush:?}"
            ));
        }
        world.machine(id).slow_down(Duration::from_millis(1));
        world.pass(2_000..4_000).await;
    }
}

pub(super) async fn full_disk(world: &World) {
    for _ in 0..2 {
        let leader = world.some_leader().await;
        let id = world.random.pick(&[leader, world.others(&[leader])[0]]);
        let machine = world.machine(id);
        machine.disk.fill();
        world.pass(600..4_000).await;
        world
            .majority_writes(&world.ids(), Duration::from_secs(5))
            .await;
        machine.disk.mend();
        world.pass(300..1_000).await;
        if machine.running().is_none() {
            let why = format_args!("{id} has ended because its disk was full");
            world.witness.wrong(why);
        }
    }
}
