//! Hostnames, and sentences that name what is waited for.

use pacemaker_core::command::RejectionCode;

use crate::generators::{instance_type, version_spec, with_hostname};
use crate::world::{Behaviour, World};

use super::hello;

#[test]
fn hostname_belongs_to_one_application() {
    let mut world = World::new(16, 1);
    let type_with = |hostname: &str| with_hostname(instance_type("web", 1), hostname);
    world.deploy_well(&version_spec("one", vec![type_with("example.com")]));

    for (taken, code) in [
        ("example.com", RejectionCode::HostnameTaken),
        ("web.one.default.cluster.test", RejectionCode::HostnameTaken),
        ("*.cluster.test", RejectionCode::HostnameTaken),
        ("*.test", RejectionCode::HostnameTaken),
    ] {
        let spec = version_spec("two", vec![type_with(taken)]);
        let refusal = world.deploy(&spec, Behaviour::Good, true).unwrap_err();
        assert_eq!(refusal.code, code, "{taken}");
    }
    world.deploy_well(&version_spec("two", vec![type_with("*.example.com")]));
    let table = world.state.routes();
    assert_eq!(table.lookup("example.com").unwrap().application_name, "one");
    assert_eq!(
        table.lookup("a.example.com").unwrap().application_name,
        "two"
    );
}

#[test]
fn generated_names_of_dotted_applications_do_not_collide() {
    let mut world = World::new(17, 1);
    // Version 1 of type `web` of `b` would be `1.web.b…`, and so would type `1` of `web.b`.
    world.deploy_well(&version_spec("b", vec![instance_type("web", 1)]));

    let spec = version_spec("web.b", vec![instance_type("1", 1)]);
    let refusal = world.deploy(&spec, Behaviour::Good, true).unwrap_err();

    assert_eq!(refusal.code, RejectionCode::HostnameTaken);
}

#[test]
fn explanation_names_the_router_that_is_waited_for() {
    let mut world = World::new(27, 2);
    let target = world.deploy_well(&hello(1));
    let (router, _) = world.routers.first_key_value().unwrap();
    let router = *router;
    world.routers.get_mut(&router).unwrap().is_stuck = true;
    let (job, _) = world.deploy(&hello(1), Behaviour::Good, true).unwrap();
    world.run_for(5_000);

    let by_job = world.state.explain_job(job, &world.sightings).unwrap();
    let by_application = world
        .state
        .explain_application(target.application, &world.sightings)
        .unwrap();

    let line = format!("waiting for the router of node {router} (node1) to acknowledge");
    for explanation in [by_job, by_application] {
        assert!(
            explanation
                .lines
                .iter()
                .any(|other| other.starts_with(&line)),
            "{explanation:#?}"
        );
    }
}

#[test]
fn explanation_of_a_missing_instance_goes_node_by_node() {
    let mut world = World::new(28, 1);
    let target = world.deploy_well(&hello(1));
    let (node, _) = world.hearts.first_key_value().unwrap();
    let node = *node;
    world.hearts.get_mut(&node).unwrap().is_connected = false;
    world.run_for(3_000);

    let explanation = world
        .state
        .explain_application(target.application, &world.sightings)
        .unwrap();

    assert!(
        explanation
            .lines
            .iter()
            .any(|line| line == "node 1 (node1) is silent"),
        "{explanation:#?}"
    );
    let (instance, _) = world.state.instances().first_key_value().unwrap();
    let explanation = world
        .state
        .explain_instance(*instance, &world.sightings)
        .unwrap();
    assert!(explanation.summary.contains("is lost"), "{explanation:#?}");
}
