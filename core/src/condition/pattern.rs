//! The patterns of `matches`, compiled once with the expression.
//!
//! CEL's own `matches` compiles its pattern on each call, which costs more than all else that an expression does. So a
//! pattern has to be a literal; in the expression it is replaced by a variable that holds the compiled one.

mod complexity;

use std::any::Any;
use std::sync::Arc;

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue};
use cel::common::types::{CelBool, CelString, Type};
use cel::common::value::{StaticVal, Val};
use cel::{Context, DeclarationError, Env};
use regex_automata::meta;
use regex_automata::nfa::thompson::WhichCaptures;
use regex_syntax::ast::parse::ParserBuilder;
use regex_syntax::hir::translate::TranslatorBuilder;

use super::ConditionError;
use super::budget::Budget;
use super::walk::{parts, parts_mut};

/// The function whose last argument is a pattern.
const MATCHES: &str = "matches";

/// What a compiled pattern may take in memory, in bytes: a hundred times what people write, and little for a relay.
const SIZE_LIMIT: usize = 2 << 20;

/// What a compiled pattern takes of its table's budget is rounded up to one of these sizes, so that another version of the
/// library hardly ever decides otherwise.
const SIZES: [usize; 4] = [SIZE_LIMIT >> 6, SIZE_LIMIT >> 4, SIZE_LIMIT >> 2, SIZE_LIMIT];

/// What the states of a pattern that are found while it searches may take in memory, in bytes; beyond, it searches in
/// linear time without them. All patterns of a table together stay within an eighth of a relay's memory.
const CACHE_CAPACITY: usize = 128 << 10;

/// How deep groups and classes of a pattern may be inside each other.
const MAX_NESTING: u32 = 32;

static PATTERN: Type = Type::new_unspecified_type("@pattern");

/// A regular expression as CEL passes it on.
#[derive(Clone, Debug)]
struct Pattern(Arc<CompiledPattern>);

#[derive(Debug)]
struct CompiledPattern {
    source: Box<str>,
    regex: meta::Regex,
}

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
        other.downcast_ref::<Self>().is_some_and(|other| self.0.source == other.0.source)
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
        budget.take_patterns(count(expression)).map_err(PatternError::Budget)?;
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
            let pattern = compile(source.inner(), budget)?;
            // No name in an expression can begin so.
            let name = format!("@pattern{}", self.0.len());
            argument.expr = Expr::Ident(name.clone());
            self.0.push((name, pattern));
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

/// How many patterns an expression has.
fn count(expression: &IdedExpr) -> usize {
    let is_match = matches!(&expression.expr, Expr::Call(call) if has_pattern(call));
    usize::from(is_match) + parts(&expression.expr).into_iter().map(count).sum::<usize>()
}

/// Compiles a pattern within what is left for the table. Reading it is bounded by its complexity, and what it is compiled
/// to by its size: both are known before the work is done. One that is too large by itself takes the most that a pattern
/// may take of the budget, because it took that much work.
fn compile(source: &str, budget: &mut Budget) -> Result<Pattern, PatternError> {
    let invalid = |cause: &dyn ToString| PatternError::Invalid(cause.to_string());
    let over_budget = || PatternError::Budget(ConditionError::PatternsTooLarge);
    let mut parser = ParserBuilder::new().nest_limit(MAX_NESTING).build();
    let syntax = parser.parse(source).map_err(|cause| invalid(&cause))?;
    budget.take_complexity(complexity::of(&syntax)).map_err(PatternError::Budget)?;
    let parsed =
        TranslatorBuilder::new().build().translate(source, &syntax).map_err(|cause| invalid(&cause))?;
    let room = SIZE_LIMIT.min(budget.pattern_bytes());
    // Where a match begins and what a group holds is never asked.
    let limits = meta::Config::new()
        .which_captures(WhichCaptures::Implicit)
        // There is one for each direction.
        .nfa_size_limit(Some(room / 2))
        .onepass_size_limit(Some(SIZES[0]))
        .hybrid_cache_capacity(CACHE_CAPACITY);
    let compiled = match meta::Builder::new().configure(limits).build_from_hir(&parsed) {
        Ok(compiled) => Some(compiled),
        Err(cause) if cause.size_limit().is_some() => None,
        Err(cause) => return Err(invalid(&cause)),
    };
    let size = compiled.as_ref().map_or(usize::MAX, meta::Regex::memory_usage);
    let size = SIZES.into_iter().find(|class| size <= *class);
    match (compiled, size) {
        (Some(regex), Some(size)) => {
            budget.take_pattern_bytes(size).map_err(PatternError::Budget)?;
            Ok(Pattern(Arc::new(CompiledPattern { source: source.into(), regex })))
        }
        _ if room < SIZE_LIMIT => Err(over_budget()),
        _ => {
            budget.take_pattern_bytes(SIZE_LIMIT).map_err(PatternError::Budget)?;
            let limit = SIZE_LIMIT >> 20;
            Err(PatternError::Invalid(format!("compiled, it exceeds the size limit of {limit} MiB")))
        }
    }
}

/// `x.matches(PATTERN)` and `matches(x, PATTERN)`.
fn has_pattern(call: &CallExpr) -> bool {
    call.func_name == MATCHES && call.args.len() == if call.target.is_some() { 1 } else { 2 }
}

fn pattern_argument(call: &mut CallExpr) -> Option<&mut IdedExpr> {
    has_pattern(call).then(|| call.args.last_mut()).flatten()
}

/// Adds `matches` for compiled patterns to what CEL has.
pub(super) fn declare(environment: &mut Env) -> Result<(), DeclarationError> {
    cel::add_overload!(environment, fn matches: (CelString, Pattern) -> CelBool, id = "matches_compiled")?;
    cel::add_member_overload!(environment, fn matches: (CelString, Pattern) -> CelBool, id = "string_matches_compiled")
}

fn matches(text: &CelString<'_>, pattern: &Pattern) -> CelBool {
    CelBool::from(pattern.0.regex.is_match(text.inner()))
}
