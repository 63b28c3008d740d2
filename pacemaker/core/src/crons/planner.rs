//! What the leader decides about slots and runs, and when it is to be asked again.

mod runs;
mod tracked;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use common::application::{MissedPolicy, Overlap};
use common::id::{ApplicationId, Generation, NodeId, RunId};
use common::time::{Span, Timestamp};

use self::tracked::{Tracked, Verdict};
use super::slots::{Due, Missed};
use crate::apply::Replaceable;
use crate::command::{CronDecision, SkipReason};
use crate::state::State;
use crate::state::limits::{
    CRON_DECISIONS_MAX, CRON_GRACE, CRON_LIVE_MAX, CRON_RUNNING_MAX, CRON_RUNNING_PER_APPLICATION,
};
use crate::state::records::Application;

/// Crons that are looked at in one plan, missed slots counted as such: some milliseconds in which
/// nothing can be applied.
const LOOKS_MAX: u32 = 4_096;
/// Crons of an application without room that are looked at in one plan: what is to be skipped need
/// not wait for room.
const LOOKS_WITHOUT_ROOM: u32 = 16;
/// How far the wall clock goes back before everything is looked at again.
const STEP_BACK: Span = Span::seconds(1);
/// When what had no room is looked at again though nothing was reported.
const WAIT_FOR_ROOM: Span = Span::seconds(1);

/// Decides about slots and runs, and remembers when each is due.
///
/// It belongs to one leader: a new one begins with a new planner. A plan costs what is due and what
/// has changed. A decision is made again until the state shows it, so a proposal that fails costs
/// nothing but time.
#[derive(Clone, Debug)]
pub struct CronPlanner {
    /// Changes to the state up to here are known; none before the first plan.
    noticed: Option<Generation>,
    /// The wall clock at the last plan.
    wall: Timestamp,
    /// How many requests may be under way in the whole cluster.
    room: u64,
    /// The last number given to a cron.
    last_number: u64,
    tracked: BTreeMap<u64, Tracked>,
    by_application: BTreeMap<ApplicationId, Vec<u64>>,
    /// Applications whose crons are to be read again.
    unread: BTreeSet<ApplicationId>,
    /// When each cron is due.
    queue: BTreeSet<(Timestamp, u64)>,
    /// Those that are, oldest first; they stay until the state shows that they are decided.
    due: BTreeMap<ApplicationId, BTreeSet<(Timestamp, u64)>>,
    /// The application whose turn it is.
    turn: Option<ApplicationId>,
    /// Attempts that should have been reported, and since when this leader has seen so.
    suspects: BTreeMap<RunId, (u32, Timestamp)>,
    /// Applications of which something that was due in time had no room lately.
    lacks: BTreeMap<ApplicationId, Lack>,
    deadline: Option<Timestamp>,
}

/// A time in which something of an application was due and had no room.
#[derive(Clone, Copy, Debug)]
struct Lack {
    since: Timestamp,
    until: Timestamp,
}

impl Default for CronPlanner {
    fn default() -> Self {
        Self {
            noticed: None,
            wall: Timestamp(0),
            room: CRON_RUNNING_MAX,
            last_number: 0,
            tracked: BTreeMap::new(),
            by_application: BTreeMap::new(),
            unread: BTreeSet::new(),
            queue: BTreeSet::new(),
            due: BTreeMap::new(),
            turn: None,
            suspects: BTreeMap::new(),
            lacks: BTreeMap::new(),
            deadline: None,
        }
    }
}

/// The plan while it is made.
struct Wishes<'a> {
    state: &'a State,
    wall: Timestamp,
    decisions: Vec<CronDecision>,
    /// How many requests may be under way, and how many more this plan begins.
    room: u64,
    begun: BTreeMap<ApplicationId, u64>,
    begun_in_all: u64,
    looks: u32,
    lacks: BTreeMap<ApplicationId, Lack>,
    /// True when something is due that has no room.
    waits: bool,
    /// True when there was more to look at.
    is_partial: bool,
}

impl CronPlanner {
    /// At most so many requests may be under way in the whole cluster, but never more than
    /// [`CRON_RUNNING_MAX`]: a leader that may open few files says fewer.
    pub fn limit(&mut self, requests: u64) {
        self.room = requests.min(CRON_RUNNING_MAX);
    }

