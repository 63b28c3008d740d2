//! Packages: the same content gives the same bytes, and what strangers send cannot do harm.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use heart::package::{
    EXCLUDED_NAMES, Limits, PackError, Summary, UnpackError, copy_tree, pack, unpack,
};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tar::EntryType;

use crate::shim::SmallDisk;
use pieces::{
    Piece, any_piece, archive, directory, extended, file, global, hard_link, header, link,
    long_name, special, with_mode,
};

mod pieces;

/// Archives that are generated.
const HOSTILE_ARCHIVES: u32 = 300;

#[test]
fn the_same_content_gives_the_same_package() {
    let place = tempfile::tempdir().unwrap();
    let first = sample(&place.path().join("first"));
    let second = sample(&place.path().join("second"));
    fs::set_permissions(second.join("readme.txt"), mode(0o600)).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| place.path().join(name));

    let packed = pack(&first, &a, EXCLUDED_NAMES).unwrap();
    assert_eq!(pack(&second, &b, EXCLUDED_NAMES).unwrap(), packed);
    assert_eq!(fs::read(&a).unwrap(), fs::read(&b).unwrap());
    assert_eq!(packed.size, fs::metadata(&a).unwrap().len());
    assert_eq!(
        packed.digest,
        common::digest::Digest::of(&fs::read(&a).unwrap())
    );

    let out = place.path().join("out");
    let summary = unpack(File::open(&a).unwrap(), &out, &Limits::default()).unwrap();
    assert_eq!(pack(&out, &c, EXCLUDED_NAMES).unwrap(), packed);
    assert_eq!(
        summary,
        Summary {
            files: 4,
            directories: 4,
            links: 2,
            bytes: 300_000 + 6 + 10 + 5,
        }
    );
    assert!(!out.join(".git").exists());
    assert_eq!(permissions(&out.join("bin/run")), 0o755);
    assert_eq!(permissions(&out.join("readme.txt")), 0o644);
    assert_eq!(
        fs::read_link(out.join("bin/link")).unwrap(),
        Path::new("../readme.txt")
    );
}

#[test]
fn a_package_inside_its_directory_leaves_itself_out() {
    let place = tempfile::tempdir().unwrap();
    let directory = sample(&place.path().join("first"));
    let outside = pack(&directory, &place.path().join("outside"), EXCLUDED_NAMES).unwrap();

    let inside = pack(&directory, &directory.join("package"), EXCLUDED_NAMES).unwrap();

    assert_eq!(inside, outside);
}

#[test]
fn what_cannot_be_packed_is_named() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("package");
    for target in ["/etc/passwd", "..", "a/../../b"] {
        let directory = place.path().join("links");
        fs::create_dir(&directory).unwrap();
        symlink(target, directory.join("link")).unwrap();
        let error = pack(&directory, &out, &[]).unwrap_err();
        assert!(matches!(error, PackError::LinkOutside { .. }), "{error}");
        assert!(error.to_string().contains("links/link"));
        fs::remove_dir_all(directory).unwrap();
    }
    let directory = place.path().join("special");
    fs::create_dir(&directory).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(directory.join("socket")).unwrap();
    let error = pack(&directory, &out, &[]).unwrap_err();
    drop(socket);
    assert!(error.to_string().contains("special/socket"), "{error}");
    assert!(pack(&place.path().join("absent"), &out, &[]).is_err());
    assert!(!out.exists());
}

#[test]
fn a_tree_deeper_than_any_node_unpacks_is_not_packed() {
    let place = tempfile::tempdir().unwrap();
    let (directory, out) = (place.path().join("deep"), place.path().join("package"));
    let mut deep = directory.clone();
    deep.extend(std::iter::repeat_n("d", 400));
    fs::create_dir_all(&deep).unwrap();

    let error = pack(&directory, &out, &[]).unwrap_err();

    assert!(matches!(error, PackError::TooDeep { .. }), "{error}");
    assert!(error.to_string().contains("deep/d/d/d"), "{error}");
    assert!(!out.exists());

    let (allowed, unpacked) = (place.path().join("allowed"), place.path().join("unpacked"));
    let mut deepest = allowed.clone();
    deepest.extend(std::iter::repeat_n("d", Limits::default().depth));
    fs::create_dir_all(&deepest).unwrap();
    pack(&allowed, &out, &[]).unwrap();
    unpack(File::open(&out).unwrap(), &unpacked, &Limits::default()).unwrap();
}

