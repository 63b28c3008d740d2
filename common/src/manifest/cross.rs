//! What several values of a manifest must be together: unique names, and a standalone type
//! without what needs a port.
//!
//! It runs on documents that have faults too, so that all are reported at once; it looks only at
//! what is there.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use crate::application::{RUNTIME_SHELL, RUNTIME_STATIC};
use crate::launch::{self, LaunchError};

use super::fault::{Faults, excerpt};
use super::path::Path;
use super::rule::routed_hostname;
use super::tree::{Node, Place, Scalar};

/// Checks the whole document.
pub(super) fn check(root: &Node, faults: &mut Faults) {
    let instances = root.get("instances").map(Node::items).unwrap_or_default();
    let services = root.get("services").map(Node::items).unwrap_or_default();
    let mut type_names = Names::new("instance type");
    let mut service_names = Names::new("service");
    let mut hostnames = Names::new("hostname");
    for (index, instance) in instances.iter().enumerate() {
        let path = Path::root().key("instances").index(index);
        // Names become part of hostnames, which know no case.
        type_names.claim(
            instance.get("name"),
            &path.key("name"),
            str::to_ascii_lowercase,
            faults,
        );
        claim_hostnames(instance, &path, &mut hostnames, faults);
        check_crons(instance, &path, faults);
        if instance
            .get("standalone")
            .and_then(Node::scalar)
            .and_then(Scalar::boolean)
            == Some(true)
        {
            check_standalone(instance, &path, faults);
        }
    }
    for (index, service) in services.iter().enumerate() {
        let path = Path::root().key("services").index(index).key("name");
        service_names.claim(service.get("name"), &path, str::to_owned, faults);
    }
}

/// Names that may be given once.
struct Names {
    kind: &'static str,
    given: BTreeMap<String, (Place, String)>,
}

impl Names {
    fn new(kind: &'static str) -> Self {
        Self {
            kind,
            given: BTreeMap::new(),
        }
    }

    fn claim(
        &mut self,
        node: Option<&Node>,
        path: &Path,
        normal: impl Fn(&str) -> String,
        faults: &mut Faults,
    ) {
        let Some(node) = node else {
            return;
        };
        let Some(text) = node.text() else {
            return;
        };
        match self.given.entry(normal(text)) {
            Slot::Vacant(slot) => {
                slot.insert((node.place, path.to_string()));
            }
            Slot::Occupied(first) => {
                let (place, first_path) = first.get();
                let message = format!(
                    "the {} {} is given twice, first by {first_path} on line {}; each must be unique",
                    self.kind,
                    excerpt(text),
                    place.line
                );
                faults.push(node.place, path, message);
            }
        }
    }
}

/// A route leads to one instance type. The same hostname twice in one type is harmless.
fn claim_hostnames(instance: &Node, path: &Path, hostnames: &mut Names, faults: &mut Faults) {
    let mut own = BTreeMap::new();
    for (index, hostname) in instance
        .get("hostnames")
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let Some(text) = hostname.text() else {
            continue;
        };
        if own.insert(routed_hostname(text), ()).is_none() {
            let path = path.key("hostnames").index(index);
            hostnames.claim(Some(hostname), &path, routed_hostname, faults);
        }
    }
}

/// Names that were chosen must differ; a name that is the uri may repeat, as in 2013.
fn check_crons(instance: &Node, path: &Path, faults: &mut Faults) {
    let mut names = Names::new("cron");
    for (index, cron) in instance
        .get("crons")
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let path = path.key("crons").index(index).key("name");
        names.claim(cron.get("name"), &path, str::to_owned, faults);
    }
}

/// A standalone type has no port, so nothing can reach it.
fn check_standalone(instance: &Node, path: &Path, faults: &mut Faults) {
    if let Some(health) = instance.entry("health") {
        faults.push(
            health.place,
            &path.key("health"),
            "a standalone type has no port that a health path could be asked at",
        );
    }
    for key in ["hostnames", "crons"] {
        if let Some(entry) = instance.entry(key)
            && !entry.value.items().is_empty()
        {
            let message = format!("a standalone type is never routed, so its {key} have no effect");
            faults.notice(entry.place, &path.key(key), message);
        }
    }
    let Some(runtime) = instance.get("runtime") else {
        return;
    };
    let path = path.key("runtime");
    let plugin = runtime.get("plugin");
    match plugin.and_then(Node::text) {
        Some(RUNTIME_STATIC) => {
            let place = plugin.map_or(runtime.place, |plugin| plugin.place);
            faults.push(
                place,
                &path.key("plugin"),
                "a standalone type has no port that files could be served at",
            );
        }
        Some(RUNTIME_SHELL) => check_has_no_port(runtime, &path, faults),
        Some(_) | None => {}
    }
}

fn check_has_no_port(runtime: &Node, path: &Path, faults: &mut Faults) {
    let command = runtime
        .get("parameters")
        .and_then(|parameters| parameters.get("launch_command"));
    let Some(command) = command else {
        return;
    };
    // Every other fault of the command was reported with the command itself.
    if let Some(text) = command.text()
        && launch::arguments(text, None) == Err(LaunchError::NoPort)
    {
        faults.push(
            command.place,
            &path.key("parameters").key("launch_command"),
            format!("found {}: {}", excerpt(text), LaunchError::NoPort),
        );
    }
}
