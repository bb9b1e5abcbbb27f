//! The ServiceAccount of the relay pods: an identity of their own, with no token and no rights.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::{metadata, relay_name};
use crate::validate::Model;

pub(super) fn build(model: &Model) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(model, relay_name(&model.name)),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
