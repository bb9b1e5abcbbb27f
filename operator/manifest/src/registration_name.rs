//! What a registration is called, and which namespace may call one so.
//!
//! All routes of an organisation share one set of names. A name that begins with NAMESPACE/ is reserved to that
//! namespace, so that no route can take the default name of a route elsewhere. Which of two routes with one name owns it
//! is left to [`conflicts`](crate::conflicts).

use std::borrow::Cow;

use kube::ResourceExt;
use presenceroute_crds::PresenceRoute;

/// The name that the route asks for; `None` without a registration, and for a name that is reserved to another namespace.
pub fn registration_name(route: &PresenceRoute) -> Option<Cow<'_, str>> {
    match &route.spec.source.webhook.as_ref()?.name {
        Some(name) => reserved_for_another(name, route).is_none().then_some(name.into()),
        None => Some(format!("{}/{}", route.namespace().unwrap_or_default(), route.name_any()).into()),
    }
}

/// Whether the route asks for this name. Nothing is copied, because thousands of routes are compared each with each.
pub fn is_asked_by(name: &str, route: &PresenceRoute) -> bool {
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
