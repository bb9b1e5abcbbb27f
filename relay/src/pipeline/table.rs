//! The routing table in force: follows its file, and keeps the last valid table where a newer one does not compile.

use std::path::{Path, PathBuf};

use presenceroute_core::routing::{RecordKey, RoutingTable};
use presenceroute_runtime::follow::{self, Reload, Reloaded};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use presenceroute_core::routing::Router;

/// Follows the routing table of `path` until `stop`. It was read once when this returns. A route that names no key has
/// `default_key`.
pub async fn follow(
    path: PathBuf,
    default_key: RecordKey,
    stop: CancellationToken,
) -> watch::Receiver<Reloaded<Router>> {
    let mut known = None;
    follow::start("it has not been read yet", stop, move || {
        let read = read(&path);
        if known.as_ref() == Some(&read) {
            return Reload::Unchanged;
        }
        known = Some(read.clone());
        let table = read.and_then(|text| {
            RoutingTable::parse_with(&text, &default_key).map_err(|error| error.to_string())
        });
        match table {
            Ok(table) => {
                tracing::info!(
                    revision = table.revision(),
                    routes = table.routes().len(),
                    "routing table loaded"
                );
                Reload::Loaded(Router::new(table))
            }
            Err(error) => {
                tracing::error!(error, "invalid routing table, keeping the last valid one");
                Reload::Invalid(error)
            }
        }
    })
    .await
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|cause| format!("{} cannot be read: {cause}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
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
        let mut routing = follow(file.clone(), RecordKey::Id, CancellationToken::new()).await;
        assert_eq!(routing.borrow_and_update().current.as_ref().unwrap().table().revision(), "r1");
        for newer in ["r2", "r3"] {
            std::fs::write(&file, table(newer)).unwrap();
            let written = Instant::now();
            routing.changed().await.unwrap();
            assert_eq!(routing.borrow_and_update().current.as_ref().unwrap().table().revision(), newer);
            assert!(written.elapsed() <= Duration::from_millis(250), "{:?}", written.elapsed());
        }
    }
}
