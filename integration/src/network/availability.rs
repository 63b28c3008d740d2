//! Whether this machine lets a test make networks.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::Network;

/// What the harness runs, and the Debian packages that have it.
const TOOLS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nft", "nftables"),
    ("mount", "mount"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
];
/// What disks of machines need beside.
const DISK_TOOLS: [(&str, &str); 3] = [
    ("mkfs.ext4", "e2fsprogs"),
    ("fsfreeze", "util-linux"),
    ("python3", "python3"),
];
/// Where the kernel gives a file as a disk.
const LOOP_CONTROL: &str = "/dev/loop-control";
/// Set by continuous integration, where nothing may be skipped in silence.
const CONTINUOUS_INTEGRATION: &str = "CI";

/// Joins so many machines; `None`, said loudly, where that is not possible.
///
/// # Errors
/// In continuous integration where it is not possible, and everywhere when it fails.
pub fn network_or_skip(machines: u8) -> Result<Option<Network>> {
    let is_possible = is_possible(obstacle())?;
    is_possible.then(|| Network::build(machines)).transpose()
}

/// True where machines can have disks of their own; said loudly where not.
///
/// # Errors
/// In continuous integration where it is not possible.
pub(crate) fn disks_or_skip() -> Result<bool> {
    let missing = missing(&DISK_TOOLS);
    let no_loop = || {
        let is_there = Path::new(LOOP_CONTROL).exists();
        (!is_there).then(|| format!("{LOOP_CONTROL} is missing, so that files cannot be disks"))
    };
    is_possible(missing.or_else(no_loop))
}

fn is_possible(obstacle: Option<String>) -> Result<bool> {
    match obstacle {
        None => Ok(true),
        Some(obstacle) if std::env::var_os(CONTINUOUS_INTEGRATION).is_some() => {
            bail!("tests of whole clusters cannot run: {obstacle}")
        }
        Some(obstacle) => {
            say_skipped(&obstacle);
            Ok(false)
        }
    }
}

#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn say_skipped(obstacle: &str) {
    eprintln!("SKIPPED: a test of a whole cluster, because {obstacle}");
}

/// Why it is not possible.
fn obstacle() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("only root makes network namespaces".to_owned());
    }
    missing(&TOOLS)
}

fn missing(tools: &[(&str, &str)]) -> Option<String> {
    tools
        .iter()
        .find(|(tool, _)| !is_installed(tool))
        .map(|(tool, package)| format!("`{tool}` is missing (package {package})"))
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_in = |directory: PathBuf| Path::new(&directory).join(tool).is_file();
    std::env::split_paths(&path).any(is_in)
}
