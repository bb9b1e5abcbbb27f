//! The seam to Genesys Cloud: how one kind of object is observed and changed. A closed set, hence an enum; the planner and
//! the executor know no API.

use presenceroute_core::genesys_api::ApiEndpoint;
use presenceroute_crds::status::{RegistrationLocation, SourceType};
use presenceroute_genesys::{
    Client, DesiredIntegration, EventBridges, GenesysError, Integration, IntegrationDifference, Integrations,
    Listing,
};

use super::objects::{DesiredObject, ObservedIntegration, ObservedObject};
use super::plan::{Observed, Step};

/// A way to register at one API as one OAuth client.
#[derive(Clone)]
pub enum Backend {
    /// The registrations of the webhook source.
    EventBridges(EventBridges),
    /// The integrations with Amazon EventBridge.
    Integrations(Integrations),
}

/// How an object is looked up.
#[derive(Clone, Copy, Debug)]
pub struct LookupStrategy<'l> {
    /// The object's name.
    pub name: &'l str,
    /// Its id, where it is known.
    pub id: Option<&'l str>,
    /// By its name first, which also finds a second one: a create request that was given up may take effect late.
    pub by_name: bool,
}

/// What a step came to.
pub enum StepResult {
    /// The object is there as it was sent.
    Written(ObservedObject),
    /// It is deleted.
    Deleted(String),
    /// There is no object of this id to update.
    Missing(String),
    /// The API has no such call, by this error.
    Unsupported(Step, GenesysError),
}

impl Backend {
    /// The one for objects of a source.
    #[must_use]
    pub fn new(client: &Client, type_: SourceType) -> Self {
        match type_ {
            SourceType::Webhook => Self::EventBridges(client.event_bridges()),
            SourceType::AmazonEventBridge => Self::Integrations(client.integrations()),
        }
    }

