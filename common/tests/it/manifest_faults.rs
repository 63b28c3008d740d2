//! What is refused, where the fault is seen, and what it says.

use common::manifest::{Fault, parse, render_faults};

use crate::samples::{INVALID, application, document, instance, shell};

/// The one fault of `text`.
fn fault(text: &str) -> Fault {
    let mut faults = parse(text).expect_err(text);
    assert_eq!(
        faults.len(),
        1,
        "{}",
        render_faults("manifest.yml", text, &faults)
    );
    faults.remove(0)
}

/// Checks that `text` has one fault, at `path`, that says `message`.
pub(crate) fn check(text: &str, path: &str, message: &str) {
    let fault = fault(text);
    assert_eq!(fault.path, path, "{}", fault.message);
    assert!(fault.message.contains(message), "{}", fault.message);
}

#[test]
fn every_fault_of_the_invalid_sample_is_reported_at_its_place() {
    let found: Vec<(u32, u32, String)> = parse(INVALID)
        .unwrap_err()
        .into_iter()
        .map(|fault| (fault.line, fault.column, fault.path))
        .collect();

    let expected = [
        (4, 11, "manifest.format"),
        (7, 9, "application.name"),
        (8, 9, "application.env.PM_PORT"),
        (11, 17, "application.prepare.commands[0].plugin"),
        (16, 5, "instances[0].qantity"),
        (21, 25, "instances[0].runtime.parameters.launch_command"),
        (22, 9, "instances[0].runtime.parameters.start_timout"),
        (23, 17, "instances[0].hostnames[0]"),
        (23, 37, "instances[0].hostnames[2]"),
        (24, 20, "instances[0].health.path"),
        (24, 34, "instances[0].health.interval"),
        (26, 18, "instances[0].crons[0].runspec"),
        (28, 19, "instances[0].crons[0].timezone"),
        (29, 18, "instances[0].crons[0].overlap"),
        (31, 11, "instances[1].name"),
        (32, 15, "instances[1].quantity"),
        (37, 25, "instances[1].runtime.parameters.launch_command"),
        (38, 17, "instances[1].standalone"),
        (39, 20, "instances[1].stop.signal"),
        (39, 36, "instances[1].stop.grace"),
        (42, 5, "instances[2].runtime.version"),
        (44, 35, "instances[2].runtime.parameters.document_root"),
        (45, 17, "instances[2].hostnames[0]"),
        (49, 13, "services[0].plugin"),
    ];
    assert_eq!(
        found,
        expected.map(|(line, column, path)| (line, column, path.to_owned()))
    );
}

#[test]
fn fault_is_rendered_with_its_line_and_a_caret() {
    let text = instance("qantity: 2");

    let rendered = render_faults("manifest.yml", &text, &parse(&text).unwrap_err());

    assert_eq!(
        rendered,
        "manifest.yml:6:5: instances[0].qantity: unknown key `qantity`; did you mean `quantity`? \
         (allowed here: name, quantity, runtime, startup, placement, hostnames, standalone, \
         exclusive, env, health, stop, limits, crons)\n  6 |     qantity: 2\n    |     ^\n"
    );
}

#[test]
fn rendering_bears_places_that_are_not_in_the_text() {
    let fault = Fault {
        line: 7,
        column: 900,
        path: String::new(),
        message: "far away".to_owned(),
    };
    let long = Fault {
        line: 1,
        ..fault.clone()
    };

    assert_eq!(render_faults("f", "", &[fault]), "f:7:900: far away\n");
    assert!(render_faults("f", &"é".repeat(1000), &[long]).contains("^\n"));
}

#[test]
fn text_that_is_not_yaml_has_one_fault_with_its_place() {
    for (text, line) in [
        ("manifest: {format: 1\napplication: [", 2),
        ("manifest:\n\t format: 1\n", 2),
        ("a: b: c\n", 1),
        ("a: 'b\n", 1),
        ("*unknown\n", 1),
        ("a: \"\\q\"\n", 1),
    ] {
        let fault = fault(text);
        assert!(fault.message.starts_with("this is not YAML: "), "{fault:?}");
        assert!(fault.line >= line && fault.line <= line + 1, "{fault:?}");
    }
}

#[test]
fn columns_count_characters() {
    let fault = fault(&document("").replace("name: a", "tags: {é: 漢, 😀: ü}, nmae: a"));

    assert_eq!((fault.line, fault.column), (2, 35), "{fault:?}");
}

