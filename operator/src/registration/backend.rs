//! The seam to Genesys Cloud: how one kind of registration is observed and changed. A closed set, hence an enum; the
//! planner and the executor know no API.

use presenceroute_core::genesys_api::ApiEndpoint;
use presenceroute_genesys::{DesiredRegistration, EventBridges, GenesysError, Registration};

use super::plan::{Observed, Step};

/// A way to register at one API as one OAuth bridges.
#[derive(Clone)]
pub enum Backend {
    /// The registrations of the webhook source.
    EventBridges(EventBridges),
}

/// How a registration is looked up.
#[derive(Clone, Copy, Debug)]
pub struct LookupStrategy<'l> {
    /// The registration's name.
    pub name: &'l str,
    /// Its id, where it is known.
    pub id: Option<&'l str>,
    /// By its name first, which also finds a second one: a create request that was given up may take effect late.
    pub by_name: bool,
}

/// What a step came to.
pub enum StepResult {
    /// The registration is there as it was sent.
    Written(Registration),
    /// It is deleted.
    Deleted(String),
    /// There is no registration of this id to update.
    Missing(String),
    /// The API has no such call, by this error.
    Unsupported(Step, GenesysError),
}

impl Backend {
    /// Has the OAuth client accepted, without reading or changing any registration.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub async fn authenticate(&self) -> Result<(), GenesysError> {
        let Self::EventBridges(bridges) = self;
        bridges.authenticate().await
    }

    /// What Genesys Cloud shows under a name and an id.
    ///
    /// # Errors
    /// Any but that the API has no such call, which is observed.
    pub async fn observe(&self, strategy: LookupStrategy<'_>) -> Result<Observed, GenesysError> {
        match self.look_up(strategy).await {
            Err(GenesysError::Unsupported { .. }) => Ok(Observed::invisible()),
            other => other,
        }
    }

    async fn look_up(&self, strategy: LookupStrategy<'_>) -> Result<Observed, GenesysError> {
        let Self::EventBridges(bridges) = self;
        let LookupStrategy { name, id, by_name } = strategy;
        if let Some(id) = id
            && !by_name
            && let Some(found) = bridges.get(id).await?
        {
            return Ok(Observed::visible(vec![found], false));
        }
        let listing = match (bridges.find_by_name(name).await, id) {
            // The API cannot list; it may be able to read.
            (Err(unsupported @ GenesysError::Unsupported { .. }), Some(id)) => {
                return match bridges.get(id).await? {
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
        if let Some(id) = id.filter(|id| found.iter().all(|found| found.id != *id)) {
            found.extend(bridges.get(id).await?);
        }
        Ok(Observed::visible(found, is_cheap_to_list))
    }

    /// All registrations of a name.
    ///
    /// # Errors
    /// [`GenesysError::Unsupported`] where the API cannot list them.
    pub async fn list(&self, name: &str) -> Result<Vec<Registration>, GenesysError> {
        let Self::EventBridges(bridges) = self;
        Ok(bridges.find_by_name(name).await?.entities)
    }

    /// Whether this client sees a registration, by its id or else by its name.
    ///
    /// # Errors
    /// Any.
    pub async fn sees(&self, name: &str, id: Option<&str>) -> Result<bool, GenesysError> {
        let Self::EventBridges(bridges) = self;
        match id {
            Some(id) => Ok(bridges.get(id).await?.is_some()),
            None => Ok(!bridges.find_by_name(name).await?.entities.is_empty()),
        }
    }

    /// Carries out one step.
    ///
    /// # Errors
    /// Any but that there is no such registration, or no such call, which are results.
    pub async fn execute(
        &self,
        step: Step,
        desired: &DesiredRegistration,
    ) -> Result<StepResult, GenesysError> {
        let Self::EventBridges(bridges) = self;
        let result = match &step {
            Step::Create => bridges.create(desired).await.map(StepResult::Written),
            Step::Update(id) => bridges.update(id, desired).await.map(|updated| match updated {
                Some(registration) => StepResult::Written(registration),
                None => StepResult::Missing(id.clone()),
            }),
            Step::Delete(id) => bridges.delete(id).await.map(|()| StepResult::Deleted(id.clone())),
        };
        match result {
            Err(error @ GenesysError::Unsupported { .. }) => Ok(StepResult::Unsupported(step, error)),
            other => other,
        }
    }

    /// Deletes the registration of this id. That there is none is success.
    ///
    /// # Errors
    /// [`GenesysError::Unsupported`] where the API cannot delete.
    pub async fn delete(&self, id: &str) -> Result<(), GenesysError> {
        let Self::EventBridges(bridges) = self;
        bridges.delete(id).await
    }

    /// The error of an API whose deletions succeed and whose list does not get shorter.
    pub fn still_listed(&self, name: &str) -> GenesysError {
        let Self::EventBridges(bridges) = self;
        bridges.still_listed(name)
    }

    /// A URL that Genesys Cloud says a registration calls, as it may be shown.
    pub fn quote_url(&self, url: &str) -> String {
        let Self::EventBridges(bridges) = self;
        bridges.quote_url(url)
    }

    /// Whether it is of this API.
    pub fn is_at(&self, api: &ApiEndpoint) -> bool {
        let Self::EventBridges(bridges) = self;
        bridges.is_at(&api.api_url, &api.event_bridges_path)
    }

    /// Whether both are of one API.
    pub fn is_same_api(&self, other: &Self) -> bool {
        let (Self::EventBridges(one), Self::EventBridges(other)) = (self, other);
        one.is_same_api(other)
    }
}
