//! What a registration or an integration is called, and which namespace may call a registration so. An integration goes by
//! the suffix of its event source.
//!
//! All routes of an organisation share one set of names. A name that begins with NAMESPACE/ is reserved to that
//! namespace, so that no route can take the default name of a route elsewhere. Which of two routes with one name owns it
//! is left to [`conflicts`](crate::conflicts).

use std::borrow::Cow;

use kube::ResourceExt;
use presenceroute_crds::PresenceRoute;
use presenceroute_crds::spec::IntegrationMode;

/// The name that the route asks for; `None` without a registration, and for a name that is reserved to another namespace.
pub fn registration_name(route: &PresenceRoute) -> Option<Cow<'_, str>> {
    let (namespace, name) = (route.namespace().unwrap_or_default(), route.name_any());
    if let Some(event_bridge) = &route.spec.source.amazon_event_bridge {
        let is_managed = event_bridge.integration == IntegrationMode::Managed;
        return is_managed.then(|| event_bridge.event_source_suffix(&namespace, &name).into());
    }
    match &route.spec.source.webhook.as_ref()?.name {
        Some(name) => reserved_for_another(name, route).is_none().then_some(name.into()),
        None => Some(format!("{namespace}/{name}").into()),
    }
}

/// Whether the route asks for this name. Nothing is copied, because thousands of routes are compared each with each.
pub fn is_asked_by(name: &str, route: &PresenceRoute) -> bool {
    if let Some(event_bridge) = &route.spec.source.amazon_event_bridge {
        let (namespace, own) = (route.metadata.namespace.as_deref(), route.metadata.name.as_deref());
        let is_asked = match &event_bridge.event_source_suffix {
            Some(suffix) => suffix == name,
            None => namespace.zip(own).is_some_and(|(namespace, own)| {
                name.strip_prefix(namespace).and_then(|rest| rest.strip_prefix('-')) == Some(own)
            }),
        };
        return is_asked && event_bridge.integration == IntegrationMode::Managed;
    }
    let Some(webhook) = &route.spec.source.webhook else { return false };
    match &webhook.name {
        Some(own) => own == name && reserved_for_another(name, route).is_none(),
        None => name.split_once('/').is_some_and(|(namespace, name)| {
            route.metadata.namespace.as_deref() == Some(namespace)
                && route.metadata.name.as_deref() == Some(name)
        }),
    }
}

/// The namespace that a name is reserved to, where it is not the route's. A manifest without a namespace may be meant for
/// any.
pub fn reserved_for_another<'n>(name: &'n str, route: &PresenceRoute) -> Option<&'n str> {
    let (namespace, _) = name.split_once('/')?;
    route.metadata.namespace.as_ref().is_some_and(|own| own != namespace).then_some(namespace)
}
