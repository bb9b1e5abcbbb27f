//! W3C Trace Context: the trace that a request belongs to, which its record continues.

use std::collections::BTreeMap;

/// W3C trace context. `tracestate` comes only together with `traceparent`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trace<'a> {
    pub parent: Option<&'a str>,
    pub state: Option<&'a str>,
}

/// The same, owned: the request's head, which keeps the memory that it was read into, can be dropped.
#[derive(Clone, Debug, Default)]
pub struct TraceHeaders {
    parent: Option<Box<str>>,
    state: Option<Box<str>>,
}

impl TraceHeaders {
    /// Copies a request's trace context as [`Trace::from_headers`] reads it.
    pub fn of(headers: &http::HeaderMap) -> Self {
        let Trace { parent, state } = Trace::from_headers(headers);
        Self { parent: parent.map(Box::from), state: state.map(Box::from) }
    }

    /// Takes the trace context of a Kafka record's headers where it is well-formed.
    pub fn of_record(headers: &BTreeMap<String, String>) -> Self {
        let text = |name: &str| headers.get(name).map(String::as_str);
        let Trace { parent, state } = Trace::new(text("traceparent"), text("tracestate"));
        Self { parent: parent.map(Box::from), state: state.map(Box::from) }
    }

    /// The trace context that was copied.
    pub fn as_trace(&self) -> Trace<'_> {
        Trace { parent: self.parent.as_deref(), state: self.state.as_deref() }
    }
}

impl<'a> Trace<'a> {
    /// Reads a request's trace context where it is well-formed, as far as W3C asks a reader to check.
    pub fn from_headers(headers: &'a http::HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        Self::new(text("traceparent"), text("tracestate"))
    }

    fn new(parent: Option<&'a str>, state: Option<&'a str>) -> Self {
        let Some(parent) = parent.filter(|parent| is_traceparent(parent)) else { return Self::default() };
        Self { parent: Some(parent), state: state.filter(|state| state.len() <= 512) }
    }

    /// The id of the whole trace, 32 hexadecimal digits.
    pub fn id(self) -> Option<&'a str> {
        self.parent?.split('-').nth(1)
    }
}

/// `VERSION-TRACE-PARENT-FLAGS` in lowercase hexadecimal, none of the ids zero.
fn is_traceparent(text: &str) -> bool {
    let lengths = [2, 32, 16, 2];
    let parts: Vec<&str> = text.split('-').collect();
    let is_hex = |part: &&str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    parts.len() == lengths.len()
        && parts.iter().map(|part| part.len()).eq(lengths)
        && parts.iter().all(is_hex)
        && parts[0] != "ff"
        && !is_zero(parts[1])
        && !is_zero(parts[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_well_formed_trace_context_is_passed_on() {
        let trace = |parent: &str, state: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert("traceparent", parent.parse().unwrap());
            headers.insert("tracestate", state.parse().unwrap());
            let trace = Trace::from_headers(&headers);
            (trace.parent.map(str::to_owned), trace.state.map(str::to_owned))
        };
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(trace(good, "a=1"), (Some(good.into()), Some("a=1".into())));
        for bad in
            ["", "00-0-0-01", &good.to_uppercase(), &good.replace("b7ad6b7169203331", "0000000000000000")]
        {
            assert_eq!(trace(bad, "a=1"), (None, None), "{bad}");
        }
    }
}
