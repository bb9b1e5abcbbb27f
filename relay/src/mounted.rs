//! Files of mounted ConfigMaps and Secrets that belong together: a user and a password, a certificate and its key.

use std::fs;
use std::path::Path;

/// What `read` made of `files` when all of them were of one generation.
///
/// A mounted volume changes by the swap of a link that the path of each of its files goes through. Where one was
/// swapped meanwhile, `read` is called again: it may have seen a file from before and one from after. Files that
/// someone writes in place have no generations, and are what the last call saw.
pub(crate) fn of_one_generation<T>(files: &[&Path], mut read: impl FnMut() -> T) -> T {
    // A file that is not there (yet, or any more) is a state like any other.
    let generation = || files.iter().map(|file| fs::canonicalize(file).ok()).collect::<Vec<_>>();
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::thread;

    use tempfile::TempDir;

    /// A directory that changes the way the kubelet changes a mounted Secret.
    pub(crate) struct Volume {
        directory: TempDir,
        generation: u32,
    }

    impl Volume {
        pub(crate) fn new(files: &[(&str, &str)]) -> Self {
            let mut volume = Self { directory: tempfile::tempdir().unwrap(), generation: 0 };
            volume.swap(files);
            for (name, _) in files {
                symlink(Path::new("..data").join(name), volume.file(name)).unwrap();
            }
            volume
        }

        pub(crate) fn directory(&self) -> &Path {
            self.directory.path()
        }

        pub(crate) fn file(&self, name: &str) -> PathBuf {
            self.directory().join(name)
        }

        /// The same files with other content, all at once. Those from before are gone afterwards.
        pub(crate) fn swap(&mut self, files: &[(&str, &str)]) {
            let named = |generation: u32| self.directory.path().join(format!("..{generation}"));
            let (old, new) = (named(self.generation), named(self.generation + 1));
            fs::create_dir(&new).unwrap();
            for (name, content) in files {
                fs::write(new.join(name), content).unwrap();
            }
            let link = self.file("..data_tmp");
            symlink(&new, &link).unwrap();
            fs::rename(link, self.file("..data")).unwrap();
            if self.generation > 0 {
                fs::remove_dir_all(old).unwrap();
            }
            self.generation += 1;
        }

        /// Calls `look` again and again while another thread swaps; the files of one generation are all the same.
        pub(crate) fn while_swapped(&mut self, names: &[&str], mut look: impl FnMut()) {
            thread::scope(|scope| {
                let swaps = scope.spawn(|| {
                    for number in 1..1000 {
                        let number = number.to_string();
                        self.swap(&names.iter().map(|name| (*name, &*number)).collect::<Vec<_>>());
                    }
                });
                while !swaps.is_finished() {
                    look();
                }
            });
        }
    }

    #[test]
    fn what_was_read_across_a_swap_is_read_again() {
        let mut volume = Volume::new(&[("user", "old"), ("password", "old")]);
        let (user, password) = (volume.file("user"), volume.file("password"));
        let mut calls = 0;
        let seen = of_one_generation(&[&user, &password], || {
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
    fn files_that_do_not_change_or_are_not_there_are_read_once() {
        let volume = Volume::new(&[("user", "u")]);
        let mut calls = 0;
        of_one_generation(&[&volume.file("user"), &volume.file("absent")], || calls += 1);
        assert_eq!(calls, 1);
    }
}
