//! What a user would tell of crons, one story per test.

use common::api::CronRunState;
use common::application::{MissedPolicy, Overlap};
use common::id::NodeId;
use common::time::{Span, Timestamp};
use pacemaker_core::command::{
    Command, CronGrant, CronReport, CronResult, Outcome, RejectionCode, SkipReason,
};
use pacemaker_core::state::crons::RunPhase;
use pacemaker_core::state::limits::{CRON_RUNNING_PER_APPLICATION, CRON_RUNS_KEPT};

use super::world::{CronWorld, HOUR, MINUTE, SECOND, START, cron, key, with_crons};

#[test]
fn cron_is_called_at_each_slot_from_the_first_after_its_version_became_current() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));

    world.run_for(3 * MINUTE);

    let first = START + 30 * SECOND;
    assert_eq!(
        world.called("tick"),
        [first, first + MINUTE, first + 2 * MINUTE]
    );
    assert!(world.calls.iter().all(|call| call.sent == call.scheduled));
    assert_eq!(world.phases(application, "tick"), [RunPhase::Succeeded; 3]);
    let crons = world.state.crons(application, world.wall()).unwrap();
    assert_eq!(crons[0].next, Some(Timestamp(first + 3 * MINUTE)));
    assert_eq!(crons[0].last.as_ref().unwrap().attempts, 1);
}

#[test]
fn c1_slot_whose_leader_dies_before_the_record_is_fired_by_the_next() {
    let mut world = CronWorld::new(1);
    world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));
    world.run_for(20 * SECOND);
    world.sleep_for(11 * SECOND);
    assert!(world.decisions().is_some());

    world.kill_leader();
    world.run_for(30 * SECOND);

    assert_eq!(world.called("tick"), [START + 30 * SECOND]);
}

#[test]
fn c1_slot_whose_leader_dies_after_the_record_is_not_fired_again_and_says_so() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));
    world.run_for(20 * SECOND);
    world.sleep_for(11 * SECOND);
    let command = world.decisions().unwrap();
    assert_eq!(world.commit(&command).len(), 1);

    world.kill_leader();
    world.run_for(20 * SECOND);

    assert_eq!(world.called("tick"), Vec::<u64>::new());
    let runs = world.runs(application, "tick");
    assert_eq!(runs[0].phase, RunPhase::Lost);
    assert!(runs[0].words.contains("nobody knows"), "{runs:?}");
}

#[test]
fn c1_retries_make_it_at_least_once_with_the_same_run() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "0 * * * *");
    tick.retries = 2;
    tick.timeout = Span::seconds(10);
    let application = world.deploy(&with_crons("hello", vec![tick]));
    world.takes = (5 * SECOND, 5 * SECOND);
    world.run_for(HOUR - 28 * SECOND);
    assert_eq!(world.calls.len(), 1);

    world.kill_leader();
    world.run_for(MINUTE);

    let attempts: Vec<_> = world
        .calls
        .iter()
        .map(|call| (call.run, call.attempt))
        .collect();
    let run = world.calls[0].run;
    assert_eq!(attempts, [(run, 1), (run, 2)]);
    // The first request may have gone on until its timeout.
    assert!(world.calls[1].sent >= world.calls[0].sent.after(Span::seconds(10)));
    assert_eq!(world.phases(application, "tick"), [RunPhase::Succeeded]);
}

#[test]
fn c1_outcome_that_a_deposed_leader_tells_counts() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "0 * * * *")]));
    world.takes = (20 * SECOND, 20 * SECOND);
    world.run_for(HOUR - 25 * SECOND);
    assert_eq!(world.phases(application, "tick"), [RunPhase::Running]);

    world.elect();
    world.run_for(MINUTE);

    assert_eq!(world.phases(application, "tick"), [RunPhase::Succeeded]);
}

#[test]
fn c2_decision_of_a_deposed_leader_does_nothing() {
    let mut world = CronWorld::new(1);
    world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));
    world.run_for(20 * SECOND);
    world.sleep_for(11 * SECOND);
    let stale = world.decisions().unwrap();
    world.elect();
    world.run_for(SECOND);

    let granted = world.commit(&stale);

    assert_eq!(granted, []);
    assert_eq!(world.called("tick").len(), 1);
}