#[test]
fn a_sparse_file_larger_than_any_node_unpacks_is_not_packed() {
    let place = tempfile::tempdir().unwrap();
    let (directory, out) = (place.path().join("large"), place.path().join("package"));
    fs::create_dir(&directory).unwrap();
    let sparse = File::create(directory.join("sparse")).unwrap();
    sparse.set_len(10 << 40).unwrap();

    let error = pack(&directory, &out, &[]).unwrap_err();

    assert!(matches!(error, PackError::TooLarge { .. }), "{error}");
    assert!(error.to_string().contains("large/sparse"), "{error}");
    assert!(!out.exists());
}

#[test]
fn archives_of_other_programs_are_taken() {
    let place = tempfile::tempdir().unwrap();
    let directory = sample(&place.path().join("first"));
    let deep = directory.join("d".repeat(70)).join("e".repeat(70));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("ümläut"), "x").unwrap();
    fs::hard_link(directory.join("readme.txt"), directory.join("same")).unwrap();
    fs::remove_dir_all(directory.join(".git")).unwrap();

    for (format, compression) in [
        ("gnu", "--zstd"),
        ("gnu", "--gzip"),
        ("posix", "--gzip"),
        ("posix", "--format=posix"),
        ("ustar", "--format=ustar"),
    ] {
        let archive = place.path().join("archive");
        let status = Command::new("tar")
            .args(["-C".as_ref(), directory.as_os_str(), "-cf".as_ref()])
            .arg(&archive)
            .args([&format!("--format={format}"), compression, "."])
            .status();
        assert!(status.unwrap().success());
        let out = place.path().join("out");

        unpack(File::open(&archive).unwrap(), &out, &Limits::default()).unwrap();

        let same = Command::new("diff")
            .args(["-r", "--no-dereference"])
            .args([&directory, &out])
            .status();
        assert!(same.unwrap().success(), "{format} {compression}");
        fs::remove_dir_all(out).unwrap();
    }
}

#[test]
fn each_hostile_kind_is_refused() {
    let cases = [
        hostile_paths(),
        hostile_links(),
        hostile_kinds(),
        hostile_extensions(),
    ];
    for (name, pieces) in cases.into_iter().flatten() {
        let error = refuse(&archive(&pieces), name);
        assert!(
            !matches!(
                error,
                UnpackError::Write { .. } | UnpackError::StorageFull { .. }
            ),
            "{name}: {error}"
        );
    }
}

