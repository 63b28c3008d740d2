//! `pm workspace`: containers of applications.

use std::collections::BTreeMap;

use common::api::CreateWorkspace;
use common::id::WorkspaceStub;
use serde_json::Value;

use crate::args::{Tag, WorkspaceVerb};
use crate::connection::{Connection, idempotency_key};
use crate::error::CommandError;
use crate::output::table;

/// Lists or creates.
pub(crate) async fn run(connection: &Connection, verb: &WorkspaceVerb) -> Result<(), CommandError> {
    match verb {
        WorkspaceVerb::List => list(connection).await,
        WorkspaceVerb::Create { stub, name, tags } => {
            create(connection, stub, name.as_deref(), tags).await
        }
    }
}

async fn list(connection: &Connection) -> Result<(), CommandError> {
    let workspaces = connection
        .client
        .workspaces()
        .await
        .map_err(connection.failed("list the workspaces"))?;
    connection.output.result(&workspaces, |workspaces| {
        let rows = workspaces.iter().map(|workspace| {
            vec![
                workspace.stub.to_string(),
                workspace.name.clone(),
                serde_json::to_string(&workspace.tags).unwrap_or_default(),
            ]
        });
        table(&["WORKSPACE", "NAME", "TAGS"], rows)
    })
}

async fn create(
    connection: &Connection,
    stub: &WorkspaceStub,
    name: Option<&str>,
    tags: &[Tag],
) -> Result<(), CommandError> {
    let tags: BTreeMap<String, Value> = tags
        .iter()
        .map(|tag| (tag.key.clone(), Value::String(tag.value.clone())))
        .collect();
    let workspace = connection
        .client
        .create_workspace(
            &CreateWorkspace {
                name: name.unwrap_or(stub.as_str()).to_owned(),
                stub: stub.clone(),
                tags,
            },
            &idempotency_key()?,
        )
        .await
        .map_err(connection.failed(format!("create workspace `{stub}`")))?;
    connection.output.result(&workspace, |workspace| {
        format!(
            "Workspace `{}` exists; `pm --workspace {0} deploy DIR` deploys to it.",
            workspace.stub
        )
    })
}
