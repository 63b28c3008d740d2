//! Who may ask a role's own routes on a node's API: pacemakers by their certificate, and bearers of a
//! token whose hash is known. Not every node of the cluster: an application's output is for those who
//! decide.

use std::sync::Arc;

use common::digest::Digest;
use reqwest::header::{AUTHORIZATION, HeaderMap};

use crate::tls::{PeerIdentity, wall_clock};

/// Lets in whom it knows; clones share it.
#[derive(Clone, Debug)]
pub struct Gate {
    token_hashes: Arc<[String]>,
}

impl Gate {
    /// Of tokens whose SHA-256 is this, in hex; without any, of pacemakers alone.
    #[must_use]
    pub fn new(token_hashes: Vec<String>) -> Self {
        Self {
            token_hashes: token_hashes.into(),
        }
    }

    /// True for a request that may pass: `peer` is whom its certificate names.
    #[must_use]
    pub fn admits(&self, peer: Option<&PeerIdentity>, headers: &HeaderMap) -> bool {
        peer.is_some_and(|peer| peer.is_pacemaker_at(wall_clock())) || self.is_borne(headers)
    }

    /// Hashes are compared, so that the time taken says nothing about a token.
    fn is_borne(&self, headers: &HeaderMap) -> bool {
        headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .is_some_and(|token| {
                let hash = Digest::of(token.as_bytes());
                self.token_hashes.iter().any(|known| known == hash.as_str())
            })
    }
}

#[cfg(test)]
mod tests {
    use common::id::NodeId;
    use common::node::Role;
    use common::time::{Span, Timestamp};
    use reqwest::header::HeaderValue;

    use super::*;

    fn peer(role: Role, expires: Timestamp) -> PeerIdentity {
        PeerIdentity {
            cluster: "c1".to_owned(),
            node: NodeId(1),
            roles: [role].into(),
            expires,
            is_expired: false,
        }
    }

    #[test]
    fn pacemakers_and_bearers_of_a_known_token_pass_and_nobody_else() {
        let gate = Gate::new(vec![Digest::of(b"known").to_string()]);
        let nothing = HeaderMap::new();
        let bearing = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            HeaderMap::from_iter([(AUTHORIZATION, value)])
        };
        let later = wall_clock().after(Span::seconds(60));

        assert!(gate.admits(Some(&peer(Role::Pacemaker, later)), &nothing));
        assert!(gate.admits(None, &bearing("Bearer known")));
        assert!(gate.admits(Some(&peer(Role::Heart, later)), &bearing("Bearer known")));

        assert!(!gate.admits(None, &nothing));
        assert!(!gate.admits(Some(&peer(Role::Heart, later)), &nothing));
        assert!(!gate.admits(Some(&peer(Role::Pacemaker, Timestamp(1))), &nothing));
        for text in [
            "Bearer unknown",
            "Bearer ",
            "bearer known",
            "known",
            "Basic known",
        ] {
            assert!(!gate.admits(None, &bearing(text)), "{text}");
        }
        assert!(!Gate::new(Vec::new()).admits(None, &bearing("Bearer ")));
    }
}
