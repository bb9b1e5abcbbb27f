//! What the API server would say of a PresenceRoute that is applied, without one.
//!
//! It goes the API server's way: unknown fields (which `kubectl apply` has refused), metadata, defaults, the
//! definition's schema, and, where nothing is so wrong that they could not be evaluated, the definition's CEL rules.
//! The schema and the rules are those of the definition that is installed, and nothing here knows a field by name.

mod metadata;
mod rules;
mod schema;

use std::fmt;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use kube::{CustomResourceExt, Resource};
use presenceroute_crds::PresenceRoute;
use serde_json::Value;

use crate::field::FieldPath;

/// Something that the API server refuses an object for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The field that it names.
    pub field: FieldPath,
    /// Why. It never holds the field's value.
    pub cause: String,
    /// The rules are not evaluated on an object that is so wrong.
    blocks_rules: bool,
}

impl Refusal {
    fn new(field: &FieldPath, cause: impl Into<String>) -> Self {
        Self { field: field.clone(), cause: cause.into(), blocks_rules: false }
    }

    fn blocking(field: &FieldPath, cause: impl Into<String>) -> Self {
        Self { blocks_rules: true, ..Self::new(field, cause) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.field, self.cause)
    }
}

/// Admits an object and reads it as the operator does.
pub fn admit_route(object: &Value) -> Result<PresenceRoute, Vec<Refusal>> {
    let admitted = admit(object)?;
    serde_json::from_value(admitted)
        .map_err(|cause| vec![Refusal::new(&FieldPath::default(), cause.to_string())])
}

/// Gives an object all its defaults, or says everything that it is refused for.
pub fn admit(object: &Value) -> Result<Value, Vec<Refusal>> {
    let root = FieldPath::default();
    let mut refusals = metadata::refusals(object, &root);
    let Some(schema) = schema() else {
        return Err(vec![Refusal::new(&root, "the definition of PresenceRoute has no schema")]);
    };
    refusals.extend(schema::unknown_fields(&schema, object, &root));
    let mut object = object.clone();
    if let Value::Object(fields) = &mut object {
        // It is a subresource: whoever applies an object has no say in its status.
        fields.remove("status");
    }
    schema::set_defaults(&schema, &mut object);
    schema::check(&schema, &object, &root, &mut refusals);
    if !refusals.iter().any(|refusal| refusal.blocks_rules) {
        rules::check(&schema, &object, &root, &mut refusals);
    }
    if refusals.is_empty() { Ok(object) } else { Err(refusals) }
}

/// The schema of the version that people write.
fn schema() -> Option<JSONSchemaProps> {
    let version = PresenceRoute::version(&());
    let versions = PresenceRoute::crd().spec.versions;
    versions.into_iter().find(|known| known.name == version)?.schema?.open_api_v3_schema
}

#[cfg(test)]
mod tests;