#[test]
fn c2_grant_that_its_leader_hears_of_after_others_have_led_is_nothing_to_it() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "0 * * * *");
    tick.retries = 2;
    tick.timeout = Span::seconds(20);
    let application = world.deploy(&with_crons("hello", vec![tick]));
    world.run_for(HOUR - 31 * SECOND);
    world.sleep_for(2 * SECOND);
    let command = world.decisions().unwrap();
    let grants = world.commit(&command);
    let deposed = world.leader;

    world.kill_leader();
    world.takes = (10 * SECOND, 10 * SECOND);
    world.run_for(25 * SECOND);

    let run = world.runs(application, "tick")[0].clone();
    assert_eq!((run.phase, run.attempts), (RunPhase::Running, 2));
    assert_eq!(world.state.cron_call(grants[0], deposed), None);
    let present = CronGrant {
        run: run.id,
        attempt: 2,
    };
    assert_eq!(world.state.cron_call(present, deposed), None);
    assert!(world.state.cron_call(present, world.leader).is_some());
    let reports = [1, 2].map(|attempt| CronReport {
        run: run.id,
        attempt,
        instance: None,
        status: None,
        ended: world.wall(),
        duration: Span(0),
        result: CronResult::Lost,
        words: "not sent".to_owned(),
    });
    let command = Command::ReportCronRuns {
        runner: deposed,
        reports: reports.to_vec(),
    };
    let stale = vec![run.id; 2];
    let outcome = world.apply(&command);
    assert_eq!(outcome, Ok(Outcome::CronRunsReported { stale }));
    world.run_for(10 * SECOND);
    assert_eq!(world.phases(application, "tick"), [RunPhase::Succeeded]);
    assert_eq!(world.calls.len(), 1);
}

#[test]
fn c4_slots_that_no_leader_saw_are_one_record_and_the_schedule_goes_on() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));
    world.run_for(MINUTE);
    world.calls.clear();

    world.sleep_for(3 * HOUR);
    world.kill_leader();
    world.run_for(2 * MINUTE);

    // The newest of them was half a minute old: as if it were on time.
    let runs = world.runs(application, "tick");
    assert_eq!(runs[1].phase, RunPhase::Missed);
    assert_eq!(runs[1].count, 179);
    assert_eq!(runs[1].scheduled, Timestamp(START + 90 * SECOND));
    let newest = START + 30 * SECOND + 3 * HOUR;
    assert_eq!(
        world.called("tick"),
        [newest, newest + MINUTE, newest + 2 * MINUTE]
    );
}

#[test]
fn c4_one_run_makes_up_for_all_missed_slots_where_the_manifest_says_once() {
    let mut world = CronWorld::new(1);
    let mut once = cron("once", "*/10 * * * *");
    once.missed = MissedPolicy::Once;
    let crons = vec![once, cron("skip", "*/10 * * * *")];
    let application = world.deploy(&with_crons("hello", crons));
    world.run_for(MINUTE);

    world.sleep_for(3 * HOUR);
    world.kill_leader();
    world.run_for(MINUTE);

    assert_eq!(world.called("once"), [START - 30 * SECOND + 3 * HOUR]);
    assert_eq!(world.called("skip"), Vec::<u64>::new());
    let missed = |name: &str| world.runs(application, name)[0].count;
    assert_eq!((missed("once"), missed("skip")), (17, 18));
}

#[test]
fn forbidden_overlap_skips_slots_in_one_record() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("slow", "* * * * *")]));
    world.takes = (200 * SECOND, 200 * SECOND);

    world.run_for(5 * MINUTE);

    let first = START + 30 * SECOND;
    assert_eq!(world.called("slow"), [first, first + 4 * MINUTE]);
    let runs = world.runs(application, "slow");
    assert_eq!(runs[1].phase, RunPhase::Skipped(SkipReason::Overlap));
    assert_eq!(runs[1].count, 3);
    assert_eq!(runs[1].last_scheduled, Timestamp(first + 3 * MINUTE));
}

