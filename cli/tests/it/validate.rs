//! `pm validate`, and `pm deploy` of what is not valid.

use crate::support::pm;

const GOOD: &str = "\
manifest: {format: 1}
application: {name: hello}
instances:
  - name: web
    runtime: {plugin: paasmaker.runtime.static, version: 1, parameters: {document_root: site}}
";

const BAD: &str = "\
manifest: {format: 1}
application: {nam: hello}
instances:
  - name: web
    quantity: -1
    runtime: {plugin: paasmaker.runtime.static, version: 1, parameters: {document_root: site}}
";

fn directory_with(manifest: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("manifest.yml"), manifest).unwrap();
    directory
}

#[test]
fn a_good_manifest_is_valid() {
    let directory = directory_with(GOOD);
    let path = directory.path().to_str().unwrap();
    let said = pm(directory.path(), &["validate", path]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stdout.contains("`hello` is valid"), "{}", said.stdout);

    let json = pm(directory.path(), &["validate", path, "--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["application"], "hello");
}

#[test]
fn all_faults_are_shown_at_their_places() {
    let directory = directory_with(BAD);
    let path = directory.path().to_str().unwrap();
    for verb in ["validate", "deploy"] {
        let said = pm(directory.path(), &[verb, path]);
        assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{verb}");
        assert!(said.stderr.contains("manifest.yml:2:"), "{}", said.stderr);
        assert!(said.stderr.contains("manifest.yml:5:"), "{}", said.stderr);
        assert!(said.stderr.contains("name"), "{}", said.stderr);
    }
    let json = pm(directory.path(), &["validate", path, "--format", "json"]);
    let error: serde_json::Value = serde_json::from_str(&json.stderr).unwrap();
    let faults = error["error"]["faults"].as_array().unwrap();
    assert!(faults.len() >= 2, "{faults:?}");
}

#[test]
fn a_missing_manifest_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    for verb in ["validate", "deploy"] {
        let said = pm(directory.path(), &[verb, path]);
        assert_eq!(said.code, 1);
        assert!(said.stderr.contains("manifest.yml"), "{}", said.stderr);
    }
}

#[test]
fn what_has_no_effect_yet_is_said() {
    let directory = directory_with(&format!("{GOOD}    limits: {{memory: 512M}}\n"));
    let path = directory.path().to_str().unwrap();
    let said = pm(directory.path(), &["validate", path]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stdout.contains("notice:"), "{}", said.stdout);
    assert!(said.stdout.contains("limits"), "{}", said.stdout);
}

#[test]
fn the_next_times_of_each_cron_are_printed() {
    let directory = directory_with(&format!(
        "{GOOD}    crons:
      - {{name: clean, runspec: '*/5 * * * *', uri: /clean, timezone: Asia/Kathmandu}}
      - {{runspec: '@yearly', uri: /greet}}
"
    ));
    let path = directory.path().to_str().unwrap();

    let said = pm(directory.path(), &["validate", path]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let expected = "cron web/clean, */5 * * * * in Asia/Kathmandu:";
    assert!(said.stdout.contains(expected), "{}", said.stdout);
    assert_eq!(said.stdout.matches(" +05:45\n").count(), 5);
    assert_eq!(said.stdout.matches("-01-01 00:00 +00:00\n").count(), 5);

    let json = pm(directory.path(), &["validate", path, "--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let crons = value["crons"].as_array().unwrap();
    assert_eq!(crons[1]["name"], "/greet");
    for cron in crons {
        let next: Vec<&str> = cron["next"]
            .as_array()
            .unwrap()
            .iter()
            .map(|time| time.as_str().unwrap())
            .collect();
        assert_eq!(next.len(), 5);
        assert!(next.is_sorted(), "{next:?}");
    }
    assert!(crons[0]["next"][0].as_str().unwrap().ends_with(":00+05:45"));
}

#[test]
fn a_cron_that_is_never_due_is_a_fault_at_its_place() {
    let directory = directory_with(&format!(
        "{GOOD}    crons:
      - {{runspec: '0 0 30 2 *', uri: /clean}}
      - {{runspec: '@daily', uri: /clean, timezone: Europe/Belin}}
"
    ));
    let path = directory.path().to_str().unwrap();
    let said = pm(directory.path(), &["validate", path]);
    assert_eq!((said.code, said.stdout.as_str()), (1, ""));
    assert!(
        said.stderr.contains("manifest.yml:7:19:"),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("never fires"), "{}", said.stderr);
    assert!(
        said.stderr.contains("manifest.yml:8:52:"),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("`Europe/Berlin`?"), "{}", said.stderr);
}

#[test]
fn the_schema_is_a_json_schema() {
    let home = tempfile::tempdir().unwrap();
    let said = pm(home.path(), &["validate", "--schema"]);
    assert_eq!(said.code, 0);
    let schema: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert!(schema["$schema"].as_str().unwrap().contains("json-schema"));
}
