//! Names of AWS objects.

use sha2::{Digest, Sha256};

/// The longest name of a rule, a connection, an API destination and a role.
pub(super) const MAX_NAME: usize = 64;
/// The longest name of a queue.
const MAX_QUEUE_NAME: usize = 80;
/// How many characters of a hash distinguish names that were cut.
const HASH: usize = 8;

/// The name, or its beginning and a hash of the whole where it has more than `longest` characters. It has only ASCII.
pub(super) fn fitted(name: &str, longest: usize) -> String {
    if name.len() <= longest {
        return name.to_owned();
    }
    let hash = hex::encode(Sha256::digest(name));
    let kept: String = name.chars().take(longest.saturating_sub(HASH + 1)).collect();
    format!("{kept}-{}", &hash[..HASH])
}

/// The name of a queue: letters, digits, hyphens and underscores.
pub(super) fn queue(name: &str) -> String {
    fitted(&name.replace('.', "-"), MAX_QUEUE_NAME)
}

/// The name of a CloudFormation stack: letters, digits and hyphens.
pub(super) fn stack(name: &str) -> String {
    fitted(&name.replace(['.', '_'], "-"), 128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_too_long_is_cut_and_stays_its_own() {
        let (one, other) = (format!("{}1", "a".repeat(80)), format!("{}2", "a".repeat(80)));
        assert_eq!(fitted(&one, 64).len(), 64);
        assert_ne!(fitted(&one, 64), fitted(&other, 64));
        assert_eq!(fitted("short", 64), "short");
    }

    #[test]
    fn a_queue_and_a_stack_have_the_characters_that_aws_takes() {
        assert_eq!(queue("presenceroute-a.b_c"), "presenceroute-a-b_c");
        assert_eq!(stack("presenceroute-a.b_c"), "presenceroute-a-b-c");
    }
}
