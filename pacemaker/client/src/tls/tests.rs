//! Both ends of a connection against each other, with an authority made for the test.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType, date_time_ymd,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::fetch_authority;

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Authority {
    cluster: &'static str,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(cluster: &'static str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self {
            cluster,
            pem,
            issuer: Issuer::new(parameters, key),
        }
    }

    /// Signs for a node, from `begins` on for two days.
    fn sign_from(&self, node: u64, role: Role, begins: Duration) -> NodeIdentity {
        let key = NodeKey::generate().unwrap();
        let pair = KeyPair::from_pem(&key.to_pem()).unwrap();
        let subject = Subject {
            cluster: self.cluster.to_owned(),
            node: NodeId(node),
            roles: BTreeSet::from([role]),
        };
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        let uri = subject.to_string().try_into().unwrap();
        parameters.subject_alt_names = vec![SanType::URI(uri)];
        parameters.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        parameters.not_before = date_time_ymd(1970, 1, 1) + begins;
        parameters.not_after = parameters.not_before + 2 * DAY;
        let certificate = parameters.signed_by(&pair, &self.issuer).unwrap();
        NodeIdentity::new(certificate.pem(), key.to_pem(), self.pem.clone()).unwrap()
    }

    /// Valid now.
    fn sign(&self, node: u64, role: Role) -> NodeIdentity {
        self.sign_from(node, role, today() - DAY)
    }

    fn tls(&self, node: u64, role: Role) -> Tls {
        Tls::new(self.sign(node, role)).unwrap()
    }
}

fn today() -> Duration {
    Duration::from_millis(wall_clock().0)
}

/// Listens, and says whom the next connection is from once a byte came over it.
async fn serve(tls: &Tls) -> (u16, tokio::task::JoinHandle<Peer>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut listener = TlsListener::new(listener, tls);
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, peer) = listener.accept().await;
            if stream.read_u8().await.is_ok() {
                stream.write_u8(1).await.unwrap();
                return peer;
            }
        }
    });
    (port, serving)
}

/// Connects, and hears a byte back: in TLS 1.3 a client learns only then that it was refused.
async fn meet(config: Arc<ClientConfig>, port: u16) -> std::io::Result<()> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(config).connect(name, stream).await?;
    stream.write_u8(1).await?;
    stream.read_u8().await.map(|_| ())
}

#[tokio::test]
async fn a_server_learns_whom_a_certificate_names() {
    let authority = Authority::new("c1");
    let (server, client) = (
        authority.tls(1, Role::Pacemaker),
        authority.tls(7, Role::Heart),
    );

    let (port, serving) = serve(&server).await;
    meet(client.client_config(Expect::Pacemaker), port)
        .await
        .unwrap();
    let identity = serving.await.unwrap().identity.unwrap();
    assert_eq!(identity.node, NodeId(7));
    assert_eq!(identity.roles, BTreeSet::from([Role::Heart]));
    assert_eq!(identity.expires, client.expires());
    assert!(!identity.is_expired_at(wall_clock()));
    assert!(identity.is_expired_at(client.expires()));

    let (port, serving) = serve(&server).await;
    let person = Arc::new(pinned_config(&authority.pem).unwrap());
    meet(person, port).await.unwrap();
    assert_eq!(serving.await.unwrap().identity, None);
}

#[tokio::test]
async fn only_the_expected_server_is_talked_to() {
    let authority = Authority::new("c1");
    let client = authority.tls(7, Role::Heart);
    let check = async |server: &Tls, expect: Expect| {
        let (port, _serving) = serve(server).await;
        let met = meet(client.client_config(expect), port).await;
        met.map_err(|error| error.to_string())
    };

    let heart = authority.tls(3, Role::Heart);
    assert_eq!(check(&heart, Expect::AnyNode).await, Ok(()));
    assert_eq!(check(&heart, Expect::Node(NodeId(3))).await, Ok(()));
    let other = check(&heart, Expect::Node(NodeId(4))).await.unwrap_err();
    assert!(other.contains("node/3"), "{other}");
    assert!(check(&heart, Expect::Pacemaker).await.is_err());
    let expired = authority.sign_from(3, Role::Heart, today() - 3 * DAY);
    let expired = Tls::new(expired).unwrap();
    assert!(check(&expired, Expect::AnyNode).await.is_err());
    let impostor = Authority::new("c1").tls(3, Role::Heart);
    assert!(check(&impostor, Expect::AnyNode).await.is_err());
    // A clock that is behind cuts nobody off.
    let early = authority.sign_from(3, Role::Heart, today() + DAY);
    let early = Tls::new(early).unwrap();
    assert_eq!(check(&early, Expect::AnyNode).await, Ok(()));
}

