//! How a cluster is entered: where, with which token, and by which authority it is known.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use common::time::Span;
use pacemaker_client::Client;

use crate::args::GlobalArguments;
use crate::credentials::{Login, Logins};
use crate::error::{CommandError, code};
use crate::output::now;

/// The largest certificate file that is read; ours have one kilobyte.
const AUTHORITY_MAX_BYTES: u64 = 64 * 1024;
/// How old the list of pacemakers of a login may get before it is asked for again.
const ENDPOINTS_AGE: Span = Span::seconds(60);
/// How long that may take: the command is done, and only the next one gains.
const REFRESH_LIMIT: Duration = Duration::from_secs(1);

/// What is needed to speak with a cluster.
#[derive(Clone)]
pub(crate) struct Access {
    /// As the user knows it; for messages.
    pub(crate) url: String,
    /// All pacemakers that are known, this one first.
    pub(crate) endpoints: Vec<String>,
    /// The bearer token.
    pub(crate) token: String,
    /// PEM of the authority's certificate, for https.
    pub(crate) authority: Option<String>,
}

impl Access {
    /// `--url` or `PM_URL`, else the login; the token of `PM_TOKEN`, else of the login.
    pub(crate) fn choose(global: &GlobalArguments) -> Result<Self, CommandError> {
        const DOING: &str = "reach a cluster";
        let token = token_variable();
        let logins = match (&global.url, &token) {
            // All is said; a login could only add where the others are.
            (Some(_), Some(_)) => Logins::load().unwrap_or_default(),
            (Some(_) | None, _) => Logins::load()?,
        };
        let Some(url) = global.url.clone().or_else(|| logins.current.clone()) else {
            return Err(CommandError::new(
                code::NOT_LOGGED_IN,
                DOING,
                "no cluster is known: nobody has logged in here",
            )
            .next("start one on this machine with `pm dev`, or `pm login URL --token-stdin`"));
        };
        let known = logins.get(&url);
        let Some(token) = token.or_else(|| known.map(|login| login.token.clone())) else {
            return Err(CommandError::new(
                code::NOT_LOGGED_IN,
                DOING,
                format!("no token is known for {url}"),
            )
            .next(format!("`pm login {url} --token-stdin`, or set PM_TOKEN")));
        };
        let authority = match &global.ca {
            Some(path) => Some(read_authority(path)?),
            None => known.and_then(|login| login.authority.clone()),
        };
        Ok(Self {
            endpoints: endpoints(&url, known),
            url,
            token,
            authority,
        })
    }

    /// A cluster without certificates.
    pub(crate) fn plain(url: &str, token: &str) -> Self {
        Self {
            url: url.to_owned(),
            endpoints: vec![url.to_owned()],
            token: token.to_owned(),
            authority: None,
        }
    }

    /// A client of it.
    pub(crate) fn client(&self) -> Result<Client, CommandError> {
        let Self {
            url,
            endpoints,
            token,
            authority,
        } = self;
        let is_encrypted = endpoints.iter().all(|url| url.starts_with("https://"));
        let made = match authority {
            Some(authority) if is_encrypted => Client::with_authority(endpoints, token, authority),
            None if endpoints.iter().any(|url| url.starts_with("https://")) => {
                return Err(CommandError::new(
                    code::NOT_LOGGED_IN,
                    format!("reach {url}"),
                    "the cluster's authority is not known, so nobody could tell who answers",
                )
                .next(format!(
                    "`pm login {url} --ca FILE --token-stdin`, with FILE the ca.pem of any node, or name the file with --ca"
                )));
            }
            Some(_) | None => Client::new(endpoints, token),
        };
        made.map_err(|error| {
            CommandError::api("use the cluster's URL", url, &error)
                .next("a URL looks like https://10.0.0.1:4250")
        })
    }
}

/// The token of the environment.
pub(crate) fn token_variable() -> Option<String> {
    std::env::var("PM_TOKEN")
        .ok()
        .filter(|token| !token.is_empty())
}

/// The URLs of a list with commas; those of the login besides, when the list is a single one.
fn endpoints(url: &str, known: Option<&Login>) -> Vec<String> {
    let mut endpoints: Vec<String> = url
        .split(',')
        .map(|url| url.trim().trim_end_matches('/').to_owned())
        .filter(|url| !url.is_empty())
        .collect();
    for other in known.into_iter().flat_map(|login| &login.endpoints) {
        if !endpoints.contains(other) {
            endpoints.push(other.clone());
        }
    }
    endpoints
}

/// Reads the certificate of an authority.
pub(crate) fn read_authority(path: &Path) -> Result<String, CommandError> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(AUTHORITY_MAX_BYTES).read_to_string(&mut text))
        .map_err(|error| {
            CommandError::file(
                format!("read the authority's certificate in {}", path.display()),
                &error,
            )
        })?;
    Ok(text)
}

/// Learns where the other pacemakers are, so that the next command does not depend on one of them.
///
/// Done after a command has succeeded, at most once a minute, and never a reason to fail. While only
/// one is known it is done each time: a cluster that grows does so in its first minutes.
pub(crate) async fn refresh(client: &Client, url: &str) {
    let Ok(mut logins) = Logins::load() else {
        return;
    };
    let is_fresh = logins.get(url).is_none_or(|login| {
        let is_recent = now().since(login.refreshed) < ENDPOINTS_AGE;
        login.authority.is_none() || (is_recent && login.endpoints.len() > 1)
    });
    if is_fresh {
        return;
    }
    let Ok(Ok(endpoints)) = tokio::time::timeout(REFRESH_LIMIT, client.pacemakers()).await else {
        return;
    };
    if logins.keep_endpoints(url, endpoints, now()) {
        // When it fails the login stays as it was.
        logins.save().map(|_| ()).unwrap_or_default();
    }
}
