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

/// What other languages write, and what CEL has for it.
const OTHER_LANGUAGES: [(&str, &str); 5] =
    [("`and`", "&&"), ("`or`", "||"), ("`not`", "!"), ("`&`", "&&"), ("`|`", "||")];

/// The first error in `source`.
pub(super) fn describe(source: &str, errors: &ParseErrors) -> String {
    // Of one mistake the parser also says what it could not make of the expression because of it.
    let is_syntax = |error: &&ParseError| error.pos.0 > 0 && error.msg.starts_with(PREFIX);
    let first = errors.errors.iter().filter(is_syntax).min_by_key(|error| error.pos);
    let Some(error) = first.or(errors.errors.first()) else { return "it cannot be parsed".to_owned() };
    let words = words(source, error);
    let meant =
        match OTHER_LANGUAGES.iter().find(|(token, _)| words.starts_with(&format!("unexpected {token}"))) {
            Some((_, operator)) => Some(*operator),
            None => has_single_equals(source).then_some("=="),
        };
    let hint = meant.map(|operator| format!("; did you mean {operator}?")).unwrap_or_default();
    format!("{}{words}{hint}", place(source, error))
}

fn place(source: &str, error: &ParseError) -> String {
    match error.pos {
        (line, column) if line > 0 && source.trim_end().contains('\n') => {
            format!("line {line}, column {column}: ")
        }
        (line, column) if line > 0 => format!("column {column}: "),
        _ => String::new(),
    }
}

fn words(source: &str, error: &ParseError) -> String {
    let message = error.msg.split_whitespace().collect::<Vec<_>>().join(" ");
    let message = message.strip_prefix(PREFIX).unwrap_or(&message);
    if let Some(token) = message.strip_prefix("token recognition error at: ") {
        return format!("unexpected {}", named(token));
    }
    if let Some(token) = message.strip_prefix("no viable alternative at input ") {
        let token = if is_behind(source, error) { END } else { token };
        return format!("unexpected {}, expected a value", named(token));
    }
    let unexpected = ["mismatched input ", "extraneous input "];
    let unexpected = unexpected.iter().find_map(|prefix| message.strip_prefix(prefix));
    if let Some((token, expected)) = unexpected.and_then(|rest| rest.split_once(" expecting ")) {
        return format!("unexpected {}, expected {}", named(token), expectation(expected));
    }
    if let Some((missing, token)) = message.strip_prefix("missing ").and_then(|rest| rest.split_once(" at "))
    {
        return format!("unexpected {}, expected {}", named(token), named(missing));
    }
    message.to_owned()
}

/// Whether the error is behind the last character of its line.
fn is_behind(source: &str, error: &ParseError) -> bool {
    let line = usize::try_from(error.pos.0 - 1).ok().and_then(|line| source.lines().nth(line));
    let column = usize::try_from(error.pos.1).unwrap_or_default();
    line.is_none_or(|line| column > line.chars().count())
}

/// A token as it is written; the parser puts it in quotes, which a text has of its own.
fn named(token: &str) -> String {
    match token {
        END | "<EOF>" => "end".to_owned(),
        token => match token.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
            Some(written) => format!("`{}`", written.trim()),
            None => token.to_owned(),
        },
    }
}

/// The set of tokens in words: where a value may begin, or else where it may go on.
fn expectation(expected: &str) -> String {
    let set = expected.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let Some(set) = set else { return named(expected) };
    let tokens: Vec<_> = set.split(", ").collect();
    let has = |token: &str| tokens.contains(&token);
    if has("IDENTIFIER") && has("NUM_INT") {
        return "a value".to_owned();
    }
    if has("'=='") || has("'&&'") {
        let closing = ["')'", "']'", "'}'"].into_iter().find(|token| has(token));
        return format!("an operator or {}", closing.map_or_else(|| "end".to_owned(), named));
    }
    match tokens.len() {
        ..=LISTED => tokens.iter().map(|token| named(token)).collect::<Vec<_>>().join(" or "),
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
            ("attributes.presence = 'A'", "column 21: unexpected `=`; did you mean ==?"),
            ("(id == 'a'", "column 11: unexpected end, expected `)`"),
            ("id == 'a')", "column 10: unexpected `)`, expected end"),
            ("id 'a'", "column 4: unexpected `'a'`, expected end"),
            ("id == 'a", "column 7: unexpected `'a`"),
            (
                "id == 'a' and source == 'b'",
                "column 11: unexpected `and`, expected an operator or end; did you mean &&?",
            ),
            ("id.exists(1, true)", "column 11: argument must be a simple name"),
            ("[id, ", "column 6: unexpected end, expected `]`"),
            ("{'a' 1}", "column 6: unexpected `1`, expected `:`"),
            ("id == 'a' &&\n  source == ", "line 2, column 13: unexpected end, expected a value"),
            ("id.", "column 4: unexpected end, expected a value"),
            ("", "column 1: unexpected end, expected a value"),
            ("if == 1", "column 1: reserved identifier: if"),
        ];
        for (source, expected) in table {
            assert_eq!(cause(source), expected, "{source}");
        }
    }

    #[test]
    fn no_error_has_the_parsers_drawing_or_list_of_tokens() {
        let broken = [
            "a ? b",
            "id == 'a' & true",
            "id | 1",
            "((((",
            "}{",
            "id[",
            "a.b.c(",
            "1 2 3",
            "!",
            "has(",
            "\u{1f600}",
        ];
        for source in broken {
            let cause = cause(source);
            assert!(!cause.contains(['{', '^', '|']) || source.contains(['|', '{']), "{source}: {cause}");
            assert!(cause.starts_with("column ") && cause.len() < 120, "{source}: {cause}");
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
