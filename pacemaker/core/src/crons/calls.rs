//! What a run's request is, and which instances can take it.

use std::net::SocketAddr;

use common::application::{CronKey, CronMethod, CronSpec};
use common::id::{ApplicationId, InstanceId, NodeId, RunId, VersionNumber};
use common::instance::InstanceState;
use common::secret::Secret;
use common::time::{Span, Timestamp};

use crate::apply::is_busy_with;
use crate::command::CronGrant;
use crate::state::State;
use crate::state::crons::RunPhase;
use crate::state::records::{Application, Exposure, Instance, Version};

/// An instance that can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CronTarget {
    /// Which.
    pub instance: InstanceId,
    /// Where it runs.
    pub node: NodeId,
    /// Where it listens.
    pub address: SocketAddr,
}

/// A request as it is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronCall {
    /// The run.
    pub run: RunId,
    /// Which of its attempts.
    pub attempt: u32,
    /// The slot; of a run that was asked for, when that was.
    pub scheduled: Timestamp,
    /// Whose.
    pub application: ApplicationId,
    /// Which cron.
    pub cron: CronKey,
    /// The version that it is a cron of.
    pub version: VersionNumber,
    /// How it is requested.
    pub method: CronMethod,
    /// What is requested: begins with a slash.
    pub uri: String,
    /// The `Host` of the request.
    pub host: String,
    /// For HTTP basic authentication.
    pub credentials: Option<BasicCredentials>,
    /// How long the whole attempt may take.
    pub timeout: Span,
    /// What the request is signed with; none for an application of a release without crons.
    pub key: Option<Secret>,
}

/// Name and password of HTTP basic authentication; either may be missing in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicCredentials {
    /// Empty when the manifest has none.
    pub username: String,
    /// None when the manifest has none.
    pub password: Option<Secret>,
}

impl State {
    /// The instances of the current version that can take a cron's request, by id: those that
    /// routers may send to.
    #[must_use]
    pub fn cron_targets(&self, application: ApplicationId, cron: &CronKey) -> Vec<CronTarget> {
        let current = self.applications.get(&application).and_then(|application| {
            let number = application.current?;
            application.versions.get(&number)
        });
        let Some(version) = current else {
            return Vec::new();
        };
        self.instances_of(version)
            .filter(|instance| {
                instance.instance_type == cron.instance_type
                    && instance.exposure == Exposure::In
                    && instance.seen.state == InstanceState::Running
            })
            .filter_map(|instance| {
                let address = self.brief(instance.node)?.address;
                Some(CronTarget {
                    instance: instance.id,
                    node: instance.node,
                    address: SocketAddr::new(address, instance.seen.port?),
                })
            })
            .collect()
    }

    /// True when a request of a cron may be going on at an instance: which one was called is known
    /// only once it has ended.
    pub(crate) fn may_serve_cron(&self, instance: &Instance) -> bool {
        if instance.seen.state != InstanceState::Running
            || !self.cron_index.running.contains_key(&instance.application)
        {
            return false;
        }
        let application = self.applications.get(&instance.application);
        let crons = application.into_iter().flat_map(|one| &one.crons);
        crons
            .filter(|(key, _)| key.instance_type == instance.instance_type)
            .flat_map(|(_, record)| &record.live)
            .filter_map(|run| self.cron_runs.get(run))
            .any(|run| run.phase == RunPhase::Running && run.version == instance.version)
    }

    /// True when an instance is to stop only because another version has taken over: nobody waits
    /// for that.
    pub(crate) fn is_retired(&self, instance: &Instance) -> bool {
        let Some(application) = self.applications.get(&instance.application) else {
            return false;
        };
        let is_left = self
            .brief(instance.node)
            .is_none_or(|node| node.is_draining);
        application.current != Some(instance.version)
            && !is_left
            && !is_busy_with(self, application, instance.version)
    }

    /// The request of an attempt that was granted to `runner`; none when it is not under way any
    /// more, or was granted to another pacemaker since.
    #[must_use]
    pub fn cron_call(&self, grant: CronGrant, runner: NodeId) -> Option<CronCall> {
        let run = self.cron_runs.get(&grant.run)?;
        if !run.is_running(grant.attempt) || run.runner != Some(runner) {
            return None;
        }
        let application = self.applications.get(&run.application)?;
        let version = application.versions.get(&run.version)?;
        let spec = cron_spec(version, &run.cron)?;
        Some(CronCall {
            run: run.id,
            attempt: run.attempts,
            scheduled: run.scheduled,
            application: run.application,
            cron: run.cron.clone(),
            version: run.version,
            method: spec.method,
            uri: spec.uri.clone(),
            host: self.cron_host(application, version, &run.cron)?,
            credentials: credentials_of(spec),
            timeout: run.timeout,
            key: application.cron_key.clone(),
        })
    }

    /// The type's first hostname that is no wildcard, else the one that the cluster generates.
    fn cron_host(
        &self,
        application: &Application,
        version: &Version,
        cron: &CronKey,
    ) -> Option<String> {
        let spec = version.instance_type(&cron.instance_type)?;
        spec.hostnames
            .iter()
            .find(|hostname| !hostname.is_wildcard())
            .map(ToString::to_string)
            .or_else(|| self.type_hostname(application, &spec.name))
    }
}

/// What a version's manifest says of a cron.
pub(super) fn cron_spec<'a>(version: &'a Version, cron: &CronKey) -> Option<&'a CronSpec> {
    let instance_type = version.instance_type(&cron.instance_type)?;
    let mut crons = instance_type.crons.iter();
    crons.find(|spec| spec.name == cron.name)
}

fn credentials_of(spec: &CronSpec) -> Option<BasicCredentials> {
    if spec.username.is_none() && spec.password.is_none() {
        return None;
    }
    Some(BasicCredentials {
        username: spec.username.clone().unwrap_or_default(),
        password: spec.password.clone(),
    })
}
