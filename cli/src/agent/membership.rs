//! What keeps a node in its cluster while it runs: what it says of itself, where the pacemakers are,
//! and its certificate.
//!
//! Nothing here is needed to go on serving: without an answer the roles keep what they have.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use common::node::NodeDescription;
use common::time::{Span, Timestamp};
use pacemaker::Authority;
use pacemaker_client::Client;
use pacemaker_client::tls::{NodeIdentity, NodeKey, Subject, Tls};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::agent::node_directory::NodeDirectory;
use crate::agent::renewal::{Life, Loudness};
use crate::agent::telemetry;
use crate::error::chain;
use crate::output::now;

/// Time between two attempts to say what this node is; the first success ends it.
const DESCRIBE_INTERVAL: Duration = Duration::from_millis(500);
/// How long a cluster that does not answer is a start like any other.
const QUIET_START: Duration = Duration::from_secs(10);
/// Time between two looks at where the pacemakers are. They change when machines come and go; what is
/// known of them has to outlive all but one.
const PACEMAKERS_INTERVAL: Duration = Duration::from_secs(15);
/// The same while only one is known: a cluster that is being made gets others within seconds, and
/// who has missed them has nobody to turn to when the first one hangs.
const LONE_PACEMAKER_INTERVAL: Duration = Duration::from_secs(2);
/// The same once the cluster has removed this node, and how often that is said.
const REMOVED_INTERVAL: Duration = Duration::from_secs(60);
/// Time between two looks at whether the certificate has to be renewed; below any life that a test has.
const RENEWAL_LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A node in its cluster; the work of three tasks.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    /// How the cluster is reached.
    pub(crate) client: Client,
    /// Who this node is.
    pub(crate) tls: Tls,
    /// What it says of itself.
    pub(crate) description: NodeDescription,
    /// Where all of it is kept.
    pub(crate) directory: Arc<NodeDirectory>,
    /// What ends the tasks.
    pub(crate) shutdown: CancellationToken,
}

