//! What holds of crons for every run of things that can happen.

use std::collections::{BTreeMap, BTreeSet};

use common::application::{CronSpec, MissedPolicy, Overlap};
use common::cron::Zone;
use common::id::{ApplicationId, NodeId, RunId, VersionNumber};
use common::time::{Span, Timestamp};
use pacemaker_core::command::{Command, CronDecision, VersionTarget};
use proptest::prelude::*;

use super::world::{CronWorld, DAY, HOUR, MINUTE, SECOND, cron, key, with_crons};

const NAMES: [&str; 3] = ["a", "b", "c"];
const RUNSPECS: [&str; 6] = [
    "* * * * *",
    "*/7 * * * *",
    "0,30 * * * *",
    "30 2 * * *",
    "%13 * * * *",
    "@monthly",
];
const ZONES: [&str; 4] = [
    "UTC",
    "Europe/Paris",
    "America/New_York",
    "Australia/Lord_Howe",
];
const RETRIES_MAX: u32 = 3;

#[derive(Clone, Debug)]
enum Op {
    Wait(u64),
    /// Nobody leads for so long.
    Sleep(u64),
    Deploy {
        application: u8,
        crons: Vec<CronSpec>,
        promote: bool,
    },
    Promote(u8, u8),
    Rollback(u8),
    Suspend(u8, u8),
    Resume(u8, u8),
    Run(u8, u8),
    StepClock(i64),
    Elect,
    Kill,
    /// A leader that was deposed commits what it decided, and sends nothing.
    CommitWithoutSending,
    /// The same; it hears of it only after others have led.
    CommitUnheard,
    Hear,
    /// Something that was committed before is committed again.
    Repeat(u16),
    StartAgain(u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec(op(), 1..40)
}

fn op() -> impl Strategy<Value = Op> {
    let cron = || (0..2_u8, 0..3_u8);
    let step = prop_oneof![
        Just(signed(HOUR)),
        Just(-signed(HOUR)),
        Just(signed(DAY)),
        Just(-signed(DAY)),
        -90_000..90_000_i64,
    ];
    let wait = prop_oneof![1..90 * SECOND, MINUTE..20 * MINUTE, HOUR..2 * HOUR];
    prop_oneof![
        12 => wait.clone().prop_map(Op::Wait),
        2 => wait.prop_map(Op::Sleep),
        4 => (0..2_u8, crons(), proptest::bool::weighted(0.9)).prop_map(
            |(application, crons, promote)| Op::Deploy { application, crons, promote }
        ),
        1 => (0..2_u8, 1..4_u8).prop_map(|(application, version)| Op::Promote(application, version)),
        1 => (0..2_u8).prop_map(Op::Rollback),
        1 => cron().prop_map(|(application, name)| Op::Suspend(application, name)),
        2 => cron().prop_map(|(application, name)| Op::Resume(application, name)),
        2 => cron().prop_map(|(application, name)| Op::Run(application, name)),
        3 => step.prop_map(Op::StepClock),
        3 => Just(Op::Elect),
        3 => Just(Op::Kill),
        2 => Just(Op::CommitWithoutSending),
        2 => Just(Op::CommitUnheard),
        2 => Just(Op::Hear),
        4 => any::<u16>().prop_map(Op::Repeat),
        1 => (1..4_u8).prop_map(Op::StartAgain),
    ]
}

fn crons() -> impl Strategy<Value = Vec<CronSpec>> {
    let one = (
        0..RUNSPECS.len(),
        0..ZONES.len(),
        prop_oneof![
            Just(Overlap::Allow),
            Just(Overlap::Forbid),
            Just(Overlap::Replace)
        ],
        any::<bool>(),
        0..=RETRIES_MAX,
        prop_oneof![Just(Span::seconds(5)), Just(Span::seconds(600))],
    );
    proptest::collection::vec(one, 0..=NAMES.len()).prop_map(|crons| {
        crons
            .into_iter()
            .zip(NAMES)
            .map(
                |((runspec, zone, overlap, is_once, retries, timeout), name)| CronSpec {
                    timezone: Zone::parse(ZONES[zone]).unwrap(),
                    overlap,
                    missed: if is_once {
                        MissedPolicy::Once
                    } else {
                        MissedPolicy::Skip
                    },
                    retries,
                    timeout,
                    ..cron(name, RUNSPECS[runspec])
                },
            )
            .collect()
    })
}

fn signed(milliseconds: u64) -> i64 {
    i64::try_from(milliseconds).unwrap()
}

fn application(world: &CronWorld, number: u8) -> Option<ApplicationId> {
    let ids: Vec<ApplicationId> = world.state.applications().keys().copied().collect();
    ids.get(usize::from(number) % ids.len().max(1)).copied()
}

/// What people and the log may ask for, sensible or not.
fn request(world: &CronWorld, op: &Op) -> Option<Command> {
    Some(match op {
        Op::Promote(number, version) => Command::PromoteVersion(VersionTarget {
            application: application(world, *number)?,
            version: VersionNumber(u64::from(*version)),
        }),
        Op::Rollback(number) => Command::Rollback {
            application: application(world, *number)?,
        },
        Op::Suspend(number, name) => Command::SuspendCron {
            application: application(world, *number)?,
            cron: key(NAMES[usize::from(*name)]),
        },
        Op::Resume(number, name) => Command::ResumeCron {
            application: application(world, *number)?,
            cron: key(NAMES[usize::from(*name)]),
        },
        Op::Run(number, name) => Command::StartCronRun {
            application: application(world, *number)?,
            cron: key(NAMES[usize::from(*name)]),
        },
        Op::Repeat(number) => {
            let past = &world.past;
            past.get(usize::from(*number) % past.len().max(1))?.clone()
        }
        Op::Wait(_)
        | Op::Sleep(_)
        | Op::Deploy { .. }
        | Op::StepClock(_)
        | Op::Elect
        | Op::Kill
        | Op::CommitWithoutSending
        | Op::CommitUnheard
        | Op::Hear
        | Op::StartAgain(_) => return None,
    })
}

fn perform(world: &mut CronWorld, op: &Op) {
    if let Some(command) = request(world, op) {
        let before = world.state.clone();
        if world.apply(&command).is_err() {
            assert!(before == world.state, "refused and changed: {command:?}");
        }
        world.settle();
        return;
    }
    match op {
        Op::Wait(milliseconds) => world.run_for(*milliseconds),
        Op::Sleep(milliseconds) => world.sleep_for(*milliseconds),
        Op::Deploy {
            application,
            crons,
            promote,
        } => {
            let spec = with_crons(&format!("app{application}"), crons.clone());
            world.deploy_as(&spec, *promote);
        }
        Op::StepClock(milliseconds) => world.step_clock(*milliseconds),
        Op::Elect => world.elect(),
        Op::Kill => world.kill_leader(),
        Op::CommitWithoutSending => {
            if let Some(command) = world.decisions() {
                world.commit(&command);
            }
        }
        Op::CommitUnheard => {
            world.commit_unheard();
            world.elect();
        }
        Op::Hear => world.hear(),
        Op::StartAgain(node) => world.start_again(NodeId(u64::from(*node))),
        Op::Promote(..)
        | Op::Rollback(_)
        | Op::Suspend(..)
        | Op::Resume(..)
        | Op::Run(..)
        | Op::Repeat(_) => {}
    }
}

fn world(seed: u64) -> CronWorld {
    let mut world = CronWorld::new(seed);
    world.takes = (0, 400 * SECOND);
    world.failures = 3;
    world.check_every = 5;
    world
}

fn slot_is_fired_at_most_once_and_tried_only_so_often(world: &CronWorld) {
    for (slot, count) in world.first_attempts() {
        assert_eq!(count, 1, "{slot:?}");
    }
    let mut attempts: BTreeMap<RunId, Vec<(u32, u32)>> = BTreeMap::new();
    for call in &world.calls {
        let attempts = attempts.entry(call.run).or_default();
        attempts.push((call.attempt, call.retries));
    }
    for (run, attempts) in attempts {
        assert!(
            attempts.is_sorted_by(|one, next| one.0 < next.0),
            "{run}: {attempts:?}"
        );
        // Neither the version that began it nor the one that is called allows more.
        let (_, first) = attempts[0];
        assert!(
            attempts
                .iter()
                .all(|(attempt, own)| *attempt <= 1 + first.min(*own)),
            "{run}: {attempts:?}"
        );
    }
}

/// What only a new leader that has not seen anything yet would not decide.
fn without_losses(command: Option<Command>) -> Vec<String> {
    let Some(Command::DecideCrons { decisions, .. }) = command else {
        return Vec::new();
    };
    let mut words: Vec<String> = decisions
        .iter()
        .filter(|decision| !matches!(decision, CronDecision::Lose { .. }))
        .map(|decision| format!("{decision:?}"))
        .collect();
    words.sort();
    words.dedup();
    words
}

/// Slots in a row that may be skipped while the clock is ahead, and then count as fired with their
/// neighbours.
const STALL_MAX: u32 = 30;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cron_slot_fires_at_most_once(ops in ops(), seed in any::<u64>()) {
        let mut world = world(seed);
        for op in &ops {
            perform(&mut world, op);
            let broken = world.state.invariants();
            prop_assert!(broken.is_empty(), "after {:?}: {:#?}", op, broken);
        }
        world.run_for(HOUR);

        slot_is_fired_at_most_once_and_tried_only_so_often(&world);
    }

