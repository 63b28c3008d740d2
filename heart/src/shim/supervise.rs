//! One run, once its application has been executed: move output, wait, stop, clean up, record.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::application::StopSignal;
use common::time::Timestamp;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};

use super::launch::{Launched, Running, Taken};
use super::lease::Watched;
use super::log::{Step, Writer};
use super::prepare::Prepared;
use super::record::{Ending, ExitRecord, ProcessRecord, Started};
use super::specification::{Specification, StoredSpecification};
use super::tree;

/// How long after a failed write of output the disk is tried again.
const DISK_RETRY: Duration = Duration::from_secs(1);

/// The shim is small and losing it costs the application: the kernel takes it after all else.
const SHIM_OUT_OF_MEMORY_SCORE: &str = "-900";

/// Watches the run that `taken` asked for, until nothing of it is left.
///
/// The spawner knows of an application that runs; it is told here of one that could not be executed.
/// Calls `answered` when that, or the record, has been written. A run that has been called off is
/// ended without a record as soon as that is seen.
///
/// # Errors
/// When no record could be left; then nothing runs.
pub(crate) fn run(prepared: Prepared, taken: Taken, answered: impl FnOnce()) -> io::Result<()> {
    let Taken {
        run_directory,
        mut answer,
        launched,
    } = taken;
    let mut supervision = match launched {
        Launched::Running(running) => {
            drop(answer);
            Supervision::new(&run_directory, *running, prepared)?
        }
        Launched::GivenUp => {
            answered();
            return Ok(());
        }
        Launched::Failed(message) => {
            let failure = Ending::LaunchFailed {
                message: message.clone(),
            };
            let written = exit_record(failure, false, 0).write(&run_directory);
            let shim = prepared.identity;
            let failed = Started::Failed { shim, message };
            // Heard by nobody when the spawner has been killed meanwhile.
            answer.write_all(&failed.line()).ok();
            answered();
            return written;
        }
    };
    supervision.write_record();
    answered();
    // Needs a privilege that a developer's machine does not give; then the score stays ordinary.
    fs::write("/proc/self/oom_score_adj", SHIM_OUT_OF_MEMORY_SCORE).ok();
    let ending = supervision.wait();
    supervision.clean_up();
    if supervision.is_called_off {
        return supervision.record.remove(&run_directory);
    }
    let lost = supervision.drain_output();
    let ending = supervision.ending.take().unwrap_or(ending);
    let mut record = exit_record(ending, supervision.deadline.is_some(), lost);
    record.cut_off = supervision.is_cut_off;
    record.write(&run_directory)
}

/// An application that runs and is watched.
struct Supervision<'a> {
    run_directory: &'a Path,
    specification: Specification,
    marker: String,
    application: Pid,
    record: ProcessRecord,
    /// False while the disk has not taken the record.
    is_recorded: bool,
    /// True once the specification is seen to be gone or another run's.
    is_called_off: bool,
    /// The read end of the application's output; none once everyone has closed the other end.
    output: Option<OwnedFd>,
    /// The log, once there is output for it.
    writer: Option<Writer>,
    signals: SignalFd,
    /// Set when the main process has been reaped.
    ending: Option<Ending>,
    /// True while the kernel says that this process has children.
    has_children: bool,
    /// Set when a stop has been requested: when the grace ends.
    deadline: Option<Instant>,
    /// Set when the disk took no record or output: when to try again.
    disk_retry: Option<Instant>,
    /// The lease, while it holds; only an exclusive instance has one.
    lease: Option<Watched>,
    /// True once the lease has ended.
    is_cut_off: bool,
}

impl<'a> Supervision<'a> {
    fn new(run_directory: &'a Path, running: Running, prepared: Prepared) -> io::Result<Self> {
        let Running {
            stored,
            lease,
            record,
            ..
        } = running;
        prepared.let_go_of_output()?;
        let application = i32::try_from(record.application.pid).ok();
        Ok(Self {
            run_directory,
            specification: stored.specification,
            marker: stored.marker,
            application: application
                .and_then(Pid::from_raw)
                .ok_or(io::ErrorKind::InvalidData)?,
            record,
            is_recorded: false,
            is_called_off: false,
            output: Some(prepared.output),
            writer: None,
            signals: prepared.signals,
            ending: None,
            has_children: true,
            deadline: None,
            disk_retry: None,
            lease,
            is_cut_off: false,
        })
    }

    /// Leaves the record of the processes, now or when the disk takes it.
    ///
    /// Looks for the specification before, so as not to write over another run's record, and after:
    /// who calls a run off removes the specification and then looks for the record.
    fn write_record(&mut self) {
        self.is_called_off = self.lost_specification();
        if self.is_called_off {
            return;
        }
        match self.record.write(self.run_directory) {
            Ok(()) => self.is_recorded = true,
            Err(_) => self.disk_retry = Some(Instant::now() + DISK_RETRY),
        }
        self.is_called_off = self.lost_specification();
    }

