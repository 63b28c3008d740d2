//! The stories as tests, named after the cases of the catalogue: each seed in a process of its own.

use std::process::Command;

use super::runtime::seeded;
use super::stories::Story;
use super::world::Verdict;

/// Which story, and which seed.
const STORY: &str = "PAASMAKER_SIMULATION_STORY";
const SEED: &str = "PAASMAKER_SIMULATION_SEED";
/// How many seeds of each story; the gate's number when it is not set.
const SEEDS: &str = "PAASMAKER_SIMULATION_SEEDS";
/// Prints the whole trace when it is set.
const TRACE: &str = "PAASMAKER_SIMULATION_TRACE";

/// The test that tells one story, when it is told which.
const TELLER: &str = "raft::simulation::tests::one_story_is_told";
/// Begins the line in which a run says what it came to.
const SUMMARY: &str = "story ";

#[test]
fn r1_killed_leader_loses_nothing_in_simulation() {
    tell_many(Story::KillLeader, 6);
}

#[test]
fn r2_killed_group_loses_nothing_in_simulation() {
    tell_many(Story::KillAll, 5);
}

#[test]
fn r3_power_loss_on_one_two_or_all_loses_nothing_in_simulation() {
    tell_many(Story::PowerLoss, 12);
}

#[test]
fn r4_leader_that_is_cut_off_acknowledges_nothing_in_simulation() {
    tell_many(Story::PartitionLeader, 5);
}

#[test]
fn r5_leader_that_hears_nothing_gives_way_in_simulation() {
    tell_many(Story::OneWay, 5);
}

#[test]
fn r6_bridge_between_two_keeps_one_leader_in_simulation() {
    tell_many(Story::Bridge, 5);
}

#[test]
fn r7_clogged_links_heal_in_any_order_in_simulation() {
    tell_many(Story::Swizzle, 10);
}

#[test]
fn r8_paused_leader_serves_nothing_stale_in_simulation() {
    tell_many(Story::PauseLeader, 4);
}

#[test]
fn r10_hung_peer_holds_nobody_up_in_simulation() {
    tell_many(Story::HungPeer, 4);
}

#[test]
fn r11_members_change_under_kills_in_simulation() {
    tell_many(Story::Members, 8);
}

#[test]
fn e1_failed_flush_is_never_acknowledged_in_simulation() {
    tell_many(Story::FlushFails, 8);
}

#[test]
fn e2_damaged_machine_stays_out_or_is_whole_in_simulation() {
    tell_many(Story::BitTurns, 8);
}

#[test]
fn e3_slow_disk_costs_no_elections_in_simulation() {
    tell_many(Story::SlowDisk, 4);
}

#[test]
fn e4_full_disk_comes_back_by_itself_in_simulation() {
    tell_many(Story::FullDisk, 4);
}

#[test]
fn e5_clocks_that_are_set_stop_nothing_in_simulation() {
    tell_many(Story::SetClocks, 6);
}

#[test]
fn anything_at_any_time_loses_nothing() {
    tell_many(Story::Mix, 24);
}

#[test]
fn same_seed_gives_the_same_trace() {
    if is_skipped() {
        return;
    }
    for story in [Story::PowerLoss, Story::Members, Story::Mix] {
        let first = tell_in_process(story, 1).unwrap();
        let second = tell_in_process(story, 1).unwrap();
        assert_eq!(first, second, "{story:?}");
    }
}

#[test]
fn one_story_is_told() {
    let (Ok(story), Ok(seed)) = (std::env::var(STORY), std::env::var(SEED)) else {
        return;
    };
    let known = Story::ALL.into_iter().find(|known| known.name() == story);
    let story = known.expect("the name of a story");
    let seed: u64 = seed.parse().expect("a number");
    let verdict = run(story, seed, std::env::var(TRACE).is_ok());
    eprintln!("{SUMMARY}{}", verdict.summary);
    for wrong in &verdict.wrong {
        eprintln!("wrong: {wrong}");
    }
    assert!(verdict.wrong.is_empty(), "{story:?} with seed {seed}");
}

#[cfg(tokio_unstable)]
fn run(story: Story, seed: u64, is_verbose: bool) -> Verdict {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()
        .expect("a runtime");
    runtime.block_on(seeded(seed, story.tell(seed, is_verbose)))
}

#[cfg(not(tokio_unstable))]
fn run(_: Story, _: u64, _: bool) -> Verdict {
    panic!("build with RUSTFLAGS=\"--cfg tokio_unstable\": without it a seed decides nothing")
}

fn is_skipped() -> bool {
    let is_skipped = cfg!(not(tokio_unstable));
    if is_skipped {
        eprintln!("SKIPPED: the simulation needs --cfg tokio_unstable, see .cargo/config.toml");
    }
    is_skipped
}

fn tell_many(story: Story, default: u64) {
    if is_skipped() {
        return;
    }
    let seeds = std::env::var(SEEDS).map_or(default, |seeds| seeds.parse().expect("a number"));
    let failed: Vec<String> = (1..=seeds)
        .filter_map(|seed| tell_in_process(story, seed).err())
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The line that the run says; or what went wrong, with the command that shows it again.
fn tell_in_process(story: Story, seed: u64) -> Result<String, String> {
    let file = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(file)
        .args([TELLER, "--exact", "--nocapture"])
        .env(STORY, story.name())
        .env(SEED, seed.to_string())
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let summary = said.lines().find(|line| line.starts_with(SUMMARY));
    match summary {
        Some(summary) if output.status.success() => Ok(summary.to_owned()),
        _ => {
            let end: Vec<&str> = said.lines().rev().take(30).collect();
            let end: Vec<&str> = end.into_iter().rev().collect();
            Err(format!(
                "{story:?} with seed {seed}:\n{}\nshow it again: {STORY}={} {SEED}={seed} {TRACE}=1 cargo test -p pacemaker --lib {TELLER} -- --exact --nocapture\n",
                end.join("\n"),
                story.name(),
            ))
        }
    }
}
