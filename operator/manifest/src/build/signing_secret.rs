//! The Secret `NAME-signing`: the secrets that relays accept, and where a rotation stands.

use k8s_openapi::api::core::v1::Secret;

use super::metadata;
use crate::rotation::{CredentialRotation, secret_name};
use crate::validate::Model;

pub(super) fn build(model: &Model, signing: &CredentialRotation) -> Secret {
    let mut secret = Secret {
        metadata: metadata(model, secret_name(&model.name)),
        type_: Some("Opaque".into()),
        data: Some(signing.data()),
        ..Secret::default()
    };
    secret.metadata.annotations = Some(signing.annotations());
    secret
}
