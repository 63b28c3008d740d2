//! Format 1 is the format of 2013: what was valid there is valid here, unchanged.

use common::application::Program;
use common::manifest::parse;

use crate::samples::spec;

/// Every key of 2013, in the ways that its documentation and samples write them.
const FULL: &str = r#"---
manifest:
  format: 1

application:
  name: foo.Example-1
  tags:
    tag: value
    nested: {list: [1, two], flag: yes}
  prepare:
    runtime:
      plugin: paasmaker.runtime.php
      version: 5.4
    commands:
      - name: install-dependencies
        plugin: paasmaker.prepare.shell
        parameters:
          commands:
            - php composer.phar install
            - echo foo > prepare.txt

instances:
  - name: web
    quantity: 1
    runtime:
      name: web-runtime
      plugin: paasmaker.runtime.shell
      parameters:
        launch_command: "python app.py --port=%(port)d --load=100%%"
        start_timeout: 30
        standalone_wait: 10
      version: 1
    startup:
      - plugin: paasmaker.startup.shell
        parameters:
          commands:
            - echo "startup" > startup.txt
      - plugin: paasmaker.prepare.shell
        parameters:
          commands: [echo "again"]
    placement:
      plugin: paasmaker.placement.default
      parameters:
        tags: {disk: ssd}
    hostnames:
      - foo.com
      - www.Foo.com
      - "*.foo.com"
    crons:
      - runspec: '* * * * *'
        uri: /test/bar
      - runspec: '0 */2 * jan-mar mon'
        uri: /test/bar
        username: test
        password: test
      - runspec: '%3 * * * *'
        uri: /test/bar
        username: null
        password:
  - name: worker
    quantity: "2"
    standalone: yes
    exclusive: True
    runtime:
      plugin: paasmaker.runtime.ruby.rbenv
      parameters: {launch_command: bundle exec worker}
      version: 1.9.3
  - name: legacy
    standalone: "false"
    exclusive: off
    runtime:
      plugin: paasmaker.runtime.static
      version: 1
      parameters:
        document_root: public

services:
  - name: variables
    plugin: paasmaker.service.parameters
    parameters:
      one: two
  - name: nothing
    plugin: paasmaker.service.parameters
"#;

#[test]
fn full_manifest_of_2013_is_read() {
    let spec = spec(FULL);

    assert_eq!(spec.application.as_str(), "foo.Example-1");
    assert_eq!(spec.prepare.unwrap().runtime.unwrap().version, "5.4");
    let [web, worker, legacy] = spec.instance_types.as_slice() else {
        panic!("{:?}", spec.instance_types)
    };
    assert_eq!(
        web.runtime.program,
        Program::Command {
            launch_command: "python app.py --port=%(port)d --load=100%%".to_owned()
        }
    );
    assert_eq!(web.hostnames.len(), 3);
    assert_eq!(web.startup.len(), 2);
    assert_eq!(
        (worker.quantity, worker.standalone, worker.exclusive),
        (2, true, true)
    );
    assert_eq!(worker.runtime.version, "1.9.3");
    assert!(!legacy.standalone && !legacy.exclusive);
    assert_eq!(spec.services.len(), 2);
}

#[test]
fn smallest_manifest_is_read() {
    let text = "manifest: {format: 1}\napplication: {name: a}\ninstances: []\n";

    assert!(spec(text).instance_types.is_empty());
}

#[test]
fn keys_that_2013_itself_had_dropped_are_refused() {
    for (written, path) in [
        (
            "provider: paasmaker.service.parameters",
            "services[0].provider",
        ),
        (
            "plugin: paasmaker.service.parameters, provider: x",
            "services[0].provider",
        ),
    ] {
        let text = format!(
            "manifest: {{format: 1}}\napplication: {{name: a}}\ninstances: []\nservices: [{{name: s, {written}}}]\n"
        );
        let faults = parse(&text).unwrap_err();
        assert!(faults.iter().any(|fault| fault.path == path), "{faults:?}");
    }
}
