//! A PresenceRoute in a file, admitted as an API server would admit it.

use std::io;
use std::path::Path;

use kube::ResourceExt;
use presenceroute_crds::PresenceRoute;
use presenceroute_manifest::admission::admit_route;
use presenceroute_manifest::document::{Document, Manifest, ManifestError};

/// Why a file has no such PresenceRoute.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{file} cannot be read: {cause}")]
    Read { file: String, cause: io::Error },
    #[error("{file}: {cause}")]
    Manifest { file: String, cause: ManifestError },
    #[error("{file}: {problems}")]
    Refused { file: String, problems: String },
    #[error("{file} has {count} PresenceRoutes; keep one of them")]
    Several { file: String, count: usize },
    #[error("{file} has no PresenceRoute {name:?}; it has {others}")]
    Missing { file: String, name: String, others: String },
}

/// The text of a file; `-` is standard input.
pub(crate) fn read(file: &Path) -> Result<String, FileError> {
    let text =
        if file.as_os_str() == "-" { io::read_to_string(io::stdin()) } else { std::fs::read_to_string(file) };
    text.map_err(|cause| FileError::Read { file: file.display().to_string(), cause })
}

/// The only PresenceRoute of a file, or none.
pub(crate) fn only(file: &str, text: &str) -> Result<Option<PresenceRoute>, FileError> {
    match documents(file, text)?.as_slice() {
        [] => Ok(None),
        [document] => admitted(file, document).map(Some),
        several => Err(FileError::Several { file: file.to_owned(), count: several.len() }),
    }
}

/// The PresenceRoute of this name in a file.
pub(crate) fn named(file: &str, text: &str, name: &str) -> Result<PresenceRoute, FileError> {
    let documents = documents(file, text)?;
    match documents.iter().find(|document| document.text("/metadata/name") == name) {
        Some(document) => admitted(file, document),
        None => {
            let others: Vec<_> = documents.iter().map(|document| document.text("/metadata/name")).collect();
            Err(FileError::Missing {
                file: file.to_owned(),
                name: name.to_owned(),
                others: if others.is_empty() { "none".into() } else { others.join(", ") },
            })
        }
    }
}

/// The namespace of a route that may have none of its own: then the one of the command line.
pub(crate) fn namespace(route: &PresenceRoute, chosen: Option<&str>) -> Result<String, NamespaceError> {
    match (route.namespace(), chosen) {
        (Some(own), Some(chosen)) if own != chosen => {
            Err(NamespaceError::Other { own, chosen: chosen.to_owned() })
        }
        (Some(own), _) => Ok(own),
        (None, Some(chosen)) => Ok(chosen.to_owned()),
        (None, None) => Err(NamespaceError::None),
    }
}

/// Why the namespace of a route in a file is not known.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum NamespaceError {
    #[error("the manifest's namespace is {own:?} and not {chosen:?}; leave out -n, or edit the manifest")]
    Other { own: String, chosen: String },
    #[error("the manifest names no namespace, and the names in AWS depend on it; choose one by -n")]
    None,
}

fn documents(file: &str, text: &str) -> Result<Vec<Document>, FileError> {
    let manifest =
        Manifest::parse(text).map_err(|cause| FileError::Manifest { file: file.to_owned(), cause })?;
    Ok(manifest.routes)
}

fn admitted(file: &str, document: &Document) -> Result<PresenceRoute, FileError> {
    admit_route(document.value()).map_err(|violations| {
        let problems: Vec<_> = violations.iter().map(ToString::to_string).collect();
        FileError::Refused { file: file.to_owned(), problems: problems.join("; ") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICKSTART: &str = include_str!("../../examples/quickstart.yaml");

    #[test]
    fn a_route_of_a_file_is_found_by_its_name() {
        assert_eq!(named("f", QUICKSTART, "contact-centre").unwrap().name_any(), "contact-centre");
        let error = named("f.yaml", QUICKSTART, "other").unwrap_err().to_string();
        assert_eq!(error, "f.yaml has no PresenceRoute \"other\"; it has contact-centre");
        let two = format!("{QUICKSTART}\n---\n{}", QUICKSTART.replace("contact-centre", "second"));
        assert_eq!(named("f", &two, "second").unwrap().name_any(), "second");
        assert!(only("f", &two).unwrap_err().to_string().contains("2 PresenceRoutes"));
        assert!(only("f", "kind: Other").unwrap().is_none());
    }

    #[test]
    fn the_namespace_is_the_manifests_or_the_chosen_one() {
        let mut route = only("f", QUICKSTART).unwrap().unwrap();
        assert_eq!(namespace(&route, None).unwrap(), "presence");
        assert_eq!(namespace(&route, Some("presence")).unwrap(), "presence");
        assert!(matches!(namespace(&route, Some("other")), Err(NamespaceError::Other { .. })));
        route.metadata.namespace = None;
        assert_eq!(namespace(&route, Some("other")).unwrap(), "other");
        assert_eq!(namespace(&route, None), Err(NamespaceError::None));
    }
}
