//! Pieces of output against a small server of logs.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use common::api::{LOG_OFFSET, paths};

use super::*;

/// A job's log, and how many answers get lost before one arrives.
type Log = Arc<Mutex<(Vec<u8>, u32)>>;

#[tokio::test]
async fn piece_whose_answer_was_lost_is_in_the_log_once() {
    let directory = tempfile::tempdir().unwrap();
    let output = log::segment_path(directory.path(), 0);
    let log: Log = Arc::new(Mutex::new((Vec::new(), 1)));
    let routes = axum::Router::new()
        .route(paths::JOB_LOG, axum::routing::post(append))
        .with_state(Arc::clone(&log));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, routes).into_future());
    let client = Client::new(&[endpoint], "token").unwrap();
    let mut forwarder = Forwarder::new(client, JobId(1), directory.path().to_owned());

    fs::write(&output, "one\n").unwrap();
    assert_eq!(
        forwarder.send_some().await,
        Sent::Nothing,
        "the answer is lost"
    );
    fs::write(&output, "one\ntwo\n").unwrap();
    while forwarder.send_some().await != Sent::Everything {}

    assert_eq!(log.lock().unwrap().0, b"one\ntwo\n");
}

async fn append(
    State(log): State<Log>,
    Query(query): Query<BTreeMap<String, u64>>,
    piece: Bytes,
) -> Response {
    let mut log = log.lock().unwrap();
    let length = log.0.len() as u64;
    if query["offset"] != length {
        let header = [(LOG_OFFSET, length.to_string())];
        return (StatusCode::CONFLICT, header).into_response();
    }
    log.0.extend_from_slice(&piece);
    if log.1 > 0 {
        log.1 -= 1;
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let header = [(LOG_OFFSET, log.0.len().to_string())];
    (StatusCode::NO_CONTENT, header).into_response()
}
