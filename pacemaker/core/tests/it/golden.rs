//! Snapshots of past releases: each must still load, for ever.
//!
//! `GOLDEN_WRITE=1` writes this release's anew; do so only before it is released.

use common::time::Timestamp;
use pacemaker_core::sightings::Sightings;
use pacemaker_core::state::FormatError;
use pacemaker_core::{State, plan};

use crate::simulation::Simulation;

/// The first release's form, of a cluster with everything in it.
const FORM_1: &[u8] = include_bytes!("golden/state-1.msgpack");

#[test]
fn snapshot_of_the_first_form_still_loads() {
    write_if_asked();

    let state: State = rmp_serde::from_slice(FORM_1).unwrap();

    assert_eq!(state.invariants(), Vec::<String>::new());
    assert!(state.is_initialized());
    assert_eq!(state.nodes().len(), 3);
    assert_eq!(state.applications().len(), 3);
    assert!(!state.routes().routes.is_empty());
    assert!(!state.jobs(None, None, 100).is_empty());
    let sightings = Sightings {
        elected: Timestamp(u64::MAX),
        ..Sightings::default()
    };
    assert!(plan(&state, &sightings, Timestamp(u64::MAX)).len() < 256);
    let again = rmp_serde::to_vec_named(&state).unwrap();
    assert_eq!(rmp_serde::from_slice::<State>(&again).unwrap(), state);
}

#[test]
fn snapshot_of_a_newer_release_is_refused_and_says_so() {
    let mut value = serde_json::to_value(State::default()).unwrap();
    value["format"] = 2.into();

    let error = serde_json::from_value::<State>(value).unwrap_err();

    assert!(
        error
            .to_string()
            .contains(&FormatError { found: 2 }.to_string()),
        "{error}"
    );
}

/// A world in the midst of its life.
fn specimen() -> State {
    (0..)
        .map(|seed| {
            let mut simulation = Simulation::new(seed, true);
            simulation.make_trouble();
            simulation.world.state
        })
        .find(|state| {
            let applications = state.applications();
            state.nodes().len() == 3
                && applications.len() == 3
                && applications
                    .values()
                    .any(|application| application.switch.is_some())
                && applications
                    .values()
                    .any(|application| application.warm.is_some())
        })
        .expect("some world is so")
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one file that a person asks this test to write"
)]
fn write_if_asked() {
    if std::env::var("GOLDEN_WRITE").is_ok() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/it/golden/state-1.msgpack"
        );
        let bytes = rmp_serde::to_vec_named(&specimen()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}
