//! What Genesys Cloud holds for a route: a registration for the webhook source, an integration for Amazon EventBridge. The
//! planner works on what both have: an id, a name, and a destination.

use std::time::Duration;

use presenceroute_core::genesys_api::{IntegrationSpec, RegistrationSpec};
use presenceroute_crds::spec::IntegrationMode;
use presenceroute_genesys::integrations::ReportedState;
use presenceroute_genesys::{
    DesiredIntegration, DesiredRegistration, Integration, IntegrationDifference, Registration,
};

/// An object as the spec asks for it, but for secrets: what the status records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectSpec {
    /// A registration.
    Registration(RegistrationSpec),
    /// An integration, and who keeps it.
    Integration(IntegrationSpec, IntegrationMode),
}

impl ObjectSpec {
    /// Its name at Genesys Cloud.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Registration(spec) => &spec.name,
            Self::Integration(spec, _) => &spec.name,
        }
    }

    /// Where it sends events: a URL, or an AWS account and region.
    #[must_use]
    pub fn destination(&self) -> String {
        match self {
            Self::Registration(spec) => spec.url.clone(),
            Self::Integration(spec, _) => event_bus(&spec.aws_account_id, &spec.aws_region),
        }
    }

    /// The URL that it calls, if it calls one.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        match self {
            Self::Registration(spec) => Some(&spec.url),
            Self::Integration(..) => None,
        }
    }

    /// Whether it is kept by other means: it is read, and neither changed nor removed.
    #[must_use]
    pub fn is_external(&self) -> bool {
        matches!(self, Self::Integration(_, IntegrationMode::External))
    }
}

fn event_bus(account: &str, region: &str) -> String {
    format!("AWS account {account} in {region}")
}

/// An object as Genesys Cloud is to hold it.
#[derive(Clone, Debug)]
pub enum DesiredObject {
    /// A registration, with its secret.
    Registration(DesiredRegistration),
    /// An integration, and who keeps it.
    Integration(DesiredIntegration, IntegrationMode),
}

impl DesiredObject {
    /// All of it that is no secret.
    #[must_use]
    pub fn spec(&self) -> ObjectSpec {
        match self {
            Self::Registration(desired) => ObjectSpec::Registration(desired.spec.clone()),
            Self::Integration(desired, mode) => ObjectSpec::Integration(desired.spec.clone(), *mode),
        }
    }

    /// Its name at Genesys Cloud.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Registration(desired) => &desired.spec.name,
            Self::Integration(desired, _) => &desired.spec.name,
        }
    }

    /// Where it is to send events: a URL, or an AWS account and region.
    #[must_use]
    pub fn destination(&self) -> String {
        match self {
            Self::Registration(desired) => desired.spec.url.clone(),
            Self::Integration(desired, _) => {
                event_bus(&desired.spec.aws_account_id, &desired.spec.aws_region)
            }
        }
    }

    /// Whether both are the same, but for secrets.
    #[must_use]
    pub fn is_same_but_for_secrets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Registration(one), Self::Registration(other)) => one.spec == other.spec,
            (Self::Integration(one, mode), Self::Integration(other, other_mode)) => {
                one == other && mode == other_mode
            }
            _ => false,
        }
    }

    /// Whether there is a secret that Genesys Cloud has to be sent.
    pub(super) fn has_secret(&self) -> bool {
        matches!(self, Self::Registration(_))
    }

    /// Whether it is kept by other means.
    #[must_use]
    pub fn is_external(&self) -> bool {
        matches!(self, Self::Integration(_, IntegrationMode::External))
    }

    /// Whether an object that is not known by its id can be the route's. All registrations of its name can.
    pub(super) fn can_be(&self, found: &ObservedObject) -> bool {
        match self {
            Self::Registration(_) => true,
            Self::Integration(desired, _) => found.is_kept_for(&desired.owner),
        }
    }

    /// Whether there cannot be both: an event source has one integration.
    pub(super) fn excludes(&self, found: &ObservedObject) -> bool {
        match (self, found) {
            (Self::Integration(desired, _), ObservedObject::Integration(found)) => {
                found.integration.event_source_suffix() == desired.spec.event_source_suffix
            }
            _ => false,
        }
    }

    /// The fields of Genesys Cloud in which an object is not as desired.
    pub(super) fn differences(&self, found: &ObservedObject) -> Vec<String> {
        match (self, found) {
            (Self::Registration(desired), ObservedObject::Registration(found)) => {
                found.differences(desired).iter().map(ToString::to_string).collect()
            }
            (Self::Integration(desired, mode), ObservedObject::Integration(found)) => {
                // Those who keep it choose its name, and a suspended route does not disable it.
                let is_theirs = |difference: &IntegrationDifference| match difference {
                    IntegrationDifference::Name => true,
                    IntegrationDifference::IntendedState => !desired.spec.enabled,
                    _ => false,
                };
                let mut differences = found.integration.differences(&desired.spec);
                if *mode == IntegrationMode::External {
                    differences.retain(|difference| !is_theirs(difference));
                }
                differences.iter().map(ToString::to_string).collect()
            }
            // A backend shows objects of one kind.
            _ => Vec::new(),
        }
    }

    /// The object as created by a server that cannot be asked.
    pub(super) fn as_created(&self, id: &str) -> ObservedObject {
        match self {
            Self::Registration(desired) => ObservedObject::Registration(desired.as_created(id)),
            Self::Integration(desired, _) => ObservedObject::Integration(Box::new(ObservedIntegration {
                integration: Integration::written(id, desired),
                event_source_name: None,
                unavailable_topics: Vec::new(),
            })),
        }
    }
}