#[test]
fn allowed_overlap_runs_beside_and_replaced_runs_end() {
    let mut world = CronWorld::new(1);
    let mut allow = cron("allow", "* * * * *");
    allow.overlap = Overlap::Allow;
    let mut replace = cron("replace", "* * * * *");
    replace.overlap = Overlap::Replace;
    let application = world.deploy(&with_crons("hello", vec![allow, replace]));
    world.takes = (150 * SECOND, 150 * SECOND);

    world.run_for(2 * MINUTE + 10 * SECOND);

    assert_eq!(world.phases(application, "allow"), [RunPhase::Running; 2]);
    let replaced = world.phases(application, "replace");
    assert_eq!(replaced, [RunPhase::Replaced, RunPhase::Running]);
    let first = world.runs(application, "replace")[0].clone();
    assert!(!world.state.cron_run(first.id).unwrap().is_running(1));
    assert!(first.words.contains("replaced"), "{first:?}");
}

#[test]
fn failed_attempts_are_tried_again_after_a_delay_that_doubles() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "0 * * * *");
    tick.retries = 8;
    let application = world.deploy(&with_crons("hello", vec![tick]));
    world.failures = 1;
    world.takes = (0, 0);

    world.run_for(HOUR + 30 * MINUTE);

    let sent: Vec<u64> = world.calls.iter().map(|call| call.sent.0).collect();
    let delays: Vec<u64> = sent
        .windows(2)
        .map(|pair| (pair[1] - pair[0]) / SECOND)
        .collect();
    assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
    let run = &world.runs(application, "tick")[0];
    assert_eq!((run.phase, run.attempts), (RunPhase::Failed, 9));
    assert!(!run.words.is_empty());
}

#[test]
fn cron_that_fails_three_times_in_a_row_is_shown_until_it_succeeds() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));
    world.failures = 1;
    world.run_for(2 * MINUTE);
    assert_eq!(world.state.failing_crons(), []);

    world.run_for(MINUTE);

    let failing = world.state.failing_crons();
    assert_eq!(failing.len(), 1);
    assert_eq!(failing[0].0, application);
    assert_eq!(failing[0].1.cron, "web/tick");
    assert_eq!(failing[0].1.failures, 3);
    let view = world.state.application_view(application, 80).unwrap();
    assert_eq!(view.failing_crons, [failing[0].1.clone()]);
    world.failures = 0;
    world.run_for(MINUTE);
    assert_eq!(world.state.failing_crons(), []);
}

#[test]
fn run_that_is_asked_for_begins_at_once_and_overlap_is_heeded() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "@yearly")]));
    world.takes = (10 * SECOND, 10 * SECOND);

    let Ok(Outcome::CronRun(run)) = world.start_run(application, "tick") else {
        panic!("a run");
    };
    let view = world.state.cron_run_view(run).unwrap();
    assert_eq!(view.state, CronRunState::Waiting);
    world.run_for(SECOND);
    let refused = world.start_run(application, "tick").unwrap_err();
    world.run_for(10 * SECOND);

    assert_eq!(refused.code, RejectionCode::Busy);
    assert_eq!(world.calls.len(), 1);
    assert_eq!(world.calls[0].sent, Timestamp(START));
    assert_eq!(world.phases(application, "tick"), [RunPhase::Succeeded]);
    let unknown = world.start_run(application, "tock").unwrap_err();
    assert_eq!(unknown.code, RejectionCode::CronNotFound);
    assert!(unknown.message.contains("`web/tick`"), "{unknown}");
}

#[test]
fn suspended_cron_runs_only_when_it_is_asked_to_and_goes_on_from_the_next_slot() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));
    world.run_for(MINUTE);

    world.suspend(application, "tick");
    world.run_for(10 * MINUTE);
    world.start_run(application, "tick").unwrap();
    world.run_for(SECOND);
    world.resume(application, "tick");
    world.run_for(MINUTE);

    let first = START + 30 * SECOND;
    let manual: Vec<bool> = world.calls.iter().map(|call| call.is_manual).collect();
    assert_eq!(manual, [false, true, false]);
    assert_eq!(world.calls[2].scheduled, Timestamp(first + 11 * MINUTE));
    assert_eq!(
        world.phases(application, "tick"),
        [RunPhase::Succeeded; 3],
        "nothing was missed"
    );
}

#[test]
fn first_slot_is_not_lost_where_the_log_is_ahead_of_the_wall_clock() {
    let mut world = CronWorld::new(1);
    // The clock was 50 s ahead when the log was written last, and was corrected.
    world.step_clock(50_000);
    world.upload_again();
    world.step_clock(-50_000);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));
    let first = START + 30 * SECOND;

    world.run_for(40 * SECOND);

    assert_eq!(world.called("tick"), [first]);
    world.suspend(application, "tick");
    world.step_clock(50_000);
    world.upload_again();
    world.step_clock(-50_000);
    world.resume(application, "tick");
    world.run_for(MINUTE);
    assert_eq!(world.called("tick"), [first, first + MINUTE]);
}

