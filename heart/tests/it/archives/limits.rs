//! What an archive may cost: bombs, cuts, and disks that fill up.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};

use heart::package::{EXCLUDED_NAMES, Limits, UnpackError, pack, unpack};
use tar::EntryType;

use super::guarded::{Guarded, refuse};
use super::pieces::{Piece, archive, directory, hard_link, header, long_name};
use super::sample;
use crate::shim::SmallDisk;

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
