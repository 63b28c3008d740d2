//! What holds for every run of things that can happen, one property per function.

use std::collections::{BTreeMap, BTreeSet};

use common::assignment::Assignment;
use common::id::{ApplicationId, Generation, JobId, NodeId, VersionNumber};
use common::instance::{InstanceGoal, InstanceState};
use common::job::Job;
use common::routing_table::Route;
use common::time::Span;
use pacemaker_core::command::{Command, CronDecision, Outcome};
use pacemaker_core::state::limits::ACTIONS_PER_TICK_MAX;
use pacemaker_core::{Planner, State, next_deadline, plan};
use proptest::prelude::*;

use crate::generators::{Op, instance_type, ops, version_spec};
use crate::machine::Machine;
use crate::simulation::Simulation;
use crate::world::{Behaviour, World};

/// The longest run.
const OPS: usize = 90;

/// Runs operations and shows each accepted or refused command with the machine before and after.
fn run(ops: &[Op], mut check: impl FnMut(&Machine, &Machine, &Command, bool)) -> Machine {
    let mut machine = Machine::new();
    for op in ops {
        let Some(command) = machine.command(op) else {
            continue;
        };
        let before = machine.clone();
        let is_accepted = machine.apply(&command).is_ok();
        check(&before, &machine, &command, is_accepted);
    }
    machine
}

fn finish(ops: &[Op]) -> Machine {
    run(ops, |_, _, _, _| {})
}

fn round_trip(state: &State) -> State {
    let bytes = rmp_serde::to_vec_named(state).unwrap();
    rmp_serde::from_slice(&bytes).unwrap()
}

