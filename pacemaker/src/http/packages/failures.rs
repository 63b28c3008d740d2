//! What can go wrong with packages, in words for whoever asked.

use std::io;

use common::api::UPLOAD_OFFSET;
use common::assignment::PackageReference;
use common::digest::Digest;
use http::{HeaderName, StatusCode};

use crate::http::error::Failure;
use crate::package_store::ReceiveError;
use crate::package_store::fetch::FetchError;
use crate::package_store::push::PushError;

/// A package that the cluster knows cannot be had.
pub(super) fn not_fetched(error: &io::Error, package: &PackageReference) -> Failure {
    let reason = error.get_ref().and_then(|error| error.downcast_ref());
    match reason {
        Some(FetchError::Nowhere) => Failure::not_found(
            "package_lost",
            format!(
                "No pacemaker has package {} any more: its file was damaged or removed from the disk. Upload it again, as `pm deploy` of the same directory does.",
                package.digest
            ),
        ),
        Some(
            FetchError::Unreachable | FetchError::Full | FetchError::Disk | FetchError::Stopping,
        )
        | None => Failure::unavailable(
            "package_unavailable",
            format!(
                "Package {} is not on this pacemaker's disk and could not be fetched: {error}.",
                package.digest
            ),
        ),
    }
}

/// An upload is not on a majority.
pub(super) fn not_pushed(error: &PushError, package: &PackageReference) -> Failure {
    match error {
        PushError::NoMajority { stored, voters } => Failure::unavailable(
            "package_not_replicated",
            format!(
                "{stored} of {voters} pacemakers have stored the package, and a majority must. All of it is kept here: upload it again when more of them answer, and nothing has to be sent twice."
            ),
        )
        .with_header(HeaderName::from_static(UPLOAD_OFFSET), package.size),
        PushError::Damaged => Failure::unavailable(
            "package_damaged",
            "The package was damaged on this pacemaker's disk, and nothing of it is kept; upload it again.",
        )
        .with_header(HeaderName::from_static(UPLOAD_OFFSET), 0),
    }
}

/// A part of an upload was not taken.
pub(super) fn refusal(error: ReceiveError, total: u64) -> Failure {
    let offset = HeaderName::from_static(UPLOAD_OFFSET);
    match error {
        ReceiveError::Offset(length) => Failure::new(
            StatusCode::CONFLICT,
            "offset_mismatch",
            "The upload goes on elsewhere.",
            format!("{length} of {total} bytes have arrived; go on from there."),
        )
        .with_header(offset, length),
        ReceiveError::TooLong(announced) => Failure::bad_request(
            "upload_too_long",
            format!("More came than the announced {announced} bytes; nothing is kept."),
        ),
        ReceiveError::Mismatch { found } => Failure::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "digest_mismatch",
            "The bytes are not the package.",
            format!("Their SHA-256 is {found}; nothing is kept. Upload it again from the start."),
        ),
        ReceiveError::BrokenOff { length } => Failure::bad_request(
            "upload_broken_off",
            format!("{length} of {total} bytes have arrived and are kept; go on from there."),
        )
        .with_header(offset, length),
        ReceiveError::Full => Failure::storage_full("The package"),
        ReceiveError::Io(error) => Failure::internal("storing a package", &error),
    }
}

/// A package is not here, or not in full.
pub(super) fn absent(digest: &Digest, offset: u64) -> Failure {
    Failure::not_found(
        "package_not_found",
        format!("Package {digest} is not stored; {offset} bytes of it have arrived."),
    )
    .with_header(HeaderName::from_static(UPLOAD_OFFSET), offset)
}
