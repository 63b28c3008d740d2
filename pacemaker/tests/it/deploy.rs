//! Deployments through the API, with a node that obeys.

use common::api::DeployRequest;
use common::assignment::PackageReference;
use common::digest::Digest;
use common::id::{Generation, WorkspaceStub};
use common::job::{Job, JobState};
use pacemaker_client::{Client, WhySubject};

use crate::harness::{Pacemaker, eventually, fresh};
use crate::node::FakeNode;

pub(crate) const MANIFEST: &str = "
manifest:
  format: 1
application:
  name: hello
instances:
  - name: web
    quantity: 2
    runtime:
      plugin: paasmaker.runtime.shell
      version: 1
      parameters:
        launch_command: \"serve %(port)d\"
";

#[tokio::test]
async fn deployment_runs_to_its_end_and_is_routed() {
    let (_directory, pacemaker) = fresh().await;
    let client = pacemaker.administrator();
    let _node = FakeNode::start(&pacemaker.node(), &pacemaker.url).await;

    let job = deploy(&client, b"first").await;

    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
    let views = client.applications(None, Some("hello")).await.unwrap();
    let [view] = &*views else { panic!("{views:?}") };
    assert_eq!(view.current.map(|version| version.0), Some(1));
    assert!(
        view.urls.iter().any(|url| url.contains("hello")),
        "{:?}",
        view.urls
    );
    let routes = client.routes().await.unwrap().unwrap();
    assert!(
        routes
            .routes
            .values()
            .any(|route| route.backends.len() == 2)
    );
    let why = client.why(WhySubject::Application(view.id)).await.unwrap();
    assert!(!why.summary.is_empty());
}

#[tokio::test]
async fn second_version_takes_over_and_rollback_goes_back() {
    let (_directory, pacemaker) = fresh().await;
    let client = pacemaker.administrator();
    let _node = FakeNode::start(&pacemaker.node(), &pacemaker.url).await;

    let first = deploy(&client, b"first").await;
    let second = deploy(&client, b"second").await;
    assert_eq!(second.state, JobState::Succeeded, "{second:?}");
    assert_eq!(current(&client, &first).await, Some(2));

    let started = client.rollback(first.application, "key-1").await.unwrap();
    let back = finished(&client, started.job).await;
    assert_eq!(back.state, JobState::Succeeded, "{back:?}");
    assert_eq!(current(&client, &first).await, Some(1));
}

#[tokio::test]
async fn deployment_goes_on_after_the_pacemaker_crashed() {
    let (directory, pacemaker) = fresh().await;
    let client = pacemaker.administrator();
    let node = FakeNode::start(&pacemaker.node(), &pacemaker.url).await;
    drop(node);
    let started = begin(&client, b"first").await;
    pacemaker.crash();

    let pacemaker = Pacemaker::start(directory.path()).await;
    let client = pacemaker.administrator();
    let _node = FakeNode::start(&pacemaker.node(), &pacemaker.url).await;

    let job = finished(&client, started).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
}

#[tokio::test]
async fn broken_manifest_is_refused_with_its_faults() {
    let (_directory, pacemaker) = fresh().await;
    let client = pacemaker.administrator();
    let source = upload(&client, b"source").await;

    let request = DeployRequest {
        workspace: WorkspaceStub::parse("default").unwrap(),
        manifest: "manifest: {format: 1}\napplication: {nane: hello}\n".to_owned(),
        source,
        promote: true,
    };
    let error = client.deploy(&request, "key-1").await.unwrap_err();

    let problem = error.problem().unwrap();
    assert_eq!((problem.status, &*problem.code), (422, "manifest_invalid"));
    assert!(!problem.faults.is_empty());
}

#[tokio::test]
async fn source_that_was_never_uploaded_is_refused() {
    let (_directory, pacemaker) = fresh().await;
    let client = pacemaker.administrator();
    let _node = FakeNode::start(&pacemaker.node(), &pacemaker.url).await;

    let request = DeployRequest {
        workspace: WorkspaceStub::parse("default").unwrap(),
        manifest: MANIFEST.to_owned(),
        source: Digest::of(b"never"),
        promote: true,
    };
    let error = client.deploy(&request, "key-1").await.unwrap_err();

    assert_eq!(error.problem().unwrap().code, "package_not_found");
}

#[tokio::test]
async fn same_key_deploys_once() {
    let (_directory, pacemaker) = fresh().await;
    let client = pacemaker.administrator();
    let _node = FakeNode::start(&pacemaker.node(), &pacemaker.url).await;
    let request = DeployRequest {
        workspace: WorkspaceStub::parse("default").unwrap(),
        manifest: MANIFEST.to_owned(),
        source: upload(&client, b"source").await,
        promote: true,
    };

    let once = client.deploy(&request, "the same key").await.unwrap();
    let again = client.deploy(&request, "the same key").await.unwrap();
    let other = client.deploy(&request, "another key").await;

    assert_eq!(once.job, again.job);
    if let Ok(other) = other {
        assert_ne!(once.job, other.job);
    }
    assert_eq!(finished(&client, once.job).await.state, JobState::Succeeded);
}

pub(crate) async fn upload(client: &Client, content: &[u8]) -> Digest {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    let package = PackageReference {
        digest: Digest::of(content),
        size: content.len() as u64,
    };
    client
        .upload_package(&package, file.path(), &|_| ())
        .await
        .unwrap();
    package.digest
}

pub(crate) async fn begin(client: &Client, content: &[u8]) -> common::id::JobId {
    let request = DeployRequest {
        workspace: WorkspaceStub::parse("default").unwrap(),
        manifest: MANIFEST.to_owned(),
        source: upload(client, content).await,
        promote: true,
    };
    let key = Digest::of(content).to_string();
    client.deploy(&request, &key).await.unwrap().job
}

async fn deploy(client: &Client, content: &[u8]) -> Job {
    let job = begin(client, content).await;
    finished(client, job).await
}

/// Follows the job by its generations to its end.
pub(crate) async fn finished(client: &Client, job: common::id::JobId) -> Job {
    let mut after = Generation(0);
    let follow = async {
        loop {
            if let Some(view) = client.watch_job(job, after).await.unwrap() {
                assert!(view.generation > after);
                after = view.generation;
                if view.job.state.is_final() {
                    return view.job;
                }
            }
        }
    };
    let patience = std::time::Duration::from_secs(30);
    match tokio::time::timeout(patience, follow).await {
        Ok(job) => job,
        Err(_) => panic!("not finished: {:?}", client.job(job).await),
    }
}

async fn current(client: &Client, job: &Job) -> Option<u64> {
    eventually("the application is there", async || {
        client.application(job.application).await.ok()
    })
    .await
    .current
    .map(|version| version.0)
}