    /// What is to be decided now, for one
    /// [`Command::DecideCrons`](crate::command::Command::DecideCrons) with the same wall clock.
    ///
    /// `me` is the leader, `gone` are pacemakers that make no request any more. Ask again after
    /// every change of the state, and until the plan is empty.
    #[must_use]
    pub fn plan(
        &mut self,
        state: &State,
        wall: Timestamp,
        me: NodeId,
        gone: &BTreeSet<NodeId>,
    ) -> Vec<CronDecision> {
        self.notice(state, wall);
        let mut wishes = Wishes::new(state, wall, self.room);
        wishes.remember(std::mem::take(&mut self.lacks));
        self.lose(&mut wishes, me, gone);
        Self::rewind_runs(&mut wishes);
        Self::claim(&mut wishes);
        self.read(&mut wishes);
        self.ring(wall);
        self.decide(&mut wishes);
        self.deadline = self.next_after(&wishes);
        self.lacks = wishes.lacks;
        wishes.decisions
    }

    /// When to ask again though nothing changed, by the wall clock; after a plan that was empty.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadline
    }

    /// Takes note of what has changed in the state, and of a wall clock that was set back.
    fn notice(&mut self, state: &State, wall: Timestamp) {
        let is_older = self
            .noticed
            .is_some_and(|noticed| state.applied() < noticed);
        if is_older {
            *self = Self {
                room: self.room,
                ..Self::default()
            };
        }
        match self.noticed.replace(state.applied()) {
            None => {
                let applications = state.applications.values();
                self.unread = applications
                    .filter(|application| !application.crons.is_empty())
                    .map(|application| application.id)
                    .collect();
            }
            Some(noticed) => {
                let next = Generation(noticed.0.saturating_add(1));
                let changed = state.changed_applications.range((next, ApplicationId(0))..);
                let has_other_crons = |id: &ApplicationId| {
                    let application = state.applications.get(id);
                    application.is_none_or(|application| application.crons_changed > noticed)
                };
                self.unread
                    .extend(changed.map(|(_, id)| *id).filter(has_other_crons));
            }
        }
        if wall.after(STEP_BACK) < self.wall {
            for (alarm, number) in std::mem::take(&mut self.queue) {
                self.make_due(alarm, number);
            }
        }
        self.wall = wall;
    }

    /// Reads which crons there are, of the applications of which that may have changed.
    fn read(&mut self, wishes: &mut Wishes<'_>) {
        while let Some(id) = self.unread.first().copied() {
            if wishes.is_tired() {
                return;
            }
            self.unread.remove(&id);
            self.forget(id);
            let Some(application) = wishes.state.applications.get(&id) else {
                continue;
            };
            for tracked in Tracked::all_of(application) {
                wishes.looks = wishes.looks.saturating_add(1);
                self.last_number = self.last_number.saturating_add(1);
                let number = self.last_number;
                self.tracked.insert(number, tracked);
                self.by_application.entry(id).or_default().push(number);
                self.make_due(Timestamp(0), number);
            }
        }
    }

    fn forget(&mut self, id: ApplicationId) {
        for number in self.by_application.remove(&id).unwrap_or_default() {
            if let Some(tracked) = self.tracked.remove(&number) {
                self.queue.remove(&(tracked.alarm, number));
            }
        }
        self.due.remove(&id);
    }

    fn make_due(&mut self, alarm: Timestamp, number: u64) {
        if let Some(tracked) = self.tracked.get_mut(&number) {
            // What makes its own room is looked at before what waits for some.
            let alarm = if tracked.replaces {
                Timestamp(0)
            } else {
                alarm
            };
            tracked.alarm = alarm;
            let due = self.due.entry(tracked.application).or_default();
            due.insert((alarm, number));
        }
    }

    /// Moves what has become due.
    fn ring(&mut self, wall: Timestamp) {
        while let Some((alarm, number)) = self.queue.first().copied()
            && alarm <= wall
        {
            self.queue.pop_first();
            self.make_due(alarm, number);
        }
    }

    /// Decides about due slots, application by application in turn.
    fn decide(&mut self, wishes: &mut Wishes<'_>) {
        let start = self.turn.map_or(Bound::Unbounded, Bound::Included);
        let later = self.due.range((start, Bound::Unbounded)).map(|(id, _)| *id);
        let earlier = self.due.keys().copied();
        let earlier = earlier.take_while(|id| self.turn.is_some_and(|turn| *id < turn));
        let turns: Vec<ApplicationId> = later.chain(earlier).collect();
        for id in turns {
            if wishes.is_full() || wishes.is_tired() {
                self.turn = Some(id);
                wishes.is_partial = true;
                return;
            }
            self.decide_application(wishes, id);
        }
        self.turn = None;
    }

    fn decide_application(&mut self, wishes: &mut Wishes<'_>, id: ApplicationId) {
        let Some(mut due) = self.due.remove(&id) else {
            return;
        };
        let mut left = BTreeSet::new();
        let mut without_room = 0_u32;
        while let Some((alarm, number)) = due.pop_first() {
            let is_enough = without_room >= LOOKS_WITHOUT_ROOM;
            if is_enough || wishes.is_full() || wishes.is_tired() {
                due.insert((alarm, number));
                wishes.is_partial |= !is_enough;
                break;
            }
            let Some(tracked) = self.tracked.get_mut(&number) else {
                continue;
            };
            match tracked.look(wishes.state, wishes.wall, &mut wishes.looks) {
                Verdict::Gone => continue,
                Verdict::Later(slot) => {
                    if let Some(slot) = slot {
                        tracked.alarm = slot;
                        self.queue.insert((slot, number));
                    }
                    continue;
                }
                Verdict::Ahead(from) => wishes.decisions.push(CronDecision::Rewind {
                    application: id,
                    cron: tracked.cron.clone(),
                    from,
                    to: wishes.wall,
                }),
                Verdict::Due(slots) => {
                    let is_decided = wishes.decide_slots(tracked, slots);
                    let waits = !is_decided && !tracked.replaces;
                    without_room = without_room.saturating_add(u32::from(waits));
                }
            }
            left.insert((alarm, number));
        }
        left.append(&mut due);
        if !left.is_empty() {
            self.due.insert(id, left);
        }
    }

    /// When something is due though nothing changes.
    fn next_after(&self, wishes: &Wishes<'_>) -> Option<Timestamp> {
        let wall = wishes.wall;
        if wishes.is_partial || !self.unread.is_empty() {
            return Some(wall);
        }
        let slot = self.queue.first().map(|(alarm, _)| *alarm);
        let room = wishes.waits.then(|| wall.after(WAIT_FOR_ROOM));
        [slot, room, self.next_of_runs(wishes.state, wall)]
            .into_iter()
            .flatten()
            .min()
    }
}

