//! The configuration file `paasmaker.yml`, and how flags, variables and the file become one.
//!
//! Strict: a key that is not known is refused at its line and column, because a setting that is
//! misspelt and ignored is found at night. `docs/administration.md` lists the keys.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::args::agent::{ConfigurationArguments, NodeSettings};
use crate::error::{CommandError, code};

/// Where the file is unless told otherwise.
const DEFAULT_PATH: &str = "/etc/paasmaker/paasmaker.yml";
/// The largest file that is read; one with every key has two kilobytes.
const FILE_MAX_BYTES: u64 = 256 * 1024;
/// Where a node keeps everything unless told otherwise.
pub(crate) const DEFAULT_DATA_DIRECTORY: &str = "/var/lib/paasmaker";

/// What the flags and variables say, and then what the file says.
pub(crate) fn settings(
    configuration: &ConfigurationArguments,
    given: NodeSettings,
) -> Result<NodeSettings, CommandError> {
    let file = match &configuration.config {
        Some(path) => read(path, true)?,
        None => read(Path::new(DEFAULT_PATH), false)?,
    };
    Ok(given.or(file))
}

/// The data directory of these settings.
pub(crate) fn data_directory(settings: &NodeSettings) -> PathBuf {
    settings
        .data_dir
        .clone()
        .unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIRECTORY))
}

/// Reads a file; one that nobody has named may be absent.
fn read(path: &Path, is_named: bool) -> Result<NodeSettings, CommandError> {
    let doing = || format!("read the configuration in {}", path.display());
    let mut text = String::new();
    let read = fs::File::open(path)
        .and_then(|file| file.take(FILE_MAX_BYTES + 1).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named => {
            return Ok(NodeSettings::default());
        }
        Err(error) => return Err(CommandError::file(doing(), &error)),
        Ok(bytes) if bytes as u64 > FILE_MAX_BYTES => {
            return Err(CommandError::new(
                code::FILE,
                doing(),
                format!("it has more than {FILE_MAX_BYTES} bytes, which is no configuration"),
            ));
        }
        Ok(_) => {}
    }
    parse(&text).map_err(|why| {
        CommandError::new(code::CONFIGURATION_INVALID, doing(), why)
            .next("mend the file; docs/administration.md lists the keys, and `pm agent --help` too")
    })
}

/// An empty file says nothing.
fn parse(text: &str) -> Result<NodeSettings, String> {
    let is_empty = text
        .lines()
        .map(str::trim)
        .all(|line| line.is_empty() || line.starts_with('#') || line == "---");
    if is_empty {
        return Ok(NodeSettings::default());
    }
    serde_saphyr::from_str(text).map_err(|error| {
        let place = error
            .location()
            .map(|location| format!("line {}, column {}: ", location.line(), location.column()));
        let message = error.without_snippet().to_string();
        // The library puts the place behind its message too.
        let message = message
            .split(" at line ")
            .next()
            .unwrap_or(&message)
            .to_owned();
        format!("{}{message}", place.unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use common::node::Role;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_may_say_everything() {
        let text = "\
data_dir: /srv/paasmaker
join: token
roles: [pacemaker, router]
advertise: 10.0.0.1:4250
listen: 0.0.0.0:4250
instance_address: 10.0.0.1
instance_ports: 20000-20999
name: one
zone: a
tags: {disk: ssd, cores: 4}
router_port: 80
router_address: 0.0.0.0
trusted_clients: [10.0.0.0/8]
access_log: false
";
        let settings = parse(text).unwrap();

        assert_eq!(settings.roles, Some(vec![Role::Pacemaker, Role::Router]));
        assert_eq!(settings.tags[0].value, json!(4));
        assert_eq!(settings.access_log, Some(false));
        let written = serde_json::to_value(&settings).unwrap();
        let keys = written.as_object().unwrap();
        // Every key of the type stands in the text above.
        assert_eq!(keys.len(), text.lines().count());
    }

    #[test]
    fn a_key_that_is_not_known_is_named_at_its_place() {
        let error = parse("name: one\nroutr_port: 80\n").unwrap_err();
        assert!(error.starts_with("line 2, column 1: "), "{error}");
        assert!(error.contains("routr_port"), "{error}");

        let error = parse("name: one\nrouter_port: eighty\n").unwrap_err();
        assert!(error.starts_with("line 2, column 14: "), "{error}");
        let error = parse("roles: [hart]\n").unwrap_err();
        assert!(error.starts_with("line 1, column 9: "), "{error}");
    }

    #[test]
    fn a_file_that_says_nothing_is_no_fault_and_one_that_is_named_must_exist() {
        assert!(parse("").unwrap() == NodeSettings::default());
        assert!(parse("# nothing\n---\n").unwrap() == NodeSettings::default());
        let nowhere = Path::new("/nowhere/paasmaker.yml");
        assert!(read(nowhere, false).unwrap() == NodeSettings::default());
        let error = read(nowhere, true).unwrap_err();
        assert!(error.doing.contains("/nowhere/paasmaker.yml"));
    }
}
