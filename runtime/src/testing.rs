//! A stand-in for a mounted ConfigMap or Secret, for tests of what reads one, and the page that lists a program's metrics.
//! Not part of a released program.

// Only tests use this module: a failure here is a failed test.
#![allow(clippy::unwrap_used, clippy::panic)]

pub mod metrics_page;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;

use tempfile::TempDir;

/// A directory that is updated as the kubelet updates a mounted Secret.
pub struct Volume {
    directory: TempDir,
    generation: u32,
}

impl Volume {
    /// A volume with these files.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let mut volume = Self { directory: tempfile::tempdir().unwrap(), generation: 0 };
        volume.swap(files);
        for (name, _) in files {
            symlink(Path::new("..data").join(name), volume.file(name)).unwrap();
        }
        volume
    }

    /// Where the volume is mounted.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// Replaces the content of all files at once. The old files are gone afterwards.
    pub fn swap(&mut self, files: &[(&str, &str)]) {
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

    /// Calls `check` repeatedly while another thread swaps the volume; all files of one generation have the same content.
    pub fn while_swapped(&mut self, names: &[&str], mut check: impl FnMut()) {
        thread::scope(|scope| {
            let swaps = scope.spawn(|| {
                for number in 1..1000 {
                    let number = number.to_string();
                    self.swap(&names.iter().map(|name| (*name, &*number)).collect::<Vec<_>>());
                }
            });
            while !swaps.is_finished() {
                check();
            }
        });
    }
}