impl<'a> Wishes<'a> {
    fn new(state: &'a State, wall: Timestamp, room: u64) -> Self {
        Self {
            state,
            wall,
            decisions: Vec::new(),
            room,
            begun: BTreeMap::new(),
            begun_in_all: 0,
            looks: 0,
            lacks: BTreeMap::new(),
            waits: false,
            is_partial: false,
        }
    }

    /// True when two more decisions may not fit.
    fn is_full(&self) -> bool {
        self.decisions.len().saturating_add(2) > CRON_DECISIONS_MAX
    }

    fn is_tired(&self) -> bool {
        self.looks >= LOOKS_MAX
    }

    /// Takes over who has lacked room, as far as that was lately.
    fn remember(&mut self, lacks: BTreeMap<ApplicationId, Lack>) {
        let wall = self.wall;
        self.lacks = lacks;
        self.lacks.retain(|_, lack| {
            // The wall clock may have been set back.
            lack.since = lack.since.min(wall);
            lack.until = lack.until.min(wall);
            wall.since(lack.until) <= CRON_GRACE
        });
    }

    fn lack_room(&mut self, application: ApplicationId) {
        self.waits = true;
        let wall = self.wall;
        let lack = self.lacks.entry(application).or_insert(Lack {
            since: wall,
            until: wall,
        });
        lack.until = wall;
    }

