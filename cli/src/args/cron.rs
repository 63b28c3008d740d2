//! Arguments of `pm cron`.

use clap::{Args, Subcommand};
use common::id::{ApplicationName, RunId};

/// Verbs about web crons.
#[derive(Debug, Subcommand)]
pub(crate) enum CronVerb {
    /// List the crons of an application: when each runs next, and how it went last.
    List {
        /// The application.
        application: ApplicationName,
    },
    /// Show the runs of an application's crons, newest first, with the slots that were not run and why.
    History(HistoryArguments),
    /// Run a cron now, and wait for its outcome.
    Run(RunArguments),
    /// Let a cron's times pass without running it.
    Suspend(CronTarget),
    /// Run a suspended cron again, from its next time on.
    Resume(CronTarget),
    /// Print what an application answered to a run: the head, and the first megabyte of the body.
    Log {
        /// The run's number.
        run: RunId,
    },
}

/// Arguments of `pm cron history`.
#[derive(Debug, Args)]
pub(crate) struct HistoryArguments {
    /// The application.
    pub(crate) application: ApplicationName,
    /// Only this cron: its name, or TYPE/NAME where several types have one of that name.
    pub(crate) name: Option<String>,
    /// At most this many.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub(crate) limit: u32,
}

/// Arguments of `pm cron run`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
It fails when the run fails: when the application does not answer with a status 2xx in time, retries and all.")]
pub(crate) struct RunArguments {
    /// Which.
    #[command(flatten)]
    pub(crate) target: CronTarget,
    /// Do not wait for it.
    #[arg(long)]
    pub(crate) detach: bool,
}

/// One cron of an application.
#[derive(Debug, Args)]
pub(crate) struct CronTarget {
    /// The application.
    pub(crate) application: ApplicationName,
    /// The cron's name, or TYPE/NAME where several types have one of that name.
    pub(crate) name: String,
}
