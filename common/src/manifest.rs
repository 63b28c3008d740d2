//! Placeholder of the manifest's parser; the public types below are final.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::application::VersionSpec;

/// The largest manifest that is read, bytes.
pub const MANIFEST_MAX_BYTES: usize = 256 * 1024;

/// A manifest that passed every check.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// What it says.
    pub spec: VersionSpec,
    /// What it says that has no effect yet.
    pub notices: Vec<Notice>,
}

/// One thing that is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// Dotted, such as `instances[0].crons[1].runspec`; empty for the document.
    pub path: String,
    /// What was found and what is allowed, and what was probably meant.
    pub message: String,
}

/// Something that a user should know though nothing is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Notice {
    /// From 1.
    pub line: u32,
    /// Dotted.
    pub path: String,
    /// One sentence.
    pub message: String,
}

/// Reads and checks a manifest.
///
/// # Errors
/// All faults at once, in the order of their places; never an empty list.
pub fn parse(_text: &str) -> Result<Checked, Vec<Fault>> {
    Err(Vec::new())
}
