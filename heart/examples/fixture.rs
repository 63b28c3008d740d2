//! Programs for the tests of this crate: `heart FILE` is a heart in a process of its own, which
//! a test can kill; `serve PORT` is an application that listens at once and answers every request.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use common::id::NodeId;
use common::time::Span;
use heart::Config;
use heart::crash_point;
use pacemaker_client::Client;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

/// What `heart` is told, as JSON.
#[derive(Deserialize)]
struct Told {
    node: u64,
    data_dir: PathBuf,
    shim_program: PathBuf,
    pacemaker: String,
    ports: (u16, u16),
    fence_exclusive: bool,
    node_ttl_ms: u64,
    /// The name of a crash point, as its debug form has it.
    crash_at: Option<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["heart", file] => run_heart(Path::new(file)),
        ["serve", port] => serve(port),
        _ => Err("heart FILE, or serve PORT".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run_heart(file: &Path) -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_env_filter("warn,heart=debug")
        .with_writer(std::io::stderr)
        .init();
    let told: Told = serde_json::from_slice(&std::fs::read(file)?)?;
    let client = Client::new(&[told.pacemaker], "token")?;
    let mut config = Config::new(NodeId(told.node), told.data_dir, told.shim_program, client);
    config.node_tags = BTreeMap::new();
    config.ports = told.ports.0..=told.ports.1;
    config.fence_exclusive = told.fence_exclusive;
    config.node_ttl = Span(told.node_ttl_ms);
    config.crash_at = crash_point::ALL
        .into_iter()
        .find(|point| told.crash_at == Some(format!("{point:?}")));
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        heart::run(config, listener, CancellationToken::new()).await?;
        Ok(())
    })
}

/// Answers with its process id; `/up` answers 503 until the file `healthy` is in its directory.
fn serve(port: &str) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port.parse()?))?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut request = [0; 4096];
        let length = stream.read(&mut request)?;
        let is_probe = request[..length].starts_with(b"GET /up ");
        let status = if is_probe && !Path::new("healthy").exists() {
            "503 Service Unavailable"
        } else {
            "200 OK"
        };
        let body = std::process::id().to_string();
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
    }
    Ok(())
}
