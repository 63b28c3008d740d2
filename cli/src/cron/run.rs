//! `pm cron run`: one run now, followed to its outcome.
//!
//! The run belongs to the cluster: whatever happens here, it goes on there.

use std::time::Duration;

use common::api::{CronRunState, CronRunView};
use tokio::time::Instant;

use crate::args::cron::RunArguments;
use crate::connection::{Connection, idempotency_key};
use crate::cron::{point_to_list, read_log};
use crate::error::{CommandError, code, printable};
use crate::follow::INTERRUPTED;
use crate::output::{took, typed};

/// Time between two looks; there is no watch on a run.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long a cluster that does not answer is asked again before it is given up; a pacemaker that
/// restarts needs seconds.
const UNREACHABLE_LIMIT: Duration = Duration::from_secs(60);
/// Lines of the answer that are shown with the outcome; `pm cron log` has all.
const LINES_SHOWN: usize = 20;

/// Asks for the run, and waits unless told otherwise.
pub(super) async fn run(
    connection: &Connection,
    arguments: &RunArguments,
) -> Result<(), CommandError> {
    let target = &arguments.target;
    let application = connection.application(&target.application).await?;
    let doing = format!("run cron `{}` of `{}`", target.name, target.application);
    let started = connection
        .client
        .start_cron_run(application.id, &target.name, &idempotency_key()?)
        .await
        .map_err(connection.failed(doing.clone()))
        .map_err(|error| point_to_list(error, &application))
        .map_err(|error| say_what_to_do(error, arguments))?;
    if arguments.detach {
        return connection.output.result(&started, |started| {
            format!(
                "Run {} of `{}` is under way; `pm cron history {} {}` shows what becomes of it.",
                started.id,
                started.cron,
                target.application,
                typed(&target.name)
            )
        });
    }
    connection.progress.spin(&doing);
    let ended = tokio::select! {
        ended = wait(connection, started, &doing) => ended?,
        interrupted = tokio::signal::ctrl_c() => {
            connection.progress.clear();
            return Err(match interrupted {
                Ok(()) => interruption(arguments, &doing),
                Err(error) => CommandError::file("wait for signals", &error),
            });
        }
    };
    let answer = answer(connection, &ended).await;
    connection.progress.clear();
    if ended.state != CronRunState::Succeeded {
        return Err(failure(&ended, answer, &doing));
    }
    connection
        .output
        .result(&ended, |ended| human(ended, &answer))
}

/// Looks until the run has ended.
async fn wait(
    connection: &Connection,
    mut run: CronRunView,
    doing: &str,
) -> Result<CronRunView, CommandError> {
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    let mut answered = Instant::now();
    let mut attempts = 0;
    while !run.state.is_final() {
        if run.state == CronRunState::Backoff && run.attempts > attempts {
            attempts = run.attempts;
            connection.progress.line(&format!(
                "attempt {attempts} failed: {}; it is tried again",
                run.outcome
            ));
        }
        interval.tick().await;
        match connection.client.cron_run(run.id).await {
            Ok(newer) => {
                answered = Instant::now();
                run = newer;
            }
            // Another pacemaker takes over soon.
            Err(error) if error.is_unreachable() && answered.elapsed() < UNREACHABLE_LIMIT => {}
            Err(error) => return Err(connection.failed(doing)(error)),
        }
    }
    Ok(run)
}

/// The first lines of what the application answered; none when it cannot be read now.
async fn answer(connection: &Connection, run: &CronRunView) -> String {
    match read_log(connection, run.id).await {
        Ok(log) => first_lines(&String::from_utf8_lossy(&log.bytes), run),
        Err(_) => String::new(),
    }
}

fn first_lines(text: &str, run: &CronRunView) -> String {
    let mut lines = text.lines();
    let mut shown: Vec<&str> = lines.by_ref().take(LINES_SHOWN).collect();
    let more = lines.count();
    let rest = format!("… {more} more lines: pm cron log {}", run.id);
    if more > 0 {
        shown.push(&rest);
    }
    shown.join("\n")
}

