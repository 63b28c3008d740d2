//! Random manifests: valid ones, and valid ones with a piece of them changed.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::samples::{GUESTBOOK, HELLO, INVALID, WORKER};

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
    let sample = prop::sample::select(vec![HELLO, GUESTBOOK, WORKER, INVALID]);
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
