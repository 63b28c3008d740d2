//! Crons whose times only another release can read: they are kept, never due, and that is said.

use common::cron::{Schedule, Zone};
use pacemaker_core::sightings::Sightings;

use super::world::{CronWorld, HOUR, cron, with_crons};

#[test]
fn cron_that_this_release_cannot_read_is_kept_and_never_due() {
    let mut strange = cron("strange", "* * * * *");
    strange.runspec = Schedule::from("0 0 * * * 2030".to_owned());
    let mut far = cron("far", "* * * * *");
    far.timezone = Zone::from("Mars/Olympus".to_owned());
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons(
        "hello",
        vec![strange, far, cron("tick", "@hourly")],
    ));

    world.run_for(2 * HOUR);

    assert!(world.calls.len() >= 2, "{:?}", world.calls);
    assert_eq!(world.called("tick").len(), world.calls.len());
    let why = world
        .state
        .explain_application(application, &Sightings::default())
        .unwrap();
    for words in [
        "cron `web/strange` is never due: this release does not know its expression `0 0 * * * 2030`",
        "cron `web/far` is never due: this release does not know its time zone `Mars/Olympus`",
    ] {
        assert!(
            why.lines.iter().any(|line| line.starts_with(words)),
            "{why:?}"
        );
    }
    assert!(
        !why.lines.iter().any(|line| line.contains("tick")),
        "{why:?}"
    );
}
