//! `when`: the CEL condition of a route.
//!
//! It compiles only what can be evaluated on every event at a bounded cost: known variables, and no loop inside a
//! loop, so that the work is at most the expression's length times the event's size. What an expression costs and
//! answers on one event is its caller's to count.

use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::{Context, Env, Program, Value};
use serde::{Deserialize, Serialize};

/// The names that an expression can use.
pub const VARIABLES: [&str; 5] = ["id", "eventType", "timestamp", "source", "attributes"];

/// The longest expression, in bytes.
pub const MAX_LENGTH: usize = 2048;

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled condition. It serialises as its source.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct When {
    source: String,
    program: Arc<Program>,
}

/// Why an expression does not compile.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum WhenError {
    /// Longer than [`MAX_LENGTH`].
    #[error("the CEL expression has {0} bytes; shorten it to at most {MAX_LENGTH}")]
    TooLong(usize),
    /// Not CEL.
    #[error("`{source_text}` is not a CEL expression: {cause}")]
    Syntax {
        /// The expression.
        source_text: String,
        /// What the parser says of it.
        cause: String,
    },
    /// A name that no event has.
    #[error(
        "`{source_text}` uses `{name}`, which is unknown; use id, eventType, timestamp, source or attributes"
    )]
    UnknownVariable {
        /// The expression.
        source_text: String,
        /// The name.
        name: String,
    },
    /// A function that CEL's standard library does not have.
    #[error("`{source_text}` calls `{name}`, which is unknown; use the functions of CEL's standard library")]
    UnknownFunction {
        /// The expression.
        source_text: String,
        /// The name.
        name: String,
    },
    /// A macro inside a macro.
    #[error(
        "`{0}` has a loop (all, exists, map, filter) inside a loop, whose cost has no bound; write it with one"
    )]
    NestedLoop(String),
}

/// Why an expression has no answer for one event. It never holds a part of the event.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum EvaluationError {
    /// An attribute that is not there, or a type that does not fit. `has(attributes.x)` asks first.
    #[error("the expression failed on this event, for instance because an attribute is missing")]
    Failed,
    /// An answer that is neither true nor false.
    #[error("the expression's answer is not a boolean")]
    NotBoolean,
}

impl When {
    /// Compiles an expression.
    pub fn compile(source: &str) -> Result<Self, WhenError> {
        if source.len() > MAX_LENGTH {
            return Err(WhenError::TooLong(source.len()));
        }
        let program = ENVIRONMENT.compile(source).map_err(|cause| WhenError::Syntax {
            source_text: source.into(),
            cause: cause.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
        })?;
        refuse_unknown_names(source, &program)?;
        if loop_depth(program.expression()) > 1 {
            return Err(WhenError::NestedLoop(source.into()));
        }
        Ok(Self { source: source.into(), program: Arc::new(program) })
    }

    /// The expression as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the event that `variables` were made from fulfils the condition.
    pub fn matches(&self, variables: &Variables) -> Result<bool, EvaluationError> {
        match self.program.execute(&variables.0) {
            Ok(Value::Bool(answer)) => Ok(answer),
            Ok(_) => Err(EvaluationError::NotBoolean),
            Err(_) => Err(EvaluationError::Failed),
        }
    }

    /// Why the condition has no answer for an event, in CEL's words, which may hold parts of the event: for whoever
    /// has the event before them, not for a log. `None` when it has one.
    pub fn failure(&self, variables: &Variables) -> Option<String> {
        match self.program.execute(&variables.0) {
            Ok(Value::Bool(_)) => None,
            Ok(_) => Some(EvaluationError::NotBoolean.to_string()),
            Err(cause) => Some(cause.to_string()),
        }
    }
}

impl PartialEq for When {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Debug for When {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "When({:?})", self.source)
    }
}

impl TryFrom<String> for When {
    type Error = WhenError;

    fn try_from(source: String) -> Result<Self, Self::Error> {
        Self::compile(&source)
    }
}

impl From<When> for String {
    fn from(when: When) -> Self {
        when.source
    }
}

/// An event's fields as an expression sees them. Made once for an event, used by every route.
pub struct Variables(Context<'static, 'static>);

impl Variables {
    /// Takes the fields of one event. A field that the event lacks is empty: "" or 0 or {}.
    pub fn new(
        id: &str,
        event_type: &str,
        timestamp: i64,
        source: &str,
        attributes: &impl Serialize,
    ) -> Result<Self, EvaluationError> {
        let attributes = cel::to_value(attributes).map_err(|_| EvaluationError::Failed)?;
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context.add_variable_from_value("id", id.to_owned());
        context.add_variable_from_value("eventType", event_type.to_owned());
        context.add_variable_from_value("timestamp", timestamp);
        context.add_variable_from_value("source", source.to_owned());
        context.add_variable_from_value("attributes", attributes);
        Ok(Self(context))
    }
}

fn refuse_unknown_names(source: &str, program: &Program) -> Result<(), WhenError> {
    let mut scope = Vec::new();
    match first_unknown_variable(program.expression(), &mut scope) {
        Some(name) => Err(WhenError::UnknownVariable { source_text: source.into(), name }),
        None => Ok(()),
    }
}

