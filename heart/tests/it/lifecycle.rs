//! The life of an instance, from its assignment to its removal.

use std::fs;

use common::application::{HealthSpec, Program, StopSignal};
use common::id::InstanceId;
use common::instance::{FailureCode, InstanceGoal, InstanceState};
use common::time::Span;
use serde_json::Value;

use crate::node::{Node, TOKEN, ask, eventually, lives, script};

#[tokio::test(flavor = "multi_thread")]
async fn an_assigned_instance_runs_and_an_unassigned_one_leaves_nothing() {
    let node = Node::started().await;

    node.pacemaker.assign_instances(vec![node.server(1)]);
    let running = node.reaches(1, InstanceState::Running).await;

    let (port, pid) = (running.port.unwrap(), running.pid.unwrap());
    assert!(node.ports.contains(&port));
    assert_eq!(ask(port), Some(pid.to_string()));

    node.pacemaker.assign_instances(Vec::new());
    node.is_rid_of(1).await;

    assert!(!lives(pid));
    assert_eq!(ask(port), None);
    let history = node.pacemaker.history(InstanceId(1));
    assert!(
        history
            .iter()
            .any(|seen| seen.state == InstanceState::Stopped)
    );
    assert!(
        history
            .iter()
            .all(|seen| seen.state != InstanceState::Failed)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_instance_waits_on_disk_and_starts_on_its_old_port_again() {
    let node = Node::started().await;
    let mut instance = node.server(1);
    instance.goal = InstanceGoal::Registered;
    node.pacemaker.assign_instances(vec![instance.clone()]);
    let registered = node.reaches(1, InstanceState::Registered).await;
    assert_eq!(registered.port, None);
    assert!(node.instance_directory(1).join("code/code.txt").is_file());

    instance.goal = InstanceGoal::Running;
    node.pacemaker.assign_instances(vec![instance.clone()]);
    let first = node.reaches(1, InstanceState::Running).await;
    instance.goal = InstanceGoal::Registered;
    node.pacemaker.assign_instances(vec![instance.clone()]);
    node.reaches(1, InstanceState::Stopped).await;
    instance.goal = InstanceGoal::Running;
    node.pacemaker.assign_instances(vec![instance.clone()]);
    let second = node.reaches(1, InstanceState::Running).await;

    assert_eq!(first.port, second.port);
    assert_ne!(first.pid, second.pid);
    assert_eq!(second.restarts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_of_a_package_costs_no_second_download() {
    let node = Node::started().await;
    node.pacemaker
        .assign_instances(vec![node.server(1), node.server(2)]);
    node.reaches(1, InstanceState::Running).await;
    node.reaches(2, InstanceState::Running).await;
    node.pacemaker
        .assign_instances(vec![node.server(1), node.server(2), node.server(3)]);
    node.reaches(3, InstanceState::Running).await;

    let digest = node.server(1).package.digest;
    assert_eq!(node.pacemaker.memory().downloads[&digest], 1);

    // Each has its own copy: what one writes, the others do not see.
    fs::write(node.instance_directory(1).join("code/code.txt"), "mine").unwrap();
    let other = fs::read_to_string(node.instance_directory(2).join("code/code.txt")).unwrap();
    assert_eq!(other, "code");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_sees_what_the_manifest_promises() {
    let node = Node::started().await;
    let mut worker = node.worker(1, "env > env.txt; exec sleep 1000");
    worker.env = [("WORKERS".to_owned(), "4".to_owned())].into();
    worker.services = [("db".to_owned(), serde_json::json!({"provider": "p"}))].into();
    node.pacemaker.assign_instances(vec![worker]);
    node.reaches(1, InstanceState::Running).await;

    let text = fs::read_to_string(node.instance_directory(1).join("code/env.txt")).unwrap();
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(&format!("{name}=")))
            .map(ToOwned::to_owned)
    };

    assert_eq!(value("PM_INSTANCE").as_deref(), Some("1"));
    assert_eq!(value("PM_INSTANCE_TYPE").as_deref(), Some("web"));
    assert_eq!(value("WORKERS").as_deref(), Some("4"));
    assert_eq!(value("PM_PORT"), None);
    assert_eq!(value("CARGO_TARGET_DIR"), None);
    let services: Value = serde_json::from_str(&value("PM_SERVICES").unwrap()).unwrap();
    assert_eq!(services["db"]["provider"], "p");
    let metadata: Value = serde_json::from_str(&value("PM_METADATA").unwrap()).unwrap();
    assert_eq!(metadata["application"]["application_id"], 5);
    assert_eq!(metadata["node"]["disk"], "ssd");
}

#[tokio::test(flavor = "multi_thread")]
async fn startup_commands_run_before_each_ordered_start_and_not_after_a_crash() {
    let node = Node::started().await;
    let mut server = node.server(1);
    server.startup = vec![script(&["echo $PM_PORT >> ../started", "sleep 0.1 &"])];
    node.pacemaker.assign_instances(vec![server.clone()]);
    let first = node.reaches(1, InstanceState::Running).await;
    let started = || {
        let text = fs::read_to_string(node.instance_directory(1).join("started")).unwrap();
        text.lines().map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(started(), [first.port.unwrap().to_string()]);

    kill(first.pid.unwrap());
    let again = || {
        let found = node.pacemaker.instance(InstanceId(1))?;
        (found.state == InstanceState::Running && found.restarts == 1).then_some(())
    };
    eventually("a restart", again, String::new).await;
    assert_eq!(started().len(), 1);

    server.goal = InstanceGoal::Registered;
    node.pacemaker.assign_instances(vec![server.clone()]);
    node.reaches(1, InstanceState::Stopped).await;
    server.goal = InstanceGoal::Running;
    node.pacemaker.assign_instances(vec![server]);
    node.reaches(1, InstanceState::Running).await;
    assert_eq!(started().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_startup_command_says_why_and_never_starts_the_process() {
    let node = Node::started().await;
    let mut server = node.server(1);
    server.startup = vec![script(&["echo first", "ls /absent/file", "echo never"])];
    node.pacemaker.assign_instances(vec![server]);

    let failed = node.fails(1, FailureCode::StartupFailed).await;

    let failure = failed.failure.unwrap();
    assert_eq!(failed.pid, None);
    assert!(failure.message.contains("code 2"), "{failure:?}");
    assert!(failure.output_tail.starts_with("first\n"), "{failure:?}");
    assert!(
        failure.output_tail.contains("ls /absent/file"),
        "{failure:?}"
    );
    assert!(!failure.output_tail.contains("never"));

    node.pacemaker.assign_instances(Vec::new());
    node.is_rid_of(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn startup_commands_that_are_no_longer_wanted_are_killed() {
    let node = Node::started().await;
    let mut server = node.server(1);
    server.startup = vec![script(&["echo $$ > ../script", "sleep 1000"])];
    node.pacemaker.assign_instances(vec![server]);
    let file = node.instance_directory(1).join("script");
    let pid = || fs::read_to_string(&file).ok()?.trim().parse().ok();
    let pid: u32 = eventually("the script runs", pid, String::new).await;

    node.pacemaker.assign_instances(Vec::new());
    node.is_rid_of(1).await;

    assert!(!lives(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_exist_is_a_launch_failure() {
    let node = Node::started().await;
    let mut server = node.server(1);
    server.runtime.program = Program::Command {
        launch_command: "/absent/program %(port)d".to_owned(),
    };
    node.pacemaker.assign_instances(vec![server]);

    let failed = node.fails(1, FailureCode::LaunchFailed).await;

    let message = failed.failure.unwrap().message;
    assert!(message.contains("/absent/program"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_exits_at_once_fails_with_its_last_words() {
    let node = Node::started().await;
    let mut server = node.worker(1, "echo starting; echo broken >&2; exit 7");
    server.standalone = false;
    node.pacemaker.assign_instances(vec![server]);

    let failed = node.fails(1, FailureCode::Exited).await;

    let failure = failed.failure.unwrap();
    assert_eq!(failure.message, "the process exited with code 7");
    assert_eq!(failure.output_tail, "starting\nbroken\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_never_listens_is_stopped() {
    let node = Node::started().await;
    let mut server = node.worker(1, "echo $$; exec sleep 1000");
    server.standalone = false;
    server.start_timeout = Span(300);
    node.pacemaker.assign_instances(vec![server]);

    let failed = node.fails(1, FailureCode::NotListening).await;

    let failure = failed.failure.unwrap();
    assert!(failure.message.contains("300ms"), "{failure:?}");
    let pid: u32 = failure.output_tail.trim().parse().unwrap();
    eventually("its end", || (!lives(pid)).then_some(()), String::new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_runs_only_once_its_health_path_answers() {
    let node = Node::started().await;
    let mut server = node.server(1);
    server.health = Some(HealthSpec {
        path: "/up".to_owned(),
        interval: Span(50),
        timeout: Span::seconds(2),
        unhealthy_after: 3,
        restart_after: 0,
    });
    server.start_timeout = Span(300);
    node.pacemaker.assign_instances(vec![server.clone()]);

    let failed = node.fails(1, FailureCode::Unhealthy).await;
    let message = failed.failure.unwrap().message;
    assert!(
        message.contains("/up answered with status 503"),
        "{message}"
    );

    fs::write(node.instance_directory(1).join("code/healthy"), "").unwrap();
    node.reaches(1, InstanceState::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_process_must_live_for_a_while() {
    let node = Node::started().await;
    let mut worker = node.worker(1, "echo gone; sleep 0.05");
    worker.standalone_wait = Span::seconds(30);
    let survivor = node.worker(2, "exec sleep 1000");
    node.pacemaker.assign_instances(vec![worker, survivor]);

    let failed = node.fails(1, FailureCode::Exited).await;
    let running = node.reaches(2, InstanceState::Running).await;

    assert_eq!(
        failed.failure.unwrap().message,
        "the process exited with code 0"
    );
    assert_eq!(running.port, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ignores_the_stop_signal_is_killed_after_the_grace() {
    let node = Node::started().await;
    let mut worker = node.worker(1, "trap '' TERM; (trap '' TERM; sleep 1000) & sleep 1000");
    worker.stop.grace = Span(200);
    node.pacemaker.assign_instances(vec![worker]);
    let running = node.reaches(1, InstanceState::Running).await;

    node.pacemaker.assign_instances(Vec::new());
    node.is_rid_of(1).await;

    assert!(!lives(running.pid.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifests_stop_signal_is_sent() {
    let node = Node::started().await;
    let script =
        "trap 'echo hangup > ../signal; exit 0' HUP; echo up; while :; do sleep 0.01; done";
    let mut worker = node.worker(1, script);
    worker.stop.signal = StopSignal::Hup;
    node.pacemaker.assign_instances(vec![worker.clone()]);
    node.reaches(1, InstanceState::Running).await;

    worker.goal = InstanceGoal::Registered;
    node.pacemaker.assign_instances(vec![worker]);
    node.reaches(1, InstanceState::Stopped).await;

    let signal = fs::read_to_string(node.instance_directory(1).join("signal"));
    assert_eq!(signal.unwrap(), "hangup\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_site_is_served_by_the_platform_itself() {
    let node = Node::started().await;
    let mut site = node.server(1);
    site.package = node.package(&[("public/index.html", "<h1>hello</h1>")]);
    site.runtime.program = Program::Static {
        document_root: "public".to_owned(),
    };
    node.pacemaker.assign_instances(vec![site]);

    let running = node.reaches(1, InstanceState::Running).await;

    let url = format!("http://127.0.0.1:{}/", running.port.unwrap());
    let body = reqwest::get(url).await.unwrap().text().await.unwrap();
    assert_eq!(body, "<h1>hello</h1>");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_read_from_the_node_by_who_may() {
    let node = Node::started().await;
    let mut worker = node.worker(1, "echo one; echo two; exec sleep 1000");
    worker.startup = vec![script(&["echo zero"])];
    node.pacemaker.assign_instances(vec![worker]);
    node.reaches(1, InstanceState::Running).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!(
        "http://{}/v1/heart/instances",
        listener.local_addr().unwrap()
    );
    let routes = node.running().routes.clone();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let client = reqwest::Client::new();
    let get = async |path: &str, token: &str| {
        let request = client.get(format!("{base}/{path}")).bearer_auth(token);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let offset = response.headers().get("pm-log-offset").cloned();
        (status, offset, response.text().await.unwrap())
    };

    let (status, _, text) = get("1/log?after=0&follow=true", TOKEN).await;
    assert_eq!(status, 200);
    assert!("zero\none\ntwo\n".starts_with(&text), "{text}");
    eventually(
        "both lines",
        || {
            let log = node.instance_directory(1).join("log");
            (heart::shim::log::length(&log).unwrap() == 13).then_some(())
        },
        String::new,
    )
    .await;
    let (_, offset, text) = get("1/log?tail=1", TOKEN).await;
    assert_eq!(text, "two\n");
    assert_eq!(offset.unwrap(), "13");
    assert_eq!(get("1/log?after=9", TOKEN).await.2, "two\n");

    assert_eq!(get("1/log", "wrong").await.0, 401);
    let (status, _, text) = get("2/log", TOKEN).await;
    assert_eq!(status, 404);
    assert!(text.contains("instance_not_found"), "{text}");
    assert_eq!(get("..%2f1/log", TOKEN).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_instances_by_state() {
    let node = Node::started().await;
    node.pacemaker.assign_instances(vec![node.server(1)]);
    node.reaches(1, InstanceState::Running).await;

    let text = (node.running().metrics)();

    assert!(
        text.contains("pm_heart_instances{state=\"running\"} 1"),
        "{text}"
    );
    assert!(text.contains("pm_heart_spawn_seconds_count 1"), "{text}");
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
