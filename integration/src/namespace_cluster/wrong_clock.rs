//! The time of day as one machine has it, which a test may set.
//!
//! The time of day has no namespace, so the agent is shown another one by a small library that is
//! loaded before it.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// What the agent is shown the time with.
const SOURCE: &str = include_str!("wrong_clock.c");

/// A wall clock that can be set.
#[derive(Debug)]
pub(super) struct WrongClock {
    library: PathBuf,
    /// By how many seconds it is ahead.
    ahead: PathBuf,
}

impl WrongClock {
    /// A clock that is right so far.
    pub(super) fn make(directory: &Path) -> Result<Self> {
        let (source, library) = (
            directory.join("wrong_clock.c"),
            directory.join("wrong_clock.so"),
        );
        std::fs::write(&source, SOURCE).context("writing the source of a clock")?;
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .output()
            .context("building a clock")?;
        let said = String::from_utf8_lossy(&built.stderr);
        ensure!(built.status.success(), "building a clock: {said}");
        let clock = Self {
            library,
            ahead: directory.join("seconds_ahead"),
        };
        std::fs::write(&clock.ahead, 0_i64.to_le_bytes()).context("making a clock")?;
        Ok(clock)
    }

    /// Sets it, for the agent that runs too.
    pub(super) fn set(&self, seconds_ahead: i64) -> Result<()> {
        let file = std::fs::File::options().write(true).open(&self.ahead);
        let file = file.context("setting a clock")?;
        let bytes = seconds_ahead.to_le_bytes();
        file.write_all_at(&bytes, 0).context("setting a clock")
    }

    /// Lets what a command starts go by this clock.
    pub(super) fn show_to(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("PM_TEST_WRONG_CLOCK", &self.ahead);
    }
}
