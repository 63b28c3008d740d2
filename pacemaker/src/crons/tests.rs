//! Grants, silence and attempts, without a group.

use std::net::{Ipv4Addr, SocketAddr};

use common::application::{CronKey, CronMethod};
use common::id::{ApplicationId, InstanceId, RunId, VersionNumber};
use common::time::Span;
use pacemaker_core::command::CronResult;
use pacemaker_core::crons::{CronCall, CronTarget};
use tokio::net::TcpListener;

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

/// Makes an attempt whose decision was made at `decided`.
async fn attempt(decided: Timestamp, target: SocketAddr) -> attempt::Ended {
    let directory = tempfile::tempdir().unwrap();
    let wall = WallClock::system();
    let caller = Caller {
        wall,
        choice: Choice::default(),
        logs: CronLogs::open(directory.path().to_owned()).unwrap(),
        crash: Crash(None),
    };
    let attempt = Attempt {
        call: call(),
        targets: vec![CronTarget {
            instance: InstanceId(3),
            node: NodeId(2),
            address: target,
        }],
        send_by: SendBy::begin(wall, decided),
        may_send: Arc::new(|| true),
        sending: Arc::new(|| ()),
    };
    caller.make(&attempt).await
}

#[tokio::test]
async fn attempt_that_is_too_late_is_lost_and_blames_no_instance() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = listener.local_addr().unwrap();

    let ended = attempt(Timestamp(60_000), target).await;

    assert_eq!(ended.result, CronResult::Lost, "{ended:?}");
    assert!(ended.words.starts_with("not sent"), "{ended:?}");
    assert_eq!((ended.instance, ended.status), (None, None));
}

#[tokio::test]
async fn instance_that_refuses_in_time_is_blamed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = listener.local_addr().unwrap();
    drop(listener);

    let ended = attempt(WallClock::system().now(), target).await;

    assert_eq!(ended.result, CronResult::Failed, "{ended:?}");
    assert!(ended.words.contains("refuses"), "{ended:?}");
    assert_eq!(ended.instance, Some(InstanceId(3)));
}
