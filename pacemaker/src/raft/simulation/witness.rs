//! Sees everything that happens in a run, and says what may not happen.
//!
//! What is checked at once: one entry per index and one state per index on all machines, nothing
//! applied twice by a process, one leader per term, no promise forgotten over a restart. What the
//! clients were told is checked at the end, in [`history`](super::history).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard};

use openraft::EntryPayload;
use pacemaker_core::command::Command;
use tokio::time::Instant;

use crate::raft::types::{Entry, LogId, Vote, detach, encode_entry};
use crate::replica::Replica;

/// Between two looks at the whole state; each costs as much as a small snapshot.
const STATE_EVERY: u64 = 16;

/// Shared by all of one run.
#[derive(Debug)]
pub(crate) struct Witness {
    inside: Mutex<Inside>,
    started: Instant,
    is_verbose: bool,
}

#[derive(Debug, Default)]
struct Inside {
    /// Of all lines of the trace.
    trace: Hash,
    lines: u64,
    wrong: Vec<String>,
    /// By index, as the first machine applied it.
    entries: BTreeMap<u64, u64>,
    /// By index, after it was applied.
    states: BTreeMap<u64, u64>,
    /// By idempotency key, the index at which it first had its effect.
    effects: BTreeMap<String, u64>,
    leaders: BTreeMap<u64, u64>,
    promises: BTreeMap<u64, Promise>,
    applied: BTreeMap<u64, u64>,
}

/// What a machine has told others, and may not forget.
#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    /// The greatest vote.
    vote: Option<Vote>,
    /// The end of the log that it told the leader of a vote.
    log: Option<(Vote, LogId)>,
}

impl Witness {
    /// At the beginning of the run.
    pub(crate) fn new(is_verbose: bool) -> Self {
        Self {
            inside: Mutex::default(),
            started: Instant::now(),
            is_verbose,
        }
    }

