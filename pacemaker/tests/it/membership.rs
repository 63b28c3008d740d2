//! The group of pacemakers grows, shrinks, and keeps strangers out.

use std::fs;

use common::api::MemberPart;
use common::id::NodeId;

use crate::group::Group;
use crate::harness::{NODE, eventually};

#[tokio::test]
async fn group_goes_from_one_to_three_to_five_and_back_while_members_die() {
    let mut group = Group::found().await;
    group.write("one").await;
    group.join(2).await;
    parts(&group, &[(1, MemberPart::Voter), (2, MemberPart::Learner)]).await;
    group.join(3).await;
    group.voters(3).await;
    group.write("three").await;

    let leader = group.leader().await;
    group.crash(leader);
    group.write("without-the-leader").await;
    group.start(leader).await;
    group.running[&leader].ready().await;
    group.join(4).await;
    group.join(5).await;
    group.voters(5).await;
    group.write("five").await;

    let (first, second) = two_followers(&group).await;
    group.crash(first);
    group.write("four-are-left").await;
    remove(&group, first).await;
    group.voters(4).await;
    remove(&group, second).await;
    group.voters(3).await;
    group.write("back-to-three").await;

    let removed = group.running.remove(&second).unwrap();
    let left: Vec<u64> = group.running.keys().copied().collect();
    for member in &left {
        group.reaches(*member, "back-to-three").await;
        for stub in [
            "one",
            "three",
            "without-the-leader",
            "five",
            "four-are-left",
        ] {
            assert!(
                group.stubs(*member).await.contains(&stub.to_owned()),
                "{stub}"
            );
        }
    }
    assert_eq!(
        readiness(&removed.url).await,
        (503, "member_removed".to_owned())
    );
}

#[tokio::test]
async fn removed_member_that_was_away_does_not_disturb_when_it_returns() {
    let mut group = Group::of(3).await;
    let (removed, _) = two_followers(&group).await;
    group.crash(removed);
    remove(&group, removed).await;
    group.voters(2).await;
    let term = group.view(group.leader().await).await.unwrap().term;

    group.start(removed).await;
    let returned = group.running.remove(&removed).unwrap();
    eventually("it knows that it was removed", async || {
        let (_, code) = readiness(&returned.url).await;
        (code == "member_removed").then_some(())
    })
    .await;

    group.write("afterwards").await;
    let leader = group.leader().await;
    assert_eq!(group.view(leader).await.unwrap().term, term, "no election");
}

#[tokio::test]
async fn last_voters_are_not_removed_when_the_rest_would_have_no_majority() {
    let mut group = Group::of(3).await;
    let (dead, alive) = two_followers(&group).await;
    group.crash(dead);
    let client = group.client();

    let refused = eventually("the removal is refused", async || {
        let removal = client.remove_member(NodeId(alive), "remove").await;
        removal.err().filter(|error| error.status() == Some(409))
    })
    .await;

    assert!(refused.to_string().contains("majority"), "{refused}");
    group.write("still").await;
}

#[tokio::test]
async fn member_with_a_wiped_disk_is_kept_out_until_it_joins_as_another() {
    let mut group = Group::of(3).await;
    group.write("before").await;
    let (wiped, _) = two_followers(&group).await;
    group.crash(wiped);
    fs::remove_dir_all(group.data(wiped)).unwrap();

    group.start(wiped).await;
    group.write("meanwhile").await;
    let impostor = group.running.remove(&wiped).unwrap();
    assert_eq!(readiness(&impostor.url).await.0, 503);
    drop(impostor);
    let client = group.client();
    let status = client.cluster_status().await.unwrap();
    assert!(
        status
            .problems
            .iter()
            .any(|problem| problem.contains(&format!("Node {wiped} "))),
        "{:?}",
        status.problems
    );

    group.join(4).await;
    remove(&group, wiped).await;
    group.voters(3).await;
    group.reaches(4, "before").await;
    group.reaches(4, "meanwhile").await;
}

#[tokio::test]
async fn strangers_are_refused_at_the_door() {
    let group = Group::found().await;
    let url = format!("{}/v1/peer", group.running[&1].url);
    let http = reqwest::Client::new();
    let ask = async |token: &str, cluster: &str, member: u64, target: u64| {
        let answer = http
            .get(&url)
            .bearer_auth(token)
            .header("connection", "upgrade")
            .header("upgrade", "pm-peer/1")
            .header("pm-cluster", cluster)
            .header("pm-member", member)
            .header("pm-target", target)
            .send()
            .await
            .unwrap();
        let refusal = answer.headers().get("pm-refusal");
        refusal.map(|code| code.to_str().unwrap().to_owned())
    };
    let cluster = group.view(1).await.unwrap().id;

    let refused = |code: &str| Some(code.to_owned());
    assert_eq!(
        ask("wrong", &cluster, 2, 1).await,
        refused("unauthenticated")
    );
    assert_eq!(
        ask(NODE, "another", 2, 1).await,
        refused("cluster_mismatch")
    );
    assert_eq!(ask(NODE, &cluster, 2, 3).await, refused("wrong_member"));
    assert_eq!(ask(NODE, &cluster, 1, 1).await, refused("log_lost"));
    assert_eq!(ask(NODE, &cluster, 2, 1).await, None, "it may be new");
}

#[tokio::test]
async fn pacemaker_that_moves_is_followed() {
    let mut group = Group::of(3).await;
    let (moved, _) = two_followers(&group).await;
    group.crash(moved);
    group.forget_address(moved);

    group.start(moved).await;
    group.register(moved).await;
    group.running[&moved].ready().await;

    group.write("after-the-move").await;
    group.reaches(moved, "after-the-move").await;
}

async fn remove(group: &Group, member: u64) {
    let client = group.client();
    eventually("the member is removed", async || {
        let key = format!("remove {member}");
        client.remove_member(NodeId(member), &key).await.ok()
    })
    .await;
}

async fn two_followers(group: &Group) -> (u64, u64) {
    let leader = group.leader().await;
    let mut followers = group.running.keys().filter(|member| **member != leader);
    (*followers.next().unwrap(), *followers.next().unwrap())
}

async fn parts(group: &Group, expected: &[(u64, MemberPart)]) {
    let client = group.client();
    eventually("the members have their parts", async || {
        let status = client.cluster_status().await.ok()?;
        let parts: Vec<(u64, MemberPart)> = status
            .members
            .iter()
            .map(|member| (member.node.0, member.part))
            .collect();
        (parts == expected).then_some(())
    })
    .await;
}

async fn readiness(url: &str) -> (u16, String) {
    let answer = reqwest::get(format!("{url}/readyz")).await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    let problem: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    (
        status,
        problem["code"].as_str().unwrap_or_default().to_owned(),
    )
}
