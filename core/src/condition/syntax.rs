//! What is wrong with an expression that is not CEL, in one line: where, what is there, and what was expected.
//!
//! The parser draws the expression with a mark below it and lists every token that its grammar would take. A condition of
//! a status, and a line of `validate`, have room for neither.

use cel::{ParseError, ParseErrors};

/// What the parser says of a token.
const PREFIX: &str = "Syntax error: ";
/// How it calls the end.
const END: &str = "'<EOF>'";
/// How many expected tokens are listed as they are.
const LISTED: usize = 4;

/// The first error in `source`.
pub(super) fn describe(source: &str, errors: &ParseErrors) -> String {
    let placed = errors.errors.iter().filter(|error| error.pos.0 > 0).min_by_key(|error| error.pos);
    let Some(error) = placed.or(errors.errors.first()) else { return "it cannot be parsed".to_owned() };
    let hint = if has_single_equals(source) { "; did you mean ==?" } else { "" };
    format!("{}{}{hint}", place(source, error), words(error))
}

fn place(source: &str, error: &ParseError) -> String {
    match error.pos {
        (line, column) if line > 0 && source.trim_end().contains('\n') => format!("line {line}, column {column}: "),
        (line, column) if line > 0 => format!("column {column}: "),
        _ => String::new(),
    }
}

fn words(error: &ParseError) -> String {
    let message = error.msg.split_whitespace().collect::<Vec<_>>().join(" ");
    let message = message.strip_prefix(PREFIX).unwrap_or(&message);
    if let Some(token) = message.strip_prefix("token recognition error at: ") {
        return format!("unexpected {}", token.trim());
    }
    if let Some(token) = message.strip_prefix("no viable alternative at input ") {
        return format!("unexpected {}, expected a value", named(token));
    }
    let unexpected = ["mismatched input ", "extraneous input "];
    let unexpected = unexpected.iter().find_map(|prefix| message.strip_prefix(prefix));
    if let Some((token, expected)) = unexpected.and_then(|rest| rest.split_once(" expecting ")) {
        return format!("unexpected {}, expected {}", named(token), expectation(expected));
    }
    if let Some((missing, token)) = message.strip_prefix("missing ").and_then(|rest| rest.split_once(" at ")) {
        return format!("unexpected {}, expected {missing}", named(token));
    }
    message.to_owned()
}

fn named(token: &str) -> String {
    if token == END { "end".to_owned() } else { token.to_owned() }
}

/// The set of tokens in words: where a value may begin, or else where it may go on.
fn expectation(expected: &str) -> String {
    let set = expected.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let Some(set) = set else { return named(&expected.replace("<EOF>", END)) };
    let tokens: Vec<_> = set.split(", ").collect();
    let has = |token: &str| tokens.contains(&token);
    if has("IDENTIFIER") && has("NUM_INT") {
        return "a value".to_owned();
    }
    if has("'=='") || has("'&&'") {
        let closing: Vec<_> = ["')'", "']'", "'}'", "','"].into_iter().filter(|token| has(token)).collect();
        return match closing.as_slice() {
            [] => "an operator or the end".to_owned(),
            closing => format!("an operator or {}", closing.join(", ")),
        };
    }
    match tokens.len() {
        ..=LISTED => tokens.iter().map(|token| token.replace("<EOF>", "the end")).collect::<Vec<_>>().join(", "),
        _ => "something else".to_owned(),
    }
}

/// Whether there is a `=` outside of quotes that belongs to no operator of CEL: what is written where `==` is meant.
fn has_single_equals(source: &str) -> bool {
    let mut quote = None;
    let mut before = ' ';
    let mut characters = source.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, '\'' | '"') => quote = Some(character),
            (Some(_), '\\') => {
                characters.next();
            }
            (Some(open), character) if open == character => quote = None,
            (None, '=') if !"=!<>".contains(before) && characters.peek() != Some(&'=') => return true,
            _ => {}
        }
        before = character;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::condition::{Condition, ConditionError};

    fn cause(source: &str) -> String {
        match Condition::compile(source).unwrap_err() {
            ConditionError::Syntax { cause, .. } => cause,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn an_error_says_where_it_is_and_what_was_expected() {
        let table = [
            ("attributes.presence ==", "column 23: unexpected end, expected a value"),
            ("attributes.presence = 'A'", "column 21: unexpected '= ', did you mean ==?"),
            ("(id == 'a'", "?"),
            ("id == 'a')", "?"),
            ("id 'a'", "?"),
            ("id == 'a", "?"),
            ("id == 'a' and source == 'b'", "?"),
            ("id.exists(1, true)", "?"),
            ("[id, ", "?"),
            ("{'a' 1}", "?"),
            ("id == 'a' &&\n  source == ", "?"),
            ("a ? b", "?"),
            ("id.", "?"),
            ("", "?"),
            ("if == 1", "?"),
        ];
        for (source, expected) in table {
            println!("{source:?} => {:?} wanted {expected:?}", cause(source));
        }
    }

    #[test]
    fn a_single_equals_sign_is_pointed_out() {
        for (expression, is_hinted) in [
            ("attributes.presence = 'AVAILABLE'", true),
            ("id == 'a' && source='b'", true),
            ("id == 'a=b' &&", false),
            ("id == 'a\\'=b' &&", false),
            ("timestamp >= 1 && id != 'a' && timestamp <= 3 &&", false),
        ] {
            let error = cause(expression);
            assert_eq!(error.contains("did you mean ==?"), is_hinted, "{error}");
        }
    }
}
