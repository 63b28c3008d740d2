//! Which instance is called: the one with the fewest calls under way, then the one whose turn it is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::id::InstanceId;
use pacemaker_core::crons::CronTarget;

/// Instances that are remembered though they are not being called; past it their turns begin anew.
const REMEMBERED_MAX: usize = 10_000;

/// What this pacemaker knows of the calls under way; clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice(Arc<Mutex<Turns>>);

#[derive(Debug, Default)]
struct Turns {
    calls: BTreeMap<InstanceId, Calls>,
    turn: u64,
}

/// Of one instance. The order is the order of preference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Calls {
    in_flight: u32,
    /// The turn in which it was last taken.
    taken: u64,
}

/// A call under way; it is over when this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    choice: Choice,
    instance: InstanceId,
}

impl Choice {
    /// Takes one of the targets that were not tried yet.
    pub(super) fn take(
        &self,
        targets: &[CronTarget],
        tried: &[InstanceId],
    ) -> Option<(CronTarget, Taken)> {
        let mut turns = self.turns();
        let target = *targets
            .iter()
            .filter(|target| !tried.contains(&target.instance))
            .min_by_key(|target| {
                let calls = turns.calls.get(&target.instance);
                (calls.copied().unwrap_or_default(), target.instance)
            })?;
        if turns.calls.len() >= REMEMBERED_MAX {
            turns.calls.retain(|_, calls| calls.in_flight > 0);
        }
        turns.turn += 1;
        let taken = turns.turn;
        let calls = turns.calls.entry(target.instance).or_default();
        calls.in_flight += 1;
        calls.taken = taken;
        let taken = Taken {
            choice: self.clone(),
            instance: target.instance,
        };
        Some((target, taken))
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(calls) = self.choice.turns().calls.get_mut(&self.instance) {
            calls.in_flight = calls.in_flight.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use common::id::NodeId;

    use super::*;

    #[test]
    fn calls_go_to_the_idlest_instance_and_then_in_turn() {
        let choice = Choice::default();
        let targets: Vec<CronTarget> = (1..=3)
            .map(|instance| CronTarget {
                instance: InstanceId(instance),
                node: NodeId(1),
                address: ([127, 0, 0, 1], 80).into(),
            })
            .collect();
        let take = |tried: &[InstanceId]| choice.take(&targets, tried);
        let number = |taken: &Option<(CronTarget, Taken)>| {
            taken.as_ref().map(|(target, _)| target.instance.0)
        };

        let first = take(&[]);
        let second = take(&[]);
        assert_eq!((number(&first), number(&second)), (Some(1), Some(2)));
        drop(first);
        assert_eq!(number(&take(&[])), Some(3), "1 had its turn");
        assert_eq!(number(&take(&[])), Some(1), "2 is busy");
        assert_eq!(number(&take(&[InstanceId(1), InstanceId(3)])), Some(2));
        let all = [1, 2, 3].map(InstanceId);
        assert_eq!(number(&take(&all)), None);
    }
}