type Case = (&'static str, Vec<Piece>);

fn hostile_paths() -> Vec<Case> {
    vec![
        ("..", vec![file("../escaped")]),
        ("inner ..", vec![file("a/../../escaped")]),
        ("absolute", vec![file("/tmp/escaped")]),
        ("file over file", vec![file("a"), file("a")]),
        ("other spelling", vec![file("a/b"), file("./a//b")]),
        ("file below file", vec![file("a"), file("a/b")]),
        ("directory twice", vec![directory("a"), directory("a")]),
        ("file over directory", vec![file("a/b"), file("a")]),
        ("directory over file", vec![file("a"), directory("a")]),
        (
            "file name, too long",
            vec![long_name(&"n".repeat(256)), file("a")],
        ),
        (
            "deep",
            vec![long_name(&format!("{}x", "d/".repeat(200))), file("a")],
        ),
    ]
}

fn hostile_links() -> Vec<Case> {
    vec![
        ("link out", vec![link("a", "..")]),
        ("link out, absolute", vec![link("a", "/etc")]),
        (
            "link out through a link",
            vec![link("d/e/up", "../.."), link("d/e/out", "up/../x")],
        ),
        (
            "file behind link",
            vec![link("a", "b"), directory("b"), file("a/x")],
        ),
        ("file over link", vec![link("a", "b"), file("a")]),
        ("directory over link", vec![link("a", "b"), directory("a")]),
        ("link over directory", vec![directory("a"), link("a", "b")]),
        ("hard link out", vec![hard_link("a", "/etc/passwd")]),
        ("hard link up", vec![hard_link("a", "../x")]),
        ("hard link to nothing", vec![hard_link("a", "b")]),
        (
            "hard link to a later file",
            vec![hard_link("a", "b"), file("b")],
        ),
        (
            "hard link to a link",
            vec![link("b", "c"), hard_link("a", "b")],
        ),
        (
            "hard link to a directory",
            vec![directory("b"), hard_link("a", "b")],
        ),
        (
            "hard link behind a link",
            vec![file("b/x"), link("c", "b"), hard_link("a", "c/x")],
        ),
    ]
}

fn hostile_kinds() -> Vec<Case> {
    vec![
        ("device", vec![special(EntryType::Char)]),
        ("block device", vec![special(EntryType::Block)]),
        ("pipe", vec![special(EntryType::Fifo)]),
        ("unknown", vec![special(EntryType::new(b'Y'))]),
        ("sparse", vec![special(EntryType::GNUSparse)]),
        ("setuid", vec![with_mode("a", 0o4755)]),
        ("setgid", vec![with_mode("a", 0o2755)]),
        ("sticky", vec![with_mode("a", 0o1755)]),
    ]
}

fn hostile_extensions() -> Vec<Case> {
    let up = format!("{}/../../x", "n".repeat(251));
    vec![
        ("size", vec![extended(&[("size", "3")]), file("a")]),
        (
            "sparse",
            vec![extended(&[("GNU.sparse.size", "9999999")]), file("a")],
        ),
        (
            "path up",
            vec![extended(&[("path", "../escaped")]), file("a")],
        ),
        (
            "path with NUL",
            vec![extended(&[("path", "a\0b")]), file("a")],
        ),
        ("no name", vec![extended(&[("path", "")]), file("a")]),
        (
            "same file",
            vec![extended(&[("path", "a/.")]), file("a"), file("a")],
        ),
        (
            "two names",
            vec![long_name("b"), extended(&[("path", "c")]), file("a")],
        ),
        (
            "two long names",
            vec![long_name("b"), long_name("c"), file("a")],
        ),
        ("long name up", vec![long_name(&up), file("a")]),
        ("long name of nothing", vec![long_name("b")]),
        ("global path", vec![global(&[("path", "b")]), file("a")]),
        (
            "long name, too long",
            vec![long_name(&"p/".repeat(3000)), file("a")],
        ),
    ]
}

#[test]
fn generated_archives_never_reach_outside() {
    let mut runner = TestRunner::new_with_rng(
        ProptestConfig {
            cases: HOSTILE_ARCHIVES,
            failure_persistence: None,
            ..ProptestConfig::default()
        },
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    let mut refused = 0;
    let mut taken = 0;
    let counts = std::cell::RefCell::new((&mut refused, &mut taken));
    runner
        .run(&proptest::collection::vec(any_piece(), 1..12), |pieces| {
            let bytes = archive(&pieces);
            let guarded = Guarded::new();
            let result = unpack(&bytes[..], &guarded.destination(), &Limits::default());
            guarded.check_outside();
            let mut counts = counts.borrow_mut();
            if result.is_ok() {
                *counts.1 += 1;
                guarded.check_inside(&bytes);
            } else {
                *counts.0 += 1;
                prop_assert!(!guarded.destination().exists());
            }
            Ok(())
        })
        .unwrap();
    assert!(
        refused > 50 && taken > 20,
        "{refused} refused, {taken} taken"
    );
}

#[test]
fn a_cut_is_noticed_and_a_flipped_bit_does_no_harm() {
    let place = tempfile::tempdir().unwrap();
    let directory = sample(&place.path().join("first"));
    let package = place.path().join("package");
    pack(&directory, &package, EXCLUDED_NAMES).unwrap();
    let zstd = fs::read(&package).unwrap();
    let mut plain = Vec::new();
    zstd::Decoder::new(&zstd[..])
        .unwrap()
        .read_to_end(&mut plain)
        .unwrap();
    let gzip = gzip(&plain);

    for bytes in [&zstd, &gzip, &plain] {
        for percent in 0..100 {
            let cut = bytes.len() * percent / 100;
            refuse(&bytes[..cut], &format!("cut at {percent} %"));

            let guarded = Guarded::new();
            let mut flipped = bytes.clone();
            flipped[cut] ^= 0x10;
            let result = unpack(&flipped[..], &guarded.destination(), &Limits::default());
            guarded.check_outside();
            assert_eq!(result.is_ok(), guarded.destination().exists());
        }
        let mut followed = bytes.clone();
        followed.extend_from_slice(b"garbage");
        refuse(&followed, "followed by garbage");
    }
    refuse(b"", "nothing");
    refuse(b"not an archive at all, only some words", "words");
}

#[test]
fn each_hard_link_counts_as_a_file_of_its_own() {
    let mut pieces = vec![Piece::new("file", EntryType::Regular, &[7; 1_000])];
    pieces.extend((0..9).map(|number| hard_link(&format!("link{number}"), "file")));
    let bytes = archive(&pieces);
    let place = tempfile::tempdir().unwrap();
    let mut limits = Limits {
        total_bytes: 10_000,
        ..Limits::default()
    };

    let summary = unpack(&bytes[..], &place.path().join("fits"), &limits).unwrap();
    assert_eq!((summary.files, summary.bytes), (10, 10_000));

    limits.total_bytes = 9_999;
    limit_exceeded(&bytes, &limits);
}

#[test]
fn bombs_are_stopped_early() {
    let ten_gigabytes = 10 << 30;
    let zeros = zstd_of(|out| {
        out.write_all(header("zeros", EntryType::Regular, ten_gigabytes, 0o644).as_bytes())?;
        // More than enough to reach the limit; the rest of the ten gigabytes is never asked for.
        io::copy(&mut io::repeat(0).take(1 << 30), out).map(drop)
    });
    let mut limits = Limits::default();
    limit_exceeded(&zeros, &limits);
    limits.total_bytes = u64::MAX;
    limit_exceeded(&zeros, &limits);

    let huge = archive(&[Piece::raw(header(
        "huge",
        EntryType::Regular,
        8 << 60,
        0o644,
    ))]);
    limit_exceeded(&huge, &Limits::default());

    let many = zstd_of(|out| {
        for number in 0..600_000 {
            out.write_all(header(&format!("f{number}"), EntryType::Regular, 0, 0o644).as_bytes())?;
        }
        Ok(())
    });
    limits = Limits {
        entries: 20_000,
        ..Limits::default()
    };
    limit_exceeded(&many, &limits);

    let long_names = zstd_of(|out| {
        out.write_all(header("././@LongLink", EntryType::GNULongName, 1 << 30, 0).as_bytes())?;
        io::copy(&mut io::repeat(b'a').take(64 << 20), out).map(drop)
    });
    limit_exceeded(&long_names, &Limits::default());

    let deep = archive(&[long_name(&"d/".repeat(1400)), directory("d")]);
    limit_exceeded(&deep, &Limits::default());
}

#[test]
fn a_disk_that_fills_up_anywhere_leaves_nothing() {
    let Some(disk) = SmallDisk::mount("2m") else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let directory = sample(&place.path().join("first"));
    let package = place.path().join("package");
    pack(&directory, &package, EXCLUDED_NAMES).unwrap();
    let ballast = disk.path().join("ballast");
    let destination = disk.path().join("out");
    let mut full = 0;

    for percent in 0..100_u64 {
        let free = 400_000 * percent / 100;
        let written = fs::write(
            &ballast,
            vec![1; usize::try_from(2_097_152 - free).unwrap()],
        );
        written.unwrap();
        match unpack(
            File::open(&package).unwrap(),
            &destination,
            &Limits::default(),
        ) {
            Ok(_) => fs::remove_dir_all(&destination).unwrap(),
            Err(error) => {
                assert!(matches!(error, UnpackError::StorageFull { .. }), "{error}");
                assert!(!destination.exists());
                full += 1;
            }
        }
        // The package itself cannot be written either, and is not half there afterwards.
        let copy = disk.path().join("package");
        if percent < 5 && pack(&directory, &copy, EXCLUDED_NAMES).is_err() {
            assert!(!copy.exists());
        }
        fs::remove_file(&ballast).unwrap();
        drop(fs::remove_file(&copy));
    }
    assert!((50..100).contains(&full), "{full} times");
}

#[test]
fn a_directory_swapped_for_a_link_meanwhile_leads_nowhere() {
    let guarded = Guarded::new();
    let bytes = archive(&[
        directory("a"),
        directory("b"),
        file("a/1"),
        file("b/1"),
        file("a/2"),
    ]);
    // Everything up to the last entry, then the swap, then the last entry.
    let last = bytes.len() - 2048;
    let destination = guarded.destination();
    let swap = Swap {
        place: destination.clone(),
        is_done: false,
    };
    let package = bytes[..last].chain(swap).chain(&bytes[last..]);

    let result = unpack(package, &destination, &Limits::default());

    assert!(
        matches!(result, Err(UnpackError::Write { .. })),
        "{result:?}"
    );
    guarded.check_outside();
}

/// Reads nothing, and meanwhile somebody of the same user swaps a directory for a link.
struct Swap {
    place: PathBuf,
    is_done: bool,
}

impl io::Read for Swap {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        if !std::mem::replace(&mut self.is_done, true) {
            fs::rename(self.place.join("a"), self.place.join("moved"))?;
            symlink("../neighbour", self.place.join("a"))?;
        }
        Ok(0)
    }
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let bytes = archive(&[file("a/b/c"), directory("d"), with_mode("run", 0o700)]);

    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let result = unpack(&bytes[..], &out, &Limits::default());
    nix::sys::stat::umask(before);

    result.unwrap();
    for (name, expected) in [("", 0o755), ("a", 0o755), ("a/b", 0o755), ("a/b/c", 0o644)] {
        assert_eq!(permissions(&out.join(name)), expected, "{name}");
    }
    assert_eq!(permissions(&out.join("d")), 0o755);
    assert_eq!(permissions(&out.join("run")), 0o755);
}

#[test]
fn an_existing_destination_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("mine"), "x").unwrap();

    let result = unpack(&archive(&[file("a")])[..], place.path(), &Limits::default());

    assert!(matches!(result, Err(UnpackError::Write { .. })));
    assert!(place.path().join("mine").exists());
}

