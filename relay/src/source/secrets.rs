//! The secrets that are active: a sender proves itself with any of them, as the source has it.
//!
//! They come from a directory, one file a secret, or from the environment. The files may change while the relay runs, as
//! those of a mounted Kubernetes Secret do.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use hmac::{Hmac, KeyInit, Mac};
use presenceroute_core::relay_config::SourceConfig;
use presenceroute_core::relay_status::SecretsReport;
use presenceroute_runtime::follow::{self, Reload, Reloaded};
use presenceroute_runtime::mounted::read_consistent;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The file with the generation of the secrets.
const REVISION: &str = "revision";

/// The largest file that is taken for a secret, in bytes, so that a wrong mount cannot fill the memory.
const LARGEST: u64 = 64 << 10;

/// What senders prove themselves with, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// They sign each event with it.
    SigningSecret,
    /// They send it with each event.
    ApiKey,
}

impl SecretKind {
    /// The kind of a source's secrets; nothing where it has no senders.
    #[must_use]
    pub fn of(source: &SourceConfig) -> Option<Self> {
        match source {
            SourceConfig::Webhook => Some(Self::SigningSecret),
            SourceConfig::ApiDestination(_) => Some(Self::ApiKey),
            SourceConfig::Sqs(_) => None,
        }
    }
}

impl fmt::Display for SecretKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::SigningSecret => "signing secret",
            Self::ApiKey => "API key",
        })
    }
}

/// Follows the secrets of `directory` until `stop`. They were read once when this returns.
pub async fn follow(
    kind: SecretKind,
    directory: PathBuf,
    stop: CancellationToken,
) -> watch::Receiver<Reloaded<Secrets>> {
    let mut known: Option<Result<[u8; 32], String>> = None;
    follow::start("they have not been read yet", stop, move || {
        let read = Secrets::read(kind, &directory);
        let seen = read.as_ref().map(|secrets| secrets.digest).map_err(ToString::to_string);
        if known.as_ref() == Some(&seen) {
            return Reload::Unchanged;
        }
        known = Some(seen);
        match read {
            Ok(secrets) => {
                let (revision, active) = (secrets.revision(), secrets.active().len());
                tracing::info!(revision, active, "{kind}s loaded");
                for name in secrets.trimmed() {
                    tracing::warn!(secret = name, "trailing white space of this {kind} is ignored");
                }
                Reload::Loaded(secrets)
            }
            Err(error) => {
                let error = error.to_string();
                tracing::error!(error, "invalid {kind}s, keeping the last valid ones");
                Reload::Invalid(error)
            }
        }
    })
    .await
}

/// One active secret, ready to verify with: the key schedule is computed once, not for each event. It cannot be printed.
pub struct ActiveSecret {
    name: String,
    key: Hmac<Sha256>,
    /// The HMAC-SHA256 of the secret under itself.
    own_tag: [u8; 32],
    /// How often a sender has proved itself with it.
    used: AtomicU64,
}

impl ActiveSecret {
    pub(super) fn new(name: String, secret: &SecretString) -> Option<Self> {
        let bytes = secret.expose_secret().as_bytes();
        let key: Hmac<Sha256> = Hmac::new_from_slice(bytes).ok()?;
        let own_tag = key.clone().chain_update(bytes).finalize().into_bytes().into();
        Some(Self { name, key, own_tag, used: AtomicU64::new(0) })
    }

    /// Whether `tag` is the HMAC-SHA256 of `body` under it. Constant-time.
    #[must_use]
    pub fn signed(&self, body: &[u8], tag: &[u8; 32]) -> bool {
        self.key.clone().chain_update(body).verify_slice(tag).is_ok()
    }

    /// Whether it is this text. What is compared are hashes, in constant time: how long that takes tells neither how much of
    /// the text is right nor how long the secret is.
    #[must_use]
    pub fn is(&self, text: &[u8]) -> bool {
        self.signed(text, &self.own_tag)
    }

    /// Counts that a sender has proved itself with it.
    pub fn count_use(&self) {
        self.used.fetch_add(1, Ordering::Relaxed);
    }
}

/// The secrets that are accepted now. There is at least one. It cannot be printed.
pub struct Secrets {
    active: Vec<ActiveSecret>,
    revision: Option<String>,
    /// Tells this set from another without revealing it.
    digest: [u8; 32],
    /// The names of the secrets whose trailing white space was cut off.
    trimmed: Vec<String>,
}

/// Why there are no secrets to use. It names files, never what is in them.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The directory or a file in it cannot be read.
    #[error("{path} cannot be read: {cause}; mount the {kind}s there")]
    Read { kind: SecretKind, path: PathBuf, cause: io::Error },
    /// A secret that proves nothing.
    #[error("the {0} {1:?} is empty; give it a value")]
    Empty(SecretKind, String),
    /// A file that no person meant as a secret.
    #[error("the {0} {1:?} is over {LARGEST} bytes or is not UTF-8 text; give it a value that is")]
    NotText(SecretKind, String),
    /// Nothing to verify with.
    #[error("{1} has no {0}; add one file for each")]
    None(SecretKind, PathBuf),
}

