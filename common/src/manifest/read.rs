//! Reads what a checked tree says into a [`VersionSpec`], defaults filled in.
//!
//! It is called only when no fault was found. That something cannot be read all the same is a gap
//! in the checks; it is reported at its place, never a panic.

mod crons;
mod runtime;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::application::{
    HealthSpec, InstanceTypeSpec, PlacementSpec, PrepareSpec, ServiceSpec, ShellScript, StopSignal,
    StopSpec, VersionSpec,
};
use crate::id::{
    ApplicationName, HostPattern, InstanceTypeName, NameError, PluginName, ServiceName,
};
use crate::time::Span;

use super::check::whole_number;
use super::format::default;
use super::quantity;
use super::rule::routed_hostname;
use super::tree::{Content, Node, Place, Scalar};

/// A value that passed the checks and cannot be read.
#[derive(Debug)]
pub(super) struct Misread {
    pub(super) place: Place,
    pub(super) expected: &'static str,
}

type Read<T> = Result<T, Misread>;

/// Reads the whole document.
pub(super) fn read(root: &Node) -> Read<VersionSpec> {
    let application = need(root, "application")?;
    let env = variables(application)?;
    Ok(VersionSpec {
        application: name(need(application, "name")?, ApplicationName::parse)?,
        prepare: prepare(application, &env)?,
        instance_types: items(root, "instances")
            .map(|instance| instance_type(instance, &env))
            .collect::<Read<_>>()?,
        services: items(root, "services").map(service).collect::<Read<_>>()?,
    })
}

fn prepare(application: &Node, env: &BTreeMap<String, String>) -> Read<Option<PrepareSpec>> {
    let Some(prepare) = application.get("prepare") else {
        return Ok(None);
    };
    let scripts = scripts(prepare, "commands")?;
    if scripts.is_empty() {
        return Ok(None);
    }
    Ok(Some(PrepareSpec {
        runtime: prepare
            .get("runtime")
            .map(runtime::environment)
            .transpose()?
            .flatten(),
        scripts,
        env: env.clone(),
    }))
}

fn instance_type(node: &Node, env: &BTreeMap<String, String>) -> Read<InstanceTypeSpec> {
    let launch = need(node, "runtime")?;
    let parameters = launch.get("parameters");
    let mut merged = env.clone();
    merged.extend(variables(node)?);
    let standalone = boolean(node, "standalone")?;
    Ok(InstanceTypeSpec {
        name: name(need(node, "name")?, InstanceTypeName::parse)?,
        quantity: whole(node, "quantity", default::QUANTITY)?,
        runtime: runtime::program(launch)?,
        startup: scripts(node, "startup")?,
        placement: node
            .get("placement")
            .and_then(|placement| placement.get("parameters"))
            .map_or_else(|| Ok(PlacementSpec::default()), placement)?,
        hostnames: hostnames(node)?,
        standalone,
        exclusive: boolean(node, "exclusive")?,
        env: merged,
        health: node.get("health").map(health).transpose()?,
        stop: node
            .get("stop")
            .map_or_else(|| Ok(StopSpec::default()), stop)?,
        start_timeout: parameters.map_or(Ok(default::START_TIMEOUT), |parameters| {
            span(parameters, "start_timeout", default::START_TIMEOUT)
        })?,
        standalone_wait: parameters.map_or(Ok(default::STANDALONE_WAIT), |parameters| {
            span(parameters, "standalone_wait", default::STANDALONE_WAIT)
        })?,
        crons: if standalone {
            Vec::new()
        } else {
            crons::crons(node)?
        },
    })
}

fn placement(parameters: &Node) -> Read<PlacementSpec> {
    Ok(PlacementSpec {
        tags: parameters
            .get("tags")
            .map_or_else(|| Ok(BTreeMap::new()), free_map)?,
        zone: parameters.get("zone").map(text).transpose()?,
        spread_zones: parameters.get("spread").and_then(Node::text) == Some("zone"),
    })
}

/// In the order of the manifest, each once.
fn hostnames(instance: &Node) -> Read<Vec<HostPattern>> {
    let mut hostnames = Vec::new();
    for node in items(instance, "hostnames") {
        let hostname = name(node, |text| HostPattern::parse(&routed_hostname(text)))?;
        if !hostnames.contains(&hostname) {
            hostnames.push(hostname);
        }
    }
    Ok(hostnames)
}

