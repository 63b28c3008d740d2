//! The loop: what should run, what does, what to do about it.
//!
//! ```text
//! assignment ─┐                 ┌─► journal
//! events ─────┼─► Local ─► plan ┼─► tasks (execute, build) ──► events
//! deadlines ──┘                 └─► snapshot ──► reports
//! ```
//! [`Sync`] owns the [`Local`] and everything that may change it. It never waits for a process, a
//! pacemaker or a disk: tasks do, and tell it by events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::assignment::{AssignedInstance, Assignment};
use common::digest::Digest;
use common::id::{InstanceId, JobId};
use common::time::Span;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Moment};
use crate::contact::{Contact, FenceRule};
use crate::execute::{Executor, Launch};
use crate::local::journal::Journal;
use crate::local::{Event, Fence, Local};
use crate::plan::{self, HeartAction};
use crate::ports;
use crate::report::Snapshot;
use crate::runs;
use crate::shim::ProcessRecord;

/// Events taken in before the plan is made anew: a burst costs one plan.
const EVENTS_PER_TICK: usize = 256;

/// How long after a directory was made it is written to disk: not in the way of what is starting,
/// and once for everything that was made meanwhile, because it writes the whole file system.
const HOUSEKEEPING_AFTER: Span = Span::seconds(5);

/// The loop's state.
#[derive(Debug)]
pub(crate) struct Sync {
    pub(crate) local: Local,
    pub(crate) journal: Journal,
    pub(crate) executor: Executor,
    pub(crate) boot_id: String,
    pub(crate) clock: Clock,
    pub(crate) contact: Arc<Contact>,
    pub(crate) fence: FenceRule,
    pub(crate) assignments: watch::Receiver<Option<Arc<Assignment>>>,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) snapshot: watch::Sender<Snapshot>,
    pub(crate) work: BTreeMap<InstanceId, CancellationToken>,
    pub(crate) builds: BTreeMap<JobId, CancellationToken>,
    pub(crate) housekeeping: Housekeeping,
}

/// When directories are to be written to disk and packages removed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Housekeeping {
    due: Option<Moment>,
    is_running: bool,
}

impl Housekeeping {
    /// Plans it for a little later, unless it is planned already.
    fn plan(&mut self, now: Moment) {
        self.due = self.due.or_else(|| Some(now.after(HOUSEKEEPING_AFTER)));
    }
}

