//! A text of a template: written out, or what CloudFormation makes of a function.

use serde::Serialize;

/// A text.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Text {
    /// Written out.
    Literal(String),
    /// The value of a parameter, or what a resource is known by.
    Ref {
        #[serde(rename = "Ref")]
        logical_id: &'static str,
    },
    /// An attribute of a resource.
    GetAtt {
        #[serde(rename = "Fn::GetAtt")]
        attribute: [&'static str; 2],
    },
    /// A text in which `${NAME}` stands for what `Ref` gives.
    Sub {
        #[serde(rename = "Fn::Sub")]
        text: String,
    },
}

impl Text {
    /// The value of a parameter, or what a resource is known by.
    pub(super) fn reference(logical_id: &'static str) -> Self {
        Self::Ref { logical_id }
    }

    /// An attribute of a resource.
    pub(super) fn attribute(logical_id: &'static str, name: &'static str) -> Self {
        Self::GetAtt { attribute: [logical_id, name] }
    }

    /// A text with `${NAME}` in it.
    pub(super) fn sub(text: String) -> Self {
        Self::Sub { text }
    }
}
