//! The custom resource definition that people install is the one that the types make.

use kube::CustomResourceExt;
use presenceroute_crds::PresenceRoute;

const COMMITTED: &str = include_str!("../presenceroutes.yaml");

#[test]
fn the_committed_definition_is_the_generated_one() {
    let generated = presenceroute_crds::crd_yaml().unwrap();
    assert!(
        generated == COMMITTED,
        "crds/presenceroutes.yaml is not what the types make; write it anew: \
         cargo run -p presenceroute-operator -- crd > crds/presenceroutes.yaml"
    );
}

#[test]
fn the_definition_keeps_the_names_that_scripts_rely_on() {
    let definition = PresenceRoute::crd();
    assert_eq!(definition.metadata.name.as_deref(), Some("presenceroutes.presenceroute.io"));
    let names = definition.spec.names;
    assert_eq!(names.short_names, Some(vec!["pr".to_owned()]));
    assert_eq!(names.categories, Some(vec!["all".to_owned()]));
    let subresources = definition.spec.versions[0].subresources.clone().unwrap();
    assert_eq!(subresources.scale.unwrap().spec_replicas_path, ".spec.relay.replicas");
    assert!(subresources.status.is_some());
}