    /// Simulated milliseconds since the beginning.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).expect("a run is short")
    }

    /// One line of the trace.
    pub(crate) fn note(&self, line: impl Display) {
        let line = format!("{:>7} {line}", self.now());
        if self.is_verbose {
            say(&line);
        }
        let mut inside = self.inside();
        inside.lines += 1;
        inside.trace.add(line.as_bytes());
    }

    /// Something that may not happen.
    pub(crate) fn wrong(&self, what: impl Display) {
        self.note(format_args!("WRONG {what}"));
        let at = self.now();
        self.inside().wrong.push(format!("at {at} ms: {what}"));
    }

    /// A machine has applied an entry.
    pub(crate) fn applied(&self, machine: u64, entry: &Entry, replica: &Replica) {
        let index = entry.log_id.index();
        self.note(format_args!("{machine} applies {}", entry.log_id));
        // What was applied, not what it was read from.
        let mut content = entry.clone();
        detach(&mut content);
        let bytes = encode_entry(&content).expect("it was in a log");
        let digest = Hash::of(&bytes);
        let before = {
            let mut inside = self.inside();
            if let EntryPayload::Normal(proposal) = &entry.payload
                && let Command::Once { key, .. } = &*proposal.command
            {
                inside.effects.entry(key.clone()).or_insert(index);
            }
            (
                *inside.entries.entry(index).or_insert(digest),
                inside.applied.insert(machine, index),
            )
        };
        if before.0 != digest {
            self.wrong(format_args!(
                "machine {machine} applied another entry {index} than others did"
            ));
        }
        if before.1.is_some_and(|before| before + 1 != index) {
            self.wrong(format_args!(
                "machine {machine} applied {index} after {:?}",
                before.1
            ));
        }
        if index.is_multiple_of(STATE_EVERY) || self.inside().states.contains_key(&index) {
            self.state(machine, index, replica);
        }
    }

    /// A machine has this state at this index.
    pub(crate) fn state(&self, machine: u64, index: u64, replica: &Replica) {
        let held = replica.copy();
        let bytes = rmp_serde::to_vec(&(held.state, held.now)).expect("a state can be written");
        let hash = Hash::of(&bytes);
        if *self.inside().states.entry(index).or_insert(hash) != hash {
            self.wrong(format_args!(
                "machine {machine} has another state at {index} than others had"
            ));
        }
    }

    /// A machine goes on from a snapshot, or from nothing.
    pub(crate) fn restored(&self, machine: u64, index: Option<u64>, replica: &Replica) {
        let mut inside = self.inside();
        match index {
            Some(index) => inside.applied.insert(machine, index),
            None => inside.applied.remove(&machine),
        };
        drop(inside);
        if let Some(index) = index {
            self.state(machine, index, replica);
        }
    }

    /// A machine sent entries or a heartbeat as the leader of this vote.
    pub(crate) fn leads(&self, vote: &Vote) {
        let (term, machine) = (vote.leader_id.term, vote.leader_id.voted_for);
        let known = self.inside().leaders.get(&term).copied();
        match known {
            None => {
                self.inside().leaders.insert(term, machine);
                self.note(format_args!("{machine} leads term {term}"));
            }
            Some(known) if known != machine => self.wrong(format_args!(
                "machines {known} and {machine} both lead term {term}"
            )),
            Some(_) => {}
        }
    }

    /// A machine told another that it keeps to this vote, and holds the log up to here.
    pub(crate) fn promised(&self, machine: u64, vote: Vote, log: Option<LogId>) {
        let mut inside = self.inside();
        let promise = inside.promises.entry(machine).or_default();
        if promise.vote.is_none_or(|before| before < vote) {
            promise.vote = Some(vote);
        }
        if let Some(log) = log
            && promise.log.is_none_or(|before| before < (vote, log))
        {
            promise.log = Some((vote, log));
        }
    }

    /// A machine has started with this on its disk.
    pub(crate) fn found(&self, machine: u64, vote: Option<Vote>, last: Option<LogId>) {
        let vote_text = vote.map_or_else(|| "no vote".to_owned(), |vote| vote.to_string());
        let last_text = last.map_or_else(|| "no log".to_owned(), |last| last.to_string());
        self.note(format_args!("{machine} starts, {vote_text}, {last_text}"));
        let promise = self.inside().promises.get(&machine).copied();
        let promise = promise.unwrap_or_default();
        if !matches!(
            vote.partial_cmp(&promise.vote),
            Some(Ordering::Equal | Ordering::Greater)
        ) {
            self.wrong(format_args!(
                "machine {machine} promised {:?} and comes back with {vote_text}",
                promise.vote
            ));
        }
        if let Some((under, log)) = promise.log
            && vote == Some(under)
            && last < Some(log)
        {
            self.wrong(format_args!(
                "machine {machine} held {log} under {under} and comes back with {last_text}"
            ));
        }
    }

    /// The index at which a key first had its effect.
    pub(crate) fn effect(&self, key: &str) -> Option<u64> {
        self.inside().effects.get(key).copied()
    }

    /// How many keys had an effect up to an index.
    pub(crate) fn effects_up_to(&self, index: u64) -> usize {
        let inside = self.inside();
        inside.effects.values().filter(|&&at| at <= index).count()
    }

    /// How many leaders there were.
    pub(crate) fn leaders(&self) -> usize {
        self.inside().leaders.len()
    }

    /// What went wrong, the number of lines, and the hash of the trace.
    pub(crate) fn verdict(&self) -> (Vec<String>, u64, u64) {
        let inside = self.inside();
        (inside.wrong.clone(), inside.lines, inside.trace.0)
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().expect("one thread runs the simulation")
    }
}

fn say(line: &str) {
    eprintln!("{line}");
}

/// FNV-1a: enough to tell two traces apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hash(pub(crate) u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    fn of(bytes: &[u8]) -> u64 {
        let mut hash = Self::default();
        hash.add(bytes);
        hash.0
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
