//! The document as a tree whose every value and key knows its place.
//!
//! Owns the first stage of reading: YAML events become [`Node`]s within the limits on depth, size,
//! and aliases. It knows YAML and nothing of the format of a manifest. What an alias names is
//! shared, not copied, and counted as often as it is used.

mod build;
mod cost;
mod tag;

use std::rc::Rc;

pub(super) use build::build;

use cost::Cost;

/// Where something begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// From 1.
    pub(super) line: u32,
    /// From 1, in characters.
    pub(super) column: u32,
}

impl Place {
    /// The first character of the document.
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

/// A value of the document.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) content: Content,
    cost: Cost,
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Content {
    Scalar(Scalar),
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
}

/// A scalar as it was written: what it means depends on what is asked for.
#[derive(Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// False when it was quoted, a block, or tagged as text: then it is never null or a number
    /// where any value is allowed.
    pub(super) plain: bool,
}

/// A key of a mapping with its value; keys of one mapping are unique.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Rc<Node>,
}

impl Node {
    /// The value under `key`, when this is a mapping that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &*entry.value)
    }

    /// The entry of `key`, when this is a mapping that has it.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The entries of a mapping; nothing for anything else.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Map(entries) => entries,
            Content::Scalar(_) | Content::List(_) => &[],
        }
    }

    /// The items of a list; nothing for anything else.
    pub(super) fn items(&self) -> &[Rc<Self>] {
        match &self.content {
            Content::List(items) => items,
            Content::Scalar(_) | Content::Map(_) => &[],
        }
    }

    /// The scalar, when this is one.
    pub(super) fn scalar(&self) -> Option<&Scalar> {
        match &self.content {
            Content::Scalar(scalar) => Some(scalar),
            Content::List(_) | Content::Map(_) => None,
        }
    }

    /// The text of a scalar that is not null.
    pub(super) fn text(&self) -> Option<&str> {
        self.scalar()
            .filter(|scalar| !scalar.is_null())
            .map(|scalar| scalar.text.as_str())
    }

    /// True for a scalar that stands for nothing.
    pub(super) fn is_null(&self) -> bool {
        self.scalar().is_some_and(Scalar::is_null)
    }
}