#[test]
fn a_copied_tree_is_equal_and_apart() {
    let place = tempfile::tempdir().unwrap();
    let original = sample(&place.path().join("first"));
    let copy = place.path().join("copy");

    copy_tree(&original, &copy).unwrap();

    assert_eq!(audit(&original), audit(&copy));
    let mut file = File::options()
        .append(true)
        .open(copy.join("readme.txt"))
        .unwrap();
    file.write_all(b"more").unwrap();
    assert_eq!(fs::read(original.join("readme.txt")).unwrap(), b"hello\n");
    assert!(copy_tree(&original, &copy).is_err());
}

/// A tree with all that a package may hold, and some of what it leaves out.
fn sample(root: &Path) -> PathBuf {
    fs::create_dir_all(root.join("bin/empty")).unwrap();
    fs::create_dir_all(root.join("z/deep")).unwrap();
    fs::create_dir_all(root.join(".git/objects")).unwrap();
    fs::write(root.join(".git/HEAD"), "ref").unwrap();
    fs::write(root.join("readme.txt"), "hello\n").unwrap();
    fs::write(root.join("bin/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("bin/run"), mode(0o700)).unwrap();
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()[3]
    })
    .take(300_000)
    .collect();
    fs::write(root.join("z/noise"), noise).unwrap();
    fs::write(root.join("z/deep/file"), "12345").unwrap();
    symlink("../readme.txt", root.join("bin/link")).unwrap();
    symlink("z/deep", root.join("shortcut")).unwrap();
    root.to_owned()
}

