//! What single values may be, and how many.

use common::manifest::parse;

use crate::manifest_faults::check;
use crate::samples::{application, document, instance, shell};

/// Lines of an instance type with the path of the one fault in them.
fn check_each(cases: &[(&str, &str)]) {
    for (lines, path) in cases {
        check(&instance(lines), &format!("instances[0].{path}"), "");
    }
}

#[test]
fn values_of_an_instance_type_have_their_range() {
    check_each(&[
        ("quantity: -1", "quantity"),
        ("quantity: 1001", "quantity"),
        ("quantity: 1.5", "quantity"),
        ("quantity: 010", "quantity"),
        ("quantity: 1e309", "quantity"),
        ("quantity: 18446744073709551616", "quantity"),
        ("quantity: many", "quantity"),
        ("quantity: []", "quantity"),
        ("quantity:", "quantity"),
        ("standalone: 2", "standalone"),
        ("exclusive: {}", "exclusive"),
        ("hostnames: [a..b]", "hostnames[0]"),
        ("hostnames: ['a.b:80']", "hostnames[0]"),
        ("hostnames: ['a/b']", "hostnames[0]"),
        ("hostnames: ['é.com']", "hostnames[0]"),
        ("hostnames: ['*.*.com']", "hostnames[0]"),
        ("hostnames: example.com", "hostnames"),
        ("health: {path: up}", "health.path"),
        ("health: {path: '/a b'}", "health.path"),
        ("health: {path: '/a#b'}", "health.path"),
        ("health: {path: /, interval: 0}", "health.interval"),
        (
            "health: {path: /, unhealthy_after: 0}",
            "health.unhealthy_after",
        ),
        (
            "health: {path: /, restart_after: -1}",
            "health.restart_after",
        ),
        ("stop: {signal: 15}", "stop.signal"),
        ("stop: {grace: -1s}", "stop.grace"),
        ("limits: {memory: 1}", "limits.memory"),
        ("limits: {cpu: 0}", "limits.cpu"),
        ("limits: {pids: 0}", "limits.pids"),
    ]);
}

#[test]
fn variables_and_scripts_have_their_form() {
    check_each(&[
        ("env: []", "env"),
        ("env: {A: [1]}", "env.A"),
        ("env: {A: }", "env.A"),
        ("env: {1A: x}", "env.1A"),
        ("env: {'': x}", "env[``]"),
        ("env: {A-B: x}", "env.A-B"),
        ("env: {PORT: 1}", "env.PORT"),
        ("env: {PM_X: 1}", "env.PM_X"),
        (
            "startup: [{plugin: paasmaker.startup.shell, parameters: {commands: []}}]",
            "startup[0].parameters.commands",
        ),
        (
            "startup: [{plugin: paasmaker.startup.shell, parameters: {commands: make}}]",
            "startup[0].parameters.commands",
        ),
        (
            "startup: [{plugin: paasmaker.startup.shell, parameters: {commands: [[a]]}}]",
            "startup[0].parameters.commands[0]",
        ),
    ]);
}

#[test]
fn placement_and_crons_have_their_form() {
    check_each(&[
        (
            "placement: {plugin: paasmaker.placement.default, parameters: {spread: rack}}",
            "placement.parameters.spread",
        ),
        (
            "placement: {plugin: paasmaker.placement.default, parameters: {zone: 'a b'}}",
            "placement.parameters.zone",
        ),
        (
            "placement: {plugin: paasmaker.placement.default, parameters: {tags: ssd}}",
            "placement.parameters.tags",
        ),
        (
            "crons: [{runspec: '*/0 * * * *', uri: /}]",
            "crons[0].runspec",
        ),
        ("crons: [{runspec: '@daily', uri: tasks}]", "crons[0].uri"),
        (
            "crons: [{runspec: '@daily', uri: /, username: 'a:b'}]",
            "crons[0].username",
        ),
        (
            "crons: [{runspec: '@daily', uri: /, method: get}]",
            "crons[0].method",
        ),
        (
            "crons: [{runspec: '@daily', uri: /, timezone: Paris}]",
            "crons[0].timezone",
        ),
        (
            "crons: [{runspec: '@daily', uri: /, timeout: 25h}]",
            "crons[0].timeout",
        ),
        (
            "crons: [{runspec: '@daily', uri: /, missed: all}]",
            "crons[0].missed",
        ),
        (
            "crons: [{runspec: '@daily', uri: /, retries: 11}]",
            "crons[0].retries",
        ),
    ]);
}

#[test]
fn launch_command_that_cannot_be_executed_is_refused() {
    for (command, message) in [
        ("", "a command"),
        ("run 'a", "never closed"),
        ("run a\\", "ends in a backslash"),
        ("run 50%", "`%%`, which stands for a percent sign"),
        ("run %(prot)d", "`%(prot)d`"),
    ] {
        check(
            &shell(&format!("{{launch_command: {command:?}}}")),
            "instances[0].runtime.parameters.launch_command",
            message,
        );
    }
}

#[test]
fn document_root_never_leaves_the_application() {
    for root in ["/etc", "..", "a/../..", "a/..", "", "a\\\\b"] {
        check(
            &shell(&format!("{{document_root: \"{root}\"}}")).replace("shell", "static"),
            "instances[0].runtime.parameters.document_root",
            "expected a directory of the application",
        );
    }
}

#[test]
fn lists_are_bounded() {
    let many = |entry: &str, count: usize| vec![entry; count].join(", ");
    for (lines, path) in [
        (format!("hostnames: [{}]", many("a.b", 101)), "hostnames"),
        (
            format!("crons: [{}]", many("{runspec: '@daily', uri: /}", 101)),
            "crons",
        ),
        (
            format!(
                "startup: [{{plugin: paasmaker.startup.shell, parameters: {{commands: [{}]}}}}]",
                many("a", 1001)
            ),
            "startup[0].parameters.commands",
        ),
    ] {
        check(
            &instance(&lines),
            &format!("instances[0].{path}"),
            "at most",
        );
    }
    let variables: Vec<String> = (0..501).map(|index| format!("A{index}: 1")).collect();
    check(
        &application(&format!("env: {{{}}}", variables.join(", "))),
        "application.env",
        "at most 500",
    );
    let types = many("{name: a, runtime: {plugin: x, version: 1}}", 101);
    let text = document("").replace("instances: []", &format!("instances: [{types}]"));
    let faults = parse(&text).unwrap_err();
    assert!(
        faults
            .iter()
            .any(|fault| fault.path == "instances" && fault.message.contains("at most 100"))
    );
}

#[test]
fn very_long_list_of_faults_is_cut() {
    let keys: String = (0..500).map(|index| format!("other{index}: 1\n")).collect();

    let faults = parse(&document(&keys)).unwrap_err();

    assert_eq!(faults.len(), 201);
    assert_eq!(
        faults.last().unwrap().message,
        "no more than 200 faults are listed"
    );
}
