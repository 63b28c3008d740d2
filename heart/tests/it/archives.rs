//! Packages: the same content gives the same bytes, and what strangers send cannot do harm.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use heart::package::{
    EXCLUDED_NAMES, Limits, PackError, Summary, UnpackError, copy_tree, pack, unpack,
};

use guarded::audit;
use pieces::{archive, directory, file, with_mode};

mod guarded;
mod hostile;
mod limits;
mod pieces;

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
