//! Manifests in files: PresenceRoutes with the place of each of their fields, and the Secrets that they point at.
//!
//! YAML is read as kubectl reads it, so that `topic: no` is a boolean here, too. Whether a document is valid is left to
//! [`admission`](crate::admission) and [`validate`](crate::validate).

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::{Location, Spanned};

use crate::dereference::SecretSource;
use crate::field::FieldPath;

/// What a file of YAML documents holds. Documents of other kinds are passed over.
#[derive(Default)]
pub struct Manifest {
    /// Its PresenceRoutes.
    pub routes: Vec<Document>,
    /// Its Secrets, by name.
    pub secrets: BTreeMap<String, Secret>,
}

/// One object of a file, and where everything in it is written.
#[derive(Clone, Debug)]
pub struct Document {
    value: Value,
    places: HashMap<FieldPath, Place>,
}

/// A place in a file; the first line and the first column are 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

/// Why a file is no manifest.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ManifestError {
    /// Not YAML, or YAML with the same key twice in one place.
    #[error("{place}: it is not YAML that can be read: {cause}")]
    Yaml {
        /// Where reading ended.
        place: Place,
        /// What the reader says. It never holds a line of the file, which may be a secret's.
        cause: String,
    },
    /// A Secret that is none.
    #[error("{place}: Secret {name:?}: {cause}")]
    Secret {
        /// Where it begins.
        place: Place,
        /// Its name.
        name: String,
        /// What the reader says.
        cause: String,
    },
}

impl ManifestError {
    /// Where it is.
    pub fn place(&self) -> Place {
        match self {
            Self::Yaml { place, .. } | Self::Secret { place, .. } => *place,
        }
    }
}

impl Manifest {
    /// Reads all documents of a file, and the items of those that are lists.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let mut manifest = Self::default();
        for document in documents(text)? {
            match document.text("/kind") {
                "PresenceRoute" => manifest.routes.push(document),
                "Secret" => {
                    let secret = secret(&document)?;
                    manifest.secrets.insert(secret.name_any(), secret);
                }
                _ => {}
            }
        }
        Ok(manifest)
    }
}

impl SecretSource for Manifest {
    type Error = Infallible;

    async fn secret(&self, name: &str) -> Result<Option<Secret>, Infallible> {
        Ok(self.secrets.get(name).cloned())
    }
}

impl Document {
    /// The object.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Where a field is written, or else the nearest thing around it that is. Of a key and its value it is the key.
    pub fn place(&self, field: &FieldPath) -> Place {
        let mut around = Some(field.clone());
        while let Some(path) = around {
            if let Some(place) = self.places.get(&path) {
                return *place;
            }
            around = path.parent();
        }
        Place { line: 1, column: 1 }
    }

    /// The text at a JSON pointer, or nothing.
    pub fn text(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// The document itself, or what it is a list of (`kubectl get -o yaml` writes such).
    fn objects(self) -> Vec<Self> {
        if !self.text("/kind").ends_with("List") {
            return vec![self];
        }
        let items = FieldPath::default().child("items");
        let values = self.value.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        values
            .into_iter()
            .enumerate()
            .map(|(index, value)| {
                let root = items.item(index);
                let inside =
                    self.places.iter().filter_map(|(path, place)| Some((path.below(&root)?, *place)));
                Self { value, places: inside.collect() }
            })
            .collect()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}, column {}", self.line, self.column)
    }
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        Self { line: location.line().max(1), column: location.column().max(1) }
    }
}

fn documents(text: &str) -> Result<Vec<Document>, ManifestError> {
    // As kubectl's reader, which reads YAML 1.1: `0644` is octal, and `yes` is a boolean, by default. A snippet of
    // the file could be a part of a secret.
    let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
    let nodes: Vec<Spanned<Node>> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|cause| ManifestError::Yaml {
            place: cause.location().map_or(Place { line: 1, column: 1 }, Place::from),
            cause: cause.to_string(),
        })?;
    let read = nodes.into_iter().map(|node| {
        let mut places = HashMap::new();
        let place = node.referenced.into();
        let value = node.value.unfold(FieldPath::default(), place, &mut places);
        Document { value, places }
    });
    Ok(read.flat_map(Document::objects).collect())
}

