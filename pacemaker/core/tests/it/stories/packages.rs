//! Packages go when nothing needs them, and never before.

use std::collections::BTreeSet;

use common::digest::Digest;
use common::id::WorkspaceStub;
use common::time::{Span, Timestamp};
use pacemaker_core::command::{Command, RejectionCode};
use pacemaker_core::state::limits::PACKAGE_GRACE;

use crate::generators::package;
use crate::machine::Machine;

use super::hello;

#[test]
fn needless_packages_are_forgotten_after_their_grace_and_needed_ones_never() {
    let mut machine = Machine::new();
    let (source, built) = (package("source"), package("built"));
    let forget = Command::ForgetPackages {
        digests: BTreeSet::from([source.digest.clone(), built.digest.clone()]),
    };
    let begin = machine.now;
    machine.apply(&deployment(&source.digest)).unwrap();
    machine.now = begin.after(PACKAGE_GRACE);
    machine.apply(&forget).unwrap();
    assert!(machine.state.has_package(&built.digest), "within its grace");

    machine.now = later(machine.now);
    assert_eq!(
        machine.state.needless_packages(machine.now),
        BTreeSet::from([built.digest.clone()])
    );
    machine.apply(&forget).unwrap();

    assert!(
        machine.state.has_package(&source.digest),
        "a version needs it"
    );
    assert!(!machine.state.has_package(&built.digest));
    let refusal = machine.apply(&deployment(&built.digest)).unwrap_err();
    assert_eq!(refusal.code, RejectionCode::PackageNotFound);
    assert_eq!(machine.state.invariants(), Vec::<String>::new());
}

#[test]
fn package_that_is_asked_for_again_has_its_grace_anew() {
    let mut machine = Machine::new();
    let built = package("built");
    machine.now = later(machine.now.after(PACKAGE_GRACE));
    machine
        .apply(&Command::CommitPackage {
            package: built.clone(),
        })
        .unwrap();

    machine.now = machine.now.after(PACKAGE_GRACE);

    let needless = machine.state.needless_packages(machine.now);
    assert!(!needless.contains(&built.digest), "{needless:?}");
}

fn later(time: Timestamp) -> Timestamp {
    time.after(Span(1))
}

fn deployment(source: &Digest) -> Command {
    Command::Deploy {
        workspace: WorkspaceStub::parse("default").unwrap(),
        spec: Box::new(hello(1)),
        manifest: String::new(),
        source: source.clone(),
        promote: true,
        cron_key: None,
    }
}
