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
/// Web crons of one version, over all its instance types: ten times what any real one has.
pub const CRONS_PER_VERSION_MAX: usize = 1_000;
/// Web crons of one application, those included that only older versions have: their history and
/// whether they are suspended is kept while such a version is.
pub const CRONS_PER_APPLICATION_MAX: usize = 2_000;
/// Web crons of a cell: as many as may be due in the same second.
pub const CRONS_MAX: usize = 100_000;
/// Runs kept per cron: what a person scrolls through; of an hourly one, two days.
pub const CRON_RUNS_KEPT: usize = 50;
/// Runs kept in all, some 300 bytes each; where there are more crons than these give 50 each, each
/// keeps its share.
pub const CRON_RUNS_MAX: usize = 100_000;
/// Runs that wait, back off or are under way, in all: half of what is kept, so that there is always
/// one that has ended to make room for a new one.
pub const CRON_LIVE_MAX: u64 = 50_000;
/// The same of one cron that may overlap itself: as many as an application may have under way.
pub const CRON_LIVE_PER_CRON: usize = 64;
/// Requests under way for one application: no cron may take all of its instances' time, nor all of
/// a pacemaker's sockets from others.
pub const CRON_RUNNING_PER_APPLICATION: u64 = 64;
/// Requests under way in all: a fifth of the files that a process may commonly open.
pub const CRON_RUNNING_MAX: u64 = 4_096;
/// Decisions in one command: an entry of the log stays far below a megabyte, and what is due in the
/// same moment is committed in several, between which others have their turn.
pub const CRON_DECISIONS_MAX: usize = 512;
/// Reports in one command, for the same reason.
pub const CRON_REPORTS_MAX: usize = 512;
/// How late a slot is still run as if it were on time: an election and a pause together, and no
/// slot of the same cron lies so near.
pub const CRON_GRACE: Span = Span::seconds(30);
/// How long after its timeout an attempt that nobody has reported counts as lost: the report of the
/// timeout itself has been committed by then.
pub const CRON_LOST_AFTER: Span = Span::seconds(5);
/// How far wall clocks of pacemakers may be apart, or be corrected, before what one of them stamped
/// is not believed by another: far more than time synchronisation leaves, less than two slots.
pub const CRON_CLOCK_SLACK: Span = Span::seconds(60);
/// Slots that are counted one by one when they were missed; a count that says so many says "at
/// least". A per-minute cron reaches it after 16 hours.
pub const CRON_MISSED_COUNTED: u64 = 1_000;
/// Spans of fired slots that are kept of a cron: one, and two more for each time that the wall clock
/// was set forward and back again.
pub const CRON_FIRED_SPANS: usize = 8;
/// The first retry's delay; it doubles with each.
pub const CRON_BACKOFF_FIRST: Span = Span::seconds(1);
/// The longest delay before a retry.
pub const CRON_BACKOFF_MAX: Span = Span::seconds(60);
/// The hexadecimal digits of an application's key for signatures: 32 bytes.
pub const CRON_KEY_DIGITS: usize = 64;
