//! What several stories need.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use integration::{DevProcess, TestApp};

/// Types `pm deploy` and expects it to succeed.
pub(crate) async fn deploy(dev: &DevProcess, application: &TestApp) -> Result<()> {
    dev.pm(&["deploy", application.argument()?])
        .await?
        .success()
        .map(|_| ())
}

/// What the application answers at `/` through the router.
pub(crate) async fn body(dev: &DevProcess, application: &str) -> Result<String> {
    let answer = dev.get(&DevProcess::host(application), "/").await?;
    anyhow::ensure!(
        answer.status == 200,
        "status {}: {}",
        answer.status,
        answer.text()
    );
    Ok(answer.text())
}

/// Every process whose command line or environment names this directory, but for `pm dev` itself.
pub(crate) fn processes_of(directory: &Path) -> BTreeSet<u32> {
    let needle = directory.as_os_str().as_encoded_bytes();
    let mentions = |path: String| {
        std::fs::read(path)
            .is_ok_and(|bytes| bytes.windows(needle.len()).any(|part| part == needle))
    };
    let is_dev = |pid: u32| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|bytes| bytes.split(|byte| *byte == 0).nth(1) == Some(b"dev"))
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            mentions(format!("/proc/{pid}/cmdline")) || mentions(format!("/proc/{pid}/environ"))
        })
        .filter(|pid| !is_dev(*pid))
        .collect()
}

/// True while a process with this id exists and is not a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .starts_with(" Z")
    })
}
