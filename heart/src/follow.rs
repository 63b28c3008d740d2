//! Follows the node's assignment: asks for a newer one, keeps the newest on disk, hands it on.
//!
//! An assignment is on disk before anything is done about it, so that a heart that starts while no
//! pacemaker answers goes on with it, and so that the highest term and generation that were ever
//! obeyed survive the heart. Whatever is older than these, or comes from another cluster, is refused,
//! and a pacemaker that gives such a thing is not taken for one that confirms what is held.
//!
//! A node that was removed from its cluster wants nothing any more: when pacemakers have said so for a
//! while and none has said otherwise, the assignment is emptied, on disk too, and what runs is stopped.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::assignment::Assignment;
use common::id::{Generation, NodeId, is_other_cluster};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::contact::{REMOVED_PAUSE, Talking};
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

/// How long pacemakers must say that this node was removed until it believes them: one answer alone
/// ends nothing that serves.
const REMOVAL_BELIEVED_AFTER: Duration = Duration::from_secs(3);

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
        // Since when every answer has been that this node was removed.
        let mut removed = None;
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
            removed = match &answer {
                Err(error) if error.is_removal() => removed.or_else(|| Some(Instant::now())),
                // Who is not reached says nothing.
                Err(error) if error.is_unreachable() => removed,
                Ok(_) | Err(_) => None,
            };
            if removed.is_some_and(|since| since.elapsed() >= REMOVAL_BELIEVED_AFTER) {
                self.leave(&mut unstored).await;
                pause = REMOVED_PAUSE;
            }
            let trouble = match answer {
                Ok(None) => None,
                Ok(Some(assignment)) => self
                    .take(assignment, &mut unstored)
                    .await
                    .err()
                    .map(|refusal| refusal.to_string()),
                Err(error) => Some(chain(&error)),
            };
            match trouble {
                None => {
                    // Asked for what is newer, a pacemaker that is behind answers what it has; only a
                    // question from the beginning is answered with what is acknowledged anywhere.
                    if after == Generation(0) {
                        self.talking.contact.note_confirmed(sent);
                    }
                    self.talking.contact.note_removed(false);
                    is_confirmed = true;
                    pause = FIRST_PAUSE;
                }
                Some(reason) => {
                    if pause == FIRST_PAUSE {
                        tracing::warn!(reason, "no pacemaker gives an assignment");
                    }
                    is_confirmed = false;
                    if tokio::time::timeout(pause, self.talking.shutdown.cancelled())
                        .await
                        .is_ok()
                    {
                        return;
                    }
                    pause = (pause * 2).min(match removed {
                        Some(_) if self.talking.contact.is_removed() => REMOVED_PAUSE,
                        Some(_) | None => LONGEST_PAUSE,
                    });
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

    /// Obeys an assignment that is newer, and notes the term of one that is as new.
    async fn take(
        &self,
        assignment: Assignment,
        unstored: &mut Option<Unstored>,
    ) -> Result<(), Refusal> {
        let verdict = judge(
            &assignment,
            self.talking.node,
            &self.talking.cluster,
            self.newest.borrow().as_deref(),
        );
        if verdict? == Verdict::Known {
            return Ok(());
        }
        let assignment = Arc::new(assignment);
        // It is obeyed all the same: a full disk must not keep an application from being stopped.
        self.keep(&assignment, unstored).await;
        self.talking.crash.at(CrashPoint::AfterAssignment);
        self.newest.send_replace(Some(assignment));
        Ok(())
    }

    /// The cluster has removed this node: nothing is wanted here.
    async fn leave(&self, unstored: &mut Option<Unstored>) {
        self.talking.contact.note_removed(true);
        let held = self.newest.borrow().clone();
        let Some(held) = held.filter(|held| !is_empty(held)) else {
            return;
        };
        tracing::error!(
            instances = held.instances.len(),
            "this node was removed from its cluster: what it runs is stopped"
        );
        let nothing = Arc::new(Assignment {
            instances: Vec::new(),
            builds: Vec::new(),
            ..(*held).clone()
        });
        self.keep(&nothing, unstored).await;
        self.newest.send_replace(Some(nothing));
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

fn is_empty(assignment: &Assignment) -> bool {
    assignment.instances.is_empty() && assignment.builds.is_empty()
}

/// Resolves when it is time to store again; never when nothing waits for it.
async fn due(unstored: Option<Unstored>) {
    match unstored {
        Some(unstored) => tokio::time::sleep_until(unstored.again_at).await,
        None => std::future::pending().await,
    }
}

/// What an assignment is to the one held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Newer, or as new and of a later term: it is stored and obeyed.
    News,
    /// The very one that is held.
    Known,
}

/// Why an assignment is not obeyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    /// The pacemaker, or what this node takes itself for, is mixed up.
    #[error("got the assignment of node {0}")]
    OtherNode(NodeId),
    /// The cluster was made anew, or the node is pointed at another one.
    #[error(
        "refused the assignment of cluster {found}: this node belongs to cluster {own}; join it anew with an empty data directory, or point it at its own pacemakers"
    )]
    OtherCluster {
        /// This node's.
        own: String,
        /// The assignment's.
        found: String,
    },
    /// The leader that made it was replaced, or the pacemaker that gave it is behind.
    #[error(
        "refused an assignment of term {term}, generation {generation}: older than term {held_term}, generation {held_generation}, which is obeyed"
    )]
    Older {
        /// Its term.
        term: u64,
        /// Its generation.
        generation: Generation,
        /// The highest term seen.
        held_term: u64,
        /// The highest generation seen.
        held_generation: Generation,
    },
}