    /// True when the specification is gone or another run's; one that cannot be read tells nothing.
    fn lost_specification(&self) -> bool {
        match StoredSpecification::read(self.run_directory) {
            Ok(stored) => stored.marker != self.marker,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Watches until the main process has ended, or until a stop's grace has.
    fn wait(&mut self) -> Ending {
        loop {
            self.reap();
            if self.is_called_off {
                return Ending::Signalled {
                    signal: Signal::KILL.as_raw(),
                };
            }
            if let Some(ending) = &self.ending
                && !(self.deadline.is_some() && self.group_lives())
            {
                return ending.clone();
            }
            if self
                .deadline
                .is_some_and(|deadline| deadline <= Instant::now())
            {
                return Ending::Signalled {
                    signal: Signal::KILL.as_raw(),
                };
            }
            self.take_events();
        }
    }

    /// During a stop, what the main process left in its group keeps the rest of the grace.
    fn group_lives(&self) -> bool {
        self.has_children && rustix::process::test_kill_process_group(self.application).is_ok()
    }

    /// Sleeps until something happens, and handles it.
    fn take_events(&mut self) {
        let now = Instant::now();
        if self.disk_retry.is_some_and(|retry| retry <= now) {
            self.disk_retry = None;
            if !self.is_recorded {
                self.write_record();
                if self.is_called_off {
                    return;
                }
            }
        }
        let wake = [self.deadline, self.disk_retry]
            .into_iter()
            .flatten()
            .min()
            .map(|wake| timespec(wake.saturating_duration_since(now)));
        let signals = PollFd::new(&self.signals, PollFlags::IN);
        let lease = self.lease.as_ref();
        let lease = lease.map(|lease| PollFd::new(lease, PollFlags::IN));
        let output = self.output.as_ref().filter(|_| self.disk_retry.is_none());
        let output = output.map(|output| PollFd::new(output, PollFlags::IN));
        let has_place = output.is_some();
        // What is not there is replaced by what is watched anyway.
        let mut events = [
            signals.clone(),
            lease.unwrap_or_else(|| signals.clone()),
            output.unwrap_or(signals),
        ];
        if poll(&mut events, wake.as_ref()).is_err() {
            return;
        }
        let [is_signalled, is_lease_due, is_readable] =
            events.each_ref().map(|event| !event.revents().is_empty());
        let has_output = is_readable && has_place;
        if is_signalled {
            self.take_signals();
        }
        if is_lease_due {
            self.look_at_lease();
        }
        if has_output {
            self.take_output();
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == libc::SIGTERM.unsigned_abs() && self.deadline.is_none() {
                self.begin_stop();
            }
        }
    }

    fn begin_stop(&mut self) {
        let specification = &self.specification;
        let signal = stop_signal(specification.stop_signal);
        let grace = if signal == Signal::KILL {
            Duration::ZERO
        } else {
            specification.grace.duration()
        };
        self.deadline = Some(Instant::now() + grace);
        // The main process has not been reaped, or else the group is not signalled: its number is its own.
        if self.ending.is_none() {
            rustix::process::kill_process_group(self.application, signal).ok();
        }
    }

    /// Stops the application, within the lease's own grace, unless the lease has been extended.
    fn look_at_lease(&mut self) {
        let Some(lease) = &mut self.lease else { return };
        if lease.holds().unwrap_or(false) {
            return;
        }
        let limit = Instant::now() + lease.grace_left();
        self.lease = None;
        self.is_cut_off = true;
        if self.deadline.is_none() {
            self.begin_stop();
        }
        // A stop that is under way may have a longer grace, which nobody waits for.
        self.deadline = self.deadline.map(|deadline| deadline.min(limit));
    }

    fn take_output(&mut self) {
        match self.move_output() {
            Ok(Step::Moved | Step::Empty) => {}
            Ok(Step::Ended) => self.output = None,
            Err(_) => self.disk_retry = Some(Instant::now() + DISK_RETRY),
        }
    }

    /// One step from the pipe into the log, which is opened when first needed.
    fn move_output(&mut self) -> io::Result<Step> {
        let Some(output) = &self.output else {
            return Ok(Step::Ended);
        };
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let specification = &self.specification;
                self.writer.insert(Writer::open(
                    &specification.log_directory,
                    specification.log_limits,
                )?)
            }
        };
        writer.take_from(output.as_fd())
    }

    /// Takes the status of every child that has ended, adopted ones included.
    fn reap(&mut self) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.application => {
                    self.ending = Some(ending_of(ExitStatus::from_raw(status.as_raw())));
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => {
                    self.has_children = true;
                    return;
                }
                Err(_) => {
                    self.has_children = false;
                    return;
                }
            }
        }
    }

    /// Kills and reaps everything that is left.
    fn clean_up(&mut self) {
        tree::kill_descendants(|| {
            self.reap();
            self.has_children
        })
        // What does not vanish sleeps in the kernel, has been killed, and dies when it wakes.
        .ok();
    }

    /// Moves what is still in the pipe; answers how many bytes the disk did not take.
    fn drain_output(&mut self) -> u64 {
        loop {
            match self.move_output() {
                Ok(Step::Moved) => {}
                Ok(Step::Empty | Step::Ended) => return 0,
                Err(_) => {
                    let left = self.output.as_ref().map(rustix::io::ioctl_fionread);
                    return left.and_then(Result::ok).unwrap_or(0);
                }
            }
        }
    }
}

fn exit_record(ending: Ending, stop_requested: bool, output_lost: u64) -> ExitRecord {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    ExitRecord {
        ending,
        at: Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)),
        stop_requested,
        cut_off: false,
        output_lost,
    }
}

fn ending_of(status: ExitStatus) -> Ending {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Exited { code },
        (None, signal) => Ending::Signalled {
            signal: signal.unwrap_or_default(),
        },
    }
}

fn stop_signal(signal: StopSignal) -> Signal {
    match signal {
        StopSignal::Term => Signal::TERM,
        StopSignal::Int => Signal::INT,
        StopSignal::Quit => Signal::QUIT,
        StopSignal::Hup => Signal::HUP,
        StopSignal::Usr1 => Signal::USR1,
        StopSignal::Usr2 => Signal::USR2,
        StopSignal::Kill => Signal::KILL,
    }
}

/// The remaining time, rounded up, so that a wake-up never comes before its time.
fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec {
        tv_sec: i64::MAX,
        tv_nsec: 0,
    })
}