/// A node of a YAML document, with the place of everything in it.
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl Node {
    /// The node as JSON; the places of what is in it are put down.
    fn unfold(self, path: FieldPath, place: Place, places: &mut HashMap<FieldPath, Place>) -> Value {
        let value = match self {
            Self::Scalar(value) => value,
            Self::List(items) => {
                let items = items.into_iter().enumerate();
                items
                    .map(|(index, item)| item.value.unfold(path.item(index), item.referenced.into(), places))
                    .collect()
            }
            Self::Map(fields) => {
                let fields = fields.into_iter().map(|(key, field)| {
                    let value = field.value.unfold(path.child(&key.value), key.referenced.into(), places);
                    (key.value, value)
                });
                Value::Object(fields.collect::<Map<_, _>>())
            }
        };
        places.insert(path, place);
        value
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a YAML node")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        // On its way through JSON, `2.0` becomes a whole number.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        #[allow(clippy::cast_possible_truncation)]
        let whole = (value.fract() == 0.0 && value.abs() < EXACT).then_some(value as i64);
        Ok(Node::Scalar(whole.map_or_else(|| value.into(), Value::from)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Map(fields))
    }
}

/// A Secret as the API server writes it: `stringData` goes into `data`.
fn secret(document: &Document) -> Result<Secret, ManifestError> {
    let read: Result<Secret, _> = serde_json::from_value(document.value.clone());
    let mut secret = read.map_err(|cause| ManifestError::Secret {
        place: document.place(&FieldPath::default()),
        name: document.text("/metadata/name").to_owned(),
        // Its words quote what is there instead of what should be.
        cause: format!(
            "data and stringData must be maps of strings, data in base64 ({:?})",
            cause.classify()
        ),
    })?;
    if let Some(strings) = secret.string_data.take() {
        let data = secret.data.get_or_insert_default();
        data.extend(strings.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str = r#"# a comment
apiVersion: v1
kind: ConfigMap
---
apiVersion: presenceroute.io/v1alpha1
kind: PresenceRoute
metadata: {name: one, namespace: presence}
spec:
  suspend: yes
  routes:
  - eventType: a
    topic: no
  - {eventType: b, topic: t}
  relay: {replicas: 2.0}
"#;

    fn place(field: &str) -> (u64, u64) {
        let manifest = Manifest::parse(ROUTE).unwrap();
        let Place { line, column } = manifest.routes[0].place(&FieldPath::parse(field));
        (line, column)
    }

    #[test]
    fn every_field_has_its_place_in_the_file() {
        assert_eq!(place(""), (5, 1));
        assert_eq!(place("metadata.namespace"), (7, 23));
        assert_eq!(place("spec.routes"), (10, 3));
        assert_eq!(place("spec.routes[0].topic"), (12, 5));
        assert_eq!(place("spec.routes[1]"), (13, 5));
        assert_eq!(place("spec.routes[1].topic"), (13, 20));
    }

    #[test]
    fn what_is_not_there_has_the_place_of_what_is_around_it() {
        assert_eq!(place("spec.routes[1].when"), place("spec.routes[1]"));
        assert_eq!(place("spec.kafka.bootstrapServers[0]"), place("spec"));
    }

    #[test]
    fn scalars_are_what_kubectl_takes_them_for() {
        let manifest = Manifest::parse(ROUTE).unwrap();
        let value = manifest.routes[0].value();
        assert_eq!(value.pointer("/spec/suspend"), Some(&Value::Bool(true)));
        assert_eq!(value.pointer("/spec/routes/0/topic"), Some(&Value::Bool(false)));
        assert_eq!(value.pointer("/spec/relay/replicas"), Some(&Value::from(2)));
    }

    #[test]
    fn the_items_of_a_list_are_objects_with_places_of_their_own() {
        let list = "kind: List\nitems:\n- kind: PresenceRoute\n  metadata: {name: one}\n- kind: Secret\n  metadata: {name: two}\n";
        let manifest = Manifest::parse(list).unwrap();
        let place = manifest.routes[0].place(&FieldPath::parse("metadata.name"));
        assert_eq!(place, Place { line: 4, column: 14 });
        assert!(manifest.secrets.contains_key("two"));
    }

    #[test]
    fn an_anchor_is_followed() {
        let text = "kind: PresenceRoute\nmetadata: &m {name: one}\ncopy: *m\n";
        let manifest = Manifest::parse(text).unwrap();
        assert_eq!(manifest.routes[0].text("/copy/name"), "one");
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_place_and_without_its_text() {
        let text = "kind: Secret\nstringData:\n  secret: hunter2\n - hunter3\n";
        let error = Manifest::parse(text).err().unwrap();
        assert!(error.place().line >= 3, "{error}");
        assert!(!error.to_string().contains("hunter"), "{error}");
        let error = Manifest::parse("kind: Secret\ndata: {secret: hunter2}\n").err().unwrap();
        assert!(!error.to_string().contains("hunter"), "{error}");
    }

    #[test]
    fn string_data_is_data() {
        let manifest = Manifest::parse("kind: Secret\nmetadata: {name: s}\nstringData: {a: b}\n").unwrap();
        assert_eq!(manifest.secrets["s"].data.as_ref().unwrap()["a"].0, b"b");
    }
}
