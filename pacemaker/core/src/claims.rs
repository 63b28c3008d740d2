//! Who owns a hostname: one application per name in the whole cluster.
//!
//! A version claims, at deploy, every name that it could ever be routed under: the manifest's and
//! the generated ones. Claims are exact texts. A claim ends when no kept version of its owner
//! names it any more, so going back to an older version never finds its hostname taken.

use std::collections::BTreeSet;

use common::id::{HOSTNAME_MAX_BYTES, HostPattern};

use crate::apply::reject;
use crate::command::{Rejection, RejectionCode};
use crate::state::State;
use crate::state::records::{Application, Version};

/// The names that a version claims, or why it may not have them.
pub(crate) fn check_claims(
    state: &State,
    application: &Application,
    version: &Version,
) -> Result<BTreeSet<String>, Rejection> {
    let mut claimed = BTreeSet::new();
    for name in state.names_of(application, version) {
        if name.len() > HOSTNAME_MAX_BYTES {
            return Err(reject(
                RejectionCode::Invalid,
                format!(
                    "the hostname `{name}` would be longer than {HOSTNAME_MAX_BYTES} bytes: use shorter names"
                ),
            ));
        }
        if let Some(owner) = state.claims.get(&name)
            && *owner != application.id
        {
            return Err(taken(state, &name, *owner));
        }
        if !claimed.insert(name.clone()) {
            return Err(reject(
                RejectionCode::Invalid,
                format!("two instance types of the version claim the hostname `{name}`"),
            ));
        }
    }
    for pattern in version
        .spec
        .instance_types
        .iter()
        .flat_map(|instance_type| &instance_type.hostnames)
    {
        check_wildcard(state, application, pattern)?;
    }
    Ok(claimed)
}

fn taken(state: &State, name: &str, owner: common::id::ApplicationId) -> Rejection {
    let owner = state
        .applications
        .get(&owner)
        .map_or_else(|| owner.to_string(), |owner| owner.name.to_string());
    reject(
        RejectionCode::HostnameTaken,
        format!(
            "the hostname `{name}` belongs to application `{owner}`: choose another, or take it from there first"
        ),
    )
}

/// Refuses a wildcard over names that the cluster generates for others.
///
/// A generated name is in the table only while its version runs; a wildcard over it would get its
/// requests at other times.
fn check_wildcard(
    state: &State,
    application: &Application,
    pattern: &HostPattern,
) -> Result<(), Rejection> {
    let Some(base) = pattern.as_str().strip_prefix("*.") else {
        return Ok(());
    };
    let Some((_, hostname)) = state.cluster() else {
        return Ok(());
    };
    let is_under = |name: &str, parent: &str| {
        name == parent
            || name
                .strip_suffix(parent)
                .is_some_and(|rest| rest.ends_with('.'))
    };
    if !is_under(base, hostname) && !is_under(hostname, base) {
        return Ok(());
    }
    let own = state
        .workspaces
        .get(&application.workspace)
        .map(|workspace| {
            format!("{}.{}.{hostname}", application.name, workspace.stub).to_ascii_lowercase()
        });
    if own.is_some_and(|own| is_under(base, &own)) {
        return Ok(());
    }
    Err(reject(
        RejectionCode::HostnameTaken,
        format!(
            "the wildcard `{pattern}` covers hostnames that the cluster generates under `{hostname}`: choose one outside it"
        ),
    ))
}

impl State {
    /// Every name that an application's kept versions claim, from scratch.
    pub(crate) fn claims_of(&self, application: &Application) -> BTreeSet<String> {
        application
            .versions
            .values()
            .flat_map(|version| self.names_of(application, version))
            .collect()
    }
}
