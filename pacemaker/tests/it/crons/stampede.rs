//! C5: more crons in the same moment than are begun at once, and an API that goes on answering.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use common::api::CronRunState;
use common::time::Timestamp;
use pacemaker::WallClock;

use crate::crons::{NEVER, World, deploy, manifest, real_now};
use crate::harness::eventually;

/// A minute takes twelve seconds, and 30 seconds of grace are six.
const RATE: u32 = 5;
const MINUTE: u64 = 60_000;
/// Until the stampede, by that clock: enough for all to be deployed.
const AHEAD: u64 = 60_000;
const APPLICATIONS: usize = 12;
/// As many as one instance type may have: 1,200 in all, where 1,024 are begun at once.
const CRONS_EACH: usize = 100;

#[tokio::test]
async fn c5_stampede_runs_every_cron_once_while_the_api_answers() {
    let wall = WallClock::scaled(real_now(), RATE);
    let never = format!("{{runspec: \"{NEVER}\", uri: /ok, name: never}}");
    let world = World::with_clock(wall, 1, &never).await;
    let slot = Timestamp((wall.now().0 + AHEAD).next_multiple_of(MINUTE));
    let (hour, minute) = (slot.0 / MINUTE / 60 % 24, slot.0 / MINUTE % 60);
    let mut crons = String::new();
    for number in 0..CRONS_EACH {
        let line = format!("{{runspec: \"{minute} {hour} * * *\", uri: /ok, name: cron-{number}}}");
        writeln!(crons, "{line}").unwrap();
    }
    let mut applications = Vec::new();
    for number in 0..APPLICATIONS {
        let manifest = manifest(1, &crons).replace("hello", &format!("storm-{number}"));
        applications.push(deploy(&world.client, &manifest).await);
    }
    assert!(wall.now() < slot, "it took too long to deploy them");
    assert!(world.receiver.calls().is_empty());

    world.wall_is_past(slot).await;
    let calls = eventually("all have been called", async || {
        // Every one of these must be answered, however much goes on.
        world.client.crons(world.application).await.unwrap();
        let calls = world.receiver.calls();
        (calls.len() >= APPLICATIONS * CRONS_EACH).then_some(calls)
    })
    .await;

    let runs: BTreeSet<u64> = calls.iter().map(|call| call.run()).collect();
    assert_eq!(runs.len(), APPLICATIONS * CRONS_EACH);
    for application in applications {
        eventually("all runs are recorded", async || {
            let views = world.client.crons(application).await.unwrap();
            let states = views.iter().filter_map(|view| view.last.as_ref());
            let succeeded = states.filter(|run| run.state == CronRunState::Succeeded);
            (succeeded.count() == CRONS_EACH).then_some(())
        })
        .await;
    }
    assert_eq!(world.receiver.calls().len(), APPLICATIONS * CRONS_EACH);
}
