//! Help, completions and wrong usage.

use crate::support::pm;

#[test]
fn wrong_usage_ends_with_two() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [
        &["frobnicate"][..],
        &[],
        &["deploy", "--no-such-flag"],
        &["scale", "hello", "web=many"],
        &["why", "job:x"],
        &["status", "not a name"],
        &["--workspace", "Not_A_Stub", "status"],
        &["dev", "--stop", "--deploy", "x"],
        &["version", "promote", "hello"],
    ] {
        let said = pm(home.path(), arguments);
        assert_eq!(said.code, 2, "{arguments:?}: {}", said.stderr);
        assert_eq!(said.stdout, "", "{arguments:?}");
    }
}

#[test]
fn help_of_every_verb_goes_to_stdout() {
    let home = tempfile::tempdir().unwrap();
    let all = pm(home.path(), &["--help"]);
    assert_eq!(all.code, 0);
    for verb in [
        "dev",
        "agent",
        "cluster",
        "login",
        "validate",
        "deploy",
        "status",
        "version",
        "rollback",
        "scale",
        "logs",
        "job",
        "route",
        "why",
        "workspace",
        "node",
        "completions",
    ] {
        assert!(all.stdout.contains(&format!("  {verb} ")), "{verb}");
        let one = pm(home.path(), &[verb, "--help"]);
        assert_eq!((one.code, one.stderr.as_str()), (0, ""), "{verb}");
    }
    assert!(all.stdout.contains("Exit codes"));
}

#[test]
fn no_flag_takes_a_secret() {
    let home = tempfile::tempdir().unwrap();
    let help = pm(home.path(), &["login", "--help"]).stdout;
    assert!(help.contains("--token-stdin"));
    assert!(!help.contains("--token "), "{help}");
}

#[test]
fn completions_exist_for_the_usual_shells() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let said = pm(home.path(), &["completions", shell]);
        assert_eq!(said.code, 0);
        assert!(said.stdout.contains("rollback"), "{shell}");
    }
}
