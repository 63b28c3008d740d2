//! The leader is killed again and again, at random moments around slots: no slot fires twice, none
//! is lost but those that the policy says, and each record agrees with what the receiver saw.
//!
//! `PM_TEST_KILLS=200` is the full run (some twelve minutes); `PM_TEST_SEED` repeats its moments.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use common::api::{CronRunState, CronRunView};
use common::id::RunId;
use common::time::{Span, Timestamp};

use crate::crons::leaders::{Fleet, GRACE, RATE, assert_every_slot_has_one_record};
use crate::crons::receiver::Call;
use crate::harness::eventually;

/// How long a busy leader takes to decide about a slot, milliseconds of the clock: half a second.
const SLOW_TO_DECIDE: u64 = 10_000;
/// The longest attempt, milliseconds of the clock: its timeout.
const LONGEST: u64 = 50_000;
/// Kills when nothing else is said.
const KILLS: u64 = 6;
/// Crons that are due in each slot, by what they do.
const CRONS: &str = "
    {runspec: \"* * * * *\", uri: /ok?plain-1, name: plain-1, timeout: 10s}
    {runspec: \"* * * * *\", uri: /ok?plain-2, name: plain-2, timeout: 10s}
    {runspec: \"* * * * *\", uri: /ok?plain-3, name: plain-3, timeout: 10s}
    {runspec: \"* * * * *\", uri: /ok?plain-4, name: plain-4, timeout: 10s}
    {runspec: \"* * * * *\", uri: /ok?allow, name: allow, timeout: 10s, overlap: allow}
    {runspec: \"* * * * *\", uri: /ok?replace, name: replace, timeout: 10s, overlap: replace}
    {runspec: \"* * * * *\", uri: /slow, name: slow, timeout: 50s}
    {runspec: \"* * * * *\", uri: /ok?retried, name: retried, timeout: 10s, retries: 3}
    {runspec: \"* * * * *\", uri: /fail, name: failing, timeout: 10s, retries: 1}
    {runspec: \"* * * * *\", uri: /ok?once, name: once, timeout: 10s, missed: once}
";

#[tokio::test]
async fn killed_leaders_fire_no_slot_twice_and_lose_none() {
    let kills = number("PM_TEST_KILLS", KILLS);
    let mut random = Random(number("PM_TEST_SEED", 0x5eed));
    let mut fleet = Fleet::with(2, CRONS).await;
    let names: Vec<String> = fleet
        .client
        .crons(fleet.application)
        .await
        .unwrap()
        .into_iter()
        .map(|cron| cron.name)
        .collect();
    let mut history = History::default();
    eventually("crons fire", async || {
        (!fleet.receiver.calls().is_empty()).then_some(())
    })
    .await;

    let mut deaths = Vec::new();
    for _ in 0..kills {
        history.read(&fleet, &names).await;
        let leader = fleet.processes.leader().await;
        // Most from 12 s of the clock before a slot to 24 s after it: 0.6 s before to 1.2 s after.
        let next = fleet.wall.now().0.next_multiple_of(60_000);
        let moment = Timestamp((next + random.below(36_000)).saturating_sub(12_000));
        let left = fleet.wall.real(moment.since(fleet.wall.now()));
        let until = Instant::now() + left;
        tokio::time::sleep_until(until.into()).await;
        fleet.processes.kill(leader);
        let (killed, died) = (Instant::now(), fleet.wall.now());
        fleet.processes.leader().await;
        deaths.push(Death {
            member: leader,
            died,
            led: fleet.wall.now(),
            took: killed.elapsed(),
        });
        fleet.processes.launch(leader, "");
    }
    let quiet = Timestamp(fleet.wall.now().0.next_multiple_of(60_000) + 150_000);
    fleet.wall_is_past(quiet).await;
    history
        .settle(&fleet, &names, Timestamp(quiet.0 - 120_000))
        .await;

    let figures = history.check(&names, &fleet.receiver.calls());
    history.check_losses(&deaths);
    let mut took: Vec<Duration> = deaths.iter().map(|death| death.took).collect();
    took.sort_unstable();
    println!(
        "{kills} kills; next leader after {:?} (median)",
        took.get(took.len() / 2)
    );
    println!("{figures}");
}

/// A leader that was killed.
#[derive(Debug)]
struct Death {
    member: u64,
    died: Timestamp,
    /// When another was seen to lead.
    led: Timestamp,
    took: Duration,
}

impl Death {
    /// True when no leader could fire this slot in time: it became due when there was none any
    /// more, or right before, and was too old when there was one again.
    fn excuses_missing(&self, slot: Timestamp) -> bool {
        let fired_until = Timestamp((self.led.0 + SLOW_TO_DECIDE).saturating_sub(GRACE));
        slot.0 + SLOW_TO_DECIDE >= self.died.0 && slot <= fired_until
    }

    /// True when an attempt of its own was under way when it died.
    fn excuses_losing(&self, run: &CronRunView) -> bool {
        let is_its_own = run.node.is_some_and(|node| node.0 == self.member);
        let started = run.started.unwrap();
        let longest = LONGEST * u64::from(run.attempts);
        is_its_own && started <= self.died && started.0 + longest >= self.died.0
    }
}

/// Every record that was ever read, in its newest form.
#[derive(Default)]
struct History(BTreeMap<String, BTreeMap<RunId, CronRunView>>);

impl History {
    async fn read(&mut self, fleet: &Fleet, names: &[String]) {
        for name in names {
            let kept = self.0.entry(name.clone()).or_default();
            for run in fleet.runs(name).await {
                kept.insert(run.id, run);
            }
        }
    }

    /// Reads until all records up to a slot are final, and leaves out what is newer.
    async fn settle(&mut self, fleet: &Fleet, names: &[String], last: Timestamp) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            self.read(fleet, names).await;
            for runs in self.0.values_mut() {
                runs.retain(|_, run| run.scheduled <= last);
            }
            let mut runs = self.0.values().flat_map(BTreeMap::values);
            let Some(open) = runs.find(|run| !run.state.is_final()) else {
                return;
            };
            assert!(Instant::now() < deadline, "not final: {open:?}");
            tokio::task::yield_now().await;
        }
    }

    /// What was asked of the system, of each cron, against the calls; answers the figures.
    fn check(&self, names: &[String], calls: &[Call]) -> String {
        let mut by_run: BTreeMap<RunId, Vec<&Call>> = BTreeMap::new();
        for call in calls {
            by_run.entry(RunId(call.run())).or_default().push(call);
        }
        let mut figures = String::new();
        for name in names {
            let runs: Vec<CronRunView> = self.0[name].values().cloned().collect();
            let mut states: BTreeMap<String, u64> = BTreeMap::new();
            for run in &runs {
                check_run(run, by_run.get(&run.id).map_or(&[], Vec::as_slice));
                *states.entry(format!("{:?}", run.state)).or_default() += run.count;
            }
            assert_no_slot_twice(name, &runs, &by_run);
            if name == "once" {
                // A run that makes up for missed slots stands for one of them.
                assert!(!runs.is_empty());
            } else {
                assert_every_slot_has_one_record(&runs);
            }
            writeln!(
                figures,
                "{name}: {} records, slots by outcome {states:?}",
                runs.len()
            )
            .unwrap();
        }
        write!(figures, "{} calls in all", calls.len()).unwrap();
        figures
    }
}

impl History {
    /// Slots are missed and runs lost by kills, and by nothing else.
    fn check_losses(&self, deaths: &[Death]) {
        for run in self.0.values().flat_map(BTreeMap::values) {
            match run.state {
                CronRunState::Missed => {
                    let slots = (run.scheduled.0..=run.last_scheduled.0).step_by(60_000);
                    for slot in slots.map(Timestamp) {
                        let is_excused = deaths.iter().any(|death| death.excuses_missing(slot));
                        assert!(is_excused, "{slot} of {run:?}: {deaths:?}");
                    }
                }
                CronRunState::Lost => {
                    let is_excused = deaths.iter().any(|death| death.excuses_losing(run));
                    assert!(is_excused, "{run:?}: {deaths:?}");
                }
                CronRunState::Succeeded
                | CronRunState::Failed
                | CronRunState::TimedOut
                | CronRunState::Replaced
                | CronRunState::Skipped
                | CronRunState::Waiting
                | CronRunState::Running
                | CronRunState::Backoff => {}
            }
        }
    }
}

/// One record against its calls.
fn check_run(run: &CronRunView, calls: &[&Call]) {
    let attempts: BTreeSet<u32> = calls.iter().map(|call| call.attempt()).collect();
    let why = || format!("{run:?}: attempts {attempts:?} came");
    assert_eq!(
        attempts.len(),
        calls.len(),
        "an attempt was sent twice: {}",
        why()
    );
    assert!(
        attempts.iter().all(|attempt| *attempt <= run.attempts),
        "{}",
        why()
    );
    let slot = run.scheduled.to_string();
    for call in calls {
        assert_eq!(call.header("pm-cron-scheduled"), slot, "{}", why());
    }
    let came = attempts.contains(&run.attempts);
    match run.state {
        CronRunState::Succeeded => {
            assert!(came && run.status == Some(200), "{}", why());
        }
        // The receiver answers all that it takes, so what has no answer was not taken.
        CronRunState::Failed => assert_eq!(came, run.status.is_some(), "{}", why()),
        CronRunState::Lost | CronRunState::TimedOut => {
            let is_unsent = ["not sent", "no instance"];
            let is_unsent = is_unsent.iter().any(|words| run.outcome.starts_with(words));
            assert!(!(is_unsent && came), "{}", why());
        }
        // The last attempt may have been replaced before it came.
        CronRunState::Replaced => assert_eq!(run.status, None, "{}", why()),
        CronRunState::Skipped | CronRunState::Missed => {
            assert!(calls.is_empty(), "{}", why());
        }
        CronRunState::Waiting | CronRunState::Running | CronRunState::Backoff => {
            panic!("not final: {}", why());
        }
    }
    assert!(!run.outcome.is_empty(), "{}", why());
}

/// No two runs of a cron were sent for one slot.
fn assert_no_slot_twice(name: &str, runs: &[CronRunView], calls: &BTreeMap<RunId, Vec<&Call>>) {
    let mut slots: BTreeMap<Timestamp, RunId> = BTreeMap::new();
    for run in runs.iter().filter(|run| calls.contains_key(&run.id)) {
        let other = slots.insert(run.scheduled, run.id);
        assert_eq!(
            other, None,
            "{name}: slot {} was fired twice",
            run.scheduled
        );
        let is_retried = matches!(name, "retried" | "failing");
        let most = if is_retried { 4 } else { 1 };
        assert!(calls[&run.id].len() <= most, "{run:?}");
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// The clock's rate is what the moments above are made for.
const _: () = assert!(RATE == 20 && Span::seconds(12).0 == 12_000);
