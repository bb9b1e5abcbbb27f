//! The Secrets that routes name, read from the API server once for each of their versions.
//!
//! The watch brings the metadata of all Secrets, of which nothing but the version is kept. The content is read when a
//! route needs it, and dropped when the version changes or soon after no route names the Secret any more: the content of
//! a Secret that no route names is never read. All contents together are bounded, and so is what is read at once: a Secret
//! that has no room is read again when it is needed.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Secret;
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::Event;
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;

use presenceroute_manifest::dereference::SecretSource;

use super::key::{ObjectKey, version};
use super::listing::{Entry, Listing};
use super::ready::Outstanding;
use crate::namespace_limits::NamespaceLimits;

/// How many Secrets are read at once, of all namespaces and of one. A Secret has up to 1 MiB, and takes a multiple of it
/// while it is read.
const READS: usize = 8;
const READS_OF_NAMESPACE: usize = 2;

/// What the contents may take together, in bytes: a thousand routes need less.
const CAPACITY: usize = 16 << 20;

/// The versions of all Secrets, and the content of those that routes name.
pub struct SecretCache {
    client: Client,
    known: Mutex<Known>,
    reads: NamespaceLimits,
    outstanding: Outstanding,
}

#[derive(Default)]
struct Known {
    versions: Listing<Versioned>,
    contents: Contents,
}

/// The content of Secrets.
#[derive(Default)]
struct Contents {
    secrets: HashMap<ObjectKey, Content>,
    bytes: usize,
}

struct Content {
    secret: Secret,
    bytes: usize,
}

/// A Secret of which the version alone is kept.
struct Versioned;

impl Entry for Versioned {}

impl SecretCache {
    /// Without any Secret yet.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            known: Mutex::default(),
            reads: NamespaceLimits::new(READS, READS_OF_NAMESPACE),
            outstanding: Outstanding::listings(1),
        }
    }

    /// The Secrets of one namespace.
    pub fn of<'c>(&'c self, namespace: &'c str) -> NamespaceSecrets<'c> {
        NamespaceSecrets { cache: self, namespace }
    }

    /// Takes one event of the watch and returns the Secrets that changed.
    pub fn handle(&self, event: Event<PartialObjectMeta<Secret>>) -> Vec<ObjectKey> {
        let mut known = self.known.lock();
        let was_complete = known.versions.is_complete();
        let changed = known.handle(event);
        if known.versions.is_complete() && !was_complete {
            self.outstanding.complete_one();
        }
        changed
    }

    /// Resolves when all Secrets have been listed once.
    pub async fn ready(&self) {
        self.outstanding.all_complete().await;
    }

    /// Drops the content of the Secrets that no route names.
    pub fn retain(&self, is_named: impl Fn(&ObjectKey) -> bool) {
        self.known.lock().contents.retain(is_named);
    }

    async fn read(&self, key: ObjectKey) -> Result<Option<Secret>, kube::Error> {
        if let Some(secret) = self.known.lock().current(&key) {
            return Ok(Some(secret.clone()));
        }
        let _permit = self.reads.acquire(&key.namespace).await;
        // Another reconcile may have read it meanwhile.
        if let Some(secret) = self.known.lock().current(&key) {
            return Ok(Some(secret.clone()));
        }
        // A Secret that the watch has not reported is read, too: it may have been created together with the route.
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        let secret = api.get_opt(&key.name).await?;
        let secret = secret.map(|mut secret| {
            secret.managed_fields_mut().clear();
            secret.annotations_mut().clear();
            secret
        });
        let mut known = self.known.lock();
        match &secret {
            Some(secret) => known.contents.insert(key, secret),
            None => known.contents.remove(&key),
        }
        Ok(secret)
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
        self.cache.read(ObjectKey { namespace: self.namespace.to_owned(), name: name.to_owned() }).await
    }
}

impl Known {
    fn handle(&mut self, event: Event<PartialObjectMeta<Secret>>) -> Vec<ObjectKey> {
        let changed = self.versions.apply(event, |_| Some(Versioned));
        for key in &changed {
            if self.current(key).is_none() {
                self.contents.remove(key);
            }
        }
        changed
    }

    /// The content, if it is of the version that the watch has brought last.
    fn current(&self, key: &ObjectKey) -> Option<&Secret> {
        let known = self.versions.version_of(key)?;
        self.contents.get(key).filter(|secret| version(*secret) == Some(known))
    }
}

