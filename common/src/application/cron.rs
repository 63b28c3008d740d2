//! Web crons as the manifest describes them, defaults filled in.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cron::{Schedule, Zone};
use crate::id::{CronName, InstanceTypeName, NameError};
use crate::secret::Secret;
use crate::time::Span;

/// A request that is made of one running instance of the current version whenever it is due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CronSpec {
    /// Unique in its instance type; the uri when the manifest gives none.
    pub name: CronName,
    /// When it is due.
    pub runspec: Schedule,
    /// What is requested: begins with a slash.
    pub uri: String,
    /// For HTTP basic authentication.
    #[serde(default)]
    pub username: Option<String>,
    /// For HTTP basic authentication.
    #[serde(default)]
    pub password: Option<Secret>,
    /// How it is requested.
    pub method: CronMethod,
    /// The zone whose local time `runspec` means.
    pub timezone: Zone,
    /// How long one attempt may take.
    pub timeout: Span,
    /// What happens when it is due while it runs.
    pub overlap: Overlap,
    /// What happens to times at which no leader lived.
    pub missed: MissedPolicy,
    /// Attempts after the first that failed.
    pub retries: u32,
}

/// How a URI is requested.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum CronMethod {
    /// The default.
    Get,
    /// Without a body in the answer.
    Head,
    /// With an empty body.
    Post,
    /// With an empty body.
    Put,
    /// With an empty body.
    Patch,
    /// With an empty body.
    Delete,
}

impl CronMethod {
    /// The method as HTTP writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

impl fmt::Display for CronMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happens when a cron is due while a run of it goes on.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// Both run.
    Allow,
    /// The new run is skipped; the default.
    Forbid,
    /// The old run ends, then the new one begins.
    Replace,
}

/// What happens to times at which no leader lived.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum MissedPolicy {
    /// They are recorded and not run; the default.
    Skip,
    /// However many they are, one run makes up for all of them.
    Once,
}

/// Names a cron of an application, whichever version is current. Its text is `TYPE/NAME`.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
pub struct CronKey {
    /// The instance type that has it.
    pub instance_type: InstanceTypeName,
    /// Its name in the instance type; it may have slashes, which a type's name never has.
    pub name: CronName,
}

impl fmt::Display for CronKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.instance_type, self.name)
    }
}

impl FromStr for CronKey {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (instance_type, name) = text.split_once('/').unwrap_or((text, ""));
        Ok(Self {
            instance_type: InstanceTypeName::parse(instance_type)?,
            name: CronName::parse(name)?,
        })
    }
}

impl TryFrom<String> for CronKey {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<CronKey> for String {
    fn from(key: CronKey) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_split_at_its_first_slash() {
        let key: CronKey = "web//tasks/clean".parse().unwrap();

        assert_eq!(key.instance_type.as_str(), "web");
        assert_eq!(key.name.as_str(), "/tasks/clean");
        assert_eq!(key.to_string(), "web//tasks/clean");
        for text in ["", "web", "web/", "/clean", "a_b/clean"] {
            assert!(text.parse::<CronKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn methods_are_written_as_in_http() {
        for method in [CronMethod::Get, CronMethod::Head, CronMethod::Delete] {
            assert_eq!(
                serde_json::to_value(method).unwrap(),
                serde_json::Value::from(method.as_str())
            );
        }
    }
}
