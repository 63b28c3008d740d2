//! Links that are cut, in one direction or in both.

use std::time::Duration;

use crate::raft::simulation::world::World;

/// A majority that can talk finds a leader within this, whatever the minority does.
const MAJORITY_WRITES_WITHIN: Duration = Duration::from_secs(5);

/// A follower that does not answer costs nobody anything.
const WRITES_BESIDE_A_HUNG_PEER: Duration = Duration::from_millis(500);
/// Who was handed the leadership and does not take it costs one election.
const WRITES_AFTER_A_LOST_HAND_OVER: Duration = Duration::from_secs(2);

pub(super) async fn partition_leader(world: &World) {
    for _ in 0..2 {
        let leader = world.some_leader().await;
        let others = world.others(&[leader]);
        world.network.part(&[leader], &others);
        world.majority_writes(&others, MAJORITY_WRITES_WITHIN).await;
        world.pass(1_000..8_000).await;
        world.network.clear();
        world.pass(100..2_000).await;
    }
}

pub(super) async fn one_way(world: &World) {
    let is_heard_first = world.random.chance(50);
    for is_heard in [is_heard_first, !is_heard_first] {
        let leader = world.some_leader().await;
        let others = world.others(&[leader]);
        for &other in &others {
            if is_heard {
                world.network.cut(other, leader);
            } else {
                world.network.cut(leader, other);
            }
        }
        world.majority_writes(&others, MAJORITY_WRITES_WITHIN).await;
        world.pass(1_000..4_000).await;
        world.network.clear();
        world.pass(100..2_000).await;
    }
}

/// At most one change of the leader for each cut: the Cloudflare shape was an endless row of them.
pub(super) async fn bridge(world: &World) {
    for _ in 0..2 {
        let leader = world.some_leader().await;
        let others = world.others(&[leader]);
        let is_leader_between = world.random.chance(34);
        let (one, other) = if is_leader_between {
            (others[0], others[1])
        } else {
            (leader, world.random.pick(&others))
        };
        let before = world.witness.leaders();
        world.network.part(&[one], &[other]);
        for _ in 0..4 {
            world.pass(800..1_600).await;
            world
                .majority_writes(&world.ids(), MAJORITY_WRITES_WITHIN)
                .await;
        }
        let changes = world.witness.leaders() - before;
        if changes > 1 {
            world.witness.wrong(format_args!(
                "{changes} changes of the leader while {one} and {other} do not see each other"
            ));
        }
        world.network.clear();
        world.pass(100..1_000).await;
    }
}

pub(super) async fn swizzle(world: &World) {
    for _ in 0..3 {
        let mut links = Vec::new();
        let ids = world.ids();
        for _ in 0..ids.len() * 2 {
            let (from, to) = (world.random.pick(&ids), world.random.pick(&ids));
            if from != to {
                world.network.cut(from, to);
                links.push((from, to));
                world.pass(0..500).await;
            }
        }
        while !links.is_empty() {
            let at = world.random.within(0..links.len() as u64);
            let (from, to) = links.swap_remove(usize::try_from(at).expect("it is an index"));
            world.network.mend(from, to);
            world.pass(0..500).await;
        }
        world.is_writable().await;
    }
}

/// Its process takes what comes and does nothing; the others do not wait for it, and when the
/// leadership is handed to it, they take it back.
pub(super) async fn hung_peer(world: &World) {
    for is_handed_over in [false, true] {
        let leader = world.some_leader().await;
        let hung = world.random.pick(&world.others(&[leader]));
        world.machine(hung).pause();
        world.pass(500..1_500).await;
        if is_handed_over {
            world.hand_over(leader, hung).await;
        }
        let others = world.others(&[hung]);
        for _ in 0..4 {
            let limit = if is_handed_over {
                WRITES_AFTER_A_LOST_HAND_OVER
            } else {
                WRITES_BESIDE_A_HUNG_PEER
            };
            world.majority_writes(&others, limit).await;
            world.pass(100..500).await;
        }
        world.machine(hung).resume();
        world.pass(300..2_000).await;
    }
}
