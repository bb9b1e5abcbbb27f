//! The patterns of `matches`, compiled once with the expression.
//!
//! CEL's own `matches` compiles its pattern on each call, which costs more than all else that an expression does. So a
//! pattern has to be a literal; in the expression it is replaced by a variable that holds the compiled one.

use std::any::Any;
use std::sync::Arc;

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue};
use cel::common::types::{CelBool, CelString, Type};
use cel::common::value::{StaticVal, Val};
use cel::{Context, DeclarationError, Env};
use regex::{Regex, RegexBuilder};

use super::ConditionError;
use super::budget::Budget;
use super::walk::parts_mut;

/// The function whose last argument is a pattern.
const MATCHES: &str = "matches";

/// What a compiled pattern may take in memory, in bytes: a hundred times what people write, and little for a relay.
const SIZE_LIMIT: usize = 1 << 20;

/// The sizes that a pattern is compiled within, one after the other: the first that suffices is what it takes of the
/// table's budget. A pattern that does not fit is given up early, so that all attempts cost little more than the last.
const SIZES: [usize; 4] = [SIZE_LIMIT >> 6, SIZE_LIMIT >> 4, SIZE_LIMIT >> 2, SIZE_LIMIT];

static PATTERN: Type = Type::new_unspecified_type("@pattern");

/// A regular expression as CEL passes it on.
#[derive(Clone, Debug)]
struct Pattern(Arc<Regex>);

impl Val for Pattern {
    fn get_type(&self) -> &Type {
        &PATTERN
    }

    fn cel_type() -> &'static Type {
        &PATTERN
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn equals(&self, other: &dyn Val) -> bool {
        other.downcast_ref::<Self>().is_some_and(|other| self.0.as_str() == other.0.as_str())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}

/// Why a pattern cannot be used.
pub(super) enum PatternError {
    /// It is not written out in the expression.
    NotLiteral,
    /// It is no regular expression, or too large a one.
    Invalid(String),
    /// The table has no room for it.
    Budget(ConditionError),
}

/// The patterns of one expression, each with the name of its variable.
pub(super) struct Patterns(Vec<(String, Pattern)>);

impl Patterns {
    /// Compiles the patterns in `expression`, and puts their variables where they were.
    pub(super) fn take_from(expression: &mut IdedExpr, budget: &mut Budget) -> Result<Self, PatternError> {
        let mut patterns = Self(Vec::new());
        patterns.take(expression, budget)?;
        Ok(patterns)
    }

    fn take(&mut self, expression: &mut IdedExpr, budget: &mut Budget) -> Result<(), PatternError> {
        if let Expr::Call(call) = &mut expression.expr
            && let Some(argument) = pattern_argument(call)
        {
            let Expr::Literal(LiteralValue::String(source)) = &argument.expr else {
                return Err(PatternError::NotLiteral);
            };
            let compiled = compile(source.inner(), budget)?;
            // No name in an expression can begin so.
            let name = format!("@pattern{}", self.0.len());
            argument.expr = Expr::Ident(name.clone());
            self.0.push((name, Pattern(Arc::new(compiled))));
        }
        parts_mut(&mut expression.expr).into_iter().try_for_each(|part| self.take(part, budget))
    }

    /// `variables` with the patterns beside them.
    pub(super) fn beside<'a>(&self, variables: &'a Context<'static, 'static>) -> Context<'a, 'static> {
        let mut scope = variables.new_inner_scope();
        for (name, pattern) in &self.0 {
            scope.add_variable_as_val(name, Box::new(pattern.clone()));
        }
        scope
    }

    /// Whether the expression has none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Compiles a pattern within what is left for the table.
fn compile(source: &str, budget: &mut Budget) -> Result<Regex, PatternError> {
    budget.take_pattern().map_err(PatternError::Budget)?;
    let mut compiled = Err(PatternError::Budget(ConditionError::PatternsTooLarge));
    for size in SIZES.into_iter().take_while(|size| *size <= budget.pattern_bytes()) {
        match RegexBuilder::new(source).size_limit(size).build() {
            Ok(pattern) => {
                budget.take_pattern_bytes(size).map_err(PatternError::Budget)?;
                return Ok(pattern);
            }
            Err(cause @ regex::Error::CompiledTooBig(_)) if size == SIZE_LIMIT => {
                compiled = Err(PatternError::Invalid(cause.to_string()));
            }
            Err(regex::Error::CompiledTooBig(_)) => {}
            Err(cause) => return Err(PatternError::Invalid(cause.to_string())),
        }
    }
    compiled
}

/// `x.matches(PATTERN)` and `matches(x, PATTERN)`.
fn pattern_argument(call: &mut CallExpr) -> Option<&mut IdedExpr> {
    let expected = if call.target.is_some() { 1 } else { 2 };
    (call.func_name == MATCHES && call.args.len() == expected).then(|| call.args.last_mut()).flatten()
}

/// Adds `matches` for compiled patterns to what CEL has.
pub(super) fn declare(environment: &mut Env) -> Result<(), DeclarationError> {
    cel::add_overload!(environment, fn matches: (CelString, Pattern) -> CelBool, id = "matches_compiled")?;
    cel::add_member_overload!(environment, fn matches: (CelString, Pattern) -> CelBool, id = "string_matches_compiled")
}

fn matches(text: &CelString<'_>, pattern: &Pattern) -> CelBool {
    CelBool::from(pattern.0.is_match(text.inner()))
}
