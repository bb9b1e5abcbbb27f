//! What the API server would say of a PresenceRoute that is applied, without one.
//!
//! The checks come in the API server's order: unknown fields (which `kubectl apply` has it refuse), metadata, defaults,
//! the CRD's schema, and, unless the object is too wrong for them, the CRD's CEL rules. Schema and rules are those of the
//! CRD that is installed; a field is known by name only where it has [`moved`].

mod metadata;
mod moved;
mod rules;
mod schema;

use std::fmt;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use kube::{CustomResourceExt, Resource};
use presenceroute_crds::PresenceRoute;
use serde_json::Value;

use crate::field::FieldPath;

pub(crate) use metadata::{is_annotation_key, is_label_value, is_qualified_name, is_subdomain};

/// One reason for which the API server refuses an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field that it names.
    pub field: FieldPath,
    /// Why. It never holds the field's value.
    pub cause: String,
    /// The rules are not evaluated on an object that is so wrong.
    blocks_rules: bool,
}

impl Violation {
    fn new(field: &FieldPath, cause: impl Into<String>) -> Self {
        Self { field: field.clone(), cause: cause.into(), blocks_rules: false }
    }

    fn blocking(field: &FieldPath, cause: impl Into<String>) -> Self {
        Self { blocks_rules: true, ..Self::new(field, cause) }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.field, self.cause)
    }
}

/// Admits an object and reads it as the operator does.
pub fn admit_route(object: &Value) -> Result<PresenceRoute, Vec<Violation>> {
    let admitted = admit(object)?;
    serde_json::from_value(admitted)
        .map_err(|cause| vec![Violation::new(&FieldPath::default(), cause.to_string())])
}

/// Gives an object all its defaults, or says everything that it is refused for.
pub fn admit(object: &Value) -> Result<Value, Vec<Violation>> {
    let root = FieldPath::default();
    let mut violations = metadata::violations(object, &root);
    let Some(schema) = schema() else {
        return Err(vec![Violation::new(&root, "the CRD of PresenceRoute has no schema")]);
    };
    violations.extend(schema::unknown_fields(&schema, object, &root));
    let mut object = object.clone();
    if let Value::Object(fields) = &mut object {
        // The status is a subresource: applying an object leaves it alone.
        fields.remove("status");
    }
    schema::set_defaults(&schema, &mut object);
    schema::check(&schema, &object, &root, &mut violations);
    if !violations.iter().any(|violation| violation.blocks_rules) {
        rules::check(&schema, &object, &root, &mut violations);
    }
    if violations.is_empty() { Ok(object) } else { Err(violations) }
}

/// The schema of the version that people write.
fn schema() -> Option<JSONSchemaProps> {
    let version = PresenceRoute::version(&());
    let versions = PresenceRoute::crd().spec.versions;
    versions.into_iter().find(|known| known.name == version)?.schema?.open_api_v3_schema
}

#[cfg(test)]
mod tests;
