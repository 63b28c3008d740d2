//! Runs the `pm` that was built with these tests.

use std::path::Path;
use std::process::{Command, Stdio};

/// What a command said.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `pm` with no login but what is in `config_home`.
pub(crate) fn pm(config_home: &Path, arguments: &[&str]) -> Said {
    pm_with(config_home, arguments, &[])
}

/// As [`pm`], with variables.
pub(crate) fn pm_with(config_home: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_pm"))
        .args(arguments)
        .env_remove("PM_URL")
        .env_remove("PM_TOKEN")
        .env_remove("PM_WORKSPACE")
        .env("XDG_CONFIG_HOME", config_home)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Said {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A port on which nobody listens: it was bound and let go.
pub(crate) fn dead_url() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}
