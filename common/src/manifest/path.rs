//! Dotted paths such as `instances[0].crons[1].runspec`.

use std::fmt;

use super::fault::excerpt;

/// Where in the document something is, for people.
#[derive(Clone, Debug)]
pub(super) struct Path(String);

impl Path {
    /// The document itself: the empty path.
    pub(super) const fn root() -> Self {
        Self(String::new())
    }

    /// The value under `key`; a key that would not read well is quoted: `env["a b"]`.
    pub(super) fn key(&self, key: &str) -> Self {
        let reads_well = !key.is_empty()
            && key.len() <= super::limits::LABEL_MAX_BYTES
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if !reads_well {
            return Self(format!("{}[{}]", self.0, excerpt(key)));
        }
        if self.0.is_empty() {
            return Self(key.to_owned());
        }
        Self(format!("{}.{key}", self.0))
    }

    /// The item at `index`, from 0.
    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
