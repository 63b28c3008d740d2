//! The shim as its heart sees it: records, output, stopping, and what is left behind (nothing).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use common::id::InstanceId;
use common::time::Span;
use heart::shim::{
    Ending, ExitRecord, LogLimits, ProcessIdentity, ProcessRecord, Spawner, call_off, kill_tree,
    kill_tree_of, log, request_stop,
};

use world::{
    Run, Stranger, descendants, descriptors, eventually, kill, name_of, server_of_this_process,
    state_of, write_escape_artists,
};
pub(crate) use world::{SmallDisk, shim_program};

mod world;

const INSTANCE: InstanceId = InstanceId(42);
/// Shims that wait when nothing is to be done.
const WAITING: usize = 4;

#[test]
fn output_is_kept_across_rotation_without_a_gap() {
    let run = Run::new();
    let mut specification =
        run.shell("i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done");
    specification.log_limits = LogLimits {
        segment_bytes: 1000,
        segments: 1000,
    };
    let expected: String = (0..5000).map(|line| format!("line {line}\n")).collect();

    run.start(&specification);
    run.wait_exit();

    let chunk = log::read(&run.log(), 0, usize::MAX >> 1).unwrap();
    assert_eq!(String::from_utf8(chunk.bytes).unwrap(), expected);
    assert_eq!(chunk.next_offset, expected.len() as u64);
    assert!(fs::read_dir(run.log()).unwrap().count() > 40);

    // A second run of the instance continues the same log, and what is kept is bounded.
    specification.log_limits.segments = 3;
    run.start(&specification);
    run.wait_exit();

    assert_eq!(fs::read_dir(run.log()).unwrap().count(), 3);
    assert_eq!(log::length(&run.log()).unwrap(), 2 * expected.len() as u64);
    let last = log::offset_of_last_lines(&run.log(), 2).unwrap();
    assert_eq!(
        log::read(&run.log(), last, 100).unwrap().bytes,
        b"line 4998\nline 4999\n"
    );
}

#[test]
fn codes_and_signals_are_recorded() {
    for (script, ending) in [
        ("exit 0", Ending::Exited { code: 0 }),
        ("exit 7", Ending::Exited { code: 7 }),
        ("kill -SEGV $$", Ending::Signalled { signal: 11 }),
    ] {
        let run = Run::new();
        run.start(&run.shell(script));

        let record = run.wait_exit();

        assert_eq!(record.ending, ending, "{script}");
        assert!(!record.stop_requested);
        assert_eq!(record.output_lost, 0);
    }
}

#[test]
fn an_application_sees_what_it_is_given_and_nothing_else() {
    let run = Run::new();
    let mut specification = run.shell(
        "env | sort; pwd; ls /proc/self/fd | wc -l; readlink /proc/self/fd/0; umask; \
         grep -E '^(SigBlk|SigIgn|NoNewPrivs):' /proc/self/status; \
         cut -d' ' -f6 /proc/$$/stat | grep -qx $$ && echo leads its session",
    );
    specification
        .environment
        .insert("GREETING".to_owned(), "hello world".to_owned());

    run.start(&specification);
    run.wait_exit();

    let output = run.output();
    let marker = output
        .lines()
        .find_map(|line| line.strip_prefix("PM_RUN="))
        .unwrap();
    let directory = run.directory().display().to_string();
    let expected = format!(
        "GREETING=hello world\nPATH=/usr/bin:/bin\nPM_RUN={marker}\nPWD={directory}\n{directory}\n\
         4\n/dev/null\n0022\nNoNewPrivs:\t1\nSigBlk:\t0000000000000000\n\
         SigIgn:\t0000000000000000\nleads its session\n"
    );
    let mut lines: Vec<&str> = output.lines().collect();
    let mut wanted: Vec<&str> = expected.lines().collect();
    lines.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(lines, wanted);
}

#[test]
fn what_cannot_be_executed_is_recorded() {
    let run = Run::new();
    let plain = run.directory().join("plain");
    fs::write(&plain, "no program").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let mut specification = run.shell("");

    for (program, words) in [
        ("/absent/program", "No such file"),
        ("not-in-the-path", "No such file"),
        ("./plain", "Permission denied"),
    ] {
        specification.arguments = vec![program.to_owned()];
        run.start(&specification);

        let record = ExitRecord::read(&run.records()).unwrap().unwrap();

        let Ending::LaunchFailed { message } = record.ending else {
            panic!("{program}: {record:?}");
        };
        assert!(
            message.contains(program) && message.contains(words),
            "{message}"
        );
        assert_eq!(ProcessRecord::read(&run.records()).unwrap(), None);
    }
    specification.arguments = vec!["sh".to_owned()];
    specification.directory = "/absent".into();
    run.start(&specification);
    let record = ExitRecord::read(&run.records()).unwrap().unwrap();
    assert!(matches!(record.ending, Ending::LaunchFailed { .. }));
}

