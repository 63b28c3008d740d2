//! Reading the manifest of a directory: the same checks that the cluster makes, before anything is sent.

use std::fs;
use std::path::{Path, PathBuf};

use common::manifest::{self, Checked, Fault, Notice};

use crate::error::{CommandError, code};

/// The manifest of a directory.
pub(crate) const MANIFEST_FILE: &str = "manifest.yml";

/// A manifest that passed every check, with where it came from.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// The file.
    pub(crate) path: PathBuf,
    /// Its text.
    pub(crate) text: String,
    /// What it says.
    pub(crate) checked: Checked,
}

/// Reads and checks the manifest at `path`, which is a file or a directory with a `manifest.yml`.
pub(crate) fn read(doing: &str, path: &Path) -> Result<Manifest, CommandError> {
    let metadata = fs::metadata(path)
        .map_err(|error| CommandError::file(format!("{doing} ({})", path.display()), &error))?;
    let path = if metadata.is_dir() {
        path.join(MANIFEST_FILE)
    } else {
        path.to_owned()
    };
    let length = match fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(error) => {
            return Err(CommandError::file(format!("{doing} ({})", path.display()), &error).next(
                format!("a directory is deployed by its {MANIFEST_FILE}; `pm validate --schema` prints what it may say"),
            ));
        }
    };
    if length > manifest::MANIFEST_MAX_BYTES as u64 {
        return Err(CommandError::new(
            code::MANIFEST_INVALID,
            doing,
            format!(
                "{} has {length} bytes; a manifest has at most {}",
                path.display(),
                manifest::MANIFEST_MAX_BYTES
            ),
        ));
    }
    let bytes = fs::read(&path)
        .map_err(|error| CommandError::file(format!("{doing} ({})", path.display()), &error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        CommandError::new(
            code::MANIFEST_INVALID,
            doing,
            format!("{} is not UTF-8 text: {error}", path.display()),
        )
    })?;
    match manifest::parse(&text) {
        Ok(checked) => Ok(Manifest {
            path,
            text,
            checked,
        }),
        Err(faults) => Err(refused(doing, &path, &text, faults)),
    }
}

fn refused(doing: &str, path: &Path, text: &str, faults: Vec<Fault>) -> CommandError {
    let count = faults.len();
    let mut error = CommandError::new(
        code::MANIFEST_INVALID,
        doing,
        format!(
            "{} has {count} {}",
            path.display(),
            if count == 1 { "fault" } else { "faults" }
        ),
    );
    error.rendered = manifest::render_faults(&path.display().to_string(), text, &faults);
    error.faults = faults;
    error
}

/// A notice as a person reads it.
pub(crate) fn notice_line(path: &Path, notice: &Notice) -> String {
    format!(
        "notice: {}:{}: {}: {}",
        path.display(),
        notice.line,
        notice.path,
        notice.message
    )
}
