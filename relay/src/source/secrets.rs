//! The signing secrets that are active: any of them may have signed an event.
//!
//! They come from a directory, one file a secret, or from the environment. The files may change while the relay runs, as
//! those of a mounted Kubernetes Secret do.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use presenceroute_runtime::follow::{self, Reload, Reloaded};
use presenceroute_runtime::mounted::read_consistent;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::signature::SigningKey;

/// The file with the generation of the secrets.
const REVISION: &str = "revision";

/// The largest file that is taken for a secret, in bytes, so that a wrong mount cannot fill the memory.
const LARGEST: u64 = 64 << 10;

/// Follows the signing secrets of `directory` until `stop`. They were read once when this returns.
pub async fn follow(directory: PathBuf, stop: CancellationToken) -> watch::Receiver<Reloaded<Secrets>> {
    let mut known: Option<Result<[u8; 32], String>> = None;
    follow::start("they have not been read yet", stop, move || {
        let read = Secrets::read(&directory);
        let seen = read.as_ref().map(|secrets| secrets.digest).map_err(ToString::to_string);
        if known.as_ref() == Some(&seen) {
            return Reload::Unchanged;
        }
        known = Some(seen);
        match read {
            Ok(secrets) => {
                let (revision, active) = (secrets.revision(), secrets.keys().len());
                tracing::info!(revision, active, "signing secrets loaded");
                for name in secrets.trimmed() {
                    tracing::warn!(secret = name, "trailing white space of this signing secret is ignored");
                }
                Reload::Loaded(secrets)
            }
            Err(error) => {
                let error = error.to_string();
                tracing::error!(error, "invalid signing secrets, keeping the last valid ones");
                Reload::Invalid(error)
            }
        }
    })
    .await
}

/// The secrets that are accepted now. There is at least one. It cannot be printed.
pub struct Secrets {
    keys: Vec<SigningKey>,
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
    #[error("{path} cannot be read: {cause}; mount the signing secrets there")]
    Read { path: PathBuf, cause: io::Error },
    /// A secret that signs nothing.
    #[error("the signing secret {0:?} is empty; give it a value")]
    Empty(String),
    /// A file that no person meant as a secret.
    #[error("the signing secret {0:?} is over {LARGEST} bytes or is not UTF-8 text; give it a value that is")]
    NotText(String),
    /// Nothing to verify with.
    #[error("{0} has no signing secret; add one file a secret")]
    None(PathBuf),
}

impl Secrets {
    /// One secret, named in messages as it is here. Trailing white space is cut off.
    pub fn single(name: &str, secret: &SecretString) -> Result<Self, SecretsError> {
        Self::new(BTreeMap::from([(name.to_owned(), secret.clone())]), None, Path::new(name))
    }

    /// Every regular file of `directory` but `revision` and those with a hidden name, links followed.
    pub fn read(directory: &Path) -> Result<Self, SecretsError> {
        // Which files there are is only known when they are read; this is the link that all of a mount go through.
        read_consistent(&[&directory.join("..data")], || Self::read_once(directory))
    }

    fn read_once(directory: &Path) -> Result<Self, SecretsError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |cause| SecretsError::Read { path, cause }
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
                return Err(SecretsError::NotText(name));
            }
            let content = String::from_utf8(fs::read(&path).map_err(failed(&path))?)
                .map_err(|_| SecretsError::NotText(name.clone()))?;
            if name == REVISION {
                revision = Some(content.trim().to_owned()).filter(|revision| !revision.is_empty());
            } else {
                files.insert(name, SecretString::from(content));
            }
        }
        Self::new(files, revision, directory)
    }

    fn new(
        secrets: BTreeMap<String, SecretString>,
        revision: Option<String>,
        origin: &Path,
    ) -> Result<Self, SecretsError> {
        let mut digest = Sha256::new();
        digest.update(revision.as_deref().unwrap_or_default());
        let mut keys = Vec::with_capacity(secrets.len());
        let mut trimmed = Vec::new();
        for (name, secret) in secrets {
            let whole = secret.expose_secret();
            let secret = SecretString::from(whole.trim_end());
            if secret.expose_secret().is_empty() {
                return Err(SecretsError::Empty(name));
            }
            digest.update([0]);
            digest.update(Sha256::digest(secret.expose_secret()));
            if secret.expose_secret().len() < whole.len() {
                trimmed.push(name.clone());
            }
            keys.push(SigningKey::new(&secret).ok_or(SecretsError::Empty(name))?);
        }
        if keys.is_empty() {
            return Err(SecretsError::None(origin.to_owned()));
        }
        Ok(Self { keys, revision, digest: digest.finalize().into(), trimmed })
    }

    /// What an event may be signed with.
    pub fn keys(&self) -> &[SigningKey] {
        &self.keys
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
    use super::super::signature::Signature;
    use super::*;
    use presenceroute_runtime::testing::Volume;

    fn signed_with(secret: &str) -> String {
        use hmac::{Hmac, KeyInit, Mac};
        let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap().chain_update(b"body");
        hex::encode(mac.finalize().into_bytes())
    }

    fn accepts(secrets: &Secrets, secret: &str) -> bool {
        Signature::read(signed_with(secret).as_bytes()).verifies(secrets.keys(), b"body")
    }

    #[test]
    fn every_file_but_revision_and_hidden_ones_is_a_secret() {
        let volume = Volume::new(&[("current", "new"), ("previous", "old"), ("revision", "7\n")]);
        fs::write(volume.file(".hidden"), "hidden").unwrap();
        let secrets = Secrets::read(volume.directory()).unwrap();
        assert!(accepts(&secrets, "new") && accepts(&secrets, "old"));
        assert!(!accepts(&secrets, "hidden") && !accepts(&secrets, "7"));
        assert_eq!(secrets.revision(), Some("7"));
    }

    #[test]
    fn trailing_white_space_is_cut_off_and_said() {
        let secrets = Secrets::single("current", &" s p \r\n".into()).unwrap();
        assert!(accepts(&secrets, " s p"));
        assert_eq!(secrets.trimmed(), ["current"]);
    }

    #[test]
    fn an_empty_secret_is_refused_by_name() {
        let error = Secrets::single("current", &" \n".into()).err().unwrap().to_string();
        assert!(error.contains("\"current\" is empty"), "{error}");
    }

    #[test]
    fn a_directory_without_a_secret_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("revision"), "1").unwrap();
        assert!(matches!(Secrets::read(directory.path()), Err(SecretsError::None(_))));
        assert!(matches!(Secrets::read(&directory.path().join("absent")), Err(SecretsError::Read { .. })));
    }

    #[test]
    fn sets_differ_by_content_and_by_revision() {
        let one = Secrets::single("a", &"1".into()).unwrap();
        assert!(one.same_as(&Secrets::single("b", &"1\n".into()).unwrap()));
        assert!(!one.same_as(&Secrets::single("a", &"2".into()).unwrap()));
    }
}
