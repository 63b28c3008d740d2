//! What an earlier heart left: processes to adopt, records to read, debris to remove.
//!
//! Runs once, before anything else. A process is adopted only when its shim is provably the one
//! that was recorded (pid, start time and boot id, verified through a pidfd); a stranger that has its
//! pid today is neither adopted nor signalled. What the journal does not know of is killed and removed.
//!
//! What cannot be removed (somebody has mounted something there) is logged and left out: it costs its
//! own instance a failure at most, and no other anything.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::id::InstanceId;
use common::instance::FailureCode;

use crate::clock::Moment;
use crate::directories::{Directories, WorkDirectory};
use crate::failure::{chain, failure};
use crate::fetch::remove_if_present;
use crate::local::{Condition, Entry, Held, StopReason, delay_before_restart};
use crate::runs;
use crate::shim::{self, ExitRecord, ProcessIdentity, ProcessRecord};

/// How long a shim that was asked for by a heart that died may take to say what it runs: it takes a
/// millisecond.
const SHIM_BEGINS_WITHIN: Duration = Duration::from_millis(500);

/// The pause between two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// An earlier heart's directory could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory or a record.
    #[error("reading what an earlier heart left in {}", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A process that nobody owns could not be ended.
    #[error("ending what is left of a run in {}", path.display())]
    Kill {
        /// Its run directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How a run stands that an earlier heart began.
enum Found {
    /// There was none.
    Nothing,
    /// It goes on.
    Alive(ProcessRecord),
    /// It could not be told, and the recorded processes are not known to be gone.
    Unclear(ProcessRecord),
    /// It has ended, and left this record, or none when its shim was killed.
    Ended(Option<ExitRecord>),
}

/// Looks at everything on disk; returns what this node holds.
///
/// # Errors
/// When a directory cannot be read, or a process without owner cannot be ended.
pub(crate) fn adopt(
    directories: &Directories,
    entries: BTreeMap<InstanceId, Entry>,
    boot_id: &str,
) -> Result<BTreeMap<InstanceId, Held>, Error> {
    remove_strays(directories, &entries)?;
    remove_builds(directories)?;
    let mut instances = BTreeMap::new();
    for (id, entry) in entries {
        let held = adopt_instance(directories, id, entry, boot_id)?;
        instances.insert(id, held);
    }
    Ok(instances)
}

fn adopt_instance(
    directories: &Directories,
    id: InstanceId,
    mut entry: Entry,
    boot_id: &str,
) -> Result<Held, Error> {
    let directory = directories.instance(id);
    if entry.boot_id != boot_id {
        // Nothing of another boot runs, and its records may not have reached the disk whole.
        for path in [directory.startup(), directory.run()] {
            remove_or_leave(&path);
        }
    }
    end_run(&directory.startup(), id);
    let found = find_run(&directory.run(), id).unwrap_or_else(|error| {
        // One instance whose records cannot be read must not keep the others from being adopted.
        tracing::error!(instance = %id, error = chain(&error), "adopting an instance");
        unclear(&directory.run(), id)
    });
    let has_passed = runs::has_passed(&directory.run());
    let is_lost = entry.boot_id != boot_id && !entry.is_synced;
    entry.is_laid_out = entry.is_laid_out && !is_lost && directory.code().is_dir();
    if entry.is_laid_out {
        boot_id.clone_into(&mut entry.boot_id);
    } else if !matches!(found, Found::Alive(_) | Found::Unclear(_)) {
        reset(&directory, &mut entry, boot_id);
    }
    let (condition, failure) = match found {
        Found::Alive(process) => {
            tracing::info!(instance = %id, pid = process.application.pid, "adopted a process");
            let condition = if has_passed {
                Condition::Running {
                    process,
                    since: Moment(0),
                }
            } else {
                Condition::Starting(process)
            };
            (condition, None)
        }
        Found::Unclear(process) => {
            let text = "the records of the process could not be read: it is ended";
            let condition = Condition::Stopping {
                process,
                kill_at: Moment(0),
                reason: StopReason::Failed(failure(FailureCode::Exited, text)),
            };
            (condition, None)
        }
        Found::Ended(Some(record)) if record.stop_requested => {
            entry.needs_startup = true;
            (Condition::Idle, None)
        }
        Found::Ended(record) => {
            let ended = runs::describe(record.as_ref().map(|record| &record.ending));
            let text = format!("the process {ended} while no heart watched it");
            (Condition::Idle, Some(failure(FailureCode::Exited, text)))
        }
        Found::Nothing => (Condition::Idle, None),
    };
    let is_over = condition == Condition::Idle;
    let mut held = Held::idle(entry);
    held.condition = condition;
    if let Some(mut failure) = failure {
        failure.output_tail = runs::tail_since(&directory.log(), 0);
        held.entry.failure = Some(failure);
    }
    if is_over && held.entry.failure.is_some() {
        let delay = delay_before_restart(held.entry.restarts, has_passed);
        held.retry_at = Some(Moment(0).after(delay));
    }
    Ok(held)
}

/// What to make of a run whose records could not be read, or whose end failed: nothing may be
/// started over what may still be there of it.
fn unclear(run_directory: &Path, id: InstanceId) -> Found {
    let record = ProcessRecord::read(run_directory).ok().flatten();
    match record.filter(|record| is_of_this_boot(&record.shim)) {
        Some(process) => Found::Unclear(process),
        None => {
            if let Err(error) = kill(run_directory, id) {
                tracing::error!(instance = %id, error = chain(&error), "ending an unclear run");
            }
            Found::Ended(None)
        }
    }
}

/// Forgets the code: it may be half there.
fn reset(directory: &WorkDirectory, entry: &mut Entry, boot_id: &str) {
    for path in [directory.code(), directory.partial_code()] {
        remove_or_leave(&path);
    }
    entry.is_laid_out = false;
    entry.is_synced = false;
    entry.needs_startup = true;
    boot_id.clone_into(&mut entry.boot_id);
}

/// Removes debris; what cannot be removed is logged and stays.
fn remove_or_leave(path: &Path) {
    if let Err(error) = remove_if_present(path) {
        tracing::error!(path = %path.display(), %error, "removing what an earlier heart left; it stays");
    }
}

/// Ends and removes instances that the journal does not know of.
fn remove_strays(
    directories: &Directories,
    entries: &BTreeMap<InstanceId, Entry>,
) -> Result<(), Error> {
    for path in list(&directories.instances())? {
        let id: Option<InstanceId> = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        if id.is_some_and(|id| entries.contains_key(&id)) {
            continue;
        }
        let directory = WorkDirectory::at(path.clone());
        if let Some(id) = id
            && ![directory.startup(), directory.run()]
                .map(|run| end_run(&run, id))
                .iter()
                .all(|has_ended| *has_ended)
        {
            // Its records are all that is known of what still runs: the next heart tries again.
            continue;
        }
        tracing::info!(directory = %path.display(), "removing what nobody knows of");
        remove_or_leave(&path);
    }
    Ok(())
}

/// Ends and removes all builds: one that is still assigned is done again.
fn remove_builds(directories: &Directories) -> Result<(), Error> {
    for path in list(&directories.builds())? {
        let run = WorkDirectory::at(path.clone()).run();
        if !end_run(&run, crate::build::NO_INSTANCE) {
            continue;
        }
        remove_or_leave(&path);
    }
    Ok(())
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = |source| Error::Read {
        path: directory.to_owned(),
        source,
    };
    fs::create_dir_all(directory).map_err(read)?;
    fs::read_dir(directory)
        .map_err(read)?
        .map(|entry| entry.map(|entry| entry.path()).map_err(read))
        .collect()
}

/// Ends whatever is left of a run; false, and logged, when that failed: the heart starts all the same.
fn end_run(run_directory: &Path, id: InstanceId) -> bool {
    let ended = find_run(run_directory, id).and_then(|found| match found {
        Found::Alive(_) | Found::Unclear(_) => kill(run_directory, id),
        Found::Nothing | Found::Ended(_) => Ok(()),
    });
    if let Err(error) = ended {
        tracing::error!(instance = %id, error = chain(&error), "ending what is left of a run");
        return false;
    }
    true
}

fn find_run(run_directory: &Path, id: InstanceId) -> Result<Found, Error> {
    let read = |source| Error::Read {
        path: run_directory.to_owned(),
        source,
    };
    let begin = Instant::now();
    loop {
        let process = ProcessRecord::read(run_directory).map_err(read)?;
        let exit = ExitRecord::read(run_directory).map_err(read)?;
        match (process, exit) {
            (_, Some(exit)) => return Ok(Found::Ended(Some(exit))),
            (Some(process), None) if process.shim.is_alive() => return Ok(Found::Alive(process)),
            (Some(process), None) => return lost_shim(run_directory, id, &process),
            (None, None) => {}
        }
        // Either nothing was ever started, or a shim is just about to leave its record.
        let specification = run_directory.join("specification.json");
        if !specification.exists() {
            return Ok(Found::Nothing);
        }
        if begin.elapsed() > SHIM_BEGINS_WITHIN {
            // A shim that is later still finds nothing to do.
            shim::call_off(run_directory, id).map_err(|source| Error::Kill {
                path: run_directory.to_owned(),
                source,
            })?;
            return Ok(Found::Nothing);
        }
        pause();
    }
}

/// The run of a shim that is gone and left no word of the end.
fn lost_shim(
    run_directory: &Path,
    id: InstanceId,
    process: &ProcessRecord,
) -> Result<Found, Error> {
    // It may have ended, in order, between the two looks.
    let exit = ExitRecord::read(run_directory).map_err(|source| Error::Read {
        path: run_directory.to_owned(),
        source,
    })?;
    if exit.is_none() && is_of_this_boot(&process.shim) {
        kill(run_directory, id)?;
    }
    Ok(Found::Ended(exit))
}

fn is_of_this_boot(shim: &ProcessIdentity) -> bool {
    ProcessIdentity::current().is_ok_and(|own| own.boot_id == shim.boot_id)
}

fn kill(run_directory: &Path, id: InstanceId) -> Result<(), Error> {
    shim::kill_tree(run_directory, id).map_err(|source| Error::Kill {
        path: run_directory.to_owned(),
        source,
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "a shim that belongs to nobody can only be polled; nothing else runs yet"
)]
fn pause() {
    std::thread::sleep(LOOK_EVERY);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    const ONE: InstanceId = InstanceId(1);

    /// A directory with one instance, laid out in a boot, whose records are unreadable.
    fn adopted(boot_id: &str, is_synced: bool) -> (Held, WorkDirectory, tempfile::TempDir) {
        let root = tempfile::tempdir().unwrap();
        let directories = Directories::new(root.path().to_owned());
        let directory = directories.instance(ONE);
        fs::create_dir_all(directory.code()).unwrap();
        fs::create_dir_all(directory.run()).unwrap();
        for record in ["specification.json", "process.json"] {
            fs::write(directory.run().join(record), "").unwrap();
        }
        let mut entry = Entry::new(&samples::instance(1), boot_id);
        (entry.is_laid_out, entry.is_synced) = (true, is_synced);
        entry.port = Some(20_000);
        let entries = BTreeMap::from([(ONE, entry)]);

        let mut instances = adopt(&directories, entries, "this boot").unwrap();

        (instances.remove(&ONE).unwrap(), directory, root)
    }

    #[test]
    fn after_a_power_cut_only_what_is_known_to_be_on_disk_is_used() {
        let (held, directory, _root) = adopted("another boot", false);
        assert!(!held.entry.is_laid_out);
        assert!(!directory.code().exists());

        let (held, directory, _root) = adopted("another boot", true);
        assert!(held.entry.is_laid_out);
        assert!(directory.code().exists());
        assert_eq!(held.entry.boot_id, "this boot");
        assert_eq!(held.entry.port, Some(20_000));
        assert_eq!(
            (held.condition, held.entry.failure),
            (Condition::Idle, None)
        );
    }

    #[test]
    fn records_that_cannot_be_read_cost_one_restart() {
        let (held, _, _root) = adopted("this boot", false);

        assert_eq!(held.condition, Condition::Idle);
        assert_eq!(held.entry.failure.unwrap().code, FailureCode::Exited);
        assert!(held.entry.is_laid_out);
    }

    #[test]
    fn a_process_of_unclear_records_is_stopped_before_anything_is_started() {
        let root = tempfile::tempdir().unwrap();
        let directories = Directories::new(root.path().to_owned());
        let directory = directories.instance(ONE);
        fs::create_dir_all(directory.run()).unwrap();
        let own = ProcessIdentity::current().unwrap();
        let process = ProcessRecord {
            shim: own.clone(),
            application: own.clone(),
            output_pipe: 0,
        };
        let text = serde_json::to_vec(&process).unwrap();
        fs::write(directory.run().join("process.json"), text).unwrap();
        fs::write(directory.run().join("exit.json"), "").unwrap();
        let entry = Entry::new(&samples::instance(1), &own.boot_id);

        let entries = BTreeMap::from([(ONE, entry)]);
        let instances = adopt(&directories, entries, &own.boot_id).unwrap();

        let condition = &instances[&ONE].condition;
        assert!(
            matches!(condition, Condition::Stopping { process: found, .. } if *found == process)
        );
    }

    #[test]
    fn what_cannot_be_removed_keeps_nobody_from_starting() {
        let root = tempfile::tempdir().unwrap();
        let directories = Directories::new(root.path().to_owned());
        let stray = directories.instance(InstanceId(2)).code();
        let build = directories.build(common::id::JobId(3)).code();
        let mounts: Vec<Mount> = [&stray, &build]
            .into_iter()
            .filter_map(|path| Mount::on(path))
            .collect();
        if mounts.len() < 2 {
            eprintln!("SKIPPED: nothing can be mounted by this user");
            return;
        }
        let mut entry = Entry::new(&samples::instance(1), "this boot");
        entry.is_laid_out = true;
        fs::create_dir_all(directories.instance(ONE).code()).unwrap();

        let instances = adopt(&directories, BTreeMap::from([(ONE, entry)]), "this boot").unwrap();

        assert!(instances[&ONE].entry.is_laid_out);
        assert!(stray.exists() && build.exists());
    }

    /// A mounted file system, which cannot be removed as a directory.
    struct Mount(PathBuf);

    impl Mount {
        fn on(path: &Path) -> Option<Self> {
            fs::create_dir_all(path).unwrap();
            let mounted = nix::mount::mount(
                Some("tmpfs"),
                path,
                Some("tmpfs"),
                nix::mount::MsFlags::empty(),
                Some("size=64k"),
            );
            mounted.is_ok().then(|| Self(path.to_owned()))
        }
    }

    impl Drop for Mount {
        fn drop(&mut self) {
            nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
    }

    #[test]
    fn the_records_of_what_could_not_be_ended_stay() {
        let root = tempfile::tempdir().unwrap();
        let directories = Directories::new(root.path().to_owned());
        let runs = [
            directories.instance(ONE).run(),
            directories.build(common::id::JobId(2)).run(),
        ];
        for run in &runs {
            fs::create_dir_all(run).unwrap();
            fs::write(run.join("process.json"), "").unwrap();
        }

        adopt(&directories, BTreeMap::new(), "this boot").unwrap();

        assert!(runs.iter().all(|run| run.join("process.json").exists()));
    }
}
