//! Removes the networks of tests that ended before they could.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::tools::ip_batch;
use super::{NAMESPACES, PREFIX, lock, processes};

/// Removes every network whose number nobody holds.
pub(super) fn remove() -> Result<()> {
    let numbers: BTreeSet<u8> = namespaces()?
        .iter()
        .filter_map(|name| number_of(name))
        .collect();
    for number in numbers {
        if let Some(_lock) = lock(number)? {
            remove_number(number)?;
        }
    }
    Ok(())
}

/// Removes the network with a number that the caller holds, with every process in it.
pub(super) fn remove_number(number: u8) -> Result<()> {
    let names: Vec<String> = namespaces()?
        .into_iter()
        .filter(|name| number_of(name) == Some(number))
        .collect();
    processes::end_all(&names)?;
    // The cables go with the switch's namespace, but only when the kernel gets to it.
    let cable = format!("{PREFIX}{number}");
    let mut lines = Vec::new();
    if Path::new("/sys/class/net").join(&cable).exists() {
        lines.push(format!("link del {cable}"));
    }
    lines.extend(names.iter().map(|name| format!("netns del {name}")));
    ip_batch(None, &lines)
}

fn namespaces() -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(NAMESPACES) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("listing the namespaces"),
    };
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect())
}

fn number_of(namespace: &str) -> Option<u8> {
    let (number, _) = namespace.strip_prefix(PREFIX)?.split_once('-')?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::number_of;

    #[test]
    fn only_namespaces_of_tests_are_ours() {
        assert_eq!(number_of("pmt17-s"), Some(17));
        assert_eq!(number_of("pmt0-3"), Some(0));
        for stranger in ["pmt17", "pmt-1", "other-1", "pmt999-1", "pmtx-1", "xpmt1-1"] {
            assert_eq!(number_of(stranger), None, "{stranger}");
        }
    }
}
