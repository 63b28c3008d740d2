//! The records of web crons and their runs: plain data, and the indices that find what is due.
//!
//! ```text
//! (slot due) Fire ──► Running ──► Succeeded | Failed | TimedOut | Lost | Replaced
//! (asked for) Waiting ─Claim─► Running        Failed, TimedOut, Lost with retries left ─► Backoff ─Claim─► Running
//! (slot not run) Skipped, Missed: a record without a request
//! ```
//! All times are the wall clock of the leader that decided. It may be set forward and back; so
//! what was fired is kept as spans, and `considered` is only where the next look begins.

use std::collections::{BTreeMap, BTreeSet};

use common::application::{CronKey, CronSpec, MissedPolicy, Overlap};
use common::id::{ApplicationId, InstanceId, NodeId, RunId, VersionNumber};
use common::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::command::{CronResult, SkipReason};
use crate::state::limits::{
    CRON_BACKOFF_FIRST, CRON_BACKOFF_MAX, CRON_CLOCK_SLACK, CRON_FIRED_SPANS, CRON_LIVE_PER_CRON,
    CRON_LOST_AFTER,
};

/// A cron of an application; it outlives the versions that have it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CronRecord {
    /// What the current version says of it; none when that has no such cron.
    pub policy: Option<CronPolicy>,
    /// True while people have taken its slots away.
    pub suspended: bool,
    /// The slots up to here are decided. It goes back when the wall clock is set back.
    pub considered: Timestamp,
    /// True while that is the log's time and not a leader's wall clock, which may be behind it.
    #[serde(default)]
    pub is_unseen: bool,
    /// The slots that were fired, from the first to the last of each span, ascending: none in a
    /// span is ever fired again.
    pub fired: Vec<SlotSpan>,
    /// Every run that is kept.
    pub runs: BTreeSet<RunId>,
    /// Those of them that have not ended.
    pub live: BTreeSet<RunId>,
    /// Until when the request of a lost run may go on.
    pub lost_until: Option<Timestamp>,
    /// Runs that failed in a row, up to now.
    pub failures: u32,
}

/// What decides about a cron's runs, from the manifest of the current version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronPolicy {
    /// How long one attempt may take.
    pub timeout: Span,
    /// What happens when it is due while it runs.
    pub overlap: Overlap,
    /// What happens to slots that passed undecided.
    pub missed: MissedPolicy,
    /// Attempts after the first.
    pub retries: u32,
}

impl From<&CronSpec> for CronPolicy {
    fn from(spec: &CronSpec) -> Self {
        Self {
            timeout: spec.timeout,
            overlap: spec.overlap,
            missed: spec.missed,
            retries: spec.retries,
        }
    }
}

/// Slots from a first to a last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotSpan {
    /// The first.
    pub first: Timestamp,
    /// The last.
    pub last: Timestamp,
}

impl CronRecord {
    /// A cron whose first slot is the first after `now`.
    #[must_use]
    pub fn from_now(now: Timestamp) -> Self {
        let mut record = Self::default();
        record.begin(now);
        record
    }

    /// Its next slot is the first from now on, by the log's time until a leader has seen it.
    pub(crate) fn begin(&mut self, now: Timestamp) {
        self.considered = now;
        self.is_unseen = true;
    }

    /// True when its slots are decided up to a time that the wall clock has not come near to.
    #[must_use]
    pub fn is_ahead_of(&self, wall: Timestamp) -> bool {
        self.considered > wall.after(CRON_CLOCK_SLACK) || self.is_unseen && self.considered > wall
    }

    /// The last slot of the span of fired ones that this slot is in.
    #[must_use]
    pub fn fired_until(&self, slot: Timestamp) -> Option<Timestamp> {
        let index = self.fired.partition_point(|span| span.last < slot);
        let span = self.fired.get(index)?;
        (span.first <= slot).then_some(span.last)
    }

    /// True when a slot may be decided: it is neither behind nor fired.
    #[must_use]
    pub fn is_open(&self, slot: Timestamp) -> bool {
        slot > self.considered && self.fired_until(slot).is_none()
    }

    /// Notes that a slot is fired. It joins the span before it when nothing lies between, and spans
    /// are joined when there are too many.
    pub(crate) fn fire(&mut self, slot: Timestamp) {
        let index = self.fired.partition_point(|span| span.last < slot);
        let before = index
            .checked_sub(1)
            .and_then(|before| self.fired.get_mut(before));
        match before.filter(|span| span.last == self.considered) {
            Some(span) => span.last = slot,
            None => self.fired.insert(
                index,
                SlotSpan {
                    first: slot,
                    last: slot,
                },
            ),
        }
        self.considered = slot;
        self.is_unseen = false;
        while self.fired.len() > CRON_FIRED_SPANS {
            self.join_nearest();
        }
    }

