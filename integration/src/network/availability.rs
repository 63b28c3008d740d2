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
/// Set by continuous integration, where nothing may be skipped in silence.
const CONTINUOUS_INTEGRATION: &str = "CI";

/// Joins so many machines; `None`, said loudly, where that is not possible.
///
/// # Errors
/// In continuous integration where it is not possible, and everywhere when it fails.
pub fn network_or_skip(machines: u8) -> Result<Option<Network>> {
    match obstacle() {
        None => Network::build(machines).map(Some),
        Some(obstacle) if std::env::var_os(CONTINUOUS_INTEGRATION).is_some() => {
            bail!("tests of whole clusters cannot run: {obstacle}")
        }
        Some(obstacle) => {
            say_skipped(&obstacle);
            Ok(None)
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
    TOOLS
        .iter()
        .find(|(tool, _)| !is_installed(tool))
        .map(|(tool, package)| format!("`{tool}` is missing (package {package})"))
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_in = |directory: PathBuf| Path::new(&directory).join(tool).is_file();
    std::env::split_paths(&path).any(is_in)
}
