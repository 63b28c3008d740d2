//! The rules of single texts: names, hostnames, paths, lengths of time, sizes.

use crate::cron::{Schedule, ScheduleError, Zone};
use crate::id::{
    ApplicationName, CronName, HostPattern, InstanceTypeName, PluginName, ServiceName,
};
use crate::launch;

use super::limits::{LABEL_MAX_BYTES, TEXT_MAX_BYTES, URI_MAX_BYTES};
use super::quantity;
use super::suggest::{nearest, nearest_zone};

/// What a text must be.
#[derive(Debug)]
pub(super) struct Rule {
    /// What is allowed, to complete "expected …".
    pub(super) expected: &'static str,
    /// Says what is wrong, where that adds something to `expected`.
    pub(super) check: fn(&str) -> Result<(), String>,
    /// The same as a regular expression where one can say it, for editors.
    pub(super) pattern: Option<&'static str>,
}

/// The application's name.
pub(super) static APPLICATION_NAME: Rule = Rule {
    expected: "letters, digits, dots, and hyphens (no underscore: it becomes part of hostnames), each part between dots at most 63 characters that begin and end with a letter or digit, 128 characters in all",
    check: |text| because(ApplicationName::parse(text).is_ok()),
    pattern: Some("^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?$"),
};

/// The name of an instance type.
pub(super) static INSTANCE_TYPE_NAME: Rule = Rule {
    expected: "one DNS label: at most 63 letters, digits, and inner hyphens (no underscore: it becomes part of hostnames)",
    check: |text| because(InstanceTypeName::parse(text).is_ok()),
    pattern: Some("^[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?$"),
};

/// The name of a service.
pub(super) static SERVICE_NAME: Rule = Rule {
    expected: "letters, digits, dots, hyphens, and underscores, at most 128 characters",
    check: |text| because(ServiceName::parse(text).is_ok()),
    pattern: Some("^[-A-Za-z0-9._]{1,128}$"),
};

/// The optional name of a plugin's use.
pub(super) static LABEL: Rule = Rule {
    expected: "letters, digits, dots, hyphens, and underscores, at most 128 characters",
    check: |text| because(text.is_empty() || ServiceName::parse(text).is_ok()),
    pattern: Some("^[-A-Za-z0-9._]{0,128}$"),
};

/// The name of a plugin.
pub(super) static PLUGIN_NAME: Rule = Rule {
    expected: "the name of a plugin: lower-case letters, digits, dots, hyphens, and underscores",
    check: |text| because(PluginName::parse(text).is_ok()),
    pattern: Some("^[-a-z0-9._]{1,128}$"),
};

/// The version of a runtime.
pub(super) static VERSION: Rule = Rule {
    expected: "a version such as 1, 5.4, or 1.9.3-p327",
    check: |text| because(is_label(text)),
    pattern: Some(r"^[-+A-Za-z0-9._]{1,256}$"),
};

/// A launch command; whether it may use the port depends on its type.
pub(super) static LAUNCH_COMMAND: Rule = Rule {
    expected: "a command that is split as a shell splits words and executed without a shell",
    check: |text| {
        fits(text, TEXT_MAX_BYTES)?;
        // Any port will do: only the form is looked at.
        launch::arguments(text, Some(1))
            .map(drop)
            .map_err(|error| error.to_string())
    },
    pattern: None,
};

/// A line of a script.
pub(super) static COMMAND: Rule = Rule {
    expected: "a line of a bash script",
    check: |text| fits(text, TEXT_MAX_BYTES),
    pattern: None,
};

/// The directory that is served.
pub(super) static DOCUMENT_ROOT: Rule = Rule {
    expected: "a directory of the application, such as `public` or `.`",
    check: document_root,
    pattern: Some(r"^[^/]"),
};

/// A hostname of the manifest.
pub(super) static HOSTNAME: Rule = Rule {
    expected: "a hostname such as hello.example.com, or a wildcard such as \"*.example.com\"",
    check: hostname,
    pattern: Some(r"^(\*\.)?[-_A-Za-z0-9]+(\.[-_A-Za-z0-9]+)*\.?$"),
};

/// A zone.
pub(super) static ZONE: Rule = Rule {
    expected: "the name of a zone: letters, digits, dots, hyphens, and underscores",
    check: |text| because(is_label(text)),
    pattern: Some("^[-+A-Za-z0-9._]{1,256}$"),
};

/// A path that is requested.
pub(super) static URI: Rule = Rule {
    expected: "a path that begins with `/`, such as /tasks/clean?all=1, with anything but visible ASCII characters percent-encoded, and so `#`, `<`, `>`, and quotes as in \"` too",
    check: |text| {
        fits(text, URI_MAX_BYTES)?;
        // The last four are what no request line can carry, in the path or in the query.
        let is_carried = |byte: u8| byte.is_ascii_graphic() && !b"#<>\"`".contains(&byte);
        because(text.starts_with('/') && text.bytes().all(is_carried))
    },
    pattern: Some("^/[!$-;=?-_a-~]*$"),
};

/// When a cron fires.
pub(super) static RUNSPEC: Rule = Rule {
    expected: "five fields (minute, hour, day of month, month, day of week) such as \"*/5 * * * *\", or one of @hourly, @daily, @weekly, @monthly, @yearly",
    check: runspec,
    pattern: None,
};

