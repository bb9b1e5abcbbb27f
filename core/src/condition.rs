//! `when`: the CEL condition of a route.
//!
//! A relay serves all its senders on one thread, so no event may keep it: an expression compiles only if its work on
//! any event is bounded by the two sizes (loops do not nest, nothing grows from step to step, patterns are compiled
//! with it), and one that loops is tried on events of a moderate size alone. What an expression answers on one event,
//! or that it has no answer, is its caller's to count.

mod bounds;
mod budget;
mod checked;
mod names;
mod pattern;
mod syntax;
mod variables;
mod walk;

use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::common::ast::IdedExpr;
use cel::{Env, ExecutionError, Value};
use serde::Serialize;

use bounds::Unbounded;
pub use bounds::{MAX_LOOP_TEXT, MAX_LOOP_VALUES};
pub use budget::{
    Budget, MAX_TABLE_COMPLEXITY, MAX_TABLE_LENGTH, MAX_TABLE_PATTERN_BYTES, MAX_TABLE_PATTERNS,
};
pub use checked::{CheckedCondition, ConditionChecks};
pub use names::VARIABLES;
use pattern::{PatternError, Patterns};
pub use variables::Variables;

/// The longest expression, in bytes.
pub const MAX_LENGTH: usize = 2048;

/// How many opening brackets an expression may have, and so how deep the parser may go.
const MAX_BRACKETS: usize = 200;

/// How deep parts of an expression may be inside each other, and so how deep the interpreter goes.
const MAX_DEPTH: usize = 32;

/// The stack that parsing [`MAX_BRACKETS`] takes, in bytes, three times over where nothing is optimised. Only what is used
/// of it takes memory.
const PARSER_STACK: usize = 64 << 20;

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut environment = Env::stdlib();
    // It cannot fail: CEL has no such type. Without it, no pattern would match, which the tests would say.
    let declared = pattern::declare(&mut environment);
    debug_assert_eq!(declared, Ok(()));
    Arc::new(environment)
});

/// A compiled condition. It serialises as its source.
#[derive(Clone, Serialize)]
#[serde(into = "String")]
pub struct Condition {
    source: String,
    compiled: Arc<Compiled>,
}

struct Compiled {
    expression: IdedExpr,
    patterns: Patterns,
    loops: bool,
}

/// Why an expression does not compile.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
pub enum ConditionError {
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
        "`{source_text}` uses `{name}`, which is unknown; use id, eventType, timestamp, source, subject or attributes"
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
    /// Beyond [`MAX_BRACKETS`] or [`MAX_DEPTH`].
    #[error(
        "`{0}` has more than {MAX_BRACKETS} brackets, or more than {MAX_DEPTH} parts inside each other; make several \
         routes of it, or use a list and `in`"
    )]
    TooDeep(String),
    /// The system has no thread to parse it on.
    #[error("a CEL expression cannot be looked at: {0}; give the program more threads or memory")]
    NoThread(String),
    /// A macro inside a macro.
    #[error(
        "`{0}` has a loop (all, exists, map, filter) inside a loop, whose cost has no bound; write it with one"
    )]
    NestedLoop(String),
    /// A sum that can be a text or a list.
    #[error(
        "`{0}` joins two values of the event by +, which can grow without a bound; for a sum of numbers write \
         double(a) + double(b), otherwise compare the values one by one"
    )]
    Joined(String),
    /// A list or map with values of the event in it.
    #[error(
        "`{0}` makes a list or a map of values of the event, which can grow without a bound; compare the values one \
         by one"
    )]
    Built(String),
    /// A pattern that is not known before the event is.
    #[error(
        "`{0}` calls matches with a pattern that is not a literal; write the pattern in quotes, so that it is \
         compiled once"
    )]
    PatternNotLiteral(String),
    /// The expressions of a table together are longer than [`MAX_TABLE_LENGTH`].
    #[error(
        "the CEL expressions of the table have more than {limit} KiB together; shorten them, or make several \
         PresenceRoutes of it",
        limit = MAX_TABLE_LENGTH >> 10
    )]
    TableTooLong,
    /// The expressions of a table together have more than [`MAX_TABLE_PATTERNS`].
    #[error(
        "the CEL expressions of the table call matches more than {MAX_TABLE_PATTERNS} times together; make one pattern \
         of several, (a|b), or use startsWith, contains or `in` for fixed text"
    )]
    TooManyPatterns,
    /// The patterns of a table together have more character classes than [`MAX_TABLE_COMPLEXITY`].
    #[error(
        "the patterns of the table's CEL expressions have too many character classes together, or too large ones with \
         (?i); write classes of ASCII ([A-Za-z0-9]) instead of (?i) with Unicode (\\w, \\pL)"
    )]
    PatternsTooComplex,
    /// The patterns of a table together need more than [`MAX_TABLE_PATTERN_BYTES`].
    #[error(
        "the patterns of the table's CEL expressions take more than {limit} MiB of memory together; write classes of \
         ASCII ([A-Za-z0-9]) instead of Unicode (\\w, \\pL), and smaller repetitions",
        limit = MAX_TABLE_PATTERN_BYTES >> 20
    )]
    PatternsTooLarge,
    /// A literal that is no pattern.
    #[error("`{source_text}` calls matches with a pattern that cannot be used: {cause}")]
    Pattern {
        /// The expression.
        source_text: String,
        /// What is wrong with the pattern.
        cause: String,
    },
}