impl Secrets {
    /// One secret, named in messages as it is here. Trailing white space is cut off.
    pub fn single(kind: SecretKind, name: &str, secret: &SecretString) -> Result<Self, SecretsError> {
        Self::new(kind, BTreeMap::from([(name.to_owned(), secret.clone())]), None, Path::new(name))
    }

    /// Every regular file of `directory` but `revision` and those with a hidden name, links followed.
    pub fn read(kind: SecretKind, directory: &Path) -> Result<Self, SecretsError> {
        // Which files there are is only known when they are read; this is the link that all of a mount go through.
        read_consistent(&[&directory.join("..data")], || Self::read_once(kind, directory))
    }

    fn read_once(kind: SecretKind, directory: &Path) -> Result<Self, SecretsError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |cause| SecretsError::Read { kind, path, cause }
        };
        let mut files = BTreeMap::new();
        let mut revision = None;
        for entry in fs::read_dir(directory).map_err(failed(directory))? {
            let entry = entry.map_err(failed(directory))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = entry.path();
            if name.starts_with('.') {
                continue;
            }
            let metadata = fs::metadata(&path).map_err(failed(&path))?;
            if !metadata.is_file() {
                continue;
            }
            if metadata.len() > LARGEST {
                return Err(SecretsError::NotText(kind, name));
            }
            let content = String::from_utf8(fs::read(&path).map_err(failed(&path))?)
                .map_err(|_| SecretsError::NotText(kind, name.clone()))?;
            if name == REVISION {
                revision = Some(content.trim().to_owned()).filter(|revision| !revision.is_empty());
            } else {
                files.insert(name, SecretString::from(content));
            }
        }
        Self::new(kind, files, revision, directory)
    }

    fn new(
        kind: SecretKind,
        secrets: BTreeMap<String, SecretString>,
        revision: Option<String>,
        origin: &Path,
    ) -> Result<Self, SecretsError> {
        let mut digest = Sha256::new();
        digest.update(revision.as_deref().unwrap_or_default());
        let mut active = Vec::with_capacity(secrets.len());
        let mut trimmed = Vec::new();
        for (name, secret) in secrets {
            let whole = secret.expose_secret();
            let secret = SecretString::from(whole.trim_end());
            if secret.expose_secret().is_empty() {
                return Err(SecretsError::Empty(kind, name));
            }
            digest.update([0]);
            digest.update(Sha256::digest(secret.expose_secret()));
            if secret.expose_secret().len() < whole.len() {
                trimmed.push(name.clone());
            }
            let prepared = ActiveSecret::new(name.clone(), &secret);
            active.push(prepared.ok_or(SecretsError::Empty(kind, name))?);
        }
        if active.is_empty() {
            return Err(SecretsError::None(kind, origin.to_owned()));
        }
        Ok(Self { active, revision, digest: digest.finalize().into(), trimmed })
    }

    /// What a sender may prove itself with.
    pub fn active(&self) -> &[ActiveSecret] {
        &self.active
    }

    /// The active secret that is this text, where one is. All of them are compared, so that the time tells nothing of which
    /// it is.
    #[must_use]
    pub fn find(&self, text: &[u8]) -> Option<&ActiveSecret> {
        self.active.iter().fold(None, |found, secret| if secret.is(text) { Some(secret) } else { found })
    }

    /// What `/status` shows of them, and of newer ones that are not used.
    #[must_use]
    pub fn report(loaded: &Reloaded<Self>) -> SecretsReport {
        let current = loaded.current.as_ref();
        SecretsReport {
            revision: current.and_then(|secrets| secrets.revision.clone()),
            active: current.map_or(0, |secrets| secrets.active.len()),
            used: current.map_or_else(BTreeMap::new, |secrets| {
                let used = |secret: &ActiveSecret| (secret.name.clone(), secret.used.load(Ordering::Relaxed));
                secrets.active.iter().map(used).collect()
            }),
            error: loaded.error.clone(),
        }
    }

    /// The generation, where the directory names one.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// Whether both are the same secrets of the same generation.
    pub fn same_as(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    /// The names of the secrets whose trailing white space was cut off.
    pub fn trimmed(&self) -> &[String] {
        &self.trimmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use presenceroute_runtime::testing::Volume;
    use std::time::{Duration, Instant};

    const KIND: SecretKind = SecretKind::ApiKey;

    fn single(secret: &str) -> Result<Secrets, SecretsError> {
        Secrets::single(KIND, "current", &secret.into())
    }

    fn accepts(secrets: &Secrets, text: &str) -> bool {
        secrets.find(text.as_bytes()).is_some()
    }

    #[test]
    fn every_file_but_revision_and_hidden_ones_is_a_secret() {
        let volume = Volume::new(&[("current", "new"), ("previous", "old"), ("revision", "7\n")]);
        fs::write(volume.file(".hidden"), "hidden").unwrap();
        let secrets = Secrets::read(KIND, volume.directory()).unwrap();
        assert!(accepts(&secrets, "new") && accepts(&secrets, "old"));
        assert!(!accepts(&secrets, "hidden") && !accepts(&secrets, "7"));
        assert_eq!(secrets.revision(), Some("7"));
    }

    #[test]
    fn trailing_white_space_is_cut_off_and_said() {
        let secrets = single(" s p \r\n").unwrap();
        assert!(accepts(&secrets, " s p"));
        assert_eq!(secrets.trimmed(), ["current"]);
    }

    #[test]
    fn an_empty_secret_is_refused_by_name() {
        let error = single(" \n").err().unwrap().to_string();
        assert_eq!(error, "the API key \"current\" is empty; give it a value");
        let error = Secrets::single(SecretKind::SigningSecret, "x", &"".into()).err().unwrap().to_string();
        assert!(error.starts_with("the signing secret \"x\" is empty"), "{error}");
    }

    #[test]
    fn a_directory_without_a_secret_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("revision"), "1").unwrap();
        assert!(matches!(Secrets::read(KIND, directory.path()), Err(SecretsError::None(..))));
        let absent = directory.path().join("absent");
        assert!(matches!(Secrets::read(KIND, &absent), Err(SecretsError::Read { .. })));
    }

    #[test]
    fn sets_differ_by_content_and_by_revision() {
        let one = single("1").unwrap();
        assert!(one.same_as(&single("1\n").unwrap()));
        assert!(!one.same_as(&single("2").unwrap()));
    }

    #[test]
    fn only_the_whole_secret_is_the_secret() {
        let secrets = single("a key of some length").unwrap();
        assert!(accepts(&secrets, "a key of some length"));
        for other in [
            "",
            "a",
            "a key of some lengt",
            "a key of some lengthy",
            "A key of some length",
            "a key of some length\0",
        ] {
            assert!(!accepts(&secrets, other), "{other:?}");
        }
        // A key that is longer than a block of the hash is not its hash, nor a short one with padding.
        let long = "k".repeat(100);
        let secrets = single(&long).unwrap();
        assert!(accepts(&secrets, &long));
        assert!(secrets.find(&Sha256::digest(&long)).is_none());
    }

    #[test]
    fn the_uses_of_each_active_secret_are_counted() {
        let volume = Volume::new(&[("k1", "old"), ("k2", "new"), ("revision", "k1-k2")]);
        let secrets = Secrets::read(KIND, volume.directory()).unwrap();
        for text in ["new", "old", "new", "other"] {
            if let Some(secret) = secrets.find(text.as_bytes()) {
                secret.count_use();
            }
        }
        let report = Secrets::report(&Reloaded::loaded(secrets));
        assert_eq!(report.used, BTreeMap::from([("k1".to_owned(), 1), ("k2".to_owned(), 2)]));
        assert_eq!((report.revision.as_deref(), report.active), (Some("k1-k2"), 2));
    }

    /// The least time that `work` takes: what else the machine does only adds to it.
    fn least_times<const N: usize>(works: [&dyn Fn() -> bool; N]) -> [Duration; N] {
        let mut least = [Duration::MAX; N];
        for _ in 0..400 {
            for (work, least) in works.iter().zip(&mut least) {
                let begun = Instant::now();
                std::hint::black_box(work());
                *least = begun.elapsed().min(*least);
            }
        }
        least
    }

    fn assert_alike<const N: usize>(times: [Duration; N]) {
        let (shortest, longest) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert!(*longest < *shortest * 3 / 2, "{times:?}");
    }

    /// A comparison that ends at the first difference takes a fraction of the time for an early one.
    #[test]
    fn the_time_of_a_comparison_tells_nothing_of_the_secret() {
        let key = "k".repeat(4 << 10);
        let secrets = single(&key).unwrap();
        let (first, last) = (format!("x{}", &key[1..]), format!("{}x", &key[1..]));
        let is = |text: &'_ str| accepts(&secrets, text);
        assert_alike(least_times([&|| is(&key), &|| is(&first), &|| is(&last)]));
        // Nor does it tell how long the secret is.
        let short = single("k").unwrap();
        assert_alike(least_times([&|| is(&first), &|| accepts(&short, &first)]));
    }

    #[test]
    fn the_time_of_a_comparison_tells_not_which_secret_it_is() {
        let keys: Vec<_> =
            (0..16).map(|number| (format!("k{number:02}"), format!("key {number:02}"))).collect();
        let files: Vec<_> = keys.iter().map(|(name, key)| (name.as_str(), key.as_str())).collect();
        let volume = Volume::new(&files);
        let secrets = Secrets::read(KIND, volume.directory()).unwrap();
        let is = |text: &'_ str| accepts(&secrets, text);
        assert_alike(least_times([&|| is("key 00"), &|| is("key 15"), &|| is("key 99")]));
    }
}
