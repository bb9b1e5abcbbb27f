//! Removes every registration of a route that is being deleted, then the finalizer, and then that of the Secret with the
//! clients that it took. The owned objects follow by their owner references.

use futures::FutureExt;
use kube::ResourceExt;
use presenceroute_crds::PresenceRoute;
use presenceroute_crds::spec::DeletionPolicy;
use presenceroute_manifest::dereference::dereference;
use presenceroute_manifest::validate::validate_with;
use secrecy::SecretString;

use super::desired::{Desired, owner};
use super::failure::{Failure, noun};
use super::record::{CleanupTarget, Recorded, RegistrationRecord};
use super::{CallResult, Registrations, key_of};
use crate::error::{ReconcileError, kubernetes};
use crate::finalizer::remove_finalizer;

/// How a deletion stands.
pub enum Deletion {
    /// The finalizer is removed.
    Done,
    /// A call is running; its end triggers a reconcile.
    Pending,
    /// A registration may still be at Genesys Cloud, for this reason.
    Blocked(Failure),
}

impl Registrations {
    /// Deregisters the route, and lets the object go.
    ///
    /// # Errors
    /// The API server's. What Genesys Cloud fails at blocks the deletion.
    pub async fn delete(&self, route: &PresenceRoute) -> Result<Deletion, ReconcileError> {
        if route.spec.deletion_policy == DeletionPolicy::Retain {
            return self.release(route).await;
        }
        let (key, uid) = (key_of(route), route.uid().unwrap_or_default());
        let failure = match self.calls.take_result(&key, &uid) {
            Some(CallResult::Deregistered(failure)) => failure,
            // What the result of another call brings to light is found by its name.
            _ if self.calls.is_running(&key) => return Ok(Deletion::Pending),
            _ => {
                let targets = match self.targets(route).await? {
                    Ok(targets) => targets,
                    Err(failure) => return Ok(Deletion::Blocked(failure)),
                };
                if targets.is_empty() {
                    return self.release(route).await;
                }
                let call = self.clean_up(route, targets, None).await?.map(|cleaned| {
                    let failures = cleaned.into_iter().filter_map(|(_, result)| result.err());
                    CallResult::Deregistered(Failure::joined(failures.collect()))
                });
                match self.calls.start(&key, &uid, call).await {
                    Some(CallResult::Deregistered(failure)) => failure,
                    _ => return Ok(Deletion::Pending),
                }
            }
        };
        match failure {
            Some(failure) => Ok(Deletion::Blocked(failure)),
            None => {
                let (namespace, name) = (&key.namespace, &key.name);
                let record = RegistrationRecord::read(self.states.status(route));
                let object = noun(record.current.as_ref().map(Recorded::type_).unwrap_or_default());
                tracing::info!(%namespace, %name, object, "removed what Genesys Cloud had for the route");
                let note = format!("the {object} at Genesys Cloud is gone");
                self.events.normal(route, "Deregistered", &note).await;
                self.release(route).await
            }
        }
    }

    /// Where a registration of the route may be.
    async fn targets(
        &self,
        route: &PresenceRoute,
    ) -> Result<Result<Vec<CleanupTarget>, Failure>, ReconcileError> {
        let url = route.spec.endpoint.as_ref().map(|endpoint| endpoint.url.as_str());
        let namespace = route.namespace().unwrap_or_default();
        let owner = owner(&namespace, &route.name_any());
        let record = RegistrationRecord::read(self.states.status(route));
        let is_recorded = record.current.is_some();
        let recorded: Vec<_> = record.targets(url, &owner).collect();
        if is_recorded || !recorded.is_empty() {
            return Ok(Ok(recorded));
        }
        // The status is lost, as after a restore from a backup: the spec is left.
        let checks = self.conditions.compile(&namespace, &route.spec).await;
        let secrets = self.secrets.of(&namespace);
        let references = dereference(&route.spec, &secrets).await.map_err(kubernetes("read the Secrets"))?;
        Ok(match validate_with(route, references, checks) {
            Err(problems) => {
                let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
                Err(Failure::invalid(problems.join("; ")))
            }
            // The signing secret plays no part in where a registration is.
            Ok(model) => match Desired::of(&model, &route.spec.genesys, &SecretString::default()) {
                Ok(Desired { object, .. }) if object.is_external() => Ok(Vec::new()),
                Ok(Desired { location, object, .. }) => {
                    let destinations = vec![object.destination()];
                    Ok(vec![CleanupTarget { destinations, ..CleanupTarget::former(location, &owner) }])
                }
                Err(problem) => Err(Failure::unresolved(&problem)),
            },
        })
    }

    async fn release(&self, route: &PresenceRoute) -> Result<Deletion, ReconcileError> {
        let uid = route.uid().unwrap_or_default();
        remove_finalizer(&self.client, route).await.map_err(kubernetes("remove the finalizer"))?;
        self.release_clients(route).await;
        self.executor.cache().forget(&uid);
        self.states.forget(&uid);
        Ok(Deletion::Done)
    }
}
