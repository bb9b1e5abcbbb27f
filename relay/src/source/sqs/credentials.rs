//! What calls to the queue are signed with: an access key from files that may change, or what the environment leads to.

use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};

use presenceroute_core::relay_config::AwsCredentialFiles;
use presenceroute_runtime::follow::{self, Reload, Reloaded};
use presenceroute_runtime::mounted::read_consistent;
use reqsign_aws_core::Credential;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::QueueError;
use crate::aws::{CredentialChain, CredentialChainError};

/// The largest file that is taken for a part of a key, in bytes.
const LARGEST: u64 = 64 << 10;

/// Credentials are renewed so long before they expire. Those of IRSA and Pod Identity last hours.
const RENEW_BEFORE: Duration = Duration::from_secs(300);

/// Credentials that do not expire are looked for anew so often, as are those that the service refuses.
const LOOK_AGAIN: Duration = Duration::from_secs(900);
const LOOK_AGAIN_REFUSED: Duration = Duration::from_secs(10);

/// Where the credentials come from. It cannot be printed.
pub(super) enum Credentials {
    Files(watch::Receiver<Reloaded<Credential>>),
    Chain { chain: CredentialChain, http: reqwest::Client, cached: Box<Mutex<Option<Cached>>> },
}

/// Credentials of the chain, and when they are to be looked for anew.
pub(super) struct Cached {
    credential: Credential,
    found: Instant,
    renew: Instant,
}

impl Credentials {
    /// Those of the files, followed until `stop`; without files, those that the environment leads to.
    pub(super) async fn start(
        files: Option<AwsCredentialFiles>,
        http: reqwest::Client,
        stop: CancellationToken,
    ) -> Self {
        match files {
            Some(files) => Self::Files(follow_files(files, stop).await),
            None => Self::of(CredentialChain::of_environment(), http),
        }
    }

    fn of(chain: CredentialChain, http: reqwest::Client) -> Self {
        Self::Chain { chain, http, cached: Box::default() }
    }

    /// The credentials to sign with now.
    pub(super) async fn current(&self) -> Result<Credential, QueueError> {
        let (chain, http, cached) = match self {
            Self::Files(files) => {
                let files = files.borrow();
                let missing = || files.error.clone().unwrap_or_default();
                return files.current.as_deref().cloned().ok_or_else(|| {
                    QueueError::Credentials(format!("there is no AWS access key: {}", missing()))
                });
            }
            Self::Chain { chain, http, cached } => (chain, http, cached),
        };
        let mut cached = cached.lock().await;
        let now = Instant::now();
        if let Some(cached) = cached.as_ref().filter(|cached| now < cached.renew) {
            return Ok(cached.credential.clone());
        }
        match chain.credential(http).await {
            Ok(credential) => {
                let renew = now + renew_after(&credential, SystemTime::now());
                *cached = Some(Cached { credential: credential.clone(), found: now, renew });
                Ok(credential)
            }
            // Those from before are good until they expire.
            Err(error) => match cached.as_mut().filter(|cached| !has_expired(&cached.credential)) {
                Some(cached) => {
                    tracing::warn!(%error, "the AWS credentials cannot be renewed, keeping those in use");
                    cached.renew = now + LOOK_AGAIN_REFUSED;
                    Ok(cached.credential.clone())
                }
                None => Err(QueueError::Credentials(unavailable(&error))),
            },
        }
    }

    /// The service refuses the credentials: others may be there by now.
    pub(super) async fn refused(&self) {
        let Self::Chain { cached, .. } = self else { return };
        if let Some(cached) = cached.lock().await.as_mut() {
            cached.renew = cached.renew.min(cached.found + LOOK_AGAIN_REFUSED);
        }
    }
}

fn unavailable(error: &CredentialChainError) -> String {
    match error {
        CredentialChainError::Missing => {
            "there are no AWS credentials; give the relay's ServiceAccount an IAM role by EKS \
             Pod Identity or IRSA, or name an access key by \
             spec.source.amazonEventBridge.sqs.credentialsSecretRef"
                .into()
        }
        CredentialChainError::Failed(cause) => format!(
            "no AWS credentials can be got: {cause}; check the IAM role of the relay's ServiceAccount, and that no \
             network policy is between"
        ),
    }
}

fn has_expired(credential: &Credential) -> bool {
    credential.expires_in.is_some_and(|end| end.as_system_time() <= SystemTime::now())
}

fn renew_after(credential: &Credential, now: SystemTime) -> Duration {
    let Some(end) = credential.expires_in else { return LOOK_AGAIN };
    let left = end.as_system_time().duration_since(now).unwrap_or_default();
    // Of short ones, in time.
    left.saturating_sub(RENEW_BEFORE).max(left / 2).max(Duration::from_secs(1))
}

async fn follow_files(
    files: AwsCredentialFiles,
    stop: CancellationToken,
) -> watch::Receiver<Reloaded<Credential>> {
    let mut known: Option<Result<AccessKey, String>> = None;
    follow::start("the files have not been read yet", stop, move || {
        let read = AccessKey::read(&files);
        if known.as_ref().is_some_and(|known| same(known, &read)) {
            return Reload::Unchanged;
        }
        let reload = match &read {
            Ok(key) => {
                // Not its id: the key of a Secret may be set to a value that is a secret.
                tracing::info!(file = %files.access_key_id_file.display(), "AWS access key loaded");
                Reload::Loaded(key.credential())
            }
            Err(error) => {
                tracing::error!(error, "invalid AWS access key, keeping the last valid one");
                Reload::Invalid(error.clone())
            }
        };
        known = Some(read);
        reload
    })
    .await
}