fn mode(mode: u32) -> fs::Permissions {
    fs::Permissions::from_mode(mode)
}

fn permissions(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A destination with neighbours that must not change.
struct Guarded {
    place: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Guarded {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let neighbour = place.path().join("neighbour");
        fs::create_dir(&neighbour).unwrap();
        fs::write(neighbour.join("file"), "precious").unwrap();
        fs::write(place.path().join("x"), "precious").unwrap();
        symlink("neighbour", place.path().join("link")).unwrap();
        let before = audit(place.path());
        Self { place, before }
    }

    fn destination(&self) -> PathBuf {
        self.place.path().join("out")
    }

    fn check_outside(&self) {
        let mut after = audit(self.place.path());
        after.retain(|path, _| !path.starts_with("out"));
        assert_eq!(after, self.before);
        for path in ["/tmp/escaped", "/escaped", "/etc/escaped"] {
            assert!(!Path::new(path).exists(), "{path}");
        }
    }

    /// What was taken is what GNU tar lists, and no link leads out.
    fn check_inside(&self, bytes: &[u8]) {
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
fn audit(root: &Path) -> BTreeMap<PathBuf, String> {
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
fn refuse(bytes: &[u8], name: &str) -> UnpackError {
    let guarded = Guarded::new();
    let result = unpack(bytes, &guarded.destination(), &Limits::default());
    guarded.check_outside();
    assert!(!guarded.destination().exists(), "{name}");
    match result {
        Ok(_) => panic!("{name} was taken"),
        Err(error) => error,
    }
}

fn limit_exceeded(bytes: &[u8], limits: &Limits) {
    let place = tempfile::tempdir().unwrap();
    let destination = place.path().join("out");
    let error = unpack(bytes, &destination, limits).unwrap_err();
    assert!(
        matches!(error, UnpackError::LimitExceeded { .. }),
        "{error}"
    );
    assert!(!destination.exists());
}

fn zstd_of(write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    write(&mut encoder).unwrap();
    encoder.finish().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
