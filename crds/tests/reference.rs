//! docs/reference.md is what the types make. To write it anew:
//! `UPDATE=1 cargo test -p presenceroute-crds --test reference`

use std::path::Path;
use std::{env, fs};

use kube::CustomResourceExt;
use presenceroute_crds::PresenceRoute;
use serde_json::Value;

/// Parts that are Kubernetes' own: described there, not here.
const KUBERNETES: [(&str, &str); 9] = [
    ("spec.relay.affinity", "Affinity"),
    ("spec.relay.networkPolicy.additionalEgress[]", "NetworkPolicyEgressRule"),
    ("spec.relay.networkPolicy.ingressFrom[]", "NetworkPolicyPeer"),
    ("spec.relay.networkPolicy.metricsFrom[]", "NetworkPolicyPeer"),
    ("spec.relay.resources", "ResourceRequirements"),
    ("spec.relay.securityContext.seLinuxOptions", "SELinuxOptions"),
    ("spec.relay.tolerations[]", "Toleration"),
    ("spec.relay.topologySpreadConstraints[]", "TopologySpreadConstraint"),
    ("status.conditions[]", "Condition"),
];

#[test]
fn the_reference_is_what_the_types_make() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference.md");
    let generated = reference(&serde_json::to_value(PresenceRoute::crd()).unwrap());
    if env::var_os("UPDATE").is_some() {
        fs::write(&file, &generated).unwrap();
    }
    assert!(
        fs::read_to_string(&file).unwrap_or_default() == generated,
        "docs/reference.md is not what the types make; write it anew: \
         UPDATE=1 cargo test -p presenceroute-crds --test reference"
    );
}

fn reference(definition: &Value) -> String {
    let version = &definition["spec"]["versions"][0];
    let schema = &version["schema"]["openAPIV3Schema"];
    let mut page = format!(
        "# PresenceRoute\n\n<!-- Generated from the types in crds/ by crds/tests/reference.rs. -->\n\n{}\n\n\
         `apiVersion: {}/{}`, `kind: PresenceRoute`, short name `{}`. `kubectl explain presenceroute.spec` has the \
         same. What is wrong is refused by the API server, with the field and the reason.\n\n",
        text(&schema["description"]),
        text(&definition["spec"]["group"]),
        text(&version["name"]),
        text(&definition["spec"]["names"]["shortNames"][0]),
    );
    rules(&mut page, schema);
    for part in ["spec", "status"] {
        section(&mut page, part, &schema["properties"][part]);
    }
    page.replace("\n\n\n", "\n\n")
}

/// A table of the fields of one object, and a section for each object below it.
fn section(page: &mut String, path: &str, schema: &Value) {
    let heading = "#".repeat((2 + path.matches('.').count()).min(4));
    *page += &format!("\n{heading} `{path}`\n\n{}\n\n", text(&schema["description"]));
    rules(page, schema);
    page.push_str("| Field | Type | Default | |\n|---|---|---|---|\n");
    let required: Vec<&str> = list(&schema["required"]).map(text).collect();
    let fields: Vec<_> = schema["properties"].as_object().into_iter().flatten().collect();
    for (name, field) in &fields {
        let default = match &field["default"] {
            Value::Null if required.contains(&name.as_str()) => "**required**".to_owned(),
            Value::Null => String::new(),
            Value::Object(_) => "see below".to_owned(),
            value => format!("`{}`", value.to_string().trim_matches('"')),
        };
        let mut words = cell(text(&field["description"]));
        // Those of an object stand above its own table.
        for rule in list(&field["x-kubernetes-validations"]).filter(|_| field["properties"].is_null()) {
            let message = cell(text(&rule["message"]));
            let subject = if message.starts_with("must") { "It " } else { "Of these, " };
            words += &format!(" {subject}{message}.");
        }
        let kind = kind(&format!("{path}.{name}"), field);
        *page += &format!("| `{name}` | {kind} | {default} | {words} |\n");
    }
    for (name, field) in fields {
        let path = format!("{path}.{name}");
        let (path, object) = match &field["items"] {
            Value::Null => (path, field),
            items => (format!("{path}[]"), items),
        };
        if object["properties"].is_object() && kubernetes(&path).is_none() {
            section(page, &path, object);
        }
    }
}

/// What must hold for the whole of an object.
fn rules(page: &mut String, schema: &Value) {
    let rules: Vec<_> = list(&schema["x-kubernetes-validations"]).collect();
    for rule in &rules {
        *page += &format!("- {}\n", text(&rule["message"]));
    }
    if !rules.is_empty() {
        page.push('\n');
    }
}

fn kind(path: &str, schema: &Value) -> String {
    if let Some(kind) = kubernetes(path) {
        return kind;
    }
    let name = text(&schema["type"]);
    if let [first, others @ ..] = list(&schema["enum"]).map(text).collect::<Vec<_>>().as_slice() {
        return others.iter().fold(format!("`{first}`"), |choice, other| format!("{choice}, `{other}`"));
    }
    match name {
        "array" => {
            format!("list{} of {}", size(schema, "Items"), kind(&format!("{path}[]"), &schema["items"]))
        }
        "object" if schema["additionalProperties"].is_object() => "map of string".to_owned(),
        "object" => format!("[object](#{})", path.replace(['.', '[', ']'], "").to_lowercase()),
        "string" => format!("string{}", size(schema, "Length")),
        "" if schema["x-kubernetes-int-or-string"] == true => "integer or string".to_owned(),
        _ => match (&schema["minimum"], &schema["maximum"]) {
            (Value::Null, Value::Null) => name.to_owned(),
            (least, most) => format!("{name}, {} to {}", number(least), number(most)),
        },
    }
}

fn size(schema: &Value, what: &str) -> String {
    match (&schema[format!("min{what}")], &schema[format!("max{what}")]) {
        (Value::Null, Value::Null) => String::new(),
        (Value::Null, most) => format!(" (at most {most})"),
        (least, Value::Null) => format!(" (at least {least})"),
        (least, most) => format!(" ({least} to {most})"),
    }
}

fn number(value: &Value) -> String {
    value.as_f64().map_or_else(|| "any".to_owned(), |number| number.to_string())
}

fn kubernetes(path: &str) -> Option<String> {
    let (_, name) = KUBERNETES.iter().find(|(known, _)| *known == path)?;
    Some(format!("Kubernetes' {name}"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Text that fits into a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
