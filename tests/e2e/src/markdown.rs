//! The fenced blocks of a page.

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What the fence names, such as `sh`; empty where it names nothing.
    pub language: String,
    /// Its lines.
    pub text: String,
    /// Whether it begins right after the end of another block.
    pub follows: bool,
}

/// All blocks, in their order.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_open = false;
    let mut follows = false;
    for line in page.lines() {
        match (line.strip_prefix("```"), is_open) {
            (Some(language), false) => {
                blocks.push(Block { language: language.to_owned(), text: String::new(), follows });
                is_open = true;
            }
            (Some(_), true) => is_open = false,
            (None, true) => {
                if let Some(block) = blocks.last_mut() {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
            }
            (None, false) => {}
        }
        follows = line.starts_with("```");
    }
    blocks
}

/// The targets of all links.
pub fn links(page: &str) -> impl Iterator<Item = &str> {
    page.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_apart_by_language_and_place() {
        let page = "a\n```sh\nls\nls -l\n```\n```text\nb\n```\n\n```\nc\n```\n";
        let block = |language: &str, text: &str, follows| Block {
            language: language.into(),
            text: text.into(),
            follows,
        };
        assert_eq!(
            blocks(page),
            [block("sh", "ls\nls -l\n", false), block("text", "b\n", true), block("", "c\n", false)]
        );
    }

    #[test]
    fn links_are_found_with_their_anchors() {
        let page = "[a](b.md#c), ![d](e.png) and (f) [g]";
        assert_eq!(links(page).collect::<Vec<_>>(), ["b.md#c", "e.png"]);
    }
}