proptest! {
    #[test]
    fn replaying_the_log_gives_the_same_state(ops in ops(OPS)) {
        let machine = finish(&ops);

        let mut replica = State::default();
        for (command, ctx) in &machine.log {
            let outcome = replica.apply(command, ctx);
            prop_assert!(outcome.is_ok() || outcome.is_err());
        }

        prop_assert_eq!(replica, machine.state);
    }

    #[test]
    fn snapshot_round_trip_preserves_state(ops in ops(OPS), cut in 0..OPS) {
        let machine = finish(&ops);

        let mut replica = State::default();
        for (position, (command, ctx)) in machine.log.iter().enumerate() {
            if position == cut {
                replica = round_trip(&replica);
            }
            let outcome = replica.apply(command, ctx);
            prop_assert!(outcome.is_ok() || outcome.is_err());
        }

        prop_assert_eq!(&round_trip(&replica), &machine.state);
        let json = serde_json::to_vec(&replica).unwrap();
        prop_assert_eq!(serde_json::from_slice::<State>(&json).unwrap(), machine.state);
    }

    #[test]
    fn rejected_command_changes_nothing(ops in ops(OPS)) {
        run(&ops, |before, after, command, is_accepted| {
            if !is_accepted {
                assert_eq!(before.state, after.state, "{command:?}");
            }
        });
    }

    #[test]
    fn invariants_hold_after_every_command(ops in ops(OPS)) {
        run(&ops, |_, after, command, _| {
            assert_eq!(after.state.invariants(), Vec::<String>::new(), "after {command:?}");
        });
    }

    #[test]
    fn plan_is_deterministic(ops in ops(OPS)) {
        run(&ops, |_, after, _, _| {
            let again = plan(&round_trip(&after.state), &after.sightings, after.now);
            assert_eq!(after.plan(), again);
        });
    }

    #[test]
    fn planner_that_remembers_wishes_for_the_same(ops in ops(OPS)) {
        let mut machine = Machine::new();
        let mut planner = Planner::default();
        for op in &ops {
            if let Some(command) = machine.command(op) {
                let outcome = machine.apply(&command);
                prop_assert!(outcome.is_ok() || outcome.is_err());
            }
            let remembered = planner.plan(&machine.state, &machine.sightings, machine.now);
            prop_assert_eq!(&remembered, &machine.plan(), "after {:?}", op);
            if !remembered.is_empty() {
                continue;
            }
            // Nothing becomes due before it says so.
            let deadline = planner.next_deadline(machine.now);
            let until = match deadline {
                Some(deadline) => common::time::Timestamp(deadline.0 - 1),
                None => machine.now.after(Span::seconds(3_600)),
            };
            prop_assert_eq!(plan(&machine.state, &machine.sightings, until), vec![]);
        }
    }

    #[test]
    fn applying_the_whole_plan_never_rejects(ops in ops(OPS)) {
        run(&ops, |_, after, _, _| {
            let mut machine = after.clone();
            let actions = machine.plan();
            let computed_at = machine.state.applied();
            let outcome = machine.apply(&Command::Act { computed_at, actions: actions.clone() });
            let rejected = Vec::new();
            assert_eq!(outcome, Ok(Outcome::Acted { rejected }), "{actions:#?}");
        });
    }

    #[test]
    fn every_slot_that_a_leader_fires_is_granted(ops in ops(OPS), minutes in 0..6_u8) {
        run(&ops, |_, after, _, _| {
            let mut machine = after.clone();
            let command = machine.decide_crons(minutes);
            let Ok(Outcome::CronsDecided { grants }) = machine.apply(&command) else {
                panic!("decisions are never refused as a whole");
            };
            let Command::DecideCrons { decisions, .. } = &command else {
                panic!("decisions");
            };
            // A request that is given up in the same command may keep a slot of its cron away.
            let gives_up = |decision: &CronDecision| matches!(decision, CronDecision::Lose { .. });
            if decisions.iter().any(gives_up) {
                return;
            }
            for (decision, grant) in decisions.iter().zip(grants) {
                let is_fired = matches!(decision, CronDecision::Fire { .. });
                assert!(!is_fired || grant.is_some(), "{decision:?} of {decisions:#?}");
            }
        });
    }

    #[test]
    fn planning_comes_to_an_end(ops in ops(OPS)) {
        let mut machine = finish(&ops);

        for _ in 0..200 {
            let actions = machine.plan();
            if actions.is_empty() {
                break;
            }
            let computed_at = machine.state.applied();
            machine.apply(&Command::Act { computed_at, actions }).unwrap();
        }

        prop_assert_eq!(machine.plan(), vec![]);
    }

    #[test]
    fn nothing_is_planned_before_the_next_deadline(ops in ops(OPS)) {
        let mut machine = finish(&ops);
        for _ in 0..200 {
            let actions = machine.plan();
            let computed_at = machine.state.applied();
            machine.apply(&Command::Act { computed_at, actions }).unwrap();
        }

        let deadline = next_deadline(&machine.state, &machine.sightings, machine.now);
        let just_before = match deadline {
            Some(deadline) => {
                prop_assert!(deadline > machine.now);
                common::time::Timestamp(deadline.0 - 1)
            }
            None => machine.now.after(Span::seconds(3_600)),
        };
        let early = plan(&machine.state, &machine.sightings, just_before);
        prop_assert_eq!(early, vec![], "{:#?} at {:?} before {:?}", machine.state.instances(), machine.now, just_before);
    }

    #[test]
    fn routes_name_only_running_instances(ops in ops(OPS)) {
        run(&ops, |_, after, _, _| check_routes(&after.state));
    }

    #[test]
    fn exclusive_type_never_runs_in_two_versions(ops in ops(OPS)) {
        run(&ops, |before, after, command, _| {
            check_exclusive_starts(&before.state, &after.state, command);
        });
    }

    #[test]
    fn no_two_instances_share_a_port_on_a_node(ops in ops(OPS)) {
        run(&ops, |_, after, _, _| {
            let mut ports = BTreeSet::new();
            for instance in after.state.instances().values() {
                if let Some(port) = instance.seen.port {
                    assert!(ports.insert((instance.node, port)), "{instance:?}");
                }
            }
        });
    }

    #[test]
    fn generations_change_exactly_when_what_they_count_changes(ops in ops(OPS)) {
        run(&ops, |before, after, command, _| {
            let index = after.log.last().unwrap().1.index;
            check_generations(&before.state, &after.state, index, command);
        });
    }
}

proptest! {
    // Each case is a world of its own, so few will do beside the simulation's seeds.
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn plan_of_a_converged_state_is_empty(seed in 1_000_000..u64::MAX) {
        let mut simulation = Simulation::new(seed, true);
        simulation.make_trouble();
        simulation.heal();

        let world = &simulation.world;
        prop_assert_eq!(plan(&world.state, &world.sightings, world.now), vec![]);
    }

    #[test]
    fn rollout_never_routes_to_fewer_than_asked_once_met(seed in 1_000_000..u64::MAX) {
        // Without faults the simulation asserts it of every table in every step.
        let mut simulation = Simulation::new(seed, false);
        simulation.make_trouble();
        simulation.heal();
    }

    #[test]
    fn plan_never_exceeds_its_budget(quantity in 200..900_u32) {
        let mut world = World::new(1, 3);
        let spec = version_spec("large", vec![instance_type("web", quantity)]);
        world.deploy(&spec, Behaviour::Good, true).unwrap();
        let mut is_full = false;

        loop {
            let actions = plan(&world.state, &world.sightings, world.now);
            prop_assert!(actions.len() <= ACTIONS_PER_TICK_MAX);
            is_full |= actions.len() == ACTIONS_PER_TICK_MAX;
            if actions.is_empty() {
                break;
            }
            let computed_at = world.state.applied();
            world.apply(&Command::Act { computed_at, actions }).unwrap();
        }

        prop_assert!(is_full || usize::try_from(quantity).unwrap() < ACTIONS_PER_TICK_MAX);
        prop_assert_eq!(world.state.instances().len(), usize::try_from(quantity).unwrap());
    }
}

