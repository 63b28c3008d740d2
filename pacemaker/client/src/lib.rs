//! Typed HTTP client of a Paasmaker cluster.
//!
//! A [`Client`] knows one or more pacemakers; it keeps to the one that answered last and tries the
//! others when that one cannot be reached or cannot answer now. It shows a bearer token or a node's
//! certificate ([`tls`]), never prints either, and turns every answer that is not a success into an
//! [`Error`] with the problem document in it. Used by hearts and routers (watches, reports, packages),
//! by pacemakers among themselves and by the command line. [`join()`] makes a machine a node.
//!
//! It decides nothing and retries only what is safe: a request that changes something carries an
//! `Idempotency-Key` when its caller gives one, and what carries none has the same effect twice.

mod administration;
mod connections;
mod crons;
mod error;
mod gate;
mod join;
mod logs;
mod packages;
pub mod tls;
mod transport;

use common::api::{
    ApplicationView, ClusterView, CreateWorkspace, DeployRequest, Explanation, JobStarted, JobView,
    NodeRegistered, ScaleRequest, paths,
};
use common::assignment::{Assignment, Report};
use common::id::{
    ApplicationId, Generation, InstanceId, JobId, NodeId, VersionNumber, WorkspaceStub,
};
use common::job::Job;
use common::node::{Node, NodeDescription};
use common::routing_table::RoutingTable;
use common::workspace::Workspace;
use reqwest::Method;

pub use crate::connections::Connections;
pub use crate::error::Error;
pub use crate::gate::Gate;
pub use crate::join::{JoinError, fetch_authority, join};
pub use crate::logs::{LogChunk, LogPosition};
pub use crate::packages::{Stored, UPLOAD_LENGTH};
use crate::tls::Tls;
use crate::transport::{Transport, read_json};

/// A connection to a cluster; cloning it shares its connections.
#[derive(Clone, Debug)]
pub struct Client {
    transport: Transport,
}

/// What `pm why` is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhySubject {
    /// An application.
    Application(ApplicationId),
    /// An instance.
    Instance(InstanceId),
    /// A job.
    Job(JobId),
}

/// What can be asked of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionAction {
    /// Start its instances beside the current version's.
    Start,
    /// Stop its instances.
    Stop,
    /// Make it current.
    Promote,
    /// Remove its instances from their nodes.
    Deregister,
}

impl VersionAction {
    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Promote => "promote",
            Self::Deregister => "deregister",
        }
    }
}

impl Client {
    /// Makes a client for these endpoints (`http://host:port`) and this bearer token.
    ///
    /// # Errors
    /// Refuses an empty list, an endpoint that is no URL and a token that no header can carry;
    /// reaches for nothing yet.
    pub fn new(endpoints: &[String], token: &str) -> Result<Self, Error> {
        Ok(Self {
            transport: Transport::with_token(endpoints, token, None)?,
        })
    }

    /// Makes a client of a person for these endpoints (`https://host:port`): it talks only to
    /// pacemakers that the authority (PEM) has signed.
    ///
    /// # Errors
    /// As [`Client::new`], and refuses what is no certificate.
    pub fn with_authority(
        endpoints: &[String],
        token: &str,
        authority_pem: &str,
    ) -> Result<Self, Error> {
        Ok(Self {
            transport: Transport::with_token(endpoints, token, Some(authority_pem))?,
        })
    }

