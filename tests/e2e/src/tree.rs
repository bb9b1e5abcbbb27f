//! Files of this source tree.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Failure, Outcome};

/// A file or folder, by its path from the root of the tree.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

/// The text of a file.
pub fn read(name: &str) -> Outcome<String> {
    fs::read_to_string(path(name)).map_err(|error| Failure(format!("{name}: {error}")))
}

/// The files of a folder whose names end so, sorted, by their paths from the root of the tree.
pub fn files(folder: &str, ending: &str) -> Outcome<Vec<String>> {
    let cannot = |error: std::io::Error| Failure(format!("{folder}: {error}"));
    let mut files = Vec::new();
    for entry in fs::read_dir(path(folder)).map_err(cannot)? {
        let name = entry.map_err(cannot)?.file_name();
        if let Some(name) = name.to_str().filter(|name| name.ends_with(ending)) {
            files.push(format!("{folder}/{name}"));
        }
    }
    files.sort();
    Ok(files)
}
