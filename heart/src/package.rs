//! Packages: a directory as one deterministic, compressed archive, and back.
//!
//! [`pack()`] gives equal bytes for equal content, so a package is named by its digest. [`unpack()`]
//! takes archives from strangers: it refuses what could leave the destination, run with other
//! rights or fill the disk, and then leaves nothing. [`copy_tree`] makes an instance's own
//! writable copy of an unpacked package.

mod copy;
mod links;
mod pack;
mod unpack;

pub use copy::copy_tree;
pub use pack::{EXCLUDED_NAMES, PackError, pack};
pub use unpack::{FREE_BYTES, Limits, Summary, UnpackError, unpack};
