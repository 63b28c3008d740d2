//! One instance in words: its state, its failure, its place in the routing table.

use common::instance::{InstanceGoal, InstanceState};
use common::node::Role;

use crate::desire::{Wanted, is_worn};
use crate::sightings::Sightings;
use crate::state::State;
use crate::state::records::{Exposure, Instance};

impl State {
    /// Wanted and actual in one sentence.
    pub(super) fn instance_sentence(&self, instance: &Instance) -> String {
        let wanted = match self.wanted(instance) {
            Wanted::Running => "is wanted to run",
            Wanted::Registered => "is wanted stopped",
            Wanted::Gone => "is to be removed",
        };
        let state = match instance.seen.state {
            InstanceState::Allocated => "is being laid out",
            InstanceState::Registered => "is laid out and has no process",
            InstanceState::Starting => "has a process that has not passed its start check",
            InstanceState::Running => "runs",
            InstanceState::Stopping => "is being stopped",
            InstanceState::Stopped => "is stopped",
            InstanceState::Failed => "has failed",
            InstanceState::Lost => "is lost: its node is silent",
        };
        format!(
            "instance {} of `{}` on {} {wanted} and {state} since {}",
            instance.id,
            instance.instance_type,
            self.node_in_words(instance.node),
            instance.since
        )
    }

    /// Why it is so, and what to do.
    pub(super) fn instance_lines(&self, instance: &Instance, sightings: &Sightings) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.heart_line(instance, sightings));
        if let Some(failure) = &instance.seen.failure {
            lines.push(failure.message.clone());
            lines.extend(failure.output_tail.lines().map(|line| format!("| {line}")));
            lines.push(format!(
                "its heart has restarted it {} times and goes on, at once first, then after 1 s doubling to 5 min; see `pm logs --instance {}`",
                instance.seen.restarts, instance.id
            ));
            if is_worn(instance) {
                lines.push(
                    "it has used up its restarts on this node: another node is tried, if one fits, and it stays until another serves in its place"
                        .to_owned(),
                );
            }
        }
        match instance.exposure {
            Exposure::In => lines.push("it has passed its start check and serves".to_owned()),
            Exposure::Withdrawn => {
                lines.push("it has left the routing table and its last requests drain".to_owned());
                lines.extend(self.waits_for_routers(instance.left, sightings));
                let since = instance.draining_since.unwrap_or(instance.left_at);
                lines.extend(self.waits_for_drain(&[instance.id], since, sightings));
            }
            Exposure::Out => {}
        }
        if self.wanted(instance) == Wanted::Running
            && instance.goal == InstanceGoal::Registered
            && !self.may_start(instance)
        {
            lines.push(
                "its type is exclusive: it starts when the other version's has stopped".to_owned(),
            );
        }
        lines
    }

    fn heart_line(&self, instance: &Instance, sightings: &Sightings) -> Option<String> {
        let node = self.nodes.get(&instance.node)?;
        let name = self.node_in_words(instance.node);
        if node.silent.contains(&Role::Heart) {
            return Some(format!(
                "{name} is silent: if it does not come back, start its agent again, or add a node"
            ));
        }
        let Some(sighting) = sightings.hearts.get(&instance.node) else {
            return Some(format!("{name} has not reported to this leader yet"));
        };
        let held = sighting.report.assignment;
        (held < instance.goal_generation).then(|| {
            format!(
                "{name} has not taken up the assignment of generation {} yet: it holds {held}",
                instance.goal_generation
            )
        })
    }
}
