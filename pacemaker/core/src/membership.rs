//! Who votes in the Raft group: pure rules, asked by the leader's membership task.
//!
//! The number of voters is odd by wish (1, 3, 5): an even one tolerates no more losses than the odd
//! one below it and needs one more disk for each write. So learners stand by until enough of them
//! have caught up for the next odd number. Nobody is demoted by these rules.

use std::collections::BTreeSet;

use common::id::NodeId;

/// More voters make every write slower and tolerate losses that nobody plans for.
pub const VOTERS_MAX: usize = 5;

/// The learners that are to become voters, together in one change; empty when none.
///
/// `caught_up` are learners that hold the log, as good as the voters do. Those with the smallest
/// numbers are promoted, so that the choice is the same on every leader.
#[must_use]
pub fn wanted(voters: &BTreeSet<NodeId>, caught_up: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let Some(missing) = next_odd(voters.len()).checked_sub(voters.len()) else {
        return BTreeSet::new();
    };
    let learners: BTreeSet<NodeId> = caught_up.difference(voters).copied().collect();
    if voters.is_empty() || learners.len() < missing {
        return BTreeSet::new();
    }
    learners.into_iter().take(missing).collect()
}

/// True when `node` may be taken out: of the voters that remain, a majority is alive.
///
/// A learner may always go; the only voter never.
#[must_use]
pub fn may_remove(voters: &BTreeSet<NodeId>, live: &BTreeSet<NodeId>, node: NodeId) -> bool {
    if !voters.contains(&node) {
        return true;
    }
    let rest = || voters.iter().filter(|voter| **voter != node);
    let alive = rest().filter(|voter| live.contains(voter)).count();
    alive.saturating_mul(2) > rest().count()
}

/// The number of voters that comes after this one: 1, 3, 5, and no more.
fn next_odd(voters: usize) -> usize {
    match voters {
        0 => 1,
        1 | 2 => 3,
        3 | 4 => VOTERS_MAX,
        more => more,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_become_one_then_three_then_five_and_never_more() {
        for (voters, caught_up, promoted) in [
            (&[1][..], &[][..], &[][..]),
            (&[1], &[2], &[]),
            (&[1], &[2, 3], &[2, 3]),
            (&[1], &[2, 3, 4, 5], &[2, 3]),
            (&[1, 2], &[3], &[3]),
            (&[1, 2], &[3, 4], &[3]),
            (&[1, 2, 3], &[4], &[]),
            (&[1, 2, 3], &[4, 5, 6], &[4, 5]),
            (&[1, 2, 3, 4], &[7], &[7]),
            (&[1, 2, 3, 4, 5], &[6, 7], &[]),
            (&[1, 2, 3, 4, 5, 6], &[7], &[]),
            (&[], &[1, 2, 3], &[]),
            // A voter that is listed as a learner too is not promoted twice.
            (&[1, 2, 3], &[3, 4], &[]),
        ] {
            assert_eq!(
                wanted(&nodes(voters), &nodes(caught_up)),
                nodes(promoted),
                "{voters:?} with {caught_up:?}"
            );
        }
    }

    #[test]
    fn removal_keeps_a_live_majority_of_the_rest() {
        for (voters, live, node, may) in [
            (&[1][..], &[1][..], 1, false),
            (&[1, 2], &[1, 2], 2, true),
            (&[1, 2], &[1], 2, true),
            (&[1, 2], &[2], 2, false),
            (&[1, 2, 3], &[1, 2, 3], 3, true),
            // Two remain, and a majority of two is both.
            (&[1, 2, 3], &[1, 3], 3, false),
            (&[1, 2, 3], &[1, 2], 3, true),
            (&[1, 2, 3, 4, 5], &[1, 2, 5], 5, false),
            (&[1, 2, 3, 4, 5], &[1, 2, 3], 5, true),
            // A learner, whoever lives.
            (&[1, 2, 3], &[], 4, true),
        ] {
            assert_eq!(
                may_remove(&nodes(voters), &nodes(live), NodeId(node)),
                may,
                "{node} of {voters:?}, {live:?} alive"
            );
        }
    }

    fn nodes(numbers: &[u64]) -> BTreeSet<NodeId> {
        numbers.iter().copied().map(NodeId).collect()
    }
}
