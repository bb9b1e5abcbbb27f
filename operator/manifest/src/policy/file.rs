//! A policy in a file, as the operator reads it at its start and `validate` reads it before.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{MAX_POLICY_BYTES, Policy, PolicyError};

/// Why there is no policy in a file.
#[derive(Debug, Error)]
pub enum PolicyFileError {
    /// The file cannot be read.
    #[error("the policy file {} cannot be read: {cause}; name another with --policy-file, or let it be text", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's word.
        cause: io::Error,
    },
    /// What is in it is no policy.
    #[error("the policy file {} cannot be used: {cause}", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: PolicyError,
    },
}

/// Reads a policy from a file of at most [`MAX_POLICY_BYTES`].
///
/// # Errors
/// [`PolicyFileError`] with the file's name.
pub fn read_policy(path: &Path) -> Result<Policy, PolicyFileError> {
    let text = read_bounded(path).map_err(|cause| PolicyFileError::Read { path: path.to_owned(), cause })?;
    Policy::parse(&text).map_err(|cause| PolicyFileError::Parse { path: path.to_owned(), cause })
}

/// One byte more than a policy may have shows that it is too large.
fn read_bounded(path: &Path) -> io::Result<String> {
    let most = u64::try_from(MAX_POLICY_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    io::read_to_string(File::open(path)?.take(most))
}