impl Membership {
    /// Tells the cluster what this node is, until it has heard it.
    pub(crate) async fn describe(self) -> Result<(), Infallible> {
        let mut interval = tokio::time::interval(DESCRIBE_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut has_warned = false;
        let began = Instant::now();
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = self.shutdown.cancelled() => return Ok(()),
            }
            match self.client.register_node(&self.description).await {
                Ok(node) => {
                    tracing::info!(%node, "the cluster knows this node");
                    telemetry::has_started();
                    if let Err(error) = self.directory.forget_founding() {
                        tracing::warn!(%error, "what the cluster began with is still kept");
                    }
                    break;
                }
                Err(error) if error.is_unreachable() => {
                    tracing::debug!(error = chain(&error), "the cluster does not answer yet");
                    if began.elapsed() > QUIET_START {
                        // From here on it is worth a warning on stderr.
                        telemetry::has_started();
                    }
                }
                Err(error) if has_warned => {
                    tracing::debug!(error = chain(&error), "the cluster refuses this node");
                }
                Err(error) => {
                    has_warned = true;
                    tracing::warn!(error = chain(&error), "the cluster refuses this node");
                }
            }
        }
        self.shutdown.cancelled().await;
        Ok(())
    }

    /// Keeps to the pacemakers that there are, and writes them down for the next start.
    pub(crate) async fn follow_pacemakers(self) -> Result<(), Infallible> {
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.shutdown.cancelled() => return Ok(()),
            }
            let found = self.client.pacemakers().await;
            next = Instant::now()
                + match &found {
                    Ok(found) if found.len() > 1 => PACEMAKERS_INTERVAL,
                    Err(error) if error.is_removal() => REMOVED_INTERVAL,
                    Ok(_) | Err(_) => LONE_PACEMAKER_INTERVAL,
                };
            match found {
                Ok(found) => self.keep_to(found),
                // What serves is ended by heart and router, when they have heard the same for a while.
                Err(error) if error.is_removal() => tracing::error!(
                    "this node was removed from its cluster: its applications are stopped, its router routes nothing any more; end its agent"
                ),
                Err(error) => {
                    tracing::debug!(error = chain(&error), "the pacemakers stay as known");
                }
            }
        }
    }

    /// Uses these pacemakers from now on; an empty answer changes nothing.
    fn keep_to(&self, mut found: Vec<String>) {
        found.sort();
        found.dedup();
        let mut known = self.client.endpoints();
        known.sort();
        if found.is_empty() || found == known {
            return;
        }
        tracing::info!(pacemakers = found.join(" "), "the pacemakers have changed");
        self.client.set_endpoints(found.clone());
        if let Err(error) = self.directory.keep_pacemakers(&found) {
            tracing::warn!(%error, "the list of pacemakers is not kept for the next start");
        }
    }

    /// Gets the next certificate some time after half of the present one's life has passed.
    pub(crate) async fn renew(self) -> Result<(), Infallible> {
        let mut interval = tokio::time::interval(RENEWAL_LOOK_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut not_before = Instant::now();
        let mut failures = 0;
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = self.shutdown.cancelled() => return Ok(()),
            }
            if now() < self.life().renewal() || Instant::now() < not_before {
                continue;
            }
            match self.renew_once().await {
                Ok(expires) => {
                    tracing::info!(%expires, "the certificate is renewed");
                    failures = 0;
                }
                Err(error) => {
                    failures += 1;
                    self.say_not_renewed(&error, failures);
                    not_before = Instant::now() + self.life().pause(failures);
                }
            }
        }
    }

    fn life(&self) -> Life {
        let certificate = &self.tls.identity().certificate;
        Life::new(self.tls.renew_at(), self.tls.expires(), certificate)
    }

    fn say_not_renewed(&self, error: &str, failures: u32) {
        let expires = self.tls.expires();
        match self.life().loudness(failures, now()) {
            Loudness::Quiet => {
                tracing::debug!(error, %expires, failures, "the certificate is not renewed");
            }
            Loudness::Warning => {
                tracing::warn!(error, %expires, failures, "the certificate is not renewed");
            }
            Loudness::Error => tracing::error!(
                error,
                %expires,
                failures,
                "the certificate is not renewed and ends soon, or has ended: nobody talks to this node then; look at `pm cluster status`, and compare this machine's clock with the cluster's"
            ),
        }
    }

    /// The key stays the same, so that an interruption leaves a whole identity.
    async fn renew_once(&self) -> Result<Timestamp, String> {
        let (directory, tls) = (Arc::clone(&self.directory), self.tls.clone());
        let signed = tokio::task::spawn_blocking(move || sign_own(&directory, &tls))
            .await
            .map_err(|error| error.to_string())??;
        if signed {
            return Ok(self.tls.expires());
        }
        let present = self.tls.identity();
        let key = NodeKey::from_pem(&present.key).map_err(|error| chain(&error))?;
        let request = key.signing_request().map_err(|error| chain(&error))?;
        let answer = self
            .client
            .renew_certificate(&request)
            .await
            .map_err(|error| chain(&error))?;
        let identity = NodeIdentity::new(
            answer.certificate,
            present.key.clone(),
            present.authority.clone(),
        )
        .map_err(|error| chain(&error))?;
        self.tls
            .replace(identity.clone())
            .map_err(|error| chain(&error))?;
        self.keep_to(answer.pacemakers);
        let directory = Arc::clone(&self.directory);
        tokio::task::spawn_blocking(move || directory.keep_identity(&identity, None))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        Ok(self.tls.expires())
    }
}

/// On a pacemaker, which has the authority: signs the node's own key anew. False elsewhere. Blocks.
///
/// A pacemaker needs nobody for it: after a night without power all certificates have ended, and
/// somebody has to begin.
pub(crate) fn sign_own(directory: &NodeDirectory, tls: &Tls) -> Result<bool, String> {
    let Some(authority) = Authority::load(&directory.tls()).map_err(|error| chain(&error))? else {
        return Ok(false);
    };
    let present = tls.identity();
    let subject = Subject {
        cluster: present.cluster.clone(),
        node: present.node,
        roles: present.roles.clone(),
    };
    // As long as the present one was signed for.
    let life = Span(tls.expires().since(tls.renew_at()).0.saturating_mul(2));
    let identity = authority
        .reissue(&present.key, &subject, now(), life)
        .map_err(|error| chain(&error))?;
    directory
        .keep_identity(&identity, None)
        .map_err(|error| error.to_string())?;
    tls.replace(identity).map_err(|error| chain(&error))?;
    Ok(true)
}
