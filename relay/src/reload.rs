//! Taking up files that change while the relay runs: the routing table, the signing secrets and the certificate.
//!
//! Content is compared, not names or inodes, because a mounted ConfigMap or Secret changes by the swap of a link.
//! What cannot be used leaves the last good one in place and is reported.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use presenceroute_core::relay_config::CertificateFiles;
use presenceroute_core::routing::RoutingTable;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::routing::Router;
use crate::secrets::Secrets;
use crate::tls::{Certificate, Pair};

/// How often files are read. A change is in force at the latest this long after it is there.
pub const EVERY: Duration = Duration::from_millis(200);

/// Something that is read from files.
pub struct Loaded<T> {
    /// The last one that could be used, if there was any.
    pub current: Option<Arc<T>>,
    /// Why the newest is not used, when it is not.
    pub error: Option<String>,
}

impl<T> Clone for Loaded<T> {
    fn clone(&self) -> Self {
        Self { current: self.current.clone(), error: self.error.clone() }
    }
}

impl<T> Loaded<T> {
    /// What never changes.
    pub fn fixed(value: T) -> Self {
        Self { current: Some(Arc::new(value)), error: None }
    }

    /// Nothing yet.
    pub fn nothing(error: impl Into<String>) -> Self {
        Self { current: None, error: Some(error.into()) }
    }
}

/// What reading once more found.
enum Found<T> {
    Same,
    New(T),
    Unusable(String),
}

/// Serves the routing table of `path`, until `stop`.
pub async fn follow_routing(path: PathBuf, into: watch::Sender<Loaded<Router>>, stop: CancellationToken) {
    let mut known = None;
    follow(into, stop, move || {
        let (known_before, read) = (known.take(), read_routing(&path));
        known = Some(read.clone());
        if known_before.as_ref() == Some(&read) {
            return Found::Same;
        }
        match read.and_then(|text| RoutingTable::parse(&text).map_err(|error| error.to_string())) {
            Ok(table) => {
                tracing::info!(
                    revision = table.revision(),
                    routes = table.routes().len(),
                    "routing table loaded"
                );
                Found::New(Router::new(table))
            }
            Err(error) => {
                tracing::error!(error, "the routing table cannot be used; the last good one stays");
                Found::Unusable(error)
            }
        }
    })
    .await;
}

fn read_routing(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|cause| format!("{} cannot be read: {cause}", path.display()))
}

/// Serves the signing secrets of `directory`, until `stop`.
pub async fn follow_secrets(
    directory: PathBuf,
    into: watch::Sender<Loaded<Secrets>>,
    stop: CancellationToken,
) {
    let current = into.subscribe();
    let mut known_error = None;
    follow(into, stop, move || match Secrets::read(&directory) {
        Ok(read) => {
            let known = current.borrow().current.clone();
            if known_error.take().is_none() && known.is_some_and(|known| known.same_as(&read)) {
                return Found::Same;
            }
            tracing::info!(revision = read.revision(), active = read.keys().len(), "signing secrets loaded");
            for name in read.trimmed() {
                tracing::warn!(secret = name, "white space at the end of this signing secret was cut off");
            }
            Found::New(read)
        }
        Err(error) => {
            let error = error.to_string();
            if known_error.as_ref() == Some(&error) {
                return Found::Same;
            }
            tracing::error!(error, "the signing secrets cannot be used; the last good ones stay");
            known_error = Some(error.clone());
            Found::Unusable(error)
        }
    })
    .await;
}

/// Serves the certificate of these files, until `stop`.
pub async fn follow_certificate(
    files: CertificateFiles,
    into: watch::Sender<Loaded<Certificate>>,
    stop: CancellationToken,
) {
    let mut known = None;
    follow(into, stop, move || {
        // Only what has changed is checked: that costs more than reading it.
        let read = Pair::read(&files);
        let seen = read.as_ref().map(Pair::fingerprint).map_err(ToString::to_string);
        if known.as_ref() == Some(&seen) {
            return Found::Same;
        }
        known = Some(seen);
        match read.and_then(|pair| Certificate::new(&pair)) {
            Ok(certificate) => {
                tracing::info!(expires = certificate.expires_at(), "certificate loaded");
                Found::New(certificate)
            }
            Err(error) => {
                let error = error.to_string();
                tracing::error!(error, "the certificate cannot be used; the last good one stays");
                Found::Unusable(error)
            }
        }
    })
    .await;
}

async fn follow<T: Send + Sync + 'static>(
    into: watch::Sender<Loaded<T>>,
    stop: CancellationToken,
    mut look: impl FnMut() -> Found<T> + Send + 'static,
) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        // A disk that hangs holds up a thread of its own, not the events.
        let looked = tokio::task::spawn_blocking(move || (look(), look)).await;
        let Ok((found, again)) = looked else { return };
        look = again;
        match found {
            Found::Same => {}
            Found::New(value) => {
                into.send_replace(Loaded::fixed(value));
            }
            Found::Unusable(error) => into.send_modify(|loaded| loaded.error = Some(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    /// Time stands still while anything is done, so only waiting counts, however busy the machine is.
    #[tokio::test(start_paused = true)]
    async fn a_changed_table_is_served_within_250_ms() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("routing.yaml");
        let table = |revision: &str| {
            format!("version: 1\nrevision: {revision}\nroutes: [{{eventType: t, topic: t}}]\n")
        };
        std::fs::write(&file, table("r1")).unwrap();
        let into = watch::Sender::new(Loaded::nothing("not read yet"));
        let mut loaded = into.subscribe();
        tokio::spawn(follow_routing(file.clone(), into, CancellationToken::new()));
        let mut revision = async || {
            loaded.changed().await.unwrap();
            loaded.borrow_and_update().current.as_ref().unwrap().table().revision().to_owned()
        };
        assert_eq!(revision().await, "r1");
        for newer in ["r2", "r3"] {
            std::fs::write(&file, table(newer)).unwrap();
            let written = Instant::now();
            assert_eq!(revision().await, newer);
            assert!(written.elapsed() <= Duration::from_millis(250), "{:?}", written.elapsed());
        }
    }
}
