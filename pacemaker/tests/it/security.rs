//! Who may do what, and until when: joins (S1), rights (S2), revocation (S3), expiry (S7).

mod rights;

use std::sync::Arc;

use common::assignment::{Report, RouterReport};
use common::id::{Generation, NodeId};
use common::join_token::JoinToken;
use common::node::Role;
use common::time::{Span, Timestamp};
use pacemaker::Authority;
use pacemaker_client::tls::{NodeKey, Tls, TlsListener, wall_clock};
use pacemaker_client::{Client, Error, JoinError};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::harness::eventually;
use crate::secure::{Secure, TTL, description, join, subject};

const MINUTE: Span = Span::seconds(60);

/// The code of a refused join.
fn code_of(refused: Result<impl Sized, JoinError>) -> String {
    match refused.err() {
        Some(JoinError::Refused(error)) => error.problem().unwrap().code.clone(),
        other => panic!("{other:?}"),
    }
}

fn code(refused: Result<impl Sized, Error>) -> String {
    let error = refused.err().expect("it is refused");
    error.problem().expect("it is answered").code.clone()
}

#[tokio::test]
async fn s1_a_machine_joins_with_one_command() {
    let cluster = Secure::start().await;
    let token = cluster.token(&[Role::Heart, Role::Router], MINUTE).await;

    let (identity, answer) = join(&token, "machine-2", Role::Heart).await.unwrap();

    assert_eq!(answer.node, NodeId(2));
    assert_eq!(answer.pacemakers, std::slice::from_ref(&cluster.url));
    assert_eq!(answer.authority_key, None, "a heart signs nothing");
    assert_eq!(identity.roles, [Role::Heart].into());
    // The answer was lost: the same machine asks again, and is the same node.
    let (again, _) = join(&token, "machine-2", Role::Heart).await.unwrap();
    assert_eq!(again.node, identity.node);
    let client = cluster.client(&Tls::new(again).unwrap());
    let described = description("machine-2", Role::Heart, "127.0.0.1:2");
    assert_eq!(client.register_node(&described).await.unwrap(), NodeId(2));
    let view = cluster.administrator().node(NodeId(2)).await.unwrap();
    assert_eq!(view.node.description.api, "https://127.0.0.1:2");
    assert!(view.certificate_expires.unwrap() > wall_clock());

    let token = cluster.token(&[Role::Pacemaker], MINUTE).await;
    let (_, answer) = join(&token, "machine-3", Role::Pacemaker).await.unwrap();
    let key = answer.authority_key.expect("a pacemaker signs");
    Authority::from_pem(&answer.authority, &key).unwrap();
}

#[tokio::test]
async fn s1_tokens_are_known_unused_of_the_role_and_end() {
    let cluster = Secure::start().await;
    let used = cluster.token(&[Role::Heart], MINUTE).await;
    join(&used, "machine-2", Role::Heart).await.unwrap();

    let replayed = join(&used, "machine-3", Role::Heart).await;
    assert_eq!(code_of(replayed), "token_refused");
    let unknown = JoinToken {
        secret: "0123456789abcdef".repeat(2),
        ..used.clone()
    };
    assert_eq!(
        code_of(join(&unknown, "machine-3", Role::Heart).await),
        "token_refused"
    );
    let for_hearts = cluster.token(&[Role::Heart], MINUTE).await;
    let greedy = join(&for_hearts, "machine-3", Role::Pacemaker).await;
    assert_eq!(code_of(greedy), "token_refused");
    let short = cluster.token(&[Role::Heart], Span(50)).await;
    let made = wall_clock();
    eventually("the token has expired", async || {
        (wall_clock() > made.after(Span(100))).then_some(())
    })
    .await;
    assert_eq!(
        code_of(join(&short, "machine-3", Role::Heart).await),
        "token_refused"
    );

    let nodes = cluster.administrator().nodes().await.unwrap();
    assert_eq!(nodes.len(), 2, "nobody else has become a node");
}

