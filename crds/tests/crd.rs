//! The CRD that people install is the one that the types make. To write it anew:
//! `UPDATE=1 cargo test -p presenceroute-crds --test crd`

use std::path::Path;
use std::{env, fs};

use kube::CustomResourceExt;
use presenceroute_crds::PresenceRoute;

#[test]
fn the_committed_crd_is_the_generated_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("presenceroutes.yaml");
    let generated = presenceroute_crds::crd_yaml().unwrap();
    if env::var_os("UPDATE").is_some() {
        fs::write(&file, &generated).unwrap();
    }
    assert!(
        fs::read_to_string(&file).unwrap_or_default() == generated,
        "crds/presenceroutes.yaml is not what the types make; write it anew: \
         UPDATE=1 cargo test -p presenceroute-crds --test crd"
    );
}

#[test]
fn the_crd_keeps_the_names_that_scripts_rely_on() {
    let definition = PresenceRoute::crd();
    assert_eq!(definition.metadata.name.as_deref(), Some("presenceroutes.presenceroute.io"));
    let names = definition.spec.names;
    assert_eq!(names.short_names, Some(vec!["pr".to_owned()]));
    assert_eq!(names.categories, None);
    let subresources = definition.spec.versions[0].subresources.clone().unwrap();
    assert_eq!(subresources.scale.unwrap().spec_replicas_path, ".spec.relay.replicas");
    assert!(subresources.status.is_some());
}