    /// Joins the two spans with the least between them: the fewest slots that were not fired count
    /// as fired then, and never those between now and a time at which the clock was ahead.
    fn join_nearest(&mut self) {
        let gap = |pair: &[SlotSpan]| match pair {
            [one, next] => next.first.since(one.last),
            _ => Span(u64::MAX),
        };
        let gaps = self.fired.windows(2).map(gap).enumerate();
        let Some((index, _)) = gaps.min_by_key(|(_, gap)| *gap) else {
            return;
        };
        let next = self.fired.remove(index.saturating_add(1));
        if let Some(span) = self.fired.get_mut(index) {
            span.last = next.last;
        }
    }

    /// True when a new run must not begin, by the manifest's word or because too many go on.
    #[must_use]
    pub fn is_taken(&self, wall: Timestamp) -> bool {
        let Some(policy) = self.policy else {
            return true;
        };
        match policy.overlap {
            Overlap::Allow => self.live.len() >= CRON_LIVE_PER_CRON,
            Overlap::Replace => self.may_still_go_on(wall, policy),
            Overlap::Forbid => !self.live.is_empty() || self.may_still_go_on(wall, policy),
        }
    }

    /// True while nothing may begin because the request of a lost run may go on.
    pub(crate) fn waits_for_lost(&self, wall: Timestamp) -> bool {
        let policy = self
            .policy
            .filter(|policy| policy.overlap != Overlap::Allow);
        policy.is_some_and(|policy| self.may_still_go_on(wall, policy))
    }

    /// True while the request of a lost run may go on. A time that lies further ahead than a
    /// timeout was stamped by a clock that has been set back since, and says nothing.
    fn may_still_go_on(&self, wall: Timestamp, policy: CronPolicy) -> bool {
        let farthest = wall.after(policy.timeout).after(CRON_CLOCK_SLACK);
        self.lost_until
            .is_some_and(|until| wall < until && until <= farthest)
    }

    /// How many runs are kept when each cron has this share.
    pub(crate) fn surplus(&self, share: usize) -> Option<RunId> {
        if self.runs.len() <= share {
            return None;
        }
        // Of many that go on together the newest record still says what was not run.
        let newest = self.runs.last();
        self.runs
            .iter()
            .find(|run| !self.live.contains(run) && Some(*run) != newest)
            .copied()
    }
}

/// A run of a cron, or slots in a row that were not run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CronRun {
    /// Its number, the same for all its attempts.
    pub id: RunId,
    /// Whose.
    pub application: ApplicationId,
    /// Which cron.
    pub cron: CronKey,
    /// The version whose cron it is; that of the last attempt.
    pub version: VersionNumber,
    /// The slot; of a run that was asked for, when that was.
    pub scheduled: Timestamp,
    /// The last slot that this record stands for.
    pub last_scheduled: Timestamp,
    /// How many slots it stands for.
    pub count: u64,
    /// True when someone asked for it.
    pub is_manual: bool,
    /// Where it is.
    pub phase: RunPhase,
    /// Attempts that were begun.
    pub attempts: u32,
    /// When the first attempt began.
    pub begun: Option<Timestamp>,
    /// When the last attempt began.
    pub started: Option<Timestamp>,
    /// Attempts after the first, as the manifest said when it began; a later version may take some
    /// away and gives it none.
    #[serde(default)]
    pub retries: u32,
    /// How long the last attempt may take.
    pub timeout: Span,
    /// The pacemaker that makes the last attempt.
    pub runner: Option<NodeId>,
    /// How the last attempt ended; none before it has.
    pub result: Option<CronResult>,
    /// When the last attempt ended.
    pub ended: Option<Timestamp>,
    /// How long the last attempt took.
    pub duration: Option<Span>,
    /// The instance that was called last.
    pub instance: Option<InstanceId>,
    /// The HTTP status of the last answer.
    pub status: Option<u16>,
    /// What became of it, one sentence; empty while nothing has.
    pub words: String,
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunPhase {
    /// Asked for; the leader claims it.
    Waiting,
    /// An attempt is under way.
    Running,
    /// An attempt failed; the leader claims the next.
    Backoff {
        /// When that is due.
        until: Timestamp,
    },
    /// The last attempt was answered with 2xx.
    Succeeded,
    /// The last attempt was answered otherwise, or not at all.
    Failed,
    /// The last attempt was not answered in time.
    TimedOut,
    /// Nobody knows what became of the last attempt.
    Lost,
    /// A newer run took its place.
    Replaced,
    /// No request: slots that were due and must not run.
    Skipped(SkipReason),
    /// No request: slots that passed undecided.
    Missed,
}

impl RunPhase {
    /// True when nothing more follows, but for the late report of an attempt that counts as lost.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Waiting | Self::Running | Self::Backoff { .. } => false,
            Self::Succeeded
            | Self::Failed
            | Self::TimedOut
            | Self::Lost
            | Self::Replaced
            | Self::Skipped(_)
            | Self::Missed => true,
        }
    }
}

impl From<CronResult> for RunPhase {
    fn from(result: CronResult) -> Self {
        match result {
            CronResult::Succeeded => Self::Succeeded,
            CronResult::Failed => Self::Failed,
            CronResult::TimedOut => Self::TimedOut,
            CronResult::Lost => Self::Lost,
        }
    }
}

