//! Every endpoint against every kind of caller, from the table of endpoints itself: an endpoint that
//! is not named here fails the test.

use std::collections::BTreeMap;

use common::api::paths;
use common::id::NodeId;
use common::node::Role;
use pacemaker::Authority;
use pacemaker_client::Connections;
use pacemaker_client::tls::{Tls, wall_clock};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::harness::{ADMINISTRATOR, NODE};
use crate::secure::{CLUSTER, Secure, TTL, subject};

/// Who may use an endpoint.
#[derive(Clone, Copy, Debug)]
enum Right {
    Everyone,
    Pacemakers,
    /// Nodes, also with a certificate that has ended.
    Renewal,
    Nodes,
    Roles(&'static [Role]),
    Administrators,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Nobody,
    Certificate(Role),
    /// Of a pacemaker whose certificate has ended.
    Expired,
    /// Signed by the authority of another cluster.
    Stranger,
    Administrator,
    /// A token that counts in clusters without certificates only.
    NodeToken,
}

use Right::{Administrators, Everyone, Nodes, Pacemakers, Renewal, Roles};

const HEART: Right = Roles(&[Role::Heart]);
const ROUTER: Right = Roles(&[Role::Router]);
const PACEMAKER: Right = Roles(&[Role::Pacemaker]);
const HEART_OR_PACEMAKER: Right = Roles(&[Role::Heart, Role::Pacemaker]);

const RIGHTS: &[(&str, &str, Right)] = &[
    ("get", "/readyz", Everyone),
    ("get", paths::OPENAPI, Everyone),
    ("post", paths::JOIN, Everyone),
    ("get", paths::PEER, Pacemakers),
    ("post", paths::CERTIFICATES, Renewal),
    ("get", paths::PACEMAKERS, Nodes),
    ("post", paths::NODES, Nodes),
    ("post", paths::REPORTS, Nodes),
    ("get", paths::ASSIGNMENT, HEART),
    ("get", paths::ROUTES, ROUTER),
    ("head", paths::PACKAGE, HEART_OR_PACEMAKER),
    ("get", paths::PACKAGE, HEART_OR_PACEMAKER),
    ("put", paths::PACKAGE, HEART_OR_PACEMAKER),
    ("post", paths::JOB_LOG, HEART_OR_PACEMAKER),
    ("get", "/v1/replicas/packages", PACEMAKER),
    ("head", "/v1/replicas/packages/{digest}", PACEMAKER),
    ("get", "/v1/replicas/packages/{digest}", PACEMAKER),
    ("put", "/v1/replicas/packages/{digest}", PACEMAKER),
    ("get", "/v1/replicas/jobs/{job}/log", PACEMAKER),
    ("post", "/v1/replicas/jobs/{job}/log", PACEMAKER),
    ("get", "/v1/replicas/cron-runs/{run}/log", PACEMAKER),
    ("get", paths::CLUSTER, Administrators),
    ("get", paths::CLUSTER_STATUS, Administrators),
    ("delete", paths::MEMBER, Administrators),
    ("post", paths::JOIN_TOKENS, Administrators),
    ("get", paths::WORKSPACES, Administrators),
    ("post", paths::WORKSPACES, Administrators),
    ("get", paths::WHY, Administrators),
    ("post", paths::DEPLOYMENTS, Administrators),
    ("get", paths::APPLICATIONS, Administrators),
    ("get", paths::APPLICATION, Administrators),
    ("post", paths::ROLLBACK, Administrators),
    ("put", paths::SCALE, Administrators),
    ("post", paths::VERSION_ACTION, Administrators),
    ("get", paths::JOBS, Administrators),
    ("get", paths::JOB, Administrators),
    ("post", paths::JOB_ABORT, Administrators),
    ("get", paths::JOB_LOG, Administrators),
    ("get", paths::INSTANCE_LOG, Administrators),
    ("get", paths::CRONS, Administrators),
    ("post", paths::CRON_SUSPEND, Administrators),
    ("post", paths::CRON_RESUME, Administrators),
    ("get", paths::APPLICATION_CRON_RUNS, Administrators),
    ("post", paths::APPLICATION_CRON_RUNS, Administrators),
    ("get", paths::CRON_RUN, Administrators),
    ("get", paths::CRON_RUN_LOG, Administrators),
    ("get", paths::NODES, Administrators),
    ("get", paths::NODE, Administrators),
    ("delete", paths::NODE, Administrators),
    ("post", paths::NODE_DRAIN, Administrators),
    ("post", paths::NODE_UNDRAIN, Administrators),
];

/// What an answer shows of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// The endpoint itself answers, whatever it says.
    Answered,
    Unauthenticated,
    Forbidden,
    /// The connection ends in the handshake.
    NoConnection,
}

