//! Tells the leader which table is applied here and which old instances still have requests.
//!
//! At once when either changes, and every [`REPORT_INTERVAL`]: a report is heartbeat and
//! acknowledgement in one. It runs beside the workers and never holds them up.

use std::sync::Arc;
use std::time::Duration;

use common::assignment::{REPORT_INTERVAL, Report, RouterReport};
use common::id::NodeId;
use pacemaker_client::Client;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::random;
use crate::table::Tables;

/// A report that is not taken in this time is given up for a newer one. Long enough for the client to
/// try each of five pacemakers for a second: given up earlier, it would begin with the same ones
/// again and never get to the one that answers.
const POST_LIMIT: Duration = Duration::from_secs(6);

/// Reports until `shutdown`.
pub(crate) async fn run(
    tables: Arc<Tables>,
    client: Client,
    node: NodeId,
    shutdown: CancellationToken,
) {
    let incarnation = random::seed();
    let mut sequence = 0;
    let mut is_heard = true;
    loop {
        sequence += 1;
        let report = Report {
            cluster: tables.cluster(),
            node,
            heart: None,
            router: Some(observe(&tables, incarnation, sequence)),
        };
        let posted = tokio::select! {
            posted = timeout(POST_LIMIT, client.report(&report)) => posted,
            () = shutdown.cancelled() => return,
        };
        let was_heard = std::mem::replace(&mut is_heard, matches!(posted, Ok(Ok(()))));
        match posted {
            Ok(Ok(())) => {}
            Ok(Err(error)) if was_heard => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot report to the cluster; trying again"
                );
            }
            Err(_elapsed) if was_heard => {
                tracing::warn!("the cluster takes too long over a report; trying again");
            }
            Ok(Err(_)) | Err(_) => {}
        }
        let change = async {
            // A report that failed is not repeated faster than the interval.
            if is_heard {
                tables.changed.notified().await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            _ = timeout(REPORT_INTERVAL.duration(), change) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn observe(tables: &Tables, incarnation: u64, sequence: u64) -> RouterReport {
    // The table first: whatever was chosen from an older one is counted by then.
    let routes = tables.applied();
    RouterReport {
        incarnation,
        sequence,
        routes,
        in_flight: tables.with_registry(|registry| registry.draining(routes)),
    }
}
