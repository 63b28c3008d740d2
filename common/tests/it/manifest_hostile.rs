//! Strangers' texts: metacharacters (A1) and bombs (A2) of the fault list.

use common::launch;
use common::manifest::{MANIFEST_MAX_BYTES, parse};
use serde_json::Value;

use crate::samples::{application, document, instance, shell, spec};

/// What breaks programs that paste values into shells, paths, and logs.
const METACHARACTERS: [&str; 18] = [
    "; id",
    "$(id)",
    "`id`",
    "| id",
    "& id &",
    "a\nb",
    "-x",
    "--help",
    "*",
    "~",
    "../..",
    "é漢字😀",
    "a\tb",
    "'",
    "\"",
    "\\",
    "<script>",
    "{{a}} ${b} #c !d",
];

/// A text in YAML's double quotes, which take JSON's escapes.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn refusal(text: &str) -> String {
    let faults = parse(text).expect_err(text);
    faults
        .into_iter()
        .map(|fault| format!("{}: {}\n", fault.path, fault.message))
        .collect()
}

#[test]
fn metacharacters_in_values_arrive_byte_exact() {
    for value in METACHARACTERS {
        let written = quoted(value);

        let text = instance(&format!(
            "env: {{A: {written}}}\nstartup: [{{plugin: paasmaker.startup.shell, parameters: {{commands: [{written}]}}}}]"
        ));
        let web = spec(&text).instance_types.first().unwrap().clone();
        assert_eq!(web.env.get("A").map(String::as_str), Some(value));
        assert_eq!(web.startup.first().unwrap().commands, [value]);

        let text = document(&format!(
            "services: [{{name: s, plugin: paasmaker.service.parameters, parameters: {{{written}: [{written}]}}}}]"
        ));
        let service = spec(&text).services.first().unwrap().clone();
        assert_eq!(
            service.parameters.get(value),
            Some(&Value::from(vec![value]))
        );
    }
}

#[test]
fn metacharacters_in_a_launch_command_reach_no_shell() {
    for value in METACHARACTERS {
        let command = format!("run {}", shlex::try_quote(value).unwrap());
        let text = shell(&format!("{{launch_command: {}}}", quoted(&command)));

        let runtime = spec(&text).instance_types.first().unwrap().runtime.clone();

        let common::application::Program::Command { launch_command } = runtime.program else {
            panic!("{runtime:?}")
        };
        assert_eq!(
            launch::arguments(&launch_command, Some(1)).unwrap(),
            ["run", value]
        );
    }
}

#[test]
fn metacharacters_in_names_are_refused() {
    for value in METACHARACTERS {
        let written = quoted(value);
        for (text, path) in [
            (
                application("").replace("name: a", &format!("name: {written}")),
                "application.name",
            ),
            (
                instance("").replace("name: web", &format!("name: {written}")),
                "instances[0].name",
            ),
            (
                document(&format!(
                    "services: [{{name: {written}, plugin: paasmaker.service.parameters}}]"
                )),
                "services[0].name",
            ),
            (
                instance("").replace("paasmaker.runtime.shell", &written),
                "instances[0].runtime.plugin",
            ),
            (
                instance(&format!("env: {{{written}: x}}")),
                "instances[0].env",
            ),
            (
                instance(&format!("hostnames: [{written}]")),
                "instances[0].hostnames[0]",
            ),
            (
                instance(&format!("health: {{path: {written}}}")),
                "instances[0].health.path",
            ),
            (
                instance(&format!("crons: [{{runspec: '@daily', uri: {written}}}]")),
                "instances[0].crons[0].uri",
            ),
            (
                instance(&format!("crons: [{{runspec: {written}, uri: /}}]")),
                "instances[0].crons[0].runspec",
            ),
            (
                instance(&format!(
                    "crons: [{{runspec: '@daily', uri: /, timezone: {written}}}]"
                )),
                "instances[0].crons[0].timezone",
            ),
            (
                instance(&format!("stop: {{signal: {written}}}")),
                "instances[0].stop.signal",
            ),
        ] {
            // `-x`, `--help`, `*`, `~` and `../..` are made of characters that a plugin, a
            // service, or a version may have; nothing is executed or opened by those names.
            let harmless = value
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || b"-.".contains(&byte));
            if harmless && (path.ends_with("plugin") || path == "services[0].name") {
                continue;
            }
            assert!(refusal(&text).contains(path), "{path} {value}");
        }
    }
}

#[test]
fn control_characters_are_refused_in_every_text() {
    for control in ['\0', '\u{1}', '\u{7}', '\u{1b}', '\r', '\u{7f}', '\u{85}'] {
        let written = format!("\"a\\u{:04x}b\"", u32::from(control));
        for text in [
            application("").replace("name: a", &format!("name: {written}")),
            application(&format!("env: {{A: {written}}}")),
            application(&format!("tags: {{a: {written}}}")),
            application(&format!("tags: {{{written}: a}}")),
            application(&format!("release: {{commands: [{written}]}}")),
            shell(&format!("{{launch_command: {written}}}")),
            instance(&format!("hostnames: [{written}]")),
            instance(&format!(
                "crons: [{{runspec: '@daily', uri: /, password: {written}}}]"
            )),
            document(&format!(
                "services: [{{name: s, plugin: paasmaker.service.parameters, parameters: {{a: [{written}]}}}}]"
            )),
        ] {
            let refusal = refusal(&text);
            let named = format!("U+{:04X}", u32::from(control));
            assert!(refusal.contains(&named), "{refusal}");
            assert!(!refusal.contains(control), "{refusal:?}");
        }
    }
}

