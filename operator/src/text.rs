//! Texts that others have written, within the bounds that conditions and events keep.

/// The mark of a text that was cut.
const CUT: char = '…';

/// The beginning of a text, of at most so many bytes.
pub fn truncated(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

/// The text in at most so many bytes; where it was cut, it says so.
pub fn shortened(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        let kept = truncated(&text, bytes.saturating_sub(CUT.len_utf8())).len();
        text.truncate(kept);
        text.push(CUT);
    }
    text
}

/// The text as one line of at most so many bytes, without characters that a terminal obeys instead of showing.
pub fn one_line(text: &str, bytes: usize) -> String {
    let shown = text.trim().chars().map(|char| if char.is_control() { ' ' } else { char });
    // Nothing beyond the bound is looked at, however long the text is.
    shortened(shown.take(bytes + 1).collect(), bytes)
}

/// The first `named` of many problems, each of at most so many bytes, and the number of the rest.
pub fn first_of(problems: &[String], named: usize, bytes: usize) -> String {
    let mut texts: Vec<_> = problems.iter().take(named).map(|text| shortened(text.clone(), bytes)).collect();
    match problems.len().saturating_sub(named) {
        0 => {}
        rest => texts.push(format!("and {rest} more")),
    }
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_says_so() {
        assert_eq!(shortened("short".into(), 5), "short");
        assert_eq!(shortened("ééééé".into(), 8), "éé…");
        assert_eq!(truncated("éé", 3), "é");
        assert_eq!(one_line(" a\nb\u{1b}c ", 10), "a b c");
    }

    #[test]
    fn of_many_problems_the_first_are_named_and_the_rest_counted() {
        let problems: Vec<_> = (0..600).map(|number| format!("{number} {}", "x".repeat(9000))).collect();
        let text = first_of(&problems, 5, 100);
        assert!(text.len() < 600 && text.ends_with("…; and 595 more"), "{text}");
        assert_eq!(first_of(&["one".into(), "two".into()], 5, 100), "one; two");
    }
}
