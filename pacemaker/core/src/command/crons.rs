//! What a leader decides about the slots and runs of web crons, and what it is told of them.

use common::application::CronKey;
use common::id::{ApplicationId, InstanceId, RunId, VersionNumber};
use common::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

/// One decision of a leader; it is checked again when it is applied, and a stale one does nothing.
///
/// All its times are the leader's wall clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CronDecision {
    /// A slot is due: its run begins, and the leader sends the request once this is committed.
    Fire {
        /// Whose.
        application: ApplicationId,
        /// Which cron.
        cron: CronKey,
        /// The current version.
        version: VersionNumber,
        /// Up to where the cron's slots are decided; elsewhere the decision is stale.
        after: Timestamp,
        /// The slot.
        scheduled: Timestamp,
    },
    /// A slot is due and must not run.
    Skip {
        /// Whose.
        application: ApplicationId,
        /// Which cron.
        cron: CronKey,
        /// Up to where the cron's slots are decided; elsewhere the decision is stale.
        after: Timestamp,
        /// The slot.
        scheduled: Timestamp,
        /// Why not.
        reason: SkipReason,
    },
    /// Slots passed undecided and are too old to be run.
    Miss {
        /// Whose.
        application: ApplicationId,
        /// Which cron.
        cron: CronKey,
        /// Up to where the cron's slots are decided; elsewhere the decision is stale.
        after: Timestamp,
        /// The first of them.
        first: Timestamp,
        /// The last of them.
        last: Timestamp,
        /// How many they are; at [`CRON_MISSED_COUNTED`](crate::state::limits::CRON_MISSED_COUNTED)
        /// it says "at least".
        count: u64,
        /// True when they were seen in time and only had no room until the next slot came: then they
        /// are skipped, not missed.
        #[serde(default)]
        had_no_room: bool,
    },
    /// A run that waits, or whose next attempt is due, begins its next attempt.
    Claim {
        /// Which.
        run: RunId,
    },
    /// An attempt is given up for lost: whoever made it is gone, or should have told long ago. Or the
    /// next one of a run that waits is not made, because nobody began it in time.
    Lose {
        /// Which run.
        run: RunId,
        /// Which of its attempts; of a run that waits, the last that was begun.
        attempt: u32,
    },
    /// The wall clock was set back: what a cron has stamped ahead of it is brought back, so that
    /// nothing waits for a time that was never there. What was fired stays fired.
    Rewind {
        /// Whose.
        application: ApplicationId,
        /// Which cron.
        cron: CronKey,
        /// Up to where its slots were decided.
        from: Timestamp,
        /// The wall clock.
        to: Timestamp,
    },
}

/// Why a slot that was due did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SkipReason {
    /// An earlier run went on, and the manifest forbids a second.
    Overlap,
    /// The application had no current version.
    NoCurrentVersion,
    /// As many runs of it went on as one cron may have.
    TooMany,
    /// As many requests were under way as may be, until the next slot came.
    NoRoom,
}

/// An attempt that a decision begins. Whoever decided makes it, as long as it is the present one of
/// its run and still theirs: an answer may come late, when others have gone on with the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronGrant {
    /// The run.
    pub run: RunId,
    /// Which of its attempts.
    pub attempt: u32,
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronReport {
    /// The run.
    pub run: RunId,
    /// Which of its attempts; a report of another one than the present is stale.
    pub attempt: u32,
    /// The instance that was called.
    pub instance: Option<InstanceId>,
    /// The HTTP status of its answer.
    pub status: Option<u16>,
    /// When it ended, by the wall clock of whoever made it.
    pub ended: Timestamp,
    /// How long it took, by a monotonic clock.
    pub duration: Span,
    /// How it ended.
    pub result: CronResult,
    /// The same for people, one sentence; cut to
    /// [`MESSAGE_MAX_BYTES`](crate::state::limits::MESSAGE_MAX_BYTES).
    pub words: String,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CronResult {
    /// Answered with 2xx.
    Succeeded,
    /// Answered otherwise, or not at all.
    Failed,
    /// Not answered within its timeout.
    TimedOut,
    /// Nobody knows: it was to be made, and whoever was to make it is gone.
    Lost,
}
