//! Walks the tree along the tables of the format and collects what is wrong.
//!
//! Owns everything that can be said of one value by itself; what several values must be together
//! is in [`cross`](super::cross). The tree's depth is bounded, so it may recurse.

mod free;

use super::fault::{Faults, excerpt, found};
use super::path::Path;
use super::rule::Rule;
use super::shape::{Key, List, Others, Parameters, Plugin, Shape, Table};
use super::suggest::nearest;
use super::tree::{Content, Entry, Node, Place, Scalar};

/// A value with its path, and the place to name when something is missing in it.
struct Spot<'a> {
    node: &'a Node,
    path: Path,
    /// Where its key stands; a mapping itself begins at its first key.
    key: Place,
}

impl<'a> Spot<'a> {
    fn entry(&self, entry: &'a Entry) -> Self {
        Self {
            node: &entry.value,
            path: self.path.key(&entry.key),
            key: entry.place,
        }
    }
}

/// Checks the whole document.
pub(super) fn check(root: &Node, table: &'static Table, faults: &mut Faults) {
    let spot = Spot {
        node: root,
        path: Path::root(),
        key: Place::START,
    };
    Checker { faults }.map(&spot, table);
}

struct Checker<'faults> {
    faults: &'faults mut Faults,
}

impl Checker<'_> {
    fn shape(&mut self, spot: &Spot<'_>, shape: &'static Shape) {
        if self.faults.is_full() {
            return;
        }
        match shape {
            Shape::Map(table) => self.map(spot, table),
            Shape::List(list) => self.list(spot, list),
            Shape::Plugin(plugin) => self.plugin(spot, plugin),
            Shape::Free | Shape::Parameters => self.free_map(spot),
            Shape::Variables => self.variables(spot),
            Shape::Text(rule) => self.text(spot, rule),
            Shape::OptionalText(_) if spot.node.is_null() => {}
            Shape::OptionalText(rule) => self.text(spot, rule),
            Shape::Whole { least, most } => self.whole(spot, *least, *most),
            Shape::Boolean => {
                if spot.node.scalar().and_then(Scalar::boolean).is_none() {
                    self.unexpected(spot, "true or false");
                }
            }
            Shape::Word(words) => self.word(spot, words),
        }
    }

    fn unexpected(&mut self, spot: &Spot<'_>, expected: &str) {
        let message = format!("found {}; expected {expected}", found(spot.node));
        self.faults.push(spot.node.place, &spot.path, message);
    }

    fn map(&mut self, spot: &Spot<'_>, table: &'static Table) {
        if !matches!(spot.node.content, Content::Map(_)) {
            return self.unexpected(spot, &format!("a mapping with {}", list_keys(table)));
        }
        let mut meant = Vec::new();
        for entry in spot.node.entries() {
            match table.key(&entry.key) {
                Some(key) => self.known_key(&spot.entry(entry), key),
                None => meant.extend(self.unknown_key(&spot.entry(entry), &entry.key, table)),
            }
        }
        self.require(spot, table, &meant);
    }

    fn known_key(&mut self, spot: &Spot<'_>, key: &'static Key) {
        if let Some(reason) = key.without_effect
            && says_something(spot.node)
        {
            self.faults.notice(spot.key, &spot.path, reason);
        }
        self.shape(spot, &key.shape);
    }

    /// Returns the key that was probably meant.
    fn unknown_key(&mut self, spot: &Spot<'_>, found: &str, table: &Table) -> Option<&'static str> {
        if self.faults.is_full() {
            return None;
        }
        let meant = nearest(found, table.names());
        let message = format!(
            "unknown key {}{} (allowed here: {})",
            excerpt(found),
            did_you_mean(meant),
            list_keys(table)
        );
        self.faults.push(spot.key, &spot.path, message);
        meant
    }

    /// A key that was misspelt is one fault, not two.
    fn require(&mut self, spot: &Spot<'_>, table: &'static Table, meant: &[&str]) {
        for key in table.keys.iter().filter(|key| key.required) {
            if spot.node.entry(key.name).is_none() && !meant.contains(&key.name) {
                let message = format!("`{}` is missing, and it is required", key.name);
                self.faults
                    .push(spot.key, &spot.path.key(key.name), message);
            }
        }
    }

    fn list(&mut self, spot: &Spot<'_>, list: &'static List) {
        let Content::List(items) = &spot.node.content else {
            return self.unexpected(spot, "a list");
        };
        if items.len() < list.least {
            self.unexpected(spot, "a list with at least one entry");
        }
        if items.len() > list.most {
            let message = format!(
                "a list of {} entries; at most {} are allowed",
                items.len(),
                list.most
            );
            self.faults.push(spot.node.place, &spot.path, message);
            return;
        }
        for (index, item) in items.iter().enumerate() {
            let item = Spot {
                node: item,
                path: spot.path.index(index),
                key: item.place,
            };
            self.shape(&item, &list.of);
        }
    }

    fn plugin(&mut self, spot: &Spot<'_>, plugin: &'static Plugin) {
        let table = plugin.table;
        let Content::Map(entries) = &spot.node.content else {
            return self.unexpected(spot, &format!("a mapping with {}", list_keys(table)));
        };
        let name = spot.node.get("plugin");
        let is_none = plugin.others == Others::KeptOrNone && name.is_some_and(Node::is_null);
        let known = name.and_then(Node::text).and_then(|name| plugin.find(name));
        let mut meant = Vec::new();
        for entry in entries {
            let inner = spot.entry(entry);
            match (table.key(&entry.key), known) {
                (None, _) => meant.extend(self.unknown_key(&inner, &entry.key, table)),
                (Some(key), _) if is_none && key.name == "plugin" => {}
                (Some(key), Some(known)) if matches!(key.shape, Shape::Parameters) => {
                    self.parameters(&inner, &known.parameters);
                }
                (Some(key), _) => self.known_key(&inner, key),
            }
        }
        if is_none {
            return;
        }
        self.require(spot, table, &meant);
        match known {
            Some(_) if meant.contains(&"parameters") => {}
            Some(known) => self.require_parameters(spot, &known.parameters),
            None => self.unknown_plugin(spot, plugin),
        }
    }

    fn parameters(&mut self, spot: &Spot<'_>, parameters: &Parameters) {
        match parameters {
            Parameters::Table(table) => self.map(spot, table),
            Parameters::Free => self.free_map(spot),
        }
    }

    /// Without `parameters`, what the plugin needs is missing in them.
    fn require_parameters(&mut self, spot: &Spot<'_>, parameters: &Parameters) {
        let Parameters::Table(table) = parameters else {
            return;
        };
        if spot.node.entry("parameters").is_some() {
            return;
        }
        let path = spot.path.key("parameters");
        for key in table.keys.iter().filter(|key| key.required) {
            let message = format!(
                "`parameters` is missing, and the plugin needs `{}` in it",
                key.name
            );
            self.faults.push(spot.key, &path.key(key.name), message);
        }
    }

    fn unknown_plugin(&mut self, spot: &Spot<'_>, plugin: &Plugin) {
        let Some(entry) = spot.node.entry("plugin") else {
            return;
        };
        let Some(name) = entry.value.text() else {
            return;
        };
        // A name that breaks the rule of names was refused already.
        if plugin.others != Others::Refused || (super::rule::PLUGIN_NAME.check)(name).is_err() {
            return;
        }
        let offered = plugin.known.iter().map(|known| known.name);
        let meant = did_you_mean(nearest(name, offered.clone()));
        let message = format!(
            "no plugin {} is offered here{meant} (offered: {})",
            excerpt(name),
            offered.collect::<Vec<_>>().join(", ")
        );
        self.faults
            .push(entry.value.place, &spot.path.key("plugin"), message);
    }

    fn text(&mut self, spot: &Spot<'_>, rule: &Rule) {
        let Some(text) = spot.node.text() else {
            return self.unexpected(spot, rule.expected);
        };
        if !self.is_clean(text, spot.node.place, &spot.path) {
            return;
        }
        if let Err(reason) = (rule.check)(text) {
            let expected = rule.expected;
            let explained = match reason.as_str() {
                "" => format!("; expected {expected}"),
                question if question.ends_with('?') => {
                    format!("; {question} (expected {expected})")
                }
                reason => format!(": {reason}; expected {expected}"),
            };
            let message = format!("found {}{explained}", found(spot.node));
            self.faults.push(spot.node.place, &spot.path, message);
        }
    }

    fn whole(&mut self, spot: &Spot<'_>, least: u64, most: u64) {
        let number = spot.node.text().and_then(whole_number);
        if number.is_none_or(|number| !(least..=most).contains(&number)) {
            let expected = if least == most {
                format!("{least}")
            } else {
                format!("a whole number from {least} to {most}")
            };
            self.unexpected(spot, &expected);
        }
    }

    fn word(&mut self, spot: &Spot<'_>, words: &[&'static str]) {
        let text = spot.node.text();
        if text.is_some_and(|text| words.contains(&text)) {
            return;
        }
        let meant = text.and_then(|text| nearest(text, words.iter().copied()));
        let meant = did_you_mean(meant);
        let message = format!(
            "found {}{meant} (allowed here: {})",
            found(spot.node),
            words.join(", ")
        );
        self.faults.push(spot.node.place, &spot.path, message);
    }

    /// Refuses control characters: none survives in an argument, a variable, and a log alike.
    fn is_clean(&mut self, text: &str, place: Place, path: &Path) -> bool {
        let control =
            |character: &char| character.is_control() && !matches!(character, '\n' | '\t');
        let Some(character) = text.chars().find(control) else {
            return true;
        };
        let message = format!(
            "the text has the control character U+{:04X}; only line breaks and tabs are allowed",
            u32::from(character)
        );
        self.faults.push(place, path, message);
        false
    }
}

/// False for what has no effect in any release: nothing, zero, and what is empty.
fn says_something(node: &Node) -> bool {
    match &node.content {
        Content::List(items) => !items.is_empty(),
        Content::Map(entries) => !entries.is_empty(),
        Content::Scalar(scalar) => !scalar.is_null() && scalar.text != "0",
    }
}

fn did_you_mean(word: Option<&str>) -> String {
    word.map(|word| format!("; did you mean `{word}`?"))
        .unwrap_or_default()
}

fn list_keys(table: &Table) -> String {
    table.names().collect::<Vec<_>>().join(", ")
}

/// Decimal digits without a leading zero, which older YAML read as octal.
pub(super) fn whole_number(text: &str) -> Option<u64> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    let is_decimal = digits.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = digits == "0" || !digits.starts_with('0');
    (is_decimal && is_plain)
        .then(|| digits.parse().ok())
        .flatten()
}
