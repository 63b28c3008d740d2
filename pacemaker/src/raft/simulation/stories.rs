//! The faults, one story each, named after the cases of the catalogue.

mod clocks;
mod crashes;
mod disks;
mod links;
mod members;
mod mix;

use crate::raft::simulation::world::{Verdict, World};

/// What happens in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Story {
    /// R1: the leader's process is killed, again and again.
    KillLeader,
    /// R2: all processes are killed at once, in the middle of work.
    KillAll,
    /// R3: one machine, then two, then all lose their power, and what they had not flushed.
    PowerLoss,
    /// R4: the leader is cut off from all others.
    PartitionLeader,
    /// R5: the leader is heard and hears nothing, or the other way round.
    OneWay,
    /// R6: two machines do not see each other, and both see the third.
    Bridge,
    /// R7: links are clogged one by one, and mended in another order.
    Swizzle,
    /// R8: the leader stands still for seconds and goes on.
    PauseLeader,
    /// R10: a follower takes everything and answers nothing.
    HungPeer,
    /// R11: one voter, three, five, three others; with kills.
    Members,
    /// E1: a flush fails.
    FlushFails,
    /// E2: a bit turns on a machine that is down.
    BitTurns,
    /// E3: a flush takes seconds.
    SlowDisk,
    /// E4: a disk is full for a while.
    FullDisk,
    /// E5: wall clocks are set by a day, or run too fast or too slowly.
    SetClocks,
    /// Everything at once.
    Mix,
}

impl Story {
    /// All of them.
    pub(crate) const ALL: [Self; 16] = [
        Self::KillLeader,
        Self::KillAll,
        Self::PowerLoss,
        Self::PartitionLeader,
        Self::OneWay,
        Self::Bridge,
        Self::Swizzle,
        Self::PauseLeader,
        Self::HungPeer,
        Self::Members,
        Self::FlushFails,
        Self::BitTurns,
        Self::SlowDisk,
        Self::FullDisk,
        Self::SetClocks,
        Self::Mix,
    ];

    /// As it is given in the environment.
    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }

    /// Tells it.
    pub(crate) async fn tell(self, seed: u64, is_verbose: bool) -> Verdict {
        let world = World::new(seed, self.machines(seed), is_verbose).await;
        world.pass(100..400).await;
        match self {
            Self::KillLeader => crashes::kill_leader(&world).await,
            Self::KillAll => crashes::kill_all(&world).await,
            Self::PowerLoss => crashes::power_loss(&world).await,
            Self::PauseLeader => crashes::pause_leader(&world).await,
            Self::PartitionLeader => links::partition_leader(&world).await,
            Self::OneWay => links::one_way(&world).await,
            Self::Bridge => links::bridge(&world).await,
            Self::Swizzle => links::swizzle(&world).await,
            Self::HungPeer => links::hung_peer(&world).await,
            Self::Members => members::grow_and_shrink(&world).await,
            Self::FlushFails => disks::flush_fails(&world).await,
            Self::BitTurns => disks::bit_turns(&world).await,
            Self::SlowDisk => disks::slow_disk(&world).await,
            Self::FullDisk => disks::full_disk(&world).await,
            Self::SetClocks => clocks::set_clocks(&world).await,
            Self::Mix => mix::everything(&world).await,
        }
        world.finish().await
    }

    fn machines(self, seed: u64) -> u64 {
        match self {
            Self::Members => 1,
            // Two that do not see each other, and one between.
            Self::Bridge => 3,
            Self::KillLeader
            | Self::KillAll
            | Self::PowerLoss
            | Self::PartitionLeader
            | Self::OneWay
            | Self::Swizzle
            | Self::PauseLeader
            | Self::HungPeer
            | Self::FlushFails
            | Self::BitTurns
            | Self::SlowDisk
            | Self::FullDisk
            | Self::SetClocks
            | Self::Mix => {
                if seed.is_multiple_of(4) {
                    5
                } else {
                    3
                }
            }
        }
    }
}
