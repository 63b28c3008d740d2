//! The manifest: `manifest.yml` as a user writes it, checked into the parts of a version.
//!
//! [`parse`] works in stages, each in a file of its own:
//!
//! ```text
//! text ── tree ──> values with places ── check, cross ──> faults, notices ── read ──> VersionSpec
//!                                              │
//!                            format (the tables) ── schema ──> JSON Schema
//! ```
//!
//! Every fault of a file is reported at once, in the order of their places. Work and memory are
//! bounded before anything is looked at. It reads no file and asks no clock.

mod check;
mod cross;
mod fault;
mod format;
mod limits;
mod path;
mod quantity;
mod read;
mod render;
mod rule;
mod scalar;
mod schema;
mod shape;
mod suggest;
mod tree;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::application::VersionSpec;

pub use render::render_faults;
pub use schema::schema;

use fault::Faults;
use path::Path;
use tree::Place;

/// The largest manifest that is read, bytes. Every pacemaker keeps the text of every version; the
/// largest that people have written is a tenth of it.
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
/// All faults at once, in the order of their places; never an empty list. A text that is not YAML
/// has one fault.
pub fn parse(text: &str) -> Result<Checked, Vec<Fault>> {
    let mut faults = Faults::default();
    if text.len() > MANIFEST_MAX_BYTES {
        let message = format!(
            "the manifest has {} bytes; at most {MANIFEST_MAX_BYTES} are allowed",
            text.len()
        );
        faults.push(Place::START, &Path::root(), message);
        return refused(faults);
    }
    let Some(root) = tree::build(text, &mut faults) else {
        return refused(faults);
    };
    check::check(&root, &format::ROOT, &mut faults);
    cross::check(&root, &mut faults);
    let notices = faults.into_result()?;
    match read::read(&root) {
        Ok(spec) => Ok(Checked { spec, notices }),
        Err(misread) => {
            let mut faults = Faults::default();
            faults.push(
                misread.place,
                &Path::root(),
                format!("expected {}", misread.expected),
            );
            refused(faults)
        }
    }
}

fn refused(faults: Faults) -> Result<Checked, Vec<Fault>> {
    match faults.into_result() {
        Err(faults) => Err(faults),
        Ok(_) => Err(vec![Fault {
            line: 1,
            column: 1,
            path: String::new(),
            message: "the document cannot be read".to_owned(),
        }]),
    }
}
