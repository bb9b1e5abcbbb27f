//! String templates of Terraform: text in which `${…}` and `%{…}` are evaluated.

use serde::Serialize;

/// A string template.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct Template(String);

impl Template {
    /// A text that is taken as it is.
    pub(super) fn literal(text: &str) -> Self {
        Self(escaped(text))
    }

    /// The value of an expression, such as a reference.
    pub(super) fn of(expression: &str) -> Self {
        Self(format!("${{{expression}}}"))
    }

    /// A template as it is written in Terraform.
    pub(super) fn with(template: &str) -> Self {
        Self(template.to_owned())
    }
}

fn escaped(text: &str) -> String {
    text.replace("${", "$${").replace("%{", "%%{")
}

/// A JSON document that is made when Terraform evaluates it. Its texts are templates, and every JSON value is an
/// expression of Terraform.
pub(super) fn json(document: &impl Serialize) -> Result<Template, serde_json::Error> {
    Ok(Template::of(&format!("jsonencode({})", serde_json::to_string(document)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_is_never_evaluated() {
        assert_eq!(Template::literal("https://a/${b}?c=%{d}").0, "https://a/$${b}?c=%%{d}");
        assert_eq!(Template::of("var.a").0, "${var.a}");
    }
}
