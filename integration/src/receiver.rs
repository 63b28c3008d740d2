//! An application that is called by crons and writes down every call: what was recorded by the
//! cluster is compared with what really arrived.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::application::TestApp;

/// The receiver's program; see the file.
const PROGRAM: &str = include_str!("application/receiver.py");
/// What `/auth` asks for; a colon, a quote, a blank and what is not ASCII are in the password.
pub const CREDENTIALS: (&str, &str) = ("clerk", "pä:ss \"w'rd");

/// An application of Python servers that writes down what crons ask of it.
#[derive(Debug)]
pub struct Receiver {
    application: TestApp,
    directory: TempDir,
    crons: Vec<Value>,
}

/// One request of a cron, as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `PM-Cron-Run`.
    pub run: u64,
    /// `PM-Cron-Attempt`.
    pub attempt: u32,
    /// `PM-Cron-Scheduled`.
    pub scheduled: String,
    /// True when the application found the signature right and fresh.
    pub is_signed: bool,
    /// The method.
    pub method: String,
    /// The target of the request.
    pub uri: String,
    /// `User-Agent`.
    pub agent: String,
    /// `Host`.
    pub host: String,
    /// Of basic authentication, as `NAME:PASSWORD`.
    pub credentials: Option<String>,
    /// The version that answered.
    pub version: u64,
    /// The instance that answered.
    pub instance: u64,
    /// When it arrived, milliseconds since 1970.
    pub began: u64,
    /// The status that was answered; none while it is under way.
    pub status: Option<u16>,
}

/// A line of the record.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Begin {
        run: u64,
        attempt: u32,
        at: u64,
        method: String,
        uri: String,
        scheduled: String,
        signed: bool,
        agent: String,
        host: String,
        credentials: Option<String>,
        version: u64,
        instance: u64,
    },
    End {
        run: u64,
        attempt: u32,
        status: u16,
    },
}

impl Receiver {
    /// A receiver of this name without crons.
    ///
    /// # Errors
    /// When its directories cannot be written.
    pub fn new(name: &str) -> Result<Self> {
        let mut application = TestApp::command(name, "python3 -u receiver.py")?;
        application.file("receiver.py", PROGRAM)?;
        let directory = tempfile::Builder::new()
            .prefix("pm-test-receiver-")
            .tempdir()
            .context("making a directory for a record")?;
        let (user, password) = CREDENTIALS;
        application.set(
            "/instances/0/env",
            json!({
                "RECORD": directory.path().join("record"),
                "HOLD": directory.path().join("hold"),
                "CREDENTIALS": format!("{user}:{password}"),
            }),
        )?;
        Ok(Self {
            application,
            directory,
            crons: Vec::new(),
        })
    }

    /// The application, to be deployed.
    #[must_use]
    pub fn application(&self) -> &TestApp {
        &self.application
    }

    /// The application, to be changed.
    pub fn application_mut(&mut self) -> &mut TestApp {
        &mut self.application
    }

    /// Adds a cron; `more` has keys of the manifest beside these three.
    ///
    /// # Errors
    /// When the manifest cannot be written.
    pub fn cron(
        &mut self,
        name: &str,
        runspec: &str,
        uri: &str,
        more: &Value,
    ) -> Result<&mut Self> {
        let mut cron = json!({ "name": name, "runspec": runspec, "uri": uri });
        let keys = cron.as_object_mut().context("a cron is a mapping")?;
        keys.extend(more.as_object().cloned().unwrap_or_default());
        self.crons.push(cron);
        self.application
            .set("/instances/0/crons", Value::Array(self.crons.clone()))?;
        Ok(self)
    }

    /// From here on requests to `/hold` are not answered.
    ///
    /// # Errors
    /// When the mark cannot be written.
    pub fn hold(&self) -> Result<()> {
        std::fs::write(self.held(), "").context("holding requests")
    }

    /// Requests to `/hold` are answered again, and those that wait.
    ///
    /// # Errors
    /// When the mark cannot be removed.
    pub fn release(&self) -> Result<()> {
        std::fs::remove_file(self.held()).context("releasing requests")
    }

    fn held(&self) -> PathBuf {
        self.directory.path().join("hold")
    }

    /// Every call so far, in the order of their beginnings.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn calls(&self) -> Result<Vec<Call>> {
        let text = match std::fs::read_to_string(self.directory.path().join("record")) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).context("reading the receiver's record"),
        };
        let mut calls: Vec<Call> = Vec::new();
        // The last line may be being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            let line: Line = serde_json::from_str(line)
                .with_context(|| format!("reading the receiver's record: {line}"))?;
            note(&mut calls, line)?;
        }
        Ok(calls)
    }

    /// The calls of a URI so far.
    ///
    /// # Errors
    /// As [`calls`](Self::calls).
    pub fn calls_of(&self, uri: &str) -> Result<Vec<Call>> {
        let mut calls = self.calls()?;
        calls.retain(|call| call.uri == uri);
        Ok(calls)
    }
}

fn note(calls: &mut Vec<Call>, line: Line) -> Result<()> {
    match line {
        Line::Begin {
            run,
            attempt,
            at,
            method,
            uri,
            scheduled,
            signed,
            agent,
            host,
            credentials,
            version,
            instance,
        } => calls.push(Call {
            run,
            attempt,
            scheduled,
            is_signed: signed,
            method,
            uri,
            agent,
            host,
            credentials,
            version,
            instance,
            began: at,
            status: None,
        }),
        Line::End {
            run,
            attempt,
            status,
        } => {
            let call = calls
                .iter_mut()
                .rev()
                .find(|call| call.run == run && call.attempt == attempt && call.status.is_none())
                .context("what ends has begun")?;
            call.status = Some(status);
        }
    }
    Ok(())
}