/// A time zone.
pub(super) static TIMEZONE: Rule = Rule {
    expected: "the IANA name of a time zone, such as UTC or Europe/Paris",
    check: timezone,
    pattern: None,
};

/// A user name of HTTP basic authentication.
pub(super) static USERNAME: Rule = Rule {
    expected: "a user name without a colon, which HTTP basic authentication cannot carry",
    check: |text| {
        fits(text, LABEL_MAX_BYTES)?;
        because(!text.contains([':', '\n', '\t']))
    },
    pattern: Some("^[^:]*$"),
};

/// A password of HTTP basic authentication.
pub(super) static PASSWORD: Rule = Rule {
    expected: "a password of one line",
    check: |text| {
        fits(text, LABEL_MAX_BYTES)?;
        because(!text.contains(['\n', '\t']))
    },
    pattern: None,
};

/// The name of a cron.
pub(super) static CRON_NAME: Rule = Rule {
    expected: "a name of one line",
    check: |text| {
        fits(text, LABEL_MAX_BYTES)?;
        because(CronName::parse(text).is_ok())
    },
    pattern: None,
};

/// How long a process may take to start, or to stop.
pub(super) static UP_TO_AN_HOUR: Rule = Rule {
    expected: "a length of time up to 1h, such as 500ms, 30s, 5m, or a number of seconds",
    check: |text| because(quantity::span_within(text, 0, 3_600_000)),
    pattern: Some(quantity::SPAN_PATTERN),
};

/// How often something is looked at, or how long an answer may take.
pub(super) static PROBE: Rule = Rule {
    expected: "a length of time from 10ms to 5m, such as 500ms, 2s, or a number of seconds",
    check: |text| because(quantity::span_within(text, 10, 300_000)),
    pattern: Some(quantity::SPAN_PATTERN),
};

/// How long a job may take.
pub(super) static UP_TO_A_DAY: Rule = Rule {
    expected: "a length of time from 1s to 24h, such as 30s, 5m, 1h, or a number of seconds",
    check: |text| because(quantity::span_within(text, 1000, 86_400_000)),
    pattern: Some(quantity::SPAN_PATTERN),
};

/// Memory.
pub(super) static MEMORY: Rule = Rule {
    expected: "a size from 1M to 16T, such as 512M or 1G",
    check: |text| because(quantity::is_memory(text)),
    pattern: Some(r"^[0-9]+([KMGT](i?B)?)?$"),
};

/// Processor time.
pub(super) static CPU: Rule = Rule {
    expected: "a number of cores from 0.01 to 1024, such as 1.5",
    check: |text| because(quantity::is_cpu(text)),
    pattern: Some(r"^[0-9]+(\.[0-9]{1,3})?$"),
};

/// The value of a variable.
pub(super) static VARIABLE: Rule = Rule {
    expected: "the text of a variable",
    check: |text| fits(text, TEXT_MAX_BYTES),
    pattern: None,
};

/// Nothing to add to what is expected.
fn because(kept: bool) -> Result<(), String> {
    if kept { Ok(()) } else { Err(String::new()) }
}

fn fits(text: &str, most: usize) -> Result<(), String> {
    if text.len() <= most {
        return Ok(());
    }
    Err(format!(
        "it has {} bytes, and {most} are allowed",
        text.len()
    ))
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LABEL_MAX_BYTES
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-+._".contains(&byte))
}

fn runspec(text: &str) -> Result<(), String> {
    let Err(error) = Schedule::parse(text) else {
        return Ok(());
    };
    let meant = match error {
        ScheduleError::UnknownNickname => nearest(text.trim(), Schedule::nicknames()),
        ScheduleError::TooLong
        | ScheduleError::FieldCount { .. }
        | ScheduleError::Field { .. }
        | ScheduleError::NeverFires => None,
    };
    Err(match meant {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => error.to_string(),
    })
}

fn timezone(text: &str) -> Result<(), String> {
    if Zone::parse(text).is_ok() {
        return Ok(());
    }
    Err(nearest_zone(text)
        .map(|meant| format!("did you mean `{meant}`?"))
        .unwrap_or_default())
}

fn document_root(text: &str) -> Result<(), String> {
    fits(text, URI_MAX_BYTES)?;
    if text.is_empty() {
        return Err(String::new());
    }
    if text.starts_with('/') {
        return Err("it must be relative to the application".to_owned());
    }
    if text.split('/').any(|part| part == "..") {
        return Err("it must not leave the application with `..`".to_owned());
    }
    because(!text.contains(['\n', '\t', '\\']))
}

/// A manifest's hostname as it is routed: lower case, without the dot of a full name.
pub(super) fn routed_hostname(text: &str) -> String {
    text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase()
}

fn hostname(text: &str) -> Result<(), String> {
    if HostPattern::parse(&routed_hostname(text)).is_ok() {
        return Ok(());
    }
    if text == "*" {
        return Err("the bare wildcard would take every other application's requests".to_owned());
    }
    if text.contains("://") {
        return Err("it must not have a scheme".to_owned());
    }
    if text.contains(':') {
        return Err("it must not have a port".to_owned());
    }
    if text.contains('/') {
        return Err("it must not have a path".to_owned());
    }
    if !text.is_ascii() {
        return Err(
            "write an international name in its ASCII form, which begins with xn--".to_owned(),
        );
    }
    Err(String::new())
}
