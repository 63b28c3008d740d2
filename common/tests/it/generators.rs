//! Random manifests: valid ones, and valid ones with a piece of them changed; random expressions.

use std::collections::BTreeSet;

use jiff::civil::DateTime;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::samples::{CHORES, GUESTBOOK, HELLO, INVALID, WORKER};

/// A manifest without faults, as JSON, which is YAML.
pub(crate) fn valid() -> impl Strategy<Value = Value> {
    let types = prop::collection::btree_map("[a-z]([-a-z0-9]{0,8}[a-z0-9])?", instance(), 0..4);
    (
        name(),
        variables(),
        types,
        prop::option::of(scripts()),
        services(),
    )
        .prop_map(|(name, env, types, prepare, services)| {
            let instances: Vec<Value> = types
                .into_iter()
                .enumerate()
                .map(|(index, (name, instance))| named(index, &name, instance))
                .collect();
            let mut application = json!({"name": name, "env": env});
            if let Some(commands) = prepare {
                insert(&mut application, "prepare", json!({"commands": commands}));
            }
            json!({
                "manifest": {"format": 1},
                "application": application,
                "instances": instances,
                "services": services,
            })
        })
}

/// A sample with bytes taken out, put in, or repeated; still UTF-8.
pub(crate) fn mutated() -> impl Strategy<Value = String> {
    let sample = prop::sample::select(vec![HELLO, GUESTBOOK, CHORES, WORKER, INVALID]);
    let pieces = "[-\\[\\]{}:,#&*!|>'\"%@`?~ \n\ta-c0]{0,8}";
    (
        sample,
        prop::collection::vec((any::<prop::sample::Index>(), 0..12_usize, pieces), 1..5),
    )
        .prop_map(|(sample, edits)| {
            edits
                .into_iter()
                .fold(sample.to_owned(), |text, (index, cut, piece)| {
                    let characters: Vec<char> = text.chars().collect();
                    let start = index.index(characters.len() + 1);
                    let end = (start + cut).min(characters.len());
                    let (before, rest) = characters.split_at(start);
                    let after = &rest[end - start..];
                    before
                        .iter()
                        .chain(piece.chars().collect::<Vec<_>>().iter())
                        .chain(after)
                        .collect()
                })
        })
}

fn named(index: usize, name: &str, mut instance: Value) -> Value {
    insert(&mut instance, "name", json!(name));
    insert(
        &mut instance,
        "hostnames",
        json!([
            format!("{name}.example.com"),
            format!("*.h{index}.example.com")
        ]),
    );
    instance
}

fn insert(value: &mut Value, key: &str, part: Value) {
    if let Value::Object(map) = value {
        map.insert(key.to_owned(), part);
    }
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9]([-A-Za-z0-9]{0,10}[A-Za-z0-9])?(\\.[a-z0-9]{1,5}){0,2}"
}

/// What YAML allows in a text without an escape.
fn text() -> impl Strategy<Value = String> {
    "[^\\p{Cc}\u{fffe}\u{ffff}]{0,20}"
}

fn variables() -> impl Strategy<Value = Map<String, Value>> {
    let value = prop_oneof![
        text().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from)
    ];
    prop::collection::btree_map("X[A-Z0-9_]{0,8}", value, 0..4)
        .prop_map(|map| map.into_iter().collect())
}

fn scripts() -> impl Strategy<Value = Vec<Value>> {
    let plugin = prop::sample::select(vec!["paasmaker.prepare.shell", "paasmaker.startup.shell"]);
    let script = (plugin, prop::collection::vec(text(), 1..4)).prop_map(
        |(plugin, commands)| json!({"plugin": plugin, "parameters": {"commands": commands}}),
    );
    prop::collection::vec(script, 0..3)
}

fn services() -> impl Strategy<Value = Vec<Value>> {
    let parameters = prop::collection::btree_map(text(), any::<i64>(), 0..3);
    prop::collection::btree_map("[-A-Za-z0-9._]{1,10}", parameters, 0..3).prop_map(|services| {
        services
            .into_iter()
            .map(|(name, parameters)| json!({"name": name, "plugin": "paasmaker.service.parameters", "parameters": parameters}))
            .collect()
    })
}

