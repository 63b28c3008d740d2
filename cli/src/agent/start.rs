//! Starting a role and putting it on the node's port; `pm dev` and `pm agent` do it the same way.

use std::collections::BTreeMap;

use common::application::{RUNTIME_SHELL, RUNTIME_STATIC};
use common::id::PluginName;
use tokio_util::sync::CancellationToken;

use crate::agent::http::Port;
use crate::agent::roles::Roles;
use crate::error::{CommandError, chain, code};

/// The version of the runtimes that `pm` itself brings.
const RUNTIME_VERSION: &str = "1";

/// Starts roles, each with its configuration, in the order of the calls.
#[derive(Debug)]
pub(crate) struct Starter<'a> {
    /// What the roles answer on.
    pub(crate) port: Port,
    /// Those that run.
    pub(crate) roles: &'a mut Roles,
    /// What ends them.
    pub(crate) shutdown: CancellationToken,
}

impl Starter<'_> {
    /// Starts the pacemaker.
    pub(crate) async fn pacemaker(
        &mut self,
        config: pacemaker::Config,
    ) -> Result<(), CommandError> {
        let running = pacemaker::start(config, self.shutdown.clone())
            .await
            .map_err(|error| not_started("pacemaker", &error))?;
        self.port.add("pacemaker", running.routes, running.metrics);
        self.roles.watch("pacemaker", running.finished);
        Ok(())
    }

    /// Starts the heart.
    pub(crate) async fn heart(&mut self, config: heart::Config) -> Result<(), CommandError> {
        let running = heart::start(config, self.shutdown.clone())
            .await
            .map_err(|error| not_started("heart", &error))?;
        self.port.add("heart", running.routes, running.metrics);
        self.roles.watch("heart", running.finished);
        Ok(())
    }

    /// Starts the router.
    pub(crate) async fn router(&mut self, config: router::Config) -> Result<(), CommandError> {
        let running = router::start(config, self.shutdown.clone())
            .await
            .map_err(|error| not_started("router", &error))?;
        self.port.add("router", running.routes, running.metrics);
        self.roles.watch("router", running.finished);
        Ok(())
    }
}

/// The runtimes that a heart of this release has.
pub(crate) fn runtimes() -> BTreeMap<PluginName, Vec<String>> {
    [RUNTIME_SHELL, RUNTIME_STATIC]
        .map(|plugin| {
            let plugin =
                PluginName::parse(plugin).expect("the names of our own plugins keep the rule");
            (plugin, vec![RUNTIME_VERSION.to_owned()])
        })
        .into()
}

/// The name of this machine for people.
pub(crate) fn machine_name() -> String {
    nix::unistd::gethostname().map_or_else(
        |_| "localhost".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn not_started(role: &str, error: &dyn std::error::Error) -> CommandError {
    CommandError::new(code::FAILED, format!("start the {role}"), chain(error))
}