#[test]
fn wildcard_without_quotes_is_explained() {
    let message = fault(&instance("hostnames: [*.example.com]")).message;

    assert!(
        message.contains("write a hostname that begins with `*` in quotes"),
        "{message}"
    );
}

#[test]
fn document_must_be_one_mapping() {
    check("", "", "the document is empty");
    check("# only a comment\n", "", "the document is empty");
    check("~\n", "", "found nothing; expected a mapping");
    check("[]\n", "", "found an empty list; expected a mapping");
    check("hello\n", "", "found `hello`; expected a mapping");
    check(&document("---\na: b\n"), "", "a manifest is one document");
    check(&document("[a]: b\n"), "", "a key must be text");
    check(
        &document("services: !mine []\n"),
        "services",
        "the tag `!mine`",
    );
}

#[test]
fn required_keys_are_missed_where_they_belong() {
    let missing: Vec<_> = parse("services: []\n")
        .unwrap_err()
        .into_iter()
        .map(|fault| (fault.line, fault.path))
        .collect();
    assert_eq!(
        missing,
        [
            (1, "manifest".to_owned()),
            (1, "application".to_owned()),
            (1, "instances".to_owned())
        ]
    );

    let needs = "it is required";
    check(
        &application("").replace("  name: a\n", "  env: {}\n"),
        "application.name",
        needs,
    );
    check(
        &instance("").replace("version: 1, ", ""),
        "instances[0].runtime.version",
        needs,
    );
    check(
        &shell("{}"),
        "instances[0].runtime.parameters.launch_command",
        needs,
    );
    check(&instance("health: {}"), "instances[0].health.path", needs);
    check(
        &document("services: [{plugin: paasmaker.service.parameters}]"),
        "services[0].name",
        needs,
    );
    check(
        &instance("").replace(", parameters: {launch_command: run}", ""),
        "instances[0].runtime.parameters.launch_command",
        "`parameters` is missing, and the plugin needs `launch_command` in it",
    );
}

#[test]
fn unknown_keys_are_refused_everywhere_but_in_the_free_parts() {
    let script = "plugin: paasmaker.startup.shell, parameters: {commands: [a]}";
    for (text, path) in [
        (document("other: 1"), "other"),
        (
            document("").replace("format: 1", "format: 1, other: 1"),
            "manifest.other",
        ),
        (application("other: 1"), "application.other"),
        (
            application("prepare: {other: 1}"),
            "application.prepare.other",
        ),
        (
            application("release: {commands: [a], other: 1}"),
            "application.release.other",
        ),
        (instance("other: 1"), "instances[0].other"),
        (
            instance(&format!("startup: [{{{script}, other: 1}}]")),
            "instances[0].startup[0].other",
        ),
        (
            instance("health: {path: /, other: 1}"),
            "instances[0].health.other",
        ),
        (instance("stop: {other: 1}"), "instances[0].stop.other"),
        (instance("limits: {other: 1}"), "instances[0].limits.other"),
        (
            instance("crons: [{runspec: '@daily', uri: /, other: 1}]"),
            "instances[0].crons[0].other",
        ),
        (
            instance("placement: {plugin: paasmaker.placement.default, other: 1}"),
            "instances[0].placement.other",
        ),
        (
            shell("{launch_command: a, other: 1}"),
            "instances[0].runtime.parameters.other",
        ),
    ] {
        check(&text, path, "unknown key `other`");
    }
    for text in [
        application("tags: {other: {deep: [1]}}\nenv: {OTHER: 1}"),
        document(
            "services: [{name: s, plugin: paasmaker.service.parameters, parameters: {other: 1}}]",
        ),
        instance(
            "placement: {plugin: paasmaker.placement.default, parameters: {tags: {other: 1}}}",
        ),
    ] {
        assert!(parse(&text).is_ok(), "{text}");
    }
}

#[test]
fn misspelt_word_is_suggested_and_not_missed_as_well() {
    check(
        &instance("helth: {path: /}"),
        "instances[0].helth",
        "did you mean `health`?",
    );
    check(
        &shell("{launch-command: run}"),
        "instances[0].runtime.parameters.launch-command",
        "did you mean `launch_command`?",
    );
    check(
        &instance("stop: {signal: term}"),
        "instances[0].stop.signal",
        "did you mean `TERM`?",
    );
    check(
        &instance("").replace("instances", "instance"),
        "instance",
        "did you mean `instances`?",
    );
}

