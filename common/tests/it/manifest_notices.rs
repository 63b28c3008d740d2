//! Nothing is ignored in silence.

use common::manifest::parse;

use crate::samples::{application, instance};

fn notices(text: &str) -> Vec<(u32, String)> {
    parse(text)
        .expect(text)
        .notices
        .into_iter()
        .map(|notice| (notice.line, notice.path))
        .collect()
}

#[test]
fn every_key_without_an_effect_is_named() {
    let text = instance(
        "placement: {plugin: paasmaker.placement.default, parameters: {tags: {a: 1}, zone: z, spread: zone}}
health:
  path: /
  interval: 1s
  timeout: 2s
  unhealthy_after: 3
  restart_after: 30
limits: {memory: 512M, cpu: 1.5, pids: 256}",
    );

    let expected = [
        (9, "health.interval"),
        (11, "health.unhealthy_after"),
        (12, "health.restart_after"),
        (13, "limits.memory"),
        (13, "limits.cpu"),
        (13, "limits.pids"),
    ];
    assert_eq!(
        notices(&text),
        expected.map(|(line, path)| (line, format!("instances[0].{path}")))
    );
    let text = application(
        "tags: {a: 1}\nrelease: {commands: [migrate]}\nprepare: {runtime: {plugin: x, version: 1, parameters: {a: 1}}}",
    );
    assert_eq!(
        notices(&text),
        [
            (5, "application.tags".to_owned()),
            (6, "application.release".to_owned()),
            (7, "application.prepare.runtime.parameters".to_owned()),
        ]
    );
}

#[test]
fn what_says_nothing_needs_no_notice() {
    let text = instance(
        "placement: {plugin: paasmaker.placement.default, parameters: {tags: {}}}
health: {path: /, timeout: 2s, restart_after: 0}
limits: {}
crons: []",
    );

    assert_eq!(notices(&text), []);
    assert_eq!(
        notices(&application(
            "tags: {}\nprepare: {runtime: {plugin: null, parameters: {}}}"
        )),
        []
    );
}

#[test]
fn hostnames_of_a_standalone_type_are_named() {
    let text = instance("standalone: true\nhostnames: [a.b]\ncrons: []");

    assert_eq!(notices(&text), [(7, "instances[0].hostnames".to_owned())]);
}