/// Says what to do about an assignment. A generation names one content for ever, within a cluster.
fn judge(
    assignment: &Assignment,
    node: NodeId,
    cluster: &str,
    held: Option<&Assignment>,
) -> Result<Verdict, Refusal> {
    if assignment.node != node {
        return Err(Refusal::OtherNode(assignment.node));
    }
    let own = match (cluster, held) {
        ("", Some(held)) => held.cluster.as_str(),
        (told, _) => told,
    };
    if is_other_cluster(own, &assignment.cluster) {
        return Err(Refusal::OtherCluster {
            own: own.to_owned(),
            found: assignment.cluster.clone(),
        });
    }
    let Some(held) = held else {
        return Ok(Verdict::News);
    };
    if assignment.term < held.term || assignment.generation < held.generation {
        return Err(Refusal::Older {
            term: assignment.term,
            generation: assignment.generation,
            held_term: held.term,
            held_generation: held.generation,
        });
    }
    let is_known = (assignment.term, assignment.generation) == (held.term, held.generation)
        && assignment.cluster == held.cluster;
    Ok(if is_known {
        Verdict::Known
    } else {
        Verdict::News
    })
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

    fn judged(term: u64, generation: u64) -> Result<Verdict, Refusal> {
        let mut held = samples::assignment(Vec::new());
        (held.term, held.generation) = (5, Generation(10));
        let mut next = held.clone();
        (next.term, next.generation) = (term, Generation(generation));
        judge(&next, NodeId(1), "", Some(&held))
    }

    #[test]
    fn only_newer_assignments_of_a_current_term_are_obeyed() {
        assert_eq!(judged(5, 11), Ok(Verdict::News));
        assert_eq!(judged(6, 11), Ok(Verdict::News));
        assert_eq!(judged(6, 10), Ok(Verdict::News));
        assert_eq!(judged(5, 10), Ok(Verdict::Known));
        for (term, generation) in [(5, 9), (4, 11), (4, 10), (6, 9)] {
            assert!(matches!(
                judged(term, generation),
                Err(Refusal::Older { .. })
            ));
        }
    }

    #[test]
    fn an_assignment_of_another_node_is_refused() {
        assert_eq!(
            judge(&samples::assignment(Vec::new()), NodeId(2), "", None),
            Err(Refusal::OtherNode(NodeId(1)))
        );
    }

    #[test]
    fn an_assignment_of_another_cluster_is_refused_whoever_knows_the_own_one() {
        let of = |cluster: &str| Assignment {
            cluster: cluster.to_owned(),
            generation: Generation(99),
            ..samples::assignment(Vec::new())
        };
        let other = |own: &str| {
            Err(Refusal::OtherCluster {
                own: own.to_owned(),
                found: "b".to_owned(),
            })
        };

        assert_eq!(judge(&of("b"), NodeId(1), "a", None), other("a"));
        assert_eq!(judge(&of("b"), NodeId(1), "", Some(&of("a"))), other("a"));
        assert_eq!(judge(&of(""), NodeId(1), "a", None), Ok(Verdict::News));
        // What is learned is kept.
        assert_eq!(
            judge(&of("b"), NodeId(1), "", Some(&of(""))),
            Ok(Verdict::News)
        );
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
