//! The part of an object that is the same for every kind.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use presenceroute_crds::PresenceRoute;
use serde_json::Value;

use super::Violation;
use crate::field::FieldPath;

/// The fields of `ObjectMeta`.
const FIELDS: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// What is wrong with the object's version and metadata.
pub(super) fn violations(object: &Value, root: &FieldPath) -> Vec<Violation> {
    let mut violations = Vec::new();
    let expected = PresenceRoute::api_version(&());
    if object.get("apiVersion").and_then(Value::as_str) != Some(&expected) {
        let cause = format!("must be {expected}, or there is no PresenceRoute in it");
        violations.push(Violation::blocking(&root.child("apiVersion"), cause));
    }
    let at = root.child("metadata");
    let Some(fields) = object.get("metadata").and_then(Value::as_object) else {
        violations
            .push(Violation::blocking(&at.child("name"), "Required value: the object must have a name"));
        return violations;
    };
    let unknown = fields.keys().filter(|name| !FIELDS.contains(&name.as_str()));
    violations.extend(unknown.map(|name| Violation::new(&at.child(name), "unknown field")));
    match serde_json::from_value(object["metadata"].clone()) {
        Ok(metadata) => check(&metadata, &at, &mut violations),
        Err(cause) => violations.push(Violation::blocking(&at, cause.to_string())),
    }
    violations
}

fn check(metadata: &ObjectMeta, at: &FieldPath, violations: &mut Vec<Violation>) {
    match metadata.name.as_deref() {
        None | Some("") => {
            let cause = "Required value: the object must have a name (kubectl apply takes no generateName)";
            violations.push(Violation::blocking(&at.child("name"), cause));
        }
        Some(name) if !is_subdomain(name) => {
            let cause = "must be lower case letters, digits, hyphens and dots, with a letter or digit at both ends \
                         of each part, at most 253 characters";
            violations.push(Violation::new(&at.child("name"), cause));
        }
        Some(_) => {}
    }
    if metadata.namespace.as_deref().is_some_and(|namespace| !is_label(namespace)) {
        let cause = "must be lower case letters, digits and hyphens, with a letter or digit at both ends, at most 63 \
                     characters";
        violations.push(Violation::new(&at.child("namespace"), cause));
    }
    for (key, value) in metadata.labels.iter().flatten() {
        if !is_qualified_name(key) {
            violations.push(Violation::new(&at.child("labels"), format!("{key:?} cannot be a label's name")));
        }
        if !is_label_value(value) {
            let cause = format!(
                "the value of {key:?} must be at most 63 letters, digits, hyphens, dots and underscores"
            );
            violations.push(Violation::new(&at.child("labels"), cause));
        }
    }
    for key in metadata.annotations.iter().flatten().map(|(key, _)| key) {
        if !is_annotation_key(key) {
            let cause = format!("{key:?} cannot be an annotation's name");
            violations.push(Violation::new(&at.child("annotations"), cause));
        }
    }
}

/// RFC 1123, as Kubernetes takes it.
pub(crate) fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_lowercase_word)
}

fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_lowercase_word(name)
}

fn is_lowercase_word(word: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    begins_and_ends(word, legal) && word.bytes().all(|byte| legal(byte) || byte == b'-')
}

/// The key of an annotation, whose prefix may have capital letters.
pub(crate) fn is_annotation_key(key: &str) -> bool {
    is_qualified_name(&key.to_lowercase())
}

/// The value of a label.
pub(crate) fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_name_part(value)
}

/// The key of a label: a name, or PREFIX/NAME.
pub(crate) fn is_qualified_name(name: &str) -> bool {
    match name.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_name_part(name),
        None => is_name_part(name),
    }
}

fn is_name_part(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric();
    name.len() <= 63
        && begins_and_ends(name, legal)
        && name.bytes().all(|byte| legal(byte) || b"-_.".contains(&byte))
}

fn begins_and_ends(word: &str, legal: impl Fn(u8) -> bool) -> bool {
    matches!((word.bytes().next(), word.bytes().last()), (Some(first), Some(last)) if legal(first) && legal(last))
}
