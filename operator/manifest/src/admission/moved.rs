//! Fields that have moved: the diagnostic of an old manifest names the new place of each.

use crate::field::FieldPath;

const MOVED: [(&str, &str); 6] = [
    ("spec.endpoint.signingSecretRef", "spec.source.webhook.signingSecretRef"),
    ("spec.genesys.api.eventBridgesPath", "spec.source.webhook.eventBridgesPath"),
    ("spec.genesys.api.signatureHeader", "spec.source.webhook.signatureHeader"),
    ("spec.genesys.endpointName", "spec.source.webhook.name"),
    ("spec.genesys.eventTypes", "spec.source.webhook.eventTypes"),
    ("spec.genesys.retryPolicy", "spec.source.webhook.retryPolicy"),
];

/// Where the field is now, if it has moved.
pub(super) fn new_place(field: &FieldPath) -> Option<&'static str> {
    let path = field.to_string();
    MOVED.iter().find(|(before, _)| *before == path).map(|(_, now)| *now)
}
