//! Reads a runtime: which plugin, which version, and what it runs.

use crate::application::{Program, RUNTIME_SHELL, RUNTIME_STATIC, RuntimeSpec};
use crate::id::PluginName;

use super::super::tree::Node;
use super::{Read, name, need, text};

/// A runtime that runs something.
pub(super) fn program(node: &Node) -> Read<RuntimeSpec> {
    let plugin = name(need(node, "plugin")?, PluginName::parse)?;
    let program = match plugin.as_str() {
        RUNTIME_SHELL => Program::Command {
            launch_command: text(need(need(node, "parameters")?, "launch_command")?)?,
        },
        RUNTIME_STATIC => Program::Static {
            document_root: text(need(need(node, "parameters")?, "document_root")?)?,
        },
        _ => Program::Unsupported,
    };
    Ok(RuntimeSpec {
        plugin,
        version: text(need(node, "version")?)?,
        program,
    })
}

/// A runtime that only supplies its environment; none when it names no plugin.
pub(super) fn environment(node: &Node) -> Read<Option<RuntimeSpec>> {
    let plugin = need(node, "plugin")?;
    if plugin.is_null() {
        return Ok(None);
    }
    Ok(Some(RuntimeSpec {
        plugin: name(plugin, PluginName::parse)?,
        version: text(need(node, "version")?)?,
        program: Program::Environment,
    }))
}