impl Sync {
    /// Runs until the heart is shut down; processes go on.
    pub(crate) async fn run(mut self) {
        let shutdown = self.executor.shutdown.clone();
        let contact = Arc::clone(&self.contact);
        self.take_assignment();
        self.housekeeping.plan(self.clock.now());
        loop {
            self.tick();
            let wake = self.wake_after();
            tokio::select! {
                () = shutdown.cancelled() => break,
                changed = self.assignments.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.take_assignment();
                }
                () = contact.heard_again.notified() => {}
                Some(event) = self.events.recv() => self.take_events(event),
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        for cancelled in self.work.values().chain(self.builds.values()) {
            cancelled.cancel();
        }
        // What tasks still tell is not acted on; the next heart finds it on disk.
        self.events.close();
    }

    fn wake_after(&self) -> tokio::time::Instant {
        /// Long enough to cost nothing, when nothing is planned.
        const LONGEST_SLEEP: Span = Span::seconds(60);
        let now = self.clock.now();
        let deadlines = [
            self.local.next_deadline(now),
            self.fence.deadline(self.contact.heard()),
            self.housekeeping.due,
        ];
        let next = deadlines.into_iter().flatten().min();
        let span = next.map_or(LONGEST_SLEEP, |next| next.since(now).min(LONGEST_SLEEP));
        tokio::time::Instant::now() + span.duration()
    }

    fn assignment(&self) -> Option<Arc<Assignment>> {
        self.assignments.borrow().clone()
    }

    fn take_assignment(&mut self) {
        let newest = self.assignments.borrow_and_update().clone();
        let Some(assignment) = newest else { return };
        tracing::debug!(generation = %assignment.generation, "assignment");
        self.housekeeping.plan(self.clock.now());
    }

    fn take_events(&mut self, first: Event) {
        let mut next = Some(first);
        for _ in 0..EVENTS_PER_TICK {
            let Some(event) = next else { return };
            self.take_event(event);
            next = self.events.try_recv().ok();
        }
        if let Some(event) = next {
            self.take_event(event);
        }
    }

    fn take_event(&mut self, event: Event) {
        let now = self.clock.now();
        match &event {
            Event::LaidOut { instance, .. } | Event::Launched { instance, .. } => {
                self.work.remove(instance);
                self.housekeeping.plan(now);
            }
            Event::Synced { .. } => self.housekeeping.is_running = false,
            Event::BuildChanged { job, state } if crate::build::is_final(state) => {
                self.builds.remove(job);
            }
            Event::Passed { .. }
            | Event::CheckFailed { .. }
            | Event::Ended { .. }
            | Event::Removed { .. }
            | Event::BuildChanged { .. } => {}
        }
        self.local.apply(event, now);
    }

    /// One pass: settle, fence, plan, act, write down, publish.
    fn tick(&mut self) {
        let now = self.clock.now();
        self.local.settle(now);
        let fence = self.contact.judge(&mut self.fence, now);
        if fence != self.local.fence {
            tracing::info!(?fence, "exclusive instances");
            self.local.fence = fence;
        }
        if fence == Fence::Unconfirmed {
            self.contact.confirm.notify_one();
        }
        if let Some(assignment) = self.assignment() {
            self.local.meet(&assignment, &self.boot_id);
            for action in plan::plan(&assignment, &self.local, now) {
                self.execute(action, &assignment, now);
            }
            self.keep_house(&assignment, now);
        }
        self.write_down();
        let snapshot = Snapshot::of(self.assignment().as_deref(), &self.local);
        self.snapshot.send_if_modified(|published| {
            let is_changed = *published != snapshot;
            *published = snapshot;
            is_changed
        });
    }

    fn execute(&mut self, action: HeartAction, assignment: &Assignment, now: Moment) {
        tracing::debug!(?action, "acting");
        self.executor.metrics.note_action();
        match action {
            HeartAction::LayOut(id) => {
                let Some(assigned) = find(assignment, id) else {
                    return;
                };
                self.local.begin_lay_out(id);
                let cancelled = self.begin_work(id);
                self.executor.lay_out(assigned.clone(), cancelled);
            }
            HeartAction::Launch(id) => {
                let Some(assigned) = find(assignment, id) else {
                    return;
                };
                self.launch(assigned, now);
            }
            HeartAction::GiveUp(id) => {
                self.local.begin_giving_up(id);
                if let Some(cancelled) = self.work.get(&id) {
                    cancelled.cancel();
                }
            }
            HeartAction::Stop(id) => {
                let kill_at = plan::kill_at(assignment, &self.local, id, now);
                self.local.begin_stop(id, kill_at);
                self.stop(id);
            }
            HeartAction::Kill(id) => {
                let again_at = now.after(crate::local::KILL_MARGIN);
                self.local.begin_stop(id, again_at);
                if let Some(process) = self.process(id) {
                    self.executor.kill(id, process.clone());
                }
            }
            HeartAction::Remove(id) => {
                self.local.begin_remove(id);
                self.executor.remove(id);
            }
            HeartAction::Build(job) => self.build(assignment, job),
            HeartAction::AbortBuild(job) => {
                self.local.begin_abort(job);
                if let Some(cancelled) = self.builds.get(&job) {
                    cancelled.cancel();
                }
            }
            HeartAction::ForgetBuild(job) => self.local.forget_build(job),
        }
    }

    fn launch(&mut self, assigned: &AssignedInstance, now: Moment) {
        let id = assigned.id;
        let is_restart = self
            .local
            .instances
            .get(&id)
            .is_some_and(|held| held.entry.failure.is_some());
        if is_restart {
            self.executor.metrics.note_restart();
        }
        let had_port = self.has_port(id) || assigned.standalone;
        if let Err(no_port) = self.local.begin_launch(assigned, ports::BY_BINDING, now) {
            tracing::error!(instance = %id, error = %no_port, "starting an instance");
            return;
        }
        let Some(held) = self.local.instances.get(&id) else {
            return;
        };
        let entry = held.entry.clone();
        let noted = self.journal.note(id, Some(&entry));
        // A port must be in the journal before a process may have it; a number of runs need not.
        let journaled = (!had_port).then_some(noted);
        let cancelled = self.begin_work(id);
        self.executor.launch(Launch {
            assigned: assigned.clone(),
            port: entry.port,
            run: entry.runs,
            needs_startup: entry.needs_startup,
            journaled,
            cancelled,
        });
    }

    fn has_port(&self, id: InstanceId) -> bool {
        self.local
            .instances
            .get(&id)
            .is_some_and(|held| held.entry.port.is_some())
    }

    fn process(&self, id: InstanceId) -> Option<&ProcessRecord> {
        self.local
            .instances
            .get(&id)
            .and_then(|held| held.condition.process())
    }

    fn stop(&self, id: InstanceId) {
        if let Some(process) = self.process(id) {
            runs::request_stop(process);
            self.executor.crash.at(crate::CrashPoint::AfterStop);
        }
    }

    fn build(&mut self, assignment: &Assignment, job: JobId) {
        let Some(assigned) = assignment.builds.iter().find(|build| build.job == job) else {
            return;
        };
        self.local.begin_build(job);
        let cancelled = self.executor.shutdown.child_token();
        self.builds.insert(job, cancelled.clone());
        self.executor.build(assigned.clone(), cancelled);
    }

    fn begin_work(&mut self, id: InstanceId) -> CancellationToken {
        let cancelled = self.executor.shutdown.child_token();
        self.work.insert(id, cancelled.clone());
        cancelled
    }

    /// Hands every entry that changed to the journal; nobody waits for it.
    fn write_down(&mut self) {
        let gone: Vec<InstanceId> = self
            .journal
            .known()
            .filter(|id| !self.local.instances.contains_key(id))
            .collect();
        for id in gone {
            drop(self.journal.note(id, None));
        }
        for (id, held) in &self.local.instances {
            drop(self.journal.note(*id, Some(&held.entry)));
        }
    }

    /// Writes what was laid out to disk and removes packages that nothing needs, in the background.
    fn keep_house(&mut self, assignment: &Assignment, now: Moment) {
        let is_due = self.housekeeping.due.is_some_and(|due| due <= now);
        if !is_due || self.housekeeping.is_running {
            return;
        }
        self.housekeeping = Housekeeping {
            due: None,
            is_running: true,
        };
        let instances = self
            .local
            .instances
            .iter()
            .filter(|(_, held)| held.entry.is_laid_out && !held.entry.is_synced)
            .map(|(id, _)| *id)
            .collect();
        let needed: BTreeSet<Digest> = assignment
            .instances
            .iter()
            .map(|assigned| assigned.package.digest.clone())
            .chain(
                assignment
                    .builds
                    .iter()
                    .map(|build| build.source.digest.clone()),
            )
            .collect();
        self.executor.keep_house(instances, needed);
    }
}

fn find(assignment: &Assignment, id: InstanceId) -> Option<&AssignedInstance> {
    assignment
        .instances
        .iter()
        .find(|assigned| assigned.id == id)
}
