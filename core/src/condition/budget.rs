//! What all conditions of one table may take together.
//!
//! Each condition is bounded by itself, and a table has a thousand of them. A table that is compiled within one
//! [`Budget`] takes memory and time that a relay can spare, whatever its author writes.

use super::ConditionError;

/// How long all expressions of a table may be together, in bytes.
pub const MAX_TABLE_LENGTH: usize = 256 << 10;

/// How many patterns (`matches`) all expressions of a table may have together.
pub const MAX_TABLE_PATTERNS: usize = 256;

/// How much memory all compiled patterns of a table may take together, in bytes.
pub const MAX_TABLE_PATTERN_BYTES: usize = 16 << 20;

/// How complex all patterns of a table may be together: the number of their character classes, in which one that `(?i)`
/// makes of thousands of characters counts as many.
pub const MAX_TABLE_COMPLEXITY: usize = 16 << 10;

/// What is left for the conditions of a table.
///
/// What it is counted in depends on the expressions alone: the same table fits or does not on every machine, however fast
/// or busy. A deadline would make that a matter of the moment, and ends no work that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    length: usize,
    patterns: usize,
    complexity: usize,
    pattern_bytes: usize,
}

impl Default for Budget {
    /// For a whole table.
    fn default() -> Self {
        Self {
            length: MAX_TABLE_LENGTH,
            patterns: MAX_TABLE_PATTERNS,
            complexity: MAX_TABLE_COMPLEXITY,
            pattern_bytes: MAX_TABLE_PATTERN_BYTES,
        }
    }
}

impl Budget {
    /// What is left without `taken`; `None` where there is not as much.
    pub(super) fn without(&self, taken: &Self) -> Option<Self> {
        Some(Self {
            length: self.length.checked_sub(taken.length)?,
            patterns: self.patterns.checked_sub(taken.patterns)?,
            complexity: self.complexity.checked_sub(taken.complexity)?,
            pattern_bytes: self.pattern_bytes.checked_sub(taken.pattern_bytes)?,
        })
    }

    /// What tells one budget from another.
    pub(super) fn numbers(&self) -> [u64; 4] {
        [self.length, self.patterns, self.complexity, self.pattern_bytes].map(|number| number as u64)
    }

    pub(super) fn take_length(&mut self, length: usize) -> Result<(), ConditionError> {
        self.length = self.length.checked_sub(length).ok_or(ConditionError::TableTooLong)?;
        Ok(())
    }

    pub(super) fn take_patterns(&mut self, count: usize) -> Result<(), ConditionError> {
        self.patterns = self.patterns.checked_sub(count).ok_or(ConditionError::TooManyPatterns)?;
        Ok(())
    }

    pub(super) fn take_complexity(&mut self, complexity: usize) -> Result<(), ConditionError> {
        self.complexity =
            self.complexity.checked_sub(complexity).ok_or(ConditionError::PatternsTooComplex)?;
        Ok(())
    }

    /// The bytes that are left for compiled patterns.
    pub(super) fn pattern_bytes(&self) -> usize {
        self.pattern_bytes
    }

    pub(super) fn take_pattern_bytes(&mut self, bytes: usize) -> Result<(), ConditionError> {
        self.pattern_bytes = self.pattern_bytes.checked_sub(bytes).ok_or(ConditionError::PatternsTooLarge)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::condition::{Condition, MAX_BRACKETS, MAX_LENGTH};

    /// Compiles the expression as often as a table may have routes, and returns how often it fitted, and the error.
    fn table_of(expression: &str) -> (usize, Option<ConditionError>) {
        let mut budget = Budget::default();
        let mut compiled = Vec::new();
        for _ in 0..1024 {
            match Condition::compile_within(expression, &mut budget) {
                Ok(condition) => compiled.push(condition),
                Err(error) => return (compiled.len(), Some(error)),
            }
        }
        (compiled.len(), None)
    }

    fn joined(part: &str) -> String {
        let brackets = part.bytes().filter(|byte| b"([{".contains(byte)).count();
        vec![part; ((MAX_LENGTH + 4) / (part.len() + 4)).min(MAX_BRACKETS / brackets)].join(" || ")
    }

    /// What its author writes decides neither how long a table compiles nor how much memory it takes.
    #[test]
    fn costly_patterns_are_refused_or_compile_within_a_bound() {
        let corpus = [
            r"id.matches(r'[\pL\pN]{20}')",
            r"id.matches(r'\w{50}')",
            r"id.matches(r'(\w{9}){9}')",
            r"id.matches(r'((((a{9}){9}){9}){9}){9}')",
            r"id.matches(r'(a|b|c|d){999}')",
            r"id.matches(r'(?i)[\pL]{30}')",
            r"id.matches(r'.*.*.*.*.*.*.*=.*')",
            r"id.matches(r'(a*)*(a*)*(a*)*b')",
            r"id.matches(r'(?:a?){400}a{400}')",
            r"id.matches(r'\p{any}{100}')",
            r"id.matches(r'[^\x00]{200}')",
            r"id.matches(r'^a$')",
        ];
        for part in corpus {
            let begun = Instant::now();
            let (count, error) = table_of(&joined(part));
            println!("{part}: {count} routes in {:?}", begun.elapsed());
            assert!(begun.elapsed() < Duration::from_secs(30), "{part}: {:?}", begun.elapsed());
            let error = error.unwrap_or_else(|| panic!("{part} is taken without an end"));
            let is_refused = error.is_over_budget() || matches!(error, ConditionError::Pattern { .. });
            assert!(is_refused, "{part}: {error}");
        }
    }

    #[test]
    fn ten_routes_of_sixty_large_patterns_are_refused() {
        let when = vec![r"id.matches(r'[\pL\pN]{20}')"; 60].join(" || ");
        let (count, error) = table_of(&when);
        assert_eq!((count, error), (0, Some(ConditionError::PatternsTooLarge)));
    }

    #[test]
    fn many_small_patterns_and_long_expressions_are_refused() {
        let (count, error) = table_of("id.matches('^a$')");
        assert_eq!((count, error), (MAX_TABLE_PATTERNS, Some(ConditionError::TooManyPatterns)));
        let long = format!("id == '{}'", "x".repeat(MAX_LENGTH - 8));
        let (count, error) = table_of(&long);
        assert_eq!((count, error), (MAX_TABLE_LENGTH / MAX_LENGTH, Some(ConditionError::TableTooLong)));
    }

    #[test]
    fn a_thousand_ordinary_conditions_fit() {
        let when = "attributes.presence == 'AVAILABLE' && eventType.startsWith('presence:') && has(attributes.userId)";
        assert_eq!(table_of(when), (1024, None));
    }
}
