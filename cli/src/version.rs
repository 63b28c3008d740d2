//! `pm version`: the versions of an application and where they are.

use common::api::VersionView;
use pacemaker_client::VersionAction;

use crate::args::{VersionTarget, VersionVerb};
use crate::connection::{Connection, idempotency_key};
use crate::error::CommandError;
use crate::job::finish;
use crate::output::{ago, table, word};
use crate::status::count_running;

/// Lists versions, or moves one.
pub(crate) async fn run(connection: &Connection, verb: &VersionVerb) -> Result<(), CommandError> {
    match verb {
        VersionVerb::List { application } => {
            let view = connection.application(application).await?;
            connection.output.result(&view.versions, |versions| {
                table(
                    &["VERSION", "STATE", "CURRENT", "CREATED", "RUNNING"],
                    versions.iter().map(row),
                )
            })
        }
        VersionVerb::Start(target) => act(connection, target, VersionAction::Start, "start").await,
        VersionVerb::Stop(target) => act(connection, target, VersionAction::Stop, "stop").await,
        VersionVerb::Promote(target) => {
            act(connection, target, VersionAction::Promote, "promote").await
        }
        VersionVerb::Deregister(target) => {
            act(connection, target, VersionAction::Deregister, "deregister").await
        }
    }
}

fn row(version: &VersionView) -> Vec<String> {
    let running: Vec<String> = version
        .instance_types
        .iter()
        .map(|instance_type| {
            format!(
                "{}={}/{}",
                instance_type.name,
                count_running(instance_type),
                instance_type.quantity
            )
        })
        .collect();
    vec![
        version.number.to_string(),
        word(&version.state),
        if version.is_current { "yes" } else { "" }.to_owned(),
        ago(version.created),
        running.join(" "),
    ]
}

async fn act(
    connection: &Connection,
    target: &VersionTarget,
    action: VersionAction,
    name: &str,
) -> Result<(), CommandError> {
    let application = connection.application(&target.application).await?;
    let doing = format!(
        "{name} version {} of `{}`",
        target.version, application.name
    );
    let started = connection
        .client
        .version_action(application.id, target.version, action, &idempotency_key()?)
        .await
        .map_err(connection.failed(doing.clone()))?;
    finish(connection, &started, &doing, target.detach).await
}
