//! How late crons are, on this machine: three pacemakers, and instances that answer at once. Run by
//! `scripts/bench-crons`.
//!
//! First a rate of slots, every tenth of a second a tenth of them; then some crons that are due every
//! minute, all at once; then a stampede: all crons of the cell in the same minute, while the API is
//! asked as before. Lateness is the arrival of a request at the instance
//! after the second of its slot, by the clock of the machine that all share.
#![expect(clippy::print_stdout, reason = "the table is the program's result")]

mod api;
mod cluster;
mod receiver;
mod times;

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use common::id::ApplicationId;
use pacemaker_client::Client;
use tokio::task::JoinHandle;

use crate::api::{Asking, deploy, deploy_all};
use crate::cluster::{ADMINISTRATOR, Clock, Cluster, NODE, description};
use crate::receiver::{Arrival, Receiver, obey};
use crate::times::{key, now, part, pause, ratio, wait_until};

/// As in `pm`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Crons of one application in the first part; as many as may be under way for it.
const CRONS_EACH: usize = 50;
/// Crons of one application in the stampede.
const STAMPEDE_EACH: usize = 500;
/// Between two looks at something.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// A stampede ends when nothing has come for so long.
const QUIET: Duration = Duration::from_secs(5);
/// Time to deploy one cron of the stampede, with much to spare.
const MILLISECONDS_EACH: u64 = 1;
const MINUTE: u64 = 60_000;
/// A rate of slots is measured by a clock on which a minute takes a tenth of a second.
const RATE_OF_CLOCK: u32 = 600;
const RATE_MINUTES_A_SECOND: usize = 10;
/// Time to begin the cluster and to deploy what is measured.
const RATE_WARMUP_MS: u64 = 12_000;
const RATE_SECONDS: u64 = 20;
/// Crons of one application then.
const RATE_EACH: usize = 10;

fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new()?;
    match arguments.get(1).map(String::as_str) {
        Some("node") => runtime.block_on(cluster::node(&arguments[2..])),
        _ => runtime.block_on(measure(
            number(&arguments, 1, 1_000)?,
            number(&arguments, 2, 3)?,
            number(&arguments, 3, 99_500)?,
            number(&arguments, 4, 1_000)?,
        )),
    }
}

fn number(arguments: &[String], at: usize, otherwise: usize) -> Fallible<usize> {
    Ok(arguments
        .get(at)
        .map_or(Ok(otherwise), |text| text.parse())?)
}

async fn measure(crons: usize, slots: usize, stampede: usize, rate: usize) -> Fallible<()> {
    if rate > 0 {
        let start = now().next_multiple_of(1_000) + RATE_WARMUP_MS;
        let clock = Clock {
            start,
            rate: RATE_OF_CLOCK,
        };
        let world = World::start(clock).await?;
        at_rate(&world, rate).await?;
        world.end()?;
    }
    if crons > 0 {
        let world = World::start(Clock::of_the_machine()).await?;
        due_at_once(&world, (crons, slots)).await?;
        world.end()?;
    }
    if stampede > 0 {
        let world = World::start(Clock::of_the_machine()).await?;
        run_over(&world, stampede).await?;
        world.end()?;
    }
    Ok(())
}

/// A cluster with one heart, and who asks it.
struct World {
    directory: PathBuf,
    clock: Clock,
    cluster: Cluster,
    receiver: Receiver,
    heart: JoinHandle<Fallible<()>>,
    client: Client,
    /// An application with a cron that is never due, for questions to the API.
    spare: ApplicationId,
}

impl World {
    async fn start(clock: Clock) -> Fallible<Self> {
        let directory = std::env::temp_dir().join(format!("bench-crons-{}", std::process::id()));
        let cluster = Cluster::start(directory.clone(), clock).await?;
        let receiver = Receiver::default();
        let nodes = Client::new(&cluster.urls, NODE)?;
        let id = nodes
            .register_node(&description("heart", &cluster.urls[0]))
            .await?;
        let heart = tokio::spawn(obey(nodes, id, receiver.clone()));
        let client = Client::new(&cluster.urls, ADMINISTRATOR)?;
        let spare = deploy(&client, "spare", "0 0 1 1 *", 1).await?;
        Ok(Self {
            directory,
            clock,
            cluster,
            receiver,
            heart,
            client,
            spare,
        })
    }

    fn end(self) -> Fallible<()> {
        self.heart.abort();
        drop(self.cluster);
        std::fs::remove_dir_all(self.directory)?;
        Ok(())
    }
}