fn human(run: &CronRunView, answer: &str) -> String {
    let mut text = format!(
        "Run {} of `{}` succeeded{}{}.\n",
        run.id,
        run.cron,
        run.duration
            .map_or_else(String::new, |span| format!(" in {}", took(span))),
        run.instance
            .map_or_else(String::new, |instance| format!(" on instance {instance}")),
    );
    for line in answer.lines() {
        text.push_str(&format!("    | {line}\n"));
    }
    printable(&text)
}

fn failure(run: &CronRunView, answer: String, doing: &str) -> CommandError {
    let tries = match run.attempts {
        0 | 1 => String::new(),
        tries => format!(" after {tries} attempts"),
    };
    let mut error = CommandError::new(
        code::CRON_FAILED,
        doing,
        format!("run {} {}{tries}: {}", run.id, fate(run.state), run.outcome),
    )
    .next(format!(
        "`pm cron log {}` shows all that was answered, `pm logs` what the application wrote",
        run.id
    ));
    error.output = answer;
    error
}

/// What became of a run that did not succeed.
fn fate(state: CronRunState) -> &'static str {
    match state {
        CronRunState::TimedOut => "was not answered in time",
        CronRunState::Lost => "is lost",
        CronRunState::Replaced => "was replaced by a newer one",
        CronRunState::Skipped | CronRunState::Missed => "was not made",
        CronRunState::Waiting
        | CronRunState::Running
        | CronRunState::Backoff
        | CronRunState::Succeeded
        | CronRunState::Failed => "failed",
    }
}

fn interruption(arguments: &RunArguments, doing: &str) -> CommandError {
    CommandError::new(
        "interrupted",
        format!("wait to {doing}"),
        "it was interrupted here; the run goes on in the cluster",
    )
    .next(format!(
        "`pm cron history {} {}` shows what becomes of it",
        arguments.target.application,
        typed(&arguments.target.name)
    ))
    .exit_code(INTERRUPTED)
}

fn say_what_to_do(error: CommandError, arguments: &RunArguments) -> CommandError {
    let application = &arguments.target.application;
    if error.next.is_some() {
        return error;
    }
    match error.code.as_str() {
        "version_state" => error.next(format!(
            "`pm version promote {application} N` makes a version current"
        )),
        "busy" => error.next(format!(
            "`pm cron history {application} {}` shows the run that goes on",
            typed(&arguments.target.name)
        )),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use common::api::CronTrigger;
    use common::id::{ApplicationId, RunId};
    use common::time::{Span, Timestamp};

    use super::*;

    fn ended(state: CronRunState, outcome: &str) -> CronRunView {
        CronRunView {
            id: RunId(12),
            application: ApplicationId(1),
            cron: "web/clean".to_owned(),
            version: None,
            scheduled: Timestamp(0),
            trigger: CronTrigger::Manual,
            state,
            attempts: 2,
            started: None,
            ended: None,
            duration: Some(Span(34)),
            instance: None,
            node: None,
            status: Some(500),
            outcome: outcome.to_owned(),
            count: 1,
            last_scheduled: Timestamp(0),
        }
    }

    #[test]
    fn a_failed_run_says_what_why_and_next() {
        let run = ended(CronRunState::TimedOut, "no answer within 5m");

        let text = failure(&run, "HTTP/1.1 500\u{1b}".to_owned(), "run cron `clean`").human();

        assert!(text.starts_with(
            "error: could not run cron `clean`\n  why: run 12 was not answered in time after 2 attempts: no answer within 5m\n"
        ), "{text}");
        assert!(text.contains("    | HTTP/1.1 500\u{fffd}\n"), "{text}");
        assert!(text.contains("pm cron log 12"), "{text}");
    }

    #[test]
    fn a_long_answer_is_cut_and_says_where_the_rest_is() {
        let run = ended(CronRunState::Succeeded, "200");
        let text = "line\n".repeat(LINES_SHOWN + 3);

        let shown = human(&run, &first_lines(&text, &run));

        assert_eq!(shown.lines().count(), 1 + LINES_SHOWN + 1, "{shown}");
        assert!(
            shown.ends_with("… 3 more lines: pm cron log 12\n"),
            "{shown}"
        );
    }
}
