//! `pm scale`: another number of instances of the current version.

use std::collections::BTreeMap;
use std::time::Duration;

use common::api::{ApplicationView, InstanceTypeView, ScaleRequest};
use common::id::InstanceTypeName;
use common::instance::InstanceState;

use crate::args::ScaleArguments;
use crate::connection::{Connection, idempotency_key};
use crate::error::{CommandError, code};
use crate::output::table;
use crate::status::count_running;

/// How long the new number is waited for: longer than the default time to start and to stop.
const WAIT_LIMIT: Duration = Duration::from_secs(120);
/// Time between two looks; there is no watch on an application.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Restarts after which an instance counts as one that will not come up.
const HOPELESS_RESTARTS: u32 = 2;

/// Changes the quantities, and waits until they are reached unless told otherwise.
pub(crate) async fn run(
    connection: &Connection,
    arguments: &ScaleArguments,
) -> Result<(), CommandError> {
    let application = connection.application(&arguments.application).await?;
    let wanted: Vec<String> = arguments
        .quantities
        .iter()
        .map(|quantity| format!("{}={}", quantity.instance_type, quantity.quantity))
        .collect();
    let doing = format!("scale `{}` to {}", application.name, wanted.join(" "));
    let quantities: BTreeMap<InstanceTypeName, u32> = arguments
        .quantities
        .iter()
        .map(|quantity| (quantity.instance_type.clone(), quantity.quantity))
        .collect();
    let request = ScaleRequest { quantities };
    let mut view = connection
        .client
        .scale(application.id, &request, &idempotency_key()?)
        .await
        .map_err(connection.failed(doing.clone()))?;
    if !arguments.detach {
        connection.progress.spin(&doing);
        view = wait(connection, view, &request, &doing).await?;
        connection.progress.clear();
    }
    connection.output.result(&view, |view| {
        let rows = current_types(view).map(|instance_type| {
            vec![
                instance_type.name.to_string(),
                count_running(instance_type).to_string(),
                instance_type.quantity.to_string(),
            ]
        });
        table(&["TYPE", "RUNNING", "WANTED"], rows)
    })
}

fn current_types(view: &ApplicationView) -> impl Iterator<Item = &InstanceTypeView> {
    view.versions
        .iter()
        .filter(|version| version.is_current)
        .flat_map(|version| &version.instance_types)
}

async fn wait(
    connection: &Connection,
    mut view: ApplicationView,
    request: &ScaleRequest,
    doing: &str,
) -> Result<ApplicationView, CommandError> {
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    let deadline = tokio::time::Instant::now() + WAIT_LIMIT;
    loop {
        let asked = || {
            current_types(&view)
                .filter(|instance_type| request.quantities.contains_key(&instance_type.name))
        };
        if asked().all(is_reached) {
            return Ok(view);
        }
        if let Some(error) = asked().find_map(|instance_type| hopeless(instance_type, doing)) {
            return Err(error);
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(CommandError::new(
                code::FAILED,
                doing,
                format!(
                    "not reached within {} s; the cluster goes on trying",
                    WAIT_LIMIT.as_secs()
                ),
            )
            .next(format!("`pm why {}`", view.name)));
        }
        interval.tick().await;
        view = connection
            .client
            .application(view.id)
            .await
            .map_err(connection.failed(doing))?;
    }
}

/// True when exactly the wanted number runs and nothing else is left.
fn is_reached(instance_type: &InstanceTypeView) -> bool {
    count_running(instance_type) == instance_type.quantity
        && u32::try_from(instance_type.instances.len()) == Ok(instance_type.quantity)
}

fn hopeless(instance_type: &InstanceTypeView, doing: &str) -> Option<CommandError> {
    let instance = instance_type.instances.iter().find(|instance| {
        instance.state == InstanceState::Failed && instance.restarts >= HOPELESS_RESTARTS
    })?;
    let failure = instance.failure.as_ref()?;
    let mut error = CommandError::new(
        code::FAILED,
        doing,
        format!(
            "instance {} of `{}` does not come up: {}; the cluster goes on trying",
            instance.id, instance_type.name, failure.message
        ),
    )
    .next(format!("`pm why instance:{}`", instance.id));
    error.output.clone_from(&failure.output_tail);
    Some(error)
}
