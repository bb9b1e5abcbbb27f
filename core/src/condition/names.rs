//! The names that an expression can use.

use cel::common::ast::{Expr, IdedExpr, operators};

use super::walk::parts;

/// The names that an expression can use.
pub const VARIABLES: [&str; 6] = ["id", "eventType", "timestamp", "source", "subject", "attributes"];

/// The types that CEL's standard library names.
const TYPES: [&str; 11] =
    ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint", "duration"];

/// The functions that an expression can call: those of CEL's standard library.
pub(super) const FUNCTIONS: [&str; 29] = [
    "bool",
    "bytes",
    "contains",
    "double",
    "duration",
    "dyn",
    "endsWith",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "hasValue",
    "int",
    "matches",
    "or",
    "orValue",
    "size",
    "startsWith",
    "string",
    "timestamp",
    "type",
    "uint",
    "value",
];

/// What the parser writes for the operators, and in the place of macros.
const OPERATORS: [&str; 20] = [
    operators::ADD,
    operators::CONDITIONAL,
    operators::DIVIDE,
    operators::EQUALS,
    operators::GREATER,
    operators::GREATER_EQUALS,
    operators::IN,
    operators::INDEX,
    operators::LESS,
    operators::LESS_EQUALS,
    operators::LOGICAL_AND,
    operators::LOGICAL_NOT,
    operators::LOGICAL_OR,
    operators::MODULO,
    operators::MULTIPLY,
    operators::NEGATE,
    operators::NOT_EQUALS,
    operators::NOT_STRICTLY_FALSE,
    operators::OPT_INDEX,
    operators::OPT_SELECT,
];

/// The first function that is called and does not exist.
pub(super) fn first_unknown_function(expression: &IdedExpr) -> Option<&str> {
    if let Expr::Call(call) = &expression.expr {
        let name = call.func_name.as_str();
        if !FUNCTIONS.contains(&name) && !OPERATORS.contains(&name) && name != operators::SUBSTRACT {
            return Some(name);
        }
    }
    parts(&expression.expr).into_iter().find_map(first_unknown_function)
}

/// The first variable that is neither an event's nor a macro's.
pub(super) fn first_unknown_variable(expression: &IdedExpr) -> Option<&str> {
    in_scope(expression, &mut Vec::new())
}

/// Walks the expression with the variables that the macros around it have introduced.
fn in_scope<'a>(expression: &'a IdedExpr, scope: &mut Vec<&'a str>) -> Option<&'a str> {
    match &expression.expr {
        Expr::Ident(name) => {
            // A leading dot means the outermost scope; type names such as `string` are values in CEL.
            let bare = name.trim_start_matches('.');
            let known =
                VARIABLES.contains(&bare) || TYPES.contains(&bare) || scope.iter().any(|local| local == name);
            (!known).then_some(name)
        }
        Expr::Comprehension(looped) => {
            let outer = scope.len();
            in_scope(&looped.iter_range, scope).or_else(|| in_scope(&looped.accu_init, scope)).or_else(|| {
                scope.extend([looped.iter_var.as_str(), looped.accu_var.as_str()]);
                scope.extend(looped.iter_var2.as_deref());
                let unknown = [&looped.loop_cond, &looped.loop_step, &looped.result]
                    .into_iter()
                    .find_map(|part| in_scope(part, scope));
                scope.truncate(outer);
                unknown
            })
        }
        other => parts(other).into_iter().find_map(|part| in_scope(part, scope)),
    }
}
