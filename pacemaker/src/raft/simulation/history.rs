//! What the clients were told, and whether one order of all of it explains it.
//!
//! The log is that order: a write has its place where its key first had its effect, a read where
//! the state that it saw ends. It is linearizable when no operation that began after another had
//! ended has its place before it.

use std::collections::BTreeMap;

use pacemaker_core::command::Outcome;

use crate::raft::simulation::witness::Witness;

/// Everything that was answered, in the order of the answers.
#[derive(Debug, Default)]
pub(crate) struct History {
    operations: Vec<Operation>,
}

/// One operation that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// In milliseconds of the run.
    pub(crate) begun: u64,
    /// In milliseconds of the run.
    pub(crate) ended: u64,
    /// What came of it.
    pub(crate) done: Done,
}

/// What came of an operation.
#[derive(Clone, Debug)]
pub(crate) enum Done {
    /// A workspace was made.
    Write {
        /// Its idempotency key.
        key: String,
        /// What the client was told.
        outcome: Outcome,
    },
    /// So many workspaces were seen.
    Read {
        /// The last entry in the state that was read.
        index: u64,
        /// Of clients.
        count: usize,
    },
}

impl History {
    /// Takes one more.
    pub(crate) fn keep(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    /// How many writes were answered after a time of the run.
    pub(crate) fn writes_since(&self, time: u64) -> usize {
        let is_write = |operation: &&Operation| {
            operation.begun >= time && matches!(operation.done, Done::Write { .. })
        };
        self.operations.iter().filter(is_write).count()
    }

    /// How many writes and reads there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let writes = self.writes_since(0);
        (writes, self.operations.len() - writes)
    }

    /// Says what cannot be explained.
    pub(crate) fn check(&self, witness: &Witness) {
        let mut outcomes: BTreeMap<String, &str> = BTreeMap::new();
        let mut begun: Vec<(u64, Place<'_>)> = Vec::new();
        let mut ended: Vec<(u64, u64)> = Vec::new();
        for operation in &self.operations {
            let place = match &operation.done {
                Done::Write { key, outcome } => {
                    if let Some(other) = outcomes.insert(format!("{outcome:?}"), key) {
                        witness.wrong(format_args!("{key} and {other} both made {outcome:?}"));
                    }
                    let Some(effect) = witness.effect(key) else {
                        witness.wrong(format_args!("{key} was answered and never applied"));
                        continue;
                    };
                    Place {
                        operation,
                        index: effect,
                        is_write: true,
                    }
                }
                Done::Read { index, count } => {
                    let expected = witness.effects_up_to(*index);
                    if *count != expected {
                        witness.wrong(format_args!(
                            "a read at {index} saw {count} workspaces and not {expected}"
                        ));
                    }
                    Place {
                        operation,
                        index: *index,
                        is_write: false,
                    }
                }
            };
            ended.push((operation.ended, place.index));
            begun.push((operation.begun, place));
        }
        begun.sort_by_key(|(time, _)| *time);
        ended.sort_unstable();
        let mut newest = 0;
        let mut ended = ended.into_iter().peekable();
        for (time, place) in begun {
            while let Some((_, index)) = ended.next_if(|(at, _)| *at < time) {
                newest = newest.max(index);
            }
            let is_behind = if place.is_write {
                place.index <= newest
            } else {
                place.index < newest
            };
            if is_behind && newest > 0 {
                witness.wrong(format_args!(
                    "{:?} has its place at {}, after {newest} was known",
                    place.operation, place.index
                ));
            }
        }
    }
}

struct Place<'a> {
    operation: &'a Operation,
    index: u64,
    is_write: bool,
}
