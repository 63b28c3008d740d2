//! Archives that strangers made to do harm: each kind, and hundreds at random.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::{fs, io};

use heart::package::{Limits, UnpackError, unpack};
use io::Read as _;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tar::EntryType;

use super::guarded::{Guarded, refuse};
use super::pieces::{
    Piece, any_piece, archive, directory, extended, file, global, hard_link, link, long_name,
    special, with_mode,
};

/// Archives that are generated.
const HOSTILE_ARCHIVES: u32 = 300;

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