/// Walks the expression with the variables that the macros around it have introduced.
fn first_unknown_variable(expression: &IdedExpr, scope: &mut Vec<String>) -> Option<String> {
    match &expression.expr {
        Expr::Ident(name) => {
            // A leading dot means the outermost scope; type names such as `string` are values in CEL.
            let bare = name.trim_start_matches('.');
            let known =
                VARIABLES.contains(&bare) || TYPES.contains(&bare) || scope.iter().any(|local| local == name);
            (!known).then(|| name.clone())
        }
        Expr::Comprehension(comprehension) => {
            let outer = scope.len();
            first_unknown_variable(&comprehension.iter_range, scope)
                .or_else(|| first_unknown_variable(&comprehension.accu_init, scope))
                .or_else(|| {
                    scope.push(comprehension.iter_var.clone());
                    scope.extend(comprehension.iter_var2.clone());
                    scope.push(comprehension.accu_var.clone());
                    let unknown = [&comprehension.loop_cond, &comprehension.loop_step, &comprehension.result]
                        .into_iter()
                        .find_map(|part| first_unknown_variable(part, scope));
                    scope.truncate(outer);
                    unknown
                })
        }
        other => children(other).into_iter().find_map(|child| first_unknown_variable(child, scope)),
    }
}

/// The types that CEL's standard library names.
const TYPES: [&str; 11] =
    ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint", "duration"];

fn loop_depth(expression: &IdedExpr) -> usize {
    match &expression.expr {
        Expr::Comprehension(comprehension) => {
            let inside = [&comprehension.loop_cond, &comprehension.loop_step, &comprehension.result]
                .into_iter()
                .map(loop_depth)
                .max()
                .unwrap_or(0);
            // What is looped over is evaluated once, so a chain such as `filter(...).exists(...)` is not nested.
            (1 + inside).max(loop_depth(&comprehension.iter_range)).max(loop_depth(&comprehension.accu_init))
        }
        other => children(other).into_iter().map(loop_depth).max().unwrap_or(0),
    }
}

/// The direct parts of an expression that is not a comprehension.
fn children(expression: &Expr) -> Vec<&IdedExpr> {
    match expression {
        Expr::Call(call) => call.target.iter().map(AsRef::as_ref).chain(&call.args).collect(),
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Select(select) => vec![select.operand.as_ref()],
        Expr::Struct(structure) => {
            structure.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect()
        }
        Expr::Unspecified | Expr::Comprehension(_) | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

fn entry_parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::MapEntry(pair) => vec![&pair.key, &pair.value],
        EntryExpr::StructField(field) => vec![&field.value],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn available() -> Variables {
        let attributes = json!({"presence": "AVAILABLE", "queues": ["a", "b"], "load": 3});
        Variables::new("e-1", "presence:state:changed", 1_700_000_000_000, "genesys", &attributes).unwrap()
    }

    fn answer(expression: &str) -> Result<bool, EvaluationError> {
        When::compile(expression).unwrap().matches(&available())
    }

    #[test]
    fn sees_every_field_of_the_event() {
        assert_eq!(answer("attributes.presence == 'AVAILABLE'"), Ok(true));
        assert_eq!(
            answer("eventType.startsWith('presence:') && id == 'e-1' && source == 'genesys'"),
            Ok(true)
        );
        assert_eq!(answer("timestamp > 1800000000000"), Ok(false));
        assert_eq!(answer("attributes.load < 4"), Ok(true));
        assert_eq!(answer("attributes.queues.exists(q, q == 'b')"), Ok(true));
        assert_eq!(answer("source.matches('^gen.*s$')"), Ok(true));
    }

    #[test]
    fn a_missing_attribute_is_an_error_unless_it_is_asked_for_first() {
        assert_eq!(answer("attributes.mood == 'good'"), Err(EvaluationError::Failed));
        assert_eq!(answer("has(attributes.mood) && attributes.mood == 'good'"), Ok(false));
    }

    #[test]
    fn an_answer_that_is_no_boolean_is_an_error() {
        assert_eq!(answer("attributes.presence"), Err(EvaluationError::NotBoolean));
    }

    #[test]
    fn refuses_what_is_not_cel() {
        let error = When::compile("attributes.presence ==").unwrap_err();
        assert!(error.to_string().starts_with("`attributes.presence ==` is not a CEL expression"), "{error}");
    }

    #[test]
    fn refuses_a_name_that_no_event_has() {
        let error = When::compile("attribute.presence == 'AVAILABLE'").unwrap_err();
        assert!(
            matches!(error, WhenError::UnknownVariable { ref name, .. } if name == "attribute"),
            "{error}"
        );
        assert!(When::compile("attributes.queues.all(q, q != x)").is_err());
    }

    #[test]
    fn refuses_a_loop_inside_a_loop_and_takes_a_chain() {
        let nested = "attributes.queues.exists(a, attributes.queues.exists(b, a == b))";
        assert_eq!(When::compile(nested).unwrap_err(), WhenError::NestedLoop(nested.into()));
        assert_eq!(answer("attributes.queues.filter(q, q != 'a').exists(q, q == 'b')"), Ok(true));
    }

    #[test]
    fn refuses_an_expression_that_is_too_long() {
        assert_eq!(
            When::compile(&"x".repeat(MAX_LENGTH + 1)).unwrap_err(),
            WhenError::TooLong(MAX_LENGTH + 1)
        );
    }
}
