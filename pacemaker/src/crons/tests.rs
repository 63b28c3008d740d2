//! Grants, silence and attempts, without a group.

use std::net::{Ipv4Addr, SocketAddr};

use common::application::{CronKey, CronMethod};
use common::id::{ApplicationId, InstanceId, RunId, VersionNumber};
use common::time::Span;
use pacemaker_core::command::CronResult;
use pacemaker_core::crons::{CronCall, CronTarget};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::*;

fn key() -> CronKey {
    "web/cron".parse().unwrap()
}

fn call() -> CronCall {
    CronCall {
        run: RunId(7),
        attempt: 1,
        scheduled: Timestamp(60_000),
        application: ApplicationId(1),
        cron: key(),
        version: VersionNumber(1),
        method: CronMethod::Get,
        uri: "/ok".to_owned(),
        host: "hello.example.com".to_owned(),
        credentials: None,
        timeout: Span::seconds(5),
        key: None,
    }
}

#[test]
fn pacemaker_that_left_the_group_is_gone_once_this_leader_has_led_for_long() {
    let member = |number, heard| Member {
        number,
        address: String::new(),
        incarnation: String::new(),
        is_voter: true,
        matched: None,
        heard,
    };
    let second = Duration::from_secs(1);
    let members = [member(1, None), member(2, Some(second))];

    assert_eq!(silence_of(NodeId(2), &members, 60 * second), second);
    assert_eq!(silence_of(NodeId(1), &members, 60 * second), 60 * second);
    assert_eq!(silence_of(NodeId(3), &members, 60 * second), 60 * second);
}

fn caller(logs: &std::path::Path) -> Caller {
    Caller {
        wall: WallClock::system(),
        choice: Choice::default(),
        logs: CronLogs::open(logs.to_owned()).unwrap(),
        crash: Crash(None),
    }
}

/// An attempt whose decision was made at `decided`.
fn attempt(decided: Timestamp, target: SocketAddr) -> Attempt {
    Attempt {
        call: call(),
        targets: vec![CronTarget {
            instance: InstanceId(3),
            node: NodeId(2),
            address: target,
        }],
        send_by: SendBy::begin(WallClock::system(), decided),
        may_send: Arc::new(|| true),
        sending: Arc::new(|| ()),
    }
}

async fn made(attempt: Attempt) -> attempt::Ended {
    let directory = tempfile::tempdir().unwrap();
    let (_stop, stopped) = oneshot::channel();
    caller(directory.path()).make(&attempt, stopped).await
}

#[tokio::test]
async fn attempt_that_is_too_late_is_lost_and_blames_no_instance() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = listener.local_addr().unwrap();

    let ended = made(attempt(Timestamp(60_000), target)).await;

    assert_eq!(ended.result, CronResult::Lost, "{ended:?}");
    assert!(ended.words.starts_with("not sent"), "{ended:?}");
    assert_eq!((ended.instance, ended.status), (None, None));
}

#[tokio::test]
async fn instance_that_refuses_in_time_is_blamed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = listener.local_addr().unwrap();
    drop(listener);

    let ended = made(attempt(WallClock::system().now(), target)).await;

    assert_eq!(ended.result, CronResult::Failed, "{ended:?}");
    assert!(ended.words.contains("refuses"), "{ended:?}");
    assert_eq!(ended.instance, Some(InstanceId(3)));
}

#[tokio::test]
async fn attempt_that_is_stopped_closes_its_connection_first_and_keeps_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let attempt = attempt(WallClock::system().now(), listener.local_addr().unwrap());
    let caller = caller(directory.path());
    let logs = caller.logs.clone();
    let (stop, stopped) = oneshot::channel();
    let making = tokio::spawn(async move { caller.make(&attempt, stopped).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }

    let (closed, is_closed) = oneshot::channel();
    let why = attempt::Stopped::Replaced;
    stop.send(attempt::Stop { why, closed }).unwrap();
    is_closed.await.unwrap_err();

    // It reads the end, and no moment later.
    assert_eq!(stream.try_read(&mut [0]).ok(), Some(0));
    let ended = making.await.unwrap();
    assert_eq!(ended.stopped, Some(why), "{ended:?}");
    let log = logs.read(RunId(7), 0).unwrap().unwrap();
    let log = String::from_utf8(log).unwrap();
    assert!(log.contains(why.words()), "{log}");
}
