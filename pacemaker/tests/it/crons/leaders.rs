//! The leader dies, or is stopped, at the worst moments: each slot has one record, and that record
//! agrees with what the receiver saw.

use std::collections::BTreeMap;

use common::api::{CronRunState, CronRunView};
use common::id::{ApplicationId, RunId};
use common::time::Timestamp;
use pacemaker::WallClock;
use pacemaker_client::Client;
use rustix::process::Signal;

use crate::crons::process::Processes;
use crate::crons::receiver::Receiver;
use crate::crons::{NEVER, deploy, ended, key, manifest, node, node_client, real_now};
use crate::harness::eventually;
use crate::node::FakeNode;

/// A minute in three seconds: the 30 seconds in which a slot is fired late are one and a half, which
/// is longer than an election.
pub(super) const RATE: u32 = 20;
/// How old a slot may be when it is fired, milliseconds of the clock.
pub(super) const GRACE: u64 = 30_000;
/// Milliseconds until three pacemakers are a group and an application is deployed; until then the
/// clock goes as the log's does.
const DEPLOYED_WITHIN: u64 = 8_000;

/// Three pacemakers, and an application that records its calls.
pub(super) struct Fleet {
    pub(super) processes: Processes,
    pub(super) client: Client,
    pub(super) receiver: Receiver,
    pub(super) application: ApplicationId,
    pub(super) wall: WallClock,
    _node: FakeNode,
}

impl Fleet {
    pub(super) async fn with(quantity: u32, crons: &str) -> Self {
        let start = Timestamp(real_now().0 + DEPLOYED_WITHIN);
        let processes = Processes::start(start, RATE).await;
        let client = processes.client();
        let receiver = Receiver::new();
        let urls = processes.urls();
        let node = node(&node_client(&urls), &receiver, &urls[0]).await;
        let application = deploy(&client, &manifest(quantity, crons)).await;
        let fleet = Self {
            processes,
            client,
            receiver,
            application,
            wall: WallClock::scaled(start, RATE),
            _node: node,
        };
        fleet.wall_is_past(start).await;
        fleet
    }

    /// Newest first; as often asked as it takes.
    pub(super) async fn runs(&self, cron: &str) -> Vec<CronRunView> {
        eventually("the runs are listed", async || {
            let runs = self
                .client
                .cron_runs(self.application, Some(cron), None, 100);
            runs.await.ok()
        })
        .await
    }

    /// Waits until this clock has passed `time`.
    pub(super) async fn wall_is_past(&self, time: Timestamp) {
        eventually("time has passed", async || {
            (self.wall.now() > time).then_some(())
        })
        .await;
    }
}

/// When a leader died, and when another was seen to lead.
struct Death {
    died: Timestamp,
    led: Timestamp,
}

/// A leader that dies at a crash point, of its first slot; answers what the history says three
/// slots later, oldest first.
async fn die_at(point: &str, cron: &str) -> (Fleet, Vec<CronRunView>, Death) {
    let mut fleet = Fleet::with(1, cron).await;
    let former = fleet.processes.leader().await;
    for member in (1..=3).filter(|member| *member != former) {
        fleet.processes.kill(member);
        fleet.processes.launch(member, point);
        fleet.processes.answers(member).await;
    }
    fleet.processes.leader().await;
    fleet.processes.kill(former);
    let armed = fleet.processes.leader().await;
    // The others carry on, whoever of them leads next.
    fleet.processes.launch(former, "");
    fleet.processes.answers(former).await;
    let third = 6 - former - armed;
    fleet.processes.kill(third);
    fleet.processes.launch(third, "");
    fleet.processes.has_died(armed).await;
    let died = fleet.wall.now();
    fleet.processes.leader().await;
    let led = fleet.wall.now();
    fleet.processes.launch(armed, "");
    fleet.wall_is_past(Timestamp(led.0 + 180_000)).await;
    let mut runs = fleet.runs("cron").await;
    runs.reverse();
    (fleet, runs, Death { died, led })
}

/// Calls by run and attempt.
fn calls(fleet: &Fleet) -> BTreeMap<(RunId, u32), usize> {
    let mut counts = BTreeMap::new();
    for call in fleet.receiver.calls() {
        *counts
            .entry((RunId(call.run()), call.attempt()))
            .or_insert(0) += 1;
    }
    counts
}

