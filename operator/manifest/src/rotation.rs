//! Which signing secrets the relays accept, and the steps by which a new one takes over with no event refused.
//!
//! Pure: a state, what is wanted and what has been seen give the next state. The state lives in the Secret
//! `NAME-signing`, which is written before anything acts on it, so a restart at any point goes on where it stopped.
//!
//! A rotation: the new secret is added beside the old one (`Distributing`); when every relay reports both, Genesys
//! Cloud is given the new one (`Registering`); when it has confirmed, the old one is still accepted for a grace
//! period (`Retiring`), because events signed with it may be on their way or waiting to be retried.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use presenceroute_crds::status::SigningPhase;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

/// The key of the Secret `NAME-signing` that holds the revision; every other key is an active secret.
pub const REVISION_KEY: &str = "revision";
/// What joins the names of the secrets in the revision; none of them has it.
const BETWEEN_NAMES: &str = "-";
/// The annotation that names the secret which Genesys Cloud signs with.
pub const REGISTERED_ANNOTATION: &str = "presenceroute.io/registered-secret";
/// The annotation that says when the others go.
pub const RETIRE_ANNOTATION: &str = "presenceroute.io/retire-others-at";

/// The name of a route's Secret with the active signing secrets.
pub fn secret_name(route: &str) -> String {
    format!("{route}-signing")
}

/// The secrets that relays accept.
#[derive(Clone, Default)]
pub struct CredentialRotation {
    /// By a name that says nothing about the secret. What is under one name never changes.
    active: BTreeMap<String, SecretString>,
    /// The one that Genesys Cloud has confirmed to sign with.
    registered: Option<String>,
    /// When all but the registered one go.
    retire_at: Option<Timestamp>,
}

impl CredentialRotation {
    /// Reads the state from the Secret `NAME-signing`; what is absent is empty. Foreign keys are ignored: the revision
    /// does not name them, and Genesys Cloud has not confirmed them.
    pub fn read(secret: Option<&Secret>) -> Self {
        let Some(secret) = secret else { return Self::default() };
        let data = secret.data.iter().flatten();
        let revision =
            secret.data.as_ref().and_then(|data| std::str::from_utf8(&data.get(REVISION_KEY)?.0).ok());
        let registered = secret.annotations().get(REGISTERED_ANNOTATION);
        let is_ours = |name: &String| {
            revision.is_some_and(|names| names.split(BETWEEN_NAMES).any(|ours| ours == name))
                || registered == Some(name)
        };
        let active: BTreeMap<_, _> = data
            .filter(|(name, _)| name.as_str() != REVISION_KEY && is_ours(name))
            .filter_map(|(name, bytes)| {
                let text = std::str::from_utf8(&bytes.0).ok()?;
                Some((name.clone(), SecretString::from(text.to_owned())))
            })
            .collect();
        let registered = registered.filter(|name| active.contains_key(*name));
        let retire_at = secret.annotations().get(RETIRE_ANNOTATION).and_then(|text| text.parse().ok());
        Self { registered: registered.cloned(), retire_at, active }
    }

    /// The state once `wanted` is among the active secrets and what has served its time is not.
    #[must_use]
    pub fn advance(mut self, wanted: &SecretString, now: Timestamp) -> Self {
        let target = self.name_of(wanted).map_or_else(fresh_name, str::to_owned);
        self.active.entry(target.clone()).or_insert_with(|| wanted.clone());
        if self.registered.as_ref() != Some(&target) {
            // Whatever was about to retire the others spoke of another new one.
            self.retire_at = None;
        } else if self.retire_at.is_some_and(|time| time <= now) {
            self.active.retain(|name, _| *name == target);
        }
        if self.active.len() == 1 {
            self.retire_at = None;
        } else if self.retire_at.is_none() {
            // Somebody has gone back to it while Genesys Cloud was given another one, or about to be: only its word
            // that it has this one starts the time after which the other goes.
            self.registered = self.registered.filter(|registered| *registered != target);
        }
        self
    }

    /// The state once Genesys Cloud has confirmed that it signs with `wanted`.
    #[must_use]
    pub fn confirm(mut self, wanted: &SecretString, now: Timestamp, grace: SignedDuration) -> Self {
        self.registered = self.name_of(wanted).map(str::to_owned);
        self.retire_at = (self.active.len() > 1).then(|| now.checked_add(grace).unwrap_or(Timestamp::MAX));
        self
    }

