//! What can go wrong when the cluster is asked for something.

use common::api::Problem;

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client could not be built from what it was given.
    #[error("building a client for {endpoint}")]
    Configuration {
        /// The endpoint or setting that was refused.
        endpoint: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No pacemaker could be reached.
    #[error("reaching the pacemaker at {endpoint} to {action}")]
    Unreachable {
        /// The last endpoint that was tried.
        endpoint: String,
        /// What was being done.
        action: &'static str,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The pacemaker refused.
    #[error("the pacemaker refused to {action}: {}", describe(.problem))]
    Refused {
        /// What was being done.
        action: &'static str,
        /// What it answered.
        problem: Box<Problem>,
    },
    /// The answer could not be understood, or broke off.
    #[error("reading the pacemaker's answer to {action}")]
    Answer {
        /// What was being done.
        action: &'static str,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// A file that was to be sent could not be read.
    #[error("reading {path} to upload it")]
    File {
        /// Which file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The upload was broken off again and again.
    #[error("uploading package {digest}: it broke off {attempts} times without getting further")]
    UploadStuck {
        /// Which package.
        digest: common::digest::Digest,
        /// How often it was tried.
        attempts: u32,
    },
}

impl Error {
    /// The problem document, when the pacemaker refused.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused { problem, .. } => Some(problem),
            Self::Configuration { .. }
            | Self::Unreachable { .. }
            | Self::Answer { .. }
            | Self::File { .. }
            | Self::UploadStuck { .. } => None,
        }
    }

    /// True when the cluster says that the asking node was removed from it. That is for good: numbers
    /// of nodes are given in the order of the log and never again, so a pacemaker that is behind knows
    /// a node still, or not yet, and says something else.
    #[must_use]
    pub fn is_removal(&self) -> bool {
        self.problem()
            .is_some_and(|problem| problem.code == "node_removed")
    }

    /// The HTTP status, when the pacemaker refused.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.problem().map(|problem| problem.status)
    }

    /// True when nobody answered, so that trying again later may help.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Answer { .. } => true,
            Self::Refused { problem, .. } => problem.status == 503,
            Self::Configuration { .. } | Self::File { .. } | Self::UploadStuck { .. } => false,
        }
    }
}

fn describe(problem: &Problem) -> &str {
    if problem.detail.is_empty() {
        &problem.title
    } else {
        &problem.detail
    }
}