    /// Has the OAuth client accepted, without reading or changing any object.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub async fn authenticate(&self) -> Result<(), GenesysError> {
        match self {
            Self::EventBridges(bridges) => bridges.authenticate().await,
            Self::Integrations(integrations) => integrations.authenticate().await,
        }
    }

    /// What Genesys Cloud shows under a name and an id.
    ///
    /// # Errors
    /// Any, but that the API has no call that shows registrations, which is observed.
    pub async fn observe(&self, strategy: LookupStrategy<'_>) -> Result<Observed, GenesysError> {
        match (self.look_up(strategy).await, self) {
            (Err(GenesysError::Unsupported { .. }), Self::EventBridges(_)) => Ok(Observed::invisible()),
            (observed, _) => observed,
        }
    }

    async fn look_up(&self, strategy: LookupStrategy<'_>) -> Result<Observed, GenesysError> {
        let LookupStrategy { name, id, by_name } = strategy;
        if let Some(id) = id
            && !by_name
            && let Some(found) = self.get(id).await?
        {
            return Ok(Observed::visible(vec![found], false));
        }
        let listing = match (self.find(name).await, id) {
            // The API cannot list; it may be able to read.
            (Err(unsupported @ GenesysError::Unsupported { .. }), Some(id)) => {
                return match self.get(id).await? {
                    Some(found) => Ok(Observed::visible(vec![found], false)),
                    None => Err(unsupported),
                };
            }
            (listing, _) => listing?,
        };
        // Several of that name fill several pages, too, and are soon one.
        let is_cheap_to_list = listing.pages == 1 || listing.entities.len() > 1;
        let mut found = listing.entities;
        // The known one may have another name, by the spec's edit or by drift.
        if let Some(id) = id.filter(|id| found.iter().all(|found| found.id() != *id)) {
            found.extend(self.get(id).await?);
        }
        Ok(Observed::visible(found, is_cheap_to_list))
    }

    /// All objects of a name: an integration's is the suffix of its event source.
    async fn find(&self, name: &str) -> Result<Listing<ObservedObject>, GenesysError> {
        match self {
            Self::EventBridges(bridges) => {
                let Listing { entities, pages } = bridges.find_by_name(name).await?;
                let entities = entities.into_iter().map(ObservedObject::Registration).collect();
                Ok(Listing { entities, pages })
            }
            Self::Integrations(integrations) => {
                let Listing { entities, pages } = integrations.find(name, name).await?;
                let entities = entities.into_iter().map(bare).collect();
                Ok(Listing { entities, pages })
            }
        }
    }

    async fn get(&self, id: &str) -> Result<Option<ObservedObject>, GenesysError> {
        Ok(match self {
            Self::EventBridges(bridges) => bridges.get(id).await?.map(ObservedObject::Registration),
            Self::Integrations(integrations) => integrations.get(id).await?.map(bare),
        })
    }

    /// All objects of a name.
    ///
    /// # Errors
    /// [`GenesysError::Unsupported`] where the API cannot list them.
    pub async fn list(&self, name: &str) -> Result<Vec<ObservedObject>, GenesysError> {
        Ok(self.find(name).await?.entities)
    }

    /// Whether this client sees the object of a location, by its id or else by its name.
    ///
    /// # Errors
    /// Any.
    pub async fn sees(&self, location: &RegistrationLocation) -> Result<bool, GenesysError> {
        match &location.id {
            Some(id) => Ok(self.get(id).await?.is_some()),
            None => Ok(!self.find(&location.name).await?.entities.is_empty()),
        }
    }

    /// The object as it is to be reported: with what is known of the event source of an integration.
    ///
    /// # Errors
    /// Those that pass: what Genesys Cloud does not tell this OAuth client is left out.
    pub async fn complete(
        &self,
        found: ObservedObject,
        desired: &DesiredObject,
    ) -> Result<ObservedObject, GenesysError> {
        let (Self::Integrations(integrations), DesiredObject::Integration(desired, _)) = (self, desired)
        else {
            return Ok(found);
        };
        let ObservedObject::Integration(mut found) = found else { return Ok(found) };
        let name = integrations.event_source_name(&desired.spec.event_source_suffix).await;
        found.event_source_name = told(name)?;
        let unavailable = told(integrations.unavailable_topics(&desired.spec.topics).await)?;
        found.unavailable_topics = unavailable.into_iter().flatten().map(|topic| topic.to_string()).collect();
        Ok(ObservedObject::Integration(found))
    }

    /// Carries out one step.
    ///
    /// # Errors
    /// Any but that there is no such object, or no such call for registrations, which are results.
    pub async fn execute(&self, step: Step, desired: &DesiredObject) -> Result<StepResult, GenesysError> {
        let result = match (self, desired) {
            (Self::EventBridges(bridges), DesiredObject::Registration(desired)) => match &step {
                Step::Create => bridges.create(desired).await.map(written),
                Step::Update(id) => bridges.update(id, desired).await.map(|updated| match updated {
                    Some(registration) => written(registration),
                    None => StepResult::Missing(id.clone()),
                }),
                Step::Delete(id) => bridges.delete(id).await.map(|()| StepResult::Deleted(id.clone())),
            },
            (Self::Integrations(integrations), DesiredObject::Integration(desired, _)) => match &step {
                Step::Create => match integrations.create(&desired.spec.name).await {
                    Ok(created) => match set_up(integrations, created.id, desired, true).await {
                        // Another one is created only once it is sure that this one is not there.
                        Ok(StepResult::Missing(id)) => Err(integrations.not_shown(&id)),
                        other => other,
                    },
                    Err(error) => Err(error),
                },
                Step::Update(id) => set_up(integrations, id.clone(), desired, false).await,
                Step::Delete(id) => integrations.delete(id).await.map(|()| StepResult::Deleted(id.clone())),
            },
            // A location has a backend for its own kind of object.
            (_, desired) => Err(GenesysError::InvalidAccess {
                problem: format!("the API of {:?} holds objects of another kind", desired.name()),
            }),
        };
        match (result, self) {
            // An integration is not replaced by a new one: AWS would have to associate its event source anew.
            (Err(error @ GenesysError::Unsupported { .. }), Self::EventBridges(_)) => {
                Ok(StepResult::Unsupported(step, error))
            }
            (result, _) => result,
        }
    }

    /// Deletes the object of this id. That there is none is success.
    ///
    /// # Errors
    /// [`GenesysError::Unsupported`] where the API cannot delete.
    pub async fn delete(&self, id: &str) -> Result<(), GenesysError> {
        match self {
            Self::EventBridges(bridges) => bridges.delete(id).await,
            Self::Integrations(integrations) => integrations.delete(id).await,
        }
    }

    /// The error of an API whose deletions succeed and whose list does not get shorter.
    pub fn still_listed(&self, name: &str) -> GenesysError {
        match self {
            Self::EventBridges(bridges) => bridges.still_listed(name),
            Self::Integrations(integrations) => integrations.still_listed(name),
        }
    }

    /// Where Genesys Cloud says that an object sends events, as it may be shown.
    pub fn quote_destination(&self, destination: &str) -> String {
        match self {
            Self::EventBridges(bridges) => bridges.quote_url(destination),
            Self::Integrations(integrations) => integrations.quote(destination, "another AWS account"),
        }
    }

    /// Whether it is of this API.
    pub fn is_at(&self, api: &ApiEndpoint) -> bool {
        match self {
            Self::EventBridges(bridges) => bridges.is_at(&api.api_url, &api.event_bridges_path),
            Self::Integrations(integrations) => integrations.is_at(&api.api_url),
        }
    }

    /// Whether it is for objects of this source.
    pub fn is_for(&self, type_: SourceType) -> bool {
        match self {
            Self::EventBridges(_) => type_ == SourceType::Webhook,
            Self::Integrations(_) => type_ == SourceType::AmazonEventBridge,
        }
    }

    /// Whether both are of one API, for the same objects.
    pub fn is_same_api(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::EventBridges(one), Self::EventBridges(other)) => one.is_same_api(other),
            (Self::Integrations(one), Self::Integrations(other)) => one.is_same_api(other),
            _ => false,
        }
    }
}