/// An access key, as the files have it.
struct AccessKey {
    id: String,
    secret: SecretString,
    session_token: Option<SecretString>,
}

fn same(one: &Result<AccessKey, String>, other: &Result<AccessKey, String>) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => one.same_as(other),
        (Err(one), Err(other)) => one == other,
        _ => false,
    }
}

impl AccessKey {
    /// Reads the files, all of one generation of the Secret.
    fn read(files: &AwsCredentialFiles) -> Result<Self, String> {
        let (id, secret) = (&files.access_key_id_file, &files.secret_access_key_file);
        let token = files.session_token_file.as_deref();
        let paths: Vec<&Path> = [id.as_path(), secret.as_path()].into_iter().chain(token).collect();
        read_consistent(&paths, || {
            Ok(Self {
                id: text(id, "the id of an AWS access key")?.expose_secret().to_owned(),
                secret: text(secret, "the secret of an AWS access key")?,
                session_token: match token {
                    Some(path) if path.exists() => {
                        Some(text(path, "the session token of an AWS access key")?)
                    }
                    _ => None,
                },
            })
        })
    }

    fn credential(&self) -> Credential {
        Credential {
            access_key_id: self.id.clone(),
            secret_access_key: self.secret.expose_secret().to_owned(),
            session_token: self.session_token.as_ref().map(|token| token.expose_secret().to_owned()),
            expires_in: None,
        }
    }

    fn same_as(&self, other: &Self) -> bool {
        let token = |key: &Self| key.session_token.as_ref().map(|token| token.expose_secret().to_owned());
        self.id == other.id
            && self.secret.expose_secret() == other.secret.expose_secret()
            && token(self) == token(other)
    }
}

/// A file's text, without the line's end that an editor leaves behind.
fn text(path: &Path, what: &str) -> Result<SecretString, String> {
    let failed = |cause: io::Error| format!("{} cannot be read: {cause}; it holds {what}", path.display());
    let mut content = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LARGEST).read_to_string(&mut content).map_err(failed)?;
    let trimmed = content.trim();
    // What a header cannot carry is no key, and would fail without a name.
    if trimmed.is_empty() || !trimmed.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "{} is empty or has characters that no key has; it holds {what}",
            path.display()
        ));
    }
    Ok(trimmed.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound;
    use presenceroute_runtime::testing::Volume;
    use reqsign_core::time::Timestamp;
    use reqsign_core::{Context, StaticEnv};

    #[tokio::test]
    async fn a_changed_key_is_taken_up_whole() {
        let mut volume = Volume::new(&[("id", "AKIDOLD\n"), ("secret", "old"), ("token", "t1")]);
        let files = AwsCredentialFiles {
            access_key_id_file: volume.file("id"),
            secret_access_key_file: volume.file("secret"),
            session_token_file: Some(volume.file("token")),
        };
        let stop = CancellationToken::new();
        let http = outbound::client(None, "http://unused").unwrap();
        let credentials = Credentials::start(Some(files), http, stop.clone()).await;
        let old = credentials.current().await.unwrap();
        assert_eq!((old.access_key_id.as_str(), old.session_token.as_deref()), ("AKIDOLD", Some("t1")));
        volume.swap(&[("id", "AKIDNEW"), ("secret", "new")]);
        let Credentials::Files(followed) = &credentials else { panic!("not of files") };
        let mut followed = followed.clone();
        let is_new = |key: &Reloaded<Credential>| key.current.as_ref().unwrap().access_key_id == "AKIDNEW";
        followed.wait_for(is_new).await.unwrap();
        let new = credentials.current().await.unwrap();
        assert_eq!((new.secret_access_key.as_str(), new.session_token), ("new", None));
        stop.cancel();
    }

    #[tokio::test]
    async fn a_missing_key_names_its_file_and_no_content() {
        let volume = Volume::new(&[("id", "AKID EXAMPLE"), ("secret", "hush")]);
        let files = |id: &str, secret: &str| AwsCredentialFiles {
            access_key_id_file: volume.file(id),
            secret_access_key_file: volume.file(secret),
            session_token_file: None,
        };
        for (id, secret, file) in [("id", "secret", "id"), ("secret", "absent", "absent")] {
            let error = AccessKey::read(&files(id, secret)).err().unwrap();
            assert!(error.contains(&*volume.file(file).to_string_lossy()), "{error}");
            assert!(!error.contains("hush") && !error.contains("AKID"), "{error}");
        }
    }

    #[test]
    fn credentials_are_renewed_before_they_expire() {
        let now = SystemTime::now();
        let start = Timestamp::now();
        let lasting = |seconds| Credential {
            access_key_id: "A".into(),
            secret_access_key: "S".into(),
            session_token: None,
            expires_in: Some(start + Duration::from_secs(seconds)),
        };
        for (seconds, renewed) in [(3_600, 3_300), (400, 200), (0, 1)] {
            let after = renew_after(&lasting(seconds), now).as_secs();
            assert!(after.abs_diff(renewed) <= 1, "{seconds}: {after}");
        }
    }

    #[tokio::test]
    async fn credentials_that_are_not_there_are_asked_for() {
        let nowhere = [("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned())];
        let env = StaticEnv { home_dir: None, envs: nowhere.into() };
        let chain = CredentialChain::in_context(Context::new().with_env(env));
        let credentials = Credentials::of(chain, outbound::client(None, "http://unused").unwrap());
        let error = credentials.current().await.unwrap_err().to_string();
        assert!(error.contains("Pod Identity"), "{error}");
    }
}
