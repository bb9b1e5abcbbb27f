//! What keeps an expression's cost in bounds: its work and its memory are at most its length times the event's size,
//! with one exception, a search inside a loop, which is their product for the small events that loops are tried on.

use cel::common::ast::{Expr, IdedExpr, operators};

use super::walk::parts;

/// How many values an event may have for an expression with a loop, lists and maps and what is in them all counted.
pub const MAX_LOOP_VALUES: usize = 1000;
/// How many bytes of text an event may have for an expression with a loop.
pub const MAX_LOOP_TEXT: usize = 64 << 10;

/// What in an expression has no bound.
#[derive(Debug, PartialEq)]
pub(super) enum Unbounded {
    /// A macro inside a macro: a product of sizes.
    NestedLoop,
    /// `a + b` of two texts or lists that come from the event: in a chain, each is larger than the one before.
    Joined,
    /// A list or map that is made of what comes from the event: in a chain of loops, it doubles.
    Built,
}

/// What has no bound in the expression, if anything.
pub(super) fn first_unbounded(expression: &IdedExpr) -> Option<Unbounded> {
    if loop_depth(expression) > 1 {
        return Some(Unbounded::NestedLoop);
    }
    first_growth(expression)
}

/// How many loops are inside each other: 0 for none.
pub(super) fn loop_depth(expression: &IdedExpr) -> usize {
    match &expression.expr {
        Expr::Comprehension(looped) => {
            let inside = [&looped.loop_cond, &looped.loop_step, &looped.result].map(loop_depth);
            // What is looped over is evaluated once, so a chain such as `filter(...).exists(...)` is not nested.
            let outside = [&looped.iter_range, &looped.accu_init].map(loop_depth);
            let deepest = |depths: &[usize]| depths.iter().copied().max().unwrap_or(0);
            deepest(&outside).max(1 + deepest(&inside))
        }
        other => parts(other).into_iter().map(loop_depth).max().unwrap_or(0),
    }
}

/// The first part that makes something larger than what it is made from.
fn first_growth(expression: &IdedExpr) -> Option<Unbounded> {
    match &expression.expr {
        Expr::Call(call) if call.func_name == operators::ADD => match call.args.as_slice() {
            // What `map` and `filter` gather: as many items as they loop over.
            [IdedExpr { expr: Expr::Ident(name), .. }, IdedExpr { expr: Expr::List(list), .. }]
                if is_accumulator(name) =>
            {
                return list.elements.iter().find_map(first_growth);
            }
            joined if joined.iter().all(is_of_any_size) => return Some(Unbounded::Joined),
            _ => {}
        },
        built @ (Expr::List(_) | Expr::Map(_)) if parts(built).into_iter().any(is_of_any_size) => {
            return Some(Unbounded::Built);
        }
        _ => {}
    }
    parts(&expression.expr).into_iter().find_map(first_growth)
}

/// Whether the value can be a text, list or map that comes from the event, however large.
fn is_of_any_size(expression: &IdedExpr) -> bool {
    match &expression.expr {
        Expr::Ident(name) => name != "timestamp" && !is_accumulator(name),
        Expr::Select(select) => !select.test,
        Expr::Call(call) => match call.func_name.as_str() {
            operators::CONDITIONAL => call.args.iter().skip(1).any(is_of_any_size),
            name => {
                SIZED_BY_ARGUMENTS.contains(&name) && parts(&expression.expr).into_iter().any(is_of_any_size)
            }
        },
        // `all` and `exists` begin with a boolean, `exists_one` with a number.
        Expr::Comprehension(looped) => matches!(looped.accu_init.expr, Expr::List(_)),
        other => parts(other).into_iter().any(is_of_any_size),
    }
}

/// The calls whose answer is as large as what they are given; that of the others is a number, a boolean or a time.
const SIZED_BY_ARGUMENTS: [&str; 10] = [
    operators::ADD,
    operators::INDEX,
    operators::OPT_INDEX,
    operators::OPT_SELECT,
    "bytes",
    "dyn",
    "or",
    "orValue",
    "string",
    "value",
];

/// Whether this is what a macro gathers its answer in. No name that is written can begin so.
fn is_accumulator(name: &str) -> bool {
    name.starts_with('@')
}

/// How many values there are, and how many bytes of text, in what an event brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    values: usize,
    text: usize,
}

impl Extent {
    /// Adds a value, not what is in it.
    pub(super) fn add_value(&mut self) {
        self.values += 1;
    }

    /// Adds what a value has of text, or the name of a field.
    pub(super) fn add_text(&mut self, text: &str) {
        self.text += text.len();
    }

    /// Whether a loop over it is tried.
    pub(super) fn can_be_looped_over(self) -> bool {
        self.values <= MAX_LOOP_VALUES && self.text <= MAX_LOOP_TEXT
    }
}
