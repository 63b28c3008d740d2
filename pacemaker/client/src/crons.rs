//! Web crons: what there are, what became of them, and running one now.

use common::api::{CronRequest, CronRunView, CronView, paths};
use common::id::{ApplicationId, RunId};
use reqwest::Method;

use crate::error::Error;
use crate::logs::{LogChunk, LogPosition};
use crate::transport::read_json;
use crate::{Client, fill};

impl Client {
    /// The crons of an application's current version.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn crons(&self, application: ApplicationId) -> Result<Vec<CronView>, Error> {
        let path = of_application(paths::CRONS, application);
        self.transport.get("list the crons", &path, &[]).await
    }

    /// Runs of an application's crons, newest first; of one (`TYPE/NAME`, or its name) when given,
    /// and older than `before` when given.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cron_runs(
        &self,
        application: ApplicationId,
        cron: Option<&str>,
        before: Option<RunId>,
        limit: u32,
    ) -> Result<Vec<CronRunView>, Error> {
        let mut query = vec![("limit", limit.to_string())];
        if let Some(cron) = cron {
            query.push(("cron", cron.to_owned()));
        }
        if let Some(before) = before {
            query.push(("before", before.to_string()));
        }
        let path = of_application(paths::APPLICATION_CRON_RUNS, application);
        self.transport
            .get("list the cron runs", &path, &query)
            .await
    }

    /// One run.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cron_run(&self, run: RunId) -> Result<CronRunView, Error> {
        let path = fill(paths::CRON_RUN, &[("{run}", &run.to_string())]);
        self.transport.get("read the cron run", &path, &[]).await
    }

    /// What a run was answered, from a byte on; fetched from the pacemaker that made the request.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cron_run_log(&self, run: RunId, after: u64) -> Result<LogChunk, Error> {
        let path = fill(paths::CRON_RUN_LOG, &[("{run}", &run.to_string())]);
        let position = LogPosition::After(after);
        self.read_log("read the cron run's log", &path, position, false)
            .await
    }

    /// Runs a cron now.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn start_cron_run(
        &self,
        application: ApplicationId,
        cron: &str,
        key: &str,
    ) -> Result<CronRunView, Error> {
        let action = "run the cron";
        let path = of_application(paths::APPLICATION_CRON_RUNS, application);
        let body = named(cron);
        let response = self
            .transport
            .change(action, Method::POST, &path, &body, Some(key))
            .await?;
        read_json(action, response).await
    }

    /// Takes a cron's slots away until it is resumed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn suspend_cron(
        &self,
        application: ApplicationId,
        cron: &str,
        key: &str,
    ) -> Result<(), Error> {
        let path = of_application(paths::CRON_SUSPEND, application);
        self.tell_cron("suspend the cron", &path, cron, key).await
    }

    /// Gives a cron its slots again, from the next on.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn resume_cron(
        &self,
        application: ApplicationId,
        cron: &str,
        key: &str,
    ) -> Result<(), Error> {
        let path = of_application(paths::CRON_RESUME, application);
        self.tell_cron("resume the cron", &path, cron, key).await
    }

    async fn tell_cron(
        &self,
        what: &'static str,
        path: &str,
        cron: &str,
        key: &str,
    ) -> Result<(), Error> {
        self.transport
            .change(what, Method::POST, path, &named(cron), Some(key))
            .await
            .map(|_| ())
    }
}

fn of_application(path: &str, application: ApplicationId) -> String {
    fill(path, &[("{application}", &application.to_string())])
}

fn named(cron: &str) -> CronRequest {
    CronRequest {
        cron: cron.to_owned(),
    }
}
