//! `pm cluster status`: the group of pacemakers, and what is wrong with it in words.

use common::api::{ClusterStatus, MemberView};

use crate::connection::Connection;
use crate::error::CommandError;
use crate::output::{in_future, table, word};

/// Bytes in the unit that disks are read in.
const GIGABYTE: u64 = 1_000_000_000;

/// Shows it; that something is wrong is no failure of the command.
pub(crate) async fn run(connection: &Connection) -> Result<(), CommandError> {
    let status = connection
        .client
        .cluster_status()
        .await
        .map_err(connection.failed("read the cluster's status"))?;
    connection.output.result(&status, human)
}

fn human(status: &ClusterStatus) -> String {
    let leader = status
        .leader
        .map_or_else(|| "none".to_owned(), |leader| format!("node {leader}"));
    let mut text = format!(
        "cluster    {}\nleader     {leader}, term {}\ncommitted  {}, applied {} on node {}\n\n",
        status.id, status.term, status.committed, status.applied, status.answered_by,
    );
    text.push_str(&table(
        &[
            "NODE",
            "NAME",
            "PART",
            "STATE",
            "LAG",
            "DISK FREE",
            "CERTIFICATE",
            "RELEASE",
            "API",
        ],
        status.members.iter().map(row),
    ));
    text.push('\n');
    if status.problems.is_empty() {
        text.push_str("All is well.\n");
    }
    for problem in &status.problems {
        text.push_str("problem: ");
        text.push_str(problem);
        text.push('\n');
    }
    text
}

fn row(member: &MemberView) -> Vec<String> {
    let unknown = || "-".to_owned();
    let state = match (member.is_leader, member.is_reachable) {
        (true, _) => "leads",
        (false, true) => "follows",
        (false, false) => "silent",
    };
    vec![
        member.node.to_string(),
        member.name.clone(),
        word(&member.part),
        state.to_owned(),
        member.lag.map_or_else(unknown, |lag| lag.to_string()),
        member
            .disk_available
            .map_or_else(unknown, |bytes| format!("{} GB", bytes / GIGABYTE)),
        member.certificate_expires.map_or_else(unknown, in_future),
        member.release.clone().unwrap_or_else(unknown),
        member.api.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use common::api::MemberPart;
    use common::id::{Generation, NodeId};

    use super::*;

    #[test]
    fn what_is_wrong_is_said_in_words() {
        let mut status = ClusterStatus {
            id: "c1".to_owned(),
            answered_by: NodeId(1),
            leader: Some(NodeId(1)),
            term: 3,
            committed: Generation(9),
            applied: Generation(9),
            members: vec![MemberView {
                node: NodeId(1),
                name: "one".to_owned(),
                api: "https://10.0.0.1:4250".to_owned(),
                part: MemberPart::Voter,
                is_leader: true,
                is_reachable: true,
                lag: None,
                disk_available: Some(5 * GIGABYTE),
                certificate_expires: None,
                release: None,
            }],
            problems: Vec::new(),
        };
        let text = human(&status);
        assert!(text.contains("leader     node 1, term 3"), "{text}");
        assert!(text.contains("5 GB"), "{text}");
        assert!(text.ends_with("All is well.\n"), "{text}");

        status.problems.push("node 2 is silent".to_owned());
        assert!(human(&status).ends_with("problem: node 2 is silent\n"));
    }
}
