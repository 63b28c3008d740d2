//! The state machine: log entries into the [`Replica`], snapshots out of it.
//!
//! The state lives in memory. A snapshot is a file; after a restart the newest valid one is loaded
//! and the log behind it applied again. An entry that cannot be applied stops Raft for good.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use common::id::Generation;
use futures_util::{Stream, TryStreamExt as _};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use pacemaker_core::command::{Command, Outcome, Rejection};
use tokio::sync::watch;
#[cfg(not(test))]
use tokio::task::spawn_blocking;

#[cfg(test)]
use crate::raft::simulation::runtime::spawn_blocking;
use crate::raft::snapshot_files::{Image, SnapshotFiles};
use crate::raft::types::{
    LogId, Proposal, Reply, SnapshotBytes, SnapshotMeta, StoredMembership, TypeConfig,
};
use crate::replica::{Replica, has_changed};

/// Applies the log.
#[derive(Debug)]
pub(crate) struct StateMachine {
    replica: Arc<Replica>,
    files: SnapshotFiles,
    applied: Option<LogId>,
    membership: StoredMembership,
    /// Numbers that were in the group and are no longer: they never come back.
    former: watch::Sender<Arc<BTreeSet<u64>>>,
}

impl StateMachine {
    /// Loads the newest valid snapshot into `replica`. Blocks.
    pub(crate) fn open(files: SnapshotFiles, replica: Arc<Replica>) -> io::Result<Self> {
        let mut machine = Self {
            replica,
            files,
            applied: None,
            membership: StoredMembership::default(),
            former: watch::Sender::default(),
        };
        if let Some((_, image)) = machine.files.newest()? {
            machine.take(image);
        }
        Ok(machine)
    }

    /// The last entry in the state.
    pub(crate) fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// Those that were taken out of the group, ever.
    pub(crate) fn former(&self) -> watch::Receiver<Arc<BTreeSet<u64>>> {
        self.former.subscribe()
    }

    /// Takes over new members, and remembers those that are no longer there.
    fn change_members(&mut self, membership: StoredMembership) {
        let gone = self.membership.nodes().map(|(number, _)| *number);
        let gone: BTreeSet<u64> = gone
            .filter(|number| membership.get_node(number).is_none())
            .collect();
        self.membership = membership;
        if !gone.is_empty() {
            self.former
                .send_modify(|former| Arc::make_mut(former).extend(gone));
        }
    }

    fn take(&mut self, image: Image) {
        self.former.send_replace(Arc::new(image.former));
        self.applied = image.meta.last_log_id;
        self.membership = image.meta.last_membership;
        self.replica.replace(image.held, generation(self.applied));
    }

    fn apply_command(
        &self,
        proposal: &Proposal,
        id: LogId,
    ) -> io::Result<(Result<Outcome, Rejection>, bool)> {
        let outcome = self
            .replica
            .apply(&proposal.command, proposal.now, Generation(id.index()))
            .map_err(io::Error::other)?;
        let is_change = has_changed(&outcome, actions_of(&proposal.command));
        Ok((outcome, is_change))
    }
}

fn actions_of(command: &Command) -> usize {
    match command {
        Command::Act { actions, .. } => actions.len(),
        Command::InitializeCluster { .. }
        | Command::CreateWorkspace { .. }
        | Command::RegisterNode { .. }
        | Command::CreateJoinToken { .. }
        | Command::JoinNode { .. }
        | Command::DescribeNode { .. }
        | Command::DrainNode { .. }
        | Command::UndrainNode { .. }
        | Command::RemoveNode { .. }
        | Command::CommitPackage { .. }
        | Command::ForgetPackages { .. }
        | Command::Deploy { .. }
        | Command::StartVersion(_)
        | Command::StopVersion(_)
        | Command::PromoteVersion(_)
        | Command::DeregisterVersion(_)
        | Command::Rollback { .. }
        | Command::Scale { .. }
        | Command::AbortJob { .. }
        | Command::DecideCrons { .. }
        | Command::ReportCronRuns { .. }
        | Command::StartCronRun { .. }
        | Command::SuspendCron { .. }
        | Command::ResumeCron { .. }
        | Command::AbandonCronRuns { .. }
        | Command::Once { .. } => 0,
    }
}

fn generation(id: Option<LogId>) -> Generation {
    Generation(id.map_or(0, |id| id.index()))
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotBytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let mut is_change = false;
            let reply = match entry.payload {
                EntryPayload::Blank => Reply(None),
                EntryPayload::Normal(proposal) => {
                    let (outcome, changed) = self.apply_command(&proposal, entry.log_id)?;
                    is_change = changed;
                    Reply(Some(outcome))
                }
                EntryPayload::Membership(membership) => {
                    self.change_members(StoredMembership::new(Some(entry.log_id), membership));
                    Reply(None)
                }
            };
            self.applied = Some(entry.log_id);
            self.replica
                .advance(Generation(entry.log_id.index()), is_change);
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            files: self.files.clone(),
            image: Some(Image {
                meta: SnapshotMeta {
                    last_log_id: self.applied,
                    last_membership: self.membership.clone(),
                },
                held: self.replica.copy(),
                former: BTreeSet::clone(&self.former.borrow()),
            }),
        }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        snapshot: SnapshotBytes,
    ) -> io::Result<()> {
        let files = self.files.clone();
        let image = blocking(move || {
            let image = Image::decode(&snapshot)?;
            files.write(generation(image.meta.last_log_id), &snapshot)?;
            Ok(image)
        })
        .await?;
        self.take(image);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<openraft::alias::SnapshotOf<TypeConfig, SnapshotBytes>>> {
        let files = self.files.clone();
        let newest = blocking(move || files.newest()).await?;
        Ok(newest.map(|(snapshot, image)| Snapshot {
            meta: image.meta,
            snapshot,
        }))
    }
}

/// Writes one snapshot of a copy of the state, beside everything else that goes on.
#[derive(Debug)]
pub(crate) struct Builder {
    files: SnapshotFiles,
    image: Option<Image>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotBytes;

    async fn build_snapshot(
        &mut self,
    ) -> io::Result<openraft::alias::SnapshotOf<TypeConfig, SnapshotBytes>> {
        let image = self
            .image
            .take()
            .ok_or_else(|| io::Error::other("a snapshot builder builds one snapshot"))?;
        let files = self.files.clone();
        blocking(move || {
            let snapshot = image.encode()?;
            files.write(generation(image.meta.last_log_id), &snapshot)?;
            Ok(Snapshot {
                meta: image.meta,
                snapshot,
            })
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}
