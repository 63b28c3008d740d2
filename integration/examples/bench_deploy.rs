//! How much time the platform adds to an application's own start; run by `scripts/bench-deploy`.
//!
//! A round is a deployment of a package that the store already has. It is timed from the start of
//! the `pm deploy` process to the first answer of 200 through the router, at the new version's own
//! hostname. The application's own start is the same program, started without the platform, to its
//! first answer of 200, just before the deployment of the same round. The difference of the two, round
//! by round, is what the platform costs.
#![expect(clippy::print_stdout, reason = "the table is the program's result")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use common::id::NodeId;
use integration::{Connection, DevProcess, TestApp, pm_program};
use pacemaker_client::Client;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// As first argument: this process is to be a heart and nothing else.
const BARE_HEART: &str = "bare-heart";
/// Rounds that are timed, unless the first argument says otherwise.
const ROUNDS: usize = 40;
/// Rounds before them.
const WARM_UP: usize = 3;
/// Time between two looks for an answer.
const LOOK: Duration = Duration::from_millis(1);
/// The longest that an answer is waited for.
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<()> {
    let first = std::env::args().nth(1);
    if first.as_deref() == Some(BARE_HEART) {
        return bare_heart().await;
    }
    let rounds = first
        .map_or(Ok(ROUNDS), |text| text.parse())
        .context("the first argument is the number of rounds")?;
    let site = TestApp::site("bench", "ready")?;
    let dev = DevProcess::start().await?;
    let mut own = Vec::new();
    let mut first = Vec::new();
    let mut whole = Vec::new();
    let mut added = Vec::new();
    for round in 0..rounds + WARM_UP {
        let alone = own_start(&site.path().join("site")).await?;
        let (answered, ended) = deploy(&dev, &site, round + 1).await?;
        if round >= WARM_UP {
            own.push(alone);
            first.push(answered);
            whole.push(ended);
            added.push(answered - alone);
        }
    }
    let instances = dev.instances("bench").await?;
    println!("{:<58}{:>9}{:>9}", "milliseconds", "p50", "p99");
    row("the application's own start, to its first 200", &mut own);
    row("pm deploy, to the new version's first 200", &mut first);
    row("pm deploy, to its end (promoted, drained)", &mut whole);
    row("what the platform adds to the first 200", &mut added);
    let pid = instances[0].pid.context("the instance has a process")?;
    memory(&dev, pid).await?;
    dev.passed();
    Ok(())
}

/// The same program without the platform.
async fn own_start(root: &Path) -> Result<f64> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    drop(listener);
    let began = Instant::now();
    let mut child = Command::new(pm_program()?)
        .args(["static", "--root"])
        .arg(root)
        .env("PM_PORT", address.port().to_string())
        .stdout(Stdio::null())
        .spawn()?;
    until_answered(address, "localhost").await?;
    let took = began.elapsed();
    child.kill().await?;
    Ok(milliseconds(took))
}

/// One deployment: time to the first routed answer, and to the end of the command.
async fn deploy(dev: &DevProcess, site: &TestApp, version: usize) -> Result<(f64, f64)> {
    let host = format!("{version}.{}", DevProcess::host("bench"));
    let router = dev.router()?;
    let began = Instant::now();
    let command = async {
        dev.pm(&["deploy", site.argument()?]).await?.success()?;
        anyhow::Ok(began.elapsed())
    };
    let answer = async {
        until_answered(router, &host).await?;
        anyhow::Ok(began.elapsed())
    };
    let (ended, answered) = tokio::try_join!(command, answer)?;
    Ok((milliseconds(answered), milliseconds(ended)))
}

async fn until_answered(address: SocketAddr, host: &str) -> Result<()> {
    let mut interval = tokio::time::interval(LOOK);
    let began = Instant::now();
    loop {
        let look = async {
            let mut connection = Connection::open(address).await?;
            connection.get(host, "/").await
        };
        if look.await.is_ok_and(|answer| answer.status == 200) {
            return Ok(());
        }
        ensure!(
            began.elapsed() < LIMIT,
            "no answer from {host} at {address}"
        );
        interval.tick().await;
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn row(name: &str, samples: &mut [f64]) {
    samples.sort_by(f64::total_cmp);
    println!(
        "{name:<58}{:>9.1}{:>9.1}",
        quantile(samples, 0.50),
        quantile(samples, 0.99)
    );
}

/// A quantile of sorted samples.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rank among some dozens of samples"
)]
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// A heart alone in its process, with no pacemaker and no instance, until it is killed.
async fn bare_heart() -> Result<()> {
    let data = std::env::args().nth(2).context("a data directory")?;
    let client = Client::new(&["http://127.0.0.1:9".to_owned()], "nobody")?;
    let config = heart::Config::new(NodeId(1), data.into(), pm_program()?, client);
    let running = heart::start(config, CancellationToken::new()).await?;
    println!("{BARE_HEART}");
    running.finished.await??;
    Ok(())
}

/// Starts [`bare_heart`] as a process and waits until it says that it runs.
async fn start_bare_heart(data: &Path) -> Result<Child> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg(BARE_HEART)
        .arg(data)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().context("stdout is a pipe")?;
    let mut lines = BufReader::new(stdout).lines();
    lines.next_line().await?.context("the bare heart runs")?;
    Ok(child)
}

/// What the processes hold in memory.
async fn memory(dev: &DevProcess, application: u32) -> Result<()> {
    println!("\n{:<58}{:>9}{:>9}", "KiB of memory", "PSS", "private");
    let shim = parent(application)?;
    let heart = start_bare_heart(&dev.directory().join("bare-heart")).await?;
    for (name, pid) in [
        ("pm dev with all three roles", dev.pid()?),
        (
            "a heart alone, without instances",
            heart.id().context("the bare heart runs")?,
        ),
        ("the shim of one instance", shim),
        ("pm static of one instance", application),
    ] {
        let (proportional, private) = resident(pid)?;
        println!("{name:<58}{proportional:>9}{private:>9}");
    }
    Ok(())
}

fn parent(pid: u32) -> Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
        .context("reading the parent of a process")
}

/// PSS and private memory in KiB.
fn resident(pid: u32) -> Result<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |name: &str| -> u64 {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .unwrap_or_default()
    };
    Ok((
        field("Pss:"),
        field("Private_Clean:") + field("Private_Dirty:"),
    ))
}
