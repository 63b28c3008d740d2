//! The tags of YAML itself, such as `!!str`. Tags of programs mean nothing in a manifest.

use granit_parser::{ScalarStyle, Tag};

use super::super::fault::excerpt;

/// What a tag says about a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CoreTag {
    /// There is none: how a scalar is written decides.
    None,
    /// It is text, however it is written.
    Text,
    /// It is a number, a boolean, or null, however it is written; or it is a collection.
    Other,
}

impl CoreTag {
    /// Reads a tag.
    ///
    /// # Errors
    /// Says that it is none of YAML's own.
    pub(super) fn read(tag: Option<&Tag>) -> Result<Self, String> {
        let Some(tag) = tag else {
            return Ok(Self::None);
        };
        match tag.core_suffix() {
            Some("str") => Ok(Self::Text),
            Some(_) => Ok(Self::Other),
            // A lone `!` means: not to be resolved, that is text.
            None if tag.original() == "!" => Ok(Self::Text),
            None => Err(format!(
                "the tag {} means nothing here; only YAML's own tags, such as `!!str`, are allowed",
                excerpt(&tag.original())
            )),
        }
    }

    /// True when the text of a scalar is looked at to tell what it is.
    pub(super) fn is_plain(self, style: ScalarStyle) -> bool {
        match self {
            Self::None => matches!(style, ScalarStyle::Plain),
            Self::Text => false,
            Self::Other => true,
        }
    }
}
