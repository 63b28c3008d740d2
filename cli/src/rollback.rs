//! `pm rollback`: the version that was current before is made current again.

use common::id::ApplicationName;

use crate::connection::{Connection, idempotency_key};
use crate::error::CommandError;
use crate::job::finish;

/// Goes back, and waits for it unless told otherwise.
pub(crate) async fn run(
    connection: &Connection,
    application: &ApplicationName,
    detach: bool,
) -> Result<(), CommandError> {
    let application = connection.application(application).await?;
    let doing = format!("roll `{}` back", application.name);
    let started = connection
        .client
        .rollback(application.id, &idempotency_key()?)
        .await
        .map_err(connection.failed(doing.clone()))?;
    finish(connection, &started, &doing, detach).await
}
