//! Slots become runs: on time, once each, signed, recorded, with their logs.

use std::collections::BTreeSet;

use aws_lc_rs::hmac;
use common::api::{CronRunState, CronRunView, CronTrigger};
use common::id::{Generation, RunId};
use common::time::Timestamp;

use crate::crons::leaders::assert_every_slot_has_one_record;
use crate::crons::{NEVER, World, key};
use crate::harness::{eventually, problem};

/// More than a busy machine needs, far less than a slot; half a second in truth.
const LATE: u64 = 15_000;

#[tokio::test]
async fn first_slot_fires_on_time_and_each_slot_once() {
    let world = World::fast(2, "{runspec: \"* * * * *\", uri: /ok, name: clean}").await;
    let [before] = &*world.client.crons(world.application).await.unwrap() else {
        panic!("one cron");
    };
    assert_eq!(before.key(), "web/clean");
    assert!(before.next.unwrap() > Timestamp(0));

    eventually("three slots have fired", async || {
        (world.receiver.calls().len() >= 3).then_some(())
    })
    .await;
    let mut runs = world.runs("web/clean").await;
    runs.reverse();

    assert_every_slot_has_one_record(&runs);
    assert!(runs[0].scheduled <= before.next.unwrap());
    let calls = world.receiver.calls();
    let slots: BTreeSet<&str> = calls
        .iter()
        .map(|call| call.header("pm-cron-scheduled"))
        .collect();
    assert_eq!(slots.len(), calls.len());
    let first = ended(&world, runs[0].id).await;
    assert_eq!(first.state, CronRunState::Succeeded, "{first:?}");
    assert_eq!(first.trigger, CronTrigger::Schedule);
    assert_eq!((first.status, first.attempts), (Some(200), 1));
    let late = first.started.unwrap().0 - first.scheduled.0;
    assert!(late < LATE, "{late} ms late");
    let [view] = &*world.client.crons(world.application).await.unwrap() else {
        panic!("one cron");
    };
    assert!(view.last.is_some());
    assert!(view.next > before.next);
}

