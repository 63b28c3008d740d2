//! What the planner wishes for.
//!
//! An action becomes true only through the log, so by the time that it is applied it may be
//! stale. Each therefore carries what it was planned against (a generation, a step, a state), and
//! [`apply`](crate::State::apply) checks it again; a stale one is reported in
//! [`Outcome::Acted`](crate::command::Outcome::Acted) and changes nothing.

use common::assignment::PackageReference;
use common::id::{
    ApplicationId, Generation, InstanceId, InstanceTypeName, JobId, NodeId, VersionNumber,
};
use common::instance::{Failure, InstanceGoal};
use common::job::StepName;
use common::node::Role;
use common::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::state::records::Seen;

/// One wish of the planner; it becomes true only through the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// A role of a node has been silent for longer than the TTL. Its instances, if it is a heart,
    /// become lost; if it is a router, nobody waits for it any more. Fenced by the role not being
    /// silent already.
    MarkSilent {
        /// Which node.
        node: NodeId,
        /// Heart or router.
        role: Role,
    },
    /// A silent role has reported again. Fenced by the role being silent.
    MarkHeard {
        /// Which node.
        node: NodeId,
        /// Heart or router.
        role: Role,
    },
    /// A heart says something new of an instance. Routes and the job follow from it at once.
    Observe {
        /// Which instance.
        instance: InstanceId,
        /// Fence: the instance's generation.
        generation: Generation,
        /// The assignment that the heart held when it said so.
        assignment: Generation,
        /// What it said.
        seen: Seen,
    },
    /// A heart no longer has anything of an instance that was taken from its assignment.
    Forget {
        /// Which instance.
        instance: InstanceId,
        /// Fence: the instance's generation.
        generation: Generation,
    },
    /// A lost instance of an exclusive type has been cut off for so long that its heart has
    /// stopped it by itself.
    PresumeStopped {
        /// Which instance.
        instance: InstanceId,
        /// Fence: the instance's generation.
        generation: Generation,
    },
    /// A node is to build a job's version.
    AssignBuild {
        /// Which job; it must stand at the step `Prepare`.
        job: JobId,
        /// The builder to be.
        node: NodeId,
        /// Fence: the builder so far, which is lost.
        instead_of: Option<NodeId>,
    },
    /// A builder has built the package and it is in the store.
    FinishBuild {
        /// Which job; it must stand at the step `Prepare`.
        job: JobId,
        /// Fence: the builder.
        node: NodeId,
        /// What it built.
        package: PackageReference,
    },
    /// A builder could not build. The job fails.
    FailBuild {
        /// Which job; it must stand at the step `Prepare`.
        job: JobId,
        /// Fence: the builder.
        node: NodeId,
        /// Why.
        failure: Failure,
    },
    /// A new instance on a node. Fenced by one being missing and the node being able to run it.
    Place {
        /// Whose.
        application: ApplicationId,
        /// Of which version.
        version: VersionNumber,
        /// Of which type.
        instance_type: InstanceTypeName,
        /// Where.
        node: NodeId,
    },
    /// A heart is to start an instance, or to stop it and keep it. An instance is stopped only
    /// after it has been withdrawn and its requests have drained.
    SetGoal {
        /// Which instance.
        instance: InstanceId,
        /// Fence: the instance's generation.
        generation: Generation,
        /// What is wanted.
        goal: InstanceGoal,
    },
    /// An instance leaves the routing table, because it is about to be stopped or removed.
    Withdraw {
        /// Which instance.
        instance: InstanceId,
        /// Fence: the instance's generation.
        generation: Generation,
    },
    /// Every live router has acknowledged that an instance left the table, and requests to it go
    /// on: the drain limit begins.
    BeginDrain {
        /// Which instance.
        instance: InstanceId,
        /// Fence: the instance's generation.
        generation: Generation,
    },
    /// A withdrawn instance is wanted again before it was stopped.
    Restore {
        /// Which instance.
        instance: InstanceId,
        /// Fence: the instance's generation.
        generation: Generation,
    },
    /// An instance leaves its node's assignment: the heart stops it and removes its directory.
    Unassign {
        /// Which instance.
        instance: InstanceId,
        /// Fence: the instance's generation.
        generation: Generation,
    },
    /// What a step waited for outside the state has come: routers have acknowledged, requests
    /// have drained. The job goes on.
    CompleteStep {
        /// Which job.
        job: JobId,
        /// Fence: `Route`, `Promote` or `Drain`, and the one under way.
        step: StepName,
    },
    /// The watch window of the version before is over: it is stopped and stays registered.
    EndWarm {
        /// Whose.
        application: ApplicationId,
        /// Fence: the version that is warm.
        version: VersionNumber,
        /// Fence: until when.
        until: Timestamp,
    },
}
