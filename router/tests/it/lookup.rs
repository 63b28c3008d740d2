//! Which route a request takes.

use crate::harness::backend::Application;
use crate::harness::wire::Wire;
use crate::harness::{World, route};

#[tokio::test]
async fn hostnames_find_their_application() {
    let exact = Application::start("exact").await;
    let wildcard = Application::start("wildcard").await;
    let deeper = Application::start("deeper").await;
    let world = World::start().await;
    world
        .publish(&[
            ("shop.example.test", route(&[(1, exact.address)])),
            ("*.example.test", route(&[(2, wildcard.address)])),
            ("*.eu.example.test", route(&[(3, deeper.address)])),
        ])
        .await;

    for (host, expected) in [
        ("shop.example.test", "exact"),
        ("SHOP.Example.Test", "exact"),
        ("shop.example.test:4253", "exact"),
        ("shop.example.test.", "exact"),
        ("shop.example.test.:80", "exact"),
        ("other.example.test", "wildcard"),
        ("a.b.example.test", "wildcard"),
        ("a.eu.example.test", "deeper"),
        ("eu.example.test", "wildcard"),
    ] {
        assert_eq!(world.text(host).await, expected, "{host}");
    }
}

#[tokio::test]
async fn what_cannot_be_routed_says_why() {
    let world = World::start().await;
    world.publish(&[("empty.test", route(&[]))]).await;

    for (request, status, code) in [
        ("GET / HTTP/1.1\r\n\r\n", 400, "no_host"),
        ("GET / HTTP/1.0\r\n\r\n", 400, "no_host"),
        (
            "GET / HTTP/1.1\r\nhost: unknown.test\r\n\r\n",
            404,
            "no_route",
        ),
        ("GET / HTTP/1.1\r\nhost: [::1]:80\r\n\r\n", 404, "no_route"),
        (
            "GET / HTTP/1.1\r\nhost: empty.test\r\n\r\n",
            503,
            "no_backend",
        ),
        (
            "GET / HTTP/1.1\r\nhost: a.test\r\nhost: b.test\r\n\r\n",
            400,
            "host_mismatch",
        ),
        (
            "GET http://a.test/ HTTP/1.1\r\nhost: b.test\r\n\r\n",
            400,
            "host_mismatch",
        ),
        (
            "CONNECT a.test:80 HTTP/1.1\r\nhost: a.test:80\r\n\r\n",
            405,
            "bad_method",
        ),
        (
            "POST / HTTP/1.1\r\nhost: a.test\r\nexpect: a-cake\r\n\r\n",
            417,
            "bad_expectation",
        ),
    ] {
        let mut wire = Wire::connect(world.address()).await;
        wire.send(request).await;
        let answer = wire.read_answer().await.expect(request);
        assert_eq!(answer.status, status, "{request}");
        assert_eq!(answer.header("x-pm-router-error"), Some(code), "{request}");
        assert!(!answer.body.is_empty(), "{request}");
    }
}

#[tokio::test]
async fn an_absolute_target_that_agrees_with_host_is_forwarded_in_origin_form() {
    let application = Application::start("one").await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;

    let mut wire = Wire::connect(world.address()).await;
    wire.send("GET http://one.test/path/a?b=c HTTP/1.1\r\nhost: ONE.test\r\n\r\n")
        .await;
    let answer = wire.read_answer().await.unwrap();

    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, b"/path/a?b=c");
}

#[tokio::test]
async fn http_1_0_and_http_2_clients_are_served() {
    let application = Application::start("one").await;
    let world = World::start().await;
    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;

    let mut wire = Wire::connect(world.address()).await;
    wire.send("GET / HTTP/1.0\r\nhost: one.test\r\n\r\n").await;
    let answer = String::from_utf8(wire.read_to_end().await).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert!(answer.ends_with("\r\n\r\none"), "{answer}");

    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .resolve("one.test", world.address())
        .build()
        .unwrap();
    let url = format!("http://one.test:{}/echo", world.address().port());
    let answer = client.post(url).body("over h2").send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert_eq!(answer.text().await.unwrap(), "over h2");
}

#[tokio::test]
async fn a_load_balancer_is_told_whether_the_router_serves() {
    let application = Application::start("one").await;
    let world = World::start().await;
    let ask = async |request: &str| {
        let mut wire = Wire::connect(world.address()).await;
        wire.send(request).await;
        wire.read_answer().await.unwrap()
    };
    let question = "GET /healthz HTTP/1.1\r\nhost: 10.0.0.1:4253\r\n\r\n";

    assert_eq!(ask(question).await.status, 503, "there is no table yet");

    world
        .publish(&[("one.test", route(&[(1, application.address)]))])
        .await;
    let answer = ask(question).await;
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok\n"[..]));
    let answer = ask("POST /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(answer.status, 404);
    // Who has a name has all its paths.
    let answer = ask("GET /healthz HTTP/1.1\r\nhost: one.test\r\n\r\n").await;
    assert_ne!(answer.body, b"ok\n");
    assert_eq!(application.requests(), 1);
}