impl Contents {
    fn get(&self, key: &ObjectKey) -> Option<&Secret> {
        self.secrets.get(key).map(|content| &content.secret)
    }

    /// Keeps a content. Where there is no room, the largest give way: those of an ordinary size stay.
    fn insert(&mut self, key: ObjectKey, secret: &Secret) {
        self.remove(&key);
        let values = secret.data.iter().flatten();
        let bytes = 512 + values.map(|(key, value)| key.len() + value.0.len()).sum::<usize>();
        while self.bytes + bytes > CAPACITY {
            let largest = self.secrets.iter().max_by_key(|(_, content)| content.bytes);
            match largest.filter(|(_, largest)| largest.bytes > bytes).map(|(key, _)| key.clone()) {
                Some(largest) => self.remove(&largest),
                None => return,
            }
        }
        self.bytes += bytes;
        self.secrets.insert(key, Content { secret: secret.clone(), bytes });
    }

    fn remove(&mut self, key: &ObjectKey) {
        if let Some(content) = self.secrets.remove(key) {
            self.bytes -= content.bytes;
        }
    }

    fn retain(&mut self, is_kept: impl Fn(&ObjectKey) -> bool) {
        self.secrets.retain(|key, _| is_kept(key));
        self.bytes = self.secrets.values().map(|content| content.bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
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

    fn key(name: &str) -> ObjectKey {
        ObjectKey { namespace: "presence".into(), name: name.into() }
    }

    fn listed() -> Known {
        let mut known = Known::default();
        known.handle(Event::Init);
        known.handle(Event::InitDone);
        known
    }

    #[test]
    fn a_content_counts_for_the_version_that_the_watch_knows() {
        let mut known = listed();
        known.contents.insert(key("webhook"), &secret("webhook", "1"));
        assert!(known.current(&key("webhook")).is_none(), "the watch does not know it yet");
        known.handle(Event::Apply(metadata("webhook", "1")));
        assert!(known.current(&key("webhook")).is_some());
        assert_eq!(known.handle(Event::Apply(metadata("webhook", "1"))), []);
        assert_eq!(known.handle(Event::Apply(metadata("webhook", "2"))), [key("webhook")]);
        assert!(known.contents.secrets.is_empty() && known.contents.bytes == 0);
    }

    #[test]
    fn a_content_newer_than_the_watch_is_kept() {
        let mut known = listed();
        known.handle(Event::Apply(metadata("webhook", "1")));
        known.contents.insert(key("webhook"), &secret("webhook", "2"));
        assert!(known.current(&key("webhook")).is_none());
        known.handle(Event::Apply(metadata("webhook", "2")));
        assert!(known.current(&key("webhook")).is_some());
    }

    #[test]
    fn the_content_of_a_secret_that_is_gone_is_dropped() {
        let mut known = listed();
        for name in ["webhook", "oauth", "tls"] {
            known.handle(Event::Apply(metadata(name, "1")));
            known.contents.insert(key(name), &secret(name, "1"));
        }
        assert_eq!(known.handle(Event::Delete(metadata("tls", "2"))), [key("tls")]);
        known.handle(Event::Init);
        known.handle(Event::InitApply(metadata("webhook", "1")));
        assert_eq!(known.handle(Event::InitDone), [key("oauth")]);
        assert_eq!(known.contents.secrets.keys().collect::<Vec<_>>(), [&key("webhook")]);
    }

    #[test]
    fn contents_are_bounded_in_sum_and_the_largest_give_way() {
        let mut contents = Contents::default();
        let mut insert = |name: &str, bytes: usize| {
            let mut secret = secret(name, "1");
            secret.data = Some([("ca.crt".to_owned(), ByteString(vec![0; bytes]))].into());
            contents.insert(key(name), &secret);
            assert!(contents.bytes <= CAPACITY, "{name}");
        };
        for number in 0..1000 {
            insert(&format!("ordinary-{number}"), 2000);
        }
        for number in 0..100 {
            insert(&format!("large-{number}"), 1 << 20);
        }
        for number in 1000..2000 {
            insert(&format!("ordinary-{number}"), 2000);
        }
        assert!((0..2000).all(|number| contents.get(&key(&format!("ordinary-{number}"))).is_some()));
        contents.retain(|_| false);
        assert_eq!(contents.bytes, 0);
    }
}