impl CronRun {
    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> ApplicationId {
        self.application
    }

    /// True while this attempt is the one under way: what its runner asks before it goes on.
    #[must_use]
    pub fn is_running(&self, attempt: u32) -> bool {
        self.phase == RunPhase::Running && self.attempts == attempt
    }

    /// When the next attempt of a run that waits is to begin; what was asked for is due at once.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        match self.phase {
            RunPhase::Waiting => Some(self.scheduled),
            RunPhase::Backoff { until } => Some(until),
            RunPhase::Running
            | RunPhase::Succeeded
            | RunPhase::Failed
            | RunPhase::TimedOut
            | RunPhase::Lost
            | RunPhase::Replaced
            | RunPhase::Skipped(_)
            | RunPhase::Missed => None,
        }
    }

    /// When the present attempt should have been reported long ago.
    #[must_use]
    pub fn deadline(&self) -> Timestamp {
        self.started
            .unwrap_or_default()
            .after(self.timeout)
            .after(CRON_LOST_AFTER)
    }

    /// True when something of it is stamped further ahead of the wall clock than can be.
    #[must_use]
    pub fn is_ahead_of(&self, wall: Timestamp) -> bool {
        let slack = wall.after(CRON_CLOCK_SLACK);
        match self.phase {
            RunPhase::Running => self.started.is_some_and(|started| started > slack),
            RunPhase::Backoff { until } => {
                until > slack.after(CRON_BACKOFF_MAX) && until > slack.after(self.timeout)
            }
            RunPhase::Waiting
            | RunPhase::Succeeded
            | RunPhase::Failed
            | RunPhase::TimedOut
            | RunPhase::Lost
            | RunPhase::Replaced
            | RunPhase::Skipped(_)
            | RunPhase::Missed => false,
        }
    }

    /// How long after a failed attempt the next is due.
    #[must_use]
    pub fn backoff(&self) -> Span {
        let doublings = self
            .attempts
            .saturating_sub(1)
            .min(u64::BITS.saturating_sub(1));
        let delay = CRON_BACKOFF_FIRST
            .0
            .checked_shl(doublings)
            .unwrap_or(u64::MAX);
        Span(delay).min(CRON_BACKOFF_MAX)
    }
}

/// What finds the runs that are due, so that nobody looks at all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CronIndex {
    /// How many crons there are, in all applications.
    pub crons: u64,
    /// Runs whose next attempt is to be claimed, by when.
    pub claims: BTreeMap<ApplicationId, BTreeSet<(Timestamp, RunId)>>,
    /// Runs under way, by when they should have been reported.
    pub deadlines: BTreeSet<(Timestamp, RunId)>,
    /// How many of each application are under way.
    pub running: BTreeMap<ApplicationId, u64>,
    /// Who makes those that are under way.
    pub runners: BTreeMap<NodeId, BTreeSet<RunId>>,
    /// How many wait, back off, or are under way.
    pub live: u64,
}

impl CronIndex {
    /// Adds what follows from a run.
    pub(crate) fn insert(&mut self, run: &CronRun) {
        if run.phase.is_final() {
            return;
        }
        self.live = self.live.saturating_add(1);
        if let Some(due) = claim_of(run) {
            let claims = self.claims.entry(run.application).or_default();
            claims.insert((due, run.id));
            return;
        }
        self.deadlines.insert((run.deadline(), run.id));
        let running = self.running.entry(run.application).or_default();
        *running = running.saturating_add(1);
        if let Some(runner) = run.runner {
            self.runners.entry(runner).or_default().insert(run.id);
        }
    }

    /// Takes away what followed from a run.
    pub(crate) fn remove(&mut self, run: &CronRun) {
        if run.phase.is_final() {
            return;
        }
        self.live = self.live.saturating_sub(1);
        if let Some(due) = claim_of(run) {
            if let Some(claims) = self.claims.get_mut(&run.application) {
                claims.remove(&(due, run.id));
                if claims.is_empty() {
                    self.claims.remove(&run.application);
                }
            }
            return;
        }
        self.deadlines.remove(&(run.deadline(), run.id));
        if let Some(running) = self.running.get_mut(&run.application) {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.running.remove(&run.application);
            }
        }
        if let Some(runner) = run.runner
            && let Some(runs) = self.runners.get_mut(&runner)
        {
            runs.remove(&run.id);
            if runs.is_empty() {
                self.runners.remove(&runner);
            }
        }
    }
}

/// When a run that is not under way is to be claimed; what was asked for is due at once.
fn claim_of(run: &CronRun) -> Option<Timestamp> {
    match run.phase {
        RunPhase::Waiting => Some(Timestamp(0)),
        RunPhase::Backoff { until } => Some(until),
        RunPhase::Running
        | RunPhase::Succeeded
        | RunPhase::Failed
        | RunPhase::TimedOut
        | RunPhase::Lost
        | RunPhase::Replaced
        | RunPhase::Skipped(_)
        | RunPhase::Missed => None,
    }
}
