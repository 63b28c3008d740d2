//! `pm why`: the cluster explains itself.

use common::api::Explanation;
use pacemaker_client::WhySubject;

use crate::args::Subject;
use crate::connection::Connection;
use crate::error::{CommandError, printable};

/// Asks for an explanation.
pub(crate) async fn run(connection: &Connection, subject: &Subject) -> Result<(), CommandError> {
    let (subject, doing) = match subject {
        Subject::Application(name) => (
            WhySubject::Application(connection.application(name).await?.id),
            format!("explain `{name}`"),
        ),
        Subject::Instance(id) => (WhySubject::Instance(*id), format!("explain instance {id}")),
        Subject::Job(id) => (WhySubject::Job(*id), format!("explain job {id}")),
    };
    let explanation = connection
        .client
        .why(subject)
        .await
        .map_err(connection.failed(doing))?;
    connection.output.result(&explanation, human)
}

fn human(explanation: &Explanation) -> String {
    let mut text = printable(&format!(
        "{}: {}\n",
        explanation.subject, explanation.summary
    ));
    for line in &explanation.lines {
        for part in printable(line).lines() {
            text.push_str(&format!("  {part}\n"));
        }
    }
    text
}
