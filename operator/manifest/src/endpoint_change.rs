//! A change of the endpoint with no event lost: (1) the new endpoint is served beside the former one, until every relay
//! pod serves both; (2) Genesys Cloud is told the new one; (3) after a grace period the former one goes.
//!
//! Pure. The state is in the status and is written before anything is done because of it, so that a change goes on
//! wherever an operator was restarted. What a step does to the objects is left to `build`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use presenceroute_crds::status::{EndpointPhase, EndpointStatus, FormerEndpoint, ServedEndpoint};

/// How many former endpoints are served at once. Each of them was told to Genesys Cloud after a rollout of its own, so
/// that there are more only if a grace period is far longer than rollouts take; then the oldest goes early.
const MAX_FORMER: usize = 8;

/// The state for what the spec asks for now.
///
/// `registered_url` is the URL that the registration was last known to call; `None` where nothing can have been
/// registered, and nothing is served but what is wanted.
#[must_use]
pub fn plan(
    stored: Option<&EndpointStatus>,
    registered_url: Option<&str>,
    wanted: ServedEndpoint,
    now: Timestamp,
) -> EndpointStatus {
    let Some(registered_url) = registered_url else {
        return EndpointStatus { current: wanted, ..EndpointStatus::default() };
    };
    // An operator that did not know this state yet has registered the route.
    let registered = || EndpointStatus {
        current: ServedEndpoint { url: registered_url.to_owned(), ..wanted.clone() },
        ..EndpointStatus::default()
    };
    let EndpointStatus { mut phase, current, mut former } = stored.cloned().unwrap_or_else(registered);
    former.retain(|former| former.retire_time.as_ref().is_none_or(|time| now < time.0));
    if !is_same(&current, &wanted) {
        // What every relay does not serve yet was not told to Genesys Cloud.
        if phase != EndpointPhase::Distributing {
            former.push(FormerEndpoint { endpoint: current, retire_time: None });
        }
        former.retain(|former| !is_same(&former.endpoint, &wanted));
        phase = EndpointPhase::Distributing;
    }
    let surplus = former.len().saturating_sub(MAX_FORMER);
    former.drain(..surplus);
    if former.is_empty() {
        phase = EndpointPhase::Stable;
    }
    EndpointStatus { phase, current: wanted, former }
}

/// The state once every relay serves the new endpoint.
#[must_use]
pub fn distributed(state: EndpointStatus) -> EndpointStatus {
    match state.phase {
        EndpointPhase::Distributing => EndpointStatus { phase: EndpointPhase::Registering, ..state },
        _ => state,
    }
}

/// The state once Genesys Cloud calls the new endpoint.
#[must_use]
pub fn registered(mut state: EndpointStatus, now: Timestamp, grace: SignedDuration) -> EndpointStatus {
    if state.phase != EndpointPhase::Registering {
        return state;
    }
    // Whole seconds, as the status holds them.
    let seconds = now.as_second().saturating_add(grace.as_secs()).saturating_add(1);
    let retire_at = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    for former in &mut state.former {
        former.retire_time.get_or_insert(Time(retire_at));
    }
    EndpointStatus { phase: EndpointPhase::Retiring, ..state }
}

/// When the next former endpoint goes.
#[must_use]
pub fn retire_at(state: &EndpointStatus) -> Option<Timestamp> {
    state.former.iter().filter_map(|former| Some(former.retire_time.as_ref()?.0)).min()
}

