//! Policy documents: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html>.

use std::collections::BTreeMap;

use serde::Serialize;

/// A policy of one statement. `T` is its texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PolicyDocument<T> {
    version: &'static str,
    statement: [Statement<T>; 1],
}

/// What is allowed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Statement<T> {
    sid: &'static str,
    effect: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<Principal<T>>,
    action: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<T>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    condition: BTreeMap<&'static str, BTreeMap<&'static str, T>>,
}

/// Who may.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) enum Principal<T> {
    /// A service of AWS.
    Service(&'static str),
    /// The holders of a token of this identity provider.
    Federated(T),
}

impl<T> PolicyDocument<T> {
    /// The policy with this statement.
    pub(super) fn of(statement: Statement<T>) -> Self {
        Self { version: "2012-10-17", statement: [statement] }
    }
}

impl<T> Statement<T> {
    /// Allows actions.
    pub(super) fn allow(sid: &'static str, action: impl Into<Vec<&'static str>>) -> Self {
        let (effect, condition) = ("Allow", BTreeMap::new());
        Self { sid, effect, principal: None, action: action.into(), resource: None, condition }
    }

    /// To this principal.
    pub(super) fn to(self, principal: Principal<T>) -> Self {
        Self { principal: Some(principal), ..self }
    }

    /// On this resource.
    pub(super) fn on(self, resource: T) -> Self {
        Self { resource: Some(resource), ..self }
    }

    /// While this is so, and what was said before.
    pub(super) fn when(mut self, operator: &'static str, key: &'static str, value: T) -> Self {
        self.condition.entry(operator).or_default().insert(key, value);
        self
    }
}
