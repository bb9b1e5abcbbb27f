//! How much work it is to read a pattern, known before the work is done.
//!
//! A class such as `\pL` stands for thousands of characters, and `(?i)` looks at each of them, once for every level of
//! brackets around it. What a pattern becomes has a limit of its own.

use regex_syntax::ast::{self, Ast, ClassSetItem, Visitor};

/// How many characters `(?i)` looks at in the time that another class takes.
const FOLDED_PER_CLASS: usize = 4096;

/// How many characters a class of Unicode (`\pL`) may have.
const UNICODE_CLASS: usize = 1 << 17;

/// The complexity of a pattern: 1 for each of its classes, and more where `(?i)` is used.
pub(super) fn of(pattern: &Ast) -> usize {
    match ast::visit(pattern, Counter::default()) {
        Ok(complexity) => complexity,
        Err(never) => match never {},
    }
}

#[derive(Default)]
struct Counter {
    classes: usize,
    /// The characters of all classes.
    characters: usize,
    /// How many brackets and set operations are around what is visited, and at most.
    depth: usize,
    deepest: usize,
    ignores_case: bool,
}

impl Counter {
    fn class(&mut self, characters: usize) {
        self.classes += 1;
        self.characters = self.characters.saturating_add(characters);
    }

    fn enter(&mut self) {
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
    }

    fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    fn flags(&mut self, flags: &ast::Flags) {
        self.ignores_case |= flags.flag_state(ast::Flag::CaseInsensitive) == Some(true);
    }
}

impl Visitor for Counter {
    type Output = usize;
    type Err = std::convert::Infallible;

    fn finish(self) -> Result<usize, Self::Err> {
        let folded = if self.ignores_case { self.characters.saturating_mul(self.deepest.max(1)) } else { 0 };
        Ok(self.classes.saturating_add(folded / FOLDED_PER_CLASS))
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), Self::Err> {
        match ast {
            Ast::Flags(flags) => self.flags(&flags.flags),
            Ast::Group(group) => {
                if let Some(flags) = group.flags() {
                    self.flags(flags);
                }
            }
            Ast::ClassUnicode(_) => self.class(UNICODE_CLASS),
            Ast::ClassBracketed(_) => {
                self.class(0);
                self.enter();
            }
            // They are the same in either case.
            Ast::ClassPerl(_) | Ast::Dot(_) | Ast::Assertion(_) => self.class(0),
            Ast::Empty(_) | Ast::Literal(_) | Ast::Repetition(_) | Ast::Alternation(_) | Ast::Concat(_) => {}
        }
        Ok(())
    }

    fn visit_post(&mut self, ast: &Ast) -> Result<(), Self::Err> {
        if matches!(ast, Ast::ClassBracketed(_)) {
            self.leave();
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), Self::Err> {
        match item {
            ClassSetItem::Range(range) => {
                let (first, last) = (u32::from(range.start.c), u32::from(range.end.c));
                self.class(usize::try_from(last.saturating_sub(first)).unwrap_or(usize::MAX));
            }
            ClassSetItem::Unicode(_) => self.class(UNICODE_CLASS),
            ClassSetItem::Bracketed(_) => {
                self.class(0);
                self.enter();
            }
            ClassSetItem::Perl(_) => self.class(UNICODE_CLASS),
            ClassSetItem::Ascii(_) | ClassSetItem::Literal(_) => self.class(1),
            ClassSetItem::Empty(_) | ClassSetItem::Union(_) => {}
        }
        Ok(())
    }

    fn visit_class_set_item_post(&mut self, item: &ClassSetItem) -> Result<(), Self::Err> {
        if matches!(item, ClassSetItem::Bracketed(_)) {
            self.leave();
        }
        Ok(())
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ast::ClassSetBinaryOp) -> Result<(), Self::Err> {
        self.class(0);
        self.enter();
        Ok(())
    }

    fn visit_class_set_binary_op_post(&mut self, _: &ast::ClassSetBinaryOp) -> Result<(), Self::Err> {
        self.leave();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use regex_syntax::ast::parse::Parser;

    use super::*;

    fn complexity(pattern: &str) -> usize {
        of(&Parser::new().parse(pattern).unwrap())
    }

    #[test]
    fn what_people_write_is_simple() {
        for pattern in [
            "^agent-[0-9a-f]{8}$",
            r"(?i)^(available|busy|on[ _]queue)$",
            r"^\w+@\w+\.example$",
            "(?i)[a-z]+",
        ] {
            assert!(complexity(pattern) < 10, "{pattern}: {}", complexity(pattern));
        }
    }

    #[test]
    fn case_folding_counts_every_character_at_every_level() {
        let (plain, folded) = (complexity(r"\pL"), complexity(r"(?i)\pL"));
        assert_eq!((plain, folded), (1, 1 + UNICODE_CLASS / FOLDED_PER_CLASS));
        assert!(complexity(r"(?i)[[[\pLa]b]c]") > 3 * (folded - 1));
        assert!(complexity(r"(?i:[\pL&&[^a]])") > 2 * (folded - 1));
        assert!(complexity("(?i)[!-\u{10ffff}]") > 8 * (folded - 1));
        assert_eq!(complexity("[!-\u{10ffff}]"), 2);
    }
}
