//! Snapshots of past releases: each must still load, for ever.
//!
//! `GOLDEN_WRITE=1` writes this release's anew; do so only before it is released.

use std::collections::BTreeSet;

use common::api::CronRunState;
use common::cron::Zone;
use common::id::NodeId;
use common::secret::Secret;
use common::time::{Span, Timestamp};
use pacemaker_core::crons::CronPlanner;
use pacemaker_core::sightings::Sightings;
use pacemaker_core::state::FormatError;
use pacemaker_core::state::crons::RunPhase;
use pacemaker_core::{State, plan};

use crate::crons::world::{CronWorld, DAY, HOUR, MINUTE, SECOND, START, cron, with_crons};

/// The first release's form, of a cluster with everything in it.
const FORM_1: &[u8] = include_bytes!("golden/state-1.msgpack");
/// The same form with web crons: suspended, waiting, running, backing off, ended, missed.
const FORM_1_WITH_CRONS: &[u8] = include_bytes!("golden/state-1-crons.msgpack");

#[test]
fn snapshot_of_the_first_form_still_loads() {
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
fn snapshot_with_crons_still_loads_and_they_go_on() {
    write_if_asked();

    let state: State = rmp_serde::from_slice(FORM_1_WITH_CRONS).unwrap();

    assert_eq!(state.invariants(), Vec::<String>::new());
    let application = *state.applications().keys().next().unwrap();
    let runs = state.cron_runs(application, None, None, 1_000);
    for found in [
        CronRunState::Waiting,
        CronRunState::Running,
        CronRunState::Backoff,
        CronRunState::Succeeded,
        CronRunState::Missed,
    ] {
        assert!(runs.iter().any(|run| run.state == found), "{found:?}");
    }
    let record = &state.applications()[&application];
    assert!(record.cron_key.is_some());
    assert!(record.crons.values().any(|cron| cron.suspended));
    let wall = Timestamp(START + 7 * DAY);
    let decisions = CronPlanner::default().plan(&state, wall, NodeId(9), &BTreeSet::new());
    assert!(!decisions.is_empty());
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

/// Crons in the midst of their life.
fn specimen() -> State {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "*/5 * * * *");
    tick.retries = 3;
    tick.timezone = Zone::parse("Europe/Paris").unwrap();
    tick.username = Some("cron".to_owned());
    tick.password = Some(Secret::new("sesame".to_owned()));
    let mut slow = cron("slow", "0 * * * *");
    slow.timeout = Span::seconds(3_600);
    let crons = vec![tick, slow, cron("rest", "@daily"), cron("hand", "@yearly")];
    let application = world.deploy(&with_crons("hello", crons));
    world.failures = 2;
    world.run_for(HOUR);
    world.suspend(application, "rest");
    world.sleep_for(3 * HOUR);
    world.takes = (HOUR, HOUR);
    world.run_for(30 * MINUTE);
    world.takes = (SECOND, SECOND);
    world.failures = 1;
    while !world
        .phases(application, "tick")
        .iter()
        .any(|phase| matches!(phase, RunPhase::Backoff { .. }))
    {
        world.run_for(SECOND / 2);
    }
    world.start_run(application, "hand").unwrap();
    world.state
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one file that a person asks this test to write"
)]
fn write_if_asked() {
    if std::env::var("GOLDEN_WRITE").is_ok() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/it/golden/state-1-crons.msgpack"
        );
        let bytes = rmp_serde::to_vec_named(&specimen()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}
