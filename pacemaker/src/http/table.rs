//! Every endpoint, once: its path, who may use it, what goes in and out, and what answers it.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodRouter, delete, get, head, post, put};
use common::api::{
    ApplicationView, CertificateAnswer, CertificateRequest, ClusterStatus, ClusterView,
    CreateJoinToken, CreateWorkspace, CronRequest, CronRunView, CronView, DeployRequest,
    Explanation, JobStarted, JobView, JoinAnswer, JoinRequest, JoinTokenCreated, NodeRegistered,
    NodeView, ScaleRequest, paths,
};
use common::assignment::{Assignment, Report};
use common::job::Job;
use common::node::{Node, NodeDescription, Role};
use common::routing_table::RoutingTable;
use common::workspace::Workspace;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::http::authentication::{Access, Patience};
use crate::http::nodes::administration;
use crate::http::{
    Api, applications, certificates, cluster, crons, deployments, jobs, join, nodes, openapi,
    packages, peer, reports, routes, tokens, why, workspaces,
};
use crate::peers::{REPLICA_CRON_LOG, REPLICA_JOB_LOG, REPLICA_PACKAGE, REPLICA_PACKAGES};

/// Readiness; outside `/v1`, for supervisors and load balancers.
pub(crate) const READYZ: &str = "/readyz";

/// One method of one path.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) access: Access,
    pub(crate) patience: Patience,
    /// Name and meaning of what may follow the question mark.
    pub(crate) query: Vec<(&'static str, &'static str)>,
    pub(crate) body: Shape,
    pub(crate) answers: Vec<(u16, Shape)>,
    pub(crate) handler: MethodRouter<Arc<Api>>,
}

/// The form of a body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// There is none.
    Nothing,
    /// JSON of this schema.
    Json(fn(&mut SchemaGenerator) -> Schema),
    /// Any JSON.
    AnyJson,
    /// Bytes.
    Bytes,
    /// Text.
    Text,
}

fn json<T: JsonSchema>() -> Shape {
    Shape::Json(SchemaGenerator::subschema_for::<T>)
}

impl Endpoint {
    fn new(
        method: &'static str,
        path: &'static str,
        summary: &'static str,
        handler: MethodRouter<Arc<Api>>,
    ) -> Self {
        Self {
            method,
            path,
            summary,
            access: Access::Administrator,
            patience: Patience::Answer,
            query: Vec::new(),
            body: Shape::Nothing,
            answers: Vec::new(),
            handler,
        }
    }

    fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    fn waits(mut self) -> Self {
        self.patience = Patience::Own;
        self
    }

    fn query(mut self, name: &'static str, meaning: &'static str) -> Self {
        self.query.push((name, meaning));
        self
    }

    fn takes(mut self, body: Shape) -> Self {
        self.body = body;
        self
    }

    fn answers(mut self, status: u16, body: Shape) -> Self {
        self.answers.push((status, body));
        self
    }

    fn watches(self, body: Shape) -> Self {
        self.waits()
            .query("after", "The generation that the client has.")
            .query("wait", "`false`: answer at once.")
            .answers(200, body)
            .answers(204, Shape::Nothing)
    }
}

/// All of them.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    let mut all = cluster_endpoints();
    all.extend(group_endpoints());
    all.extend(application_endpoints());
    all.extend(cron_endpoints());
    all.extend(job_endpoints());
    all.extend(node_endpoints());
    all.extend(identity_endpoints());
    all.extend(package_endpoints());
    all.extend(replica_endpoints());
    all
}