#[test]
fn suspended_cron_is_not_tried_again() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "0 * * * *");
    tick.retries = 5;
    let application = world.deploy(&with_crons("hello", vec![tick]));
    world.failures = 1;
    world.run_for(HOUR - 25 * SECOND);

    world.suspend(application, "tick");
    world.run_for(HOUR);

    let run = &world.runs(application, "tick")[0];
    assert_eq!(run.phase, RunPhase::Failed);
    assert!(run.words.contains("suspended"), "{run:?}");
}

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
fn history_of_a_cron_is_bounded_and_paged() {
    let mut world = CronWorld::new(1);
    let crons = vec![cron("tick", "* * * * *"), cron("hour", "0 * * * *")];
    let application = world.deploy(&with_crons("hello", crons));

    world.run_for(3 * HOUR);

    assert_eq!(world.runs(application, "tick").len(), CRON_RUNS_KEPT);
    let tick = key("tick");
    let page = world.state.cron_runs(application, Some(&tick), None, 20);
    let next = world
        .state
        .cron_runs(application, Some(&tick), Some(page[19].id), 100);
    assert_eq!((page.len(), next.len()), (20, 30));
    assert!(
        page.iter()
            .chain(&next)
            .is_sorted_by(|one, next| one.id > next.id)
    );
    let all = world.state.cron_runs(application, None, None, 100);
    assert_eq!(all.len(), 53);
    assert_eq!(world.state.find_crons(application, "tick"), [tick]);
}

#[test]
fn application_has_only_so_many_requests_under_way() {
    let mut world = CronWorld::new(1);
    let crons = (0..100)
        .map(|number| cron(&format!("c{number:02}"), "0 * * * *"))
        .collect();
    world.deploy(&with_crons("many", crons));
    world.deploy(&with_crons("other", vec![cron("tick", "0 * * * *")]));
    world.takes = (5 * SECOND, 5 * SECOND);

    world.run_for(HOUR - 30 * SECOND);

    let room = usize::try_from(CRON_RUNNING_PER_APPLICATION).unwrap();
    assert_eq!(world.calls.len(), room + 1);
    assert_eq!(world.called("tick").len(), 1);
    world.run_for(10 * SECOND);
    assert_eq!(world.calls.len(), 101);
}

#[test]
fn slots_that_wait_for_room_are_run_when_there_is_some() {
    let mut world = CronWorld::new(1);
    let crons = (0..100).map(|number| cron(&format!("c{number:02}"), "0 * * * *"));
    world.deploy(&with_crons("many", crons.collect()));
    world.takes = (60 * SECOND, 60 * SECOND);

    world.run_for(HOUR + 2 * MINUTE);

    assert_eq!(world.calls.len(), 100);
    assert_eq!(world.first_attempts().len(), 100);
}

#[test]
fn slot_that_has_no_room_until_the_next_comes_is_skipped_and_says_so() {
    let mut world = CronWorld::new(1);
    let room = usize::try_from(CRON_RUNNING_PER_APPLICATION).unwrap();
    let mut crons: Vec<_> = (0..room)
        .map(|number| cron(&format!("c{number:02}"), "0 1 * * *"))
        .collect();
    crons.push(cron("tick", "0-4 1 * * *"));
    let application = world.deploy(&with_crons("many", crons));
    world.takes = (200 * SECOND, 200 * SECOND);

    world.run_for(HOUR + 10 * MINUTE);

    let first = START + HOUR - 30 * SECOND;
    assert_eq!(world.called("tick"), [first + 3 * MINUTE]);
    let runs = world.runs(application, "tick");
    let phases: Vec<_> = runs.iter().map(|run| (run.phase, run.count)).collect();
    assert_eq!(
        phases,
        [
            (RunPhase::Skipped(SkipReason::NoRoom), 3),
            (RunPhase::Succeeded, 1),
            (RunPhase::Skipped(SkipReason::Overlap), 1)
        ]
    );
    assert!(runs[0].words.contains("as many requests"), "{runs:?}");
}

