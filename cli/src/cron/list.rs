//! `pm cron list`: when each cron runs next, and how it went last.

use common::api::{CRON_FAILURES_SHOWN, CronRunState, CronRunView, CronView};
use common::cron::Zone;
use common::id::ApplicationName;

use crate::connection::Connection;
use crate::error::{CommandError, printable};
use crate::output::{ago, table, until, word};

/// Lists them.
pub(super) async fn run(
    connection: &Connection,
    application: &ApplicationName,
) -> Result<(), CommandError> {
    let view = connection.application(application).await?;
    let crons = connection
        .client
        .crons(view.id)
        .await
        .map_err(connection.failed(format!("list the crons of `{application}`")))?;
    let is_served = view.current.is_some();
    connection
        .output
        .result(&crons, |crons| human(application, is_served, crons))
}

fn human(application: &ApplicationName, is_served: bool, crons: &[CronView]) -> String {
    let idle = format!(
        "No version of `{application}` is current, so none of its crons runs; `pm version promote {application} N` changes that.\n"
    );
    match (crons, is_served) {
        ([], true) => {
            format!("`{application}` has no crons; its manifest names them under `crons`.")
        }
        ([], false) => idle,
        (crons, _) => {
            let rows = crons.iter().map(|cron| row(cron, crons));
            let header = ["CRON", "SCHEDULE", "CALLS", "NEXT", "LAST", "OUTCOME"];
            let mut text = table(&header, rows);
            if !is_served {
                text.push_str(&idle);
            }
            text
        }
    }
}

fn row(cron: &CronView, all: &[CronView]) -> Vec<String> {
    let zone = match cron.timezone.as_str() {
        "UTC" => String::new(),
        zone => format!(" {zone}"),
    };
    let last = cron.last.as_ref();
    vec![
        printable(&short_name(cron, all)),
        printable(&format!("{}{zone}", cron.runspec)),
        printable(&format!("{} {}", cron.method, cron.uri)),
        next(cron),
        last.map_or_else(|| "-".to_owned(), |last| ago(last.last_scheduled)),
        last.map_or_else(|| "-".to_owned(), |last| outcome(cron, last)),
    ]
}

/// The name alone where it is clear, so that what is shown can be typed.
fn short_name(cron: &CronView, all: &[CronView]) -> String {
    let same = all.iter().filter(|other| other.name == cron.name);
    if same.count() == 1 {
        cron.name.clone()
    } else {
        cron.key()
    }
}

fn next(cron: &CronView) -> String {
    match cron.next {
        _ if cron.suspended => "suspended".to_owned(),
        Some(next) => {
            let time = match Zone::parse(&cron.timezone) {
                Ok(zone) => zone.in_words(next),
                // A newer release may know more zones.
                Err(_) => next.to_string(),
            };
            format!("{time} ({})", until(next))
        }
        None => "-".to_owned(),
    }
}

fn outcome(cron: &CronView, last: &CronRunView) -> String {
    let mut text = match last.state {
        CronRunState::Succeeded | CronRunState::Waiting | CronRunState::Running => {
            word(&last.state)
        }
        CronRunState::Backoff
        | CronRunState::Failed
        | CronRunState::TimedOut
        | CronRunState::Lost
        | CronRunState::Replaced
        | CronRunState::Skipped
        | CronRunState::Missed => format!("{}: {}", word(&last.state), last.outcome),
    };
    if cron.failures >= CRON_FAILURES_SHOWN {
        text.push_str(&format!(" ({} failures in a row)", cron.failures));
    }
    printable(&text)
}
