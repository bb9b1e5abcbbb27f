//! What the operator sets up at Genesys Cloud: a registration of the endpoint, or an integration with Amazon EventBridge.

use presenceroute_genesys::{Access, Client, DesiredIntegration, DesiredRegistration, Genesys};
use presenceroute_manifest::validate::{EventBridgeModel, Model, SourceModel, WebhookModel};

use crate::Failure;

/// Creates it, or updates the one with this id; gives its id.
pub(crate) async fn register(genesys: &Genesys, model: &Model, id: Option<&str>) -> Result<String, Failure> {
    let client = client(genesys, model)?;
    match &model.source {
        SourceModel::Webhook(webhook) => register_webhook(&client, model, webhook, id).await,
        SourceModel::AmazonEventBridge(event_bridge) => integrate(&client, model, event_bridge, id).await,
    }
}

/// Deletes the one with this id.
pub(crate) async fn deregister(genesys: &Genesys, model: &Model, id: &str) -> Result<(), Failure> {
    let client = client(genesys, model)?;
    match &model.source {
        SourceModel::Webhook(_) => client.event_bridges().delete(id).await?,
        SourceModel::AmazonEventBridge(_) => client.integrations().delete(id).await?,
    }
    Ok(())
}

/// The secret is always sent.
async fn register_webhook(
    client: &Client,
    model: &Model,
    webhook: &WebhookModel,
    id: Option<&str>,
) -> Result<String, Failure> {
    let credential = model.push_credential.as_ref().ok_or("it has no signing secret")?;
    let desired =
        DesiredRegistration { spec: webhook.registration.clone(), secret: credential.value.clone()? };
    let registrations = client.event_bridges();
    let updated = match id {
        Some(id) => registrations.update(id, &desired).await?,
        None => None,
    };
    Ok(match updated {
        Some(registration) => registration.id,
        None => registrations.create(&desired).await?.id,
    })
}

async fn integrate(
    client: &Client,
    model: &Model,
    event_bridge: &EventBridgeModel,
    id: Option<&str>,
) -> Result<String, Failure> {
    let spec = event_bridge.integration.clone();
    let (name, enabled) = (spec.name.clone(), spec.enabled);
    let desired = DesiredIntegration { spec, owner: format!("{}/{}", model.namespace, model.name) };
    let integrations = client.integrations();
    let id = match id {
        Some(id) => id.to_owned(),
        None => integrations.create(&name).await?.id,
    };
    let gone = || format!("the integration {name:?} is not there any more; start the demo again");
    integrations.configure(&id, &desired).await?.ok_or_else(gone)?;
    integrations.set_enabled(&id, enabled).await?.ok_or_else(gone)?;
    Ok(id)
}

fn client(genesys: &Genesys, model: &Model) -> Result<Client, Failure> {
    let client = model.genesys.oauth_client.clone()?;
    // Only the collection of registrations has a path of the manifest's.
    let path = model.webhook().map_or("/", |webhook| webhook.event_bridges_path.as_str());
    let access = Access::new(model.genesys.api_endpoint(path), client.id, client.secret, None);
    Ok(genesys.client(access)?)
}