fn health(node: &Node) -> Read<HealthSpec> {
    Ok(HealthSpec {
        path: text(need(node, "path")?)?,
        interval: span(node, "interval", default::HEALTH_INTERVAL)?,
        timeout: span(node, "timeout", default::HEALTH_TIMEOUT)?,
        unhealthy_after: whole(node, "unhealthy_after", default::UNHEALTHY_AFTER)?,
        restart_after: whole(node, "restart_after", default::RESTART_AFTER)?,
    })
}

fn stop(node: &Node) -> Read<StopSpec> {
    let usual = StopSpec::default();
    let signal = match node.get("signal") {
        None => usual.signal,
        Some(signal) => {
            let text = text(signal)?;
            stop_signal(text.strip_prefix("SIG").unwrap_or(&text)).ok_or(Misread {
                place: signal.place,
                expected: "a signal",
            })?
        }
    };
    Ok(StopSpec {
        signal,
        grace: span(node, "grace", usual.grace)?,
    })
}

fn stop_signal(name: &str) -> Option<StopSignal> {
    match name {
        "TERM" => Some(StopSignal::Term),
        "INT" => Some(StopSignal::Int),
        "QUIT" => Some(StopSignal::Quit),
        "HUP" => Some(StopSignal::Hup),
        "USR1" => Some(StopSignal::Usr1),
        "USR2" => Some(StopSignal::Usr2),
        "KILL" => Some(StopSignal::Kill),
        _ => None,
    }
}

fn service(node: &Node) -> Read<ServiceSpec> {
    Ok(ServiceSpec {
        name: name(need(node, "name")?, ServiceName::parse)?,
        plugin: name(need(node, "plugin")?, PluginName::parse)?,
        parameters: node
            .get("parameters")
            .map_or_else(|| Ok(BTreeMap::new()), free_map)?,
    })
}

/// The scripts of a list of shell plugins.
fn scripts(node: &Node, key: &str) -> Read<Vec<ShellScript>> {
    items(node, key)
        .map(|plugin| {
            let parameters = need(plugin, "parameters")?;
            let commands = items(parameters, "commands").map(text);
            Ok(ShellScript {
                commands: commands.collect::<Read<_>>()?,
            })
        })
        .collect()
}

fn variables(node: &Node) -> Read<BTreeMap<String, String>> {
    node.get("env")
        .map(Node::entries)
        .unwrap_or_default()
        .iter()
        .map(|entry| Ok((entry.key.clone(), text(&entry.value)?)))
        .collect()
}

fn free_map(node: &Node) -> Read<BTreeMap<String, Value>> {
    node.entries()
        .iter()
        .map(|entry| Ok((entry.key.clone(), free(&entry.value)?)))
        .collect()
}

fn free(node: &Node) -> Read<Value> {
    match &node.content {
        Content::List(items) => items.iter().map(|item| free(item)).collect(),
        Content::Map(_) => free_map(node).map(|map| Value::Object(map.into_iter().collect())),
        Content::Scalar(scalar) => scalar.json().map_err(|expected| Misread {
            place: node.place,
            expected,
        }),
    }
}

fn need<'a>(node: &'a Node, key: &str) -> Read<&'a Node> {
    node.get(key).ok_or(Misread {
        place: node.place,
        expected: "a mapping with every required key",
    })
}

fn items<'a>(node: &'a Node, key: &str) -> impl Iterator<Item = &'a Node> + use<'a> {
    let items = node.get(key).map(Node::items).unwrap_or_default();
    items.iter().map(|item| &**item)
}

fn text(node: &Node) -> Read<String> {
    node.text().map(str::to_owned).ok_or(Misread {
        place: node.place,
        expected: "a text",
    })
}

fn name<T>(node: &Node, parse: impl Fn(&str) -> Result<T, NameError>) -> Read<T> {
    parse(&text(node)?).map_err(|error| Misread {
        place: node.place,
        expected: error.rule,
    })
}

fn whole(node: &Node, key: &str, default: u32) -> Read<u32> {
    let Some(value) = node.get(key) else {
        return Ok(default);
    };
    value
        .text()
        .and_then(whole_number)
        .and_then(|number| u32::try_from(number).ok())
        .ok_or(Misread {
            place: value.place,
            expected: "a whole number",
        })
}

fn boolean(node: &Node, key: &str) -> Read<bool> {
    let Some(value) = node.get(key) else {
        return Ok(false);
    };
    value.scalar().and_then(Scalar::boolean).ok_or(Misread {
        place: value.place,
        expected: "true or false",
    })
}

fn span(node: &Node, key: &str, default: Span) -> Read<Span> {
    let Some(value) = node.get(key) else {
        return Ok(default);
    };
    value.text().and_then(quantity::span).ok_or(Misread {
        place: value.place,
        expected: "a length of time",
    })
}
