//! A cron that the planner keeps an eye on: when its next slot lies.

use common::application::{CronKey, Overlap};
use common::cron::{Schedule, Zone};
use common::id::ApplicationId;
use common::time::Timestamp;

use crate::crons::slots::{Due, due, next_unfired};
use crate::state::State;
use crate::state::crons::{CronPolicy, CronRecord};
use crate::state::records::Application;

/// What a look at a cron says.
pub(super) enum Verdict {
    /// It is fired no more.
    Gone,
    /// Nothing is due before this slot, or ever.
    Later(Option<Timestamp>),
    /// It was decided up to a time that the wall clock has not reached: the clock was set back.
    Ahead(Timestamp),
    /// Slots are due.
    Due(Due),
}

/// A cron and its schedule, copied so that no manifest is searched.
#[derive(Clone, Debug)]
pub(super) struct Tracked {
    pub(super) application: ApplicationId,
    pub(super) cron: CronKey,
    /// Under which time it is queued, or due.
    pub(super) alarm: Timestamp,
    /// True when its next run ends the one before, and so needs no room.
    pub(super) replaces: bool,
    schedule: Schedule,
    zone: Zone,
    /// The last slots that were asked for: after when, and which.
    known: [(Timestamp, Option<Timestamp>); 2],
}

impl Tracked {
    /// Every cron of an application that is fired.
    pub(super) fn all_of(application: &Application) -> impl Iterator<Item = Self> {
        let number = application.crons_version;
        let version = number.and_then(|number| application.versions.get(&number));
        let types = version.map(|version| version.spec.instance_types.iter());
        types.into_iter().flatten().flat_map(|instance_type| {
            instance_type.crons.iter().filter_map(|spec| {
                let cron = CronKey {
                    instance_type: instance_type.name.clone(),
                    name: spec.name.clone(),
                };
                let record = application.crons.get(&cron)?;
                if record.suspended || record.policy.is_none() {
                    return None;
                }
                Some(Self {
                    application: application.id,
                    cron,
                    alarm: Timestamp(0),
                    replaces: spec.overlap == Overlap::Replace,
                    schedule: spec.runspec.clone(),
                    zone: spec.timezone.clone(),
                    known: [(Timestamp(u64::MAX), None); 2],
                })
            })
        })
    }

    /// The cron's record, when it is fired.
    pub(super) fn record_of<'a>(
        &self,
        application: &'a Application,
    ) -> Option<(&'a CronRecord, CronPolicy)> {
        let record = application.crons.get(&self.cron)?;
        let policy = record.policy.filter(|_| !record.suspended)?;
        Some((record, policy))
    }

    /// What is due; `looks` counts the work.
    pub(super) fn look(&mut self, state: &State, wall: Timestamp, looks: &mut u32) -> Verdict {
        *looks = looks.saturating_add(1);
        let application = state.applications.get(&self.application);
        let Some((record, _)) = application.and_then(|application| self.record_of(application))
        else {
            return Verdict::Gone;
        };
        if record.is_ahead_of(wall) {
            return Verdict::Ahead(record.considered);
        }
        let Some(first) = next_unfired(record, record.considered, |after| self.next(after)) else {
            return Verdict::Later(None);
        };
        if first > wall {
            return Verdict::Later(Some(first));
        }
        let slots = due(record, first, wall, |after| {
            *looks = looks.saturating_add(1);
            self.next(after)
        });
        Verdict::Due(slots)
    }

    /// The next slot of the schedule. A slot that was fired is where the next look begins, so what
    /// was asked for last is asked for again.
    fn next(&mut self, after: Timestamp) -> Option<Timestamp> {
        if let Some((_, slot)) = self.known.iter().find(|(from, _)| *from == after) {
            return *slot;
        }
        let slot = self.schedule.next_after(after, &self.zone);
        let [newer, _] = self.known;
        self.known = [(after, slot), newer];
        slot
    }
}
