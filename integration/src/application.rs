//! Applications that tests deploy, written into temporary directories.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A small Python server with the behaviours that tests need; see the file.
const SERVER: &str = include_str!("application/server.py");

/// A directory with a manifest that can be deployed. Its manifest is JSON, which is YAML too.
#[derive(Debug)]
pub struct TestApp {
    directory: TempDir,
    manifest: Value,
}

impl TestApp {
    /// Files that `pm` serves; `/` answers with `body`.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn site(name: &str, body: &str) -> Result<Self> {
        let runtime = json!({
            "plugin": "paasmaker.runtime.static",
            "version": 1,
            "parameters": { "document_root": "site" },
        });
        let application = Self::new(name, &runtime)?;
        application.file("site/index.html", body)?;
        Ok(application)
    }

    /// A Python server (`application/server.py`); `/` answers with `body`.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn server(name: &str, body: &str) -> Result<Self> {
        let application = Self::command(name, "python3 -u server.py %(port)d")?;
        application.file("server.py", SERVER)?;
        application.file("body.txt", body)?;
        Ok(application)
    }

    /// Whatever the command does.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn command(name: &str, launch_command: &str) -> Result<Self> {
        let runtime = json!({
            "plugin": "paasmaker.runtime.shell",
            "version": 1,
            "parameters": { "launch_command": launch_command },
        });
        Self::new(name, &runtime)
    }

    fn new(name: &str, runtime: &Value) -> Result<Self> {
        let application = Self {
            directory: tempfile::Builder::new()
                .prefix("pm-test-app-")
                .tempdir()
                .context("making a directory for an application")?,
            manifest: json!({
                "manifest": { "format": 1 },
                "application": { "name": name },
                "instances": [{ "name": "web", "runtime": runtime }],
            }),
        };
        application.save()?;
        Ok(application)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The directory as text, as it is typed.
    ///
    /// # Errors
    /// When the temporary directory's name is not UTF-8.
    pub fn argument(&self) -> Result<&str> {
        self.path()
            .to_str()
            .context("the directory's name is UTF-8")
    }

    /// Writes a file, replacing what was there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).context("making a directory in an application")?;
        }
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Sets what is at a JSON pointer of the manifest, such as `/instances/0/quantity`.
    ///
    /// # Errors
    /// When the parent is not in the manifest, or the file cannot be written.
    pub fn set(&mut self, pointer: &str, value: Value) -> Result<&mut Self> {
        let (parent, key) = pointer
            .rsplit_once('/')
            .context("a pointer begins with a slash")?;
        self.manifest
            .pointer_mut(parent)
            .and_then(Value::as_object_mut)
            .with_context(|| format!("the manifest has no object at {parent}"))?
            .insert(key.to_owned(), value);
        self.save()?;
        Ok(self)
    }

    /// Runs these lines once per version.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn prepare(&mut self, commands: &[&str]) -> Result<&mut Self> {
        let step = json!({
            "plugin": "paasmaker.prepare.shell",
            "parameters": { "commands": commands },
        });
        self.set("/application/prepare", json!({ "commands": [step] }))
    }

    /// Runs these lines before each start.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn startup(&mut self, commands: &[&str]) -> Result<&mut Self> {
        let step = json!({
            "plugin": "paasmaker.startup.shell",
            "parameters": { "commands": commands },
        });
        self.set("/instances/0/startup", json!([step]))
    }

    fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.manifest).context("writing the manifest")?;
        self.file("manifest.yml", &text).map(|_| ())
    }
}
