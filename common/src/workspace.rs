//! A workspace: a container of applications, such as `test` or `production`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{WorkspaceId, WorkspaceStub};

/// A container of applications.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Workspace {
    /// Its number.
    pub id: WorkspaceId,
    /// The display name.
    pub name: String,
    /// The name in hostnames and on the command line; unique.
    pub stub: WorkspaceStub,
    /// Free-form, seen by applications in `PM_METADATA`.
    #[serde(default)]
    pub tags: BTreeMap<String, Value>,
}