/// Every minute from the first record to the last has one record.
pub(super) fn assert_every_slot_has_one_record(runs: &[CronRunView]) {
    let mut slots = BTreeMap::new();
    for run in runs {
        for slot in (run.scheduled.0..=run.last_scheduled.0).step_by(60_000) {
            assert!(slots.insert(slot, run.id).is_none(), "{run:?} twice");
        }
    }
    let (first, last) = (slots.keys().next().unwrap(), slots.keys().last().unwrap());
    let expected: Vec<u64> = (*first..=*last).step_by(60_000).collect();
    assert_eq!(slots.keys().copied().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn leader_that_dies_before_the_record_leaves_the_slot_to_the_next() {
    let cron = "{runspec: \"* * * * *\", uri: /ok, name: cron}";
    let (fleet, runs, Death { died, led }) = die_at("before-record", cron).await;

    assert_every_slot_has_one_record(&runs);
    assert!(
        runs.iter().all(|run| run.state != CronRunState::Lost),
        "{runs:?}"
    );
    let calls = calls(&fleet);
    assert!(calls.values().all(|count| *count == 1));
    let slot = Timestamp(died.0 / 60_000 * 60_000);
    let run = runs
        .iter()
        .find(|run| (run.scheduled..=run.last_scheduled).contains(&slot))
        .unwrap();
    // Half a second for it to decide, on a busy machine.
    let is_too_late = led.0 + 10_000 > slot.0 + GRACE;
    if run.state == CronRunState::Missed {
        assert!(is_too_late, "led at {led}: {run:?}");
    } else {
        assert_eq!(run.state, CronRunState::Succeeded, "{run:?}");
        assert_eq!(calls.get(&(run.id, 1)), Some(&1), "{run:?}");
    }
}

#[tokio::test]
async fn leader_that_dies_between_record_and_request_loses_the_run_and_says_so() {
    let cron = "{runspec: \"* * * * *\", uri: /ok, name: cron, timeout: 5s}";
    let (fleet, runs, _) = die_at("before-request", cron).await;

    assert_every_slot_has_one_record(&runs);
    let lost: Vec<_> = runs
        .iter()
        .filter(|run| run.state == CronRunState::Lost)
        .collect();
    assert!(!lost.is_empty(), "{runs:?}");
    let calls = calls(&fleet);
    for run in lost {
        assert_eq!(calls.get(&(run.id, 1)), None, "{run:?}");
        assert!(!run.outcome.is_empty(), "{run:?}");
    }
    assert!(calls.values().all(|count| *count == 1), "{calls:?}");
}

#[tokio::test]
async fn leader_that_dies_before_the_outcome_is_told_fires_no_second_time() {
    let cron = "{runspec: \"* * * * *\", uri: /ok, name: cron, timeout: 5s}";
    let (fleet, runs, _) = die_at("after-answer", cron).await;

    assert_every_slot_has_one_record(&runs);
    let lost: Vec<_> = runs
        .iter()
        .filter(|run| run.state == CronRunState::Lost)
        .collect();
    assert!(!lost.is_empty(), "{runs:?}");
    let calls = calls(&fleet);
    for run in lost {
        assert_eq!(calls.get(&(run.id, 1)), Some(&1), "{run:?}");
    }
    assert!(calls.values().all(|count| *count == 1), "{calls:?}");
}

#[tokio::test]
async fn retries_of_a_lost_run_carry_its_number() {
    let cron = "{runspec: \"* * * * *\", uri: /ok, name: cron, timeout: 5s, retries: 3}";
    let (fleet, runs, _) = die_at("after-answer", cron).await;

    assert_every_slot_has_one_record(&runs);
    let again: Vec<_> = runs.iter().filter(|run| run.attempts > 1).collect();
    assert!(!again.is_empty(), "{runs:?}");
    let calls = calls(&fleet);
    for run in again {
        assert_eq!(run.state, CronRunState::Succeeded, "{run:?}");
        assert!(calls.contains_key(&(run.id, run.attempts)), "{run:?}");
    }
    assert!(calls.values().all(|count| *count == 1), "{calls:?}");
}

#[tokio::test]
async fn leader_that_was_stopped_over_a_slot_fires_nothing_when_it_goes_on() {
    let cron = "{runspec: \"* * * * *\", uri: /ok, name: cron}";
    let fleet = Fleet::with(1, cron).await;
    let leader = fleet.processes.leader().await;
    eventually("a slot has fired", async || {
        (!fleet.receiver.calls().is_empty()).then_some(())
    })
    .await;

    fleet.processes.signal(leader, Signal::STOP);
    let stopped = fleet.wall.now();
    fleet.processes.leader_but(leader).await;
    fleet.wall_is_past(Timestamp(stopped.0 + 150_000)).await;
    fleet.processes.signal(leader, Signal::CONT);
    let resumed = fleet.wall.now();
    fleet.wall_is_past(Timestamp(resumed.0 + 130_000)).await;

    let mut runs = fleet.runs("cron").await;
    runs.reverse();
    assert_every_slot_has_one_record(&runs);
    let calls = calls(&fleet);
    assert!(calls.values().all(|count| *count == 1), "{calls:?}");
    let stale = runs.iter().filter(|run| {
        run.node.is_some_and(|node| node.0 == leader)
            && run
                .started
                .is_some_and(|started| started > stopped && started < resumed)
    });
    assert_eq!(stale.count(), 0, "{runs:?}");
}

#[tokio::test]
async fn log_of_a_run_is_read_through_any_pacemaker_while_its_runner_lives() {
    let cron = format!("{{runspec: \"{NEVER}\", uri: /ok, name: cron}}");
    let mut fleet = Fleet::with(1, &cron).await;
    let key = key();
    let started = fleet.client.start_cron_run(fleet.application, "cron", &key);
    let run = ended(&fleet.client, started.await.unwrap().id).await;
    assert_eq!(run.state, CronRunState::Succeeded, "{run:?}");
    let runner = run.node.unwrap().0;

    for member in 1..=3 {
        let client = fleet.processes.client_of(member);
        let log = client.cron_run_log(run.id, 0).await.unwrap();
        let text = String::from_utf8_lossy(&log.bytes).into_owned();
        assert!(text.contains("HTTP/1.1 200 OK\n"), "{member}: {text}");
        assert!(log.is_end);
        let rest = client.cron_run_log(run.id, log.next_offset).await.unwrap();
        assert!(rest.bytes.is_empty() && rest.is_end);
    }
    fleet.processes.kill(runner);
    let other = fleet.processes.leader().await;
    let client = fleet.processes.client_of(other);
    let told = eventually("the log is said to be elsewhere", async || {
        let error = client.cron_run_log(run.id, 0).await.err()?;
        error.problem().cloned()
    })
    .await;
    assert_eq!((told.status, &*told.code), (503, "cron_log_unreachable"));
    assert!(
        told.detail.contains(&format!("Pacemaker {runner}")),
        "{told:?}"
    );
}

#[tokio::test]
async fn outcome_of_a_deposed_leaders_request_still_arrives() {
    let cron = format!("{{runspec: \"{NEVER}\", uri: /gate, name: cron, timeout: 1h}}");
    let fleet = Fleet::with(1, &cron).await;
    let key = key();
    let started = fleet.client.start_cron_run(fleet.application, "cron", &key);
    let run = started.await.unwrap();
    eventually("the request is under way", async || {
        (!fleet.receiver.calls().is_empty()).then_some(())
    })
    .await;
    let runner = fleet.client.cron_run(run.id).await.unwrap().node.unwrap().0;

    fleet.processes.signal(runner, Signal::STOP);
    fleet.processes.leader_but(runner).await;
    fleet.processes.signal(runner, Signal::CONT);
    eventually("it follows another", async || {
        let view = fleet.processes.client_of(runner).cluster().await.ok()?;
        view.leader.filter(|leader| leader.0 != runner)
    })
    .await;
    fleet.receiver.open_gate(true);
    let run = ended(&fleet.client, run.id).await;

    assert_eq!(run.state, CronRunState::Succeeded, "{run:?}");
    assert_eq!(
        (run.attempts, run.node.map(|node| node.0)),
        (1, Some(runner))
    );
    assert_eq!(fleet.receiver.calls().len(), 1);
}
