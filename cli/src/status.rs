//! `pm status`: how applications stand.

use common::api::{ApplicationView, FailingCron, InstanceTypeView, VersionView};
use common::id::ApplicationName;
use common::instance::{InstanceGoal, InstanceState};

use crate::connection::Connection;
use crate::error::{CommandError, printable};
use crate::output::{ago, table, typed, word};

/// Shows one application, or all of the workspace.
pub(crate) async fn run(
    connection: &Connection,
    application: Option<&ApplicationName>,
) -> Result<(), CommandError> {
    if let Some(name) = application {
        let view = connection.application(name).await?;
        return connection.output.result(&view, detail);
    }
    let views = connection
        .client
        .applications(Some(&connection.workspace), None)
        .await
        .map_err(connection.failed("list the applications"))?;
    connection.output.result(&views, |views| {
        if views.is_empty() {
            return format!(
                "Workspace `{}` has no applications; `pm deploy DIR` deploys one.",
                connection.workspace
            );
        }
        let rows = views.iter().map(overview);
        let mut text = table(&["APPLICATION", "CURRENT", "RUNNING", "JOB", "URL"], rows);
        for view in views {
            text.push_str(&failing_crons(view));
        }
        text
    })
}

/// A line for each cron that fails again and again.
fn failing_crons(view: &ApplicationView) -> String {
    let application = &view.name;
    let line = |cron: &FailingCron| {
        let FailingCron {
            cron,
            failures,
            outcome,
        } = cron;
        let line = format!(
            "cron {cron} of {application} failed {failures} times in a row: {outcome}; `pm cron history {application} {}` has more",
            typed(cron)
        );
        // One line each, whatever the application answered.
        format!("{}\n", printable(&line.replace('\n', " ")))
    };
    view.failing_crons.iter().map(line).collect()
}

fn overview(view: &ApplicationView) -> Vec<String> {
    let current = view.versions.iter().find(|version| version.is_current);
    let (running, wanted) = current.map_or((0, 0), |version| {
        version
            .instance_types
            .iter()
            .fold((0, 0), |(running, wanted), instance_type| {
                (
                    running + count_running(instance_type),
                    wanted + instance_type.quantity,
                )
            })
    });
    vec![
        view.name.clone(),
        optional(view.current.as_ref()),
        format!("{running}/{wanted}"),
        optional(view.job.as_ref()),
        view.urls.first().cloned().unwrap_or_default(),
    ]
}

/// How many instances of a type run.
pub(crate) fn count_running(instance_type: &InstanceTypeView) -> u32 {
    let running = instance_type
        .instances
        .iter()
        .filter(|instance| instance.state == InstanceState::Running);
    u32::try_from(running.count()).unwrap_or(u32::MAX)
}

/// A value, or a dash.
pub(crate) fn optional<T: std::fmt::Display>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".to_owned(), ToString::to_string)
}

fn detail(view: &ApplicationView) -> String {
    let mut text = format!(
        "application  {} in workspace {}\ncurrent      {}\nprevious     {}\n",
        view.name,
        view.workspace,
        optional(view.current.as_ref()),
        optional(view.previous.as_ref()),
    );
    if let Some(job) = view.job {
        text.push_str(&format!("job          {job} is under way\n"));
    }
    for url in &view.urls {
        text.push_str(&format!("url          {url}\n"));
    }
    let rows: Vec<Vec<String>> = view.versions.iter().flat_map(instance_rows).collect();
    if rows.is_empty() {
        text.push_str("\nNo instances.\n");
        text.push_str(&failing_crons(view));
        return text;
    }
    text.push('\n');
    text.push_str(&table(
        &[
            "VERSION", "TYPE", "INSTANCE", "STATE", "NODE", "PORT", "PID", "RESTARTS", "SINCE",
        ],
        rows,
    ));
    for instance in view
        .versions
        .iter()
        .flat_map(|version| &version.instance_types)
        .flat_map(|instance_type| &instance_type.instances)
    {
        if let Some(failure) = &instance.failure {
            text.push_str(&format!(
                "instance {}: {}; `pm why instance:{}` has more\n",
                instance.id,
                printable(&failure.message),
                instance.id
            ));
        }
    }
    text.push_str(&failing_crons(view));
    text
}

fn instance_rows(version: &VersionView) -> impl Iterator<Item = Vec<String>> {
    version
        .instance_types
        .iter()
        .flat_map(move |instance_type| {
            instance_type.instances.iter().map(move |instance| {
                let mark = if version.is_current { "*" } else { "" };
                let mut state = word(&instance.state);
                let stays_stopped = matches!(
                    instance.state,
                    InstanceState::Registered | InstanceState::Stopped
                );
                if instance.goal == InstanceGoal::Running && stays_stopped {
                    state.push_str(" (to start)");
                }
                vec![
                    format!("{}{mark}", version.number),
                    instance_type.name.to_string(),
                    instance.id.to_string(),
                    state,
                    instance.node.to_string(),
                    optional(instance.port.as_ref()),
                    optional(instance.pid.as_ref()),
                    instance.restarts.to_string(),
                    ago(instance.since),
                ]
            })
        })
}

#[cfg(test)]
mod tests {
    use common::id::{ApplicationId, WorkspaceStub};

    use super::*;

    #[test]
    fn a_cron_that_fails_again_and_again_is_said_below_the_table() {
        let view = ApplicationView {
            id: ApplicationId(1),
            name: "chores".to_owned(),
            workspace: WorkspaceStub::parse("default").unwrap(),
            current: None,
            previous: None,
            versions: Vec::new(),
            job: None,
            urls: Vec::new(),
            failing_crons: vec![FailingCron {
                cron: "web/clean".to_owned(),
                failures: 4,
                outcome: "answered 500\n\u{1b}[2J".to_owned(),
            }],
        };

        let text = detail(&view);

        let said = "cron web/clean of chores failed 4 times in a row: answered 500 \u{fffd}[2J; `pm cron history chores web/clean` has more\n";
        assert!(text.ends_with(said), "{text}");
    }
}
