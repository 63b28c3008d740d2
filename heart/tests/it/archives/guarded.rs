//! A destination with neighbours that must not change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use heart::package::{Limits, UnpackError, unpack};

/// A destination with neighbours that must not change.
pub(super) struct Guarded {
    place: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Guarded {
    pub(super) fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let neighbour = place.path().join("neighbour");
        fs::create_dir(&neighbour).unwrap();
        fs::write(neighbour.join("file"), "precious").unwrap();
        fs::write(place.path().join("x"), "precious").unwrap();
        symlink("neighbour", place.path().join("link")).unwrap();
        let before = audit(place.path());
        Self { place, before }
    }

    pub(super) fn destination(&self) -> PathBuf {
        self.place.path().join("out")
    }

    pub(super) fn check_outside(&self) {
        let mut after = audit(self.place.path());
        after.retain(|path, _| !path.starts_with("out"));
        assert_eq!(after, self.before);
        for path in ["/tmp/escaped", "/escaped", "/etc/escaped"] {
            assert!(!Path::new(path).exists(), "{path}");
        }
    }

    /// What was taken is what GNU tar lists, and no link leads out.
    pub(super) fn check_inside(&self, bytes: &[u8]) {
        let root = fs::canonicalize(self.destination()).unwrap();
        let mut names = BTreeSet::new();
        for path in audit(&root).keys() {
            names.insert(path.clone());
            let full = root.join(path);
            if let Ok(real) = fs::canonicalize(&full) {
                assert!(
                    real.starts_with(&root),
                    "{} -> {}",
                    path.display(),
                    real.display()
                );
            }
            assert_eq!(
                fs::symlink_metadata(&full).unwrap().permissions().mode() & 0o7000,
                0
            );
        }
        let archive = self.place.path().join("archive.tar");
        fs::write(&archive, bytes).unwrap();
        let listed = Command::new("tar")
            .args(["--list", "--quoting-style=literal", "-f"])
            .arg(&archive)
            .output()
            .unwrap();
        let listed: BTreeSet<PathBuf> = String::from_utf8(listed.stdout)
            .unwrap()
            .lines()
            .flat_map(|line| {
                let path: PathBuf = Path::new(line)
                    .components()
                    .filter(|component| matches!(component, std::path::Component::Normal(_)))
                    .collect();
                path.ancestors().map(Path::to_owned).collect::<Vec<_>>()
            })
            .filter(|path| !path.as_os_str().is_empty())
            .collect();
        assert_eq!(names, listed);
    }
}

/// Everything below `root`: kind, mode, times of change (but of directories), content.
pub(super) fn audit(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let kind = metadata.file_type();
            let content = if kind.is_file() {
                format!(
                    "{:?}",
                    common::digest::Digest::of(&fs::read(&path).unwrap())
                )
            } else if kind.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                open.push(path.clone());
                "directory".to_owned()
            };
            let inside = path.strip_prefix(root).unwrap().to_owned();
            found.insert(inside, format!("{:o} {content}", metadata.mode()));
        }
    }
    found
}

/// Expects a refusal that leaves nothing inside and changes nothing outside.
pub(super) fn refuse(bytes: &[u8], name: &str) -> UnpackError {
    let guarded = Guarded::new();
    let result = unpack(bytes, &guarded.destination(), &Limits::default());
    guarded.check_outside();
    assert!(!guarded.destination().exists(), "{name}");
    match result {
        Ok(_) => panic!("{name} was taken"),
        Err(error) => error,
    }
}
