//! The switchover's waits, and the end of the watch window.
//!
//! A switch does not wait for the requests that the old version carries. Nothing cuts them: the
//! version stays warm, with hostnames of its own, so routers go on counting it among their backends
//! and do not report what is in flight to it. When the watch window ends its instances are withdrawn,
//! and only then do they have the drain limit, before they are stopped
//! ([`Wishes::release`]). The step `drain` of a switch therefore waits for requests only to instances
//! that left the table altogether. To wait for all would make each deployment of an application
//! with long-lived connections last for the whole drain limit, and protect nothing.

use std::collections::BTreeSet;

use common::id::InstanceId;
use common::job::StepName;
use common::time::Timestamp;

use super::Wishes;
use crate::action::Action;
use crate::state::State;
use crate::state::records::{Application, Switch, SwitchPhase};

/// The next thing in an application's switch, if what it waited for has come.
pub(super) fn plan(wishes: &Wishes<'_>, application: &Application) -> Option<Action> {
    switch_action(wishes, application).or_else(|| warm_action(wishes, application))
}

/// When a switch stops waiting for requests in flight, and when a warm version is stopped.
pub(super) fn deadlines(
    state: &State,
    application: &Application,
) -> impl Iterator<Item = Timestamp> + use<> {
    let limit = state.settings().drain_limit;
    let drain = application.switch.map(|switch| switch.since.after(limit));
    let warm = application.warm.map(|warm| warm.until);
    drain.into_iter().chain(warm)
}

/// The step that a switch waits in, if what it waited for has come.
fn switch_action(wishes: &Wishes<'_>, application: &Application) -> Option<Action> {
    let switch = application.switch?;
    let job = application.job?;
    let step = match switch.phase {
        SwitchPhase::Both => StepName::Route,
        SwitchPhase::Handover => return None,
        SwitchPhase::OnlyNew => StepName::Promote,
        SwitchPhase::Draining => StepName::Drain,
    };
    let is_due = wishes.is_acknowledged(switch.generation)
        && wishes.state.may_complete(application.id, step)
        && (switch.phase != SwitchPhase::Draining || is_drained(wishes, application, switch));
    is_due.then_some(Action::CompleteStep { job, step })
}

fn is_drained(wishes: &Wishes<'_>, application: &Application, switch: Switch) -> bool {
    let limit = wishes.state.settings().drain_limit;
    let old: BTreeSet<InstanceId> = switch
        .from
        .and_then(|number| application.versions.get(&number))
        .map(|version| version.instances.clone())
        .unwrap_or_default();
    wishes.now >= switch.since.after(limit)
        || old.into_iter().all(|instance| wishes.is_drained(instance))
}

fn warm_action(wishes: &Wishes<'_>, application: &Application) -> Option<Action> {
    let warm = application.warm?;
    let is_due = wishes.now >= warm.until
        && !crate::apply::is_busy_with(wishes.state, application, warm.version);
    is_due.then_some(Action::EndWarm {
        application: application.id,
        version: warm.version,
        until: warm.until,
    })
}