#[test]
fn texts_are_bounded() {
    let long = "x".repeat(65 * 1024);
    for text in [
        application(&format!("env: {{A: {long}}}")),
        application(&format!("tags: {{a: {long}}}")),
        application(&format!("tags: {{? {long} : a}}")),
        application("").replace("name: a", &format!("name: {long}")),
        shell(&format!("{{launch_command: {long}}}")),
        instance(&format!("health: {{path: /{long}}}")),
        instance(&format!("hostnames: [{long}]")),
        instance("").replace("version: 1", &format!("version: {long}")),
    ] {
        for fault in parse(&text).unwrap_err() {
            assert!(fault.message.len() + fault.path.len() < 1000, "{fault:?}");
        }
    }
}

#[test]
fn alias_bomb_is_refused() {
    let levels: String = (1..12)
        .map(|level| {
            format!(
                "a{level}: &a{level} [{}]\n",
                vec![format!("*a{}", level - 1); 10].join(",")
            )
        })
        .collect();

    let refusal = refusal(&format!("a0: &a0 [x]\n{levels}"));

    assert!(
        refusal.contains("counting what aliases stand for"),
        "{refusal}"
    );
}

#[test]
fn alias_bomb_of_text_is_refused() {
    let text = format!(
        "a: &a {}\nb: [{}]\n",
        "x".repeat(60_000),
        "*a, ".repeat(10_000)
    );

    assert!(refusal(&text).contains("bytes of text, counting what aliases stand for"));
}

#[test]
fn merge_bomb_is_refused() {
    let keys: String = (0..1000).map(|index| format!("k{index}: 1, ")).collect();
    let merges: String = (0..1000)
        .map(|index| format!("b{index}: {{<<: *a}}\n"))
        .collect();

    assert!(
        refusal(&format!("a: &a {{{keys}}}\n{merges}")).contains("counting what aliases stand for")
    );
}

#[test]
fn alias_inside_of_what_it_names_is_refused() {
    assert!(refusal("a: &a [*a]\n").contains("inside of what it names"));
}

#[test]
fn aliases_cannot_build_a_depth_that_is_not_written() {
    let levels: String = (1..10)
        .map(|level| {
            format!(
                "a{level}: &a{level} {}*a{}{}\n",
                "[".repeat(20),
                level - 1,
                "]".repeat(20)
            )
        })
        .collect();

    assert!(refusal(&format!("a0: &a0 x\n{levels}")).contains("deep in each other"));
}

#[test]
fn depth_of_a_hundred_thousand_is_refused() {
    for text in [
        "[".repeat(100_000),
        "{a: ".repeat(50_000),
        "- ".repeat(100_000),
        "? ".repeat(100_000),
    ] {
        assert!(refusal(&text).contains("deep in each other"));
    }
}

#[test]
fn depth_within_the_limit_is_read() {
    let tags = format!("tags: {{a: {}{}}}", "[".repeat(50), "]".repeat(50));

    assert!(parse(&application(&tags)).is_ok());
}

#[test]
fn repeated_keys_are_refused() {
    let refusal = refusal(
        "manifest: {format: 1}\ninstances: []\napplication:\n  name: a\n  name: b\n  env: {A: 1, A: 2}\n",
    );

    assert_eq!(
        refusal,
        "application.name: the key `name` is written twice in one mapping, first on line 4\n\
         application.env.A: the key `A` is written twice in one mapping, first on line 6\n"
    );
}

#[test]
fn numbers_that_no_machine_holds_are_refused() {
    for number in [
        "1e309",
        "-1e309",
        "18446744073709551616",
        ".inf",
        ".nan",
        "0xfffffffffffffffff",
    ] {
        assert!(
            refusal(&application(&format!("tags: {{a: {number}}}"))).contains("application.tags.a")
        );
        assert!(
            refusal(&instance(&format!("quantity: {number}"))).contains("instances[0].quantity")
        );
    }
}

#[test]
fn hundred_megabytes_are_refused_by_their_length() {
    let text = "[".repeat(100 * 1024 * 1024);

    assert!(refusal(&text).contains(&format!("at most {MANIFEST_MAX_BYTES} are allowed")));
}

#[test]
fn largest_manifest_is_read() {
    let mut text = application("env: {A: a}");
    text.push_str(&"# filled with comments\n".repeat(MANIFEST_MAX_BYTES));
    text.truncate(MANIFEST_MAX_BYTES);

    assert!(parse(&text).is_ok());
    text.push('\n');
    assert!(refusal(&text).contains("at most"));
}
