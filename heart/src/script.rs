//! Startup and prepare commands: each list of a manifest is one bash script.
//!
//! A script stops at its first failing command, says which one that was, and runs under a shim of its
//! own: its output goes to the log that the user reads, and whatever it started is killed when it
//! ends, when it takes too long and when it is given up, also if the heart has died meanwhile.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use common::application::{ShellScript, StopSignal};
use common::id::InstanceId;
use common::instance::{Failure, FailureCode};
use common::time::Span;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::failure::{failure, failure_of};
use crate::runs::{self, Runs};
use crate::shim::{self, Ending, ExitRecord, Lease, LogLimits, ProcessRecord, Specification};

/// The longest that the startup commands of one start may take together.
pub(crate) const STARTUP_LIMIT: Span = Span::seconds(600);

/// Time that a script has to end when it is given up.
const GRACE: Span = Span::seconds(2);

/// Tries to kill what commands left, each of up to ten seconds: a heart that is asked to end meanwhile
/// waits for them.
const KILL_TRIES: usize = 3;

/// Before the commands: stop at the first failure, also inside a pipe, and say where.
///
/// No xtrace: commands may hold secrets, and the failing one is named anyway.
const PRELUDE: &str = "set -eE -o pipefail
trap 'printf \"paasmaker: this command ended with status %s: %s\\n\" \"$?\" \"$BASH_COMMAND\" >&2' ERR
";

/// Scripts and where they run.
#[derive(Debug)]
pub(crate) struct Scripts<'a> {
    /// Run in order.
    pub(crate) scripts: &'a [ShellScript],
    /// Whose; 0 for a build.
    pub(crate) instance: InstanceId,
    /// The shim's directory.
    pub(crate) run_directory: PathBuf,
    /// Where the commands run.
    pub(crate) directory: PathBuf,
    /// All that they see.
    pub(crate) environment: BTreeMap<String, String>,
    /// Where their output goes.
    pub(crate) log_directory: PathBuf,
    /// How much of it is kept.
    pub(crate) log_limits: LogLimits,
    /// The longest that they may take together.
    pub(crate) limit: Span,
    /// What a failure of a command is called.
    pub(crate) code: FailureCode,
    /// What an exclusive instance must hold; none for any other, and for a build.
    pub(crate) lease: Option<Lease>,
}

impl Scripts<'_> {
    /// Runs all of them; whatever they started is gone when this returns.
    pub(crate) async fn run(
        &self,
        runs: &Runs,
        cancelled: &CancellationToken,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + self.limit.duration();
        let start = shim::log::length(&self.log_directory).unwrap_or(0);
        for script in self.scripts {
            if let Err(mut failure) = self.run_one(script, runs, deadline, cancelled).await {
                failure.output_tail = runs::tail_since(&self.log_directory, start);
                return Err(failure);
            }
        }
        Ok(())
    }

    async fn run_one(
        &self,
        script: &ShellScript,
        runs: &Runs,
        deadline: Instant,
        cancelled: &CancellationToken,
    ) -> Result<(), Failure> {
        let specification = self.specification(script)?;
        let process = runs
            .launch(specification, self.run_directory.clone())
            .await?;
        let outcome = tokio::select! {
            () = self.ended(&process) => None,
            () = cancelled.cancelled() => {
                Some(failure(FailureCode::Aborted, "the commands were given up"))
            }
            () = tokio::time::sleep_until(deadline) => {
                let text = format!("the commands took longer than {}", self.limit);
                Some(failure(self.code, text))
            }
        };
        match outcome {
            None => self.judge(),
            Some(failure) => {
                self.stop(&process).await;
                Err(failure)
            }
        }
    }

    fn specification(&self, script: &ShellScript) -> Result<Specification, Failure> {
        let path = self.run_directory.join("script.sh");
        let written = std::fs::create_dir_all(&self.run_directory)
            .and_then(|()| write_private(&path, &text(script)));
        written.map_err(|error| {
            let text = format!("the script could not be written: {error}");
            failure(FailureCode::Disk, text)
        })?;
        Ok(Specification {
            instance: self.instance,
            arguments: vec!["bash".to_owned(), path.to_string_lossy().into_owned()],
            environment: self.environment.clone(),
            directory: self.directory.clone(),
            stop_signal: StopSignal::Term,
            grace: GRACE,
            log_directory: self.log_directory.clone(),
            log_limits: self.log_limits,
            lease: self.lease.clone(),
        })
    }

    /// Waits for the end; kills what is left when the shim ended without a record.
    async fn ended(&self, process: &ProcessRecord) {
        runs::wait(&process.shim).await;
        if !matches!(ExitRecord::read(&self.run_directory), Ok(Some(_))) {
            self.kill().await;
        }
    }

    async fn stop(&self, process: &ProcessRecord) {
        runs::request_stop(process);
        let patience = GRACE.duration() + crate::local::KILL_MARGIN.duration();
        if tokio::time::timeout(patience, self.ended(process))
            .await
            .is_err()
        {
            self.kill().await;
        }
    }

    async fn kill(&self) {
        runs::kill_for_certain(&self.run_directory, self.instance, KILL_TRIES).await;
    }

    fn judge(&self) -> Result<(), Failure> {
        let record = ExitRecord::read(&self.run_directory)
            .map_err(|error| failure_of(FailureCode::Disk, &error))?;
        if record.as_ref().is_some_and(|record| record.cut_off) {
            return Err(failure(FailureCode::Aborted, "the commands were cut off"));
        }
        let ending = record.map(|record| record.ending);
        if ending == Some(Ending::Exited { code: 0 }) {
            return Ok(());
        }
        let text = format!("the script {}", runs::describe(ending.as_ref()));
        Err(failure(self.code, text))
    }
}

/// Commands may hold secrets.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    shim::create_private(path)?.write_all(text.as_bytes())
}

fn text(script: &ShellScript) -> String {
    let mut text = PRELUDE.to_owned();
    for command in &script.commands {
        writeln!(text, "{command}").expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    fn run(commands: &[&str]) -> (bool, String) {
        let script = ShellScript {
            commands: commands.iter().map(|line| (*line).to_owned()).collect(),
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("script.sh");
        write_private(&path, &text(&script)).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let output = Command::new("bash").arg(&path).output().unwrap();
        let mut seen = String::from_utf8(output.stdout).unwrap();
        seen.push_str(&String::from_utf8(output.stderr).unwrap());
        (output.status.success(), seen)
    }

    #[test]
    fn commands_share_one_shell() {
        let (is_success, output) = run(&["cd /usr", "name=value", "echo \"$PWD $name\""]);

        assert!(is_success);
        assert_eq!(output, "/usr value\n");
    }

    #[test]
    fn a_failure_inside_a_pipe_counts() {
        assert!(!run(&["false | true"]).0);
    }

    #[test]
    fn the_first_failing_command_is_the_last_and_is_named() {
        let (is_success, output) = run(&["echo one", "false || true", "ls /absent/x", "echo two"]);

        assert!(!is_success);
        assert!(output.starts_with("one\n"));
        assert!(
            output.contains("ended with status 2: ls /absent/x"),
            "{output}"
        );
        assert!(!output.contains("two"));
    }
}
