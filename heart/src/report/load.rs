//! What the machine has and has free for instances, from `/proc`, control groups and the file system.

mod cgroup;

use std::fs;
use std::path::Path;

use common::assignment::Load;

/// Reads the machine's load; what cannot be read is zero.
pub(super) fn read(data_directory: &Path) -> Load {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let memberships = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = cgroup::Memory::read(&memberships, Path::new(cgroup::ROOT));
    let disk = rustix::fs::statvfs(data_directory);
    let bounded =
        |machine: u64, group: Option<u64>| group.map_or(machine, |group| group.min(machine));
    Load {
        memory_total: bounded(memory_field(&memory, "MemTotal:"), group.limit),
        memory_available: bounded(memory_field(&memory, "MemAvailable:"), group.left),
        cpus: std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        load_milli: load_milli(&load),
        disk_available: disk.map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
    }
}

/// The bytes of a line such as `MemTotal:   16384 kB`.
fn memory_field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kibibytes| kibibytes.saturating_mul(1024))
}

/// The one-minute average, `0.42 …`, times 1000.
fn load_milli(text: &str) -> u64 {
    let first = text.split_ascii_whitespace().next().unwrap_or("0");
    let (whole, part) = first.split_once('.').unwrap_or((first, "0"));
    let milli: String = part.chars().chain("000".chars()).take(3).collect();
    let whole: u64 = whole.parse().unwrap_or(0);
    whole
        .saturating_mul(1000)
        .saturating_add(milli.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_understood() {
        let memory = "MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:    8192 kB\n";

        assert_eq!(memory_field(memory, "MemTotal:"), 16 << 20);
        assert_eq!(memory_field(memory, "MemAvailable:"), 8 << 20);
        assert_eq!(memory_field(memory, "Absent:"), 0);
        assert_eq!(load_milli("0.42 0.50 0.61 1/300 4242"), 420);
        assert_eq!(load_milli("12.05 0 0"), 12_050);
        assert_eq!(load_milli(""), 0);
    }

    #[test]
    fn this_machine_has_memory_and_a_disk() {
        let load = read(Path::new("/"));

        assert!(load.memory_total > 0);
        assert!(load.memory_available > 0);
        assert!(load.cpus > 0);
    }
}
