//! An object against the structural schema of a CRD: unknown fields, defaults, wrong values.
//!
//! The checks are those of the API server (apiextensions-apiserver, structural schemas) as far as the CRD needs them; a
//! test fails when the CRD begins to use a keyword that is not enforced here.

use std::collections::HashMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::{Map, Value};

use super::{Violation, moved};
use crate::field::FieldPath;

/// The fields that the schema does not know. The API server drops them; `kubectl apply` has it refuse them.
pub(super) fn unknown_fields(schema: &JSONSchemaProps, value: &Value, at: &FieldPath) -> Vec<Violation> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| !is_envelope(at, name))
            .flat_map(|(name, value)| match field_schema(schema, name) {
                Some(known) => unknown_fields(known, value, &at.child(name)),
                None if keeps_unknown_fields(schema) => Vec::new(),
                None => vec![unknown_field(&at.child(name))],
            })
            .collect(),
        Value::Array(items) => match item_schema(schema) {
            Some(known) => items
                .iter()
                .enumerate()
                .flat_map(|(index, item)| unknown_fields(known, item, &at.item(index)))
                .collect(),
            None => Vec::new(),
        },
        _ => Vec::new(),
    }
}

fn unknown_field(at: &FieldPath) -> Violation {
    match moved::new_place(at) {
        Some(now) => Violation::new(at, format!("unknown field; it is {now} now")),
        None => Violation::new(at, "unknown field"),
    }
}

/// What every object has around its own fields.
fn is_envelope(at: &FieldPath, name: &str) -> bool {
    at.parent().is_none() && matches!(name, "apiVersion" | "kind" | "metadata")
}

fn keeps_unknown_fields(schema: &JSONSchemaProps) -> bool {
    schema.x_kubernetes_preserve_unknown_fields == Some(true)
        || matches!(schema.additional_properties, Some(JSONSchemaPropsOrBool::Bool(true)))
}

/// The schema of the field `name` of an object.
pub(super) fn field_schema<'s>(schema: &'s JSONSchemaProps, name: &str) -> Option<&'s JSONSchemaProps> {
    let named = schema.properties.as_ref().and_then(|properties| properties.get(name));
    named.or(match &schema.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(any)) => Some(any),
        _ => None,
    })
}

/// The schema of a list's items.
pub(super) fn item_schema(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(items),
        _ => None,
    }
}

/// Drops every `null` that a field may not be, and gives every absent field its default.
pub(super) fn set_defaults(schema: &JSONSchemaProps, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| {
                let may_be_null = field_schema(schema, name).is_none_or(|known| known.nullable == Some(true));
                !value.is_null() || may_be_null
            });
            for (name, property) in schema.properties.iter().flatten() {
                if let Some(default) = &property.default
                    && !fields.contains_key(name)
                {
                    fields.insert(name.clone(), default.0.clone());
                }
            }
            for (name, value) in fields.iter_mut() {
                if let Some(known) = field_schema(schema, name) {
                    set_defaults(known, value);
                }
            }
        }
        Value::Array(items) => {
            if let Some(known) = item_schema(schema) {
                items.iter_mut().for_each(|item| set_defaults(known, item));
            }
        }
        _ => {}
    }
}

/// Everything in `value` that the schema does not allow.
pub(super) fn check(
    schema: &JSONSchemaProps,
    value: &Value,
    at: &FieldPath,
    violations: &mut Vec<Violation>,
) {
    if value.is_null() && schema.nullable == Some(true) && schema.enum_.is_none() {
        return;
    }
    if let Some(cause) = wrong_type(schema, value) {
        violations.push(Violation::blocking(at, cause));
        return;
    }
    if let Some(allowed) = &schema.enum_
        && !allowed.iter().any(|allowed| &allowed.0 == value)
    {
        let allowed: Vec<_> = allowed.iter().map(|allowed| allowed.0.to_string()).collect();
        violations.push(Violation::blocking(at, format!("Unsupported value; use {}", allowed.join(", "))));
    }
    match value {
        Value::String(text) => check_length(schema, text, at, violations),
        Value::Number(number) => check_range(schema, number, at, violations),
        Value::Array(items) => check_items(schema, items, at, violations),
        Value::Object(fields) => check_fields(schema, fields, at, violations),
        Value::Null | Value::Bool(_) => {}
    }
}