    /// Whether Genesys Cloud has confirmed that it signs with `wanted`.
    pub fn is_registered(&self, wanted: &SecretString) -> bool {
        self.name_of(wanted).is_some_and(|name| self.registered.as_deref() == Some(name))
    }

    /// Where a rotation to `wanted` stands, given that every relay accepts the active secrets or not.
    pub fn phase(&self, wanted: &SecretString, distributed: bool) -> SigningPhase {
        match (self.is_registered(wanted), self.active.len(), distributed) {
            (true, 0 | 1, _) => SigningPhase::Stable,
            (true, _, _) => SigningPhase::Retiring,
            (false, _, false) => SigningPhase::Distributing,
            (false, _, true) => SigningPhase::Registering,
        }
    }

    /// When the next step is due by the clock alone.
    pub fn retire_at(&self) -> Option<Timestamp> {
        self.retire_at
    }

    /// Whether there is nothing to accept.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// What names this set of active secrets: the same revision is the same set, and it gives nothing away.
    pub fn revision(&self) -> String {
        self.active.keys().map(String::as_str).collect::<Vec<_>>().join(BETWEEN_NAMES)
    }

    /// The data of the Secret `NAME-signing`.
    pub fn data(&self) -> BTreeMap<String, ByteString> {
        let secrets = self
            .active
            .iter()
            .map(|(name, secret)| (name.clone(), ByteString(secret.expose_secret().as_bytes().to_vec())));
        let revision = (REVISION_KEY.to_owned(), ByteString(self.revision().into_bytes()));
        secrets.chain([revision]).collect()
    }

    /// The annotations of the Secret `NAME-signing`.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let registered = self.registered.iter().map(|name| (REGISTERED_ANNOTATION.to_owned(), name.clone()));
        let retire = self.retire_at.iter().map(|time| (RETIRE_ANNOTATION.to_owned(), time.to_string()));
        registered.chain(retire).collect()
    }

    /// Whether no other secret is accepted beside this one.
    pub fn is_only(&self, secret: &SecretString) -> bool {
        self.active.len() == 1 && self.name_of(secret).is_some()
    }

    /// The name of an active secret: that of its file, by which relays report it.
    pub fn name_of(&self, secret: &SecretString) -> Option<&str> {
        self.active
            .iter()
            .find(|(_, active)| active.expose_secret() == secret.expose_secret())
            .map(|(name, _)| name.as_str())
    }
}