impl ConditionError {
    /// How long the texts are that it holds, in bytes.
    fn text_bytes(&self) -> usize {
        match self {
            Self::Syntax { source_text, cause } | Self::Pattern { source_text, cause } => {
                source_text.len() + cause.len()
            }
            Self::UnknownVariable { source_text, name } | Self::UnknownFunction { source_text, name } => {
                source_text.len() + name.len()
            }
            Self::TooDeep(text)
            | Self::NoThread(text)
            | Self::NestedLoop(text)
            | Self::Joined(text)
            | Self::Built(text)
            | Self::PatternNotLiteral(text) => text.len(),
            Self::TooLong(_)
            | Self::TableTooLong
            | Self::TooManyPatterns
            | Self::PatternsTooComplex
            | Self::PatternsTooLarge => 0,
        }
    }

    /// Whether the table's budget is spent, so that no further condition can be compiled.
    #[must_use]
    pub fn is_over_budget(&self) -> bool {
        matches!(
            self,
            Self::TableTooLong | Self::TooManyPatterns | Self::PatternsTooComplex | Self::PatternsTooLarge
        )
    }
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
    /// A loop, and an event of more than [`MAX_LOOP_VALUES`] values or [`MAX_LOOP_TEXT`] bytes of text.
    #[error(
        "the expression has a loop, and the event more than {MAX_LOOP_VALUES} values or {MAX_LOOP_TEXT} bytes of text"
    )]
    TooLarge,
}

impl Condition {
    /// Compiles an expression that stands alone.
    #[cfg(test)]
    pub(crate) fn compile(source: &str) -> Result<Self, ConditionError> {
        Self::compile_within(source, &mut Budget::default())
    }

    /// Compiles an expression of a table, within what the others have left of its budget.
    pub fn compile_within(source: &str, budget: &mut Budget) -> Result<Self, ConditionError> {
        if source.len() > MAX_LENGTH {
            return Err(ConditionError::TooLong(source.len()));
        }
        budget.take_length(source.len())?;
        let mut expression = parse(source)?;
        if let Some(name) = names::first_unknown_variable(&expression) {
            return Err(ConditionError::UnknownVariable { source_text: source.into(), name: name.into() });
        }
        if let Some(name) = names::first_unknown_function(&expression) {
            return Err(ConditionError::UnknownFunction { source_text: source.into(), name: name.into() });
        }
        match bounds::first_unbounded(&expression) {
            Some(Unbounded::NestedLoop) => return Err(ConditionError::NestedLoop(source.into())),
            Some(Unbounded::Joined) => return Err(ConditionError::Joined(source.into())),
            Some(Unbounded::Built) => return Err(ConditionError::Built(source.into())),
            None => {}
        }
        let patterns = Patterns::take_from(&mut expression, budget).map_err(|error| match error {
            PatternError::Budget(error) => error,
            PatternError::NotLiteral => ConditionError::PatternNotLiteral(source.into()),
            PatternError::Invalid(cause) => {
                ConditionError::Pattern { source_text: source.into(), cause: one_line(&cause) }
            }
        })?;
        let loops = bounds::loop_depth(&expression) > 0;
        Ok(Self { source: source.into(), compiled: Arc::new(Compiled { expression, patterns, loops }) })
    }

    /// The expression as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the event that `variables` were made from fulfils the condition.
    pub fn matches(&self, variables: &Variables) -> Result<bool, EvaluationError> {
        self.evaluate(variables).map_err(|(error, _)| error)
    }

