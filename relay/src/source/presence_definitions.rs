//! What the organisation calls its presences: a file that may change while the relay runs, and need not exist.
//!
//! It is a map in YAML, from the id of a presence definition to its name. The operator writes it.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use presenceroute_core::event::envelope::{self, presence_definition};
use presenceroute_core::event::{Event, EventError};
use presenceroute_runtime::follow::{self, Reload, Reloaded};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The largest file that is read, in bytes: what a ConfigMap can hold.
const LARGEST: u64 = 1 << 20;

/// The names of presence definitions, by their ids.
#[derive(Debug, Default, PartialEq)]
pub struct PresenceDefinitions(BTreeMap<String, String>);

impl PresenceDefinitions {
    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        // A presence may be called `On` or `No`, which YAML 1.1 takes for booleans.
        let options = serde_saphyr::options! { strict_booleans: true };
        serde_saphyr::from_str_with_options(text, options).map(Self).map_err(|cause| cause.to_string())
    }

    /// Gives a notification the name of the presence that it describes, where it is known.
    fn name(&self, event: &mut Event<'_>) {
        if self.0.is_empty() {
            return;
        }
        let name = presence_definition(event).and_then(|id| self.0.get(id.as_ref())).cloned();
        if let Some(notification) = &mut event.notification {
            notification.presence_name = name;
        }
    }
}

/// Reads the event in an envelope of Amazon EventBridge, with the name of the presence that it describes. The bytes are those
/// of its `detail`.
///
/// # Errors
/// Those of [`envelope::decode`].
pub fn decode<'b>(
    body: &'b Bytes,
    definitions: &watch::Receiver<Reloaded<PresenceDefinitions>>,
) -> Result<(Event<'b>, Bytes), EventError> {
    let (mut event, value) = envelope::decode(body)?;
    if let Some(definitions) = &definitions.borrow().current {
        definitions.name(&mut event);
    }
    Ok((event, value))
}

/// Follows the presence definitions of `path` until `stop`. They were read once when this returns. Without the file there
/// are none.
pub async fn follow(
    path: PathBuf,
    stop: CancellationToken,
) -> watch::Receiver<Reloaded<PresenceDefinitions>> {
    let mut known = None;
    follow::start("they have not been read yet", stop, move || {
        let read = read(&path);
        if known.as_ref() == Some(&read) {
            return Reload::Unchanged;
        }
        known = Some(read.clone());
        match read.and_then(|text| PresenceDefinitions::parse(&text)) {
            Ok(definitions) => {
                tracing::info!(count = definitions.0.len(), "presence definitions loaded");
                Reload::Loaded(definitions)
            }
            Err(error) => {
                tracing::error!(error, "invalid presence definitions, keeping the last valid ones");
                Reload::Invalid(error)
            }
        }
    })
    .await
}

/// The file's text; empty where there is no file.
fn read(path: &Path) -> Result<String, String> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Err(cause) => return Err(format!("{} cannot be read: {cause}", path.display())),
    };
    let mut text = String::new();
    match file.take(LARGEST + 1).read_to_string(&mut text) {
        Ok(length) if length as u64 > LARGEST => {
            Err(format!("{} has more than {LARGEST} bytes; shorten it", path.display()))
        }
        Ok(_) => Ok(text),
        Err(cause) => Err(format!("{} cannot be read: {cause}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(definitions: &str, event_body: &str) -> Option<String> {
        let body =
            Bytes::from(format!(r#"{{"id":"1","detail-type":"t","detail":{{"eventBody":{event_body}}}}}"#));
        let definitions = follow::fixed(PresenceDefinitions::parse(definitions).unwrap());
        let (event, _) = decode(&body, &definitions).unwrap();
        event.presence_name().map(str::to_owned)
    }

    #[test]
    fn a_known_presence_definition_gives_its_name() {
        let definitions = "{d-1: Break, d-2: On, '3': \"Lunch, long\"}";
        let presence =
            |id: &str| format!(r#"{{"presenceDefinition":{{"id":"{id}","systemPresence":"BREAK"}}}}"#);
        assert_eq!(name(definitions, &presence("d-1")).as_deref(), Some("Break"));
        assert_eq!(
            name(definitions, &format!(r#"{{"presence":{}}}"#, presence("d-2"))).as_deref(),
            Some("On")
        );
        assert_eq!(name(definitions, &presence("3")).as_deref(), Some("Lunch, long"));
        assert_eq!(name(definitions, &presence("d-4")), None);
        assert_eq!(name("", &presence("d-1")), None);
        assert_eq!(name(definitions, r#"{"routingStatus":{"status":"IDLE"}}"#), None);
    }

    #[test]
    fn what_is_no_map_of_names_is_an_error() {
        for text in ["[a]", "a", "{a: [b]}", "{a: b", "{a: {b: c}}"] {
            assert!(PresenceDefinitions::parse(text).is_err(), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_comes_changes_and_goes_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("presence-definitions.yaml");
        let mut definitions = follow(file.clone(), CancellationToken::new()).await;
        let size = |definitions: &mut watch::Receiver<Reloaded<PresenceDefinitions>>| {
            definitions.borrow_and_update().current.as_ref().map(|current| current.0.len())
        };
        assert_eq!(size(&mut definitions), Some(0));
        std::fs::write(&file, "{a: A}").unwrap();
        definitions.changed().await.unwrap();
        assert_eq!(size(&mut definitions), Some(1));
        std::fs::write(&file, "[").unwrap();
        definitions.changed().await.unwrap();
        assert!(definitions.borrow().error.is_some());
        assert_eq!(size(&mut definitions), Some(1), "the last valid ones stay");
        std::fs::write(&file, "x".repeat(2 << 20)).unwrap();
        definitions.changed().await.unwrap();
        assert!(
            definitions.borrow_and_update().error.as_ref().is_some_and(|error| error.contains("shorten it"))
        );
        std::fs::remove_file(&file).unwrap();
        definitions.changed().await.unwrap();
        assert_eq!(size(&mut definitions), Some(0));
    }
}
