//! The request of an attempt: what it says of itself, and the signature that proves it.

use aws_lc_rs::hmac;
use bytes::Bytes;
use common::id::RunId;
use common::secret::Secret;
use common::time::Timestamp;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::Empty;
use pacemaker_core::crons::BasicCredentials;

/// Names the run; the same for each of its attempts.
const RUN: HeaderName = HeaderName::from_static("pm-cron-run");
/// The slot, RFC 3339.
const SCHEDULED: HeaderName = HeaderName::from_static("pm-cron-scheduled");
/// Counts from 1.
const ATTEMPT: HeaderName = HeaderName::from_static("pm-cron-attempt");
/// See [`signature`].
const SIGNATURE: HeaderName = HeaderName::from_static("pm-cron-signature");
/// Tells an application that a cron calls it, before it looks at anything else.
const AGENT: HeaderValue = HeaderValue::from_static("paasmaker-cron/1");

/// What all requests of one attempt have in common.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) run: RunId,
    pub(super) attempt: u32,
    pub(super) scheduled: Timestamp,
    pub(super) host: String,
    pub(super) credentials: Option<BasicCredentials>,
    /// The application's, as its processes see it in `PM_CRON_KEY`.
    pub(super) key: Option<Secret>,
}

/// Makes a request; `now` is the time of the signature.
///
/// # Errors
/// When the URI or a credential cannot be carried by HTTP.
pub(super) fn build(
    origin: &Origin,
    method: &Method,
    uri: &str,
    now: Timestamp,
) -> Result<Request<Empty<Bytes>>, http::Error> {
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .header(HOST, &origin.host)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, HeaderValue::from_static("*/*"))
        .header(CONNECTION, HeaderValue::from_static("close"))
        .header(RUN, origin.run.0)
        .header(SCHEDULED, origin.scheduled.to_string())
        .header(ATTEMPT, origin.attempt);
    if let Some(key) = &origin.key {
        let signature = signature(key.reveal(), origin, (method, uri), now);
        request = request.header(SIGNATURE, signature);
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        request = request.header(CONTENT_LENGTH, 0);
    }
    if let Some(credentials) = &origin.credentials {
        let password = credentials.password.as_ref().map_or("", Secret::reveal);
        let pair = format!("{}:{password}", credentials.username);
        let text = format!("Basic {}", base64(pair.as_bytes()));
        let mut value = HeaderValue::from_str(&text)?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Empty::new())
}

/// `t=<unix seconds>,v1=<hex>`: an HMAC-SHA256 of `t`, method, URI, run, slot and attempt, each on a
/// line of its own as the headers have them and without a last line feed. Its key is the text of
/// `PM_CRON_KEY`.
fn signature(key: &str, origin: &Origin, (method, uri): (&Method, &str), now: Timestamp) -> String {
    let seconds = now.0 / 1_000;
    let signed = format!(
        "{seconds}\n{method}\n{uri}\n{}\n{}\n{}",
        origin.run, origin.scheduled, origin.attempt
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let tag = hmac::sign(&key, signed.as_bytes());
    let mut text = format!("t={seconds},v1=");
    for byte in tag.as_ref() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for sextet in 0..4 {
            if sextet <= three.len() {
                let at = (bits >> (18 - 6 * sextet)) & 63;
                text.push(char::from(ALPHABET[at as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_credentials_are_in_base64() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("Aladdin:open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn request_says_what_it_is_and_proves_it() {
        let origin = Origin {
            run: RunId(7),
            attempt: 2,
            scheduled: Timestamp(1_790_000_040_000),
            host: "hello.example.com".to_owned(),
            credentials: Some(BasicCredentials {
                username: "Aladdin".to_owned(),
                password: Some(Secret::new("open sesame".to_owned())),
            }),
            key: Some(Secret::new("5f".repeat(32))),
        };

        let now = Timestamp(1_790_000_041_999);
        let request = build(&origin, &Method::POST, "/tasks/clean?x=1", now).unwrap();

        let header = |name: &str| request.headers()[name].to_str().unwrap();
        assert_eq!(header("pm-cron-run"), "7");
        assert_eq!(header("pm-cron-attempt"), "2");
        assert_eq!(header("pm-cron-scheduled"), "2026-09-21T14:14:00Z");
        assert_eq!(header("content-length"), "0");
        assert_eq!(
            header("authorization"),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
        // printf '%s' … | openssl dgst -sha256 -hmac "$(printf '5f%.0s' {1..32})"
        assert_eq!(
            header("pm-cron-signature"),
            "t=1790000041,v1=d9cbe3a37d60a2520d5d388042468bc821a2990ec71bbcc86d4fa72e48414854"
        );
        assert!(!format!("{origin:?} {request:?}").contains("sesame"));
        assert!(!format!("{origin:?}").contains("5f5f"));
    }
}
