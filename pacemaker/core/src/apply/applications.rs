//! What users ask of applications: deploy, start, stop, promote, roll back, scale.
//!
//! One job at a time: while one is under way, another request that needs a job is refused as
//! busy and names it. It is not queued, because what the user saw when asking may be gone when
//! its turn comes.

mod checks;

use std::collections::{BTreeMap, BTreeSet};

use common::api::VersionState;
use common::application::VersionSpec;
use common::assignment::PackageReference;
use common::digest::Digest;
use common::id::{
    ApplicationId, Generation, InstanceTypeName, JobId, VersionId, VersionNumber, WorkspaceId,
    WorkspaceStub,
};
use common::job::{JobKind, StepName};
use common::manifest::MANIFEST_MAX_BYTES;
use common::secret::Secret;

use self::checks::{
    check_cron_key, check_idle, check_not_current, check_prepared, check_quantity, check_spec,
    crons_of, has_room, instances_of, version_state, wanted_instances,
};
use crate::apply::{jobs, reject};
use crate::claims::check_claims;
use crate::command::{Outcome, Rejection, RejectionCode, VersionTarget};
use crate::offers::check_offered;
use crate::state::limits::{APPLICATIONS_MAX, INSTANCES_MAX, VERSIONS_PER_APPLICATION_MAX};
use crate::state::records::{Application, Version, VersionGoal};
use crate::transition::Transition;

/// What a deployment names.
pub(super) struct Deployment<'a> {
    pub(super) workspace: &'a WorkspaceStub,
    pub(super) spec: &'a VersionSpec,
    pub(super) manifest: &'a str,
    pub(super) source: &'a Digest,
    pub(super) promote: bool,
    pub(super) cron_key: Option<&'a Secret>,
}

