//! The sample applications, and manifests around one part that a test is about.

use common::application::VersionSpec;
use common::manifest::{parse, render_faults};

pub(crate) const HELLO: &str = include_str!("../../../manifests/hello/manifest.yml");
pub(crate) const GUESTBOOK: &str = include_str!("../../../manifests/guestbook/manifest.yml");
pub(crate) const CHORES: &str = include_str!("../../../manifests/crons/manifest.yml");
pub(crate) const WORKER: &str = include_str!("../../../manifests/worker/manifest.yml");
pub(crate) const INVALID: &str = include_str!("../../../manifests/invalid/manifest.yml");

/// Every sample that can be deployed.
pub(crate) const VALID: [(&str, &str); 4] = [
    ("hello", HELLO),
    ("guestbook", GUESTBOOK),
    ("chores", CHORES),
    ("worker", WORKER),
];

/// A manifest of one shell type; `lines` are further keys of it, each line as it is.
pub(crate) fn instance(lines: &str) -> String {
    let head = "\
manifest: {format: 1}
application: {name: a}
instances:
  - name: web
    runtime: {plugin: paasmaker.runtime.shell, version: 1, parameters: {launch_command: run}}
";
    format!("{head}{}", indented(lines, 4))
}

/// A manifest of no types; `lines` are further keys of the application.
pub(crate) fn application(lines: &str) -> String {
    format!(
        "manifest: {{format: 1}}\ninstances: []\napplication:\n  name: a\n{}",
        indented(lines, 2)
    )
}

/// A manifest of no types; `lines` are further keys of the document.
pub(crate) fn document(lines: &str) -> String {
    format!("manifest: {{format: 1}}\napplication: {{name: a}}\ninstances: []\n{lines}")
}

/// A manifest of one shell type whose runtime's parameters are `parameters`, in braces.
pub(crate) fn shell(parameters: &str) -> String {
    instance("").replace("{launch_command: run}", parameters)
}

/// What a manifest without faults says.
pub(crate) fn spec(text: &str) -> VersionSpec {
    match parse(text) {
        Ok(checked) => checked.spec,
        Err(faults) => panic!("{}", render_faults("manifest.yml", text, &faults)),
    }
}

fn indented(lines: &str, columns: usize) -> String {
    lines
        .lines()
        .map(|line| format!("{}{line}\n", " ".repeat(columns)))
        .collect()
}

#[test]
fn every_sample_parses_and_all_of_it_has_an_effect() {
    for (name, text) in VALID {
        assert_eq!(spec(text).application.as_str(), name);
        assert_eq!(parse(text).unwrap().notices, [], "{name}");
    }
}