    /// True when what is due since then was seen in time, and has only had no room since.
    fn had_no_room(&self, application: ApplicationId, due: Timestamp) -> bool {
        let lack = self.lacks.get(&application);
        lack.is_some_and(|lack| lack.since.since(due) <= CRON_GRACE)
    }

    /// True when it is too late for what was due then.
    fn is_late(&self, application: ApplicationId, due: Timestamp) -> bool {
        self.wall.since(due) > CRON_GRACE && !self.had_no_room(application, due)
    }

    /// True when one more request may be under way, once so many have been ended; it counts from
    /// then on. An application has never more than are free, so that others always get some.
    fn take_room(&mut self, application: ApplicationId, ended: u64) -> bool {
        if ended > 0 {
            return true;
        }
        let index = &self.state.cron_index;
        let own = index.running.get(&application).copied().unwrap_or_default();
        let all = u64::try_from(index.deadlines.len()).unwrap_or(u64::MAX);
        let begun = self.begun.entry(application).or_default();
        let own = own.saturating_add(*begun);
        let free = self
            .room
            .saturating_sub(all.saturating_add(self.begun_in_all));
        let has_room = own < CRON_RUNNING_PER_APPLICATION.min(free);
        if has_room {
            *begun = begun.saturating_add(1);
            self.begun_in_all = self.begun_in_all.saturating_add(1);
        } else {
            self.lack_room(application);
        }
        has_room
    }

    /// Decides about slots of one cron; false when the newest has no room yet.
    fn decide_slots(&mut self, tracked: &Tracked, due: Due) -> bool {
        let Some(application) = self.state.applications.get(&tracked.application) else {
            return true;
        };
        let Some((record, policy)) = tracked.record_of(application) else {
            return true;
        };
        let is_late = self.is_late(tracked.application, due.newest);
        let is_run = !is_late || policy.missed == MissedPolicy::Once;
        let missed = if is_run {
            due.older
        } else {
            Some(Missed::and(due.older, due.newest))
        };
        let mut after = record.considered;
        if let Some(missed) = missed {
            self.decisions.push(CronDecision::Miss {
                application: tracked.application,
                cron: tracked.cron.clone(),
                after,
                first: missed.first,
                last: missed.last,
                count: missed.count,
                had_no_room: self.had_no_room(tracked.application, missed.first),
            });
            after = missed.last;
        }
        if !is_run {
            return true;
        }
        if record.is_taken(self.wall) {
            let reason = match policy.overlap {
                Overlap::Allow => SkipReason::TooMany,
                Overlap::Forbid | Overlap::Replace => SkipReason::Overlap,
            };
            self.skip(tracked, (after, due.newest), reason);
            return true;
        }
        let replaced = match policy.overlap {
            Overlap::Replace => self.state.replaceable(record),
            Overlap::Allow | Overlap::Forbid => Replaceable::default(),
        };
        self.fire_or_skip(application, tracked, (after, due.newest), replaced)
    }

    fn fire_or_skip(
        &mut self,
        application: &Application,
        tracked: &Tracked,
        (after, scheduled): (Timestamp, Timestamp),
        replaced: Replaceable,
    ) -> bool {
        let Some(version) = application.current else {
            self.skip(tracked, (after, scheduled), SkipReason::NoCurrentVersion);
            return true;
        };
        let live = self.state.cron_index.live.saturating_add(self.begun_in_all);
        if live.saturating_sub(replaced.live) >= CRON_LIVE_MAX {
            self.lack_room(tracked.application);
            return false;
        }
        let has_room = self.take_room(tracked.application, replaced.running);
        if has_room {
            self.decisions.push(CronDecision::Fire {
                application: tracked.application,
                cron: tracked.cron.clone(),
                version,
                after,
                scheduled,
            });
        }
        has_room
    }

    fn skip(
        &mut self,
        tracked: &Tracked,
        (after, scheduled): (Timestamp, Timestamp),
        reason: SkipReason,
    ) {
        self.decisions.push(CronDecision::Skip {
            application: tracked.application,
            cron: tracked.cron.clone(),
            after,
            scheduled,
            reason,
        });
    }
}
