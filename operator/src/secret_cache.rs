//! The Secrets that routes name, read from the API server once for each of their versions.
//!
//! The watch brings the metadata of all Secrets, of which nothing but the version is kept. The content is read when a
//! route needs it, and forgotten when the version is another, or soon after no route names it any more: no Secret of
//! somebody else ever comes here.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Secret;
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::Event;
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;

use presenceroute_manifest::dereference::SecretSource;

/// Versions of all Secrets, and the content of some.
pub struct SecretCache {
    client: Client,
    known: Mutex<Known>,
    listed: watch::Sender<bool>,
}

/// The name of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

#[derive(Default)]
struct Known {
    versions: HashMap<SecretKey, String>,
    contents: HashMap<SecretKey, Secret>,
    /// What the listing that is under way has brought.
    seen: HashSet<SecretKey>,
    is_listed: bool,
}

impl SecretCache {
    /// Knows nothing yet.
    pub fn new(client: Client) -> Self {
        Self { client, known: Mutex::default(), listed: watch::channel(false).0 }
    }

    /// The Secrets of one namespace.
    pub fn of<'c>(&'c self, namespace: &'c str) -> NamespaceSecrets<'c> {
        NamespaceSecrets { cache: self, namespace }
    }

    /// Takes what the watch brings, and gives the Secrets that changed, came or went by it. The first listing changes
    /// nothing for anybody who waits until it is [`ready`](Self::ready).
    pub fn take(&self, event: Event<PartialObjectMeta<Secret>>) -> Vec<SecretKey> {
        let mut known = self.lock();
        match event {
            Event::Apply(secret) => known.insert(&secret).into_iter().collect(),
            Event::Delete(secret) => known.remove(key_of(&secret)).into_iter().collect(),
            Event::Init => {
                known.seen.clear();
                Vec::new()
            }
            Event::InitApply(secret) => {
                known.seen.insert(key_of(&secret));
                let changed = known.insert(&secret);
                if known.is_listed { changed.into_iter().collect() } else { Vec::new() }
            }
            Event::InitDone => {
                known.is_listed = true;
                let gone = known.retain_seen();
                drop(known);
                self.listed.send_replace(true);
                gone
            }
        }
    }

    /// Resolves when all Secrets have been listed once.
    pub async fn ready(&self) {
        // The sender is our own.
        let _ = self.listed.subscribe().wait_for(|listed| *listed).await;
    }

    /// Forgets the content of the Secrets that nobody names.
    pub fn retain(&self, is_named: impl Fn(&SecretKey) -> bool) {
        self.lock().contents.retain(|key, _| is_named(key));
    }

    async fn read(&self, key: SecretKey) -> Result<Option<Secret>, kube::Error> {
        if let Some(secret) = self.lock().current(&key) {
            return Ok(Some(secret.clone()));
        }
        // Also one that the watch has not told of: it may have been made together with the route.
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        let secret = api.get_opt(&key.name).await?;
        match secret.clone() {
            Some(mut secret) => {
                secret.managed_fields_mut().clear();
                secret.annotations_mut().clear();
                self.lock().contents.insert(key, secret);
            }
            None => {
                self.lock().contents.remove(&key);
            }
        }
        Ok(secret)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing in here panics between two changes that belong together.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The Secrets of one namespace.
pub struct NamespaceSecrets<'c> {
    cache: &'c SecretCache,
    namespace: &'c str,
}

impl SecretSource for NamespaceSecrets<'_> {
    type Error = kube::Error;

    async fn secret(&self, name: &str) -> Result<Option<Secret>, kube::Error> {
        self.cache.read(SecretKey { namespace: self.namespace.to_owned(), name: name.to_owned() }).await
    }
}

impl Known {
    /// The content, if it is of the version that the watch has brought last.
    fn current(&self, key: &SecretKey) -> Option<&Secret> {
        let version = self.versions.get(key)?;
        self.contents.get(key).filter(|secret| secret.metadata.resource_version.as_ref() == Some(version))
    }

    fn insert(&mut self, secret: &PartialObjectMeta<Secret>) -> Option<SecretKey> {
        let key = key_of(secret);
        let version = secret.resource_version().unwrap_or_default();
        let previous = self.versions.insert(key.clone(), version.clone());
        if previous.as_ref() == Some(&version) {
            return None;
        }
        if self.current(&key).is_none() {
            self.contents.remove(&key);
        }
        Some(key)
    }

    fn remove(&mut self, key: SecretKey) -> Option<SecretKey> {
        self.contents.remove(&key);
        self.versions.remove(&key).map(|_| key)
    }

    fn retain_seen(&mut self) -> Vec<SecretKey> {
        let seen = std::mem::take(&mut self.seen);
        let gone: Vec<_> = self.versions.keys().filter(|key| !seen.contains(key)).cloned().collect();
        gone.into_iter().filter_map(|key| self.remove(key)).collect()
    }
}

fn key_of(secret: &PartialObjectMeta<Secret>) -> SecretKey {
    SecretKey { namespace: secret.namespace().unwrap_or_default(), name: secret.name_any() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(name: &str, version: &str) -> PartialObjectMeta<Secret> {
        serde_json::from_value(json!({
            "apiVersion": "meta.k8s.io/v1",
            "kind": "PartialObjectMetadata",
            "metadata": {"name": name, "namespace": "presence", "resourceVersion": version},
        }))
        .unwrap()
    }

    fn secret(name: &str, version: &str) -> Secret {
        serde_json::from_value(
            json!({"metadata": {"name": name, "namespace": "presence", "resourceVersion": version}}),
        )
        .unwrap()
    }

    fn key(name: &str) -> SecretKey {
        SecretKey { namespace: "presence".into(), name: name.into() }
    }

    #[test]
    fn a_content_is_good_for_the_version_that_the_watch_knows_and_forgotten_with_it() {
        let mut known = Known::default();
        known.contents.insert(key("webhook"), secret("webhook", "1"));
        assert!(known.current(&key("webhook")).is_none(), "the watch does not know it yet");
        known.insert(&metadata("webhook", "1"));
        assert!(known.current(&key("webhook")).is_some());
        assert_eq!(known.insert(&metadata("webhook", "1")), None);
        assert_eq!(known.insert(&metadata("webhook", "2")), Some(key("webhook")));
        assert!(known.contents.is_empty());
    }

    #[test]
    fn a_content_that_is_newer_than_the_watch_is_kept_until_the_watch_has_caught_up() {
        let mut known = Known::default();
        known.insert(&metadata("webhook", "1"));
        known.contents.insert(key("webhook"), secret("webhook", "2"));
        assert!(known.current(&key("webhook")).is_none());
        known.insert(&metadata("webhook", "2"));
        assert!(known.current(&key("webhook")).is_some());
    }

    #[test]
    fn what_a_listing_does_not_bring_is_gone() {
        let mut known = Known::default();
        known.insert(&metadata("webhook", "1"));
        known.insert(&metadata("oauth", "1"));
        known.contents.insert(key("oauth"), secret("oauth", "1"));
        known.seen.insert(key("webhook"));
        assert_eq!(known.retain_seen(), [key("oauth")]);
        assert!(known.contents.is_empty());
    }
}