#[test]
fn a_stop_gives_grace_and_then_kills() {
    let polite = Run::new();
    polite.start(
        &polite.shell("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.02; done"),
    );
    polite.wait_output("up");
    let stubborn = Run::new();
    let mut specification = stubborn.shell("trap '' TERM; echo up; while :; do sleep 0.02; done");
    specification.grace = Span(300);
    stubborn.start(&specification);
    stubborn.wait_output("up");

    polite.stop();
    let begin = Instant::now();
    stubborn.stop();

    let record = polite.wait_exit();
    assert_eq!(record.ending, Ending::Exited { code: 7 });
    assert!(record.stop_requested);
    assert!(polite.output().ends_with("bye\n"));
    let record = stubborn.wait_exit();
    assert_eq!(record.ending, Ending::Signalled { signal: 9 });
    assert!(begin.elapsed() >= Duration::from_millis(300));
}

#[test]
fn children_of_a_script_get_the_grace_too() {
    let run = Run::new();
    run.start(&run.shell(
        "(trap 'sleep 0.2; echo drained; exit' TERM; echo up; while :; do sleep 0.02; done) & wait",
    ));
    run.wait_output("up");

    run.stop();

    run.wait_exit();
    assert!(run.output().ends_with("drained\n"), "{}", run.output());
}

#[test]
fn nothing_escapes_a_stop() {
    let run = Run::new();
    write_escape_artists(&run.directory());
    let mut specification = run.shell("./escape; exec sleep 1000");
    specification.grace = Span(100);
    run.start(&specification);
    let shim = run.process().shim;
    eventually("the escapes have begun", || {
        descendants(shim.pid).len() > 20
    });

    run.stop();

    run.wait_exit();
    assert_eq!(run.leftovers(), Vec::<String>::new());
}

#[test]
fn nothing_outlives_the_main_process() {
    let run = Run::new();
    write_escape_artists(&run.directory());
    run.start(&run.shell("./escape; exit 3"));

    let record = run.wait_exit();

    assert_eq!(record.ending, Ending::Exited { code: 3 });
    assert_eq!(run.leftovers(), Vec::<String>::new());
}

#[test]
fn what_a_killed_shim_leaves_is_killed_and_strangers_are_not() {
    let run = Run::new();
    let script = "setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' & \
                  (env -i setsid sleep 1000 &) ; \
                  setsid sh -c 'env -i sleep 1001 > /dev/null 2>&1' & \
                  echo up; exec sleep 1002";
    run.start(&run.shell(script));
    run.wait_output("up");
    let record = run.process();
    eventually("all have begun", || run.leftovers().len() >= 4);
    let mut stranger = Stranger::new();

    kill(record.shim.pid);
    eventually("the main process dies with its shim", || {
        !record.shim.is_alive() && !record.application.is_alive()
    });
    assert!(run.leftovers().len() >= 2);
    kill_tree(&run.records(), INSTANCE).unwrap();

    assert_eq!(run.leftovers(), Vec::<String>::new());
    assert!(stranger.lives());
    assert!(kill_tree(&run.records(), InstanceId(1)).is_err());
    kill_tree(&run.records(), INSTANCE).unwrap();
    assert!(stranger.lives());
}

#[test]
fn a_late_kill_spares_the_next_run() {
    let run = Run::new();
    run.start(&run.shell("exit 0"));
    let first = run.process();
    run.wait_exit();
    run.start(&run.shell("exec sleep 1002"));
    let second = run.process();

    kill_tree_of(&run.records(), INSTANCE, &first).unwrap();
    assert!(second.shim.is_alive() && second.application.is_alive());

    kill_tree_of(&run.records(), INSTANCE, &second).unwrap();
    eventually("both have ended", || {
        !second.shim.is_alive() && !second.application.is_alive()
    });
}