    /// Makes a client of a node for these endpoints (`https://host:port`): it shows the node's
    /// certificate of the moment.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_tls(endpoints: &[String], tls: &Tls) -> Result<Self, Error> {
        Ok(Self {
            transport: Transport::with_tls(endpoints, tls)?,
        })
    }

    /// Knows these pacemakers from now on, and so do all clones. What is no URL is left out; a list
    /// without any changes nothing.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the list is the client's from now on"
    )]
    pub fn set_endpoints(&self, endpoints: Vec<String>) {
        self.transport.set_endpoints(&endpoints);
    }

    /// The pacemakers that it knows.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.transport.endpoints()
    }

    /// The cluster in a few numbers.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cluster(&self) -> Result<ClusterView, Error> {
        self.transport
            .get("describe the cluster", paths::CLUSTER, &[])
            .await
    }

    /// Blocks until there is an assignment newer than `after`; `None` when there was none in time.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn watch_assignment(
        &self,
        node: NodeId,
        after: Generation,
    ) -> Result<Option<Assignment>, Error> {
        let path = fill(paths::ASSIGNMENT, &[("{node}", &node.to_string())]);
        self.transport
            .watch(
                "watch the node's assignment",
                &path,
                &[("after", after.to_string())],
            )
            .await
    }

    /// Blocks until there is a routing table newer than `after`; `None` when there was none in time.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn watch_routes(&self, after: Generation) -> Result<Option<RoutingTable>, Error> {
        self.transport
            .watch(
                "watch the routes",
                paths::ROUTES,
                &[("after", after.to_string())],
            )
            .await
    }

    /// The routing table as it is.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn routes(&self) -> Result<Option<RoutingTable>, Error> {
        self.transport
            .watch(
                "read the routes",
                paths::ROUTES,
                &[("wait", "false".to_owned())],
            )
            .await
    }

    /// Where pacemakers answer now, as `https://host:port`; see [`Client::set_endpoints`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn pacemakers(&self) -> Result<Vec<String>, Error> {
        self.transport
            .get("list the pacemakers", paths::PACEMAKERS, &[])
            .await
    }

    /// Tells the leader what this node sees.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn report(&self, report: &Report) -> Result<(), Error> {
        self.transport
            .report("report", paths::REPORTS, report)
            .await
    }

    /// Registers a node, or updates what is known of it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn register_node(&self, description: &NodeDescription) -> Result<NodeId, Error> {
        let action = "register the node";
        let response = self
            .transport
            .change(action, Method::POST, paths::NODES, description, None)
            .await?;
        read_json::<NodeRegistered>(action, response)
            .await
            .map(|registered| registered.node)
    }

    /// All nodes.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        self.transport
            .get("list the nodes", paths::NODES, &[])
            .await
    }

    /// All workspaces.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn workspaces(&self) -> Result<Vec<Workspace>, Error> {
        self.transport
            .get("list the workspaces", paths::WORKSPACES, &[])
            .await
    }

    /// Makes a workspace.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_workspace(
        &self,
        body: &CreateWorkspace,
        key: &str,
    ) -> Result<Workspace, Error> {
        let action = "create the workspace";
        let response = self
            .transport
            .change(action, Method::POST, paths::WORKSPACES, body, Some(key))
            .await?;
        read_json(action, response).await
    }

    /// Starts a deployment of an uploaded source.
    ///
    /// # Errors
    /// See [`Error`]; a manifest's faults are in the problem document.
    pub async fn deploy(&self, request: &DeployRequest, key: &str) -> Result<JobStarted, Error> {
        let action = "deploy";
        let response = self
            .transport
            .change(action, Method::POST, paths::DEPLOYMENTS, request, Some(key))
            .await?;
        read_json(action, response).await
    }

    /// Applications of a workspace, or of all; `name` narrows to one.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn applications(
        &self,
        workspace: Option<&WorkspaceStub>,
        name: Option<&str>,
    ) -> Result<Vec<ApplicationView>, Error> {
        let mut query = Vec::new();
        if let Some(workspace) = workspace {
            query.push(("workspace", workspace.to_string()));
        }
        if let Some(name) = name {
            query.push(("name", name.to_owned()));
        }
        self.transport
            .get("list the applications", paths::APPLICATIONS, &query)
            .await
    }

    /// One application.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn application(&self, application: ApplicationId) -> Result<ApplicationView, Error> {
        let path = fill(
            paths::APPLICATION,
            &[("{application}", &application.to_string())],
        );
        self.transport.get("read the application", &path, &[]).await
    }

    /// Goes back to the version before.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn rollback(
        &self,
        application: ApplicationId,
        key: &str,
    ) -> Result<JobStarted, Error> {
        let action = "roll the application back";
        let path = fill(
            paths::ROLLBACK,
            &[("{application}", &application.to_string())],
        );
        let response = self
            .transport
            .change(action, Method::POST, &path, &(), Some(key))
            .await?;
        read_json(action, response).await
    }

    /// Changes the number of instances of the current version.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn scale(
        &self,
        application: ApplicationId,
        request: &ScaleRequest,
        key: &str,
    ) -> Result<ApplicationView, Error> {
        let action = "scale the application";
        let path = fill(paths::SCALE, &[("{application}", &application.to_string())]);
        let response = self
            .transport
            .change(action, Method::PUT, &path, request, Some(key))
            .await?;
        read_json(action, response).await
    }

    /// Starts, stops, promotes or deregisters a version.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn version_action(
        &self,
        application: ApplicationId,
        version: VersionNumber,
        action: VersionAction,
        key: &str,
    ) -> Result<JobStarted, Error> {
        let doing = "change the version";
        let path = fill(
            paths::VERSION_ACTION,
            &[
                ("{application}", &application.to_string()),
                ("{version}", &version.to_string()),
                ("{action}", action.as_str()),
            ],
        );
        let response = self
            .transport
            .change(doing, Method::POST, &path, &(), Some(key))
            .await?;
        read_json(doing, response).await
    }

    /// Jobs, newest first.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn jobs(
        &self,
        application: Option<ApplicationId>,
        limit: u32,
    ) -> Result<Vec<Job>, Error> {
        let mut query = vec![("limit", limit.to_string())];
        if let Some(application) = application {
            query.push(("application", application.to_string()));
        }
        self.transport
            .get("list the jobs", paths::JOBS, &query)
            .await
    }

    /// A job as it is.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn job(&self, job: JobId) -> Result<JobView, Error> {
        let path = fill(paths::JOB, &[("{job}", &job.to_string())]);
        self.transport.get("read the job", &path, &[]).await
    }

    /// Blocks until a job has changed after `after`; `None` when it has not in time.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn watch_job(&self, job: JobId, after: Generation) -> Result<Option<JobView>, Error> {
        let path = fill(paths::JOB, &[("{job}", &job.to_string())]);
        self.transport
            .watch("follow the job", &path, &[("after", after.to_string())])
            .await
    }

    /// Ends a job.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn abort_job(&self, job: JobId, key: &str) -> Result<(), Error> {
        let path = fill(paths::JOB_ABORT, &[("{job}", &job.to_string())]);
        self.transport
            .change("abort the job", Method::POST, &path, &(), Some(key))
            .await
            .map(|_| ())
    }

    /// Why something is as it is.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn why(&self, subject: WhySubject) -> Result<Explanation, Error> {
        let query = match subject {
            WhySubject::Application(id) => ("application", id.to_string()),
            WhySubject::Instance(id) => ("instance", id.to_string()),
            WhySubject::Job(id) => ("job", id.to_string()),
        };
        self.transport.get("explain", paths::WHY, &[query]).await
    }
}

/// Puts values into a path of [`paths`]. The values are numbers, digests and fixed words: nothing to encode.
fn fill(path: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(path.to_owned(), |path, (name, value)| {
        path.replace(name, value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: &str = "http://127.0.0.1:4250";

    #[test]
    fn token_is_never_printed() {
        let client = Client::new(&[ENDPOINT.to_owned()], "secret-token").unwrap();

        let printed = format!("{client:?}");

        assert!(printed.contains(ENDPOINT), "{printed}");
        assert!(!printed.contains("secret-token"), "{printed}");
    }

    #[test]
    fn token_that_no_header_can_carry_is_refused_at_once() {
        let error = Client::new(&[ENDPOINT.to_owned()], "line\nbreak").unwrap_err();

        assert!(matches!(error, Error::Configuration { .. }), "{error}");
        assert!(!error.is_unreachable());
    }
}
