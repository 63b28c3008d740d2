//! Following a job: its steps and its output on stderr, its end as a result.
//!
//! The job belongs to the cluster: whatever happens here, it goes on there.

use std::cell::Cell;
use std::time::Duration;

use common::api::JobView;
use common::id::{Generation, JobId};
use common::job::{JobState, Step, StepName};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::error::{CommandError, code};
use crate::output::{took, word};

/// How long a cluster that does not answer is asked again before following is given up; a
/// pacemaker that restarts needs seconds.
const UNREACHABLE_LIMIT: Duration = Duration::from_secs(60);
/// Time between two questions to a cluster that does not answer.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Exit code of a process that was interrupted, as shells count it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Follows a job to its end. `doing` completes "could not …".
///
/// A job that failed or was aborted is an error that shows the step, the reason and the output.
pub(crate) async fn follow(
    connection: &Connection,
    job: JobId,
    doing: &str,
) -> Result<JobView, CommandError> {
    let output = JobOutput {
        connection,
        job,
        offset: Cell::new(0),
        partial: std::cell::RefCell::new(Vec::new()),
    };
    let view = tokio::select! {
        view = follow_steps(connection, job, doing) => view?,
        () = output.stream() => unreachable_stream(),
        interrupted = tokio::signal::ctrl_c() => {
            connection.progress.clear();
            return Err(match interrupted {
                Ok(()) => interruption(job, doing),
                Err(error) => CommandError::file("wait for signals", &error),
            });
        }
    };
    output.rest().await;
    connection.progress.clear();
    match view.job.state {
        JobState::Succeeded => Ok(view),
        JobState::Failed => Err(failure(&view, doing)),
        JobState::Aborted => Err(CommandError::new(
            code::JOB_ABORTED,
            doing,
            format!("job {job} was aborted; what it started has been undone"),
        )
        .job(job)),
        JobState::Waiting | JobState::Running => {
            Err(CommandError::new(code::FAILED, doing, "the job ended without an end").job(job))
        }
    }
}

fn interruption(job: JobId, doing: &str) -> CommandError {
    CommandError::new(
        "interrupted",
        format!("wait to {doing}"),
        "it was interrupted here; the job goes on in the cluster",
    )
    .next(format!(
        "`pm job follow {job}` goes on watching, `pm job abort {job}` ends it"
    ))
    .job(job)
    .exit_code(INTERRUPTED)
}

/// What the failed job says, on one screen.
fn failure(view: &JobView, doing: &str) -> CommandError {
    let job = view.job.id;
    let Some(failure) = &view.job.failure else {
        return CommandError::new(code::JOB_FAILED, doing, format!("job {job} failed")).job(job);
    };
    let mut error = CommandError::new(
        code::JOB_FAILED,
        doing,
        format!(
            "step `{}` failed ({}): {}",
            word(&failure.step),
            failure.code,
            failure.message
        ),
    )
    .next(format!(
        "`pm why job:{job}` explains; what the job had started has been undone"
    ))
    .job(job);
    error.output.clone_from(&failure.output_tail);
    error
}

