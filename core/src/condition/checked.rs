//! Which expressions compile, remembered by their content hash.
//!
//! A program that checks the tables of many tenants runs none of their expressions. So it keeps of each the answer and
//! what it takes of its table's budget, a few dozen bytes, and drops what it was compiled to: one expression is in memory
//! at a time, and each is compiled once, however many tables have it.

use std::collections::HashMap;

use parking_lot::Mutex;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{Budget, Condition, ConditionError};

/// What the answers of a process may take in memory, in bytes.
const CAPACITY: usize = 8 << 20;

/// What an answer takes besides the texts of an error, in bytes.
const ENTRY: usize = 160;

/// An expression that compiles within its table's budget. It serialises as its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckedCondition(String);

impl CheckedCondition {
    /// The expression as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0
    }
}

/// Which expressions compile. A process has one for all tables.
#[derive(Default)]
pub struct ConditionChecks {
    known: Mutex<Known>,
}

impl ConditionChecks {
    /// Checks an expression of a table, within what the others have left of its budget: compiles it, or takes the answer
    /// of before, which is the same.
    ///
    /// # Errors
    /// Those of [`Condition::compile_within`].
    pub fn check(&self, source: &str, budget: &mut Budget) -> Result<CheckedCondition, ConditionError> {
        let known = self.known.lock().get(source, budget);
        let result = match known {
            Some(known) => known.apply(budget),
            None => {
                let before = budget.clone();
                let result = Condition::compile_within(source, budget).map(drop);
                self.known.lock().insert(source, &before, budget, result.as_ref().err());
                result
            }
        };
        result.map(|()| CheckedCondition(source.to_owned()))
    }

    /// Checks all expressions of a table, up to the one that is over its budget, so that the answers are known.
    pub fn check_all<'s>(&self, sources: impl IntoIterator<Item = &'s str>) {
        let mut budget = Budget::default();
        for source in sources {
            if self.check(source, &mut budget).is_err_and(|error| error.is_over_budget()) {
                return;
            }
        }
    }

    /// Whether all expressions of a table were checked before, so that checking them again compiles none.
    pub fn knows<'s>(&self, sources: impl IntoIterator<Item = &'s str>) -> bool {
        let mut budget = Budget::default();
        let mut known = self.known.lock();
        for source in sources {
            match known.get(source, &budget).map(|known| known.apply(&mut budget)) {
                Some(Err(error)) if error.is_over_budget() => return true,
                Some(_) => {}
                None => return false,
            }
        }
        true
    }
}

/// What compiling an expression came to.
#[derive(Clone)]
enum Check {
    /// It takes so much of any budget that has as much left.
    Compiles(Budget),
    /// It fails, with so much of the budget left. What fails first may depend on what was left before.
    Fails(ConditionError, Budget),
}

impl Check {
    fn apply(self, budget: &mut Budget) -> Result<(), ConditionError> {
        match self {
            Self::Compiles(taken) => {
                if let Some(left) = budget.without(&taken) {
                    *budget = left;
                }
                Ok(())
            }
            Self::Fails(error, left) => {
                *budget = left;
                Err(error)
            }
        }
    }
}

/// A hash of an expression, and of the budget where the answer depends on it.
type Key = [u8; 32];

fn key(source: &str, budget: Option<&Budget>) -> Key {
    let mut digest = Sha256::new();
    let numbers = budget.map(Budget::numbers);
    for number in numbers.iter().flatten() {
        digest.update(number.to_be_bytes());
    }
    // The numbers have one length, so that no expression can be taken for them.
    digest.update([u8::from(numbers.is_some())]);
    digest.update(source);
    digest.finalize().into()
}

/// The answers in two generations: what was not asked for while one of them filled up is forgotten.
#[derive(Default)]
struct Known {
    young: HashMap<Key, Check, foldhash::quality::RandomState>,
    old: HashMap<Key, Check, foldhash::quality::RandomState>,
    young_bytes: usize,
}

impl Known {
    fn get(&mut self, source: &str, budget: &Budget) -> Option<Check> {
        let compiles = key(source, None);
        if let Some(check @ Check::Compiles(_)) = self.find(&compiles)
            && let Check::Compiles(taken) = &check
            && budget.without(taken).is_some()
        {
            return Some(check);
        }
        self.find(&key(source, Some(budget)))
    }

