//! Job logs of several pacemakers: nothing that was acknowledged is lost with a leader.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use common::id::JobId;
use common::node::{NodeDescription, Role};
use pacemaker_client::Client;

use crate::deploy::begin;
use crate::group::Group;
use crate::harness::{NODE, eventually};
use crate::node::description;

#[tokio::test]
async fn piece_that_any_pacemaker_takes_is_shown_by_all() {
    let group = Group::of(3).await;
    let job = job(&group).await;
    let mut followers = Vec::new();
    for pacemaker in group.running.values() {
        let client = pacemaker.administrator();
        followers.push(tokio::spawn(async move {
            client.job_log(job, 0, true).await.unwrap()
        }));
    }

    let mut length = 0;
    for (member, pacemaker) in &group.running {
        let line = Bytes::from(format!("by {member}\n"));
        let next = pacemaker.node().append_job_log(job, length, line).await;
        length = next.unwrap();
    }

    assert_eq!(length, 15);
    for follower in followers {
        let chunk = tokio::time::timeout(Duration::from_secs(10), follower).await;
        assert!(chunk.unwrap().unwrap().bytes.starts_with(b"by 1\n"));
    }
    for pacemaker in group.running.values() {
        let client = pacemaker.administrator();
        assert_eq!(text(&client, job).await, "by 1\nby 2\nby 3\n");
    }
}

#[tokio::test]
async fn builder_goes_on_after_the_leader_died_and_nothing_is_lost() {
    let mut group = Group::of(3).await;
    let job = job(&group).await;
    let mut expected = String::new();

    for round in 0..3 {
        let builder = builder(&group);
        for line in 0..20 {
            let line = format!("round {round} line {line}\n");
            append(&builder, job, &expected, &line).await;
            expected.push_str(&line);
        }
        let leader = group.leader().await;
        group.crash(leader);
        let builder = self::builder(&group);
        let line = format!("round {round} without {leader}\n");
        append(&builder, job, &expected, &line).await;
        expected.push_str(&line);
        group.start(leader).await;
        group.running[&leader].ready().await;
        // Was away, and shows all of it.
        let client = group.running[&leader].administrator();
        assert_eq!(text(&client, job).await, expected);
    }

    for pacemaker in group.running.values() {
        assert_eq!(text(&pacemaker.administrator(), job).await, expected);
    }
}

#[tokio::test]
async fn log_that_only_the_majority_has_outlives_its_leader() {
    let mut group = Group::of(3).await;
    let job = job(&group).await;
    let leader = group.leader().await;
    let (late, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    group.crash(late);
    append(&builder(&group), job, "", "acknowledged\n").await;

    // One of the two that have it is gone, and either of those that are left may lead.
    group.start(late).await;
    group.running[&late].ready().await;
    group.crash(leader);
    append(&builder(&group), job, "acknowledged\n", "and more\n").await;

    for member in [late, other] {
        let client = group.running[&member].administrator();
        assert_eq!(text(&client, job).await, "acknowledged\nand more\n");
    }
}

#[tokio::test]
async fn log_of_a_job_that_has_ended_is_closed_and_ends_everywhere() {
    let group = Group::of(3).await;
    let job = job(&group).await;
    append(&builder(&group), job, "", "last words\n").await;
    let client = group.client();
    client.abort_job(job, "key").await.unwrap();

    for pacemaker in group.running.values() {
        let builder = pacemaker.node();
        let refused = builder.append_job_log(job, 11, Bytes::from("late"));
        let refusal = refused.await.unwrap_err();
        let code = refusal.problem().map(|problem| problem.code.as_str());
        assert_eq!(code, Some("job_ended"));
        let client = pacemaker.administrator();
        let end = eventually("the log has ended", async || {
            let chunk = client.job_log(job, 0, true).await.unwrap();
            chunk.is_end.then_some(chunk)
        })
        .await;
        assert_eq!(end.bytes, "last words\n");
    }
}

/// A job that goes on for as long as the test.
async fn job(group: &Group) -> JobId {
    let heart = NodeDescription {
        key: "heart".to_owned(),
        roles: BTreeSet::from([Role::Heart, Role::Router]),
        ..description("http://127.0.0.1:1")
    };
    builder(group).register_node(&heart).await.unwrap();
    begin(&group.client(), b"source").await
}

fn builder(group: &Group) -> Client {
    let urls: Vec<String> = group
        .running
        .values()
        .map(|pacemaker| pacemaker.url.clone())
        .collect();
    Client::new(&urls, NODE).unwrap()
}

/// As a builder does: again and again, at the offset that it is told.
async fn append(builder: &Client, job: JobId, before: &str, line: &str) {
    let begin = before.len() as u64;
    let end = begin + line.len() as u64;
    eventually("the piece is acknowledged", async || {
        let bytes = Bytes::from(line.to_owned());
        let length = builder.append_job_log(job, begin, bytes).await.ok()?;
        assert!(length >= begin, "{length}: something acknowledged is lost");
        (length == end).then_some(())
    })
    .await;
}

async fn text(client: &Client, job: JobId) -> String {
    let chunk = client.job_log(job, 0, false).await.unwrap();
    String::from_utf8(chunk.bytes.to_vec()).unwrap()
}
