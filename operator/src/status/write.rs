//! Writes a status that says something new, and reports each condition that changes as an event and as a line in the log.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use presenceroute_crds::{PresenceRoute, PresenceRouteStatus};

use super::changes::{Change, changes};
use super::conditions::{Observed, build, deletion_blocked};
use crate::error::{ReconcileError, kubernetes};
use crate::events::EventRecorder;
use crate::registration::failure::Failure;
use crate::route_state::RouteStates;

/// Writes statuses, for all routes.
pub struct StatusWriter<'w> {
    /// The statuses that were written last.
    pub states: &'w RouteStates,
    /// The events.
    pub events: &'w EventRecorder,
}

impl StatusWriter<'_> {
    /// Reports what a reconcile has observed.
    ///
    /// # Errors
    /// The API server's.
    pub async fn report(&self, route: &PresenceRoute, observed: Observed) -> Result<(), ReconcileError> {
        let previous = self.states.status(route);
        let current = build(previous.as_ref(), route.metadata.generation, observed, Timestamp::now());
        self.write(route, previous, current).await
    }

    /// Reports why a deletion does not go on.
    ///
    /// # Errors
    /// The API server's.
    pub async fn report_blocked_deletion(
        &self,
        route: &PresenceRoute,
        failure: &Failure,
    ) -> Result<(), ReconcileError> {
        let message = format!(
            "{}; the PresenceRoute stays until Genesys Cloud confirms that the registration is gone. To delete it at once \
             and remove the registration by hand, set spec.deletionPolicy to Retain",
            failure.message
        );
        let previous = self.states.status(route);
        let generation = route.metadata.generation;
        let current =
            deletion_blocked(previous.as_ref(), generation, failure.reason, &message, Timestamp::now());
        self.write(route, previous, current).await
    }

    async fn write(
        &self,
        route: &PresenceRoute,
        previous: Option<PresenceRouteStatus>,
        current: PresenceRouteStatus,
    ) -> Result<(), ReconcileError> {
        if previous.as_ref() == Some(&current) {
            return Ok(());
        }
        self.states.write_status(route, &current).await.map_err(kubernetes("write the status"))?;
        let (namespace, name) = (route.namespace().unwrap_or_default(), route.name_any());
        for Change { condition, is_alarming } in changes(previous.as_ref(), &current) {
            let (type_, status, reason) = (&condition.type_, &condition.status, &condition.reason);
            let message = &condition.message;
            let note = format!("{type_}: {message}");
            if is_alarming {
                tracing::warn!(%namespace, %name, condition = type_, status, reason, "{message}");
                self.events.warning(route, reason, &note).await;
            } else {
                tracing::info!(%namespace, %name, condition = type_, status, reason, "{message}");
                self.events.normal(route, reason, &note).await;
            }
        }
        Ok(())
    }
}