#[test]
fn run_that_is_replaced_makes_room_for_its_successor() {
    let mut world = CronWorld::new(1);
    let room = usize::try_from(CRON_RUNNING_PER_APPLICATION).unwrap();
    let crons = (0..room).map(|number| {
        let mut hung = cron(&format!("c{number:02}"), "*/2 * * * *");
        hung.overlap = Overlap::Replace;
        hung
    });
    world.deploy(&with_crons("hung", crons.collect()));
    world.takes = (300 * SECOND, 300 * SECOND);

    world.run_for(4 * MINUTE);

    assert_eq!(world.calls.len(), 2 * room);
    let on_time = |call: &super::world::Call| call.sent == call.scheduled;
    assert!(world.calls.iter().all(on_time), "{:?}", world.calls);
}

#[test]
fn application_leaves_room_for_others() {
    let mut world = CronWorld::new(1);
    let crons = (0..20).map(|number| cron(&format!("c{number:02}"), "0 * * * *"));
    world.deploy(&with_crons("many", crons.collect()));
    world.deploy(&with_crons("other", vec![cron("tick", "2 * * * *")]));
    world.takes = (299 * SECOND, 299 * SECOND);
    world.limit(10);

    world.run_for(HOUR + 2 * MINUTE);

    // That is once before the others begin, and once beside them.
    assert_eq!(world.called("tick").len(), 2);
    assert_eq!(world.calls.len(), 2 + 5);
}

#[test]
fn cron_that_overlaps_itself_too_often_is_skipped_in_its_own_words() {
    let mut world = CronWorld::new(1);
    let mut slow = cron("slow", "* * * * *");
    slow.overlap = Overlap::Allow;
    slow.timeout = Span::seconds(2 * 3600);
    let application = world.deploy(&with_crons("hello", vec![slow]));
    world.takes = (2 * HOUR, 2 * HOUR);

    world.run_for(HOUR + 10 * MINUTE);

    let runs = world.runs(application, "slow");
    let newest = runs.last().unwrap();
    assert_eq!(newest.phase, RunPhase::Skipped(SkipReason::TooMany));
    assert!(newest.words.contains("64 runs of it"), "{newest:?}");
}

#[test]
fn retry_that_nobody_began_in_time_is_not_made() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "0 * * * *");
    tick.retries = 10;
    let application = world.deploy(&with_crons("hello", vec![tick]));
    world.failures = 1;
    world.run_for(HOUR - 20 * SECOND);
    let made = world.calls.len();

    world.sleep_for(72 * HOUR - MINUTE);
    world.kill_leader();
    world.run_for(SECOND);

    assert_eq!(world.calls.len(), made);
    let run = &world.runs(application, "tick")[0];
    assert_eq!(run.phase, RunPhase::Failed);
    assert!(run.words.contains("not tried again"), "{run:?}");
}

#[test]
fn run_that_was_asked_for_and_that_nobody_began_in_time_is_not_made() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "@yearly")]));
    world.start_run(application, "tick").unwrap();

    world.sleep_for(72 * HOUR);
    world.kill_leader();
    world.run_for(SECOND);

    assert_eq!(world.calls.len(), 0);
    let run = &world.runs(application, "tick")[0];
    assert_eq!(run.phase, RunPhase::Failed);
    assert!(run.words.contains("not run"), "{run:?}");
}

#[test]
fn lost_request_keeps_the_next_run_away_until_it_cannot_go_on() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));
    world.takes = (299 * SECOND, 299 * SECOND);
    world.run_for(40 * SECOND);

    world.kill_leader();
    world.run_for(11 * MINUTE);

    let calls: Vec<_> = world
        .calls
        .iter()
        .map(|call| (call.sent, call.ends))
        .collect();
    assert!(
        calls.windows(2).all(|pair| pair[0].1 <= pair[1].0),
        "{calls:?}"
    );
    assert_eq!(calls.len(), 3);
    let phases = world.phases(application, "tick");
    assert_eq!(
        phases[..2],
        [RunPhase::Lost, RunPhase::Skipped(SkipReason::Overlap)]
    );
}

