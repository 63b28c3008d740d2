//! What the journal promises, also on a disk that is full.

use super::*;

use std::process::{Command, Stdio};

use crate::samples;

#[test]
fn what_is_acknowledged_is_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.redb");
    let mut entry = Entry::new(&samples::instance(1), "boot");
    let (mut journal, entries) = Journal::open(&path).unwrap();
    assert!(entries.is_empty());

    journal
        .note(InstanceId(1), Some(&entry))
        .blocking_recv()
        .unwrap();
    entry.port = Some(20_000);
    journal
        .note(InstanceId(1), Some(&entry))
        .blocking_recv()
        .unwrap();
    journal
        .note(InstanceId(2), Some(&entry))
        .blocking_recv()
        .unwrap();
    journal.note(InstanceId(2), None).blocking_recv().unwrap();
    drop(journal);

    let (_journal, entries) = Journal::open(&path).unwrap();
    assert_eq!(entries, BTreeMap::from([(InstanceId(1), entry)]));
}

#[test]
fn an_entry_that_did_not_change_is_not_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.redb");
    let entry = Entry::new(&samples::instance(1), "boot");
    let (mut journal, _) = Journal::open(&path).unwrap();
    journal
        .note(InstanceId(1), Some(&entry))
        .blocking_recv()
        .unwrap();

    let mut again = journal.note(InstanceId(1), Some(&entry));

    assert_eq!(again.try_recv(), Ok(()));
}

#[test]
fn an_entry_that_makes_no_sense_is_dropped_and_the_others_stay() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.redb");
    let entry = Entry::new(&samples::instance(1), "boot");
    let (mut journal, _) = Journal::open(&path).unwrap();
    journal
        .note(InstanceId(1), Some(&entry))
        .blocking_recv()
        .unwrap();
    drop(journal);
    let database = open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(INSTANCES)
        .unwrap()
        .insert(2, &b"{\"package\": 7"[..])
        .unwrap();
    transaction.commit().unwrap();
    drop(database);

    let (journal, entries) = Journal::open(&path).unwrap();
    assert_eq!(entries, BTreeMap::from([(InstanceId(1), entry)]));
    drop(journal);

    let stored = read_all(&open(&path).unwrap()).unwrap();
    assert_eq!(stored.len(), 1, "it is not complained of again");
}

#[tokio::test]
async fn a_change_is_written_once_a_full_disk_has_room_again() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let (mut journal, _) = Journal::open(&disk.0.path().join("journal.redb")).unwrap();
    let filler = disk.0.path().join("filler");
    let mut entry = Entry::new(&samples::instance(1), "boot");
    fill(&filler);
    // Far more than the file has room for.
    entry.boot_id = "x".repeat(2 << 20);

    let mut written = journal.note(InstanceId(1), Some(&entry));
    let too_early = tokio::time::timeout(RETRY_AFTER * 2, &mut written).await;
    assert!(too_early.is_err(), "there is no room for it");
    std::fs::remove_file(filler).unwrap();

    let in_time = tokio::time::timeout(RETRY_AFTER * 10, written).await;
    in_time.expect("there is room again").unwrap();
    drop(journal);
    let (_journal, entries) = Journal::open(&disk.0.path().join("journal.redb")).unwrap();
    assert_eq!(entries, BTreeMap::from([(InstanceId(1), entry)]));
}

/// Takes all the room that is left.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    let full = std::io::copy(&mut std::io::repeat(1), &mut file).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
}

/// A file system of a few megabytes.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"])
            .arg(place.path())
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(place));
        }
        eprintln!("SKIPPED: a small disk cannot be mounted by this user");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(status.unwrap().success());
    }
}