/// A backend runs; or it is lost and no other of its version and type runs.
fn check_routes(state: &State) {
    for (name, route) in state.routes().routes {
        for backend in &route.backends {
            let instance = &state.instances()[&backend.instance];
            assert!(
                instance.assigned && instance.goal == InstanceGoal::Running,
                "{name}"
            );
            assert_eq!(instance.seen.port, Some(backend.address.port()), "{name}");
            assert_eq!(instance.application, route.application, "{name}");
            let others_run = route.backends.iter().any(|other| {
                other.version == backend.version
                    && state.instances()[&other.instance].seen.state == InstanceState::Running
            });
            let serves = match instance.seen.state {
                InstanceState::Running => true,
                InstanceState::Lost => !others_run,
                InstanceState::Allocated
                | InstanceState::Registered
                | InstanceState::Starting
                | InstanceState::Stopping
                | InstanceState::Stopped
                | InstanceState::Failed => false,
            };
            assert!(serves, "{name}: {instance:?}");
        }
    }
}

/// An exclusive instance is told to run only when no other version's can have a process.
fn check_exclusive_starts(before: &State, after: &State, command: &Command) {
    for instance in after.instances().values() {
        let version = &after.applications()[&instance.application].versions[&instance.version];
        let is_exclusive = version
            .instance_type(&instance.instance_type)
            .is_some_and(|spec| spec.exclusive);
        let ran = before
            .instances()
            .get(&instance.id)
            .is_some_and(|earlier| earlier.wants_process());
        if !is_exclusive || !instance.wants_process() || ran {
            continue;
        }
        for other in after.instances().values() {
            let is_rival = other.application == instance.application
                && other.instance_type == instance.instance_type
                && other.version != instance.version;
            assert!(
                !is_rival || (other.quiet && !other.wants_process()),
                "{instance:?} may run beside {other:?} after {command:?}"
            );
        }
    }
    let mut runners: BTreeMap<ApplicationId, BTreeSet<VersionNumber>> = BTreeMap::new();
    for instance in after.instances().values() {
        if instance.instance_type.as_str() == "single" && instance.wants_process() {
            runners
                .entry(instance.application)
                .or_default()
                .insert(instance.version);
        }
    }
    assert!(runners.values().all(|versions| versions.len() <= 1));
}

/// Generations are the index of the last entry that changed what they count, and of no other.
fn check_generations(before: &State, after: &State, index: Generation, command: &Command) {
    let expected = |is_changed: bool, earlier: Generation| if is_changed { index } else { earlier };
    let routes = |state: &State| -> BTreeMap<String, Route> { state.routes().routes };
    assert_eq!(
        after.routes_generation(),
        expected(routes(before) != routes(after), before.routes_generation()),
        "routes after {command:?}"
    );
    for node in after.nodes() {
        let content = |state: &State, node: NodeId| {
            state.assignment(node, 1).map(|assignment| Assignment {
                generation: Generation(0),
                ..assignment
            })
        };
        let earlier = before.assignment_generation(node.id).unwrap_or(index);
        assert_eq!(
            after.assignment_generation(node.id),
            Some(expected(
                content(before, node.id) != content(after, node.id),
                earlier
            )),
            "assignment of node {} after {command:?}",
            node.id
        );
    }
    for job in after.jobs(None, None, usize::MAX) {
        let content = |state: &State, job: JobId| -> Option<Job> { state.job(job).cloned() };
        let earlier = before.job_generation(job.id).unwrap_or(index);
        assert_eq!(
            after.job_generation(job.id),
            Some(expected(
                content(before, job.id) != content(after, job.id),
                earlier
            )),
            "job {} after {command:?}",
            job.id
        );
    }
}
