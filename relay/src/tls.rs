//! TLS on the port that events are posted to: a certificate and its private key, from files that may change.
//!
//! A pair that cannot be used leaves the last good one in place. Connections that are open stay on the pair that
//! they began with.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use presenceroute_core::relay_config::CertificateFiles;
use prometheus_client::metrics::counter::Counter;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, Join, Take, join};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_cert::Certificate as X509;
use x509_cert::der::Decode;

use crate::mounted::of_one_generation;
use crate::reload::Loaded;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes that a handshake takes from the other side. Its hello has some hundred, and a few thousand with keys
/// that quantum computers do not break; rustls itself would gather 64 KiB of one that never ends.
const HANDSHAKE_BYTES: u64 = 32 << 10;

/// Makes ring the process's crypto provider, for HTTP clients, which want one. Calling it again does nothing.
pub(crate) fn install_crypto_provider() {
    // An error means that there is one already, which is all that is wanted.
    let _ = ring::default_provider().install_default();
}

/// What a certificate's file and its key's hold, whether it can be used or not.
pub struct Pair {
    files: CertificateFiles,
    certificate: Vec<u8>,
    key: Vec<u8>,
    fingerprint: Fingerprint,
}

/// Tells one pair of files from another, and says nothing of what is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// What connections are served with.
pub struct Certificate {
    config: Arc<ServerConfig>,
    expires: i64,
}

/// Why a pair of files cannot be used. It names the files, never what is in the key's.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {cause}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file has no certificate in PEM.
    #[error("{0} holds no certificate in PEM")]
    NoCertificate(PathBuf),
    /// A file has no private key in PEM.
    #[error("{0} holds no unencrypted private key in PEM")]
    NoKey(PathBuf),
    /// The pair is none.
    #[error("{certificate} and {key} cannot be served together: {cause}")]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong with them.
        cause: rustls::Error,
    },
}

impl Pair {
    /// Reads both files, of one mounted Secret where they are in one.
    pub fn read(files: &CertificateFiles) -> Result<Self, CertificateError> {
        let paths = [&*files.certificate_file, &*files.private_key_file];
        let [certificate, key] = of_one_generation(&paths, || paths.map(read));
        let (certificate, key) = (certificate?, key?);
        let fingerprint =
            Sha256::new().chain_update(Sha256::digest(&certificate)).chain_update(&key).finalize();
        Ok(Self { files: files.clone(), certificate, key, fingerprint: Fingerprint(fingerprint.into()) })
    }

    /// What tells this pair from another.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl Certificate {
    /// Checks a pair, of which the certificate comes with its chain.
    pub fn new(pair: &Pair) -> Result<Self, CertificateError> {
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

/// When a certificate expires, in seconds since 1970.
fn expiry(certificate: &CertificateDer<'_>) -> Option<i64> {
    let certificate = X509::from_der(certificate).ok()?;
    let end = certificate.tbs_certificate().validity().not_after;
    i64::try_from(end.to_unix_duration().as_secs()).ok()
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

/// A connection that is read only so far until its handshake is over.
pub type Hello = Join<Take<OwnedReadHalf>, OwnedWriteHalf>;

/// Makes connections to TLS ones.
#[derive(Clone)]
pub struct Handshakes {
    certificate: watch::Receiver<Loaded<Certificate>>,
    failures: Counter,
}

impl Handshakes {
    /// Handshakes with the newest usable certificate; those that fail are counted.
    pub fn new(certificate: watch::Receiver<Loaded<Certificate>>, failures: Counter) -> Self {
        Self { certificate, failures }
    }

    /// The connection after its handshake, or nothing where that failed.
    pub async fn accept(&self, stream: TcpStream) -> Option<Box<TlsStream<Hello>>> {
        // In a place of its own, so that a connection without TLS costs no memory for it.
        match Box::pin(self.shake_hands(stream)).await {
            Ok(stream) => Some(Box::new(stream)),
            Err(error) => {
                // Whoever can connect can make it fail: it is counted, and said only to who wants to know.
                self.failures.inc();
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
        }
    }

    async fn shake_hands(&self, stream: TcpStream) -> io::Result<TlsStream<Hello>> {
        let current = self.certificate.borrow().current.clone();
        let Some(certificate) = current else {
            return Err(io::Error::other("no certificate has been loaded; see /status"));
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&certificate.config));
        let (reading, writing) = stream.into_split();
        let hello = join(reading.take(HANDSHAKE_BYTES), writing);
        let mut shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(hello)).await??;
        shaken.get_mut().0.reader_mut().set_limit(u64::MAX);
        Ok(shaken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounted::tests::Volume;

    #[test]
    fn a_certificate_and_its_key_are_of_one_generation() {
        let names = ["tls.crt", "tls.key"];
        let mut volume = Volume::new(&names.map(|name| (name, "0")));
        let [certificate_file, private_key_file] = names.map(|name| volume.file(name));
        let files = CertificateFiles { certificate_file, private_key_file };
        volume.while_swapped(&names, || {
            let pair = Pair::read(&files).unwrap();
            assert_eq!(pair.certificate, pair.key);
        });
    }
}
