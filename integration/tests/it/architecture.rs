//! The rules of the house that no compiler checks: who imports whom, what stays pure, how files
//! begin.
//!
//! It reads `cargo metadata` and the sources, and builds nothing. A rule that fails here is either
//! broken by the change, or changed on purpose together with the README.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Which crate may import which of ours, in its code and in its tests.
///
/// `integration` boots the roles in its own process, and a heart and a router are given a client.
const EDGES: [(&str, &[&str]); 8] = [
    ("common", &[]),
    ("pacemaker-core", &["common"]),
    ("pacemaker-client", &["common"]),
    (
        "pacemaker",
        &["common", "pacemaker-client", "pacemaker-core"],
    ),
    ("heart", &["common", "pacemaker-client"]),
    ("router", &["common", "pacemaker-client"]),
    (
        "cli",
        &["common", "heart", "pacemaker", "pacemaker-client", "router"],
    ),
    (
        "integration",
        &["common", "heart", "pacemaker", "pacemaker-client", "router"],
    ),
];

/// The crates that decide: no clock, no randomness, no IO, no async.
const PURE: [&str; 2] = ["common", "pacemaker-core"];

/// What a pure crate never lists outside of its tests, or anything that begins so.
const IMPURE: [&str; 22] = [
    "async-",
    "axum",
    "chrono",
    "coarsetime",
    "crossbeam",
    "fastrand",
    "futures",
    "getrandom",
    "hyper",
    "libc",
    "mio",
    "nix",
    "openraft",
    "quanta",
    "rand",
    "reqwest",
    "rustix",
    "socket2",
    "tempfile",
    "time",
    "tokio",
    "tracing",
];

/// Outside crates that belong to a few of ours, each with them.
const CONFINED: [(&str, &[&str]); 5] = [
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("anyhow", &["cli", "integration"]),
    ("openraft", &["pacemaker"]),
    ("openraft-rt-tokio", &["pacemaker"]),
];

/// Files that may name axum beside those under a name with `http`: the API of a role, and where a
/// role puts its routes together.
const COMPOSING: [&str; 4] = ["api.rs", "lib.rs", "role.rs", "start.rs"];

fn root() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .canonicalize()
        .unwrap()
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap()
}

fn names(package: &Package, kind: impl Fn(DependencyKind) -> bool) -> BTreeSet<String> {
    package
        .dependencies
        .iter()
        .filter(|dependency| kind(dependency.kind))
        .map(|dependency| dependency.name.clone())
        .collect()
}

/// A source file, its path from the root of the repository.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// True when code reaches into the crate `name`. A text or a comment may say its name.
    fn uses(&self, name: &str) -> bool {
        let path = format!("{name}::");
        let is_part = |character: char| character.is_alphanumeric() || character == '_';
        self.text
            .lines()
            .map(str::trim_start)
            .filter(|line| !line.starts_with("//"))
            .any(|line| {
                line.strip_prefix("use ")
                    .is_some_and(|used| used.split(|c| !is_part(c)).next() == Some(name))
                    || line
                        .match_indices(&path)
                        .any(|(start, _)| !line.get(..start).unwrap().ends_with(is_part))
            })
    }

    fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap()
    }
}

/// Every Rust file of every crate.
fn sources(metadata: &Metadata) -> Vec<Source> {
    let root = root();
    let mut files = BTreeSet::new();
    for package in metadata.workspace_packages() {
        let directory = package.manifest_path.parent().unwrap();
        for part in ["src", "tests", "examples", "benches", "build.rs"] {
            collect(directory.join(part).as_std_path(), &mut files);
        }
    }
    files
        .into_iter()
        .map(|file| Source {
            path: file
                .strip_prefix(&root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned(),
            text: fs::read_to_string(&file).unwrap(),
        })
        .collect()
}

fn collect(path: &Path, files: &mut BTreeSet<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), files);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") && path.exists() {
        files.insert(path.to_owned());
    }
}

/// The paths of the files that break a rule.
fn breaking(sources: &[Source], breaks: impl Fn(&Source) -> bool) -> Vec<&str> {
    sources
        .iter()
        .filter(|source| breaks(source))
        .map(|source| source.path.as_str())
        .collect()
}

/// True when a rule about the crate `word` has something to look at; one over no files would hold.
fn found_in_pacemaker(sources: &[Source], word: &str) -> bool {
    sources
        .iter()
        .any(|source| source.path.starts_with("pacemaker/src/") && source.uses(word))
}

const NONE: [&str; 0] = [];

