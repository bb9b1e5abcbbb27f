//! Where in an object something is: `spec.routes[0].topic`.

use std::fmt;

/// The way from an object's root to one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Step {
    Name(String),
    Index(usize),
}

impl FieldPath {
    /// Reads a path as it is written; an index is in brackets, and so is a name that has a dot.
    pub fn parse(text: &str) -> Self {
        let mut path = Self::default();
        let mut rest = text;
        while !rest.is_empty() {
            let (step, left) = match rest.strip_prefix('[') {
                Some(inside) => inside.split_once(']').unwrap_or((inside, "")),
                None => {
                    let named = rest.strip_prefix('.').unwrap_or(rest);
                    named.split_at(named.find(['.', '[']).unwrap_or(named.len()))
                }
            };
            path = match step.parse() {
                Ok(index) if rest.starts_with('[') => path.item(index),
                _ => path.child(step),
            };
            rest = left;
        }
        path
    }

    /// The field `name` of the object here.
    pub fn child(&self, name: &str) -> Self {
        self.with(Step::Name(name.to_owned()))
    }

    /// The item `index`, from 0, of the list here.
    pub fn item(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    /// What this is a field or an item of; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let (_, before) = self.0.split_last()?;
        Some(Self(before.to_vec()))
    }

    /// The way from `root` to here; `None` when this is not in it.
    pub fn below(&self, root: &Self) -> Option<Self> {
        Some(Self(self.0.strip_prefix(root.0.as_slice())?.to_vec()))
    }

    fn with(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(formatter, "[{index}]")?,
                Step::Name(name) if name.contains(['.', '[', ']', '/']) => write!(formatter, "[{name}]")?,
                Step::Name(name) if position == 0 => formatter.write_str(name)?,
                Step::Name(name) => write!(formatter, ".{name}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_being_written_and_read() {
        for text in
            ["", "spec", "spec.routes[0].topic", "spec.kafka.properties[compression.type]", "a[1][2].b"]
        {
            assert_eq!(FieldPath::parse(text).to_string(), text);
        }
        let made = FieldPath::default().child("spec").child("routes").item(3);
        assert_eq!(FieldPath::parse("spec.routes[3]"), made);
        assert_eq!(made.parent(), Some(FieldPath::parse("spec.routes")));
    }
}
