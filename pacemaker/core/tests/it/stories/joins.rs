//! Machines become nodes by join tokens.

use std::collections::{BTreeMap, BTreeSet};

use common::digest::Digest;
use common::id::{Generation, NodeId};
use common::node::Role;
use common::time::{Span, Timestamp};
use pacemaker_core::State;
use pacemaker_core::command::{
    ApplyContext, Command, JoinTokenRecord, Outcome, Rejection, RejectionCode,
};

use crate::generators::node;
use crate::world::SETTINGS;

const BEGINNING: Timestamp = Timestamp(1_000_000);

/// A cluster with its founder, and what is said to it.
struct Cluster {
    state: State,
    now: Timestamp,
    index: u64,
}

impl Cluster {
    fn new() -> Self {
        let mut cluster = Self {
            state: State::default(),
            now: BEGINNING,
            index: 0,
        };
        let outcome = cluster.apply(&Command::InitializeCluster {
            id: "test".to_owned(),
            hostname: "cluster.test".to_owned(),
            tokens: BTreeMap::new(),
            settings: SETTINGS,
            join_tokens: vec![
                JoinTokenRecord {
                    hash: hash("first"),
                    roles: BTreeSet::from([Role::Heart]),
                    expires: BEGINNING.after(Span(1_000)),
                },
                JoinTokenRecord {
                    hash: hash("expired"),
                    roles: BTreeSet::from([Role::Heart]),
                    expires: BEGINNING,
                },
            ],
            founder: Some(node(1, &[Role::Pacemaker, Role::Heart])),
        });
        assert_eq!(outcome, Ok(Outcome::Node(NodeId(1))));
        cluster
    }

    fn apply(&mut self, command: &Command) -> Result<Outcome, Rejection> {
        self.index += 1;
        let ctx = ApplyContext {
            now: self.now,
            index: Generation(self.index),
        };
        let outcome = self.state.apply(command, &ctx);
        assert_eq!(self.state.invariants(), Vec::<String>::new());
        outcome
    }

    fn join(&mut self, secret: &str, number: u64, roles: &[Role]) -> Result<Outcome, Rejection> {
        self.apply(&Command::JoinNode {
            token: hash(secret),
            description: node(number, roles),
        })
    }

    fn token(&mut self, secret: &str, roles: &[Role]) {
        self.apply(&Command::CreateJoinToken {
            hash: hash(secret),
            roles: roles.iter().copied().collect(),
            expires: self.now.after(Span(1_000)),
        })
        .unwrap();
    }
}

#[test]
fn token_lets_one_machine_join_and_answers_it_again() {
    let mut cluster = Cluster::new();

    let joined = cluster.join("first", 2, &[Role::Heart]);
    assert_eq!(joined, Ok(Outcome::Node(NodeId(2))));
    assert_eq!(cluster.state.node_by_key("key-2"), Some(NodeId(2)));

    // The answer was lost; meanwhile the token has expired.
    cluster.now = BEGINNING.after(Span(2_000));
    assert_eq!(cluster.join("first", 2, &[Role::Heart]), joined);

    let other = cluster.join("first", 3, &[Role::Heart]);
    assert_eq!(code(other), RejectionCode::TokenRefused);
}

#[test]
fn token_that_is_unknown_expired_or_grants_less_is_refused() {
    let mut cluster = Cluster::new();
    for (secret, roles) in [
        ("guessed", &[Role::Heart][..]),
        ("expired", &[Role::Heart]),
        ("first", &[Role::Heart, Role::Pacemaker]),
    ] {
        let refusal = cluster.join(secret, 2, roles);
        assert_eq!(code(refusal), RejectionCode::TokenRefused, "{secret}");
    }
    cluster.now = BEGINNING.after(Span(1_000));
    let late = cluster.join("first", 2, &[Role::Heart]);
    assert_eq!(code(late), RejectionCode::TokenRefused);
    assert_eq!(cluster.state.nodes().len(), 1);
}

#[test]
fn node_never_does_more_than_its_token_granted() {
    let mut cluster = Cluster::new();
    cluster.join("first", 2, &[Role::Heart]).unwrap();

    let greedy = cluster.apply(&Command::DescribeNode {
        node: NodeId(2),
        description: node(2, &[Role::Heart, Role::Pacemaker]),
    });
    assert_eq!(code(greedy), RejectionCode::TokenRefused);
    let in_disguise = cluster.apply(&Command::DescribeNode {
        node: NodeId(2),
        description: node(1, &[Role::Heart]),
    });
    assert_eq!(code(in_disguise), RejectionCode::Invalid);
}

#[test]
fn removed_node_is_refused_and_its_number_is_not_given_again() {
    let mut cluster = Cluster::new();
    cluster.join("first", 2, &[Role::Heart]).unwrap();
    cluster
        .apply(&Command::RemoveNode { node: NodeId(2) })
        .unwrap();

    assert!(!cluster.state.is_node(NodeId(2)));
    let again = cluster.join("first", 2, &[Role::Heart]);
    assert_eq!(code(again), RejectionCode::TokenRefused);
    let described = cluster.apply(&Command::DescribeNode {
        node: NodeId(2),
        description: node(2, &[Role::Heart]),
    });
    assert_eq!(code(described), RejectionCode::NodeNotFound);

    cluster.token("second", &[Role::Heart]);
    let joined = cluster.join("second", 2, &[Role::Heart]);
    assert_eq!(joined, Ok(Outcome::Node(NodeId(3))));
}

#[test]
fn key_of_another_node_does_not_let_in() {
    let mut cluster = Cluster::new();
    cluster.token("second", &[Role::Pacemaker, Role::Heart]);

    let thief = cluster.join("second", 1, &[Role::Heart]);

    assert_eq!(code(thief), RejectionCode::Invalid);
    // The token is not used up by that.
    assert_eq!(
        cluster.join("second", 2, &[Role::Heart]),
        Ok(Outcome::Node(NodeId(2)))
    );
}

#[test]
fn tokens_are_bounded_and_forgotten_some_time_after_they_expire() {
    let mut cluster = Cluster::new();
    cluster.token("second", &[Role::Router]);
    assert_eq!(cluster.state.join_tokens().unwrap().len(), 2);

    let endless = cluster.apply(&Command::CreateJoinToken {
        hash: hash("endless"),
        roles: BTreeSet::from([Role::Heart]),
        expires: BEGINNING.after(Span::seconds(8 * 24 * 3600)),
    });
    assert_eq!(code(endless), RejectionCode::LimitExceeded);

    cluster.now = BEGINNING.after(Span::seconds(3_700));
    cluster.token("third", &[Role::Router]);
    assert_eq!(cluster.state.join_tokens().unwrap().len(), 1);
}

fn hash(secret: &str) -> String {
    Digest::of(secret.as_bytes()).as_str().to_owned()
}

fn code(result: Result<Outcome, Rejection>) -> RejectionCode {
    result.unwrap_err().code
}
