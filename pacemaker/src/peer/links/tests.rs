//! Links to peers that move.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::*;
use crate::peer::{CallError, Request, headers};

const MEMBER: u64 = 2;
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

#[tokio::test]
async fn link_in_use_follows_its_peer_though_the_group_did_not_have_it_for_a_moment() {
    let (former, present) = (listen().await, listen().await);
    let peers = peers();
    let link = peers.link(MEMBER, &place(&former), Lane::Large);
    // Who follows the group may be a step behind openraft, which has just begun to replicate.
    peers.keep(&BTreeMap::new());
    let _at_the_former = accept(&former, "former").await;

    peers.keep(&BTreeMap::from([(MEMBER, place(&present))]));

    let accepting = async {
        let mut connections = Vec::new();
        loop {
            connections.push(accept(&present, "present").await);
        }
    };
    let following = async {
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        while link
            .hello()
            .is_none_or(|hello| hello.incarnation != "present")
        {
            interval.tick().await;
        }
    };
    tokio::select! {
        () = accepting => unreachable!("it accepts for ever"),
        followed = timeout(PATIENCE, following) => followed.unwrap(),
    }
}

#[tokio::test]
async fn who_waits_for_an_answer_is_told_when_the_peer_has_moved() {
    let (former, present) = (listen().await, listen().await);
    let peers = peers();
    let link = peers.link(MEMBER, &place(&former), Lane::Quick);
    let _silent = accept(&former, "former").await;
    link.connected(Instant::now() + PATIENCE).await.unwrap();
    let asked = link.begin(&Request::Ping).unwrap();

    peers.keep(&BTreeMap::from([(MEMBER, place(&present))]));

    let answer = timeout(PATIENCE, asked).await.unwrap();
    assert!(matches!(answer, Err(CallError::Lost(MEMBER))), "{answer:?}");
}

#[tokio::test]
async fn link_that_nobody_has_any_more_ends() {
    let listener = listen().await;
    let peers = peers();
    peers.keep(&BTreeMap::from([(MEMBER, place(&listener))]));
    let mut connection = accept(&listener, "here").await;
    assert!(peers.quick(MEMBER).is_some());

    peers.keep(&BTreeMap::new());

    assert!(peers.quick(MEMBER).is_none());
    let ended = timeout(PATIENCE, connection.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "the connection stays open");
}

fn peers() -> Peers {
    let credentials = Credentials {
        member: 1,
        incarnation: "first".to_owned(),
        cluster: None,
        tls: None,
        node_token: "token".to_owned(),
        replica: Arc::default(),
    };
    Peers::new(credentials).0
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn place(listener: &TcpListener) -> Place {
    Place::new(&listener.local_addr().unwrap().to_string())
}

/// Takes a connection and answers its handshake, and nothing after it.
async fn accept(listener: &TcpListener, incarnation: &str) -> TcpStream {
    let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {}\r\n{}: {MEMBER}\r\n{}: {incarnation}\r\n\r\n",
        crate::peer::PROTOCOL,
        headers::MEMBER,
        headers::INCARNATION,
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream
}