#[test]
fn names_are_unique() {
    let one = "- {name: A, runtime: {plugin: x, version: 1}}";
    let types =
        |lines: &str| document("").replace("instances: []", &format!("instances:\n{lines}"));

    check(
        &types(&format!("{one}\n{}", one.replace('A', "a"))),
        "instances[1].name",
        "the instance type `a` is given twice, first by instances[0].name on line 4",
    );
    let service = "{name: s, plugin: paasmaker.service.parameters}";
    check(
        &document(&format!("services: [{service}, {service}]")),
        "services[1].name",
        "the service `s`",
    );
    let first = one.replace("}}", "}, hostnames: [Www.example.com, www.example.com.]}");
    let second = first.replace("name: A", "name: b");
    check(
        &types(&format!("{first}\n{second}")),
        "instances[1].hostnames[0]",
        "first by instances[0].hostnames[0]",
    );
    let cron = "{runspec: '@daily', uri: /, name: c}";
    check(
        &instance(&format!("crons: [{cron}, {cron}]")),
        "instances[0].crons[1].name",
        "the cron `c`",
    );
}

#[test]
fn cron_that_cannot_be_due_says_why() {
    for (runspec, message) in [
        (
            "*/0 * * * *",
            "the minute `*/0` is not allowed: a step is a number from 1",
        ),
        (
            "0 0 30 2 *",
            "it never fires: no time of any year matches it",
        ),
        ("0 24 * * *", "the hour `24` is not allowed"),
        ("0 0 * *", "it has 4 fields, and 5 are needed"),
        ("@reboot", "this nickname is not known"),
        ("@houry", "did you mean `@hourly`?"),
    ] {
        check(
            &instance(&format!("crons: [{{runspec: '{runspec}', uri: /}}]")),
            "instances[0].crons[0].runspec",
            message,
        );
    }
    for (zone, message) in [
        (
            "Europe/Belin",
            "found `Europe/Belin`; did you mean `Europe/Berlin`? (expected the IANA name",
        ),
        ("Paris", "did you mean `Europe/Paris`?"),
        (
            "CEST",
            "found `CEST`; expected the IANA name of a time zone, such as UTC or Europe/Paris",
        ),
    ] {
        check(
            &instance(&format!(
                "crons: [{{runspec: '@daily', uri: /, timezone: {zone}}}]"
            )),
            "instances[0].crons[0].timezone",
            message,
        );
    }
}

#[test]
fn standalone_type_has_nothing_that_needs_a_port() {
    check(
        &shell("{launch_command: 'run %(port)d'}")
            .replace("- name: web", "- name: web\n    standalone: true"),
        "instances[0].runtime.parameters.launch_command",
        "a standalone type has no port",
    );
    check(
        &instance("standalone: true\nhealth: {path: /}"),
        "instances[0].health",
        "no port",
    );
    check(
        &shell("{document_root: .}")
            .replace("shell", "static")
            .replace("- name: web", "- name: web\n    standalone: yes"),
        "instances[0].runtime.plugin",
        "no port",
    );
}

#[test]
fn plugins_that_are_not_offered_are_refused_with_those_that_are() {
    check(
        &instance("startup: [{plugin: paasmaker.startup.filesystemlinker}]"),
        "instances[0].startup[0].plugin",
        "(offered: paasmaker.prepare.shell, paasmaker.startup.shell)",
    );
    check(
        &instance("placement: {plugin: mine}"),
        "instances[0].placement.plugin",
        "(offered: paasmaker.placement.default)",
    );
    check(
        &document("services: [{name: s, plugin: paasmaker.service.mysql}]"),
        "services[0].plugin",
        "(offered: paasmaker.service.parameters)",
    );
    check(
        &instance("").replace("paasmaker.runtime.shell", "Shell!"),
        "instances[0].runtime.plugin",
        "the name of a plugin",
    );
}

#[test]
fn uri_that_no_request_can_carry_is_refused() {
    for bad in [
        "/a<b",
        "/a>b",
        "/a?b=\"c\"",
        "/a`b",
        "/a#b",
        "/a b",
        "/ä",
        "a",
    ] {
        let text = serde_json::Value::from(bad);
        let fault = fault(&instance(&format!(
            "crons: [{{runspec: '@daily', uri: {text}}}]"
        )));
        assert_eq!(fault.path, "instances[0].crons[0].uri", "{bad}");
    }
    let plain = "/~a!$&'()*+,;=:@/%3C?b={}|^[]\\_";
    let text = serde_json::Value::from(plain);
    let text = instance(&format!("crons: [{{runspec: '@daily', uri: {text}}}]"));
    assert!(parse(&text).is_ok(), "{:?}", parse(&text));
}
