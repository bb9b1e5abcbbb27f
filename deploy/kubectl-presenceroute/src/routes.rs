//! `routes`: the routes of a table, from the cluster or from a file, or where they lead an event.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use presenceroute_core::event::{Event, EventError, envelope};
use presenceroute_core::routing::{Router, RoutingError, RoutingTable};
use presenceroute_manifest::validate::routing_table;

use crate::cluster::{Cluster, ClusterError};
use crate::explain::{explain, render, render_table};
use crate::format::Format;
use crate::manifest_file::{self, FileError, read};
use crate::route_name;
use crate::style;

/// Which table, and which event.
#[derive(Debug, clap::Args)]
pub(crate) struct RoutesArguments {
    /// A PresenceRoute, or a file (a name with a dot or a slash): a manifest, or a routing table as relays read it. A
    /// file needs no cluster.
    #[arg(value_name = "NAME|FILE", add = route_name::completer())]
    source: String,
    /// Explain where the event in this file would go, a webhook's or an envelope of Amazon EventBridge; - is standard input.
    #[arg(long, value_name = "EVENT.json")]
    explain: Option<PathBuf>,
    /// The output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Why a table or an event cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoutesError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("the result cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{file}: {cause}")]
    Table { file: String, cause: RoutingError },
    #[error("{file}: {problems}")]
    Refused { file: String, problems: String },
    #[error("{file} is no event that a relay would accept: {cause}")]
    Event { file: String, cause: EventError },
}

/// Lists or explains. A cluster is connected to only when the table is in one.
pub(crate) async fn run<C>(
    arguments: &RoutesArguments,
    connect: impl FnOnce() -> C,
) -> Result<ExitCode, RoutesError>
where
    C: Future<Output = Result<Cluster, ClusterError>>,
{
    let source = &arguments.source;
    // The name of a PresenceRoute has neither.
    let table = if source.contains(['.', '/']) {
        table_of_file(source, &read(Path::new(source))?)?
    } else {
        connect().await?.routing_table(source).await?
    };
    let router = Router::new(table);
    let text = match (&arguments.explain, arguments.output) {
        (None, Format::Text) => render_table(&router),
        (None, Format::Json) => serde_json::to_string_pretty(router.table())? + "\n",
        (Some(file), output) => {
            let body = read(file)?;
            let body = Bytes::from(body);
            let event = event(&body)
                .map_err(|cause| RoutesError::Event { file: file.display().to_string(), cause })?;
            let explanation = explain(&router, &event);
            match output {
                Format::Text => render(&explanation),
                Format::Json => serde_json::to_string_pretty(&explanation)? + "\n",
            }
        }
    };
    style::print(&text);
    Ok(ExitCode::SUCCESS)
}

/// The event in a body that a relay receives: a webhook's, or an envelope of Amazon EventBridge.
fn event(body: &Bytes) -> Result<Event<'_>, EventError> {
    let is_envelope = serde_json::from_slice::<serde_json::Value>(body)
        .is_ok_and(|value| value.get("detail-type").is_some());
    if is_envelope { envelope::decode(body).map(|(event, _)| event) } else { Event::parse(body) }
}

/// The table in a file: that of its PresenceRoute, or the file itself.
fn table_of_file(file: &str, text: &str) -> Result<RoutingTable, RoutesError> {
    let Some(route) = manifest_file::only(file, text)? else {
        return RoutingTable::parse(text)
            .map_err(|cause| RoutesError::Table { file: file.to_owned(), cause });
    };
    routing_table(&route.spec).map_err(|problems| {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        RoutesError::Refused { file: file.to_owned(), problems: problems.join("; ") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_explained_as_the_event_in_it() {
        let body = Bytes::from_static(
            br#"{"id":"1","detail-type":"v2.users.{id}.presence","detail":{"topicName":"v2.users.u-1.presence"}}"#,
        );
        let found = event(&body).unwrap();
        assert_eq!((found.event_type.as_ref(), found.subject()), ("v2.users.{id}.presence", Some("u-1")));
        assert!(event(&Bytes::from_static(br#"{"id":"1","eventType":"t"}"#)).is_ok());
        let error = event(&Bytes::from_static(br#"{"detail-type":"t"}"#)).unwrap_err().to_string();
        assert!(error.contains("no id"), "{error}");
    }

    #[test]
    fn a_table_is_read_from_a_manifest_or_from_a_relays_file() {
        let manifest = include_str!("../../examples/quickstart.yaml");
        let table = table_of_file("quickstart.yaml", manifest).unwrap();
        assert_eq!(table.routes().len(), 3);
        let again = table_of_file("routing.yaml", &table.to_yaml().unwrap()).unwrap();
        assert_eq!(again, table);
        let short = table_of_file("short.yaml", "{presence:state:changed: states}").unwrap();
        assert_eq!(short.routes().len(), 1);
    }

    #[test]
    fn an_invalid_manifest_is_refused_with_its_field() {
        let wrong = include_str!("../../examples/quickstart.yaml").replace("topic: gen", "topic: g n");
        let error = table_of_file("wrong.yaml", &wrong).unwrap_err().to_string();
        assert!(error.contains("spec.routes[0].topic"), "{error}");
    }
}