fn expected(right: Right, caller: Caller) -> Seen {
    match (caller, right) {
        (Caller::Stranger, _) => Seen::NoConnection,
        (_, Everyone)
        | (Caller::Expired, Renewal)
        | (Caller::Administrator, Nodes | Roles(_) | Administrators)
        | (Caller::Certificate(_), Renewal | Nodes)
        | (Caller::Certificate(Role::Pacemaker), Pacemakers) => Seen::Answered,
        (Caller::Certificate(role), Roles(roles)) if roles.contains(&role) => Seen::Answered,
        (Caller::Certificate(_), Pacemakers | Roles(_) | Administrators)
        | (Caller::Administrator, Renewal) => Seen::Forbidden,
        // Tokens are not looked at between pacemakers.
        (Caller::Administrator, Pacemakers)
        | (Caller::Nobody | Caller::Expired | Caller::NodeToken, _) => Seen::Unauthenticated,
    }
}

fn check_table(document: &Value) {
    let known: BTreeMap<(&str, &str), Right> = RIGHTS
        .iter()
        .map(|(method, path, right)| ((*method, *path), *right))
        .collect();
    let mut served = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            if method == "parameters" {
                continue;
            }
            served += 1;
            let is_known = known.contains_key(&(method.as_str(), path.as_str()));
            assert!(is_known, "say who may {method} {path}");
        }
    }
    assert_eq!(served, RIGHTS.len(), "an endpoint of this list is gone");
}

struct Sender {
    caller: Caller,
    client: reqwest::Client,
    token: Option<&'static str>,
}

impl Sender {
    fn with_certificate(caller: Caller, tls: &Tls) -> Self {
        Self {
            caller,
            client: Connections::new(Some(tls)).unwrap().to(NodeId(1)).unwrap(),
            token: None,
        }
    }

    fn with_token(caller: Caller, cluster: &Secure, token: Option<&'static str>) -> Self {
        Self {
            caller,
            client: trusting(cluster).build().unwrap(),
            token,
        }
    }

    /// With a certificate that names this cluster and its first node, of an authority that is not
    /// ours. It believes our servers: it wants to be let in.
    fn stranger(cluster: &Secure) -> Self {
        let other = Authority::create(CLUSTER, wall_clock()).unwrap();
        let identity = other.issue(&subject(NodeId(1), Role::Pacemaker), wall_clock(), TTL);
        let identity = identity.unwrap();
        let shown = format!("{}{}", identity.certificate, identity.key);
        let shown = reqwest::Identity::from_pem(shown.as_bytes()).unwrap();
        Self {
            caller: Caller::Stranger,
            client: trusting(cluster).identity(shown).build().unwrap(),
            token: None,
        }
    }

    async fn send(&self, url: &str, method: &str) -> Seen {
        let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let mut request = self.client.request(method, url);
        if let Some(token) = self.token {
            request = request.bearer_auth(token);
        }
        match request.send().await.map(|answer| answer.status()) {
            Err(_) => Seen::NoConnection,
            Ok(StatusCode::UNAUTHORIZED) => Seen::Unauthenticated,
            Ok(StatusCode::FORBIDDEN) => Seen::Forbidden,
            Ok(_) => Seen::Answered,
        }
    }
}

fn trusting(cluster: &Secure) -> reqwest::ClientBuilder {
    let pem = cluster.authority.certificate().as_bytes();
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(pem).unwrap()])
        .danger_accept_invalid_hostnames(true)
}

#[tokio::test]
async fn s2_every_endpoint_is_for_those_it_is_for() {
    let cluster = Secure::start().await;
    let heart = cluster.join("machine-2", Role::Heart).await;
    let router = cluster.join("machine-3", Role::Router).await;
    let pacemaker = cluster.join("machine-4", Role::Pacemaker).await;
    let expired = cluster.expired(NodeId(4), Role::Pacemaker);
    let senders = [
        Sender::with_token(Caller::Nobody, &cluster, None),
        Sender::with_token(Caller::Administrator, &cluster, Some(ADMINISTRATOR)),
        Sender::with_token(Caller::NodeToken, &cluster, Some(NODE)),
        Sender::with_certificate(Caller::Certificate(Role::Heart), &heart),
        Sender::with_certificate(Caller::Certificate(Role::Router), &router),
        Sender::with_certificate(Caller::Certificate(Role::Pacemaker), &pacemaker),
        Sender::with_certificate(Caller::Expired, &expired),
        Sender::stranger(&cluster),
    ];
    let document = senders[0]
        .client
        .get(format!("{}{}", cluster.url, paths::OPENAPI));
    check_table(&document.send().await.unwrap().json().await.unwrap());

    let mut wrong = Vec::new();
    for (method, path, right) in RIGHTS {
        // What exists may be looked at; what is changed does not exist.
        let node = if *path == paths::ASSIGNMENT {
            "2"
        } else {
            "999"
        };
        let filled = path
            .replace("{node}", node)
            .replace("{digest}", &"a".repeat(64))
            .replace("{action}", "start");
        let filled = ["{application}", "{version}", "{job}", "{instance}"]
            .iter()
            .fold(filled, |path, name| path.replace(name, "999"));
        let url = format!("{}{filled}?wait=false", cluster.url);
        for sender in &senders {
            let seen = sender.send(&url, method).await;
            let expected = expected(*right, sender.caller);
            if seen != expected {
                wrong.push(format!(
                    "{method} {path} by {:?}: {seen:?}, not {expected:?}",
                    sender.caller
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
