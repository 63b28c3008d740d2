//! `pm login`: remembers a cluster after its token has been tried.

use std::io::Read as _;

use pacemaker_client::fetch_authority;
use pacemaker_client::tls::TlsError;

use crate::access::{Access, read_authority, token_variable};
use crate::args::{GlobalArguments, LoginArguments};
use crate::connection::Connection;
use crate::credentials::{Login, Logins};
use crate::error::{CommandError, chain, code};
use crate::output::{Output, now};

/// The longest token that is read; ours have 64 characters.
const TOKEN_MAX_BYTES: u64 = 4096;

/// Tries the token and keeps it.
pub(crate) async fn run(
    arguments: &LoginArguments,
    global: &GlobalArguments,
) -> Result<(), CommandError> {
    let url = arguments.cluster.trim_end_matches('/');
    let doing = format!("log in to {url}");
    let mut logins = Logins::load()?;
    let token = if arguments.token_stdin {
        read_token(&doing)?
    } else if let Some(token) = token_variable() {
        token
    } else if let Some(login) = logins.get(url) {
        login.token.clone()
    } else {
        return Err(CommandError::new(
            code::NOT_LOGGED_IN,
            doing,
            "no token is known for this cluster",
        )
        .next(format!(
            "give it on standard input: `pm login {url} --token-stdin < FILE`"
        )));
    };

    let output = Output::new(global.format);
    let mut login = Login::new(token, authority(arguments, global, &logins, url).await?);
    let access = Access {
        authority: login.authority.clone(),
        ..Access::plain(url, &login.token)
    };
    let connection = Connection::to(access, global.workspace.clone(), output)?;
    let cluster = connection
        .client
        .cluster()
        .await
        .map_err(connection.failed(doing))?;

    if login.authority.is_some() {
        // All pacemakers are known from the first command on.
        if let Ok(endpoints) = connection.client.pacemakers().await {
            login.endpoints = endpoints;
            login.refreshed = now();
        }
    }
    logins.choose(url, Some(login));
    let path = logins.save()?;
    output.result(
        &serde_json::json!({ "url": url, "cluster": cluster.id, "file": path }),
        |_| format!("Logged in to {url} (cluster {}).", cluster.id),
    )
}

/// PEM of the authority: of a file, asked for and checked, or known from an earlier login.
async fn authority(
    arguments: &LoginArguments,
    global: &GlobalArguments,
    logins: &Logins,
    url: &str,
) -> Result<Option<String>, CommandError> {
    if !url.starts_with("https://") {
        return Ok(None);
    }
    if let Some(path) = &global.ca {
        return read_authority(path).map(Some);
    }
    let Some(fingerprint) = &arguments.fingerprint else {
        return Ok(logins.get(url).and_then(|login| login.authority.clone()));
    };
    fetch_authority(url, fingerprint)
        .await
        .map(Some)
        .map_err(|error| {
            let doing = format!("ask {url} for its authority");
            match error {
                TlsError::OtherAuthority { .. } => CommandError::new(
                    code::OTHER_CLUSTER,
                    doing,
                    "who answers there has another fingerprint; the token was not sent",
                ),
                error => CommandError::new(code::UNREACHABLE, doing, chain(&error)),
            }
        })
}

fn read_token(doing: &str) -> Result<String, CommandError> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(TOKEN_MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| CommandError::file(doing, &error))?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(CommandError::new(
            code::NOT_LOGGED_IN,
            doing,
            "standard input has no token: one line of printable characters is expected",
        ));
    }
    Ok(token.to_owned())
}