fn cluster_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new(
            "GET",
            READYZ,
            "Whether this pacemaker answers with all that was acknowledged",
            get(cluster::ready),
        )
        .access(Access::Public)
        .answers(200, Shape::Text),
        Endpoint::new(
            "GET",
            paths::OPENAPI,
            "This document",
            get(openapi::document),
        )
        .access(Access::Public)
        .answers(200, Shape::AnyJson),
        Endpoint::new(
            "GET",
            paths::WORKSPACES,
            "All workspaces",
            get(workspaces::list),
        )
        .answers(200, json::<Vec<Workspace>>()),
        Endpoint::new(
            "POST",
            paths::WORKSPACES,
            "Make a workspace",
            post(workspaces::create),
        )
        .takes(json::<CreateWorkspace>())
        .answers(201, json::<Workspace>()),
        Endpoint::new(
            "GET",
            paths::WHY,
            "Why something is as it is",
            get(why::explain),
        )
        .query(
            "application",
            "An application's number; give one of the three.",
        )
        .query("instance", "An instance's number.")
        .query("job", "A job's number.")
        .answers(200, json::<Explanation>()),
        Endpoint::new(
            "GET",
            paths::ROUTES,
            "The routing table",
            get(routes::table),
        )
        .access(Access::Roles(&[Role::Router]))
        .watches(json::<RoutingTable>()),
    ]
}

/// The group of pacemakers.
fn group_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new(
            "GET",
            paths::PEER,
            "Between pacemakers: the binary protocol of the Raft group",
            get(peer::connect),
        )
        // It knows peers before there is a state to look tokens up in.
        .access(Access::Peer)
        .answers(101, Shape::Nothing),
        Endpoint::new(
            "GET",
            paths::CLUSTER,
            "The cluster in a few numbers",
            get(cluster::view),
        )
        .answers(200, json::<ClusterView>()),
        Endpoint::new(
            "GET",
            paths::CLUSTER_STATUS,
            "How each pacemaker stands, and what is wrong",
            get(cluster::status),
        )
        .answers(200, json::<ClusterStatus>()),
        Endpoint::new(
            "DELETE",
            paths::MEMBER,
            "Take a pacemaker out of the group for good",
            delete(cluster::remove_member),
        )
        .answers(204, Shape::Nothing),
    ]
}

fn application_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new(
            "POST",
            paths::DEPLOYMENTS,
            "Deploy an uploaded source",
            post(deployments::create),
        )
        .takes(json::<DeployRequest>())
        .answers(202, json::<JobStarted>()),
        Endpoint::new(
            "GET",
            paths::APPLICATIONS,
            "Applications, of one workspace or of all",
            get(applications::list),
        )
        .query("workspace", "A workspace's stub.")
        .query("name", "An application's name.")
        .answers(200, json::<Vec<ApplicationView>>()),
        Endpoint::new(
            "GET",
            paths::APPLICATION,
            "One application",
            get(applications::view),
        )
        .answers(200, json::<ApplicationView>()),
        Endpoint::new(
            "POST",
            paths::ROLLBACK,
            "Go back to the version before",
            post(applications::roll_back),
        )
        .answers(202, json::<JobStarted>()),
        Endpoint::new(
            "PUT",
            paths::SCALE,
            "Change the number of instances of the current version",
            put(applications::scale),
        )
        .takes(json::<ScaleRequest>())
        .answers(200, json::<ApplicationView>()),
        Endpoint::new(
            "POST",
            paths::VERSION_ACTION,
            "Start, stop, promote or deregister a version",
            post(applications::act_on_version),
        )
        .answers(202, json::<JobStarted>()),
    ]
}

fn cron_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new(
            "GET",
            paths::CRONS,
            "The crons of an application",
            get(crons::list),
        )
        .answers(200, json::<Vec<CronView>>()),
        Endpoint::new(
            "POST",
            paths::CRON_SUSPEND,
            "Take a cron's slots away",
            post(crons::suspend),
        )
        .takes(json::<CronRequest>())
        .answers(204, Shape::Nothing),
        Endpoint::new(
            "POST",
            paths::CRON_RESUME,
            "Give a cron its slots again, from the next on",
            post(crons::resume),
        )
        .takes(json::<CronRequest>())
        .answers(204, Shape::Nothing),
        Endpoint::new(
            "GET",
            paths::APPLICATION_CRON_RUNS,
            "Runs of an application's crons, newest first",
            get(crons::runs),
        )
        .query("cron", "`TYPE/NAME`, or a name that one instance type has.")
        .query("before", "Only runs older than this one.")
        .query("limit", "At most so many.")
        .answers(200, json::<Vec<CronRunView>>()),
        Endpoint::new(
            "POST",
            paths::APPLICATION_CRON_RUNS,
            "Run a cron now",
            post(crons::start),
        )
        .takes(json::<CronRequest>())
        .answers(202, json::<CronRunView>()),
        Endpoint::new(
            "GET",
            paths::CRON_RUN,
            "One run of a cron",
            get(crons::view),
        )
        .answers(200, json::<CronRunView>()),
        Endpoint::new(
            "GET",
            paths::CRON_RUN_LOG,
            "What a run was answered: head, and the beginning of the body",
            get(crons::log),
        )
        .waits()
        .query("after", "The byte offset to begin at.")
        .answers(200, Shape::Text),
    ]
}

