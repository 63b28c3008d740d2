//! How a verb reaches the cluster: which URL, which token, which workspace.

use std::fmt::Write as _;

use common::api::ApplicationView;
use common::id::{ApplicationName, WorkspaceStub};
use pacemaker_client::Client;

use crate::access::Access;
use crate::args::GlobalArguments;
use crate::error::{CommandError, code};
use crate::output::Output;
use crate::progress::Progress;

/// Everything that a verb needs to speak with a cluster and with its user.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The cluster.
    pub(crate) client: Client,
    /// Where it is, for messages.
    pub(crate) url: String,
    /// Where applications are looked up.
    pub(crate) workspace: WorkspaceStub,
    /// Where results go.
    pub(crate) output: Output,
    /// Where progress goes.
    pub(crate) progress: Progress,
}

impl Connection {
    /// Chooses the cluster: `--url` or `PM_URL`, else the login. Reaches for nothing yet.
    pub(crate) fn open(global: &GlobalArguments) -> Result<Self, CommandError> {
        Self::to(
            Access::choose(global)?,
            global.workspace.clone(),
            Output::new(global.format),
        )
    }

    /// A connection to a cluster that is known.
    pub(crate) fn to(
        access: Access,
        workspace: WorkspaceStub,
        output: Output,
    ) -> Result<Self, CommandError> {
        Ok(Self {
            client: access.client()?,
            url: access.url,
            workspace,
            output,
            progress: Progress::new(output),
        })
    }

    /// Says what the API answered while `doing`.
    pub(crate) fn failed(
        &self,
        doing: impl Into<String>,
    ) -> impl FnOnce(pacemaker_client::Error) -> CommandError {
        let doing = doing.into();
        move |error| CommandError::api(doing, &self.url, &error)
    }

    /// Looks an application up by its name.
    pub(crate) async fn application(
        &self,
        name: &ApplicationName,
    ) -> Result<ApplicationView, CommandError> {
        let doing = format!("find `{name}` in workspace `{}`", self.workspace);
        let found = self
            .client
            .applications(Some(&self.workspace), Some(name.as_str()))
            .await
            .map_err(self.failed(doing.clone()))?;
        if let Some(view) = found.into_iter().find(|view| view.name == name.as_str()) {
            return Ok(view);
        }
        let others = self
            .client
            .applications(Some(&self.workspace), None)
            .await
            .map_err(self.failed(doing.clone()))?;
        let names: Vec<&str> = others.iter().map(|view| view.name.as_str()).collect();
        Err(
            CommandError::new(code::NOT_FOUND, doing, "no application there has that name")
                .next(not_found_hint(name.as_str(), &names)),
        )
    }
}

/// How many names a message lists; more do not help a reader.
const NAMES_LISTED: usize = 10;

fn not_found_hint(name: &str, names: &[&str]) -> String {
    let mut hint = if names.is_empty() {
        "deploy it first with `pm deploy DIR`, or name another workspace with --workspace"
            .to_owned()
    } else {
        let mut hint = format!(
            "applications there: {}",
            names[..names.len().min(NAMES_LISTED)].join(", ")
        );
        if names.len() > NAMES_LISTED {
            write!(hint, " and {} more", names.len() - NAMES_LISTED)
                .expect("writing to a String cannot fail");
        }
        hint
    };
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        write!(
            hint,
            "; `job:{name}` and `instance:{name}` name a job and an instance"
        )
        .expect("writing to a String cannot fail");
    }
    hint
}

/// A key under which one invocation may repeat a change without having it twice.
pub(crate) fn idempotency_key() -> Result<String, CommandError> {
    random_text().map(|text| format!("pm-{text}"))
}

/// 32 random bytes in hexadecimal.
pub(crate) fn random_text() -> Result<String, CommandError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| CommandError::new(code::FAILED, "draw random bytes", error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
