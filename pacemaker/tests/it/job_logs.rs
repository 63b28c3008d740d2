//! Job logs over HTTP, and logs of instances through the pacemaker.

use std::time::Duration;

use bytes::Bytes;
use common::id::JobId;
use pacemaker_client::LogPosition;
use reqwest::Method;

use crate::deploy::begin;
use crate::harness::{fresh, problem};
use crate::node::FakeNode;

#[tokio::test]
async fn builder_appends_and_a_reader_follows_to_the_end() {
    let (_directory, pacemaker) = fresh().await;
    let client = pacemaker.administrator();
    let builder = pacemaker.node();
    let node = FakeNode::start(&builder, &pacemaker.url).await;
    drop(node);
    let job = begin(&client, b"source").await;

    let follower = tokio::spawn({
        let client = client.clone();
        async move { client.job_log(job, 0, true).await.unwrap() }
    });
    let length = builder
        .append_job_log(job, 0, Bytes::from("one\n"))
        .await
        .unwrap();
    assert_eq!(length, 4);
    let repeated = builder
        .append_job_log(job, 0, Bytes::from("one\n"))
        .await
        .unwrap();
    assert_eq!(repeated, 4, "told where to go on, nothing written twice");

    let chunk = follower.await.unwrap();
    assert_eq!(
        (&*chunk.bytes, chunk.next_offset, chunk.is_end),
        (&b"one\n"[..], 4, false)
    );

    client.abort_job(job, "key").await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let chunk = client.job_log(job, 4, true).await.unwrap();
            if chunk.is_end {
                return chunk;
            }
        }
    });
    assert_eq!(end.await.unwrap().next_offset, 4);
}

#[tokio::test]
async fn log_of_no_job_is_refused() {
    let (_directory, pacemaker) = fresh().await;

    let answer = pacemaker
        .request(Method::POST, "/v1/jobs/9/log?offset=0")
        .body("x")
        .send()
        .await
        .unwrap();

    assert_eq!(problem(answer).await, (404, "job_not_found".to_owned()));
    let read = pacemaker.administrator().job_log(JobId(9), 0, false).await;
    assert_eq!(read.unwrap_err().status(), Some(404));
}

#[tokio::test]
async fn log_of_an_instance_comes_from_its_node() {
    let (_directory, pacemaker) = fresh().await;
    let client = pacemaker.administrator();
    let heart = axum::Router::new().route(
        common::api::paths::HEART_INSTANCE_LOG,
        axum::routing::get(async |request: axum::extract::Request| {
            let token = request.headers()["authorization"]
                .to_str()
                .unwrap()
                .to_owned();
            let query = request.uri().query().unwrap_or_default().to_owned();
            ([("pm-log-offset", "42")], format!("{token} {query}"))
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, heart).into_future());
    let _node = FakeNode::start(&pacemaker.node(), &api).await;
    let job = begin(&client, b"source").await;
    let instance = crate::harness::eventually("there is an instance", async || {
        let application = client.job(job).await.ok()?.job.application;
        let view = client.application(application).await.ok()?;
        Some(
            view.versions
                .first()?
                .instance_types
                .first()?
                .instances
                .first()?
                .id,
        )
    })
    .await;

    let chunk = client
        .instance_log(instance, LogPosition::After(7), false)
        .await
        .unwrap();

    let text = String::from_utf8(chunk.bytes.to_vec()).unwrap();
    assert_eq!(
        text,
        format!("Bearer {} after=7&follow=false", crate::harness::NODE)
    );
    assert_eq!(chunk.next_offset, 42);
}
