//! Who may ask what, and how every refusal looks.

use common::api::BODY_MAX_BYTES;
use common::assignment::{HeartReport, InstanceReport, Report};
use common::id::InstanceId;
use common::instance::{Failure, FailureCode, InstanceState, OUTPUT_TAIL_MAX_BYTES};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{NODE, Pacemaker, fresh, problem};
use crate::node::description;

#[tokio::test]
async fn request_without_a_known_token_is_refused_everywhere() {
    let (_directory, pacemaker) = fresh().await;

    for (method, path) in operations(&pacemaker).await {
        // A join shows the secret of its token instead.
        let is_public = matches!(&*path, "/readyz" | "/v1/openapi.json" | "/v1/join");
        if is_public || method == Method::HEAD {
            continue;
        }
        let url = format!("{}{path}", pacemaker.url);
        let http = reqwest::Client::new();
        let bare = http.request(method.clone(), &url).send().await.unwrap();
        assert_eq!(bare.headers()["www-authenticate"], "Bearer");
        assert_eq!(
            problem(bare).await,
            (401, "unauthenticated".to_owned()),
            "{path}"
        );
        for token in ["", "x", "administrator-token-0123456789abcdeF"] {
            let answer = http.request(method.clone(), &url).bearer_auth(token);
            assert_eq!(problem(answer.send().await.unwrap()).await.0, 401, "{path}");
        }
        let basic = http.request(method, &url).basic_auth("a", Some("b"));
        assert_eq!(problem(basic.send().await.unwrap()).await.0, 401, "{path}");
    }
}

#[tokio::test]
async fn report_of_a_heart_whose_every_instance_has_failed_is_taken() {
    let (_directory, pacemaker) = fresh().await;
    let client = pacemaker.node();
    let node = client
        .register_node(&description(&pacemaker.url))
        .await
        .unwrap();
    let failed = |id| InstanceReport {
        id: InstanceId(id),
        state: InstanceState::Failed,
        port: None,
        pid: None,
        restarts: 1,
        failure: Some(Failure {
            code: FailureCode::Exited,
            message: "it ended".to_owned(),
            output_tail: "\u{1b}".repeat(OUTPUT_TAIL_MAX_BYTES),
        }),
    };

    let report = Report {
        cluster: String::new(),
        node,
        heart: Some(HeartReport {
            incarnation: 1,
            sequence: 1,
            instances: (1..=200).map(failed).collect(),
            ..HeartReport::default()
        }),
        router: None,
    };

    assert!(serde_json::to_vec(&report).unwrap().len() > BODY_MAX_BYTES);
    client.report(&report).await.unwrap();
}

#[tokio::test]
async fn token_of_a_node_serves_hearts_and_routers_only() {
    let (_directory, pacemaker) = fresh().await;
    let allowed = [
        "POST /v1/nodes",
        "GET /v1/nodes/1/assignment",
        "POST /v1/reports",
        "GET /v1/routes",
        "POST /v1/jobs/1/log",
        "GET /v1/peer",
        "GET /v1/pacemakers",
    ];
    // Where there are no certificates, a pacemaker is a node like others.
    let allowed_under = ["/v1/packages/", "/v1/replicas/"];

    for (method, path) in operations(&pacemaker).await {
        let operation = format!("{method} {path}");
        let is_public = matches!(&*path, "/readyz" | "/v1/openapi.json" | "/v1/join");
        let is_allowed = is_public
            || allowed.contains(&&*operation)
            || allowed_under.iter().any(|under| path.starts_with(under));
        let answer = reqwest::Client::new()
            .request(method, format!("{}{path}?wait=false", pacemaker.url))
            .bearer_auth(NODE)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status() != 403, is_allowed, "{operation}");
    }
}

#[tokio::test]
async fn every_documented_operation_is_served_and_takes_no_other_method() {
    let (_directory, pacemaker) = fresh().await;

    for (method, path) in operations(&pacemaker).await {
        let answer = pacemaker.request(method.clone(), &path);
        let answer = answer.query(&[("wait", "false")]).send().await.unwrap();
        if !answer.status().is_success() && method != Method::HEAD {
            let (_, code) = problem(answer).await;
            assert!(
                code != "path_not_found" && code != "method_not_allowed",
                "{method} {path}: {code}"
            );
        }
        let odd = pacemaker
            .request(Method::PATCH, &path)
            .send()
            .await
            .unwrap();
        assert_eq!(problem(odd).await, (405, "method_not_allowed".to_owned()));
    }
}

