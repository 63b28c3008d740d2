//! What a control group leaves of the machine's memory, version 1 and 2.
//!
//! A heart in a container or a service with a limit has what the tightest group above it leaves, not
//! what the machine has. The page cache counts as left: the kernel gives it up first. Processors are
//! not read here: the standard library heeds their quota already.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the groups are mounted.
pub(super) const ROOT: &str = "/sys/fs/cgroup";

/// Version 1 writes a number near this for "no limit".
const UNLIMITED: u64 = 1 << 62;

/// The memory of a process's groups; none when no group has a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// The tightest limit, bytes.
    pub(super) limit: Option<u64>,
    /// The least that any of them leaves, bytes.
    pub(super) left: Option<u64>,
}

/// The names of a version's files.
struct Files {
    limit: &'static str,
    usage: &'static str,
    cache: &'static str,
}

const VERSION_1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cache: "total_inactive_file",
};

const VERSION_2: Files = Files {
    limit: "memory.max",
    usage: "memory.current",
    cache: "inactive_file",
};

impl Memory {
    /// Reads the groups of a process whose `/proc/self/cgroup` is `memberships`.
    pub(super) fn read(memberships: &str, root: &Path) -> Self {
        let Some((mount, group, files)) = place(memberships, root) else {
            return Self::default();
        };
        let inside = group.trim_start_matches('/');
        let deepest = mount.join(inside);
        // In a container its own group is mounted as the root, and has another name outside.
        let deepest = if deepest.is_dir() {
            deepest
        } else {
            mount.clone()
        };
        deepest
            .ancestors()
            .take_while(|level| level.starts_with(&mount))
            .filter_map(|level| files.read(level))
            .fold(Self::default(), |tightest, (limit, left)| Self {
                limit: Some(tightest.limit.map_or(limit, |other| other.min(limit))),
                left: Some(tightest.left.map_or(left, |other| other.min(left))),
            })
    }
}

/// Where the group with the memory controller is mounted, its path there, and the names of its files.
fn place<'text>(memberships: &'text str, root: &Path) -> Option<(PathBuf, &'text str, Files)> {
    let fields = |line: &'text str| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    };
    let memberships = memberships.lines().filter_map(fields);
    let mut unified = None;
    for (controllers, group) in memberships {
        if controllers.split(',').any(|one| one == "memory") {
            return Some((root.join("memory"), group, VERSION_1));
        }
        if controllers.is_empty() {
            unified = Some(group);
        }
    }
    unified.map(|group| (root.to_owned(), group, VERSION_2))
}

impl Files {
    /// Limit and rest of one group, if it has a limit.
    fn read(&self, level: &Path) -> Option<(u64, u64)> {
        let number = |name: &str| {
            let text = fs::read_to_string(level.join(name)).ok()?;
            text.trim().parse::<u64>().ok()
        };
        // Version 2 writes `max` for "no limit", which is no number.
        let limit = number(self.limit).filter(|limit| *limit < UNLIMITED)?;
        let usage = number(self.usage).unwrap_or(0);
        let statistics = fs::read_to_string(level.join("memory.stat")).unwrap_or_default();
        let cache = statistics
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(name, _)| *name == self.cache)
            .and_then(|(_, value)| value.trim().parse::<u64>().ok())
            .unwrap_or(0);
        let used = usage.saturating_sub(cache);
        Some((limit, limit.saturating_sub(used)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, content) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    #[test]
    fn the_tightest_group_of_version_2_counts() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("a/memory.max", "1000\n"),
                ("a/memory.current", "400\n"),
                ("a/memory.stat", "anon 1\ninactive_file 100\n"),
                ("a/b/memory.max", "max\n"),
                ("a/b/memory.current", "5\n"),
                ("a/b/c/memory.max", "800\n"),
                ("a/b/c/memory.current", "50\n"),
            ],
        );

        let memory = Memory::read("0::/a/b/c\n", root.path());

        let expected = Memory {
            limit: Some(800),
            left: Some(700),
        };
        assert_eq!(memory, expected);
    }

    #[test]
    fn version_1_is_found_beside_other_controllers_and_has_its_own_no_limit() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory/app/memory.limit_in_bytes", "1000\n"),
                ("memory/app/memory.usage_in_bytes", "900\n"),
                (
                    "memory/app/memory.stat",
                    "inactive_file 1\ntotal_inactive_file 300\n",
                ),
            ],
        );
        let read = |group: &str| {
            let text = format!("5:cpu,cpuacct:/\n4:memory:{group}\n0::/unified\n");
            Memory::read(&text, root.path())
        };

        let expected = Memory {
            limit: Some(1000),
            left: Some(400),
        };
        assert_eq!(read("/app"), expected);
        assert_eq!(read("/"), Memory::default());
        assert_eq!(read("/named/outside"), Memory::default());
        assert_eq!(Memory::read("", root.path()), Memory::default());
    }
}