#[test]
fn crates_import_only_what_the_house_allows() {
    let metadata = metadata();
    let ours: BTreeSet<String> = EDGES.iter().map(|(name, _)| (*name).to_owned()).collect();

    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let (_, allowed) = EDGES
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("the crate {name} is not in the list of edges"));
        let imported = names(package, |_| true);
        let refused: Vec<&String> = imported
            .intersection(&ours)
            .filter(|imported| !allowed.contains(&imported.as_str()))
            .collect();
        assert!(refused.is_empty(), "{name} must not import {refused:?}");
    }
}

#[test]
fn pure_crates_list_no_runtime_no_clock_and_no_randomness() {
    let metadata = metadata();

    for name in PURE {
        let packages = metadata.workspace_packages();
        let package = packages
            .iter()
            .find(|package| package.name == name)
            .unwrap();
        let listed = names(package, |kind| kind != DependencyKind::Development);
        let impure: Vec<&String> = listed
            .iter()
            .filter(|listed| IMPURE.iter().any(|impure| listed.starts_with(impure)))
            .collect();
        assert!(impure.is_empty(), "{name} must not list {impure:?}");
    }
}

#[test]
fn outside_crates_stay_where_they_belong() {
    let metadata = metadata();

    for package in metadata.workspace_packages() {
        let listed = names(package, |_| true);
        for (outside, homes) in CONFINED {
            assert!(
                !listed.contains(outside) || homes.contains(&package.name.as_str()),
                "{} must not list {outside}, which belongs to {homes:?}",
                package.name
            );
        }
    }
}

#[test]
fn openraft_is_named_only_by_the_raft_modules() {
    let sources = sources(&metadata());
    assert!(found_in_pacemaker(&sources, "openraft"));

    let breaking = breaking(&sources, |source| {
        !source.path.starts_with("pacemaker/src/raft")
            && (source.uses("openraft") || source.uses("openraft_rt_tokio"))
    });

    assert_eq!(breaking, NONE);
}

#[test]
fn axum_is_named_only_by_http_modules() {
    let sources = sources(&metadata());
    assert!(found_in_pacemaker(&sources, "axum"));

    let breaking = breaking(&sources, |source| {
        let is_http = source.path.contains("http")
            || source.path.contains("/tests/")
            || COMPOSING.contains(&source.file_name());
        !is_http && source.uses("axum")
    });

    assert_eq!(breaking, NONE);
}

#[test]
fn every_file_says_what_it_is_for() {
    let sources = sources(&metadata());

    let breaking = breaking(&sources, |source| !source.text.starts_with("//! "));

    assert_eq!(breaking, NONE);
}

#[test]
fn no_module_is_named_mod_rs() {
    let sources = sources(&metadata());

    assert_eq!(
        breaking(&sources, |source| source.file_name() == "mod.rs"),
        NONE
    );
}

#[test]
fn every_crate_inherits_the_lints_of_the_workspace() {
    for package in metadata().workspace_packages() {
        let text = fs::read_to_string(&package.manifest_path).unwrap();
        assert!(
            text.contains("\n[lints]\nworkspace = true\n"),
            "{} must have `[lints] workspace = true`",
            package.manifest_path
        );
    }
}

#[test]
fn pure_crates_repeat_the_settings_of_the_root() {
    let root = root();
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let lines = |text: &str| -> BTreeSet<String> {
        text.lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let of_root = lines(&read("clippy.toml"));
    let of_common = lines(&read("common/clippy.toml"));

    let missing: Vec<&String> = of_root.difference(&of_common).collect();

    assert!(missing.is_empty(), "common/clippy.toml lacks {missing:?}");
    assert_eq!(lines(&read("pacemaker/core/clippy.toml")), of_common);
    for banned in [
        "std::collections::HashMap",
        "std::time::Instant",
        "std::fs::File",
        "std::env::var",
    ] {
        assert!(
            of_common
                .iter()
                .any(|line| line.contains(&format!("\"{banned}\""))),
            "{banned}"
        );
    }
}

#[test]
fn other_crates_have_no_clippy_file_of_their_own() {
    let root = root();
    let mut found = BTreeMap::new();

    for package in metadata().workspace_packages() {
        let file = package.manifest_path.parent().unwrap().join("clippy.toml");
        found.insert(
            package.name.to_string(),
            file.exists() && file.parent().unwrap() != root,
        );
    }

    found.retain(|name, exists| *exists && !PURE.contains(&name.as_str()));
    assert!(
        found.is_empty(),
        "a crate's clippy.toml replaces the root's: {found:?}"
    );
}
