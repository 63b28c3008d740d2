//! What the authority signs, and what it does not.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;

use common::id::NodeId;
use common::node::Role;
use pacemaker_client::tls::Tls;
use rcgen::PKCS_ED25519;

use super::*;

const TTL: Span = Span::seconds(24 * 3600);

fn now() -> Timestamp {
    tls::wall_clock()
}

fn subject(node: u64) -> Subject {
    Subject {
        cluster: "c1".to_owned(),
        node: NodeId(node),
        roles: BTreeSet::from([Role::Heart, Role::Router]),
    }
}

#[test]
fn what_it_signs_can_be_used_and_ends() {
    let authority = Authority::create("c1", now()).unwrap();

    let identity = authority.issue(&subject(7), now(), TTL).unwrap();
    let again = authority.reissue(&identity.key, &subject(7), now(), TTL);

    assert_eq!(identity.node, NodeId(7));
    assert_eq!(identity.cluster, "c1");
    assert_eq!(identity.roles, subject(7).roles);
    let again = again.unwrap();
    assert_eq!(again.key, identity.key);
    assert_ne!(again.certificate, identity.certificate);
    let tls = Tls::new(identity).unwrap();
    let left = tls.expires().since(now());
    assert!(left <= TTL && left > Span(TTL.0 - 60_000), "{left}");
    tls.replace(again).unwrap();
}

#[test]
fn only_requests_of_the_right_kind_are_signed() {
    let authority = Authority::create("c1", now()).unwrap();
    let other_kind = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let other_kind = CertificateParams::default()
        .serialize_request(&other_kind)
        .unwrap()
        .pem()
        .unwrap();
    let good = NodeKey::generate().unwrap().signing_request().unwrap();
    let forged = good.replacen('M', "N", 3);

    assert!(authority.sign(&good, &subject(7), now(), TTL).is_ok());
    for bad in [
        "",
        "-----BEGIN CERTIFICATE REQUEST-----",
        authority.certificate(),
        &other_kind,
        &forged,
        &"x".repeat(REQUEST_MAX_BYTES + 1),
    ] {
        let refused = authority.sign(bad, &subject(7), now(), TTL).unwrap_err();
        assert!(matches!(refused, AuthorityError::Request), "{refused}");
    }
}

#[test]
fn authorities_are_kept_whole_and_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tls");
    assert!(Authority::load(&path).unwrap().is_none());
    let authority = Authority::create("c1", now()).unwrap();

    authority.store(&path).unwrap();
    let loaded = Authority::load(&path).unwrap().unwrap();

    assert_eq!(
        loaded.fingerprint().unwrap(),
        authority.fingerprint().unwrap()
    );
    let mode = path.join("ca.key").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let identity = loaded.issue(&subject(7), now(), TTL).unwrap();
    assert_eq!(identity.authority, authority.certificate());
    Tls::new(identity).unwrap();
    assert!(!format!("{authority:?}").contains("PRIVATE"));

    let other = Authority::create("c1", now()).unwrap();
    let mixed = Authority::from_pem(authority.certificate(), &other.key_pem()).unwrap_err();
    assert!(matches!(mixed, AuthorityError::OtherKey), "{mixed}");
}