#[test]
fn lost_request_is_not_replaced_while_it_may_go_on() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "* * * * *");
    tick.overlap = Overlap::Replace;
    let application = world.deploy(&with_crons("hello", vec![tick]));
    world.takes = (299 * SECOND, 299 * SECOND);
    world.run_for(40 * SECOND);

    world.kill_leader();
    world.run_for(3 * MINUTE);
    let refused = world.start_run(application, "tick").unwrap_err();
    assert_eq!(refused.code, RejectionCode::Busy);
    world.run_for(3 * MINUTE);

    let [first, second, ..] = &world.calls[..] else {
        panic!("{:?}", world.calls);
    };
    assert!(first.ends <= second.sent, "{:?}", world.calls);
    let phases = world.phases(application, "tick");
    assert_eq!(
        phases[..2],
        [RunPhase::Lost, RunPhase::Skipped(SkipReason::Overlap)]
    );
}

#[test]
fn run_that_is_asked_for_waits_for_a_lost_request_also_where_the_log_is_ahead() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "0 * * * *")]));
    world.takes = (299 * SECOND, 299 * SECOND);
    world.run_for(HOUR - 20 * SECOND);
    world.kill_leader();
    world.run_for(SECOND);
    world.step_clock(10 * 60_000);
    world.upload_again();
    world.step_clock(-10 * 60_000);

    world.start_run(application, "tick").unwrap();
    world.run_for(10 * MINUTE);

    let [first, second] = &world.calls[..] else {
        panic!("{:?}", world.calls);
    };
    assert!(first.ends <= second.sent, "{:?}", world.calls);
}

#[test]
fn request_that_was_sent_late_and_lost_is_waited_for_from_when_it_was_sent() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "0 * * * *");
    tick.retries = 1;
    world.deploy(&with_crons("hello", vec![tick]));
    world.takes = (300 * SECOND, 300 * SECOND);
    world.run_for(HOUR - 31 * SECOND);
    world.sleep_for(SECOND);
    let command = world.decisions().unwrap();
    let grants = world.commit(&command);
    world.sleep_for(2 * SECOND);
    world.send(grants[0]);

    world.kill_leader();
    world.run_for(6 * MINUTE);

    let [first, second] = &world.calls[..] else {
        panic!("{:?}", world.calls);
    };
    assert!(first.ends <= second.sent, "{:?}", world.calls);
}

#[test]
fn pacemaker_that_starts_again_gives_up_what_it_ran() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "0 * * * *")]));
    world.takes = (MINUTE, MINUTE);
    world.run_for(HOUR);

    world.start_again(NodeId(1));

    assert_eq!(world.phases(application, "tick"), [RunPhase::Lost]);
    // Its late answer is still the truth.
    world.run_for(2 * MINUTE);
    assert_eq!(world.phases(application, "tick"), [RunPhase::Succeeded]);
}

#[test]
fn report_of_another_attempt_is_refused_alone() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "* * * * *");
    tick.retries = 1;
    let application = world.deploy(&with_crons("hello", vec![tick]));
    world.failures = 1;
    world.takes = (SECOND, SECOND);
    world.run_for(32 * SECOND + 500);
    let run = world.runs(application, "tick")[0].id;
    let report = |attempt, result| CronReport {
        run,
        attempt,
        instance: None,
        status: Some(200),
        ended: world.wall(),
        duration: Span(1),
        result,
        words: "answered 200".to_owned(),
    };
    let reports = vec![
        report(1, CronResult::Succeeded),
        report(3, CronResult::Succeeded),
        report(2, CronResult::Succeeded),
        report(2, CronResult::Failed),
    ];

    let outcome = world.apply(&Command::ReportCronRuns {
        runner: world.leader,
        reports,
    });

    let stale = vec![run; 3];
    assert_eq!(outcome, Ok(Outcome::CronRunsReported { stale }));
    let run = &world.runs(application, "tick")[0];
    assert_eq!(
        (run.phase, run.attempts, run.status),
        (RunPhase::Succeeded, 2, Some(200))
    );
}

#[test]
fn attempt_that_nobody_reports_is_given_up_after_its_timeout_though_its_pacemaker_lives() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "0 * * * *")]));
    world.run_for(HOUR - 31 * SECOND);
    world.sleep_for(2 * SECOND);
    let command = world.decisions().unwrap();
    world.commit(&command);

    world.run_for(4 * MINUTE);
    assert_eq!(world.phases(application, "tick"), [RunPhase::Running]);
    world.run_for(8 * MINUTE);

    assert_eq!(world.phases(application, "tick"), [RunPhase::Lost]);
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
