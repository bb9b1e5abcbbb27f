//! An event as an expression sees it.

use std::collections::HashMap;
use std::sync::Arc;

use cel::objects::{Key, Map};
use cel::{Context, Value};
use serde_json::Value as Json;

use super::ENVIRONMENT;
use super::bounds::Extent;

/// An event's fields as an expression sees them. Made once for an event, used by every route.
pub struct Variables {
    pub(super) context: Context<'static, 'static>,
    pub(super) extent: Extent,
}

impl Variables {
    /// Takes the fields of one event. A field that the event lacks is empty: "" or 0 or {}.
    pub fn new(
        id: &str,
        event_type: &str,
        timestamp: i64,
        source: &str,
        subject: &str,
        attributes: &Json,
    ) -> Self {
        let mut extent = Extent::default();
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        for (name, text) in [("id", id), ("eventType", event_type), ("source", source), ("subject", subject)]
        {
            extent.add_text(text);
            context.add_variable_from_value(name, text.to_owned());
        }
        context.add_variable_from_value("timestamp", timestamp);
        context.add_variable_from_value("attributes", value(attributes, &mut extent));
        Self { context, extent }
    }
}

/// A JSON value as CEL has it, and is used to it from Kubernetes: a whole number is an `int`, so that it can be added to
/// one that is written in an expression.
fn value(json: &Json, extent: &mut Extent) -> Value {
    extent.add_value();
    match json {
        Json::Null => Value::Null,
        Json::Bool(bool) => Value::Bool(*bool),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::UInt(number),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => {
            extent.add_text(text);
            Value::String(Arc::new(text.clone()))
        }
        Json::Array(items) => Value::List(Arc::new(items.iter().map(|item| value(item, extent)).collect())),
        Json::Object(fields) => {
            let fields: HashMap<Key, Value> = fields
                .iter()
                .map(|(name, field)| {
                    extent.add_text(name);
                    (Key::String(Arc::new(name.clone())), value(field, extent))
                })
                .collect();
            Value::Map(Map { map: Arc::new(fields) })
        }
    }
}
