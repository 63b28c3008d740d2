//! Ten thousand crons for one simulated year, against their schedules.

use std::time::Duration;

use common::application::{CronKey, CronSpec, MissedPolicy, Overlap};
use common::cron::Zone;
use common::id::ApplicationId;
use common::time::{Span, Timestamp};
use pacemaker_core::command::{Command, CronDecision};

use super::world::{CronWorld, DAY, HOUR, MINUTE, SECOND, START, cron, with_crons};
use crate::random::Random;

const APPLICATIONS: usize = 100;
const CRONS_EACH: usize = 100;
const YEAR: u64 = 365 * DAY;
const ZONES: [&str; 4] = [
    "UTC",
    "Europe/Paris",
    "America/New_York",
    "Australia/Lord_Howe",
];

/// What was decided about the slots of one cron, as it happened.
#[derive(Clone, Debug, Default)]
struct Ledger {
    fired: Vec<Timestamp>,
    skipped: Vec<Timestamp>,
    missed: Vec<(Timestamp, Timestamp)>,
}

/// Of 1,000: 1 hourly, 20 daily, 200 weekly, 579 monthly, 200 yearly, at quarters of an hour.
fn spec(number: usize, random: &mut Random) -> CronSpec {
    let minute = 15 * random.below(4);
    let hour = random.below(24);
    let runspec = match number % 1_000 {
        0 => format!("{minute} * * * *"),
        1..=20 => format!("{minute} {hour} * * *"),
        21..=220 => format!("{minute} {hour} * * {}", random.below(7)),
        221..=799 => format!("{minute} {hour} {} * *", random.between(1, 31)),
        _ => format!(
            "{minute} {hour} {} {} *",
            random.between(1, 28),
            random.between(1, 12)
        ),
    };
    let name = format!("c{:02}", number % CRONS_EACH);
    CronSpec {
        timezone: Zone::parse(random.pick(&ZONES).unwrap()).unwrap(),
        overlap: *random
            .pick(&[Overlap::Allow, Overlap::Forbid, Overlap::Replace])
            .unwrap(),
        missed: *random
            .pick(&[MissedPolicy::Skip, MissedPolicy::Once])
            .unwrap(),
        retries: u32::try_from(random.below(3)).unwrap(),
        timeout: Span::seconds(60),
        ..cron(&name, &runspec)
    }
}

struct Year {
    world: CronWorld,
    specs: Vec<CronSpec>,
    ledgers: Vec<Ledger>,
    requests: u64,
}

impl Year {
    fn new(seed: u64) -> Self {
        let mut world = CronWorld::new(seed);
        world.check_every = u64::MAX;
        world.remembers = false;
        let mut random = Random::new(seed);
        let specs: Vec<CronSpec> = (0..APPLICATIONS * CRONS_EACH)
            .map(|number| spec(number, &mut random))
            .collect();
        for (number, crons) in specs.chunks(CRONS_EACH).enumerate() {
            world.deploy(&with_crons(&format!("app{number}"), crons.to_vec()));
        }
        world.takes = (0, 8 * SECOND);
        world.grain = SECOND;
        world.failures = 50;
        let ledgers = vec![Ledger::default(); specs.len()];
        Self {
            world,
            specs,
            ledgers,
            requests: 0,
        }
    }

    /// Decides and commits until nothing is due, and keeps a ledger of it.
    fn lead(&mut self) {
        while let Some(command) = self.world.decisions() {
            let runs = self.world.commit(&command);
            let Command::DecideCrons { decisions, .. } = &command else {
                panic!("decisions");
            };
            for decision in decisions {
                self.note(decision);
            }
            for run in runs {
                self.requests += 1;
                self.world.send(run);
            }
            self.world.calls.clear();
        }
    }

    fn note(&mut self, decision: &CronDecision) {
        match decision {
            CronDecision::Fire {
                application,
                cron,
                scheduled,
                ..
            } => self.ledger(*application, cron).fired.push(*scheduled),
            CronDecision::Skip {
                application,
                cron,
                scheduled,
                ..
            } => self.ledger(*application, cron).skipped.push(*scheduled),
            CronDecision::Miss {
                application,
                cron,
                first,
                last,
                ..
            } => self.ledger(*application, cron).missed.push((*first, *last)),
            CronDecision::Claim { .. } | CronDecision::Lose { .. } => {}
            CronDecision::Rewind { .. } => panic!("the clock is right: {decision:?}"),
        }
    }