#[test]
fn a_run_that_is_called_off_leaves_nothing() {
    let run = Run::new();
    run.start(&run.shell("setsid sleep 1001 & echo up; exec sleep 1002"));
    run.wait_output("up");
    let shim = run.process().shim;

    call_off(&run.records(), INSTANCE).unwrap();

    assert_eq!(run.leftovers(), Vec::<String>::new());
    assert!(!run.records().join("specification.json").exists());
    eventually("the shim has ended", || !shim.is_alive());
    // Without the specification, the record says whom to kill.
    call_off(&run.records(), INSTANCE).unwrap();
}

#[test]
fn a_shim_whose_specification_is_gone_when_it_leaves_its_record_ends_its_run() {
    let run = Run::new();
    run.shell("exec sleep 1002").write(&run.records()).unwrap();
    // Keeps the record from being written.
    let obstacle = run.records().join("process.json.tmp");
    fs::create_dir(&obstacle).unwrap();
    run.spawner.spawn(&run.records()).unwrap();
    assert_ne!(run.leftovers(), Vec::<String>::new());

    fs::remove_file(run.records().join("specification.json")).unwrap();
    fs::remove_dir(&obstacle).unwrap();

    eventually("nothing is left", || run.leftovers().is_empty());
    assert_eq!(ProcessRecord::read(&run.records()).unwrap(), None);
    assert_eq!(ExitRecord::read(&run.records()).unwrap(), None);
}

#[test]
fn a_reused_pid_is_neither_adopted_nor_signalled() {
    let mut stranger = Stranger::new();
    let mut identity = ProcessIdentity::of(stranger.child.id()).unwrap();
    assert!(identity.is_alive());
    identity.start_time_ticks -= 1;
    let run = Run::new();
    run.shell("").write(&run.records()).unwrap();
    let record = ProcessRecord {
        shim: identity.clone(),
        application: identity.clone(),
        output_pipe: 0,
    };
    fs::write(
        run.records().join("process.json"),
        serde_json::to_vec(&record).unwrap(),
    )
    .unwrap();

    assert!(!identity.is_alive());
    assert!(identity.open_pidfd().unwrap().is_none());
    request_stop(&identity).unwrap();
    kill_tree(&run.records(), INSTANCE).unwrap();

    assert!(stranger.lives());
}

#[test]
fn many_cycles_leave_nothing() {
    let run = Run::new();
    let specification = run.shell("exit 0");
    run.start(&specification);
    run.wait_exit();
    // The server and the shims that wait, each with a blank.
    let is_at_rest = || descendants(std::process::id()).len() == 1 + 2 * WAITING;
    eventually("the server is at rest", is_at_rest);
    let server = server_of_this_process();
    let baseline = (descriptors(std::process::id()), descriptors(server));

    for _ in 0..200 {
        run.start(&specification);
        run.wait_exit();
    }

    assert_eq!(server_of_this_process(), server);
    eventually("everything is closed and reaped", || {
        (descriptors(std::process::id()), descriptors(server)) == baseline && is_at_rest()
    });
    assert_eq!(run.leftovers(), Vec::<String>::new());
}

#[test]
fn what_waits_is_no_load_and_is_replaced_when_it_dies_or_has_waited_long() {
    let run = Run::new();
    let specification = run.shell("exit 0");
    run.start(&specification);
    let waiting = |name: &str| -> BTreeSet<u32> {
        let all = descendants(std::process::id()).into_iter();
        all.filter(|pid| name_of(*pid).as_deref() == Some(name))
            .collect()
    };
    let mut seen = BTreeSet::new();
    for name in ["pm-blank", "pm-shim"] {
        let is_whole = || ["pm-blank", "pm-shim"].map(|name| waiting(name).len()) == [WAITING; 2];
        eventually("all shims wait", is_whole);
        for pid in waiting(name) {
            // What waits as `D` counts as load.
            eventually("it sleeps", || state_of(pid) == Some('S'));
            kill(pid);
        }
        seen.extend(waiting("pm-blank"));

        run.start(&specification);

        assert_eq!(run.wait_exit().ending, Ending::Exited { code: 0 });
    }
    seen.extend(waiting("pm-blank"));

    eventually("the blanks are new ones", || {
        let blanks = waiting("pm-blank");
        blanks.len() == WAITING && blanks.is_disjoint(&seen)
    });
    run.start(&specification);
    assert_eq!(run.wait_exit().ending, Ending::Exited { code: 0 });
}

