//! The ServiceAccount of the relay pods: an identity of their own, with no token and no rights.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::core::ObjectMeta;

use super::{metadata, relay_name};
use crate::validate::Model;

pub(super) fn build(model: &Model) -> ServiceAccount {
    let annotations = annotations(model).filter(|annotations| !annotations.is_empty()).cloned();
    ServiceAccount {
        metadata: ObjectMeta { annotations, ..metadata(model, relay_name(&model.name)) },
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// The annotations of the spec.
pub(super) fn annotations(model: &Model) -> Option<&BTreeMap<String, String>> {
    model.relay.service_account.as_ref().map(|account| &account.annotations)
}