#[tokio::test]
async fn s1_who_cannot_show_the_authority_never_hears_the_secret() {
    let cluster = Secure::start().await;
    let token = cluster.token(&[Role::Heart], MINUTE).await;
    // Another cluster of the same name, which would answer anything.
    let other = Authority::create("c1", wall_clock()).unwrap();
    let identity = other.issue(&subject(NodeId(1), Role::Pacemaker), wall_clock(), TTL);
    let tls = Tls::new(identity.unwrap()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut listener = TlsListener::new(listener, &tls);
    let address = listener.local_addr().unwrap().to_string();
    let heard = tokio::spawn(async move {
        let mut heard = Vec::new();
        // Only a handshake that went well would come this far.
        let (mut stream, _) = listener.accept().await;
        stream.read_to_end(&mut heard).await.ok();
        heard
    });

    let impostor = JoinToken {
        endpoints: vec![address.clone()],
        ..token.clone()
    };
    let refused = join(&impostor, "machine-2", Role::Heart).await.unwrap_err();

    assert!(matches!(refused, JoinError::Authority(_)), "{refused:?}");
    assert!(!heard.is_finished(), "the impostor came past the handshake");
    heard.abort();
    // Beside one that is the right one it does no harm.
    let both = JoinToken {
        endpoints: vec![address, token.endpoints[0].clone()],
        ..token
    };
    join(&both, "machine-2", Role::Heart).await.unwrap();
}

#[tokio::test]
async fn s1_the_same_idempotency_key_gives_the_same_token() {
    let cluster = Secure::start().await;
    let administrator = cluster.administrator();

    let first = administrator
        .create_join_token([Role::Heart], MINUTE, "once")
        .await;
    let again = administrator
        .create_join_token([Role::Heart], MINUTE, "once")
        .await;
    let other = administrator
        .create_join_token([Role::Heart], MINUTE, "twice")
        .await;

    let (first, other) = (first.unwrap(), other.unwrap());
    assert_eq!(first, again.unwrap());
    assert_ne!(first.token, other.token);
    let token: JoinToken = first.token.parse().unwrap();
    join(&token, "machine-2", Role::Heart).await.unwrap();
}

#[tokio::test]
async fn s2_a_node_speaks_for_itself_only() {
    let cluster = Secure::start().await;
    let heart = cluster.join("machine-2", Role::Heart).await;
    let router = cluster.join("machine-3", Role::Router).await;
    let (heart, router) = (cluster.client(&heart), cluster.client(&router));
    let report = |node| Report {
        node: NodeId(node),
        router: Some(RouterReport::default()),
        ..empty_report()
    };

    eventually("a report is taken", async || {
        router.report(&report(3)).await.ok()
    })
    .await;
    assert_eq!(code(router.report(&report(2)).await), "not_this_node");
    let own = heart.watch_assignment(NodeId(2), Generation(0)).await;
    assert!(own.unwrap().is_some());
    let others = heart.watch_assignment(NodeId(3), Generation(0)).await;
    assert_eq!(code(others), "not_this_node");
    // Its key is another's: it stays who its certificate says.
    let described = description("machine-3", Role::Heart, "127.0.0.1:9");
    assert_eq!(code(heart.register_node(&described).await), "invalid");
    let described = description("machine-2", Role::Pacemaker, "127.0.0.1:9");
    assert_eq!(code(heart.register_node(&described).await), "token_refused");
}

fn empty_report() -> Report {
    Report {
        cluster: String::new(),
        node: NodeId(0),
        heart: None,
        router: None,
    }
}

#[tokio::test]
async fn s3_a_removed_node_is_refused_at_once_with_what_it_waits_for() {
    let cluster = Secure::start().await;
    let tls = cluster.join("machine-2", Role::Heart).await;
    let client = cluster.client(&tls);
    let first = client.watch_assignment(NodeId(2), Generation(0)).await;
    let known = first.unwrap().unwrap().generation;
    let waiting = client.clone();
    let waiting = tokio::spawn(async move { waiting.watch_assignment(NodeId(2), known).await });
    let waits = async || client.pacemakers().await.ok();
    eventually("its certificate counts", waits).await;

    let removed = std::time::Instant::now();
    cluster
        .administrator()
        .remove_node(NodeId(2), "remove")
        .await
        .unwrap();

    assert_eq!(code(waiting.await.unwrap()), "node_removed");
    assert!(removed.elapsed() < std::time::Duration::from_secs(5));
    assert_eq!(code(client.pacemakers().await), "node_removed");
    let key = NodeKey::from_pem(&tls.identity().key).unwrap();
    let request = key.signing_request().unwrap();
    assert_eq!(
        code(client.renew_certificate(&request).await),
        "node_removed"
    );
    // A number that was never given is not one that was removed: it may be heard of later.
    let early = cluster.identity(NodeId(77), Role::Heart, wall_clock());
    let early = cluster.client(&Tls::new(early).unwrap());
    assert_eq!(code(early.pacemakers().await), "not_ready");
}

#[tokio::test]
async fn s7_an_expired_certificate_is_good_for_its_renewal_only() {
    let cluster = Secure::start().await;
    let present = cluster.join("machine-2", Role::Heart).await;
    let expired = cluster.expired(NodeId(2), Role::Heart);
    let client = cluster.client(&expired);

    let report = Report {
        node: NodeId(2),
        ..empty_report()
    };
    assert_eq!(code(client.report(&report).await), "certificate_expired");
    assert_eq!(code(client.pacemakers().await), "certificate_expired");
    let key = NodeKey::from_pem(&expired.identity().key).unwrap();
    let renewed = client
        .renew_certificate(&key.signing_request().unwrap())
        .await;
    let renewed = renewed.unwrap();
    assert_eq!(renewed.pacemakers, std::slice::from_ref(&cluster.url));
    let identity = pacemaker_client::tls::NodeIdentity::new(
        renewed.certificate,
        expired.identity().key.clone(),
        expired.identity().authority.clone(),
    );
    let identity = identity.unwrap();
    assert_eq!(identity.roles, present.identity().roles);
    expired.replace(identity).unwrap();

    // The same client, from its next request on.
    assert!(client.pacemakers().await.is_ok());
    let left = expired.expires().since(wall_clock());
    assert!(left > Span(TTL.0 - MINUTE.0) && left <= TTL, "{left}");
    assert!(client.renew_certificate("no request").await.is_err());
}

#[tokio::test]
async fn s7_a_pacemaker_whose_certificate_has_ended_is_not_talked_to() {
    let authority = Arc::new(Authority::create("c1", wall_clock()).unwrap());
    let long_ago = Timestamp(wall_clock().0 - 2 * TTL.0);
    let ended = authority.issue(&subject(NodeId(1), Role::Pacemaker), long_ago, TTL);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut listener = TlsListener::new(listener, &Tls::new(ended.unwrap()).unwrap());
    let url = format!("https://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { listener.accept().await });

    let client = Client::with_authority(&[url], "token", authority.certificate()).unwrap();
    let error = client.cluster().await.unwrap_err();

    assert!(error.is_unreachable(), "{error}");
    assert!(!serving.is_finished());
    serving.abort();
}
