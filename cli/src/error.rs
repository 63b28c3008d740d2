//! What a person reads when a verb fails: what was being done, why it failed, what to do next.
//!
//! Owns the two forms of an error (a screen of text, one JSON object) and how an error of the API
//! becomes one. Never decides exit codes beyond "failed".

use std::fmt;
use std::fmt::Write as _;
use std::ops::{Deref, DerefMut};

use common::id::JobId;
use common::manifest::Fault;
use serde::Serialize;

/// Codes of failures that have no problem document of the API behind them.
pub(crate) mod code {
    /// No pacemaker answered.
    pub(crate) const UNREACHABLE: &str = "unreachable";
    /// No cluster and no token are known.
    pub(crate) const NOT_LOGGED_IN: &str = "not_logged_in";
    /// The data directory is that of no node.
    pub(crate) const NOT_JOINED: &str = "not_joined";
    /// A join token is not one.
    pub(crate) const TOKEN_INVALID: &str = "token_invalid";
    /// Another cluster answers than the one that was meant.
    pub(crate) const OTHER_CLUSTER: &str = "other_cluster";
    /// The configuration file, or a setting, cannot work.
    pub(crate) const CONFIGURATION_INVALID: &str = "configuration_invalid";
    /// The manifest has faults.
    pub(crate) const MANIFEST_INVALID: &str = "manifest_invalid";
    /// A file could not be read or written.
    pub(crate) const FILE: &str = "file";
    /// The job ended in failure.
    pub(crate) const JOB_FAILED: &str = "job_failed";
    /// A run of a cron did not succeed.
    pub(crate) const CRON_FAILED: &str = "cron_failed";
    /// The job was ended by a user.
    pub(crate) const JOB_ABORTED: &str = "job_aborted";
    /// The name leads nowhere.
    pub(crate) const NOT_FOUND: &str = "not_found";
    /// A port is busy, a directory is locked.
    pub(crate) const IN_USE: &str = "in_use";
    /// Anything else.
    pub(crate) const FAILED: &str = "failed";
}

/// A failure of a verb; boxed, so that a success does not carry its size.
#[derive(Clone, Debug)]
pub(crate) struct CommandError(Box<Facts>);

/// Everything that is known of a failure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Facts {
    /// Stable, for programs.
    pub(crate) code: String,
    /// What was being done, to what: completes "could not …".
    pub(crate) doing: String,
    /// Why it failed, in sentences.
    pub(crate) why: String,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
    /// The last lines of output of what failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) output: String,
    /// The faults of a manifest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) faults: Vec<Fault>,
    /// The faults as a person reads them, beside the lines that they are in.
    #[serde(skip)]
    pub(crate) rendered: String,
    /// The job that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<JobId>,
    /// What the process ends with.
    #[serde(skip)]
    pub(crate) exit_code: u8,
}

/// The exit code of a failure.
const EXIT_FAILED: u8 = 1;

impl CommandError {
    /// A failure with nothing but its two halves.
    pub(crate) fn new(code: &str, doing: impl Into<String>, why: impl Into<String>) -> Self {
        Self(Box::new(Facts {
            code: code.to_owned(),
            doing: doing.into(),
            why: why.into(),
            next: None,
            output: String::new(),
            faults: Vec::new(),
            rendered: String::new(),
            job: None,
            exit_code: EXIT_FAILED,
        }))
    }

    /// A failure to read or write something on this machine.
    pub(crate) fn file(doing: impl Into<String>, error: &std::io::Error) -> Self {
        Self::new(code::FILE, doing, error.to_string())
    }

    /// Adds what to do next.
    #[must_use]
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Names the job that it is about.
    #[must_use]
    pub(crate) fn job(mut self, job: JobId) -> Self {
        self.job = Some(job);
        self
    }

    /// Ends the process with another code than 1.
    #[must_use]
    pub(crate) fn exit_code(mut self, exit_code: u8) -> Self {
        self.exit_code = exit_code;
        self
    }

    /// What the API answered, or that it did not.
    pub(crate) fn api(
        doing: impl Into<String>,
        url: &str,
        error: &pacemaker_client::Error,
    ) -> Self {
        if error.is_unreachable() {
            return Self::new(
                code::UNREACHABLE,
                doing,
                format!("no pacemaker answers at {url}: {}", chain(error)),
            )
            .next(
                "start a cluster on this machine with `pm dev`, or say where yours is with --url or `pm login URL`",
            );
        }
        let Some(problem) = error.problem() else {
            return Self::new(code::FAILED, doing, chain(error));
        };
        let why = if problem.detail.is_empty() {
            &problem.title
        } else {
            &problem.detail
        };
        let mut result = Self::new(&problem.code, doing, why);
        result.faults.clone_from(&problem.faults);
        if problem.status == 401 || problem.status == 403 {
            result.next = Some(format!(
                "log in with a valid token: `pm login {url} --token-stdin`, or set PM_TOKEN"
            ));
        }
        result
    }

    /// The screen of text that a person reads.
    pub(crate) fn human(&self) -> String {
        let mut text = format!("error: could not {}\n", printable(&self.doing));
        for (index, line) in printable(&self.why).lines().enumerate() {
            let label = if index == 0 { "why: " } else { "     " };
            text.push_str("  ");
            text.push_str(label);
            text.push_str(line);
            text.push('\n');
        }
        if self.rendered.is_empty() {
            for fault in &self.faults {
                writeln!(
                    text,
                    "    line {}, column {}: {}: {}",
                    fault.line,
                    fault.column,
                    printable(&fault.path),
                    printable(&fault.message)
                )
                .expect("writing to a String cannot fail");
            }
        } else {
            text.push_str(&printable(&self.rendered));
            if !text.ends_with('\n') {
                text.push('\n');
            }
        }
        if !self.output.is_empty() {
            text.push_str("  its last output:\n");
            for line in printable(&self.output).lines() {
                text.push_str("    | ");
                text.push_str(line);
                text.push('\n');
            }
        }
        if let Some(next) = &self.next {
            text.push_str("  next: ");
            text.push_str(next);
            text.push('\n');
        }
        text
    }

    /// The JSON object that a program reads.
    pub(crate) fn json(&self) -> String {
        let mut text = serde_json::json!({ "error": *self.0 }).to_string();
        text.push('\n');
        text
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {}: {}", self.doing, self.why)
    }
}

impl std::error::Error for CommandError {}

impl Deref for CommandError {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.0
    }
}

impl DerefMut for CommandError {
    fn deref_mut(&mut self) -> &mut Facts {
        &mut self.0
    }
}

/// An error with all its sources on one line; a source that its parent repeats is said once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// `text` without the control characters that could make a terminal do something.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\n' | '\t' => character,
            control if control.is_control() => '\u{fffd}',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_why_and_next() {
        let mut error = CommandError::new(code::JOB_FAILED, "deploy `hello`", "step start: exited")
            .next("pm why job:3");
        error.output = "one\u{1b}[2J\ntwo".to_owned();
        let text = error.human();
        assert!(text.starts_with("error: could not deploy `hello`\n  why: step start: exited\n"));
        assert!(text.contains("    | one\u{fffd}[2J\n    | two\n"));
        assert!(text.ends_with("  next: pm why job:3\n"));
        let json: serde_json::Value = serde_json::from_str(&error.json()).unwrap();
        assert_eq!(json["error"]["code"], "job_failed");
    }
}
