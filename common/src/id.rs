//! Identifiers that cannot be mixed up: one type per thing that is counted.
//!
//! Numeric ids come from counters in the replicated state, start at 1, are never
//! used twice, and are written as plain JSON numbers. Names are checked when they
//! are parsed, so that a name that exists is a name that is allowed.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! numeric_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
            JsonSchema,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

/// True when two ids of clusters are both known (not empty) and differ.
#[must_use]
pub fn is_other_cluster(own: &str, found: &str) -> bool {
    !own.is_empty() && !found.is_empty() && own != found
}

numeric_id!(
    /// Names a [`Workspace`](crate::workspace::Workspace).
    WorkspaceId
);
numeric_id!(
    /// Names an application; `application_id` in `PM_METADATA`.
    ApplicationId
);
numeric_id!(
    /// Names a version across all applications; `version_id` in `PM_METADATA`.
    VersionId
);
numeric_id!(
    /// Names an instance; the value of `PM_INSTANCE`.
    InstanceId
);
numeric_id!(
    /// Names a node of the cluster; never given to another machine.
    NodeId
);
numeric_id!(
    /// Names a job.
    JobId
);
numeric_id!(
    /// Names a run of a cron across all applications; the value of `PM-Cron-Run`.
    RunId
);
numeric_id!(
    /// Counts the versions of one application: 1, 2, 3…
    VersionNumber
);
numeric_id!(
    /// The log index of the change that produced something.
    ///
    /// Generations only grow, so a newer one fences every older one: a heart obeys
    /// only a newer assignment, a router swaps only to a newer table.
    Generation
);

/// A name that does not keep its rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{found}` is not allowed: {rule}")]
pub struct NameError {
    /// What was being named.
    pub kind: &'static str,
    /// What was written, cut to [`NAME_EXCERPT_CHARACTERS`].
    pub found: String,
    /// The rule in words.
    pub rule: &'static str,
}

/// How much of a refused name an error repeats.
pub const NAME_EXCERPT_CHARACTERS: usize = 80;

/// The longest DNS label (RFC 1035, section 2.3.4).
pub const LABEL_MAX_BYTES: usize = 63;

/// The longest name of a cron: each is a key in the replicated state.
pub const CRON_NAME_MAX_BYTES: usize = 256;

/// The longest hostname in text form (RFC 1035, section 2.3.4).
pub const HOSTNAME_MAX_BYTES: usize = 253;

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text` against the rule of this kind of name.
            ///
            /// # Errors
            /// Says what was found and what is allowed.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NameError {
                        kind: $kind,
                        found: text.chars().take(NAME_EXCERPT_CHARACTERS).collect(),
                        rule: $rule,
                    })
                }
            }

            /// The name as it was written.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_name!(
    /// An application's name, as the manifest writes it; routed in lower case.
    ApplicationName,
    "application name",
    "letters, digits, dots and hyphens, each part between dots a DNS label of at most 63 characters that does not begin or end with a hyphen, at most 128 characters in all",
    |text| text.len() <= 128 && text.split('.').all(is_label)
);
checked_name!(
    /// The name of an instance type: one DNS label.
    InstanceTypeName,
    "instance type name",
    "one DNS label: letters, digits and inner hyphens, at most 63 characters",
    is_label
);
checked_name!(
    /// The short name of a workspace, part of hostnames: one lower-case DNS label.
    WorkspaceStub,
    "workspace stub",
    "one DNS label in lower case: letters, digits and inner hyphens, at most 63 characters",
    |text| is_label(text) && !text.bytes().any(|byte| byte.is_ascii_uppercase())
);
checked_name!(
    /// The name of a web cron, unique in its instance type; often the path that it requests.
    CronName,
    "cron name",
    "one line of at most 256 bytes that is not blank and has no control characters",
    |text| !text.trim().is_empty()
        && text.len() <= CRON_NAME_MAX_BYTES
        && !text.chars().any(char::is_control)
);
checked_name!(
    /// The name under which an application knows a service.
    ServiceName,
    "service name",
    "letters, digits, dots, hyphens and underscores, at most 128 characters",
    |text| !text.is_empty()
        && text.len() <= 128
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
);
checked_name!(
    /// The dotted name of a plugin, such as `paasmaker.runtime.shell`.
    PluginName,
    "plugin name",
    "lower-case letters, digits, dots, hyphens and underscores, at most 128 characters",
    |text| !text.is_empty()
        && text.len() <= 128
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte))
);
checked_name!(
    /// A hostname or a wildcard (`*.example.com`), lower case, without a trailing dot.
    ///
    /// The bare wildcard `*` is refused: it would shadow every other application.
    HostPattern,
    "hostname",
    "DNS labels in lower case joined by dots, at most 253 characters; a wildcard is `*.` before at least one label",
    |text| {
        let name = text.strip_prefix("*.").unwrap_or(text);
        text.len() <= HOSTNAME_MAX_BYTES
            && name.split('.').all(is_host_label)
            && !name.bytes().any(|byte| byte.is_ascii_uppercase())
    }
);

impl HostPattern {
    /// True for `*.example.com`.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }
}

fn is_label(text: &str) -> bool {
    is_host_label(text) && !text.contains('_')
}

/// Underscores are seen in real hostnames, though RFC 952 has none.
fn is_host_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LABEL_MAX_BYTES
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_rules() {
        assert!(ApplicationName::parse("foo.Example-1").is_ok());
        for bad in [
            "", "a_b", "-a", "a-", "a..b", ".a", "a/b", "../x", "a b", "é", "$(id)",
        ] {
            assert!(ApplicationName::parse(bad).is_err(), "{bad}");
        }
        assert!(HostPattern::parse("*.example.com").is_ok());
        for bad in [
            "*",
            "*.",
            "a.*.b",
            "Example.com",
            "a.com.",
            "*a.com",
            "a:80",
        ] {
            assert!(HostPattern::parse(bad).is_err(), "{bad}");
        }
        assert!(WorkspaceStub::parse("Test").is_err());
    }
}
