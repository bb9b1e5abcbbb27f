//! The receipt for a sender that asks: where Kafka has its event.
//!
//! A sender asks by a `Prefer` header (RFC 7240) with [`PREFERENCE`]. Genesys Cloud does not, and gets a body without
//! records.

use serde::{Deserialize, Serialize};

/// What the `Prefer` header of a request holds, and `Preference-Applied` of the answer then, too.
pub const PREFERENCE: &str = "return=representation";

/// The body of a 200 to a request that asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// `processed`; `filtered` for an event that no condition of its routes holds for.
    pub status: String,
    /// A record for each topic that has the event; none when the table drops or filters it.
    pub records: Vec<ReceiptRecord>,
}

/// A topic that has acknowledged the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptRecord {
    /// The topic.
    pub topic: String,
    /// Its partition. Absent, together with the offset, when the same event was acknowledged earlier: the dedupe
    /// window has no positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// The record's offset in the partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
}

impl Default for Receipt {
    fn default() -> Self {
        Self { status: "processed".into(), records: Vec::new() }
    }
}
