//! One request through the router, so that the URL that is printed is one that answers.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::error::{CommandError, code};

/// An application that has passed its start check answers sooner than this.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// A head of an answer is smaller; the body is not needed.
const HEAD_MAX_BYTES: usize = 64 * 1024;

/// Asks for `url` at the router and gives the application's status.
///
/// The name is not looked up: `*.localhost` resolves in browsers, not on every machine.
pub(crate) async fn ask(router: &str, url: &str) -> Result<u16, CommandError> {
    let failed = |why: String| {
        CommandError::new(code::FAILED, format!("get an answer from {url}"), why)
            .next("`pm why APP` explains how it stands")
    };
    let head = match tokio::time::timeout(ANSWER_LIMIT, exchange(router, url)).await {
        Ok(Ok(head)) => head,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("no answer in {} s", ANSWER_LIMIT.as_secs()))),
    };
    if head.to_ascii_lowercase().contains("\nx-pm-router-error:") {
        return Err(failed(format!(
            "the router answered: {}",
            first_line(&head)
        )));
    }
    status(&head).ok_or_else(|| failed(format!("the answer is no HTTP: {}", first_line(&head))))
}

async fn exchange(router: &str, url: &str) -> std::io::Result<String> {
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(router.trim_start_matches("http://")).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD_MAX_BYTES {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn first_line(head: &str) -> &str {
    head.lines().next().unwrap_or_default()
}

fn status(head: &str) -> Option<u16> {
    head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_from_the_first_line() {
        assert_eq!(status("HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status("SSH-2.0"), None);
        assert_eq!(status("HTTP/1.1 "), None);
    }
}
