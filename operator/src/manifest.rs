//! Manifests in files: PresenceRoutes, and the Secrets that they point at, without a cluster.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use presenceroute_crds::PresenceRoute;
use serde_json::Value;

use crate::dereference::SecretSource;

/// What a file of YAML documents holds. Documents of other kinds are passed over.
#[derive(Default)]
pub struct Manifest {
    /// Its PresenceRoutes.
    pub routes: Vec<PresenceRoute>,
    /// Its Secrets, by name.
    pub secrets: BTreeMap<String, Secret>,
}

/// Why a file is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not YAML. The message has the line.
    #[error("it is not YAML: {0}")]
    Yaml(String),
    /// A PresenceRoute or a Secret with a field that is missing, unknown or of another type.
    #[error("document {document} ({kind} {name:?}): {cause}")]
    Document {
        /// Which one, from 1.
        document: usize,
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// What the reader says.
        cause: String,
    },
}

impl Manifest {
    /// Reads all documents of a file.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(text).map_err(|cause| ManifestError::Yaml(cause.to_string()))?;
        let mut manifest = Self::default();
        for (index, document) in documents.into_iter().enumerate() {
            let field = |pointer: &str| {
                document.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
            };
            let (kind, name) = (field("/kind"), field("/metadata/name"));
            let refused = |cause: serde_json::Error| ManifestError::Document {
                document: index + 1,
                kind: kind.clone(),
                name: name.clone(),
                cause: cause.to_string(),
            };
            match kind.as_str() {
                "PresenceRoute" => manifest.routes.push(serde_json::from_value(document).map_err(refused)?),
                "Secret" => {
                    let secret = with_string_data(serde_json::from_value(document).map_err(refused)?);
                    manifest.secrets.insert(secret.name_any(), secret);
                }
                _ => {}
            }
        }
        Ok(manifest)
    }
}

/// What the API server does on writing a Secret.
fn with_string_data(mut secret: Secret) -> Secret {
    if let Some(strings) = secret.string_data.take() {
        let data = secret.data.get_or_insert_default();
        data.extend(strings.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))));
    }
    secret
}

impl SecretSource for Manifest {
    async fn secret(&self, name: &str) -> Result<Option<Secret>, kube::Error> {
        Ok(self.secrets.get(name).cloned())
    }
}