/// As many slots in each second, a tenth of them every tenth of a second: by a clock on which a
/// minute takes so long.
async fn at_rate(world: &World, rate: usize) -> Fallible<()> {
    let each_minute = rate / RATE_MINUTES_A_SECOND;
    println!("{rate} slots a second, {each_minute} every 100 ms, for {RATE_SECONDS} s");
    let applications = each_minute.div_ceil(RATE_EACH);
    let each = each_minute / applications;
    deploy_all(&world.client, "rate", "* * * * *", (applications, each)).await?;
    let begin = world.clock.start + 2_000;
    if now() > begin {
        return Err("the deployments took too long".into());
    }
    wait_until(begin).await;
    world.receiver.take();
    let asked = Asking::start(&world.client, world.spare);
    wait_until(begin + RATE_SECONDS * 1_000).await;
    let asked = asked.stop().await?;
    let arrivals = world.receiver.take();
    let expected = applications * each * RATE_MINUTES_A_SECOND * usize::try_from(RATE_SECONDS)?;
    let mut late = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        let passed = arrival.scheduled.saturating_sub(world.clock.start) as f64;
        let real = Duration::from_secs_f64(passed / 1_000.0 / f64::from(RATE_OF_CLOCK));
        let slot = SystemTime::UNIX_EPOCH + Duration::from_millis(world.clock.start) + real;
        late.push(arrival.at.duration_since(slot)?);
    }
    print_lateness(late, expected);
    println!("  {}", asked.text());
    Ok(())
}

/// Some crons that are due every minute.
async fn due_at_once(world: &World, (crons, slots): (usize, usize)) -> Fallible<()> {
    let World {
        client,
        receiver,
        spare,
        ..
    } = world;
    let applications = crons.div_ceil(CRONS_EACH);
    println!("{crons} crons of {applications} applications, due at once, {slots} times");
    let made = deploy_all(client, "minute", "* * * * *", (applications, CRONS_EACH)).await?;
    for _ in 0..slots {
        let slot = now().next_multiple_of(MINUTE);
        wait_until(slot - 1_000).await;
        receiver.take();
        let asked = Asking::start(client, *spare);
        wait_until(slot + 20_000).await;
        let asked = asked.stop().await?;
        print_lateness(after(slot, &receiver.take())?, applications * CRONS_EACH);
        println!("  {}", asked.text());
    }
    for application in made {
        for number in 0..CRONS_EACH {
            client
                .suspend_cron(application, &format!("cron-{number}"), &key()?)
                .await?;
        }
    }
    Ok(())
}

/// All crons of the cell in the same second.
async fn run_over(world: &World, crons: usize) -> Fallible<()> {
    let World {
        client,
        receiver,
        spare,
        ..
    } = world;
    let applications = crons.div_ceil(STAMPEDE_EACH);
    let time = crons as u64 * MILLISECONDS_EACH + MINUTE;
    let slot = (now() + time).next_multiple_of(MINUTE);
    let (hour, minute) = (slot / MINUTE / 60 % 24, slot / MINUTE % 60);
    println!("stampede: {crons} crons of {applications} applications at {hour:02}:{minute:02}");
    let runspec = format!("{minute} {hour} * * *");
    let begun = Instant::now();
    deploy_all(client, "stampede", &runspec, (applications, STAMPEDE_EACH)).await?;
    println!("  deployed in {:.0} s", begun.elapsed().as_secs_f64());
    if now() + 22_000 > slot {
        return Err("the deployments took too long; try fewer".into());
    }
    wait_until(slot - 21_000).await;
    let before = Asking::start(client, *spare);
    wait_until(slot - 1_000).await;
    let before = before.stop().await?;
    receiver.take();
    wait_until(slot).await;
    let during = Asking::start(client, *spare);
    let mut last = (0, Instant::now());
    while last.1.elapsed() < QUIET {
        pause(LOOK_INTERVAL).await;
        let count = receiver.count();
        if count != last.0 || count == 0 {
            last = (count, Instant::now());
        }
    }
    let during = during.stop().await?;
    print_lateness(after(slot, &receiver.take())?, applications * STAMPEDE_EACH);
    println!("  before: {}", before.text());
    println!("  during: {}", during.text());
    println!(
        "  ratio p99 during/before: read {:.1}, write {:.1}",
        ratio(&during.reads, &before.reads),
        ratio(&during.writes, &before.writes)
    );
    Ok(())
}

/// How long after a slot each has come.
fn after(slot: u64, arrivals: &[Arrival]) -> Fallible<Vec<Duration>> {
    let slot = SystemTime::UNIX_EPOCH + Duration::from_millis(slot);
    let late = arrivals
        .iter()
        .map(|arrival| arrival.at.duration_since(slot));
    Ok(late.collect::<Result<_, _>>()?)
}

fn print_lateness(mut late: Vec<Duration>, expected: usize) {
    late.sort_unstable();
    println!(
        "  {} of {expected} came; late p50 {:.1?}, p99 {:.1?}, last {:.1?}",
        late.len(),
        part(&late, 50),
        part(&late, 99),
        late.last().copied().unwrap_or_default()
    );
}
