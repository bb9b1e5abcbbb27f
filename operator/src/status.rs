//! The status of a route: its [`conditions`], which of them [`changes`], and how they are [written](write).

pub mod changes;
pub mod conditions;
pub mod write;

#[cfg(test)]
mod documents;