fn written(registration: presenceroute_genesys::Registration) -> StepResult {
    StepResult::Written(ObservedObject::Registration(registration))
}

fn bare(integration: Integration) -> ObservedObject {
    ObservedObject::Integration(Box::new(ObservedIntegration {
        integration,
        event_source_name: None,
        unavailable_topics: Vec::new(),
    }))
}

/// Brings an integration in line: its configuration, then its intended state. It is enabled once it sends where it shall.
async fn set_up(
    integrations: &Integrations,
    id: String,
    desired: &DesiredIntegration,
    is_new: bool,
) -> Result<StepResult, GenesysError> {
    let Some(found) = integrations.get(&id).await? else { return Ok(StepResult::Missing(id)) };
    let differences = found.differences(&desired.spec);
    let is_configured = !differences.iter().any(|difference| difference.is_of_configuration())
        || integrations.configure(&id, desired).await?.is_some();
    let is_switched = is_configured
        && (!(is_new || differences.contains(&IntegrationDifference::IntendedState))
            || integrations.set_enabled(&id, desired.spec.enabled).await?.is_some());
    match integrations.get(&id).await? {
        Some(found) if is_switched => Ok(StepResult::Written(bare(found))),
        Some(_) => Err(integrations.not_writable(&id)),
        None => Ok(StepResult::Missing(id)),
    }
}

/// What Genesys Cloud tells; `None` where it does not tell this OAuth client, which does not pass.
fn told<T>(answer: Result<T, GenesysError>) -> Result<Option<T>, GenesysError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_permanent() || matches!(error, GenesysError::UnexpectedAnswer { .. }) => {
            tracing::debug!(%error, "Genesys Cloud does not tell");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
