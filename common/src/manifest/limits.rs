//! The limits of a manifest, each with its reason. The size in bytes is
//! [`MANIFEST_MAX_BYTES`](super::MANIFEST_MAX_BYTES).
//!
//! They bound the work and the memory that a stranger's text can cause, and the size of what the
//! replicated state keeps of it. None is near what a person writes.

/// How deep mappings and lists may lie in each other, aliases included. The format itself needs 8;
/// the rest is for the free-form parts. Everything that walks the tree may recurse because of it.
pub(super) const DEPTH_MAX: usize = 64;

/// Values in the document once every alias is expanded: an alias costs as much as what it names.
/// The largest manifest within the other limits that was written by a person had some hundreds.
pub(super) const NODES_MAX: usize = 20_000;

/// Bytes of text in the document once every alias is expanded: twice the largest file, so that
/// sharing a part of a manifest costs nothing and a bomb is refused.
pub(super) const EXPANDED_MAX_BYTES: usize = 512 * 1024;

/// Faults that are reported; a file with more is of another format, and nobody reads on.
pub(super) const FAULTS_MAX: usize = 200;

/// Bytes of one text: below Linux's 128 KiB limit of one argument or variable.
pub(super) const TEXT_MAX_BYTES: usize = 64 * 1024;

/// Bytes of a path that is requested: what common servers accept of a request line.
pub(super) const URI_MAX_BYTES: usize = 4096;

/// Bytes of a short text such as a version, a zone, a key, or a user name.
pub(super) const LABEL_MAX_BYTES: usize = 256;

/// Instances that one type may ask for: a whole cell has 100,000.
pub(super) const QUANTITY_MAX: u64 = 1000;

/// Instance types of one manifest.
pub(super) const INSTANCE_TYPES_MAX: usize = 100;

/// Hostnames of one instance type: each is a claim in the replicated state and a route.
pub(super) const HOSTNAMES_MAX: usize = 100;

/// Web crons of one instance type.
pub(super) const CRONS_MAX: usize = 100;

/// Services of one manifest.
pub(super) const SERVICES_MAX: usize = 100;

/// Lines of one script.
pub(super) const COMMANDS_MAX: usize = 1000;

/// Scripts in a list of prepare or startup plugins.
pub(super) const SCRIPTS_MAX: usize = 100;

/// Variables of one `env`.
pub(super) const VARIABLES_MAX: usize = 500;

/// Characters of what was found that a message repeats.
pub(super) const EXCERPT_CHARACTERS: usize = 60;
