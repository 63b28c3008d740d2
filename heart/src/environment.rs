//! The environment of processes: built from nothing, never inherited.
//!
//! Three layers: a plain machine's variables, over them the application's own, over them the
//! platform's (manifest.md, "What a process sees"), which an application cannot replace. Pure.

use std::collections::BTreeMap;

use common::assignment::{AssignedBuild, AssignedInstance, Subject};
use serde_json::Value;

use crate::directories::WorkDirectory;

/// Where programs are looked for, unless the application says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Text is UTF-8, messages are not translated, unless the application says otherwise.
const LANG: &str = "C.UTF-8";

/// Variables that only the platform sets.
const RESERVED: [&str; 7] = [
    "PM_PORT",
    "PM_METADATA",
    "PM_SERVICES",
    "PM_INSTANCE",
    "PM_INSTANCE_TYPE",
    "PM_RUN",
    "PM_CRON_KEY",
];

/// The environment of an instance's process and of its startup commands.
pub(crate) fn of_instance(
    assigned: &AssignedInstance,
    port: Option<u16>,
    node_tags: &BTreeMap<String, Value>,
    directory: &WorkDirectory,
) -> BTreeMap<String, String> {
    let mut environment = base(&assigned.env, directory);
    platform(
        &mut environment,
        &assigned.subject,
        &assigned.services,
        node_tags,
    );
    environment.insert("PM_INSTANCE".to_owned(), assigned.id.to_string());
    environment.insert(
        "PM_INSTANCE_TYPE".to_owned(),
        assigned.instance_type.to_string(),
    );
    if let Some(key) = &assigned.cron_key {
        environment.insert("PM_CRON_KEY".to_owned(), key.reveal().to_owned());
    }
    if let Some(port) = port {
        environment.insert("PM_PORT".to_owned(), port.to_string());
        environment.insert("PORT".to_owned(), port.to_string());
    }
    environment
}

/// The environment of a build's commands.
pub(crate) fn of_build(
    assigned: &AssignedBuild,
    node_tags: &BTreeMap<String, Value>,
    directory: &WorkDirectory,
) -> BTreeMap<String, String> {
    let mut environment = base(&assigned.env, directory);
    platform(
        &mut environment,
        &assigned.subject,
        &assigned.services,
        node_tags,
    );
    environment
}

fn base(
    application: &BTreeMap<String, String>,
    directory: &WorkDirectory,
) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("LANG".to_owned(), LANG.to_owned()),
        (
            "HOME".to_owned(),
            directory.code().to_string_lossy().into_owned(),
        ),
        (
            "TMPDIR".to_owned(),
            directory.temporary().to_string_lossy().into_owned(),
        ),
    ]);
    let own = application
        .iter()
        .filter(|(name, _)| !RESERVED.contains(&name.as_str()));
    environment.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    environment
}

fn platform(
    environment: &mut BTreeMap<String, String>,
    subject: &Subject,
    services: &BTreeMap<String, Value>,
    node_tags: &BTreeMap<String, Value>,
) {
    environment.insert(
        "PM_METADATA".to_owned(),
        subject.metadata(node_tags).to_string(),
    );
    let services: serde_json::Map<String, Value> = services
        .iter()
        .map(|(name, credentials)| (name.clone(), credentials.clone()))
        .collect();
    environment.insert(
        "PM_SERVICES".to_owned(),
        Value::Object(services).to_string(),
    );
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use common::secret::Secret;

    use super::*;
    use crate::samples;

    fn directory() -> WorkDirectory {
        WorkDirectory::at(PathBuf::from("/data/instances/1"))
    }

    #[test]
    fn a_process_sees_the_platform_and_nothing_of_the_heart() {
        let mut assigned = samples::instance(1);
        assigned.env = BTreeMap::from([("WORKERS".to_owned(), "4".to_owned())]);

        let environment = of_instance(&assigned, Some(20_000), &BTreeMap::new(), &directory());

        let names: Vec<&str> = environment.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "HOME",
                "LANG",
                "PATH",
                "PM_INSTANCE",
                "PM_INSTANCE_TYPE",
                "PM_METADATA",
                "PM_PORT",
                "PM_SERVICES",
                "PORT",
                "TMPDIR",
                "WORKERS"
            ]
        );
        assert_eq!(environment["PM_PORT"], "20000");
        assert_eq!(environment["PORT"], "20000");
        assert_eq!(environment["PM_SERVICES"], "{}");
        assert_eq!(environment["HOME"], "/data/instances/1/code");
    }

    #[test]
    fn an_application_replaces_the_path_but_not_the_platforms_variables() {
        let mut assigned = samples::instance(1);
        assigned.env = [
            ("PATH", "/opt/bin"),
            ("PORT", "80"),
            ("PM_PORT", "80"),
            ("PM_METADATA", "mine"),
            ("PM_RUN", "mine"),
            ("PM_CRON_KEY", "mine"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();

        let environment = of_instance(&assigned, Some(20_000), &BTreeMap::new(), &directory());

        assert_eq!(environment["PATH"], "/opt/bin");
        assert_eq!(environment["PORT"], "20000");
        assert_eq!(environment["PM_PORT"], "20000");
        assert!(environment["PM_METADATA"].starts_with('{'));
        assert!(!environment.contains_key("PM_RUN"));
        assert!(!environment.contains_key("PM_CRON_KEY"));
    }

    #[test]
    fn a_process_of_a_version_with_crons_has_the_key_of_their_signatures() {
        let mut assigned = samples::instance(1);
        assigned.cron_key = Some(Secret::new("00ff".to_owned()));

        let environment = of_instance(&assigned, Some(20_000), &BTreeMap::new(), &directory());

        assert_eq!(environment["PM_CRON_KEY"], "00ff");
    }

    #[test]
    fn a_standalone_process_has_no_port() {
        let environment = of_instance(&samples::instance(1), None, &BTreeMap::new(), &directory());

        assert!(!environment.contains_key("PM_PORT"));
        assert!(!environment.contains_key("PORT"));
    }

    #[test]
    fn metadata_carries_the_tags_of_node_and_workspace() {
        let tags = BTreeMap::from([("disk".to_owned(), Value::from("ssd"))]);

        let environment = of_instance(&samples::instance(1), Some(1), &tags, &directory());

        let metadata: Value = serde_json::from_str(&environment["PM_METADATA"]).unwrap();
        assert_eq!(metadata["node"]["disk"], "ssd");
        assert_eq!(metadata["workspace"], serde_json::json!({}));
        assert_eq!(metadata["application"]["version_id"], 7);
    }

    #[test]
    fn a_build_sees_neither_port_nor_instance() {
        let environment = of_build(&samples::build(3), &BTreeMap::new(), &directory());

        assert!(environment.contains_key("PM_METADATA"));
        assert!(environment.contains_key("PM_SERVICES"));
        for name in ["PM_PORT", "PORT", "PM_INSTANCE", "PM_INSTANCE_TYPE"] {
            assert!(!environment.contains_key(name), "{name}");
        }
    }
}
