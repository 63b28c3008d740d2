//! The logins of this user: which clusters are known, with which token, and which one is meant.
//!
//! Kept in `$XDG_CONFIG_HOME/paasmaker/login.json` (else `~/.config`), readable by the user alone.
//! The file is replaced as a whole, so that a crash leaves the old or the new one.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use common::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::CommandError;

/// The largest login file that is read; a login is a few hundred bytes.
const LOGIN_MAX_BYTES: u64 = 1024 * 1024;

/// What is in the file.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Logins {
    /// The URL of the cluster that is meant when none is named.
    #[serde(default)]
    pub(crate) current: Option<String>,
    /// Token by URL.
    #[serde(default)]
    pub(crate) clusters: BTreeMap<String, Login>,
}

/// How one cluster is entered.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Login {
    /// The bearer token.
    pub(crate) token: String,
    /// PEM of the certificate of the cluster's authority, for https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) authority: Option<String>,
    /// Where pacemakers answer, as far as known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) endpoints: Vec<String>,
    /// When that was asked for.
    #[serde(default)]
    pub(crate) refreshed: Timestamp,
}

impl Login {
    /// A login that knows nothing but these.
    pub(crate) fn new(token: String, authority: Option<String>) -> Self {
        Self {
            token,
            authority,
            endpoints: Vec::new(),
            refreshed: Timestamp::default(),
        }
    }
}

impl Logins {
    /// Reads the file; no file is no login.
    pub(crate) fn load() -> Result<Self, CommandError> {
        Self::load_from(&path()?)
    }

    fn load_from(path: &Path) -> Result<Self, CommandError> {
        let doing = || format!("read the logins in {}", path.display());
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(CommandError::file(doing(), &error)),
        };
        if metadata.len() > LOGIN_MAX_BYTES {
            return Err(CommandError::new(
                crate::error::code::FILE,
                doing(),
                format!("it has {} bytes, which is no login file", metadata.len()),
            ));
        }
        let text = fs::read(path).map_err(|error| CommandError::file(doing(), &error))?;
        serde_json::from_slice(&text).map_err(|error| {
            CommandError::new(crate::error::code::FILE, doing(), error.to_string()).next(format!(
                "mend or remove {} and log in again",
                path.display()
            ))
        })
    }

    /// Makes `url` the current cluster; a login that is given replaces the one that is known.
    ///
    /// Returns the cluster that was current before, when it was another one.
    pub(crate) fn choose(&mut self, url: &str, login: Option<Login>) -> Option<String> {
        let url = normal_url(url);
        if let Some(login) = login {
            self.clusters.insert(url.clone(), login);
        }
        self.current
            .replace(url.clone())
            .filter(|before| *before != url)
    }

    /// The login for a URL; of a list with commas, the first that is known.
    pub(crate) fn get(&self, url: &str) -> Option<&Login> {
        url.split(',')
            .find_map(|url| self.clusters.get(&normal_url(url.trim())))
    }

    /// Keeps where the pacemakers of a login are; false when nothing is known of it.
    pub(crate) fn keep_endpoints(
        &mut self,
        url: &str,
        endpoints: Vec<String>,
        now: Timestamp,
    ) -> bool {
        let found = url
            .split(',')
            .map(|url| normal_url(url.trim()))
            .find(|url| self.clusters.contains_key(url));
        let Some(login) = found.and_then(|url| self.clusters.get_mut(&url)) else {
            return false;
        };
        login.endpoints = endpoints;
        login.refreshed = now;
        true
    }

    /// Replaces the file.
    pub(crate) fn save(&self) -> Result<PathBuf, CommandError> {
        let path = path()?;
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| CommandError::new("output", "save the login", error.to_string()))?;
        write_private(&path, &bytes)?;
        Ok(path)
    }
}

/// `url` as it is kept: without a slash at its end, in lower case as far as scheme and host go.
fn normal_url(url: &str) -> String {
    url.trim_end_matches('/').to_ascii_lowercase()
}

fn path() -> Result<PathBuf, CommandError> {
    let not_empty = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = not_empty("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| not_empty("HOME").map(|home| PathBuf::from(home).join(".config")))
        .ok_or_else(|| {
            CommandError::new(
                crate::error::code::FILE,
                "find the logins of this user",
                "neither XDG_CONFIG_HOME nor HOME is set",
            )
            .next("set one of them, or use PM_URL and PM_TOKEN")
        })?;
    Ok(base.join("paasmaker").join("login.json"))
}

/// Replaces a file that only its owner may read, in a directory that only its owner may enter.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    let wrap = |error| CommandError::file(format!("write {}", path.display()), &error);
    if let Some(directory) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(wrap)?;
    }
    let temporary = path.with_extension(format!("new.{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(wrap)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(wrap)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn login(token: &str) -> Login {
        Login::new(token.to_owned(), None)
    }

    #[test]
    fn choosing_a_cluster_keeps_the_tokens_of_the_others() {
        let mut logins = Logins::default();
        assert_eq!(logins.choose("http://one:1/", Some(login("a"))), None);
        assert_eq!(
            logins.choose("http://two:2", Some(login("b"))),
            Some("http://one:1".to_owned())
        );
        assert_eq!(
            logins.get("http://one:1").map(|login| login.token.as_str()),
            Some("a")
        );
        assert_eq!(logins.current.as_deref(), Some("http://two:2"));
    }

    #[test]
    fn private_files_are_private_and_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/login.json");
        write_private(&path, b"{}").unwrap();
        write_private(&path, b"{ }").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"{ }");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let parent = fs::metadata(path.parent().unwrap()).unwrap();
        assert_eq!(parent.permissions().mode() & 0o777, 0o700);
        assert!(Logins::load_from(&path).unwrap() == Logins::default());
    }
}
