//! Reading files of a mounted ConfigMap or Secret that belong together, such as a certificate and its key, so that all
//! of them are of one generation. When to read is the caller's decision; see [`follow`](crate::follow).

use std::fs;
use std::path::{Path, PathBuf};

/// How many links are followed, as Linux does.
const MAX_LINKS: usize = 40;

/// Calls `read`, and calls it again until none of `files` was replaced during the call.
///
/// The kubelet updates a mounted volume by swapping a link that is part of each file's path. A `read` across a swap may
/// see one file from before and one from after. Files that are written in place have no generations; for them, the
/// result is that of the last call.
pub fn read_consistent<T>(files: &[&Path], mut read: impl FnMut() -> T) -> T {
    let generation = || files.iter().map(|file| links(file)).collect::<Vec<_>>();
    let mut before = generation();
    loop {
        let seen = read();
        let after = generation();
        if after == before {
            return seen;
        }
        before = after;
    }
}

/// The links that `path` goes through, as they are now. The file itself need not exist: while a volume is swapped, the
/// target of a link may be gone already, and only the link tells that there is a newer one.
fn links(path: &Path) -> Vec<PathBuf> {
    let mut path = path.to_owned();
    let mut links = Vec::new();
    while links.len() < MAX_LINKS {
        let link = path.ancestors().filter_map(|link| Some((link, fs::read_link(link).ok()?))).last();
        let Some((link, target)) = link else { break };
        let rest = path.strip_prefix(link).unwrap_or(Path::new(""));
        let resolved = link.parent().unwrap_or(Path::new("")).join(&target);
        path = if rest.as_os_str().is_empty() { resolved } else { resolved.join(rest) };
        links.push(target);
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Volume;

    #[test]
    fn files_read_across_a_swap_are_read_again() {
        let mut volume = Volume::new(&[("user", "old"), ("password", "old")]);
        let (user, password) = (volume.file("user"), volume.file("password"));
        let mut calls = 0;
        let seen = read_consistent(&[&user, &password], || {
            calls += 1;
            let user = fs::read_to_string(&user).unwrap();
            if calls == 1 {
                volume.swap(&[("user", "new"), ("password", "new")]);
            }
            (user, fs::read_to_string(&password).unwrap())
        });
        assert_eq!((seen, calls), (("new".into(), "new".into()), 2));
    }

    #[test]
    fn unchanged_or_missing_files_are_read_once() {
        let volume = Volume::new(&[("user", "u")]);
        let mut calls = 0;
        read_consistent(&[&volume.file("user"), &volume.file("absent")], || calls += 1);
        assert_eq!(calls, 1);
    }
}