    /// Why the condition cannot be evaluated for an event, in CEL's words; `None` when it can. The words may hold parts of
    /// the event, so that they belong in an answer to its sender and in no log.
    pub fn failure(&self, variables: &Variables) -> Option<String> {
        let (error, cause) = self.evaluate(variables).err()?;
        Some(cause.map_or_else(|| error.to_string(), |cause| cause.to_string()))
    }

    fn evaluate(&self, variables: &Variables) -> Result<bool, (EvaluationError, Option<ExecutionError>)> {
        let Compiled { expression, patterns, loops } = self.compiled.as_ref();
        if *loops && !variables.extent.can_be_looped_over() {
            return Err((EvaluationError::TooLarge, None));
        }
        let answer = if patterns.is_empty() {
            Value::resolve(expression, &variables.context)
        } else {
            Value::resolve(expression, &patterns.beside(&variables.context))
        };
        match answer {
            Ok(Value::Bool(answer)) => Ok(answer),
            Ok(_) => Err((EvaluationError::NotBoolean, None)),
            Err(cause) => Err((EvaluationError::Failed, Some(cause))),
        }
    }
}

/// Parses on a stack of its own: the parser takes much of it for each bracket, and a thread whose stack ends takes the
/// whole process with it. What is too deep to be worked with ends on that stack, too.
fn parse(source: &str) -> Result<IdedExpr, ConditionError> {
    // The parser gathers an error for each of them, in quadratic time.
    if source.chars().any(|character| character.is_control() && !"\t\n\r".contains(character)) {
        let cause = "it has a control character; write it as an escape, such as \\u0000".to_owned();
        return Err(ConditionError::Syntax { source_text: source.escape_debug().to_string(), cause });
    }
    let brackets = source.bytes().filter(|byte| b"([{".contains(byte)).count();
    if brackets > MAX_BRACKETS {
        return Err(ConditionError::TooDeep(source.into()));
    }
    let parse = || {
        let parsed = ENVIRONMENT.parser().parse(source);
        let expression = parsed.map_err(|cause| ConditionError::Syntax {
            source_text: source.into(),
            cause: syntax::describe(source, &cause),
        })?;
        if walk::is_deeper_than(&expression, MAX_DEPTH) {
            return Err(ConditionError::TooDeep(source.into()));
        }
        Ok(expression)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("cel".into()).stack_size(PARSER_STACK);
        let parsing =
            thread.spawn_scoped(scope, parse).map_err(|cause| ConditionError::NoThread(cause.to_string()))?;
        parsing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn one_line(text: &impl ToString) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Condition({:?})", self.source)
    }
}