#[tokio::test]
async fn strange_clients_are_refused_and_expired_ones_recorded() {
    let authority = Authority::new("c1");
    let server = authority.tls(1, Role::Pacemaker);

    let expired = authority.sign_from(7, Role::Heart, today() - 3 * DAY);
    let expired = Tls::new(expired).unwrap();
    let (port, serving) = serve(&server).await;
    meet(expired.client_config(Expect::Pacemaker), port)
        .await
        .unwrap();
    assert!(serving.await.unwrap().identity.unwrap().is_expired);

    // Another authority, which the client trusts with a root of its own: it has to believe the
    // server first.
    let stranger = Authority::new("c1").tls(7, Role::Heart);
    let verifier = ServerVerifier::new(server.roots.clone(), None, Expect::AnyNode);
    let presented = Presented(stranger.held.subscribe());
    let config = Arc::new(client_config(verifier, Some(presented)));
    let (port, serving) = serve(&server).await;
    assert!(meet(config, port).await.is_err());
    serving.abort();
}

#[tokio::test]
async fn a_replaced_identity_shows_from_the_next_connection_on() {
    let authority = Authority::new("c1");
    let server = authority.tls(1, Role::Pacemaker);
    let client = authority.tls(7, Role::Heart);
    let config = client.client_config(Expect::Pacemaker);
    let mut changes = client.changes();

    let newer = authority.sign_from(7, Role::Router, today());
    client.replace(newer).unwrap();
    changes.changed().await;
    let (port, serving) = serve(&server).await;
    meet(config, port).await.unwrap();

    let seen = serving.await.unwrap().identity.unwrap();
    assert_eq!(seen.roles, BTreeSet::from([Role::Router]));
    for other in [
        authority.sign(8, Role::Heart),
        Authority::new("c1").sign(7, Role::Heart),
    ] {
        let refused = client.replace(other).unwrap_err();
        assert!(matches!(refused, TlsError::OtherIdentity), "{refused}");
    }
}

#[tokio::test]
async fn an_authority_is_known_by_its_fingerprint() {
    let authority = Authority::new("c1");
    let (port, _serving) = serve(&authority.tls(1, Role::Pacemaker)).await;
    let endpoint = format!("127.0.0.1:{port}");

    let fetched = fetch_authority(&endpoint, &fingerprint(&authority.pem).unwrap()).await;
    let again = fingerprint(&fetched.unwrap()).unwrap();
    assert_eq!(again, fingerprint(&authority.pem).unwrap());

    let other = fingerprint(&Authority::new("c1").pem).unwrap();
    let refused = fetch_authority(&endpoint, &other).await.unwrap_err();
    assert!(
        matches!(refused, TlsError::OtherAuthority { .. }),
        "{refused}"
    );
    let refused = fetch_authority("127.0.0.1:1", &other).await.unwrap_err();
    assert!(matches!(refused, TlsError::Connect { .. }), "{refused}");
}

#[tokio::test]
async fn who_says_nothing_keeps_nobody_waiting() {
    let authority = Authority::new("c1");
    let (port, serving) = serve(&authority.tls(1, Role::Pacemaker)).await;
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES_MAX + 8 {
        silent.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }

    let person = Arc::new(pinned_config(&authority.pem).unwrap());
    let met = tokio::time::timeout(HANDSHAKE_PATIENCE / 2, meet(person, port)).await;

    met.unwrap().unwrap();
    serving.await.unwrap();
}

#[test]
fn identities_are_kept_whole_and_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tls");
    let authority = Authority::new("c1");
    assert_eq!(NodeIdentity::load(&path).unwrap(), None);

    for identity in [
        authority.sign(7, Role::Heart),
        authority.sign(7, Role::Heart),
        Authority::new("c2").sign(8, Role::Heart),
    ] {
        identity.store(&path).unwrap();
        assert_eq!(NodeIdentity::load(&path).unwrap(), Some(identity));
    }

    for entry in path.read_dir().unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let authority = Authority::new("c1");
    let good = authority.sign(7, Role::Heart);

    let other_key = NodeKey::generate().unwrap().to_pem();
    let other_authority = Authority::new("c1").pem;
    for bad in [
        NodeIdentity {
            key: other_key,
            ..good.clone()
        },
        NodeIdentity {
            authority: other_authority,
            ..good.clone()
        },
        NodeIdentity {
            node: NodeId(8),
            ..good.clone()
        },
        NodeIdentity {
            key: String::new(),
            ..good.clone()
        },
    ] {
        assert!(Tls::new(bad).is_err());
    }
    let shown = format!("{:?} {:?}", good, Tls::new(good.clone()).unwrap());
    assert!(!shown.contains("PRIVATE"), "{shown}");
}