    fn find(&mut self, key: &Key) -> Option<Check> {
        if let Some(check) = self.young.get(key) {
            return Some(check.clone());
        }
        let check = self.old.remove(key)?;
        self.add(*key, check.clone());
        Some(check)
    }

    fn insert(&mut self, source: &str, before: &Budget, after: &Budget, error: Option<&ConditionError>) {
        match error {
            None => {
                let Some(taken) = before.without(after) else { return };
                self.add(key(source, None), Check::Compiles(taken));
            }
            // It says nothing of the expression, and the next try may find a thread.
            Some(ConditionError::NoThread(_)) => {}
            Some(error) => self.add(key(source, Some(before)), Check::Fails(error.clone(), after.clone())),
        }
    }

    fn add(&mut self, key: Key, check: Check) {
        let bytes = match &check {
            Check::Compiles(_) => ENTRY,
            Check::Fails(error, _) => ENTRY + error.text_bytes(),
        };
        if self.young_bytes + bytes > CAPACITY / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        self.young.insert(key, check);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSTLY: &str = r"id.matches(r'[\pL\pN]{20}')";

    /// The results of a table's expressions, and what is left of its budget.
    fn table(
        expressions: &[&str],
        mut check: impl FnMut(&str, &mut Budget) -> Result<(), ConditionError>,
    ) -> (Vec<Result<(), ConditionError>>, Budget) {
        let mut budget = Budget::default();
        let results = expressions.iter().map(|expression| check(expression, &mut budget)).collect();
        (results, budget)
    }

    fn compiled(source: &str, budget: &mut Budget) -> Result<(), ConditionError> {
        Condition::compile_within(source, budget).map(drop)
    }

    #[test]
    fn a_remembered_answer_is_the_one_of_compiling_it_again() {
        let large = vec![COSTLY; 60].join(" || ");
        let too_large = r"id.matches(r'(\w{9}){99}')";
        let tables: [&[&str]; 5] = [
            &["id == 'a'", COSTLY, "id ==", COSTLY, "source == 'a'", "name == 'a'"],
            &[COSTLY, "id == 'a'"],
            &[COSTLY; 40],
            &["id == 'a'", &large, COSTLY, "id == 'b'"],
            &[too_large, too_large, "id.matches('(')", COSTLY, too_large],
        ];
        let checks = ConditionChecks::default();
        for _ in 0..2 {
            for expressions in tables {
                let checked = table(expressions, |source, budget| checks.check(source, budget).map(drop));
                assert!(checked == table(expressions, compiled), "{expressions:?}: {checked:?}");
                assert!(checks.knows(expressions.iter().copied()), "{expressions:?}");
            }
        }
    }

    #[test]
    fn only_what_was_checked_is_known() {
        let checks = ConditionChecks::default();
        assert!(!checks.knows(["id == 'a'"]));
        checks.check("id == 'a'", &mut Budget::default()).unwrap();
        assert!(checks.knows(["id == 'a'", "id == 'a'"]));
        assert!(!checks.knows(["id == 'a'", "id == 'b'"]));
    }

    #[test]
    fn a_condition_serialises_as_its_source() {
        let checked = ConditionChecks::default().check("id == 'a'", &mut Budget::default()).unwrap();
        assert_eq!(serde_json::to_string(&checked).unwrap(), r#""id == 'a'""#);
        assert_eq!(checked.source(), "id == 'a'");
    }

    #[test]
    fn answers_take_a_bounded_memory_and_those_in_use_are_kept() {
        let mut known = Known::default();
        let budget = Budget::default();
        let error = ConditionError::TooDeep("x".repeat(2000));
        known.insert("in use", &budget, &budget, None);
        for number in 0..2 * CAPACITY / error.text_bytes() {
            known.insert(&number.to_string(), &budget, &budget, Some(&error));
            assert!(known.get("in use", &budget).is_some());
        }
        let bytes = |entries: &HashMap<Key, Check, _>| -> usize {
            entries
                .values()
                .map(|check| if let Check::Fails(error, _) = check { error.text_bytes() } else { 0 })
                .sum()
        };
        assert!(bytes(&known.young) + bytes(&known.old) <= CAPACITY);
        assert!(known.get("0", &budget).is_none(), "what was not asked for is forgotten");
    }
}
