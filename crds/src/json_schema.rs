//! The JSON schema of a manifest, for tools that know no CRD: editors (yaml-language-server) and kubeconform.
//!
//! It follows from the CRD. A structural schema prunes unknown fields and has words of Kubernetes' own; JSON Schema has
//! `additionalProperties` and a list of types instead. The CEL rules have no counterpart: `validate` checks them.

use kube::{CustomResourceExt, Resource};
use serde_json::{Value, json};

use crate::PresenceRoute;

/// The JSON schema (draft-07) of a `PresenceRoute`, as it is committed.
///
/// # Errors
/// The CRD cannot be written as JSON.
pub fn json_schema() -> Result<String, serde_json::Error> {
    let crd = serde_json::to_value(PresenceRoute::crd())?;
    let mut schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    translate(&mut schema);
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!(PresenceRoute::kind(&()));
    schema["properties"]["apiVersion"] = json!({"enum": [PresenceRoute::api_version(&())]});
    schema["properties"]["kind"] = json!({"enum": [PresenceRoute::kind(&())]});
    schema["properties"]["metadata"] = json!({"type": "object"});
    schema["required"] = json!(["apiVersion", "kind", "metadata", "spec"]);
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

/// A structural schema and all below it.
fn translate(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    let is_open = fields.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
    let is_int_or_string = fields.get("x-kubernetes-int-or-string") == Some(&json!(true));
    let is_nullable = fields.remove("nullable") == Some(json!(true));
    fields.retain(|name, _| !name.starts_with("x-kubernetes-"));
    if is_int_or_string {
        fields.insert("type".into(), json!(["integer", "string"]));
    }
    if is_nullable {
        match fields.get_mut("type") {
            Some(Value::Array(types)) => types.push(json!("null")),
            Some(type_) => *type_ = json!([type_, "null"]),
            None => {}
        }
        if let Some(Value::Array(values)) = fields.get_mut("enum")
            && !values.contains(&Value::Null)
        {
            values.push(Value::Null);
        }
    }
    if fields.contains_key("properties") && !is_open && !fields.contains_key("additionalProperties") {
        fields.insert("additionalProperties".into(), json!(false));
    }
    for property in fields.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        translate(property.1);
    }
    for below in ["items", "additionalProperties", "not"] {
        if let Some(schema) = fields.get_mut(below) {
            translate(schema);
        }
    }
    for choice in ["allOf", "anyOf", "oneOf"] {
        for schema in fields.get_mut(choice).and_then(Value::as_array_mut).into_iter().flatten() {
            translate_part(schema);
        }
    }
}

/// A part of a choice constrains the object beside it, whose fields it does not all name.
fn translate_part(schema: &mut Value) {
    let had = schema.get("additionalProperties").is_some();
    translate(schema);
    if !had && let Some(fields) = schema.as_object_mut() {
        fields.remove("additionalProperties");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(mut schema: Value) -> Value {
        translate(&mut schema);
        schema
    }

    #[test]
    fn an_object_takes_no_unknown_field_unless_it_is_open() {
        let object = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        assert_eq!(translated(object.clone())["additionalProperties"], false);
        let mut open = object;
        open["x-kubernetes-preserve-unknown-fields"] = json!(true);
        assert_eq!(translated(open), json!({"type": "object", "properties": {"a": {"type": "string"}}}));
        let map = json!({"type": "object", "additionalProperties": {"type": "string", "nullable": true}});
        assert_eq!(translated(map)["additionalProperties"], json!({"type": ["string", "null"]}));
    }

    #[test]
    fn a_part_of_a_choice_leaves_the_other_fields_alone() {
        let schema = json!({"anyOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]}]});
        assert_eq!(translated(schema.clone()), schema);
    }

    #[test]
    fn what_is_nullable_may_be_null() {
        let choice = json!({"type": "string", "nullable": true, "enum": ["A"]});
        assert_eq!(translated(choice), json!({"type": ["string", "null"], "enum": ["A", null]}));
        let quantity = json!({"x-kubernetes-int-or-string": true, "nullable": true});
        assert_eq!(translated(quantity), json!({"type": ["integer", "string", "null"]}));
    }

    #[test]
    fn no_word_of_a_structural_schema_is_left() {
        let schema = json_schema().unwrap();
        assert!(!schema.contains("x-kubernetes-") && !schema.contains("\"nullable\""));
    }
}
