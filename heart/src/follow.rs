//! Follows the node's assignment: asks for a newer one, keeps the newest on disk, hands it on.
//!
//! An assignment is on disk before anything is done about it, so that a heart that starts while no
//! pacemaker answers goes on with it. One that is not newer, or comes from a leader of an earlier
//! term, is dropped.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::assignment::Assignment;
use common::id::{Generation, NodeId};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::contact::Talking;
use crate::crash_point::CrashPoint;
use crate::failure::chain;
use crate::shim::create_private;

/// The first pause after a question that nobody answered; each is twice the last …
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// … up to this: a pacemaker that is back is heard within a second.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The pause before an assignment that the disk did not take is stored again; each is twice the
/// last …
const FIRST_STORE_PAUSE: Duration = Duration::from_millis(500);
/// … up to this: a full disk is looked at now and then.
const LONGEST_STORE_PAUSE: Duration = Duration::from_secs(30);

/// When the newest assignment, which the disk has not taken, is stored again.
#[derive(Clone, Copy, Debug)]
struct Unstored {
    again_at: Instant,
    pause: Duration,
}

/// Follows the assignment until the heart shuts down.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) talking: Talking,
    /// The newest assignment; a level, so that the loop may skip what is older.
    pub(crate) newest: watch::Sender<Option<Arc<Assignment>>>,
}

impl Follower {
    /// The loop.
    pub(crate) async fn run(self) {
        let mut pause = FIRST_PAUSE;
        // The first question is answered at once: it confirms what is held.
        let mut is_confirmed = false;
        let mut unstored = None;
        loop {
            let after = if is_confirmed {
                self.held()
            } else {
                Generation(0)
            };
            let sent = self.talking.clock.now();
            let answer = tokio::select! {
                () = self.talking.shutdown.cancelled() => return,
                () = self.talking.contact.confirm.notified(), if is_confirmed => {
                    is_confirmed = false;
                    continue;
                }
                () = due(unstored) => {
                    self.store_newest(&mut unstored).await;
                    continue;
                }
                answer = self.talking.client.watch_assignment(self.talking.node, after) => answer,
            };
            match answer {
                Ok(assignment) => {
                    if let Some(assignment) = assignment {
                        self.take(assignment, &mut unstored).await;
                    }
                    self.talking.contact.note_confirmed(sent);
                    is_confirmed = true;
                    pause = FIRST_PAUSE;
                }
                Err(error) => {
                    if pause == FIRST_PAUSE {
                        tracing::warn!(error = chain(&error), "no pacemaker gives an assignment");
                    }
                    is_confirmed = false;
                    if tokio::time::timeout(pause, self.talking.shutdown.cancelled())
                        .await
                        .is_ok()
                    {
                        return;
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn held(&self) -> Generation {
        self.newest
            .borrow()
            .as_ref()
            .map_or(Generation(0), |held| held.generation)
    }

    async fn take(&self, assignment: Assignment, unstored: &mut Option<Unstored>) {
        if !is_obeyed(
            &assignment,
            self.talking.node,
            self.newest.borrow().as_deref(),
        ) {
            return;
        }
        let assignment = Arc::new(assignment);
        // It is obeyed all the same: a full disk must not keep an application from being stopped.
        self.keep(&assignment, unstored).await;
        self.talking.crash.at(CrashPoint::AfterAssignment);
        self.newest.send_replace(Some(assignment));
    }

    async fn store_newest(&self, unstored: &mut Option<Unstored>) {
        let newest = self.newest.borrow().clone();
        if let Some(newest) = newest {
            self.keep(&newest, unstored).await;
        }
    }

    /// Writes an assignment to disk, and notes when to try again if that fails: a heart that starts
    /// with an older one would remove what only this one has.
    async fn keep(&self, assignment: &Arc<Assignment>, unstored: &mut Option<Unstored>) {
        let path = self.talking.directories.assignment();
        let stored = Arc::clone(assignment);
        let written = tokio::task::spawn_blocking(move || store(&path, &stored))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        *unstored = match written {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(%error, "keeping the assignment on disk");
                let pause = unstored.map_or(FIRST_STORE_PAUSE, |unstored| {
                    (unstored.pause * 2).min(LONGEST_STORE_PAUSE)
                });
                Some(Unstored {
                    again_at: Instant::now() + pause,
                    pause,
                })
            }
        };
    }
}

/// Resolves when it is time to store again; never when nothing waits for it.
async fn due(unstored: Option<Unstored>) {
    match unstored {
        Some(unstored) => tokio::time::sleep_until(unstored.again_at).await,
        None => std::future::pending().await,
    }
}

/// True for an assignment of this node that is newer than the one held, from a term at least as new.
fn is_obeyed(assignment: &Assignment, node: NodeId, held: Option<&Assignment>) -> bool {
    if assignment.node != node {
        tracing::error!(%node, other = %assignment.node, "got the assignment of another node");
        return false;
    }
    let Some(held) = held else {
        return true;
    };
    if assignment.term < held.term {
        tracing::warn!(
            term = assignment.term,
            seen = held.term,
            "refused the assignment of a leader that was replaced"
        );
        return false;
    }
    assignment.generation > held.generation
}

/// Writes an assignment so that it is there after a power cut, whole or not at all; it holds secrets.
fn store(path: &Path, assignment: &Assignment) -> io::Result<()> {
    let temporary = path.with_extension("partial");
    let mut file = create_private(&temporary)?;
    file.write_all(&serde_json::to_vec(assignment)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Reads the assignment that an earlier heart stored.
pub(crate) fn load(path: &Path) -> io::Result<Option<Assignment>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::samples;

    fn check(term: u64, generation: u64, expected: bool) {
        let mut held = samples::assignment(Vec::new());
        (held.term, held.generation) = (5, Generation(10));
        let mut next = held.clone();
        (next.term, next.generation) = (term, Generation(generation));
        assert_eq!(is_obeyed(&next, NodeId(1), Some(&held)), expected);
    }

    #[test]
    fn only_newer_assignments_of_a_current_term_are_obeyed() {
        check(5, 11, true);
        check(6, 11, true);
        check(5, 10, false);
        check(5, 9, false);
        check(4, 11, false);
        check(6, 9, false);
    }

    #[test]
    fn an_assignment_of_another_node_is_refused() {
        assert!(!is_obeyed(
            &samples::assignment(Vec::new()),
            NodeId(2),
            None
        ));
    }

    #[test]
    fn a_stored_assignment_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("assignment.json");
        let assignment = samples::assignment(vec![samples::instance(1)]);
        assert!(load(&path).unwrap().is_none());

        store(&path, &assignment).unwrap();

        assert_eq!(load(&path).unwrap(), Some(assignment));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
