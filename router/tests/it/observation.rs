//! What an operator sees: metrics, the access log, the table's route.

use common::digest::Digest;
use serde_json::Value;

use crate::harness::backend::Application;
use crate::harness::{World, eventually, route};

#[tokio::test]
async fn requests_are_counted_by_instance_type() {
    let application = Application::start("one").await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;

    for _ in 0..3 {
        let body = world
            .request(reqwest::Method::POST, "one.test", "/echo")
            .body("12345")
            .send()
            .await
            .unwrap();
        assert_eq!(body.text().await.unwrap(), "12345");
    }
    assert_eq!(world.get("one.test", "/nothing").await.status(), 404);
    assert_eq!(world.get("unknown.test", "/").await.status(), 404);

    let labels = "workspace=\"test\",application=\"shop\",instance_type=\"web\"";
    let count = |class: &str| {
        world.metric(&format!(
            "pm_router_requests_total{{{labels},class=\"{class}\"}}"
        ))
    };
    eventually("every request is counted", || {
        // What is in flight is counted down last.
        count("2xx") == 3.0
            && count("4xx") == 1.0
            && world.metric("pm_router_requests_in_flight") == 0.0
    })
    .await;
    assert_eq!(
        world.metric(&format!("pm_router_request_bytes_total{{{labels}}}")),
        15.0
    );
    assert_eq!(
        world.metric(&format!("pm_router_response_bytes_total{{{labels}}}")),
        15.0
    );
    assert_eq!(
        world.metric("pm_router_request_duration_seconds_count"),
        4.0
    );
    assert_eq!(
        world.metric("pm_router_refusals_total{code=\"no_route\"}"),
        1.0
    );
    assert_eq!(world.metric("pm_router_table_generation"), 1.0);
    let text = (world.router.metrics)();
    assert!(!text.contains("# EOF"), "{text}");
    assert!(
        text.contains("# TYPE pm_router_requests counter\n"),
        "{text}"
    );
}

#[tokio::test]
async fn every_request_leaves_one_line_in_the_access_log() {
    let application = Application::start("one").await;
    let world = World::start_with(|config| config.access_log = true).await;
    world
        .publish(&[("one.test", route(&[(9, application.address)]))])
        .await;

    assert_eq!(
        world.get("one.test", "/path/x?token=secret").await.status(),
        200
    );
    assert_eq!(world.get("unknown.test", "/").await.status(), 404);
    let log = world.directory.path().join("router/access.log");
    let mut lines: Vec<Value> = Vec::new();
    eventually("both lines are written", || {
        let text = std::fs::read_to_string(&log).unwrap();
        lines = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        lines.len() == 2
    })
    .await;

    let served = &lines[0];
    assert_eq!(served["host"], "one.test");
    assert_eq!(served["method"], "GET");
    assert_eq!(served["path"], "/path/x");
    assert_eq!(served["status"], 200);
    assert_eq!(served["application"], "shop");
    assert_eq!(served["instance_type"], "web");
    assert_eq!(served["version"], 1);
    assert_eq!(served["instance"], 9);
    assert_eq!(served["bytes_out"], "/path/x?token=secret".len());
    assert_eq!(served["request_id"].as_str().unwrap().len(), 32);
    assert!(served["upstream_us"].as_u64() <= served["duration_us"].as_u64());
    assert_eq!(lines[1]["error"], "no_route");
    assert_eq!(lines[1]["status"], 404);
}

#[tokio::test]
async fn the_access_log_names_the_host_of_an_http_2_request() {
    let application = Application::start("one").await;
    let world = World::start_with(|config| config.access_log = true).await;
    world
        .publish(&[("one.test", route(&[(9, application.address)]))])
        .await;

    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .resolve("one.test", world.address())
        .build()
        .unwrap();
    let host = format!("one.test:{}", world.address().port());
    let answer = client.get(format!("http://{host}/")).send().await.unwrap();
    assert_eq!(answer.status(), 200);

    let log = world.directory.path().join("router/access.log");
    let mut line = Value::Null;
    eventually("the line is written", || {
        let text = std::fs::read_to_string(&log).unwrap();
        line = serde_json::from_str(&text).unwrap_or_default();
        line.is_object()
    })
    .await;
    assert_eq!(line["host"], host);
}

#[tokio::test]
async fn the_api_says_which_table_is_applied() {
    use tower::ServiceExt as _;

    let world = World::start_with(|config| {
        config.token_hashes = vec![Digest::of(b"known").to_string()];
    })
    .await;
    let generation = world.publish(&[("one.test", route(&[]))]).await;

    let ask = async |authorization: &str| {
        let request = axum::extract::Request::get("/v1/router/table")
            .header("authorization", authorization)
            .body(axum::body::Body::empty())
            .unwrap();
        world.router.routes.clone().oneshot(request).await.unwrap()
    };
    for stranger in ["", "known", "Bearer ", "Bearer other", "Basic known"] {
        assert_eq!(ask(stranger).await.status(), 401, "{stranger}");
    }
    let answer = ask("Bearer known").await;
    assert_eq!(answer.status(), 200);
    let bytes = axum::body::to_bytes(answer.into_body(), 4096)
        .await
        .unwrap();
    let view: Value = serde_json::from_slice(&bytes).unwrap();

    assert_eq!(view["generation"], generation.0);
    assert_eq!(view["applied"], generation.0);
    assert_eq!(
        view["workers"],
        serde_json::json!([generation.0, generation.0])
    );
    assert_eq!(view["routes"], 1);
}
