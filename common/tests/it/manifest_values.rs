//! What a manifest says once it is read: defaults, texts as written, units.

use common::application::{
    CronMethod, HealthSpec, MissedPolicy, Overlap, PlacementSpec, Program, RuntimeSpec,
    ShellScript, StopSignal, StopSpec,
};
use common::id::PluginName;
use common::time::Span;
use serde_json::json;

use crate::samples::{GUESTBOOK, HELLO, application, document, instance, shell, spec};

#[test]
fn what_is_not_given_has_its_default() {
    let spec = spec(&instance(""));

    let [web] = spec.instance_types.as_slice() else {
        panic!("{spec:?}")
    };
    assert_eq!(web.quantity, 1);
    assert_eq!(web.start_timeout, Span::seconds(20));
    assert_eq!(web.standalone_wait, Span::seconds(5));
    assert_eq!(web.stop, StopSpec::default());
    assert_eq!(web.placement, PlacementSpec::default());
    assert_eq!(web.health, None);
    assert!(!web.standalone && !web.exclusive);
    assert!(web.hostnames.is_empty() && web.env.is_empty() && web.startup.is_empty());
    assert_eq!(spec.prepare, None);
    assert!(spec.services.is_empty());
}

#[test]
fn cron_has_its_defaults() {
    let spec = spec(&instance(
        "crons: [{runspec: '@daily', uri: '/tasks/clean?all=1'}]",
    ));

    let [cron] = spec.instance_types[0].crons.as_slice() else {
        panic!("{spec:?}")
    };
    assert_eq!(cron.name.as_str(), "/tasks/clean?all=1");
    assert_eq!(cron.uri, "/tasks/clean?all=1");
    assert_eq!(cron.runspec.as_str(), "@daily");
    assert_eq!(cron.timezone.as_str(), "UTC");
    assert_eq!(cron.method, CronMethod::Get);
    assert_eq!(cron.timeout, Span::seconds(300));
    assert_eq!(cron.overlap, Overlap::Forbid);
    assert_eq!(cron.missed, MissedPolicy::Skip);
    assert_eq!(cron.retries, 0);
    assert_eq!((&cron.username, &cron.password), (&None, &None));
}

#[test]
fn everything_of_a_cron_is_read() {
    let spec = spec(&instance(
        "crons:
  - {name: clean up, runspec: ' 0 9 * * mon-fri ', uri: /, username: me, password: 'open: sesame', method: POST,
     timezone: europe/berlin, timeout: 90, overlap: replace, missed: once, retries: 3}",
    ));

    let cron = spec.instance_types[0].crons.first().unwrap();
    assert_eq!(cron.name.as_str(), "clean up");
    assert_eq!(cron.runspec.as_str(), "0 9 * * mon-fri");
    assert_eq!(cron.username.as_deref(), Some("me"));
    assert_eq!(
        cron.password.as_ref().map(|password| password.reveal()),
        Some("open: sesame")
    );
    assert_eq!(cron.method, CronMethod::Post);
    assert_eq!(cron.timezone.as_str(), "Europe/Berlin");
    assert_eq!(cron.timeout, Span::seconds(90));
    assert_eq!(cron.overlap, Overlap::Replace);
    assert_eq!(cron.missed, MissedPolicy::Once);
    assert_eq!(cron.retries, 3);
    assert!(!format!("{spec:?}").contains("sesame"));
}

