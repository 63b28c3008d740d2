//! Wall clocks that are set, and that run too fast or too slowly.

use std::time::Duration;

use crate::raft::simulation::disk::Stop;
use crate::raft::simulation::world::World;

/// Milliseconds of a day.
const DAY: i64 = 24 * 3_600 * 1_000;
/// Of a thousand milliseconds, how many a bad clock counts too many or too few.
const RATE: i64 = 100;
/// A clock is nobody's business but that of the time in the log.
const WRITES_WHATEVER_THE_CLOCK: Duration = Duration::from_millis(1_500);

/// The leader's clock, and then any other's: forward, back, too fast, too slow.
pub(super) async fn set_clocks(world: &World) {
    for (by, rate) in [(DAY, 0), (-DAY, 0), (-DAY, RATE), (DAY, -RATE), (0, 0)] {
        let leader = world.some_leader().await;
        let other = world.random.pick(&world.others(&[leader]));
        let before = world.witness.leaders();
        for id in [leader, other] {
            world.machine(id).set_clock(by, rate);
            for _ in 0..2 {
                let earlier = world.log_time();
                world.pass(100..600).await;
                world
                    .majority_writes(&world.ids(), WRITES_WHATEVER_THE_CLOCK)
                    .await;
                if world.log_time() <= earlier {
                    world.witness.wrong(format_args!(
                        "the time in the log stands still at {earlier}"
                    ));
                }
            }
        }
        let changes = world.witness.leaders() - before;
        if changes > 0 {
            world.witness.wrong(format_args!(
                "{changes} changes of the leader because clocks were set by {by} ms"
            ));
        }
        // The time in the log outlives who counted it, whose clock may be a day behind.
        world.restart(leader, Stop::Process, 50..800).await;
        world.pass(200..1_500).await;
    }
}
