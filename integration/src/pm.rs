//! The `pm` program as a user types it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde::de::DeserializeOwned;
use tokio::process::Command;

use crate::patience::patience;

/// The `pm` that was built with the tests: it lies beside the directory of the test executable.
///
/// # Errors
/// When it has not been built.
pub fn pm_program() -> Result<PathBuf> {
    let test = std::env::current_exe().context("finding the test executable")?;
    let program = test
        .parent()
        .and_then(Path::parent)
        .context("the test executable lies in target/<profile>/deps")?
        .join("pm");
    ensure!(
        program.is_file(),
        "{} does not exist: build it first with `cargo build -p cli` (scripts/test does)",
        program.display()
    );
    Ok(program)
}

/// What a `pm` command said.
#[derive(Clone, Debug)]
pub struct PmOutput {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The result.
    pub stdout: String,
    /// Progress and errors.
    pub stderr: String,
}

impl PmOutput {
    /// Runs `pm` with these arguments to its end, with the logins of `config_home`.
    ///
    /// # Errors
    /// When it cannot be run, or does not end within the patience.
    pub async fn of(config_home: &Path, arguments: &[&str]) -> Result<Self> {
        let output = Command::new(pm_program()?)
            .args(arguments)
            .env("XDG_CONFIG_HOME", config_home)
            .env_remove("PM_URL")
            .env_remove("PM_TOKEN")
            .env_remove("PM_WORKSPACE")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(patience() * 2, output)
            .await
            .with_context(|| format!("pm {} does not end", arguments.join(" ")))?
            .context("running pm")?;
        Ok(Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// The output, when the command succeeded.
    ///
    /// # Errors
    /// When it did not: shows what it said.
    pub fn success(self) -> Result<Self> {
        ensure!(
            self.code == Some(0),
            "pm ended with {:?}\nstdout: {}\nstderr: {}",
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// The output, when the command failed with exit code 1.
    ///
    /// # Errors
    /// When it succeeded, or ended in another way.
    pub fn failure(self) -> Result<Self> {
        ensure!(
            self.code == Some(1),
            "pm ended with {:?} instead of 1\nstdout: {}\nstderr: {}",
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// The result as JSON.
    ///
    /// # Errors
    /// When it is not.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("reading the JSON result {:?}", self.stdout))
    }
}
