//! The real state machine, with the witness looking on.

use std::io;
use std::sync::Arc;

use futures_util::{Stream, TryStreamExt as _, stream};
use openraft::OptionalSend;
use openraft::alias::SnapshotOf;
use openraft::storage::{EntryResponder, RaftStateMachine};

use crate::raft::simulation::witness::Witness;
use crate::raft::state_machine::{Builder, StateMachine};
use crate::raft::types::{LogId, SnapshotBytes, SnapshotMeta, StoredMembership, TypeConfig};
use crate::replica::Replica;

/// Applies entry by entry, and shows each.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) machine: u64,
    pub(crate) inner: StateMachine,
    pub(crate) replica: Arc<Replica>,
    pub(crate) witness: Arc<Witness>,
}

impl RaftStateMachine<TypeConfig> for Watched {
    type SnapshotData = SnapshotBytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.inner.applied_state().await
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let seen = entry.clone();
            self.inner
                .apply(stream::iter([Ok((entry, responder))]))
                .await?;
            self.witness.applied(self.machine, &seen, &self.replica);
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        if let Some(applied) = self.inner.applied() {
            self.witness
                .state(self.machine, applied.index(), &self.replica);
        }
        self.inner.try_create_snapshot_builder(force).await
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.inner.get_snapshot_builder().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotBytes,
    ) -> io::Result<()> {
        self.inner.install_snapshot(meta, snapshot).await?;
        let applied = self.inner.applied().map(|applied| applied.index());
        self.witness
            .note(format_args!("{} has snapshot {applied:?}", self.machine));
        self.witness.restored(self.machine, applied, &self.replica);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotBytes>>> {
        self.inner.get_current_snapshot().await
    }
}
