//! What a deployment does to the crons of the version before it.

use pacemaker_core::command::Command;
use pacemaker_core::state::crons::RunPhase;

use crate::crons::world::{CronWorld, HOUR, MINUTE, SECOND, START, cron, with_crons};

#[test]
fn new_slots_go_to_the_new_version_and_none_is_lost_between() {
    let mut world = CronWorld::new(1);
    let spec = with_crons(
        "hello",
        vec![cron("tick", "* * * * *"), cron("old", "* * * * *")],
    );
    let application = world.deploy(&spec);
    world.run_for(20 * SECOND);
    // A slot passes while the new version becomes current.
    world.sleep_for(15 * SECOND);

    world.deploy(&with_crons(
        "hello",
        vec![cron("tick", "* * * * *"), cron("new", "* * * * *")],
    ));
    world.run_for(MINUTE);

    let first = START + 30 * SECOND;
    assert_eq!(world.called("tick"), [first, first + MINUTE]);
    assert!(world.calls.iter().all(|call| call.version.0 == 2));
    assert_eq!(world.called("new"), [first + MINUTE]);
    assert_eq!(world.called("old"), Vec::<u64>::new());
    let names: Vec<String> = world
        .state
        .crons(application, world.wall())
        .unwrap()
        .iter()
        .map(common::api::CronView::key)
        .collect();
    assert_eq!(names, ["web/new", "web/tick"]);
}

#[test]
fn request_of_the_old_version_ends_by_itself_and_is_not_tried_again_without_its_cron() {
    let mut world = CronWorld::new(1);
    let mut old = cron("old", "* * * * *");
    old.retries = 3;
    let application = world.deploy(&with_crons("hello", vec![old]));
    world.takes = (20 * SECOND, 20 * SECOND);
    world.failures = 1;
    world.run_for(40 * SECOND);

    world.deploy(&with_crons("hello", vec![cron("new", "@yearly")]));
    assert_eq!(world.phases(application, "old"), [RunPhase::Running]);
    world.run_for(5 * MINUTE);

    assert_eq!(world.phases(application, "old"), [RunPhase::Failed]);
    assert_eq!(world.called("old").len(), 1);
}

#[test]
fn retries_that_the_new_version_takes_away_are_not_made() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "0 * * * *");
    tick.retries = 10;
    let application = world.deploy(&with_crons("hello", vec![tick.clone()]));
    world.failures = 1;
    world.run_for(HOUR - 20 * SECOND);
    let made = world.calls.len();
    assert!(matches!(
        world.phases(application, "tick")[..],
        [RunPhase::Backoff { .. }]
    ));

    tick.retries = 0;
    world.deploy(&with_crons("hello", vec![tick]));
    world.run_for(10 * MINUTE);

    assert_eq!(world.calls.len(), made);
    let run = &world.runs(application, "tick")[0];
    assert_eq!(run.phase, RunPhase::Failed);
    assert!(run.words.contains("fewer retries"), "{run:?}");
}

#[test]
fn retries_that_only_the_new_version_gives_are_not_made_of_an_older_run() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "0 * * * *");
    let application = world.deploy(&with_crons("hello", vec![tick.clone()]));
    world.failures = 1;
    world.takes = (MINUTE, MINUTE);
    world.run_for(HOUR - 20 * SECOND);
    assert_eq!(world.phases(application, "tick"), [RunPhase::Running]);

    tick.retries = 3;
    world.deploy(&with_crons("hello", vec![tick]));
    world.run_for(10 * MINUTE);

    assert_eq!(world.phases(application, "tick"), [RunPhase::Failed]);
    assert_eq!(world.calls.len(), 1);
}

#[test]
fn deployment_repeated_with_another_key_for_its_crons_is_the_same() {
    let mut world = CronWorld::new(1);
    let deploy = |digit: &str| Command::Once {
        key: "again".to_owned(),
        command: Box::new(Command::Deploy {
            workspace: "default".parse().unwrap(),
            spec: Box::new(with_crons("hello", vec![cron("tick", "@daily")])),
            manifest: String::new(),
            source: crate::generators::package("source").digest,
            promote: true,
            cron_key: Some(common::secret::Secret::new(digit.repeat(64))),
        }),
    };

    let first = world.apply(&deploy("a")).unwrap();
    let second = world.apply(&deploy("b")).unwrap();

    assert_eq!(first, second);
    let application = world.state.applications().values().next().unwrap();
    let key = application.cron_key.as_ref().unwrap();
    assert_eq!(key.reveal(), "a".repeat(64));
    assert!(!format!("{:?}", deploy("c")).contains("cccc"));
}
