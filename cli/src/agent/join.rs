//! Becoming a node: once, before anything else of the agent starts.

use std::path::Path;
use std::time::Duration;

use common::join_token::JoinToken;
use pacemaker_client::tls::{NodeIdentity, TlsError};
use pacemaker_client::{JoinError, join};
use tokio::time::Instant;

use crate::agent::node_directory::NodeDirectory;
use crate::agent::plan::NodePlan;
use crate::args::agent::NodeSettings;
use crate::error::{CommandError, chain, code};

/// How long pacemakers are asked that do not answer, or cannot now: some elections, and the seconds in
/// which a cluster starts. Then the supervisor decides.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two attempts.
const INTERVAL: Duration = Duration::from_millis(500);
/// The largest file that has a token in it.
const TOKEN_FILE_MAX_BYTES: u64 = 16 * 1024;
const DOING: &str = "join the cluster";

/// Joins the cluster of `text`, and keeps what the cluster gave.
pub(crate) async fn run(
    directory: &NodeDirectory,
    text: &str,
    settings: &NodeSettings,
    given: &NodeSettings,
) -> Result<NodeIdentity, CommandError> {
    let token: JoinToken = text.parse().map_err(|error| {
        CommandError::new(code::TOKEN_INVALID, DOING, format!("{error}"))
            .next("`pm cluster token`, typed where you are logged in, prints a new one")
    })?;
    let plan = NodePlan::new(settings.clone(), &token.endpoints)?;
    let mut record = directory.record()?;
    let description = plan.description(&record.key);
    let (identity, answer) = {
        let deadline = Instant::now() + PATIENCE;
        let mut interval = tokio::time::interval(INTERVAL);
        loop {
            interval.tick().await;
            match join(&token, &description).await {
                Ok(joined) => break joined,
                Err(error) if is_worth_another(&error) && Instant::now() < deadline => {
                    tracing::debug!(error = chain(&error), "joining is tried again");
                }
                Err(error) => return Err(explain(&token, &error)),
            }
        }
    };
    record.node = Some(identity.node);
    record.given = remembered(given, &plan);
    directory.keep_record(&record)?;
    directory.keep_pacemakers(&answer.pacemakers)?;
    // Last: from here on this is a node of the cluster.
    directory.keep_identity(&identity, answer.authority_key.as_deref())?;
    Ok(identity)
}

/// The token of a file, for those who keep it out of the list of processes.
pub(crate) fn token_in(path: &Path) -> Result<String, CommandError> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(TOKEN_FILE_MAX_BYTES).read_to_string(&mut text))
        .map_err(|error| {
            CommandError::file(format!("read the join token in {}", path.display()), &error)
        })?;
    Ok(text.trim().to_owned())
}

/// What is kept of the flags: nothing secret, nothing that says where it is kept, and where others
/// reach this node, so that a later start does not find another address by itself.
pub(crate) fn remembered(given: &NodeSettings, plan: &NodePlan) -> NodeSettings {
    NodeSettings {
        data_dir: None,
        join: None,
        advertise: Some(plan.advertise.clone()),
        ..given.clone()
    }
}

fn is_worth_another(error: &JoinError) -> bool {
    match error {
        JoinError::Authority(TlsError::Connect { .. }) => true,
        JoinError::Refused(error) => error.is_unreachable(),
        JoinError::Authority(_) | JoinError::Key(_) | JoinError::Identity(_) => false,
    }
}

fn explain(token: &JoinToken, error: &JoinError) -> CommandError {
    let endpoints = token.endpoints.join(", ");
    let failed = |code: &str, why: String| CommandError::new(code, DOING, why);
    match error {
        JoinError::Authority(TlsError::OtherAuthority { endpoint, .. }) => failed(
            code::OTHER_CLUSTER,
            format!("who answers at {endpoint} is not the cluster of this token; the secret was not sent"),
        )
        .next("check the address; when the cluster was made anew, take a new token of `pm cluster token`"),
        JoinError::Authority(error) => failed(
            code::UNREACHABLE,
            format!("no pacemaker answers at {endpoints}: {}", chain(error)),
        )
        .next("check that a pacemaker runs there and that this machine reaches it"),
        JoinError::Refused(error) => {
            let mut refused = CommandError::api(DOING, &endpoints, error);
            refused.next = Some(
                "`pm cluster token --roles ROLES`, typed where you are logged in, prints a new token".to_owned(),
            );
            refused
        }
        JoinError::Key(error) | JoinError::Identity(error) => {
            failed(code::FAILED, chain(error))
        }
    }
}