impl Transition<'_> {
    /// Makes the application if there is none, a version, and a job that takes it along.
    pub(super) fn deploy(&mut self, wish: &Deployment<'_>) -> Result<Outcome, Rejection> {
        let Some(workspace) = self.state.workspace_by_stub(wish.workspace) else {
            return Err(reject(
                RejectionCode::WorkspaceNotFound,
                format!(
                    "there is no workspace `{}`: create it, or choose another",
                    wish.workspace
                ),
            ));
        };
        let workspace = workspace.id;
        let Some(source) = self.state.package(wish.source) else {
            return Err(reject(
                RejectionCode::PackageNotFound,
                format!(
                    "package {} is not in the store: upload it first",
                    wish.source
                ),
            ));
        };
        if wish.manifest.len() > MANIFEST_MAX_BYTES {
            return Err(reject(
                RejectionCode::LimitExceeded,
                format!("a manifest has at most {MANIFEST_MAX_BYTES} bytes"),
            ));
        }
        check_spec(wish.spec)?;
        check_cron_key(wish.cron_key)?;
        check_offered(self.state, wish.spec)?;
        let existing = self
            .state
            .application_by_name(workspace, &wish.spec.application);
        if let Some(application) = existing {
            check_idle(application)?;
            if !has_room(application) {
                return Err(reject(
                    RejectionCode::LimitExceeded,
                    format!(
                        "application `{}` has {VERSIONS_PER_APPLICATION_MAX} versions that are current or have instances: stop and deregister some",
                        application.name
                    ),
                ));
            }
        } else if self.state.applications.len() >= APPLICATIONS_MAX {
            return Err(reject(
                RejectionCode::LimitExceeded,
                format!("the cluster has {APPLICATIONS_MAX} applications, the most it may have"),
            ));
        }
        self.check_instances(instances_of(wish.spec))?;
        self.check_crons(existing, crons_of(wish.spec))?;
        let draft = self.draft(existing, workspace, wish, source);
        let claimed = check_claims(self.state, &draft.0, &draft.1)?;
        Ok(self.begin_deployment(draft, claimed, wish.promote))
    }

    /// The application and version as they will be, without touching the state.
    fn draft(
        &self,
        existing: Option<&Application>,
        workspace: WorkspaceId,
        wish: &Deployment<'_>,
        source: PackageReference,
    ) -> (Application, Version) {
        let mut application = existing.cloned().unwrap_or_else(|| Application {
            id: ApplicationId(self.state.counters.application.saturating_add(1)),
            workspace,
            name: wish.spec.application.clone(),
            last_version: 0,
            versions: BTreeMap::new(),
            current: None,
            previous: None,
            exclusive_owner: None,
            handover: false,
            job: None,
            switch: None,
            warm: None,
            changed: Generation(0),
            crons: BTreeMap::new(),
            crons_version: None,
            crons_changed: Generation(0),
            cron_key: None,
        });
        if application.cron_key.is_none() {
            application.cron_key = wish.cron_key.cloned();
        }
        application.last_version = application.last_version.saturating_add(1);
        let package = wish.spec.prepare.is_none().then(|| source.clone());
        let version = Version {
            id: VersionId(self.state.counters.version.saturating_add(1)),
            number: VersionNumber(application.last_version),
            spec: Box::new(wish.spec.clone()),
            manifest: wish.manifest.to_owned(),
            source,
            state: if package.is_some() {
                VersionState::Prepared
            } else {
                VersionState::New
            },
            package,
            created: self.now(),
            quantities: wish
                .spec
                .instance_types
                .iter()
                .map(|spec| (spec.name.clone(), spec.quantity))
                .collect(),
            goal: VersionGoal::Absent,
            instances: BTreeSet::new(),
        };
        (application, version)
    }

    fn begin_deployment(
        &mut self,
        (application, version): (Application, Version),
        claimed: BTreeSet<String>,
        promote: bool,
    ) -> Outcome {
        let (id, number) = (application.id, version.number);
        let counters = &mut self.state.counters;
        counters.application = counters.application.max(id.0);
        counters.version = version.id.0;
        self.application(id);
        let builds = version.spec.prepare.is_some();
        let target = VersionTarget {
            application: id,
            version: number,
        };
        self.state.applications.insert(id, application);
        if let Some(application) = self.application(id) {
            application.versions.insert(number, version);
        }
        for name in claimed {
            self.state.claims.insert(name, id);
        }
        self.prune_versions(id);
        let steps = jobs::deployment_steps(builds, promote);
        self.begin_job(JobKind::Deploy, target, &steps)
    }

    /// Starts a version beside the current one.
    pub(super) fn start_version(&mut self, target: VersionTarget) -> Result<Outcome, Rejection> {
        let (application, version) = self.idle_target(target)?;
        check_prepared(application, version)?;
        if version.state == VersionState::Running {
            return Err(version_state(application, version, "runs already"));
        }
        self.check_instances(wanted_instances(version))?;
        Ok(self.begin_job(JobKind::Start, target, &jobs::STARTING_STEPS))
    }

    /// Stops a version that is not current; it stays laid out on its nodes.
    pub(super) fn stop_version(&mut self, target: VersionTarget) -> Result<Outcome, Rejection> {
        let (application, version) = self.idle_target(target)?;
        check_not_current(application, version, "stopped")?;
        if version.state != VersionState::Running {
            return Err(version_state(application, version, "does not run"));
        }
        let steps = [StepName::Drain, StepName::Stop];
        Ok(self.begin_job(JobKind::Stop, target, &steps))
    }

    /// Makes a version current, starting it first if it does not run.
    pub(super) fn promote_version(&mut self, target: VersionTarget) -> Result<Outcome, Rejection> {
        self.make_current(JobKind::Promote, target)
    }

    /// Makes the version that was current before current again.
    pub(super) fn roll_back(&mut self, id: ApplicationId) -> Result<Outcome, Rejection> {
        let application = self.find_application(id)?;
        check_idle(application)?;
        let Some(version) = application.previous else {
            return Err(reject(
                RejectionCode::NothingToRollBack,
                format!(
                    "application `{}` has no earlier version that was current: deploy or promote one",
                    application.name
                ),
            ));
        };
        let target = VersionTarget {
            application: id,
            version,
        };
        self.make_current(JobKind::Rollback, target)
    }

    fn make_current(&mut self, kind: JobKind, target: VersionTarget) -> Result<Outcome, Rejection> {
        let (application, version) = self.idle_target(target)?;
        check_prepared(application, version)?;
        if application.current == Some(version.number) {
            return Err(version_state(application, version, "is current already"));
        }
        if version.goal != VersionGoal::Running {
            self.check_instances(wanted_instances(version))?;
        }
        let steps: Vec<StepName> = jobs::STARTING_STEPS
            .into_iter()
            .chain(jobs::PROMOTING_STEPS)
            .collect();
        Ok(self.begin_job(kind, target, &steps))
    }

    /// Removes a version's instances from their nodes.
    pub(super) fn deregister_version(
        &mut self,
        target: VersionTarget,
    ) -> Result<Outcome, Rejection> {
        let (application, version) = self.idle_target(target)?;
        check_not_current(application, version, "deregistered")?;
        match version.state {
            VersionState::Ready => {}
            VersionState::Running => {
                return Err(version_state(application, version, "runs: stop it first"));
            }
            VersionState::New | VersionState::Prepared => {
                return Err(version_state(application, version, "is on no node"));
            }
        }
        Ok(self.begin_job(JobKind::Deregister, target, &[StepName::Deregister]))
    }

    /// Changes how many instances of the current version there are.
    ///
    /// It lasts as long as the version: the next deployment says its own quantities.
    pub(super) fn scale(
        &mut self,
        id: ApplicationId,
        quantities: &BTreeMap<InstanceTypeName, u32>,
    ) -> Result<Outcome, Rejection> {
        let application = self.find_application(id)?;
        let current = application
            .current
            .and_then(|number| application.versions.get(&number));
        let Some(version) = current else {
            return Err(reject(
                RejectionCode::VersionState,
                format!(
                    "application `{}` has no current version to scale: promote one",
                    application.name
                ),
            ));
        };
        let number = version.number;
        for (name, quantity) in quantities {
            if version.instance_type(name).is_none() {
                let known: Vec<&str> = version
                    .quantities
                    .keys()
                    .map(InstanceTypeName::as_str)
                    .collect();
                return Err(reject(
                    RejectionCode::InstanceTypeNotFound,
                    format!(
                        "version {number} of `{}` has no instance type `{name}`; it has {}",
                        application.name,
                        known.join(", ")
                    ),
                ));
            }
            check_quantity(name, *quantity)?;
        }
        let more = quantities
            .iter()
            .map(|(name, quantity)| quantity.saturating_sub(version.quantity(name)))
            .fold(0_u32, u32::saturating_add);
        self.check_instances(more)?;
        if let Some(version) = self.version(id, number) {
            for (name, quantity) in quantities {
                version.quantities.insert(name.clone(), *quantity);
            }
        }
        Ok(Outcome::Done)
    }

    /// Ends a job and undoes it, as long as its version has not become current.
    pub(super) fn abort_job(&mut self, id: JobId) -> Result<Outcome, Rejection> {
        let Some(record) = self.state.jobs.get(&id) else {
            return Err(reject(
                RejectionCode::JobNotFound,
                format!("there is no job {id}"),
            ));
        };
        if record.job.state.is_final() {
            return Err(reject(
                RejectionCode::Invalid,
                format!("job {id} has ended already"),
            ));
        }
        let application = self.find_application(record.job.application)?;
        match record.job.kind {
            JobKind::Deploy | JobKind::Promote | JobKind::Rollback | JobKind::Start => {}
            JobKind::Stop | JobKind::Deregister => {
                return Err(reject(
                    RejectionCode::VersionState,
                    format!(
                        "job {id} stops processes and cannot be undone: start the version again when it has ended"
                    ),
                ));
            }
        }
        if application.current == Some(record.job.version_number) {
            return Err(reject(
                RejectionCode::VersionState,
                format!(
                    "version {} is current already: roll back instead of aborting job {id}",
                    record.job.version_number
                ),
            ));
        }
        self.end_undone(id, None);
        Ok(Outcome::Done)
    }

    /// Refuses what would place more instances than a cell may have.
    fn check_instances(&self, more: u32) -> Result<(), Rejection> {
        let more = usize::try_from(more).unwrap_or(usize::MAX);
        if self.state.instances.len().saturating_add(more) > INSTANCES_MAX {
            return Err(reject(
                RejectionCode::LimitExceeded,
                format!(
                    "the cluster would have more than {INSTANCES_MAX} instances, the most it may have"
                ),
            ));
        }
        Ok(())
    }

    pub(super) fn find_application(&self, id: ApplicationId) -> Result<&Application, Rejection> {
        self.state.applications.get(&id).ok_or_else(|| {
            reject(
                RejectionCode::ApplicationNotFound,
                format!("there is no application {id}"),
            )
        })
    }

    fn idle_target(&self, target: VersionTarget) -> Result<(&Application, &Version), Rejection> {
        let application = self.find_application(target.application)?;
        let Some(version) = application.versions.get(&target.version) else {
            return Err(reject(
                RejectionCode::VersionNotFound,
                format!(
                    "application `{}` has no version {}",
                    application.name, target.version
                ),
            ));
        };
        check_idle(application)?;
        Ok((application, version))
    }
}