fn job_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("GET", paths::JOBS, "Jobs, newest first", get(jobs::list))
            .query("application", "An application's number.")
            .query("limit", "At most so many.")
            .query("before", "Only jobs older than this one.")
            .answers(200, json::<Vec<Job>>()),
        Endpoint::new("GET", paths::JOB, "One job", get(jobs::view)).watches(json::<JobView>()),
        Endpoint::new("POST", paths::JOB_ABORT, "End a job", post(jobs::abort))
            .answers(204, Shape::Nothing),
        Endpoint::new("GET", paths::JOB_LOG, "A job's log", get(jobs::read_log))
            .waits()
            .query("after", "The byte offset to begin at.")
            .query("follow", "`true`: wait when there is nothing new.")
            .answers(200, Shape::Text),
        Endpoint::new(
            "POST",
            paths::JOB_LOG,
            "Append to a job's log",
            post(jobs::append_log),
        )
        // A builder, or a pacemaker that passes its bytes on.
        .access(Access::Roles(&[Role::Heart, Role::Pacemaker]))
        .query("offset", "The byte offset at which the body begins.")
        .takes(Shape::Bytes)
        .answers(204, Shape::Nothing),
        Endpoint::new(
            "GET",
            paths::INSTANCE_LOG,
            "An instance's log, from its node",
            get(nodes::instance_log),
        )
        .waits()
        .query("after", "The byte offset to begin at.")
        .query("tail", "Begin so many lines before the end.")
        .query("follow", "`true`: wait when there is nothing new.")
        .answers(200, Shape::Text),
    ]
}

fn node_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("GET", paths::NODES, "All nodes", get(nodes::list))
            .answers(200, json::<Vec<Node>>()),
        Endpoint::new(
            "POST",
            paths::NODES,
            "Register a node, or update it",
            post(nodes::register),
        )
        .access(Access::Node)
        .takes(json::<NodeDescription>())
        .answers(200, json::<NodeRegistered>()),
        Endpoint::new(
            "GET",
            paths::ASSIGNMENT,
            "What a node should run",
            get(nodes::assignment),
        )
        .access(Access::Roles(&[Role::Heart]))
        .watches(json::<Assignment>()),
        Endpoint::new(
            "POST",
            paths::REPORTS,
            "What a node does run",
            post(reports::take).layer(DefaultBodyLimit::max(reports::REPORT_MAX_BYTES)),
        )
        .access(Access::Node)
        .takes(json::<Report>())
        .answers(204, Shape::Nothing),
    ]
}

/// Who is a node, and what administrators do with it.
fn identity_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("POST", paths::JOIN, "Become a node", post(join::join))
            .access(Access::Public)
            .takes(json::<JoinRequest>())
            .answers(200, json::<JoinAnswer>()),
        Endpoint::new(
            "POST",
            paths::CERTIFICATES,
            "Have a node's certificate renewed, also an expired one",
            post(certificates::renew),
        )
        .access(Access::Renewal)
        .takes(json::<CertificateRequest>())
        .answers(200, json::<CertificateAnswer>()),
        Endpoint::new(
            "GET",
            paths::PACEMAKERS,
            "Where pacemakers answer",
            get(certificates::list_pacemakers),
        )
        .access(Access::Node)
        .answers(200, json::<Vec<String>>()),
        Endpoint::new(
            "POST",
            paths::JOIN_TOKENS,
            "Make a token with which one node may join",
            post(tokens::create),
        )
        .takes(json::<CreateJoinToken>())
        .answers(201, json::<JoinTokenCreated>()),
        Endpoint::new("GET", paths::NODE, "One node", get(administration::view))
            .answers(200, json::<NodeView>()),
        Endpoint::new(
            "DELETE",
            paths::NODE,
            "Forget a node; its certificate is refused from then on",
            delete(administration::remove),
        )
        .answers(204, Shape::Nothing),
        Endpoint::new(
            "POST",
            paths::NODE_DRAIN,
            "Move everything away from a node",
            post(administration::drain),
        )
        .answers(204, Shape::Nothing),
        Endpoint::new(
            "POST",
            paths::NODE_UNDRAIN,
            "Give a drained node work again",
            post(administration::undrain),
        )
        .answers(204, Shape::Nothing),
    ]
}

