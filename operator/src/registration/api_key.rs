//! The rotation of the API key of an API destination. The relays accept the new key beside the old one at once; who sends
//! the new one is the connection in AWS, which a person changes. A request with the new key says that this was done.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use presenceroute_manifest::build;
use presenceroute_manifest::rotation::CredentialRotation;
use presenceroute_manifest::validate::SourceModel;

use super::{RegistrationInput, Registrations};
use crate::apply;
use crate::error::ReconcileError;

/// Where the API key of an API destination stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiKeyStep {
    /// Amazon EventBridge sends the newest key, or there has been no other.
    InUse,
    /// Every relay accepts the newest key beside the old one: the connection in AWS is to be given it.
    AwaitedFromAws,
    /// The relays are taking up the newest key.
    Distributing,
}

impl Registrations {
    /// Takes the rotation a step on, by what the relays report of the keys that they accepted. `None` where the source has
    /// no API key, or its Secret is not as it should be.
    ///
    /// # Errors
    /// The API server's.
    pub async fn follow_api_key(
        &self,
        input: &RegistrationInput<'_>,
        rotation: &mut CredentialRotation,
    ) -> Result<Option<ApiKeyStep>, ReconcileError> {
        let RegistrationInput { model, relays, revisions, .. } = *input;
        let (SourceModel::AmazonEventBridge(_), Some(credential)) = (&model.source, &model.push_credential)
        else {
            return Ok(None);
        };
        let Ok(key) = &credential.value else { return Ok(None) };
        if rotation.is_registered(key) {
            return Ok(Some(ApiKeyStep::InUse));
        }
        if !relays.all_accept(revisions.signing.as_deref()) {
            return Ok(Some(ApiKeyStep::Distributing));
        }
        let is_used = rotation.name_of(key).is_some_and(|name| relays.have_accepted(name));
        if !is_used && !rotation.is_only(key) {
            return Ok(Some(ApiKeyStep::AwaitedFromAws));
        }
        let grace = SignedDuration::try_from(self.secret_grace).unwrap_or(SignedDuration::MAX);
        *rotation = rotation.clone().confirm(key, Timestamp::now(), grace);
        apply::write(&self.client, &self.owned, build::signing_object(model, rotation)?).await?;
        Ok(Some(ApiKeyStep::InUse))
    }
}
