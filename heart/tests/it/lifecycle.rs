//! The life of an instance, from its assignment to its removal.

use std::fs;

use common::application::HealthSpec;
use common::id::InstanceId;
use common::instance::{FailureCode, InstanceGoal, InstanceState};
use common::time::Span;

use crate::node::{Node, ask, lives, script};

#[tokio::test(flavor = "multi_thread")]
async fn an_assigned_instance_runs_and_an_unassigned_one_leaves_nothing() {
    let node = Node::started().await;

    node.pacemaker.assign_instances(vec![node.server(1)]);
    let running = node.reaches(1, InstanceState::Running).await;

    let (port, pid) = (running.port.unwrap(), running.pid.unwrap());
    assert!(node.ports.contains(&port));
    assert_eq!(ask(port), Some(pid.to_string()));

    node.pacemaker.assign_instances(Vec::new());
    node.is_rid_of(1).await;

    assert!(!lives(pid));
    assert_eq!(ask(port), None);
    let states: Vec<_> = node.pacemaker.history(InstanceId(1));
    assert!(states.iter().any(|report| report.state == InstanceState::Stopped));
}