#[tokio::test]
async fn request_says_what_it_is_and_is_signed_with_the_applications_key() {
    let crons = "{runspec: \"0 0 1 1 *\", uri: \"/ok?x=1\", method: POST, username: Aladdin, password: open sesame}";
    let world = World::with(1, crons).await;

    let run = world.run("/ok?x=1").await;

    assert_eq!(run.trigger, CronTrigger::Manual);
    let calls = world.receiver.calls();
    let [call] = &*calls else { panic!("{calls:?}") };
    assert_eq!((&*call.method, &*call.uri), ("POST", "/ok?x=1"));
    assert_eq!(RunId(call.run()), run.id);
    assert_eq!(call.attempt(), 1);
    assert_eq!(call.header("user-agent"), "paasmaker-cron/1");
    assert_eq!(call.header("host"), "hello.example.com");
    assert_eq!(call.header("content-length"), "0");
    assert_eq!(
        call.header("authorization"),
        "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    );
    assert_eq!(call.header("pm-cron-scheduled"), run.scheduled.to_string());
    let (time, signature) = call.header("pm-cron-signature").split_once(",v1=").unwrap();
    let signed = format!(
        "{}\nPOST\n/ok?x=1\n{}\n{}\n1",
        time.strip_prefix("t=").unwrap(),
        run.id,
        run.scheduled
    );
    let nodes = world.client.nodes().await.unwrap();
    let watch = world.pacemaker.node();
    let assignment = watch.watch_assignment(nodes[0].id, Generation(0)).await;
    let assignment = assignment.unwrap().unwrap();
    let secret = assignment.instances[0].cron_key.as_ref().unwrap();
    let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes());
    let tag: Vec<u8> = (0..signature.len() / 2)
        .map(|at| u8::from_str_radix(&signature[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    hmac::verify(&secret, signed.as_bytes(), &tag).unwrap();
}

#[tokio::test]
async fn neither_password_nor_key_is_in_any_answer() {
    let crons = "{runspec: \"0 0 1 1 *\", uri: /ok, username: Aladdin, password: open sesame}";
    let world = World::with(1, crons).await;
    let run = world.run("/ok").await;

    for path in [
        "/v1/applications/1/crons".to_owned(),
        "/v1/applications/1/cron-runs".to_owned(),
        "/v1/applications/1".to_owned(),
        format!("/v1/cron-runs/{}/log", run.id),
    ] {
        let answer = world.pacemaker.request(reqwest::Method::GET, &path).send();
        let text = answer.await.unwrap().text().await.unwrap();
        assert!(!text.contains("sesame"), "{path}: {text}");
        assert!(!text.contains("cron_key"), "{path}: {text}");
    }
}

#[tokio::test]
async fn suspended_cron_fires_nothing_until_it_is_resumed() {
    let world = World::fast(1, "{runspec: \"* * * * *\", uri: /ok, name: clean}").await;
    eventually("a slot has fired", async || {
        (!world.receiver.calls().is_empty()).then_some(())
    })
    .await;

    let (first, second) = (key(), key());
    let suspended = world
        .client
        .suspend_cron(world.application, "clean", &first);
    suspended.await.unwrap();
    let view = &world.client.crons(world.application).await.unwrap()[0];
    assert!(view.suspended);
    assert_eq!(view.next, None);
    let newest = world.runs("clean").await[0].id;
    let since = world.wall.now();
    world.wall_is_past(Timestamp(since.0 + 150_000)).await;
    assert_eq!(world.runs("clean").await[0].id, newest);

    let resumed_at = world.wall.now();
    let resumed = world
        .client
        .resume_cron(world.application, "clean", &second);
    resumed.await.unwrap();
    eventually("it fires again", async || {
        let newest_now = &world.runs("clean").await[0];
        (newest_now.id > newest && newest_now.attempts > 0).then_some(())
    })
    .await;
    let runs = world.runs("clean").await;
    // The state dates a resumption by the log's time, which is behind the scaled clock: slots in
    // between are missed here. None of them is run.
    let is_after = |run: &&CronRunView| run.id > newest && run.state != CronRunState::Missed;
    for run in runs.iter().filter(is_after) {
        assert!(run.scheduled > resumed_at, "{run:?}");
    }
}

#[tokio::test]
async fn a_hundred_crons_that_are_due_at_once_all_fire_once() {
    let lines = (0..100)
        .map(|number| format!("{{runspec: \"*/2 * * * *\", uri: /ok, name: cron-{number}}}\n"));
    let world = World::fast(4, &lines.collect::<String>()).await;

    eventually("all have fired", async || {
        (world.receiver.calls().len() >= 100).then_some(())
    })
    .await;

    let calls = world.receiver.calls();
    let slots: BTreeSet<(String, String)> = calls
        .iter()
        .map(|call| {
            let run = call.header("pm-cron-run").to_owned();
            (run, call.header("pm-cron-scheduled").to_owned())
        })
        .collect();
    assert_eq!(slots.len(), calls.len(), "a run was sent twice");
    for cron in ["cron-0", "cron-50", "cron-99"] {
        world.run_in(cron, CronRunState::Succeeded).await;
    }
    let metrics = world
        .pacemaker
        .request(reqwest::Method::GET, "/metrics")
        .send();
    let metrics = metrics.await.unwrap().text().await.unwrap();
    for name in [
        "pm_pacemaker_cron_runs_total{outcome=\"succeeded\"}",
        "pm_pacemaker_cron_lateness_seconds_bucket",
        "pm_pacemaker_crons_in_flight",
        "pm_pacemaker_crons_failing",
    ] {
        assert!(metrics.contains(name), "{name}");
    }
}

#[tokio::test]
async fn refusals_have_codes_of_their_own() {
    let crons = format!("{{runspec: \"{NEVER}\", uri: /ok, name: clean}}");
    let world = World::with(1, &crons).await;
    let ask = async |method: reqwest::Method, path: &str, body: &str| {
        let request = world.pacemaker.request(method, path);
        let request = request.header("content-type", "application/json");
        problem(request.body(body.to_owned()).send().await.unwrap()).await
    };
    let (get, post) = (reqwest::Method::GET, reqwest::Method::POST);

    for path in ["/v1/applications/9/crons", "/v1/applications/9/cron-runs"] {
        let refused = ask(get.clone(), path, "").await;
        assert_eq!(refused, (404, "application_not_found".to_owned()), "{path}");
    }
    for path in ["/v1/cron-runs/99", "/v1/cron-runs/99/log"] {
        let refused = ask(get.clone(), path, "").await;
        assert_eq!(refused, (404, "cron_run_not_found".to_owned()), "{path}");
    }
    for path in ["cron-runs", "crons/suspend", "crons/resume"] {
        let path = format!("/v1/applications/1/{path}");
        let refused = ask(post.clone(), &path, "{\"cron\": \"web/other\"}").await;
        assert_eq!(refused, (404, "cron_not_found".to_owned()), "{path}");
        let refused = ask(post.clone(), &path, "{\"corn\": \"clean\"}").await;
        assert_eq!(refused, (400, "body_invalid".to_owned()), "{path}");
    }
    let refused = ask(get, "/v1/applications/1/cron-runs?cron=other", "").await;
    assert_eq!(refused, (404, "cron_not_found".to_owned()));
}

#[tokio::test]
async fn same_key_runs_a_cron_once() {
    let crons = format!("{{runspec: \"{NEVER}\", uri: /ok, name: clean, overlap: allow}}");
    let world = World::with(1, &crons).await;
    let key = key();

    let once = world
        .client
        .start_cron_run(world.application, "clean", &key);
    let once = once.await.unwrap();
    let again = world
        .client
        .start_cron_run(world.application, "web/clean", &key);
    let again = again.await.unwrap();

    assert_eq!(once.id, again.id);
    ended(&world, once.id).await;
    assert_eq!(world.receiver.calls().len(), 1);
}

async fn ended(world: &World, run: RunId) -> CronRunView {
    crate::crons::ended(&world.client, run).await
}
