//! `pm node drain`: asks for it, and follows it until the node is empty.

use std::time::Duration;

use common::api::NodeView;
use common::id::NodeId;
use common::node::NodeState;
use tokio::time::{Instant, MissedTickBehavior};

use crate::connection::{Connection, idempotency_key};
use crate::error::{CommandError, code};
use crate::follow::INTERRUPTED;
use crate::node::{point_to_list, view};

/// Time between two looks; there is no watch on a node.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How long a cluster that does not answer is asked again before following is given up.
const UNREACHABLE_LIMIT: Duration = Duration::from_secs(60);
/// After so long without a change it is said where to look.
const STANDSTILL: Duration = Duration::from_secs(60);

/// Drains a node; waits until it is empty unless told otherwise.
pub(crate) async fn run(
    connection: &Connection,
    node: NodeId,
    detach: bool,
) -> Result<(), CommandError> {
    let doing = format!("drain node {node}");
    connection
        .client
        .drain_node(node, &idempotency_key()?)
        .await
        .map_err(connection.failed(doing.clone()))
        .map_err(point_to_list)?;
    let mut seen = view(connection, node, &doing).await?;
    if !detach {
        connection.progress.spin(&doing);
        seen = tokio::select! {
            empty = follow(connection, node, &doing) => empty?,
            interrupted = tokio::signal::ctrl_c() => {
                connection.progress.clear();
                return Err(match interrupted {
                    Ok(()) => interruption(node, &doing),
                    Err(error) => CommandError::file("wait for signals", &error),
                });
            }
        };
        connection.progress.clear();
    }
    connection.output.result(&seen, |seen| {
        if seen.instances == 0 {
            format!("Node {node} is empty. `pm node undrain {node}` gives it work again, `pm node remove {node}` forgets it.")
        } else {
            format!(
                "Node {node} is draining: {} go elsewhere. `pm node show {node}` shows how many are left.",
                instances(seen.instances)
            )
        }
    })
}

fn interruption(node: NodeId, doing: &str) -> CommandError {
    CommandError::new(
        "interrupted",
        format!("wait to {doing}"),
        "it was interrupted here; the cluster goes on draining the node",
    )
    .next(format!(
        "`pm node drain {node}` goes on watching, `pm node undrain {node}` ends it"
    ))
    .exit_code(INTERRUPTED)
}

async fn follow(
    connection: &Connection,
    node: NodeId,
    doing: &str,
) -> Result<NodeView, CommandError> {
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut left = None;
    let mut changed = Instant::now();
    let mut heard = Instant::now();
    loop {
        interval.tick().await;
        let seen = match connection.client.node(node).await {
            Ok(seen) => seen,
            Err(error) if error.is_unreachable() && heard.elapsed() < UNREACHABLE_LIMIT => continue,
            Err(error) => return Err(connection.failed(doing)(error)),
        };
        heard = Instant::now();
        if seen.instances == 0 {
            return Ok(seen);
        }
        if seen.node.state == NodeState::Active {
            return Err(CommandError::new(
                code::FAILED,
                doing,
                "somebody has given it work again meanwhile",
            ));
        }
        if left != Some(seen.instances) {
            left = Some(seen.instances);
            changed = Instant::now();
            let text = format!("{} left on node {node}", instances(seen.instances));
            connection.progress.line(&text);
        } else if changed.elapsed() > STANDSTILL {
            changed = Instant::now();
            connection.progress.line(
                "nothing has moved for a minute; `pm status` and `pm why APP` say what it waits for",
            );
        }
    }
}

fn instances(count: u64) -> String {
    if count == 1 {
        "1 instance".to_owned()
    } else {
        format!("{count} instances")
    }
}