fn package_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new(
            "HEAD",
            paths::PACKAGE,
            "Whether a package is stored; 404 with `Upload-Offset` when not",
            head(packages::look_up),
        )
        .access(Access::Roles(&[Role::Heart, Role::Pacemaker]))
        .answers(200, Shape::Nothing),
        Endpoint::new(
            "GET",
            paths::PACKAGE,
            "A package, or with `Range: bytes=N-` the rest of it",
            get(packages::download),
        )
        .access(Access::Roles(&[Role::Heart, Role::Pacemaker]))
        .waits()
        .answers(200, Shape::Bytes)
        .answers(206, Shape::Bytes),
        Endpoint::new(
            "PUT",
            paths::PACKAGE,
            "Store a package, or the part of it that begins at `Upload-Offset`",
            put(packages::upload),
        )
        .access(Access::Roles(&[Role::Heart, Role::Pacemaker]))
        .waits()
        .takes(Shape::Bytes)
        .answers(200, Shape::Nothing)
        .answers(201, Shape::Nothing)
        .answers(202, Shape::Nothing),
    ]
}

/// What pacemakers ask of each other.
fn replica_endpoints() -> Vec<Endpoint> {
    let all =
        vec![
        Endpoint::new(
            "GET",
            REPLICA_PACKAGES,
            "Between pacemakers: some of the packages that the one that is asked lacks",
            get(packages::replica_lacking),
        )
        .answers(200, Shape::AnyJson),
        Endpoint::new(
            "HEAD",
            REPLICA_PACKAGE,
            "Between pacemakers: whether a package is whole on the disk of the one that is asked",
            head(packages::replica_look_up),
        )
        .answers(200, Shape::Nothing),
        Endpoint::new(
            "GET",
            REPLICA_PACKAGE,
            "Between pacemakers: a package from the disk of the one that is asked",
            get(packages::replica_download),
        )
        .waits()
        .answers(200, Shape::Bytes)
        .answers(206, Shape::Bytes),
        Endpoint::new(
            "PUT",
            REPLICA_PACKAGE,
            "Between pacemakers: store a package, or the part of it that begins at `Upload-Offset`",
            put(packages::replica_upload),
        )
        .waits()
        .takes(Shape::Bytes)
        .answers(200, Shape::Nothing)
        .answers(201, Shape::Nothing)
        .answers(202, Shape::Nothing),
        Endpoint::new(
            "GET",
            REPLICA_JOB_LOG,
            "Between pacemakers: a job's log from the disk of the one that is asked",
            get(jobs::read_replica_log),
        )
        .query("after", "The byte offset to begin at.")
        .query("completed", "`true`: only when it leads, and has all of it.")
        .answers(200, Shape::Text),
        Endpoint::new(
            "POST",
            REPLICA_JOB_LOG,
            "Between pacemakers: what a job's log is from a byte on",
            post(jobs::put_replica_log),
        )
        .query("offset", "The byte offset at which the body begins.")
        .query("term", "The term of the leader that writes.")
        .takes(Shape::Bytes)
        .answers(204, Shape::Nothing),
        Endpoint::new(
            "GET",
            REPLICA_CRON_LOG,
            "Between pacemakers: a cron run's log from the disk of the one that is asked",
            get(crons::read_replica_log),
        )
        .query("after", "The byte offset to begin at.")
        .answers(200, Shape::Text),
    ];
    all.into_iter()
        .map(|endpoint| endpoint.access(Access::Roles(&[Role::Pacemaker])))
        .collect()
}