    #[test]
    fn planner_that_remembers_decides_the_same(ops in ops(), seed in any::<u64>()) {
        let mut world = world(seed);
        for op in &ops {
            perform(&mut world, op);
            let remembered = without_losses(world.clone().decisions());
            prop_assert_eq!(remembered, without_losses(world.fresh_decisions()), "after {:?}", op);
        }
    }

    #[test]
    fn nothing_is_decided_before_the_next_deadline(ops in ops(), seed in any::<u64>()) {
        let mut world = world(seed);
        for op in &ops {
            perform(&mut world, op);
            world.lead();
            let early = match world.next_deadline() {
                Some(deadline) => Timestamp(deadline.0 - 1),
                None => world.wall().after(Span(HOUR)),
            };
            let mut later = world.clone();
            later.real = Timestamp(early.0.saturating_add_signed(-world.offset));
            prop_assert_eq!(later.fresh_decisions(), None, "after {:?}", op);
        }
    }

    #[test]
    fn schedule_never_stalls(ops in ops(), seed in any::<u64>()) {
        let mut world = world(seed);
        world.deploy(&with_crons("always", vec![cron("tick", "* * * * *")]));
        let mut farthest = world.wall();
        for op in &ops {
            perform(&mut world, op);
            farthest = farthest.max(world.wall());
        }
        let application = *world.state.applications().keys().next().unwrap();
        world.takes = (0, SECOND);
        world.resume(application, "tick");
        // All that was under way has ended by then, and the clock is right.
        world.offset = 0;
        world.check_every = 50;
        world.run_for(15 * MINUTE);
        let start = world.real;
        world.run_for(3 * HOUR);

        // A slot that was skipped while the clock was ahead, between two that were fired, is not made
        // up for; what the clock had not shown yet comes without exception.
        let calls = world.calls.iter();
        let own = calls.filter(|call| call.application == application && call.cron == key("tick"));
        let called: BTreeSet<Timestamp> = own.map(|call| call.scheduled).collect();
        let slots = (start.0.div_ceil(MINUTE)..).map(|minute| Timestamp(minute * MINUTE));
        let (mut stalled, mut longest) = (0_u32, 0);
        for slot in slots.take_while(|slot| *slot < world.real) {
            stalled = if called.contains(&slot) { 0 } else { stalled + 1 };
            longest = longest.max(stalled);
            prop_assert!(stalled == 0 || slot <= farthest, "{slot} was not fired");
        }
        prop_assert!(longest <= STALL_MAX, "{longest} slots in a row were not fired");
        slot_is_fired_at_most_once_and_tried_only_so_often(&world);
    }
}
