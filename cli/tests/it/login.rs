//! Being logged in, or not.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::{dead_url, pm, pm_with};

#[test]
fn without_a_login_the_message_says_how_to_get_one() {
    let home = tempfile::tempdir().unwrap();
    let said = pm(home.path(), &["status"]);
    assert_eq!((said.code, said.stdout.as_str()), (1, ""));
    assert!(said.stderr.contains("error: could not"), "{}", said.stderr);
    assert!(said.stderr.contains("pm dev"), "{}", said.stderr);
    assert!(said.stderr.contains("pm login"), "{}", said.stderr);
}

#[test]
fn errors_are_one_json_object_when_json_is_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let said = pm(home.path(), &["status", "--format", "json"]);
    assert_eq!((said.code, said.stdout.as_str()), (1, ""));
    let error: serde_json::Value = serde_json::from_str(&said.stderr).unwrap();
    assert_eq!(error["error"]["code"], "not_logged_in");
}

#[test]
fn a_silent_cluster_is_named() {
    let home = tempfile::tempdir().unwrap();
    let url = dead_url();
    let said = pm_with(
        home.path(),
        &["--url", &url, "status"],
        &[("PM_TOKEN", "x")],
    );
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains(&url), "{}", said.stderr);
    assert!(
        said.stderr.contains("no pacemaker answers"),
        "{}",
        said.stderr
    );
}

#[test]
fn a_token_that_was_not_tried_is_not_kept() {
    let home = tempfile::tempdir().unwrap();
    let said = pm(home.path(), &["login", &dead_url(), "--token-stdin"]);
    assert_eq!(said.code, 1);
    assert!(!home.path().join("paasmaker").exists());
}

#[test]
fn a_damaged_login_file_is_named() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("paasmaker");
    std::fs::create_dir(&directory).unwrap();
    let file = directory.join("login.json");
    std::fs::write(&file, "{").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let said = pm(home.path(), &["status"]);
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("login.json"), "{}", said.stderr);
}
