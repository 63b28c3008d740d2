//! A group that grows from one to five, shrinks to three others, and loses processes all the time.

use crate::raft::simulation::disk::Stop;
use crate::raft::simulation::machine::Machine;
use crate::raft::simulation::world::World;

pub(super) async fn grow_and_shrink(world: &World) {
    for id in 2..=5 {
        Machine::new(id, &world.network).start().await;
    }
    for voters in [&[1, 2, 3][..], &[1, 2, 3, 4, 5], &[3, 4, 5]] {
        let victim = world.random.pick(voters);
        let when = world.random.within(0..3);
        if when == 0 {
            world.restart(victim, Stop::Process, 0..600).await;
        }
        let change = world.change_members(voters);
        if when == 1 {
            let kill = async {
                world.pass(0..400).await;
                world.restart(victim, Stop::PowerTorn, 0..600).await;
            };
            tokio::join!(change, kill);
        } else {
            change.await;
        }
        if when == 2 {
            world.restart(victim, Stop::PowerTorn, 0..600).await;
        }
        world.pass(200..1_000).await;
        world.is_writable().await;
    }
    // The removed ones run on: they may not disturb.
    for id in [1, 2] {
        world.give_up(id);
    }
    let before = world.witness.leaders();
    world.pass(4_000..6_000).await;
    let changes = world.witness.leaders() - before;
    if changes > 0 {
        world.witness.wrong(format_args!(
            "{changes} changes of the leader after two members were removed"
        ));
    }
}
