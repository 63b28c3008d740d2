//! Checks the parts whose keys are the user's own: variables, tags, and parameters.

use super::super::fault::{excerpt, found};
use super::super::limits::{LABEL_MAX_BYTES, TEXT_MAX_BYTES, VARIABLES_MAX};
use super::super::rule::VARIABLE;
use super::super::tree::{Content, Scalar};
use super::{Checker, Spot};

impl Checker<'_> {
    pub(super) fn variables(&mut self, spot: &Spot<'_>) {
        let Content::Map(entries) = &spot.node.content else {
            return self.unexpected(spot, "a mapping of variables to texts");
        };
        if entries.len() > VARIABLES_MAX {
            let message = format!(
                "{} variables; at most {VARIABLES_MAX} are allowed",
                entries.len()
            );
            self.faults.push(spot.node.place, &spot.path, message);
            return;
        }
        for entry in entries {
            let inner = spot.entry(entry);
            if let Err(reason) = variable_name(&entry.key) {
                let message = format!("the name {} {reason}", excerpt(&entry.key));
                self.faults.push(entry.place, &inner.path, message);
            }
            if inner.node.is_null() {
                self.unexpected(&inner, "a text, or \"\" for an empty one");
            } else {
                self.text(&inner, &VARIABLE);
            }
        }
    }

    pub(super) fn free_map(&mut self, spot: &Spot<'_>) {
        if !matches!(spot.node.content, Content::Map(_)) {
            return self.unexpected(spot, "a mapping");
        }
        self.free(spot);
    }

    fn free(&mut self, spot: &Spot<'_>) {
        match &spot.node.content {
            Content::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.free(&Spot {
                        node: item,
                        path: spot.path.index(index),
                        key: item.place,
                    });
                }
            }
            Content::Map(entries) => {
                for entry in entries {
                    let inner = spot.entry(entry);
                    if entry.key.len() > LABEL_MAX_BYTES {
                        let message = format!(
                            "a key of {} bytes; at most {LABEL_MAX_BYTES} are allowed",
                            entry.key.len()
                        );
                        self.faults.push(entry.place, &inner.path, message);
                    }
                    self.is_clean(&entry.key, entry.place, &inner.path);
                    self.free(&inner);
                }
            }
            Content::Scalar(scalar) => self.free_scalar(spot, scalar),
        }
    }

    fn free_scalar(&mut self, spot: &Spot<'_>, scalar: &Scalar) {
        if let Err(reason) = scalar.json() {
            let message = format!("found {}; {reason}", found(spot.node));
            self.faults.push(spot.node.place, &spot.path, message);
        }
        if scalar.text.len() > TEXT_MAX_BYTES {
            let message = format!(
                "a text of {} bytes; at most {TEXT_MAX_BYTES} are allowed",
                scalar.text.len()
            );
            self.faults.push(spot.node.place, &spot.path, message);
        }
        self.is_clean(&scalar.text, spot.node.place, &spot.path);
    }
}

fn variable_name(name: &str) -> Result<(), &'static str> {
    let is_name = name.len() <= LABEL_MAX_BYTES
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if name.is_empty() || !is_name {
        return Err(
            "is not allowed; a variable's name is letters, digits, and underscores, and does not begin with a digit",
        );
    }
    if name.starts_with("PM_") || name == "PORT" {
        return Err(
            "is set by Paasmaker and cannot be chosen; these are PORT and all that begin with PM_",
        );
    }
    Ok(())
}