#[test]
fn an_application_has_an_ordinary_place_on_the_processor_whatever_the_heart_may_do() {
    // A heart that may not raise anyone's priority may not take back every setting either.
    let arguments = ["--bounding-set", "-sys_nice"].map(Into::into);
    let shim = [shim_program().into(), "shim".into()];
    let arguments = arguments.into_iter().chain(shim).collect();
    let spawner = Spawner::new("/usr/bin/setpriv".into(), arguments);
    let look = "chrt -p $$ | sed 's/.*: //'; grep slice /proc/$$/sched; true";
    let bare = Command::new("setpriv")
        .args(["--bounding-set", "-sys_nice", "sh", "-c", look])
        .output()
        .unwrap();
    let run = Run::with_spawner(spawner.into());

    run.start(&run.shell(look));
    run.wait_exit();

    assert_eq!(run.output(), String::from_utf8(bare.stdout).unwrap());
    assert!(
        run.output().starts_with("SCHED_OTHER\n"),
        "{}",
        run.output()
    );
}

#[test]
fn runs_outlive_the_server_and_another_is_started() {
    let run = Run::new();
    run.start(&run.shell("echo up; exec sleep 1000"));
    run.wait_output("up");
    let shim = run.process().shim;
    let server = server_of_this_process();

    kill(server);
    let other = Run::with_spawner(run.spawner.clone());
    for _ in 0..3 {
        other.start(&other.shell("exit 5"));
        assert_eq!(other.wait_exit().ending, Ending::Exited { code: 5 });
    }
    assert!(shim.is_alive());

    run.stop();
    assert!(run.wait_exit().stop_requested);
}

#[test]
fn failed_launches_do_not_wear_the_server_out() {
    let run = Run::new();
    let mut specification = run.shell("");
    specification.arguments = vec!["/absent".to_owned()];
    run.start(&specification);
    let server = server_of_this_process();

    for _ in 0..40 {
        run.start(&specification);
    }

    assert_eq!(server_of_this_process(), server);
}

#[test]
fn starts_may_overlap() {
    let first = Run::new();
    std::thread::scope(|scope| {
        for code in 0..16 {
            let run = Run::with_spawner(first.spawner.clone());
            scope.spawn(move || {
                for _ in 0..5 {
                    run.start(&run.shell(&format!("exit {code}")));
                    assert_eq!(run.wait_exit().ending, Ending::Exited { code });
                }
            });
        }
    });
}

#[test]
fn the_path_is_searched_as_always() {
    let run = Run::new();
    let mut specification = run.shell("");
    for (place, mode) in [("first", 0o644), ("second", 0o755), ("third", 0o755)] {
        let place = run.directory().join(place);
        fs::create_dir(&place).unwrap();
        fs::write(place.join("program"), "#!/bin/sh\necho $0\n").unwrap();
        fs::set_permissions(place.join("program"), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir_all(run.directory().join("zeroth/program")).unwrap();
    specification.arguments = vec!["program".to_owned()];
    let path = "/absent:zeroth:first:second:third";
    specification
        .environment
        .insert("PATH".to_owned(), path.to_owned());

    run.start(&specification);
    run.wait_exit();

    assert_eq!(run.output(), "second/program\n");
}

#[test]
fn a_program_that_is_no_shim_is_an_error() {
    let run = Run::new();
    run.shell("").write(&run.records()).unwrap();

    for program in ["/absent/shim", "/bin/true"] {
        let spawner = Spawner::new(program.into(), Vec::new());
        assert!(spawner.spawn(&run.records()).is_err(), "{program}");
    }
}

#[test]
fn a_full_disk_blocks_the_application_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount("64k") else {
        return;
    };
    let run = Run::new();
    let mut specification = run
        .shell("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo end > ended");
    specification.log_directory = disk.path().join("log");
    specification.log_limits = LogLimits {
        segment_bytes: 16 << 10,
        segments: 100,
    };
    let expected: String = (0..20000).map(|line| format!("line {line}\n")).collect();

    run.start(&specification);
    eventually("the disk is full", || {
        log::length(&specification.log_directory).unwrap() >= 48 << 10
    });
    let shim = run.process().shim;
    assert!(!run.directory().join("ended").exists());
    disk.grow("4m");

    eventually("it has ended", || !shim.is_alive());
    let chunk = log::read(&specification.log_directory, 0, 1 << 20).unwrap();
    assert_eq!(String::from_utf8(chunk.bytes).unwrap(), expected);
}