#[test]
fn crons_without_a_name_are_told_apart() {
    let long = format!("/{}", "a".repeat(1000));
    let spec = spec(&instance(&format!(
        "crons:
  - {{runspec: '@daily', uri: /clean}}
  - {{runspec: '@hourly', uri: /clean}}
  - {{runspec: '@hourly', uri: /other, name: /clean#2}}
  - {{runspec: '@hourly', uri: {long}}}
  - {{runspec: '@daily', uri: {long}}}"
    )));

    let names: Vec<&str> = spec.instance_types[0]
        .crons
        .iter()
        .map(|cron| cron.name.as_str())
        .collect();
    let cut = &long[..248];
    assert_eq!(
        names,
        ["/clean", "/clean#3", "/clean#2", cut, &format!("{cut}#2")]
    );
}

#[test]
fn standalone_type_has_no_crons() {
    let spec = spec(&instance(
        "standalone: true\ncrons: [{runspec: '@daily', uri: /}]",
    ));

    assert_eq!(spec.instance_types[0].crons, []);
}

#[test]
fn everything_that_is_given_is_read() {
    let spec = spec(&instance(
        "quantity: 0
standalone: false
exclusive: true
hostnames: [Www.Example.com., '*.example.org', www.example.com]
env: {WORKERS: 4, RATE: 1.50, DEBUG: true, EMPTY: '', NAME: a=b}
health: {path: '/up?deep=1', interval: 500ms, timeout: 1.5, unhealthy_after: 2, restart_after: 30}
stop: {signal: SIGUSR1, grace: 1m}
placement: {plugin: paasmaker.placement.default, parameters: {tags: {disk: ssd, cores: 8}, zone: eu-1, spread: zone}}
startup:
  - {plugin: paasmaker.startup.shell, parameters: {commands: [one, two]}}
  - {plugin: paasmaker.prepare.shell, name: label, parameters: {commands: [3]}}",
    ));

    let web = spec.instance_types.first().unwrap();
    assert_eq!(web.quantity, 0);
    assert!(web.exclusive);
    let hostnames: Vec<&str> = web
        .hostnames
        .iter()
        .map(|hostname| hostname.as_str())
        .collect();
    assert_eq!(hostnames, ["www.example.com", "*.example.org"]);
    let env: Vec<(&str, &str)> = web
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        env,
        [
            ("DEBUG", "true"),
            ("EMPTY", ""),
            ("NAME", "a=b"),
            ("RATE", "1.50"),
            ("WORKERS", "4")
        ]
    );
    assert_eq!(
        web.health,
        Some(HealthSpec {
            path: "/up?deep=1".to_owned(),
            interval: Span(500),
            timeout: Span(1500),
            unhealthy_after: 2,
            restart_after: 30,
        })
    );
    assert_eq!(
        web.stop,
        StopSpec {
            signal: StopSignal::Usr1,
            grace: Span::seconds(60)
        }
    );
    assert_eq!(web.placement.tags.get("cores"), Some(&json!(8)));
    assert_eq!(web.placement.zone.as_deref(), Some("eu-1"));
    assert!(web.placement.spread_zones);
    let scripts: Vec<Vec<String>> = web
        .startup
        .iter()
        .map(|script| script.commands.clone())
        .collect();
    assert_eq!(
        scripts,
        [
            vec!["one".to_owned(), "two".to_owned()],
            vec!["3".to_owned()]
        ]
    );
}

#[test]
fn versions_are_read_as_they_were_written() {
    for version in [
        "1",
        "5.4",
        "5.40",
        "1.9.3",
        "1.10",
        "0x10",
        "v0.8",
        "1.9.3-p327",
        "2e5",
    ] {
        let text = instance("").replace("version: 1", &format!("version: {version}"));
        let spec = spec(&text);
        assert_eq!(
            spec.instance_types.first().unwrap().runtime.version,
            version
        );
    }
}

#[test]
fn type_variables_win_over_those_of_the_application() {
    let text = instance("env: {A: type, C: type}").replace(
        "name: a}",
        "name: a, env: {A: application, B: application}}",
    );

    let env = &spec(&text).instance_types.first().unwrap().env.clone();

    assert_eq!(env.get("A").map(String::as_str), Some("type"));
    assert_eq!(env.get("B").map(String::as_str), Some("application"));
    assert_eq!(env.get("C").map(String::as_str), Some("type"));
}

#[test]
fn runtimes_that_this_release_does_not_know_are_kept() {
    let text = shell("{document_root: public}")
        .replace("runtime.shell", "runtime.php")
        .replace("version: 1", "version: 5.4");

    let runtime = spec(&text).instance_types.first().unwrap().runtime.clone();

    assert_eq!(
        runtime,
        RuntimeSpec {
            plugin: PluginName::parse("paasmaker.runtime.php").unwrap(),
            version: "5.4".to_owned(),
            program: Program::Unsupported,
        }
    );
}

#[test]
fn timeouts_are_seconds_or_have_a_unit() {
    let text = shell("{launch_command: run, start_timeout: 90, standalone_wait: 250ms}");

    let web = spec(&text).instance_types.first().unwrap().clone();

    assert_eq!(web.start_timeout, Span::seconds(90));
    assert_eq!(web.standalone_wait, Span(250));
}

#[test]
fn prepare_is_read_with_the_environment_of_its_runtime() {
    let prepare = spec(GUESTBOOK).prepare.unwrap();

    assert_eq!(prepare.runtime.unwrap().program, Program::Environment);
    assert_eq!(prepare.scripts.len(), 1);
    assert_eq!(
        prepare.env.get("GREETING").map(String::as_str),
        Some("Welcome")
    );
}

#[test]
fn prepare_without_commands_is_none() {
    for lines in [
        "prepare: {}",
        "prepare: {commands: []}",
        "prepare: {commands: [], runtime: {plugin: null}}",
        "prepare: {runtime: {plugin: paasmaker.runtime.php, version: 5.4}}",
    ] {
        assert_eq!(spec(&application(lines)).prepare, None, "{lines}");
    }
    let none = "prepare: {runtime: {plugin: null}, commands: [{plugin: paasmaker.prepare.shell, parameters: {commands: [a]}}]}";
    let prepare = spec(&application(none)).prepare.unwrap();
    assert_eq!(prepare.runtime, None);
    assert_eq!(
        prepare.scripts,
        [ShellScript {
            commands: vec!["a".to_owned()]
        }]
    );
}

#[test]
fn static_site_is_read() {
    let runtime = spec(HELLO).instance_types.first().unwrap().runtime.clone();

    assert_eq!(
        runtime.program,
        Program::Static {
            document_root: "site".to_owned()
        }
    );
}

#[test]
fn service_parameters_keep_their_types() {
    let text = document(
        "services:\n  - name: s\n    plugin: paasmaker.service.parameters\n    parameters: {text: one, number: 2, part: 1.5, truth: true, nothing: ~, list: [a, {b: '1'}], quoted: '2', old: yes}\n",
    );

    let parameters = spec(&text).services.first().unwrap().parameters.clone();

    assert_eq!(
        serde_json::to_value(parameters).unwrap(),
        json!({
            "text": "one", "number": 2, "part": 1.5, "truth": true, "nothing": null,
            "list": ["a", {"b": "1"}], "quoted": "2", "old": "yes",
        })
    );
}

#[test]
fn aliases_and_merges_are_expanded() {
    let text = "\
manifest: {format: 1}
application: {name: a}
instances:
  - &web
    name: web
    quantity: 3
    runtime: &runtime {plugin: paasmaker.runtime.shell, version: 1, parameters: {launch_command: run}}
    env: &env {A: 1}
  - <<: *web
    name: worker
    env: {<<: *env, B: 2}
  - {name: other, runtime: *runtime}
";

    let spec = spec(text);

    let worker = spec.instance_types.get(1).unwrap();
    assert_eq!(worker.quantity, 3);
    assert_eq!(worker.env.len(), 2);
    assert_eq!(spec.instance_types.get(2).unwrap().runtime, worker.runtime);
}

#[test]
fn block_scalars_and_tags_of_yaml_are_text() {
    let text = application(
        "env:\n  FOLDED: >\n    a\n    b\n  LITERAL: |-\n    a\n    b\n  TAGGED: !!str 1.0",
    );

    let prepared = text.replace(
        "instances: []",
        "instances: [{name: w, runtime: {plugin: x, version: !!str 1}}]",
    );
    let env = spec(&prepared).instance_types.first().unwrap().env.clone();

    assert_eq!(env.get("FOLDED").map(String::as_str), Some("a b\n"));
    assert_eq!(env.get("LITERAL").map(String::as_str), Some("a\nb"));
    assert_eq!(env.get("TAGGED").map(String::as_str), Some("1.0"));
}