impl From<Condition> for String {
    fn from(condition: Condition) -> Self {
        condition.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::{Duration, Instant};

    fn available() -> Variables {
        let attributes = json!({"presence": "AVAILABLE", "queues": ["a", "b"], "load": 3});
        Variables::new("e-1", "presence:state:changed", 1_700_000_000_000, "genesys", "u-1", &attributes)
    }

    fn answer(expression: &str) -> Result<bool, EvaluationError> {
        Condition::compile(expression).unwrap().matches(&available())
    }

    #[test]
    fn sees_every_field_of_the_event() {
        assert_eq!(answer("attributes.presence == 'AVAILABLE'"), Ok(true));
        assert_eq!(
            answer(
                "eventType.startsWith('presence:') && id == 'e-1' && source == 'genesys' && subject == 'u-1'"
            ),
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
        let error = Condition::compile("attributes.presence ==").unwrap_err();
        assert!(error.to_string().starts_with("`attributes.presence ==` is not a CEL expression"), "{error}");
    }

    #[test]
    fn refuses_a_name_that_no_event_has() {
        let error = Condition::compile("attribute.presence == 'AVAILABLE'").unwrap_err();
        assert!(
            matches!(error, ConditionError::UnknownVariable { ref name, .. } if name == "attribute"),
            "{error}"
        );
        assert!(Condition::compile("attributes.queues.all(q, q != x)").is_err());
    }

    #[test]
    fn refuses_a_loop_inside_a_loop_and_takes_a_chain() {
        let nested = "attributes.queues.exists(a, attributes.queues.exists(b, a == b))";
        assert_eq!(Condition::compile(nested).unwrap_err(), ConditionError::NestedLoop(nested.into()));
        assert_eq!(answer("attributes.queues.filter(q, q != 'a').exists(q, q == 'b')"), Ok(true));
    }

    #[test]
    fn every_function_of_the_list_can_be_called() {
        let at = "timestamp('2026-11-26T12:30:45.250Z')";
        let calls = [
            "bool('true')".to_owned(),
            "bytes('a') == b'a' && string(b'a') == 'a'".into(),
            "'abc'.contains('b') && 'abc'.startsWith('a') && 'abc'.endsWith('c') && size('abc') == 3".into(),
            "double('1.5') > 1.0 && int('7') == 7 && uint('7') == 7u && dyn(7) == 7 && type(7) == int".into(),
            "duration('90s').getMinutes() == 1".into(),
            format!("{at}.getFullYear() == 2026 && {at}.getMonth() == 10 && {at}.getDate() == 26"),
            format!("{at}.getDayOfMonth() == 25 && {at}.getDayOfWeek() == 4 && {at}.getDayOfYear() == 329"),
            format!("{at}.getHours() == 12 && {at}.getMinutes() == 30 && {at}.getSeconds() == 45"),
            format!("{at}.getMilliseconds() == 250"),
            "attributes.?mood.orValue('none') == 'none' && !attributes.?mood.hasValue()".into(),
            "attributes.?presence.value() == 'AVAILABLE'".into(),
            "attributes.?mood.or(attributes.?presence).value() == 'AVAILABLE'".into(),
            "'a1'.matches('^[a-z][0-9]$') && matches('b', 'b')".into(),
        ];
        for call in &calls {
            assert_eq!(answer(call), Ok(true), "{call}");
        }
        let called = calls.concat();
        for function in names::FUNCTIONS {
            assert!(called.contains(&format!("{function}(")), "{function} is in the list and never called");
        }
    }

    #[test]
    fn refuses_a_function_that_cel_does_not_have() {
        let error = Condition::compile("attributes.presence.lowerAscii() == 'available'").unwrap_err();
        assert!(
            matches!(error, ConditionError::UnknownFunction { ref name, .. } if name == "lowerAscii"),
            "{error}"
        );
    }

    #[test]
    fn refuses_what_grows_from_step_to_step() {
        let joined = [
            "size(id + id) > 3".to_owned(),
            "attributes.a + attributes.b == 'ab'".into(),
            format!("size(attributes.queues{}) > 1", ".map(x, x + x)".repeat(20)),
            "attributes.queues.exists(q, q + attributes.presence == 'a')".into(),
            "(true ? id : source) + id == 'x'".into(),
        ];
        for expression in joined {
            assert_eq!(Condition::compile(&expression).unwrap_err(), ConditionError::Joined(expression));
        }
        let built = [
            format!("size(attributes.queues{}) > 1", ".map(x, [x, x])".repeat(20)),
            "attributes.queues.map(x, {'a': x, 'b': x}) == []".into(),
            "[attributes, attributes] == []".into(),
        ];
        for expression in built {
            assert_eq!(Condition::compile(&expression).unwrap_err(), ConditionError::Built(expression));
        }
    }

    #[test]
    fn takes_sums_of_numbers_and_lists_of_constants() {
        assert_eq!(answer("attributes.load + 1 == 4 && 1 + 2 + attributes.load == 6"), Ok(true));
        assert_eq!(answer("attributes.load - 4 < 0 && -attributes.load == -3"), Ok(true));
        assert_eq!(answer("int(attributes.load) + int(attributes.load) == 6"), Ok(true));
        assert_eq!(answer("size(attributes.queues) + size(attributes.presence) == 11"), Ok(true));
        assert_eq!(answer("attributes.presence in ['AVAILABLE', 'ON_QUEUE']"), Ok(true));
        assert_eq!(answer("attributes.queues.map(q, q + '!') == ['a' + '!', 'b!']"), Ok(true));
        assert_eq!(answer("attributes.queues.exists_one(q, q in ['a', 'c'])"), Ok(true));
    }

    #[test]
    fn a_pattern_is_a_literal_and_compiled_with_the_expression() {
        for expression in ["id.matches(source)", "matches(id, 'a' + 'b')", "id.matches(attributes.pattern)"] {
            assert_eq!(
                Condition::compile(expression).unwrap_err(),
                ConditionError::PatternNotLiteral(expression.into())
            );
        }
        let error = Condition::compile("id.matches('(')").unwrap_err().to_string();
        assert!(error.contains("unclosed group"), "{error}");
        let error = Condition::compile(r"id.matches('(\\w{100}){100}')").unwrap_err().to_string();
        assert!(error.contains("size limit"), "{error}");
        assert_eq!(answer("attributes.queues.all(q, q.matches('^[ab]$')) && !id.matches('^x')"), Ok(true));
    }

    #[test]
    fn a_loop_is_not_tried_on_an_event_that_is_too_large_for_it() {
        let on = |attributes: serde_json::Value, expression: &str| {
            let variables = Variables::new("e-1", "t", 0, "genesys", "", &attributes);
            Condition::compile(expression).unwrap().matches(&variables)
        };
        let any = "attributes.queues.exists(q, q == 'b')";
        // With the attributes and the list itself.
        let queues = |count: usize| json!({"queues": vec!["b"; count - 2]});
        assert_eq!(on(queues(MAX_LOOP_VALUES), any), Ok(true));
        assert_eq!(on(queues(MAX_LOOP_VALUES + 1), any), Err(EvaluationError::TooLarge));
        assert_eq!(on(queues(MAX_LOOP_VALUES + 1), "'b' in attributes.queues"), Ok(true));
        let text = |bytes: usize| json!({"queues": ["b", "x".repeat(bytes)]});
        assert_eq!(on(text(MAX_LOOP_TEXT - 100), any), Ok(true));
        assert_eq!(on(text(MAX_LOOP_TEXT), any), Err(EvaluationError::TooLarge));
    }

    /// The worst that an expression and an event can do to each other, as far as it is known. Unbounded, any of these
    /// would take hours.
    #[test]
    fn the_costliest_expressions_on_the_largest_events_end() {
        let repeated = |part: &str| vec![part; (MAX_LENGTH + 4) / (part.len() + 4)].join(" && ");
        let names: Vec<_> = (0..MAX_LOOP_VALUES - 3).map(|number| format!("{number:060}")).collect();
        let moderate = json!({"l": names, "t": "a"});
        let large = json!({"l": vec!["a"; 200_000], "t": "a".repeat(500_000)});
        let costly = [
            ("!attributes.l.exists(x, x + '!' in attributes.l)", &moderate),
            ("!attributes.t.matches('(a|b)*c')", &large),
            ("!('b' in attributes.l)", &large),
            ("attributes == attributes", &large),
        ];
        for (part, attributes) in costly {
            let when = Condition::compile(&repeated(part)).unwrap();
            let variables = Variables::new("e-1", "t", 0, "genesys", "", attributes);
            let begun = Instant::now();
            assert_eq!(when.matches(&variables), Ok(true), "{part}");
            assert!(begun.elapsed() < Duration::from_secs(60), "{part}: {:?}", begun.elapsed());
            println!("{part} took {:?}", begun.elapsed());
        }
    }

    /// On a thread with as little stack as one of the operator's, and unoptimised, which takes more.
    #[test]
    fn the_deepest_expression_overflows_no_stack() {
        let nested = |depth: usize, (open, inner, close): (&str, &str, &str)| {
            format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
        };
        for form in [
            ("(", "true", ")"),
            ("!", "true", ""),
            ("-", "1", ""),
            ("[", "", "]"),
            ("{1:", "1", "}"),
            ("id[", "0", "]"),
            ("size(", "id", ")"),
            ("true?", "true", ":true"),
            ("", "id", ".a"),
            ("", "id", "[0]"),
            ("", "true", "&&true"),
            ("", "1", "+1"),
            ("", "id", ".map(x,x)"),
            ("id.exists(x,", "true", ")"),
            ("has(id.a)&&(", "true", ")"),
            ("'(", "", "("),
        ] {
            let longest = (MAX_LENGTH - form.1.len()) / (form.0.len() + form.2.len());
            for depth in [MAX_DEPTH - 2, MAX_BRACKETS, longest] {
                if let Ok(when) = Condition::compile(&nested(depth, form)) {
                    let _ = when.matches(&available());
                }
            }
        }
        assert_eq!(answer(&nested(20, ("(", "true", ")"))), Ok(true));
        let deep = nested(MAX_DEPTH + 1, ("size([", "1", "])"));
        assert_eq!(Condition::compile(&deep).unwrap_err(), ConditionError::TooDeep(deep));
    }

    #[test]
    fn refuses_an_expression_that_is_too_long() {
        assert_eq!(
            Condition::compile(&"x".repeat(MAX_LENGTH + 1)).unwrap_err(),
            ConditionError::TooLong(MAX_LENGTH + 1)
        );
    }
}
