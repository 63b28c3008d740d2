//! How much the state may hold: every count has a limit, and every limit a reason.

use common::time::Span;

/// Workspaces are made by people, a few per team.
pub const WORKSPACES_MAX: usize = 1_000;
/// A cell is sized for 5,000 nodes; twice that leaves room for nodes that come and go.
pub const NODES_MAX: usize = 10_000;
/// Join tokens kept, used ones included: one for each machine of a large order.
pub const JOIN_TOKENS_MAX: usize = 1_000;
/// How long after its expiry a join token is kept, so that a node whose answer was lost is known.
pub const JOIN_TOKEN_KEPT: Span = Span::seconds(3600);
/// Restarts of an instance on one node before another node is tried: with the hearts' back-off (at
/// once, then 1 s doubling) about a quarter of a minute of crashes.
pub const RESTARTS_ON_ONE_NODE: u32 = 5;
/// Applications of a cell; each costs a few kilobytes of every snapshot per version.
pub const APPLICATIONS_MAX: usize = 10_000;
/// Versions kept per application: enough to go back weeks, few enough for a short list.
pub const VERSIONS_PER_APPLICATION_MAX: usize = 20;
/// Stopped versions whose directories stay on nodes: the ones that a person would start again.
pub const REGISTERED_VERSIONS_KEPT: usize = 3;
/// Instance types of one version: far above any real manifest, small enough to plan in one go.
pub const INSTANCE_TYPES_MAX: usize = 100;
/// Instances of one type; a typing error must not fill a cluster.
pub const INSTANCES_PER_TYPE_MAX: u32 = 1_000;
/// Instances of a cell, the number that it is sized for.
pub const INSTANCES_MAX: usize = 100_000;
/// Hostnames in one version's manifest.
pub const HOSTNAMES_PER_VERSION_MAX: usize = 200;
/// Packages known; the collector removes what no version needs.
pub const PACKAGES_MAX: usize = 100_000;
/// How long a package that no version needs is kept: from an upload to its deployment, even when
/// the pacemakers are away meanwhile, and long enough to deploy the same again without an upload.
pub const PACKAGE_GRACE: Span = Span::seconds(60 * 60);
/// Finished jobs kept per application: what a person scrolls through.
pub const JOBS_PER_APPLICATION_MAX: usize = 50;
/// Finished jobs kept in all.
pub const JOBS_MAX: usize = 10_000;
/// Idempotency keys remembered: a client that repeats a request does so within minutes.
pub const ONCE_KEYS_MAX: usize = 10_000;
/// The longest idempotency key; a UUID has 36 characters.
pub const ONCE_KEY_MAX_CHARACTERS: usize = 128;
/// The longest text that a person or a node gives for a name.
pub const NAME_MAX_CHARACTERS: usize = 128;
/// Tags of a workspace or node in JSON: they are in every instance's environment.
pub const TAGS_MAX_BYTES: usize = 16 * 1024;
/// What a node says of itself in JSON: runtimes, tags and addresses of one machine.
pub const NODE_DESCRIPTION_MAX_BYTES: usize = 64 * 1024;
/// The longest failure message that is kept; one sentence.
pub const MESSAGE_MAX_BYTES: usize = 1024;
/// The longest that all prepare commands of a build may run together.
pub const BUILD_TIMEOUT: Span = Span::seconds(30 * 60);
/// Actions in one tick: one log entry stays far below a megabyte, and a large cluster's
/// first observations are spread over several.
pub const ACTIONS_PER_TICK_MAX: usize = 256;
