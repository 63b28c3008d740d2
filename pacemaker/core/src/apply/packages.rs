//! Packages: committed when a majority stores them, forgotten when nothing needs them.

use std::collections::BTreeSet;

use common::assignment::PackageReference;
use common::digest::Digest;

use crate::apply::reject;
use crate::command::{Outcome, Rejection, RejectionCode};
use crate::state::limits::PACKAGES_MAX;
use crate::state::records::PackageRecord;
use crate::transition::Transition;

impl Transition<'_> {
    /// A package is in the store from here on; said again, its age begins anew.
    pub(super) fn commit_package(
        &mut self,
        package: &PackageReference,
    ) -> Result<Outcome, Rejection> {
        let committed = self.now();
        match self.state.packages.get_mut(&package.digest) {
            Some(known) if known.size == package.size => {
                known.committed = committed;
                return Ok(Outcome::Done);
            }
            Some(known) => {
                return Err(reject(
                    RejectionCode::Invalid,
                    format!(
                        "package {} has {} bytes, not {}",
                        package.digest, known.size, package.size
                    ),
                ));
            }
            None => {}
        }
        if self.state.packages.len() >= PACKAGES_MAX {
            return Err(reject(
                RejectionCode::LimitExceeded,
                format!("the store has {PACKAGES_MAX} packages, the most that it may have"),
            ));
        }
        self.state.packages.insert(
            package.digest.clone(),
            PackageRecord {
                size: package.size,
                committed,
            },
        );
        Ok(Outcome::Done)
    }

    /// Forgets those of the packages that nothing needs; the others stay without a word, because
    /// what was needless when it was proposed may be needed by now.
    pub(super) fn forget_packages(&mut self, digests: &BTreeSet<Digest>) -> Outcome {
        let now = self.now();
        for digest in self.state.needless_packages(now) {
            if digests.contains(&digest) {
                self.state.packages.remove(&digest);
            }
        }
        Outcome::Done
    }
}