fn wrong_type(schema: &JSONSchemaProps, value: &Value) -> Option<String> {
    let actual = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if schema.x_kubernetes_int_or_string == Some(true) {
        let fits = matches!(actual, "integer" | "string");
        return (!fits).then(|| format!("must be of type integer or string, not {actual}"));
    }
    let expected = schema.type_.as_deref()?;
    let fits = expected == actual || (expected, actual) == ("number", "integer");
    (!fits).then(|| format!("must be of type {expected}, not {actual}"))
}

fn check_length(schema: &JSONSchemaProps, text: &str, at: &FieldPath, violations: &mut Vec<Violation>) {
    let length = count(text.chars().count());
    if schema.max_length.is_some_and(|most| length > most) {
        let cause =
            format!("Too long: must have at most {} characters", schema.max_length.unwrap_or_default());
        violations.push(Violation::blocking(at, cause));
    }
    if schema.min_length.is_some_and(|fewest| length < fewest) {
        let cause = format!("must have at least {} characters", schema.min_length.unwrap_or_default());
        violations.push(Violation::new(at, cause));
    }
}

fn check_range(
    schema: &JSONSchemaProps,
    number: &serde_json::Number,
    at: &FieldPath,
    violations: &mut Vec<Violation>,
) {
    let Some(value) = number.as_f64() else { return };
    if let Some(least) = schema.minimum.filter(|least| value < *least) {
        violations.push(Violation::new(at, format!("must be greater than or equal to {least}")));
    }
    if let Some(most) = schema.maximum.filter(|most| value > *most) {
        violations.push(Violation::new(at, format!("must be less than or equal to {most}")));
    }
    // A format such as int32 is no limit to the API server.
}

fn check_items(schema: &JSONSchemaProps, items: &[Value], at: &FieldPath, violations: &mut Vec<Violation>) {
    if schema.max_items.is_some_and(|most| count(items.len()) > most) {
        let cause = format!("Too many: must have at most {} items", schema.max_items.unwrap_or_default());
        violations.push(Violation::blocking(at, cause));
    }
    if schema.min_items.is_some_and(|fewest| count(items.len()) < fewest) {
        let cause = format!("must have at least {} items", schema.min_items.unwrap_or_default());
        violations.push(Violation::new(at, cause));
    }
    if let Some(known) = item_schema(schema) {
        for (index, item) in items.iter().enumerate() {
            check(known, item, &at.item(index), violations);
        }
    }
    // As the API server does: each value that is there more often is reported once.
    let mut seen = HashMap::<String, usize>::new();
    for (index, item) in items.iter().enumerate() {
        let Some(identity) = identity(schema, item) else { continue };
        let times = seen.entry(identity).or_default();
        *times += 1;
        if *times == 2 {
            violations.push(Violation::new(&at.item(index), "Duplicate value"));
        }
    }
}

/// What no two items of the list may share.
fn identity(schema: &JSONSchemaProps, item: &Value) -> Option<String> {
    match schema.x_kubernetes_list_type.as_deref() {
        Some("set") => Some(item.to_string()),
        Some("map") => {
            let keys = schema.x_kubernetes_list_map_keys.iter().flatten();
            Some(keys.map(|key| item[key].to_string()).collect::<Vec<_>>().join("\n"))
        }
        _ => None,
    }
}

fn check_fields(
    schema: &JSONSchemaProps,
    fields: &Map<String, Value>,
    at: &FieldPath,
    violations: &mut Vec<Violation>,
) {
    if schema.max_properties.is_some_and(|most| count(fields.len()) > most) {
        let most = schema.max_properties.unwrap_or_default();
        violations.push(Violation::blocking(at, format!("Too many: must have at most {most} items")));
    }
    for name in schema.required.iter().flatten().filter(|name| !fields.contains_key(*name)) {
        violations.push(Violation::blocking(&at.child(name), "Required value"));
    }
    for (name, value) in fields.iter().filter(|(name, _)| !is_envelope(at, name)) {
        if let Some(known) = field_schema(schema, name) {
            check(known, value, &at.child(name), violations);
        }
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
