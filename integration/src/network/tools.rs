//! The tools that make networks: `ip`, `nft`, `tc`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Runs a tool to its end.
///
/// # Errors
/// When it is missing or fails: shows what it said.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    run_with(program, arguments, "")
}

/// Runs `ip` commands, one a line, in a namespace or here.
pub(super) fn ip_batch(namespace: Option<&str>, lines: &[String]) -> Result<()> {
    let mut arguments = Vec::new();
    if let Some(namespace) = namespace {
        arguments.extend(["-n", namespace]);
    }
    arguments.extend(["-batch", "-"]);
    run_with("ip", &arguments, &lines.join("\n"))
}

/// Runs `nft` commands in a namespace.
pub(super) fn nft(namespace: &str, commands: &str) -> Result<()> {
    run_with(
        "ip",
        &["netns", "exec", namespace, "nft", "-f", "-"],
        commands,
    )
}

fn run_with(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let what = || format!("{program} {}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(what)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that fails at once has closed it; what it said tells more.
        writeln!(stdin, "{input}").ok();
    }
    let output = child.wait_with_output().with_context(what)?;
    ensure!(
        output.status.success(),
        "{} ended with {}: {}{input}",
        what(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
