//! The CEL rules of a CRD (`x-kubernetes-validations`) on an object.
//!
//! The rules are evaluated by the same CEL that evaluates a route's `when`: CEL's standard library without Kubernetes's
//! additions to it (`url()`, `quantity()`, ...). A test fails when a rule of the CRD does not compile.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::objects::Key;
use cel::{Context, Env};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, ValidationRule};
use serde_json::Value;

use super::Violation;
use super::schema::{field_schema, item_schema};
use crate::field::FieldPath;

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// Every rule of the schema that `value`, or something in it, does not fulfil.
pub(super) fn check(
    schema: &JSONSchemaProps,
    value: &Value,
    at: &FieldPath,
    violations: &mut Vec<Violation>,
) {
    if value.is_null() {
        return;
    }
    for rule in schema.x_kubernetes_validations.iter().flatten() {
        if !holds(rule, value) {
            let cause = rule.message.clone().unwrap_or_else(|| format!("failed rule: {}", rule.rule));
            violations.push(Violation::new(at, cause));
        }
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let Some(known) = field_schema(schema, name) {
                    check(known, value, &at.child(name), violations);
                }
            }
        }
        Value::Array(items) => {
            if let Some(known) = item_schema(schema) {
                for (index, item) in items.iter().enumerate() {
                    check(known, item, &at.item(index), violations);
                }
            }
        }
        _ => {}
    }
}

/// Whether a rule is true. A rule that fails to evaluate refuses, as at the API server.
fn holds(rule: &ValidationRule, value: &Value) -> bool {
    let Ok(program) = ENVIRONMENT.compile(&rule.rule) else { return false };
    let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
    context.add_variable_from_value("self", cel_value(value));
    matches!(program.execute(&context), Ok(cel::Value::Bool(true)))
}

/// A value as a rule sees it: whole numbers are `int`, and a field that is null is absent.
fn cel_value(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => cel::Value::Int(whole),
            None => cel::Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(cel_value).collect::<Vec<_>>().into(),
        Value::Object(fields) => {
            let present = fields.iter().filter(|(_, value)| !value.is_null());
            let fields: HashMap<Key, cel::Value> =
                present.map(|(name, value)| (name.as_str().into(), cel_value(value))).collect();
            fields.into()
        }
    }
}
