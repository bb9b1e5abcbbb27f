//! AWS credentials as AWS's SDKs find them: the environment, profiles, IRSA, EKS Pod Identity, the instance. What signs
//! with them is the caller's.

use std::sync::Arc;

use bytes::Bytes;
use presenceroute_runtime::oauth_token::MAX_RESPONSE_BYTES;
use reqsign_aws_core::{Credential, DefaultCredentialProvider};
use reqsign_core::{Context, Error, FileRead, HttpSend, OsEnv, ProvideCredential};
use tokio::io::AsyncReadExt;

use crate::outbound::cause;

/// How much is read of a file that the environment names.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// How much is shown of another's error.
const MAX_CAUSE_CHARS: usize = 256;

/// The credentials that the environment leads to. It cannot be printed.
#[derive(Clone)]
pub(crate) struct CredentialChain {
    provider: Arc<DefaultCredentialProvider>,
    context: Context,
}

/// Why there are no credentials. It holds no part of any.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum CredentialChainError {
    /// The environment leads to none.
    #[error("the environment names no AWS credentials")]
    Missing,
    /// What would give them out does not.
    #[error("{0}")]
    Failed(String),
}

impl CredentialChain {
    /// The chain of this process's environment.
    pub(crate) fn of_environment() -> Self {
        Self::in_context(Context::new().with_env(OsEnv).with_file_read(Files))
    }

    /// The chain of this context's environment and files.
    pub(crate) fn in_context(context: Context) -> Self {
        // Neither has a place in a pod, and the second would run a program.
        let provider = DefaultCredentialProvider::builder().no_sso().no_process().build();
        Self { provider: Arc::new(provider), context }
    }

    /// Looks for credentials, with this client where a server gives them out.
    pub(crate) async fn credential(
        &self,
        http: &reqwest::Client,
    ) -> Result<Credential, CredentialChainError> {
        let context = self.context.clone().with_http_send(Http(http.clone()));
        let found = self.provider.provide_credential(&context).await;
        let failed = |error: Error| CredentialChainError::Failed(shown(&error.to_string()));
        found.map_err(failed)?.ok_or(CredentialChainError::Missing)
    }
}

/// Another's words, fit to be shown.
pub(crate) fn shown(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(MAX_CAUSE_CHARS).collect()
}

/// The files that the environment names: the token of a ServiceAccount, a profile.
#[derive(Debug)]
pub(crate) struct Files;

impl FileRead for Files {
    async fn file_read(&self, path: &str) -> reqsign_core::Result<Vec<u8>> {
        let failed =
            |error: std::io::Error| Error::unexpected(format!("{path} cannot be read")).with_source(error);
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        let mut content = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut content).await.map_err(failed)?;
        Ok(content)
    }
}

/// The relay's HTTP client.
#[derive(Debug)]
struct Http(reqwest::Client);

impl HttpSend for Http {
    async fn http_send(&self, request: http::Request<Bytes>) -> reqsign_core::Result<http::Response<Bytes>> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let failed =
            |error: reqwest::Error| Error::unexpected(format!("{host} does not answer: {}", cause(&error)));
        let request = reqwest::Request::try_from(request).map_err(failed)?;
        let mut response = self.0.execute(request).await.map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
                let problem = format!("the answer of {host} has more than {MAX_RESPONSE_BYTES} bytes");
                return Err(Error::unexpected(problem));
            }
            body.extend_from_slice(&chunk);
        }
        let mut answer = http::Response::new(Bytes::from(body));
        *answer.status_mut() = response.status();
        *answer.headers_mut() = std::mem::take(response.headers_mut());
        Ok(answer)
    }
}
