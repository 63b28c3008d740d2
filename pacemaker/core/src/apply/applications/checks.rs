//! What must hold before a request about an application changes anything.

use std::collections::BTreeSet;

use common::application::VersionSpec;
use common::id::InstanceTypeName;
use common::secret::Secret;

use crate::apply::{jobs, reject};
use crate::command::{Rejection, RejectionCode};
use crate::state::limits::{
    CRON_KEY_DIGITS, CRONS_PER_VERSION_MAX, HOSTNAMES_PER_VERSION_MAX, INSTANCE_TYPES_MAX,
    INSTANCES_PER_TYPE_MAX, VERSIONS_PER_APPLICATION_MAX,
};
use crate::state::records::{Application, Version};

pub(super) fn check_idle(application: &Application) -> Result<(), Rejection> {
    match application.job {
        None => Ok(()),
        Some(job) => Err(reject(
            RejectionCode::Busy,
            format!(
                "job {job} of application `{}` is under way: wait for it, or abort it",
                application.name
            ),
        )),
    }
}

pub(super) fn check_prepared(
    application: &Application,
    version: &Version,
) -> Result<(), Rejection> {
    if version.package.is_some() {
        return Ok(());
    }
    Err(version_state(
        application,
        version,
        "was never built: deploy again",
    ))
}

pub(super) fn check_not_current(
    application: &Application,
    version: &Version,
    what: &str,
) -> Result<(), Rejection> {
    if application.current == Some(version.number) {
        return Err(version_state(
            application,
            version,
            &format!("is current and cannot be {what}: promote another version first"),
        ));
    }
    Ok(())
}

pub(super) fn version_state(application: &Application, version: &Version, what: &str) -> Rejection {
    reject(
        RejectionCode::VersionState,
        format!(
            "version {} of `{}` {what}",
            version.number, application.name
        ),
    )
}

/// The manifest has been checked where it was parsed; these are the bounds of the state.
pub(super) fn check_spec(spec: &VersionSpec) -> Result<(), Rejection> {
    let count = spec.instance_types.len();
    if count == 0 || count > INSTANCE_TYPES_MAX {
        return Err(reject(
            RejectionCode::LimitExceeded,
            format!("a version has 1 to {INSTANCE_TYPES_MAX} instance types, not {count}"),
        ));
    }
    let hostnames = spec
        .instance_types
        .iter()
        .map(|instance_type| instance_type.hostnames.len())
        .fold(0_usize, usize::saturating_add);
    if hostnames > HOSTNAMES_PER_VERSION_MAX {
        return Err(reject(
            RejectionCode::LimitExceeded,
            format!("a version has at most {HOSTNAMES_PER_VERSION_MAX} hostnames, not {hostnames}"),
        ));
    }
    let crons = crons_of(spec);
    if crons > CRONS_PER_VERSION_MAX {
        return Err(reject(
            RejectionCode::LimitExceeded,
            format!("a version has at most {CRONS_PER_VERSION_MAX} crons, not {crons}"),
        ));
    }
    let mut names = BTreeSet::new();
    for instance_type in &spec.instance_types {
        if !names.insert(instance_type.name.as_str().to_ascii_lowercase()) {
            return Err(reject(
                RejectionCode::Invalid,
                format!("instance type `{}` is there twice", instance_type.name),
            ));
        }
        check_quantity(&instance_type.name, instance_type.quantity)?;
    }
    Ok(())
}

pub(super) fn check_quantity(name: &InstanceTypeName, quantity: u32) -> Result<(), Rejection> {
    if quantity > INSTANCES_PER_TYPE_MAX {
        return Err(reject(
            RejectionCode::LimitExceeded,
            format!(
                "{quantity} instances of `{name}` are more than {INSTANCES_PER_TYPE_MAX}, the most of one type"
            ),
        ));
    }
    Ok(())
}

/// Short of a key, requests of crons are not signed; a wrong one would be found out by nobody.
pub(super) fn check_cron_key(key: Option<&Secret>) -> Result<(), Rejection> {
    let is_sound = |key: &Secret| {
        let digits = key.reveal();
        digits.len() == CRON_KEY_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    if key.is_none_or(is_sound) {
        return Ok(());
    }
    Err(reject(
        RejectionCode::Invalid,
        format!("a key for signatures of crons has {CRON_KEY_DIGITS} hexadecimal digits"),
    ))
}

pub(super) fn crons_of(spec: &VersionSpec) -> usize {
    spec.instance_types
        .iter()
        .map(|instance_type| instance_type.crons.len())
        .fold(0, usize::saturating_add)
}

pub(super) fn instances_of(spec: &VersionSpec) -> u32 {
    spec.instance_types
        .iter()
        .map(|instance_type| instance_type.quantity)
        .fold(0, u32::saturating_add)
}

pub(super) fn wanted_instances(version: &Version) -> u32 {
    version
        .quantities
        .values()
        .copied()
        .fold(0, u32::saturating_add)
}

/// True when a version can be added, because there are few or because an old one can go.
pub(super) fn has_room(application: &Application) -> bool {
    application.versions.len() < VERSIONS_PER_APPLICATION_MAX
        || application
            .versions
            .values()
            .any(|version| jobs::is_removable(application, version))
}
