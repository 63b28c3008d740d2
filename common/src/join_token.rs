//! What an admin types on a new machine: where the cluster is, how to know it, and the secret.
//!
//! ```text
//! 10.0.0.1:4250,10.0.0.2:4250/5f70…(64 hexadecimal digits)/8c2a…(the secret)
//! ```
//! The fingerprint is the SHA-256 of the certificate (DER) of the cluster's authority: a node checks
//! it before it sends the secret to anyone.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// More than the largest group of pacemakers, for clusters that move.
const ENDPOINTS_MAX: usize = 16;
/// A hostname and a port.
const ENDPOINT_MAX_BYTES: usize = 260;
/// 16 bytes in hexadecimal at least; longer than any that we make at most.
const SECRET_CHARACTERS: std::ops::RangeInclusive<usize> = 32..=128;

/// A join token, taken apart.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Pacemakers, as `host:port`; at least one.
    pub endpoints: Vec<String>,
    /// SHA-256 of the DER of the authority's certificate.
    pub fingerprint: Digest,
    /// Works once.
    pub secret: String,
}

/// Without the secret.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("endpoints", &self.endpoints)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// A text is no join token. It never quotes the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    /// Not three parts.
    #[error(
        "a join token has three parts with `/` between them: addresses, fingerprint, secret; copy all of it"
    )]
    Parts,
    /// The addresses are wrong.
    #[error(
        "the first part of a join token lists 1 to {ENDPOINTS_MAX} addresses as `host:port`, with commas between them"
    )]
    Endpoints,
    /// The fingerprint is wrong.
    #[error(
        "the second part of a join token is a fingerprint of 64 hexadecimal digits; copy all of it"
    )]
    Fingerprint,
    /// The secret is wrong.
    #[error(
        "the third part of a join token is a secret of at least 32 letters and digits; copy all of it"
    )]
    Secret,
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let mut parts = text.trim().split('/');
        let (Some(endpoints), Some(fingerprint), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JoinTokenError::Parts);
        };
        let endpoints: Vec<String> = endpoints
            .split(',')
            .take(ENDPOINTS_MAX + 1)
            .map(str::to_owned)
            .collect();
        if endpoints.len() > ENDPOINTS_MAX || !endpoints.iter().all(|text| is_endpoint(text)) {
            return Err(JoinTokenError::Endpoints);
        }
        let fingerprint = fingerprint
            .parse::<Digest>()
            .map_err(|_| JoinTokenError::Fingerprint)?;
        let is_secret = secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_secret || !SECRET_CHARACTERS.contains(&secret.len()) {
            return Err(JoinTokenError::Secret);
        }
        Ok(Self {
            endpoints,
            fingerprint,
            secret: secret.to_owned(),
        })
    }
}

/// The whole token, secret included: for whoever asked for it.
impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = self.endpoints.join(",");
        write!(f, "{endpoints}/{}/{}", self.fingerprint, self.secret)
    }
}

fn is_endpoint(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let is_host = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
    is_host && text.len() <= ENDPOINT_MAX_BYTES && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_read() {
        let token = JoinToken {
            endpoints: vec!["10.0.0.1:4250".to_owned(), "[fd00::1]:4250".to_owned()],
            fingerprint: Digest::of(b"authority"),
            secret: "a1".repeat(16),
        };

        assert_eq!(token.to_string().parse(), Ok(token));
    }

    #[test]
    fn parts_that_are_wrong_are_named_and_never_quoted() {
        let good = format!("a:1/{}/{}", Digest::of(b"authority"), "s".repeat(32));
        assert!(good.parse::<JoinToken>().is_ok());
        for (text, error) in [
            ("a:1".to_owned(), JoinTokenError::Parts),
            (format!("{good}/"), JoinTokenError::Parts),
            (good.replace("a:1", "a"), JoinTokenError::Endpoints),
            (good.replace("a:1", "a:0"), JoinTokenError::Endpoints),
            (good.replace("a:1", "a:1,"), JoinTokenError::Endpoints),
            (
                good.replace("a:1", &"a:1,".repeat(20)),
                JoinTokenError::Endpoints,
            ),
            ("a:1/12/34".to_owned(), JoinTokenError::Fingerprint),
            (good[..good.len() - 1].to_owned(), JoinTokenError::Secret),
        ] {
            assert_eq!(text.parse::<JoinToken>(), Err(error), "{text}");
        }
    }
}