fn instance() -> impl Strategy<Value = Value> {
    let runtime = prop_oneof![
        "[a-z]{1,8}( [-a-z=/]{1,8}){0,3}( --port=%\\(port\\)d)?".prop_map(|command| json!({
            "plugin": "paasmaker.runtime.shell", "version": 1, "parameters": {"launch_command": command},
        })),
        "[a-z]{1,5}(/[a-z]{1,5}){0,2}".prop_map(|root| json!({
            "plugin": "paasmaker.runtime.static", "version": "1", "parameters": {"document_root": root},
        })),
        "[0-9]\\.[0-9]{1,2}".prop_map(|version| json!({
            "plugin": "paasmaker.runtime.php", "version": version, "parameters": {"document_root": "."},
        })),
    ];
    let health =
        prop::option::of(("/[a-z]{0,8}", 10..300_000_u32).prop_map(
            |(path, interval)| json!({"path": path, "interval": format!("{interval}ms")}),
        ));
    let stop = (
        prop::sample::select(vec!["TERM", "SIGINT", "KILL"]),
        0..3600_u32,
    )
        .prop_map(|(signal, grace)| json!({"signal": signal, "grace": grace}));
    let crons = prop::collection::vec(
        (0..60_u8, 0..24_u8, "/[a-z]{0,5}").prop_map(
            |(minute, hour, uri)| json!({"runspec": format!("{minute} {hour} * * *"), "uri": uri}),
        ),
        0..3,
    );
    (
        runtime,
        0..=1000_u32,
        any::<bool>(),
        variables(),
        scripts(),
        health,
        stop,
        crons,
    )
        .prop_map(
            |(runtime, quantity, exclusive, env, startup, health, stop, crons)| {
                let mut instance = json!({
                    "runtime": runtime, "quantity": quantity, "exclusive": exclusive, "env": env,
                    "startup": startup, "stop": stop, "crons": crons,
                });
                if let Some(health) = health {
                    insert(&mut instance, "health", health);
                }
                instance
            },
        )
}

/// An expression whose meaning can be looked up: lists of minutes, hours, and months.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    minutes: BTreeSet<i8>,
    hours: BTreeSet<i8>,
    months: BTreeSet<i8>,
}

impl Times {
    pub(crate) fn expression(&self) -> String {
        let list = |values: &BTreeSet<i8>| {
            let values: Vec<String> = values.iter().map(i8::to_string).collect();
            values.join(",")
        };
        format!(
            "{} {} * {} *",
            list(&self.minutes),
            list(&self.hours),
            list(&self.months)
        )
    }

    pub(crate) fn matches(&self, local: DateTime) -> bool {
        self.minutes.contains(&local.minute())
            && self.hours.contains(&local.hour())
            && self.months.contains(&local.month())
    }
}

pub(crate) fn times() -> impl Strategy<Value = Times> {
    let some =
        |range: std::ops::Range<i8>, most: usize| prop::collection::btree_set(range, 1..most);
    (some(0..60, 8), some(0..24, 8), some(1..13, 6)).prop_map(|(minutes, hours, months)| Times {
        minutes,
        hours,
        months,
    })
}

/// Expressions of every form; some of them never fire.
pub(crate) fn expression() -> impl Strategy<Value = String> {
    let minutes = prop_oneof![
        6 => number(0..60),
        2 => list(0..60),
        1 => range(0..60),
        1 => Just("*".to_owned()),
        1 => (1..90_u32).prop_map(|step| format!("*/{}", step % 59 + 1)),
        1 => (1..3000_u32).prop_map(|period| format!("%{period}")),
    ];
    let hours = prop_oneof![
        4 => number(0..24),
        4 => number(0..4),
        2 => list(0..24),
        1 => range(0..24),
        1 => Just("*".to_owned()),
        1 => (1..100_u32).prop_map(|period| format!("%{period}")),
    ];
    let days = prop_oneof![
        8 => Just("*".to_owned()),
        1 => Just("?".to_owned()),
        2 => number(1..32),
        1 => list(1..32),
        1 => range(1..32),
        1 => (1..32_u32).prop_map(|day| format!("{day}W")),
        1 => prop::sample::select(vec!["L", "LW", "L,15", "1,LW", "*/2"]).prop_map(str::to_owned),
        1 => (1..40_u32).prop_map(|period| format!("%{period}")),
    ];
    let months = prop_oneof![
        8 => Just("*".to_owned()),
        1 => list(1..13),
        1 => prop::sample::select(vec!["FEB", "mar-Apr,oct", "*/3", "OCT,NOV"]).prop_map(str::to_owned),
        1 => (1..8_u32).prop_map(|period| format!("%{period}")),
    ];
    let weekdays = prop_oneof![
        8 => Just("*".to_owned()),
        1 => Just("?".to_owned()),
        1 => list(0..8),
        1 => prop::sample::select(vec!["SUN", "mon-Fri", "sun,3", "5-7", "SAT-mon"]).prop_map(str::to_owned),
        1 => (0..8_u32, 1..6_u32).prop_map(|(day, count)| format!("{day}#{count}")),
        1 => (0..8_u32).prop_map(|day| format!("{day}L")),
        1 => (1..20_u32).prop_map(|period| format!("%{period}")),
    ];
    (minutes, hours, days, months, weekdays).prop_map(|(minute, hour, day, month, weekday)| {
        format!("{minute} {hour} {day} {month} {weekday}")
    })
}

fn number(of: std::ops::Range<u32>) -> impl Strategy<Value = String> {
    of.prop_map(|number| number.to_string())
}

fn list(of: std::ops::Range<u32>) -> impl Strategy<Value = String> {
    prop::collection::vec(number(of), 1..5).prop_map(|entries| entries.join(","))
}

/// Some go past the end of their field and begin again.
fn range(of: std::ops::Range<u32>) -> impl Strategy<Value = String> {
    (of.clone(), of, 1..10_u32).prop_map(|(first, last, step)| format!("{first}-{last}/{step}"))
}
