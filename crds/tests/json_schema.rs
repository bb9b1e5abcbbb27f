//! The JSON schema that editors fetch is the one that the types make. To write it anew:
//! `UPDATE=1 cargo test -p presenceroute-crds --test json_schema`

use std::path::Path;
use std::{env, fs};

#[test]
fn the_committed_json_schema_is_the_generated_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/presenceroute_v1alpha1.json");
    let generated = presenceroute_crds::json_schema().unwrap();
    if env::var_os("UPDATE").is_some() {
        fs::write(&file, &generated).unwrap();
    }
    assert!(
        fs::read_to_string(&file).unwrap_or_default() == generated,
        "crds/schemas/presenceroute_v1alpha1.json is not what the types make; write it anew: \
         UPDATE=1 cargo test -p presenceroute-crds --test json_schema"
    );
}