/// Whether relays that serve one serve the other. The certificates may differ: relays and Ingress controllers reload
/// them.
fn is_same(one: &ServedEndpoint, other: &ServedEndpoint) -> bool {
    let facts = |it: &ServedEndpoint| (it.certificate_secret_name.is_some(), it.service_type, it.exposure);
    one.url == other.url && facts(one) == facts(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use presenceroute_crds::spec::ServiceType;
    use presenceroute_crds::status::EndpointExposure;

    const GRACE: SignedDuration = SignedDuration::from_secs(300);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn endpoint(url: &str) -> ServedEndpoint {
        ServedEndpoint { url: url.into(), ..ServedEndpoint::default() }
    }

    fn stable(url: &str) -> EndpointStatus {
        EndpointStatus { current: endpoint(url), ..EndpointStatus::default() }
    }

    fn former(state: &EndpointStatus) -> Vec<&str> {
        state.former.iter().map(|former| former.endpoint.url.as_str()).collect()
    }

    #[test]
    fn a_change_goes_through_its_steps_and_keeps_the_former_endpoint() {
        let state = plan(Some(&stable("a")), Some("a"), endpoint("b"), at(0));
        assert_eq!((state.phase, former(&state)), (EndpointPhase::Distributing, vec!["a"]));
        assert_eq!(plan(Some(&state), Some("a"), endpoint("b"), at(1)), state, "a restart changes nothing");
        assert_eq!(
            registered(state.clone(), at(1), GRACE),
            state,
            "Genesys Cloud still calls the former one"
        );
        let state = distributed(state);
        assert_eq!((state.phase, former(&state)), (EndpointPhase::Registering, vec!["a"]));
        assert_eq!(plan(Some(&state), Some("a"), endpoint("b"), at(2)), state);
        let state = registered(state, at(10), GRACE);
        assert_eq!((state.phase, retire_at(&state)), (EndpointPhase::Retiring, Some(at(311))));
        assert_eq!(distributed(state.clone()), state);
        assert_eq!(plan(Some(&state), Some("b"), endpoint("b"), at(310)), state);
        assert_eq!(plan(Some(&state), Some("b"), endpoint("b"), at(311)), stable("b"));
    }

    #[test]
    fn every_difference_that_senders_can_notice_is_a_change() {
        let table = [
            ServedEndpoint { certificate_secret_name: Some("tls".into()), ..endpoint("a") },
            ServedEndpoint { service_type: ServiceType::LoadBalancer, ..endpoint("a") },
            ServedEndpoint { exposure: EndpointExposure::Ingress, ..endpoint("a") },
            ServedEndpoint { exposure: EndpointExposure::Gateway, ..endpoint("a") },
        ];
        for wanted in table {
            let state = plan(Some(&stable("a")), Some("a"), wanted.clone(), at(0));
            assert_eq!((state.phase, former(&state)), (EndpointPhase::Distributing, vec!["a"]), "{wanted:?}");
            // And back again, before a relay was replaced.
            assert_eq!(plan(Some(&state), Some("a"), endpoint("a"), at(0)), stable("a"));
        }
        let with =
            |secret: &str| ServedEndpoint { certificate_secret_name: Some(secret.into()), ..endpoint("a") };
        let before = EndpointStatus { current: with("one"), ..EndpointStatus::default() };
        let renewed = plan(Some(&before), Some("a"), with("other"), at(0));
        assert_eq!(renewed, EndpointStatus { current: with("other"), ..EndpointStatus::default() });
    }

    #[test]
    fn nothing_is_kept_that_genesys_cloud_was_never_told() {
        assert_eq!(plan(Some(&stable("a")), None, endpoint("b"), at(0)), stable("b"));
        assert_eq!(plan(None, None, endpoint("b"), at(0)), stable("b"));
        let state = plan(Some(&stable("a")), Some("a"), endpoint("b"), at(0));
        let state = plan(Some(&state), Some("a"), endpoint("c"), at(0));
        assert_eq!((state.phase, former(&state)), (EndpointPhase::Distributing, vec!["a"]));
    }

    #[test]
    fn an_edit_during_a_change_keeps_all_that_may_be_called() {
        let state = plan(Some(&stable("a")), Some("a"), endpoint("b"), at(0));
        let registering = plan(Some(&distributed(state.clone())), Some("a"), endpoint("c"), at(0));
        assert_eq!((registering.phase, former(&registering)), (EndpointPhase::Distributing, vec!["a", "b"]));
        let retiring = registered(distributed(state), at(0), GRACE);
        let back = plan(Some(&retiring), Some("b"), endpoint("a"), at(1));
        assert_eq!((back.phase, former(&back)), (EndpointPhase::Distributing, vec!["b"]));
        assert_eq!(retire_at(&back), None);
    }

    #[test]
    fn a_route_of_an_earlier_operator_is_changed_without_loss() {
        let state = plan(None, Some("a"), endpoint("b"), at(0));
        assert_eq!((state.phase, former(&state)), (EndpointPhase::Distributing, vec!["a"]));
        assert_eq!(plan(None, Some("a"), endpoint("a"), at(0)), stable("a"));
    }

    #[test]
    fn former_endpoints_are_bounded_and_the_newest_stay() {
        let mut state = stable("0");
        for edit in 1..=20 {
            let url = edit.to_string();
            let before = state.current.url.clone();
            state = plan(Some(&state), Some(&before), endpoint(&url), at(0));
            state = registered(distributed(state), at(0), GRACE);
        }
        assert_eq!(former(&state), ["12", "13", "14", "15", "16", "17", "18", "19"]);
    }
}
