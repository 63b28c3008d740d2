//! The words in which the format of a manifest is written down.
//!
//! The tables in [`format`](super::format) are made of these. The checker and the JSON Schema both
//! read the tables, so that neither can know a key which the other does not.

use super::rule::Rule;

/// A mapping whose keys are known.
#[derive(Debug)]
pub(super) struct Table {
    /// In the order in which messages and the schema list them.
    pub(super) keys: &'static [Key],
}

impl Table {
    /// What is known about `name`.
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// Every key.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.keys.iter().map(|key| key.name)
    }
}

/// A key of a [`Table`].
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// What an editor shows.
    pub(super) summary: &'static str,
    pub(super) shape: Shape,
    pub(super) required: bool,
    /// Why it has no effect in this release, for those that have none.
    pub(super) without_effect: Option<&'static str>,
}

impl Key {
    /// A key that must be there.
    pub(super) const fn required(name: &'static str, summary: &'static str, shape: Shape) -> Self {
        Self {
            name,
            summary,
            shape,
            required: true,
            without_effect: None,
        }
    }

    /// A key that may be there.
    pub(super) const fn optional(name: &'static str, summary: &'static str, shape: Shape) -> Self {
        Self {
            required: false,
            ..Self::required(name, summary, shape)
        }
    }

    /// This key, with the reason why it has no effect in this release.
    pub(super) const fn without_effect(mut self, reason: &'static str) -> Self {
        self.without_effect = Some(reason);
        self
    }
}

/// What a value may be.
#[derive(Debug)]
pub(super) enum Shape {
    /// A mapping with known keys.
    Map(&'static Table),
    /// A list.
    List(&'static List),
    /// A mapping that names a plugin, whose parameters depend on it.
    Plugin(&'static Plugin),
    /// The parameters of a plugin: checked where the plugin is known.
    Parameters,
    /// Text that keeps a rule; a number is read as the text that was written.
    Text(&'static Rule),
    /// Text that keeps a rule, or nothing.
    OptionalText(&'static Rule),
    /// A whole number.
    Whole { least: u64, most: u64 },
    /// True or false.
    Boolean,
    /// One of a few words.
    Word(&'static [&'static str]),
    /// A mapping of anything.
    Free,
    /// A mapping of variables to texts.
    Variables,
}

/// A list and its bounds.
#[derive(Debug)]
pub(super) struct List {
    pub(super) of: Shape,
    pub(super) least: usize,
    pub(super) most: usize,
}

/// A place where a plugin is named.
#[derive(Debug)]
pub(super) struct Plugin {
    /// The keys beside the parameters, which are [`Shape::Parameters`].
    pub(super) table: &'static Table,
    /// Those whose parameters are checked.
    pub(super) known: &'static [Known],
    /// What becomes of others.
    pub(super) others: Others,
}

impl Plugin {
    /// The plugin of that name.
    pub(super) fn find(&self, name: &str) -> Option<&'static Known> {
        self.known.iter().find(|known| known.name == name)
    }
}

/// A plugin of this release.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) name: &'static str,
    pub(super) parameters: Parameters,
}

/// What a plugin takes.
#[derive(Debug)]
pub(super) enum Parameters {
    /// These and no others.
    Table(&'static Table),
    /// Anything.
    Free,
}

/// What becomes of a plugin that is not in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// It is a fault.
    Refused,
    /// It is kept: whether a node offers it is known at deploy only.
    Kept,
    /// It is kept, and `plugin: null` names none at all.
    KeptOrNone,
}