    fn ledger(&mut self, application: ApplicationId, cron: &CronKey) -> &mut Ledger {
        let own: usize = cron.name.as_str()[1..].parse().unwrap();
        let application = usize::try_from(application.0 - 1).unwrap();
        &mut self.ledgers[application * CRONS_EACH + own]
    }

    fn run_until(&mut self, target: Timestamp) {
        loop {
            self.lead();
            if self.world.real >= target {
                return;
            }
            self.world.advance(target);
        }
    }

    /// Every slot of the schedule was decided, and in one way.
    fn check(&self) -> (usize, usize) {
        let mut fired = 0;
        let mut others = 0;
        for (spec, ledger) in self.specs.iter().zip(&self.ledgers) {
            let mut after = Timestamp(START);
            let mut runs = ledger.fired.iter().peekable();
            let mut skips = ledger.skipped.iter().peekable();
            while let Some(slot) = spec.runspec.next_after(after, &spec.timezone)
                && slot <= self.world.real
            {
                let is_fired = runs.next_if(|run| **run == slot).is_some();
                let is_skipped = skips.next_if(|skip| **skip == slot).is_some();
                let is_missed = ledger
                    .missed
                    .iter()
                    .any(|(first, last)| (*first..=*last).contains(&slot));
                let ways = u32::from(is_fired) + u32::from(is_skipped) + u32::from(is_missed);
                assert_eq!(ways, 1, "{slot} of {spec:?}: {ledger:?}");
                fired += usize::from(is_fired);
                others += usize::from(!is_fired);
                after = slot;
            }
            assert_eq!((runs.next(), skips.next()), (None, None), "{spec:?}");
        }
        (fired, others)
    }
}

/// A stop watch.
#[expect(
    clippy::disallowed_types,
    reason = "the time that it takes is a part of what is shown"
)]
fn watch() -> impl Fn() -> Duration {
    let begun = std::time::Instant::now();
    move || begun.elapsed()
}

#[test]
fn ten_thousand_crons_for_a_year_fire_each_slot_once_or_say_why_not() {
    let elapsed = watch();
    let mut year = Year::new(7);
    let deployed = elapsed();
    let mut kills = 0;
    let mut outages = 0;

    let end = Timestamp(START + YEAR);
    while year.world.real < end {
        // Often in the midst of requests: slots lie at quarters of an hour.
        let quarters = year.world.random.between(1, 700) * 15 * MINUTE;
        let moment = year.world.random.below(4 * SECOND);
        let quarter = year.world.real.0 / (15 * MINUTE) * 15 * MINUTE;
        year.run_until(Timestamp(quarter + quarters + moment).min(end));
        match year.world.random.below(8) {
            0..=3 => year.world.kill_leader(),
            4 => {
                outages += 1;
                let outage = year.world.random.below(8 * HOUR);
                year.world.sleep_for(outage);
                year.world.kill_leader();
            }
            5 => {
                // Committed, and the leader dies before it sends anything.
                let slot = (year.world.real.0 / (15 * MINUTE) + 1) * 15 * MINUTE;
                year.run_until(Timestamp(slot - 1));
                year.world.sleep_for(1);
                if let Some(command) = year.world.decisions() {
                    year.commit_without_sending(&command);
                }
                year.world.kill_leader();
            }
            _ => year.world.elect(),
        }
        kills += 1;
    }
    year.run_until(Timestamp(year.world.real.0 + 5 * MINUTE));
    let simulated = elapsed();

    assert_eq!(year.world.state.invariants(), Vec::<String>::new());
    let (fired, others) = year.check();
    println!(
        "{} crons, one year: {fired} slots fired, {others} skipped or missed, {} requests, {kills} leaders, {outages} outages; deployed in {deployed:?}, simulated in {:?}, checked in {:?}",
        year.specs.len(),
        year.requests,
        simulated - deployed,
        elapsed() - simulated
    );
    assert!(fired > 250_000 && others < fired / 50, "{fired} {others}");
}

impl Year {
    fn commit_without_sending(&mut self, command: &Command) {
        self.world.commit(command);
        let Command::DecideCrons { decisions, .. } = command else {
            panic!("decisions");
        };
        for decision in decisions {
            self.note(decision);
        }
    }
}
