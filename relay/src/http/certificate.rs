//! The listener's certificate and private key, from files that may change. An invalid pair leaves the last valid one in
//! use.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use presenceroute_core::certificate_expiry::expiry;
use presenceroute_core::relay_config::CertificateFiles;
use presenceroute_runtime::follow::{self, Reload, Reloaded};
use presenceroute_runtime::mounted::read_consistent;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Follows the certificate of these files until `stop`. They were read once when this returns.
pub async fn follow(
    files: CertificateFiles,
    stop: CancellationToken,
) -> watch::Receiver<Reloaded<Certificate>> {
    let mut known = None;
    follow::start("it has not been read yet", stop, move || {
        // Only a changed pair is checked, which costs more than reading it.
        let read = KeyPair::read(&files);
        let fingerprint = read.as_ref().map(KeyPair::fingerprint).map_err(ToString::to_string);
        if known.as_ref() == Some(&fingerprint) {
            return Reload::Unchanged;
        }
        known = Some(fingerprint);
        match read.and_then(|pair| Certificate::new(&pair)) {
            Ok(certificate) => {
                tracing::info!(expires = certificate.expires_at(), "certificate loaded");
                Reload::Loaded(certificate)
            }
            Err(error) => {
                let error = error.to_string();
                tracing::error!(error, "invalid certificate, keeping the last valid one");
                Reload::Invalid(error)
            }
        }
    })
    .await
}

/// The content of a certificate's file and of its key's, valid or not.
pub struct KeyPair {
    files: CertificateFiles,
    certificate: Vec<u8>,
    key: Vec<u8>,
    fingerprint: Fingerprint,
}

/// Tells one pair of files from another without revealing them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// A valid certificate, ready to be served.
pub struct Certificate {
    config: Arc<ServerConfig>,
    expires: i64,
}

/// Why a pair of files cannot be used. It names the files, never their content.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {cause}")]
    Read { path: PathBuf, cause: io::Error },
    /// A file has no certificate in PEM.
    #[error("{0} holds no certificate in PEM")]
    NoCertificate(PathBuf),
    /// A file has no private key in PEM.
    #[error("{0} holds no unencrypted private key in PEM")]
    NoKey(PathBuf),
    /// The pair is none.
    #[error("{certificate} and {key} cannot be served together: {cause}")]
    Unusable {
        certificate: PathBuf,
        key: PathBuf,
        /// What is wrong with them.
        cause: rustls::Error,
    },
}

impl KeyPair {
    /// Reads both files, of one mounted Secret where they are in one.
    pub fn read(files: &CertificateFiles) -> Result<Self, CertificateError> {
        let paths = [&*files.certificate_file, &*files.private_key_file];
        let [certificate, key] = read_consistent(&paths, || paths.map(read));
        let (certificate, key) = (certificate?, key?);
        let fingerprint =
            Sha256::new().chain_update(Sha256::digest(&certificate)).chain_update(&key).finalize();
        Ok(Self { files: files.clone(), certificate, key, fingerprint: Fingerprint(fingerprint.into()) })
    }

    /// Tells this pair from another.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl Certificate {
    /// Checks a pair, of which the certificate comes with its chain.
    pub fn new(pair: &KeyPair) -> Result<Self, CertificateError> {
        let (certificate, key) = (&pair.files.certificate_file, &pair.files.private_key_file);
        let no_certificate = || CertificateError::NoCertificate(certificate.clone());
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pair.certificate)
            .collect::<Result<_, _>>()
            .map_err(|_| no_certificate())?;
        let expires = chain.first().and_then(expiry).ok_or_else(no_certificate)?;
        let private_key =
            PrivateKeyDer::from_pem_slice(&pair.key).map_err(|_| CertificateError::NoKey(key.clone()))?;
        let config = server_config(chain, private_key).map_err(|cause| CertificateError::Unusable {
            certificate: certificate.clone(),
            key: key.clone(),
            cause,
        })?;
        Ok(Self { config: Arc::new(config), expires })
    }

    /// The configuration to serve connections with.
    pub(super) fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// When it expires, in seconds since 1970.
    pub fn expires(&self) -> i64 {
        self.expires
    }

    /// The same as people write it.
    pub fn expires_at(&self) -> String {
        jiff::Timestamp::from_second(self.expires).unwrap_or(jiff::Timestamp::MAX).to_string()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    fs::read(path).map_err(|cause| CertificateError::Read { path: path.to_owned(), cause })
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use presenceroute_runtime::testing::Volume;

    #[test]
    fn a_certificate_and_its_key_are_of_one_generation() {
        let names = ["tls.crt", "tls.key"];
        let mut volume = Volume::new(&names.map(|name| (name, "0")));
        let [certificate_file, private_key_file] = names.map(|name| volume.file(name));
        let files = CertificateFiles { certificate_file, private_key_file };
        volume.while_swapped(&names, || {
            let pair = KeyPair::read(&files).unwrap();
            assert_eq!(pair.certificate, pair.key);
        });
    }
}