#[tokio::test]
async fn id_that_tries_to_escape_leads_nowhere() {
    let (_directory, pacemaker) = fresh().await;
    let long = "9".repeat(5_000);
    let tricks = [
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e",
        "%2e%2e%2f1",
        "1%00",
        "1%2f..",
        "%ff%fe",
        "-1",
        "1;ls",
        "$(id)",
        "0x10",
        "99999999999999999999999",
        &long,
    ];

    for trick in tricks {
        for path in [
            format!("/v1/jobs/{trick}"),
            format!("/v1/jobs/{trick}/log"),
            format!("/v1/applications/{trick}"),
            format!("/v1/instances/{trick}/log"),
            format!("/v1/nodes/{trick}/assignment"),
            format!("/v1/packages/{trick}"),
        ] {
            let answer = raw_get(&pacemaker, &path).await;
            assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
            assert!(
                answer.contains("application/problem+json"),
                "{path}: {answer}"
            );
        }
    }
    for path in [
        "/v1/jobs/../../etc/passwd",
        "/v1/packages/../identity.json",
        "//",
        "/v1",
    ] {
        let answer = raw_get(&pacemaker, path).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn refusals_of_bodies_and_queries_are_problems() {
    let (_directory, pacemaker) = fresh().await;
    let post = |path: &str| pacemaker.request(Method::POST, path);

    let answer = post("/v1/workspaces").body("{}").send().await.unwrap();
    assert_eq!(problem(answer).await, (415, "media_type".to_owned()));
    let answer = post("/v1/workspaces")
        .json(&json!({"name": 1}))
        .send()
        .await
        .unwrap();
    assert_eq!(problem(answer).await, (400, "body_invalid".to_owned()));
    let odd = json!({"name": "a", "stub": "a", "color": "red"});
    let answer = post("/v1/workspaces").json(&odd).send().await.unwrap();
    assert_eq!(problem(answer).await, (400, "body_invalid".to_owned()));
    let bad_name = json!({"name": "a", "stub": "../x"});
    let answer = post("/v1/workspaces").json(&bad_name).send().await.unwrap();
    assert_eq!(problem(answer).await, (400, "body_invalid".to_owned()));
    let huge = json!({"name": "a".repeat(3 * 1024 * 1024), "stub": "a"});
    let answer = post("/v1/workspaces").json(&huge).send().await.unwrap();
    assert_eq!(problem(answer).await, (413, "body_too_large".to_owned()));
    let answer = pacemaker
        .request(Method::GET, "/v1/jobs?limit=many")
        .send()
        .await
        .unwrap();
    assert_eq!(problem(answer).await, (400, "query_invalid".to_owned()));
    for query in ["", "?job=1&application=1"] {
        let path = format!("/v1/why{query}");
        let answer = pacemaker.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(problem(answer).await, (400, "query_invalid".to_owned()));
    }
    let keyed = post("/v1/workspaces").header("idempotency-key", "k".repeat(129));
    let answer = keyed
        .json(&json!({"name": "a", "stub": "a"}))
        .send()
        .await
        .unwrap();
    assert_eq!(
        problem(answer).await,
        (400, "idempotency_key_invalid".to_owned())
    );
    let report = json!({"node": 77});
    let answer = post("/v1/reports").json(&report).send().await.unwrap();
    assert_eq!(problem(answer).await, (404, "node_not_found".to_owned()));
    let answer = pacemaker
        .request(Method::GET, "/v1/jobs/77/log")
        .send()
        .await
        .unwrap();
    assert_eq!(problem(answer).await, (404, "job_not_found".to_owned()));
}

#[tokio::test]
async fn workspace_is_made_once_per_key_and_once_per_stub() {
    let (_directory, pacemaker) = fresh().await;
    let client = pacemaker.administrator();
    let body = serde_json::from_value(json!({"name": "Test", "stub": "test"})).unwrap();

    let made = client.create_workspace(&body, "one").await.unwrap();
    let again = client.create_workspace(&body, "one").await.unwrap();
    let other = serde_json::from_value(json!({"name": "Another", "stub": "test"})).unwrap();
    let refused = client.create_workspace(&other, "two").await.unwrap_err();

    assert_eq!(made, again);
    assert_eq!(refused.problem().unwrap().code, "workspace_exists");
    let stubs: Vec<String> = client
        .workspaces()
        .await
        .unwrap()
        .iter()
        .map(|workspace| workspace.stub.to_string())
        .collect();
    assert_eq!(stubs, ["default", "test"]);
}

#[tokio::test]
async fn metrics_and_health_need_no_token() {
    let (_directory, pacemaker) = fresh().await;
    pacemaker.administrator().cluster().await.unwrap();

    let get = async |path: &str| {
        let answer = reqwest::get(format!("{}{path}", pacemaker.url))
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap()
    };

    assert_eq!(get("/healthz").await, "ok\n");
    let text = get("/metrics").await;
    for name in [
        "pm_pacemaker_raft_flush_seconds",
        "pm_pacemaker_proposals_total",
        "/v1/cluster",
    ] {
        assert!(text.contains(name), "{name}: {text}");
    }
    assert_eq!(text.matches("# EOF").count(), 1);
}

/// Every operation of the OpenAPI document, its parameters filled in.
async fn operations(pacemaker: &Pacemaker) -> Vec<(Method, String)> {
    let answer = reqwest::get(format!("{}/v1/openapi.json", pacemaker.url))
        .await
        .unwrap();
    let document: Value = answer.json().await.unwrap();
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path
            .replace("{digest}", &"0".repeat(64))
            .replace("{action}", "start")
            .replace("{application}", "1")
            .replace("{version}", "1")
            .replace("{instance}", "1")
            .replace("{node}", "1")
            .replace("{job}", "1")
            .replace("{run}", "1");
        for method in methods.as_object().unwrap().keys() {
            let method = method.to_ascii_uppercase().parse().unwrap();
            operations.push((method, path.clone()));
        }
    }
    assert!(operations.len() > 20);
    operations
}

/// A request whose path no client library has tidied up.
async fn raw_get(pacemaker: &Pacemaker, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let address = pacemaker.url.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
        crate::harness::ADMINISTRATOR
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}