/// An object as Genesys Cloud shows it.
#[derive(Clone, Debug, PartialEq)]
pub enum ObservedObject {
    /// A registration.
    Registration(Registration),
    /// An integration.
    Integration(Box<ObservedIntegration>),
}

/// An integration, and what is known of its event source.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedIntegration {
    /// As Genesys Cloud shows it.
    pub integration: Integration,
    /// The full name of the event source; `None` where Genesys Cloud does not tell the organization's id.
    pub event_source_name: Option<String>,
    /// The desired topics that Genesys Cloud does not send to Amazon EventBridge, each as a sentence.
    pub unavailable_topics: Vec<String>,
}

/// How soon a state that is not the last one is looked at again, at first.
const SETTLING: Duration = Duration::from_secs(2);
/// How soon at the latest.
const SETTLING_AT_MOST: Duration = Duration::from_secs(60);

impl ObservedObject {
    /// The id that Genesys Cloud gave it.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Registration(found) => &found.id,
            Self::Integration(found) => &found.integration.id,
        }
    }

    /// Its name; empty where Genesys Cloud does not tell.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Registration(found) => &found.name,
            Self::Integration(found) => found.integration.name(),
        }
    }

    /// Where it sends events: a URL, or an AWS account and region. Empty where Genesys Cloud does not tell.
    #[must_use]
    pub fn destination(&self) -> String {
        match self {
            Self::Registration(found) => found.url.clone(),
            Self::Integration(found) => {
                let destination = found.integration.aws_account_and_region();
                destination.map(|(account, region)| event_bus(account, region)).unwrap_or_default()
            }
        }
    }

    /// Whether it sends events there, or may for all that Genesys Cloud tells.
    #[must_use]
    pub fn sends_to(&self, destination: &str) -> bool {
        match self {
            Self::Registration(found) => found.calls(destination),
            Self::Integration(_) => {
                let own = self.destination();
                own.is_empty() || own == destination
            }
        }
    }

    /// Whether it can be the one of this route, NAMESPACE/NAME. Registrations do not say whose they are.
    pub(super) fn is_kept_for(&self, owner: &str) -> bool {
        match self {
            Self::Registration(_) => true,
            Self::Integration(found) => found.integration.is_kept_for(owner),
        }
    }

    /// What has become of an integration's intended state.
    #[must_use]
    pub fn reported_state(&self) -> Option<&ReportedState> {
        match self {
            Self::Registration(_) => None,
            Self::Integration(found) => found.integration.reported_state.as_ref(),
        }
    }

    /// How soon it is to be looked at again because its state is not the one that is intended, after so many looks. Longer
    /// each time: an integration may stay like this.
    pub(super) fn settles_in(&self, looks: u32) -> Option<Duration> {
        let Self::Integration(found) = self else { return None };
        let state = found.integration.reported_state.as_ref()?;
        let intended = if found.integration.intended_state == "DISABLED" { "INACTIVE" } else { "ACTIVE" };
        (state.code != intended).then(|| SETTLING.saturating_mul(1 << looks.min(8)).min(SETTLING_AT_MOST))
    }
}
