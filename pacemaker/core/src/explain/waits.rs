//! What the cluster waits for: builders, nodes, instances, routers, requests.

use common::id::{Generation, InstanceId};
use common::instance::InstanceState;
use common::job::StepName;
use common::time::Timestamp;

use crate::sightings::Sightings;
use crate::state::State;
use crate::state::records::{Application, JobRecord, Switch, SwitchPhase, Version};

impl State {
    /// What the step of a running job waits for.
    pub(super) fn waits_of_job(&self, record: &JobRecord, sightings: &Sightings) -> Vec<String> {
        let waits = || {
            let application = self.applications.get(&record.job.application)?;
            let version = application.versions.get(&record.job.version_number)?;
            let step = record.step()?;
            Some(self.waits_of_step(record, application, version, step, sightings))
        };
        waits().unwrap_or_default()
    }

    fn waits_of_step(
        &self,
        record: &JobRecord,
        application: &Application,
        version: &Version,
        step: StepName,
        sightings: &Sightings,
    ) -> Vec<String> {
        match step {
            StepName::Prepare => vec![self.waits_for_build(record)],
            StepName::Place => version
                .spec
                .instance_types
                .iter()
                .filter(|spec| self.desire(application, version, spec).missing > 0)
                .flat_map(|spec| self.nodes_in_words(version, spec))
                .collect(),
            StepName::Register | StepName::Start | StepName::Healthy => {
                self.waits_for_instances(version, sightings)
            }
            StepName::Route | StepName::Promote | StepName::Drain => application
                .switch
                .map(|switch| self.waits_for_switch(application, switch, sightings))
                .unwrap_or_else(|| self.waits_for_instances(version, sightings)),
            StepName::Stop | StepName::Deregister => self
                .instances_of(version)
                .map(|instance| self.instance_sentence(instance))
                .collect(),
            StepName::Source
            | StepName::Manifest
            | StepName::Services
            | StepName::Package
            | StepName::Retire => Vec::new(),
        }
    }

    fn waits_for_build(&self, record: &JobRecord) -> String {
        match record.builder {
            Some(node) => format!(
                "{} runs the prepare commands; follow them with `pm job follow {}`",
                self.node_in_words(node),
                record.job.id
            ),
            None => {
                "no node that could run the prepare commands is heard of: start a heart".to_owned()
            }
        }
    }

    fn waits_for_instances(&self, version: &Version, sightings: &Sightings) -> Vec<String> {
        self.instances_of(version)
            .filter(|instance| instance.assigned)
            .filter(|instance| instance.seen.state != InstanceState::Running)
            .flat_map(|instance| {
                let mut lines = vec![self.instance_sentence(instance)];
                lines.extend(self.instance_lines(instance, sightings));
                lines
            })
            .collect()
    }

    fn waits_for_switch(
        &self,
        application: &Application,
        switch: Switch,
        sightings: &Sightings,
    ) -> Vec<String> {
        let mut lines = Vec::new();
        match switch.phase {
            SwitchPhase::Both => {
                if let Some(version) = application.versions.get(&switch.to) {
                    lines.extend(self.waits_for_instances(version, sightings));
                }
            }
            SwitchPhase::Handover => {
                lines.push(
                    "the exclusive types change hands: requests for them are held".to_owned(),
                );
                for number in switch.from.into_iter().chain([switch.to]) {
                    if let Some(version) = application.versions.get(&number) {
                        lines.extend(
                            self.instances_of(version)
                                .filter(|instance| is_exclusive(version, &instance.instance_type))
                                .map(|instance| self.instance_sentence(instance)),
                        );
                    }
                }
                return lines;
            }
            SwitchPhase::OnlyNew => {}
            SwitchPhase::Draining => {
                let old: Vec<InstanceId> = switch
                    .from
                    .and_then(|number| application.versions.get(&number))
                    .map(|version| version.instances.iter().copied().collect())
                    .unwrap_or_default();
                lines.extend(self.waits_for_drain(&old, switch.since, sightings));
            }
        }
        lines.extend(self.waits_for_routers(switch.generation, sightings));
        lines
    }

    /// Routers that have not acknowledged a table.
    pub(super) fn waits_for_routers(
        &self,
        generation: Generation,
        sightings: &Sightings,
    ) -> Vec<String> {
        let needed = generation.min(self.routes_generation);
        self.live_routers()
            .filter_map(|router| {
                let name = self.node_in_words(router.node.id);
                match sightings.routers.get(&router.node.id) {
                    None => Some(format!(
                        "waiting for the router of {name}, which has not reported to this leader yet"
                    )),
                    Some(sighting) if sighting.report.routes < needed => Some(format!(
                        "waiting for the router of {name} to acknowledge routing table {needed}: it uses {}",
                        sighting.report.routes
                    )),
                    Some(_) => None,
                }
            })
            .collect()
    }

    /// Requests that are still in flight to instances that left the table.
    pub(super) fn waits_for_drain(
        &self,
        instances: &[InstanceId],
        since: Timestamp,
        sightings: &Sightings,
    ) -> Vec<String> {
        let until = since.after(self.settings().drain_limit);
        self.live_routers()
            .filter_map(|router| {
                let report = &sightings.routers.get(&router.node.id)?.report;
                let count: u64 = instances
                    .iter()
                    .filter_map(|instance| report.in_flight.get(instance))
                    .sum();
                (count > 0).then(|| {
                    format!(
                        "waiting for {count} requests in flight through the router of {}, until {until} at most",
                        self.node_in_words(router.node.id)
                    )
                })
            })
            .collect()
    }
}

fn is_exclusive(version: &Version, name: &common::id::InstanceTypeName) -> bool {
    version
        .instance_type(name)
        .is_some_and(|spec| spec.exclusive)
}
