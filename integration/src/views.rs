//! What is asked of a cluster of either kind: an application, and its instances.

use anyhow::{Context as _, Result};
use common::api::{ApplicationView, InstanceView};
use common::id::WorkspaceStub;
use pacemaker_client::Client;

/// An application of workspace `default`.
pub(crate) async fn application(client: &Client, name: &str) -> Result<ApplicationView> {
    let workspace = WorkspaceStub::parse("default").context("naming the workspace")?;
    client
        .applications(Some(&workspace), Some(name))
        .await
        .context("reading an application")?
        .into_iter()
        .next()
        .with_context(|| format!("there is no application {name}"))
}

/// The instances of an application's current version.
pub(crate) async fn instances(client: &Client, name: &str) -> Result<Vec<InstanceView>> {
    let view = application(client, name).await?;
    Ok(view
        .versions
        .into_iter()
        .filter(|version| version.is_current)
        .flat_map(|version| version.instance_types)
        .flat_map(|instance_type| instance_type.instances)
        .collect())
}
