//! Reads web crons, and names those that have no name.

use std::collections::BTreeSet;

use crate::application::{CronMethod, CronSpec, MissedPolicy, Overlap};
use crate::cron::{Schedule, Zone};
use crate::id::{CRON_NAME_MAX_BYTES, CronName};
use crate::secret::Secret;

use super::super::format::default;
use super::super::tree::Node;
use super::{Misread, Read, items, name, need, span, text, whole};

/// Bytes of a uri that a name is made of; the rest of a name is for what tells two of them apart.
const NAMING_MAX_BYTES: usize = CRON_NAME_MAX_BYTES - 8;

/// In the order of the manifest, their names unique.
pub(super) fn crons(instance: &Node) -> Read<Vec<CronSpec>> {
    // A name that was chosen is not given to another cron.
    let mut taken: BTreeSet<String> = items(instance, "crons")
        .filter_map(|cron| cron.get("name")?.text().map(str::to_owned))
        .collect();
    items(instance, "crons")
        .map(|node| cron(node, &mut taken))
        .collect()
}

fn cron(node: &Node, taken: &mut BTreeSet<String>) -> Read<CronSpec> {
    let uri = need(node, "uri")?;
    let name = match node.get("name") {
        Some(chosen) => name(chosen, CronName::parse)?,
        None => name_after(uri, taken)?,
    };
    Ok(CronSpec {
        name,
        runspec: parsed(need(node, "runspec")?, "an expression", |text| {
            Schedule::parse(text).ok()
        })?,
        uri: text(uri)?,
        username: optional_text(node, "username")?,
        password: optional_text(node, "password")?.map(Secret::new),
        method: word(node, "method", CronMethod::Get, method)?,
        timezone: match node.get("timezone") {
            None => Zone::utc(),
            Some(zone) => parsed(zone, "a time zone", |text| Zone::parse(text).ok())?,
        },
        timeout: span(node, "timeout", default::CRON_TIMEOUT)?,
        overlap: word(node, "overlap", Overlap::Forbid, overlap)?,
        missed: word(node, "missed", MissedPolicy::Skip, missed)?,
        retries: whole(node, "retries", default::CRON_RETRIES)?,
    })
}

/// The uri, with a number when another cron has that name: `/clean`, `/clean#2`. No uri has a `#`.
fn name_after(uri: &Node, taken: &mut BTreeSet<String>) -> Read<CronName> {
    let text = text(uri)?;
    let stem: String = text.chars().take(NAMING_MAX_BYTES).collect();
    let candidates =
        std::iter::once(stem.clone()).chain((2_u32..).map(|number| format!("{stem}#{number}")));
    candidates
        .into_iter()
        .find(|candidate| taken.insert(candidate.clone()))
        .and_then(|name| CronName::parse(&name).ok())
        .ok_or(Misread {
            place: uri.place,
            expected: "a uri that a cron can be named after",
        })
}

fn method(word: &str) -> Option<CronMethod> {
    match word {
        "GET" => Some(CronMethod::Get),
        "HEAD" => Some(CronMethod::Head),
        "POST" => Some(CronMethod::Post),
        "PUT" => Some(CronMethod::Put),
        "PATCH" => Some(CronMethod::Patch),
        "DELETE" => Some(CronMethod::Delete),
        _ => None,
    }
}

fn overlap(word: &str) -> Option<Overlap> {
    match word {
        "allow" => Some(Overlap::Allow),
        "forbid" => Some(Overlap::Forbid),
        "replace" => Some(Overlap::Replace),
        _ => None,
    }
}

fn missed(word: &str) -> Option<MissedPolicy> {
    match word {
        "skip" => Some(MissedPolicy::Skip),
        "once" => Some(MissedPolicy::Once),
        _ => None,
    }
}

fn word<T>(node: &Node, key: &str, default: T, read: fn(&str) -> Option<T>) -> Read<T> {
    node.get(key).map_or(Ok(default), |value| {
        parsed(value, "one of the words that are allowed", read)
    })
}

fn optional_text(node: &Node, key: &str) -> Read<Option<String>> {
    node.get(key)
        .filter(|value| !value.is_null())
        .map(text)
        .transpose()
}

fn parsed<T>(node: &Node, expected: &'static str, read: impl Fn(&str) -> Option<T>) -> Read<T> {
    node.text().and_then(read).ok_or(Misread {
        place: node.place,
        expected,
    })
}