/// A random name. A counter or a hash would do for telling secrets apart, but a counter starts again when the Secret
/// is deleted, and a hash lets people guess.
fn fresh_name() -> String {
    let mut name = Uuid::new_v4().simple().to_string();
    name.truncate(8);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: SignedDuration = SignedDuration::from_secs(300);

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    /// The state as a restarted operator finds it.
    fn restarted(state: &CredentialRotation) -> CredentialRotation {
        let mut stored = Secret { data: Some(state.data()), ..Secret::default() };
        stored.metadata.annotations = Some(state.annotations());
        CredentialRotation::read(Some(&stored))
    }

    fn registered(text: &str) -> CredentialRotation {
        CredentialRotation::default().advance(&secret(text), now()).confirm(&secret(text), now(), GRACE)
    }

    #[test]
    fn the_first_secret_is_distributed_then_registered_then_stable() {
        let a = secret("a");
        let state = CredentialRotation::default().advance(&a, now());
        assert_eq!(state.phase(&a, false), SigningPhase::Distributing);
        assert_eq!(state.phase(&a, true), SigningPhase::Registering);
        let state = state.confirm(&a, now(), GRACE);
        assert_eq!(state.phase(&a, true), SigningPhase::Stable);
        assert_eq!(state.retire_at(), None);
    }

    #[test]
    fn both_secrets_are_active_until_the_grace_period_ends() {
        let b = secret("b");
        let state = registered("a").advance(&b, now());
        assert_eq!(state.active.len(), 2);
        assert_eq!(state.phase(&b, false), SigningPhase::Distributing);

        let state = restarted(&state.confirm(&b, now(), GRACE));
        assert_eq!(state.phase(&b, true), SigningPhase::Retiring);
        let early = state.clone().advance(&b, now() + SignedDuration::from_secs(299));
        assert_eq!(early.active.len(), 2);
        let late = state.advance(&b, now() + GRACE);
        assert_eq!(late.active.len(), 1);
        assert_eq!(late.phase(&b, true), SigningPhase::Stable);
    }

    #[test]
    fn an_old_secret_stays_until_genesys_confirms_the_new_one() {
        let (b, c) = (secret("b"), secret("c"));
        let retiring = registered("a").advance(&b, now()).confirm(&b, now(), GRACE);
        let state = retiring.advance(&c, now());
        let much_later = state.advance(&c, now() + SignedDuration::from_hours(24));
        assert_eq!(much_later.active.len(), 3);
        assert!(much_later.name_of(&b).is_some());
    }

    #[test]
    fn going_back_to_an_active_secret_confirms_it_anew() {
        let (a, b) = (secret("a"), secret("b"));
        let first = registered("a");
        let name = first.name_of(&a).map(str::to_owned);
        // Genesys Cloud may have been given b, without an answer.
        let back = restarted(&first.advance(&b, now()).advance(&a, now()));
        assert_eq!(back.name_of(&a).map(str::to_owned), name);
        assert_eq!(back.phase(&a, true), SigningPhase::Registering);
        let confirmed = back.confirm(&a, now(), GRACE);
        assert_eq!(confirmed.phase(&a, true), SigningPhase::Retiring);
        let retired = restarted(&confirmed).advance(&a, now() + GRACE);
        assert_eq!((retired.active.len(), retired.phase(&a, true)), (1, SigningPhase::Stable));
        assert_eq!(retired.name_of(&b), None);
    }

    #[test]
    fn going_back_and_forth_restarts_the_grace_period() {
        let (a, b) = (secret("a"), secret("b"));
        let retiring = registered("a").advance(&b, now()).confirm(&b, now(), GRACE);
        // Genesys Cloud may have been given a again meanwhile.
        let forth = retiring.advance(&a, now()).advance(&b, now() + GRACE);
        assert_eq!(forth.active.len(), 2, "a goes without anybody's word that it is not used");
        assert_eq!(forth.phase(&b, true), SigningPhase::Registering);
    }

    #[test]
    fn a_grace_without_end_retires_nothing() {
        let b = secret("b");
        let state = registered("a").advance(&b, now()).confirm(&b, now(), SignedDuration::MAX);
        let much_later = restarted(&state).advance(&b, now() + SignedDuration::from_hours(24 * 365));
        assert_eq!((much_later.active.len(), much_later.phase(&b, true)), (2, SigningPhase::Retiring));
    }

    /// The state as it is read after an edit of the Secret's data.
    fn edited(
        state: &CredentialRotation,
        edit: impl FnOnce(&mut BTreeMap<String, ByteString>),
    ) -> CredentialRotation {
        let mut data = state.data();
        edit(&mut data);
        let mut stored = Secret { data: Some(data), ..Secret::default() };
        stored.metadata.annotations = Some(state.annotations());
        CredentialRotation::read(Some(&stored))
    }

    #[test]
    fn a_foreign_secret_is_ignored_and_starts_no_rotation() {
        let (a, b) = (secret("a"), secret("b"));
        let retiring = registered("a").advance(&b, now()).confirm(&b, now(), GRACE);
        for (state, wanted) in [(registered("a"), &a), (retiring, &b)] {
            let added = edited(&state, |data| {
                data.insert("0a1b2c3d".into(), ByteString(b"by-somebody".into()));
            });
            let next = added.advance(wanted, now());
            assert_eq!(
                (next.revision(), next.phase(wanted, true)),
                (state.revision(), state.phase(wanted, true))
            );
            assert_eq!(next.name_of(&secret("by-somebody")), None);
        }
    }

    #[test]
    fn an_edited_revision_keeps_the_registered_secret_active() {
        let state = registered("a");
        for revision in ["", "none"] {
            let changed = edited(&state, |data| {
                data.insert(REVISION_KEY.into(), ByteString(revision.into()));
            });
            let next = changed.advance(&secret("a"), now());
            assert_eq!((next.revision(), next.is_registered(&secret("a"))), (state.revision(), true));
        }
    }

    #[test]
    fn a_restart_changes_nothing() {
        let state = registered("a").advance(&secret("b"), now()).confirm(&secret("b"), now(), GRACE);
        let again = restarted(&state);
        assert_eq!(again.revision(), state.revision());
        assert_eq!(again.registered, state.registered);
        assert_eq!(again.retire_at, state.retire_at);
    }

    #[test]
    fn the_revision_follows_the_set() {
        let one = registered("a");
        let two = one.clone().advance(&secret("b"), now());
        assert_ne!(one.revision(), two.revision());
    }
}