async fn follow_steps(
    connection: &Connection,
    job: JobId,
    doing: &str,
) -> Result<JobView, CommandError> {
    let mut after = Generation(0);
    let mut shown = StepsShown::default();
    let mut silent_since: Option<Instant> = None;
    loop {
        match connection.client.watch_job(job, after).await {
            Ok(view) => {
                silent_since = None;
                let Some(view) = view else { continue };
                after = view.generation;
                shown.show(connection, &view);
                if view.job.state.is_final() {
                    return Ok(view);
                }
            }
            Err(error) if error.is_unreachable() => {
                let since = *silent_since.get_or_insert_with(|| {
                    connection
                        .progress
                        .line("the cluster does not answer; trying again (the job goes on there)");
                    Instant::now()
                });
                if since.elapsed() > UNREACHABLE_LIMIT {
                    return Err(CommandError::api(doing, &connection.url, &error)
                        .next(format!(
                            "`pm job follow {job}` once the cluster answers again"
                        ))
                        .job(job));
                }
                pause().await;
            }
            Err(error) => return Err(CommandError::api(doing, &connection.url, &error).job(job)),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the named loop that asks a silent cluster again; there is nothing to wait for but time"
)]
async fn pause() {
    tokio::time::sleep(RETRY_INTERVAL).await;
}

/// Which steps have been announced.
#[derive(Default)]
struct StepsShown {
    ended: Vec<StepName>,
    under_way: Option<StepName>,
}

impl StepsShown {
    fn show(&mut self, connection: &Connection, view: &JobView) {
        let progress = &connection.progress;
        for step in &view.job.steps {
            let is_new = !self.ended.contains(&step.name);
            if is_new && matches!(step.state, JobState::Succeeded | JobState::Failed) {
                self.ended.push(step.name);
                progress.line(&step_line(step));
            }
        }
        let current = view
            .job
            .steps
            .iter()
            .find(|step| step.state == JobState::Running);
        if let Some(step) = current
            && self.under_way != Some(step.name)
        {
            self.under_way = Some(step.name);
            progress.spin(&word(&step.name));
        }
    }
}

/// A step that has ended, with the time that it took.
pub(crate) fn step_line(step: &Step) -> String {
    let mark = match step.state {
        JobState::Succeeded => "ok",
        JobState::Failed => "FAILED",
        JobState::Aborted => "aborted",
        JobState::Running => "…",
        JobState::Waiting => "-",
    };
    let took = match (step.started, step.ended) {
        (Some(started), Some(ended)) => took(ended.since(started)),
        (Some(_) | None, _) => String::new(),
    };
    format!("  {:<10} {mark:<8}{took}", word(&step.name))
        .trim_end()
        .to_owned()
}

/// The output of a job's commands, shown line by line.
struct JobOutput<'a> {
    connection: &'a Connection,
    job: JobId,
    offset: Cell<u64>,
    /// Bytes after the last end of line.
    partial: std::cell::RefCell<Vec<u8>>,
}

/// The longest line that is kept together.
const LINE_MAX_BYTES: usize = 16 * 1024;

impl JobOutput<'_> {
    /// Shows output as it comes, and never ends: the job's end is seen elsewhere.
    async fn stream(&self) {
        while !self.step(true).await {}
        std::future::pending::<()>().await;
    }

    /// Shows what is left once the job has ended.
    async fn rest(&self) {
        while !self.step(false).await {}
        let partial = self.partial.take();
        if !partial.is_empty() {
            self.show(&partial);
        }
    }

    /// Reads once; true when there is nothing more.
    async fn step(&self, follow: bool) -> bool {
        let client = &self.connection.client;
        match client.job_log(self.job, self.offset.get(), follow).await {
            Ok(chunk) => {
                self.offset.set(chunk.next_offset);
                self.push(&chunk.bytes);
                chunk.is_end || (!follow && chunk.bytes.is_empty())
            }
            Err(error) if follow && error.is_unreachable() => {
                pause().await;
                false
            }
            // A job without a log is told by its steps alone.
            Err(_) => true,
        }
    }

    fn push(&self, bytes: &[u8]) {
        let mut partial = self.partial.borrow_mut();
        partial.extend_from_slice(bytes);
        while let Some(end) = partial.iter().position(|byte| *byte == b'\n') {
            self.show(&partial[..end]);
            partial.drain(..=end);
        }
        if partial.len() > LINE_MAX_BYTES {
            self.show(&partial);
            partial.clear();
        }
    }

    fn show(&self, line: &[u8]) {
        self.connection
            .progress
            .line(&format!("    | {}", String::from_utf8_lossy(line)));
    }
}

/// `JobOutput::stream` ends in a future that is never ready.
fn unreachable_stream() -> JobView {
    unreachable!("the output stream never ends by itself")
}

#[cfg(test)]
mod tests {
    use common::time::Timestamp;

    use super::*;

    #[test]
    fn a_step_line_says_how_long_it_took() {
        let step = Step {
            name: StepName::Healthy,
            state: JobState::Succeeded,
            started: Some(Timestamp(100)),
            ended: Some(Timestamp(142)),
        };
        assert_eq!(step_line(&step), "  healthy    ok      42 ms");
    }
}
