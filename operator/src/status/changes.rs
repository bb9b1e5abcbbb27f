//! Which conditions differ from the last status, and whether that needs attention. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use presenceroute_crds::PresenceRouteStatus;

use crate::exposure::{ADDRESS_PENDING, GATEWAY_PENDING};

use super::conditions::{
    ACTIVATING, API_KEY_PENDING, ENDPOINT_CHANGING, FORMER_LEFT, NAME_SHARED, NO_REPLICA_READY, NOT_CREATED,
    PROGRESSING, ROLLOUT, SECRET_WEAK, URL_PENDING,
};

/// A condition that differs from before.
pub struct Change<'s> {
    /// The condition as it is now.
    pub condition: &'s Condition,
    /// Whether a person should look at it: it neither holds nor is on its way to.
    pub is_alarming: bool,
}

/// The conditions that differ from before, for events and the log. One that repeats another is left out.
pub fn changes<'s>(
    previous: Option<&PresenceRouteStatus>,
    current: &'s PresenceRouteStatus,
) -> impl Iterator<Item = Change<'s>> {
    let before: Vec<Condition> = previous.iter().flat_map(|status| status.conditions.clone()).collect();
    current.conditions.iter().filter_map(move |condition| {
        let old = before.iter().find(|old| old.type_ == condition.type_);
        let is_first = old.is_none();
        let holds = condition.status == "True";
        let (type_, reason) = (condition.type_.as_str(), condition.reason.as_str());
        let is_repeated =
            matches!(type_, "Ready" | "Stalled") || (type_ == "RoutingLive" && reason == NO_REPLICA_READY);
        let is_left =
            matches!(reason, API_KEY_PENDING | URL_PENDING | FORMER_LEFT | NAME_SHARED | SECRET_WEAK);
        let is_expected = is_first
            && holds
            && !is_left
            && matches!(type_, "Accepted" | "SecretsResolved" | "EndpointExposed");
        let is_known = old.is_some_and(|old| {
            // That another revision is live is news, even where it took no time.
            let is_same_revision = !(holds && type_ == "RoutingLive") || old.message == condition.message;
            old.status == condition.status && old.reason == condition.reason && is_same_revision
        });
        if is_repeated || is_expected || is_known {
            return None;
        }
        // A route that was just made has no ready pod yet.
        let is_starting = is_first && matches!(reason, NO_REPLICA_READY | NOT_CREATED);
        let is_meant = matches!(
            reason,
            "Waiting"
                | PROGRESSING
                | ROLLOUT
                | ENDPOINT_CHANGING
                | ACTIVATING
                | ADDRESS_PENDING
                | GATEWAY_PENDING
                | "Suspended"
                | "ScaledToZero"
        );
        Some(Change { condition, is_alarming: is_left || !(holds || is_starting || is_meant) })
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::status::conditions::{DeploymentFacts, Observed, RefusalReason, build};

    fn status(conditions: &[(&str, &str, &str)]) -> PresenceRouteStatus {
        let conditions = conditions.iter().map(|(type_, status, reason)| Condition {
            type_: (*type_).into(),
            status: (*status).into(),
            reason: (*reason).into(),
            message: String::new(),
            observed_generation: Some(1),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        });
        PresenceRouteStatus { conditions: conditions.collect(), ..PresenceRouteStatus::default() }
    }

    fn reported(
        previous: Option<&PresenceRouteStatus>,
        current: &PresenceRouteStatus,
    ) -> Vec<(String, bool)> {
        changes(previous, current)
            .map(|change| {
                (format!("{} {}", change.condition.type_, change.condition.reason), change.is_alarming)
            })
            .collect()
    }

    #[test]
    fn each_step_of_a_start_is_reported_once_and_alarms_not() {
        let made = status(&[
            ("Accepted", "True", "Accepted"),
            ("SecretsResolved", "True", "Resolved"),
            ("RelayAvailable", "False", "NoReplicaReady"),
            ("RoutingLive", "False", "NoReplicaReady"),
            ("Registered", "False", "Waiting"),
            ("Ready", "False", "NoReplicaReady"),
        ]);
        let expected =
            [("RelayAvailable NoReplicaReady".into(), false), ("Registered Waiting".into(), false)];
        assert_eq!(reported(None, &made), expected);
        assert_eq!(reported(Some(&made), &made), []);
        let up = status(&[
            ("Accepted", "True", "Accepted"),
            ("SecretsResolved", "True", "Resolved"),
            ("RelayAvailable", "True", "Available"),
            ("RoutingLive", "True", "Live"),
            ("Registered", "True", "Registered"),
            ("Ready", "True", "Ready"),
        ]);
        let steps = ["RelayAvailable Available", "RoutingLive Live", "Registered Registered"];
        assert_eq!(reported(Some(&made), &up), steps.map(|step| (step.to_owned(), false)));
    }

    #[test]
    fn relays_that_go_are_reported_while_the_spec_is_invalid() {
        let up = status(&[("Accepted", "True", "Accepted"), ("RelayAvailable", "True", "Available")]);
        let deployment = Some(DeploymentFacts { wanted: 2, replicas: 2, ..DeploymentFacts::default() });
        let (reason, problems) = (RefusalReason::Invalid, vec!["spec.kafka: ...".into()]);
        let observed = Observed::Refused { reason, problems, deployment };
        let down = build(Some(&up), Some(2), observed, Timestamp::UNIX_EPOCH);
        assert_eq!(
            reported(Some(&up), &down),
            [("Accepted Invalid".into(), true), ("RelayAvailable NoReplicaReady".into(), true)]
        );
    }

    #[test]
    fn what_holds_and_should_be_looked_at_alarms_once() {
        let weak = status(&[("SecretsResolved", "True", SECRET_WEAK)]);
        assert_eq!(reported(None, &weak), [("SecretsResolved SigningSecretWeak".into(), true)]);
        assert_eq!(reported(Some(&weak), &weak), []);
        let strong = status(&[("SecretsResolved", "True", "Resolved")]);
        assert_eq!(reported(Some(&weak), &strong), [("SecretsResolved Resolved".into(), false)]);
        let unverified = status(&[("Registered", "Unknown", "Timeout")]);
        let registered = status(&[("Registered", "True", "Registered")]);
        assert_eq!(reported(Some(&registered), &unverified), [("Registered Timeout".into(), true)]);
        assert_eq!(reported(Some(&unverified), &registered), [("Registered Registered".into(), false)]);
    }

    #[test]
    fn a_condition_that_fails_later_alarms() {
        let up = status(&[("SecretsResolved", "True", "Resolved"), ("RelayAvailable", "True", "Available")]);
        let down = status(&[
            ("SecretsResolved", "False", "SecretsUnresolved"),
            ("RelayAvailable", "False", "NoReplicaReady"),
        ]);
        let alarms = ["SecretsResolved SecretsUnresolved", "RelayAvailable NoReplicaReady"];
        assert_eq!(reported(Some(&up), &down), alarms.map(|alarm| (alarm.to_owned(), true)));
        assert_eq!(reported(Some(&down), &up)[0], ("SecretsResolved Resolved".into(), false));
    }
}
