//! Measures a managed start against a bare `posix_spawn` of the same program, in turn.
//!
//! `bench_spawn ROUNDS STARTS`: each round is bare, managed, managed, bare (ABBA), STARTS of each,
//! first with little and then with a gigabyte of memory touched by this process. A start is over
//! when the program has been executed and its identity is known; the last column is the ratio of
//! the times until the program has ended, which is what its user waits for. Prints the table of
//! `scripts/bench-spawn`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::application::StopSignal;
use common::id::InstanceId;
use common::time::Span;
use heart::shim::{LogLimits, ProcessIdentity, ProcessRecord, Spawner, Specification, Started};

/// What is started: does nothing.
const PROGRAM: &str = "/bin/true";

const SMALL_BYTES: usize = 10 << 20;
const LARGE_BYTES: usize = 1 << 30;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| -> Result<usize, Box<dyn Error>> {
        Ok(arguments.next().map_or(Ok(default), |text| text.parse())?)
    };
    let (rounds, starts) = (number(7)?, number(200)?);
    let bench = Bench::new()?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:>10} {:>12} {:>12} {:>8} {:>14} {:>10}",
        "memory", "bare µs", "managed µs", "ratio", "spread", "to its end"
    )?;
    for bytes in [SMALL_BYTES, LARGE_BYTES] {
        let memory = vec![1_u8; bytes];
        let line = bench.rounds(rounds, starts)?;
        writeln!(out, "{:>7} MB {line}", bytes >> 20)?;
        drop(std::hint::black_box(memory));
    }
    bench.memory(&mut out)
}

/// From the call until the program has been executed, and until it has ended.
#[derive(Clone, Copy, Default)]
struct Times {
    to_start: Duration,
    to_end: Duration,
}

impl std::ops::Add for Times {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            to_start: self.to_start + other.to_start,
            to_end: self.to_end + other.to_end,
        }
    }
}

struct Bench {
    spawner: Spawner,
    place: PathBuf,
}

impl Bench {
    fn new() -> Result<Self, Box<dyn Error>> {
        let program = std::env::current_exe()?.with_file_name("shim");
        let place = std::env::temp_dir().join(format!("bench-spawn-{}", std::process::id()));
        fs::create_dir_all(&place)?;
        Ok(Self {
            spawner: Spawner::new(program, vec!["shim".into()]),
            place,
        })
    }

    fn rounds(&self, rounds: usize, starts: usize) -> Result<String, Box<dyn Error>> {
        self.measure(starts, true)?;
        let mut bare = Vec::new();
        let mut managed = Vec::new();
        let mut ratios = Vec::new();
        let mut ratios_to_end = Vec::new();
        for _ in 0..rounds {
            let first = self.measure(starts, false)?;
            let second = self.measure(starts, true)? + self.measure(starts, true)?;
            let first = first + self.measure(starts, false)?;
            let per_start = |time: Duration| time.as_secs_f64() * 1e6 / (2 * starts) as f64;
            bare.push(per_start(first.to_start));
            managed.push(per_start(second.to_start));
            ratios.push(per_start(second.to_start) / per_start(first.to_start));
            ratios_to_end.push(per_start(second.to_end) / per_start(first.to_end));
        }
        for list in [&mut bare, &mut managed, &mut ratios, &mut ratios_to_end] {
            list.sort_by(f64::total_cmp);
        }
        let middle = rounds / 2;
        Ok(format!(
            "{:>12.0} {:>12.0} {:>8.2} {:>6.2} – {:.2} {:>11.2}",
            bare[middle],
            managed[middle],
            ratios[middle],
            ratios[0],
            ratios[rounds - 1],
            ratios_to_end[middle],
        ))
    }

    /// The times that `starts` starts take; what the shims do at the end is waited for outside.
    fn measure(&self, starts: usize, managed: bool) -> Result<Times, Box<dyn Error>> {
        let mut times = Times::default();
        for _ in 0..starts {
            times = times
                + if managed {
                    self.managed_start()?
                } else {
                    bare_start()?
                };
        }
        Ok(times)
    }

    fn managed_start(&self) -> Result<Times, Box<dyn Error>> {
        let run = self.place.join("run");
        self.specification(&[PROGRAM]).write(&run)?;
        let begin = Instant::now();
        let record = running(self.spawner.spawn(&run)?)?;
        let to_start = begin.elapsed();
        wait_end(&record.application)?;
        let to_end = begin.elapsed();
        wait_end(&record.shim)?;
        Ok(Times { to_start, to_end })
    }

    fn specification(&self, arguments: &[&str]) -> Specification {
        Specification {
            instance: InstanceId(1),
            arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
            environment: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            directory: self.place.clone(),
            stop_signal: StopSignal::Term,
            grace: Span::seconds(1),
            log_directory: self.place.join("log"),
            log_limits: LogLimits::default(),
            lease: None,
        }
    }

    /// What a shim costs in memory while its application runs.
    fn memory(&self, out: &mut impl std::io::Write) -> Result<(), Box<dyn Error>> {
        let mut shims = Vec::new();
        for number in 0..20 {
            let run = self.place.join(format!("memory-{number}"));
            let mut specification = self.specification(&["sleep", "1000"]);
            specification.log_directory = run.join("log");
            specification.write(&run)?;
            shims.push((running(self.spawner.spawn(&run)?)?.shim, run));
        }
        let (mut private, mut proportional) = (0, 0);
        for (shim, _) in &shims {
            let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", shim.pid))?;
            let kilobytes = |name: &str| -> u64 {
                rollup
                    .lines()
                    .filter_map(|line| line.strip_prefix(name))
                    .filter_map(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok())
                    .sum()
            };
            private += kilobytes("Private_Dirty:");
            proportional += kilobytes("Pss:");
        }
        let count = shims.len() as u64;
        writeln!(
            out,
            "memory of a shim: {} KiB private dirty, {} KiB proportional (mean of {count})",
            private / count,
            proportional / count
        )?;
        for (shim, run) in shims {
            heart::shim::kill_tree(&run, InstanceId(1))?;
            wait_end(&shim)?;
        }
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Left behind in the temporary directory if it fails, which does no harm.
        fs::remove_dir_all(&self.place).ok();
    }
}

fn running(started: Started) -> Result<ProcessRecord, Box<dyn Error>> {
    match started {
        Started::Running(record) => Ok(record),
        Started::Failed { message, .. } => Err(message.into()),
    }
}

fn bare_start() -> Result<Times, Box<dyn Error>> {
    let begin = Instant::now();
    let mut child = Command::new(PROGRAM)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let identity = ProcessIdentity::of(child.id())?;
    let to_start = begin.elapsed();
    drop(identity);
    child.wait()?;
    let to_end = begin.elapsed();
    Ok(Times { to_start, to_end })
}

fn wait_end(process: &ProcessIdentity) -> Result<(), Box<dyn Error>> {
    if let Some(descriptor) = process.open_pidfd()? {
        let mut events = [rustix::event::PollFd::new(
            &descriptor,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut events, None)?;
    }
    Ok(())
}
