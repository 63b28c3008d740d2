//! `pm login`: remembers a cluster after its token has been tried.

use std::io::Read as _;

use crate::args::{GlobalArguments, LoginArguments};
use crate::connection::Connection;
use crate::credentials::Logins;
use crate::error::{CommandError, code};
use crate::output::Output;

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
    } else if let Some(token) = logins.token(url) {
        token.to_owned()
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
    let connection = Connection::to(url, &token, global.workspace.clone(), output)?;
    let cluster = connection
        .client
        .cluster()
        .await
        .map_err(connection.failed(doing))?;

    logins.choose(url, Some(token));
    let path = logins.save()?;
    output.result(
        &serde_json::json!({ "url": url, "cluster": cluster.id, "file": path }),
        |_| format!("Logged in to {url} (cluster {}).", cluster.id),
    )
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
