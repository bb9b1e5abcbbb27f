//! Inputs that are costly by their length: too large to be kept as files, and said in a line each.

/// A name, what comes first, what is repeated and how often, and what comes last.
type Repeated = (&'static str, &'static str, &'static str, usize, &'static str);

const TABLES: &[Repeated] = &[
    ("a thousand routes", "version: 1\nroutes:\n", "- {eventType: a, topic: t, when: id == 'a'}\n", 1000, ""),
    (
        "a thousand faulty conditions",
        "version: 1\nroutes:\n",
        "- {eventType: a, topic: t, when: id ==}\n",
        1000,
        "",
    ),
    ("deep lists", "", "[", 20_000, ""),
    ("deep maps", "", "{a: ", 20_000, ""),
    ("deep block lists", "", "- ", 20_000, "a"),
    ("a long scalar", "a: ", "x", 1_000_000, ""),
    ("one key many times", "", "k: t\n", 1000, ""),
    ("many documents", "", "---\n", 20_000, ""),
    ("many anchors", "", "- &a t\n", 20_000, ""),
    ("many aliases", "- &a t\n", "- *a\n", 20_000, ""),
    ("many tags", "", "!!binary ", 2000, "a"),
    ("escapes", "a: \"", "\\x41", 100_000, "\""),
    ("an unclosed quote", "a: \"", "x\n", 50_000, ""),
    ("tabs", "", "\t", 50_000, ""),
    ("comments", "", "# \n", 50_000, ""),
];

const EVENTS: &[Repeated] = &[
    ("deep lists", r#"{"id":"1","eventType":"t","attributes":"#, "[", 400_000, ""),
    ("deep objects", r#"{"id":"1","eventType":"t","attributes":"#, r#"{"a":"#, 150_000, ""),
    ("empty lists", r#"{"id":"1","eventType":"t","attributes":["#, "[],", 340_000, "[]]}"),
    (
        "one name many times",
        r#"{"id":"1","eventType":"t","attributes":{"#,
        r#""a":{"b":"y"},"#,
        70_000,
        r#""a":{"b":"x"}}}"#,
    ),
    ("members at the top", r#"{"id":"1","eventType":"t""#, r#","a":1"#, 150_000, "}"),
    ("a long text", r#"{"id":"1","eventType":"t","attributes":{"a":{"b":""#, "x", 1_000_000, r#""}}}"#),
    ("escapes", r#"{"id":"1","eventType":"t","attributes":{"a":{"b":""#, "\\u0041", 170_000, r#""}}}"#),
    (
        "half surrogates",
        r#"{"id":"1","eventType":"t","attributes":{"a":{"b":""#,
        "\\ud83d",
        170_000,
        r#""}}}"#,
    ),
    ("quotes", r#"{"id":"1","eventType":"t","attributes":{"a":{"b":""#, "\\\"", 500_000, r#""}}}"#),
    ("a long number", r#"{"id":"1","eventType":"t","attributes":{"a":{"b":"#, "9", 1_000_000, "}}}"),
    ("white space", "", " ", 1_000_000, r#"{"id":"1","eventType":"t"}"#),
    ("a long type", r#"{"id":"1","eventType":""#, "a:", 250_000, r#""}"#),
    ("a timestamp of many digits", r#"{"id":"1","eventType":"t","timestamp":1."#, "0", 900_000, "e3}"),
];

const ENVELOPES: &[Repeated] = &[
    ("deep lists", r#"{"id":"1","detail-type":"t","detail":{"eventBody":{"a":"#, "[", 400_000, ""),
    ("deep details", r#"{"id":"1","detail-type":"t","detail":"#, r#"{"eventBody":"#, 75_000, ""),
    (
        "one body many times",
        r#"{"id":"1","detail-type":"t","detail":{"#,
        r#""eventBody":{},"#,
        65_000,
        r#""x":1}}"#,
    ),
    (
        "one name many times",
        r#"{"id":"1","detail-type":"t","detail":{"eventBody":{"#,
        r#""presence":{},"#,
        70_000,
        r#""a":{"b":"x"}}}}"#,
    ),
    ("an id many times", r#"{"detail-type":"t","detail":{}"#, r#","id":"1""#, 100_000, "}"),
    (
        "members of metadata",
        r#"{"id":"1","detail-type":"t","detail":{"metadata":{"#,
        r#""CorrelationId":"c","#,
        50_000,
        r#""x":1}}}"#,
    ),
    (
        "a long topic",
        r#"{"id":"1","detail-type":"v2.users.{id}.x","detail":{"topicName":"v2.users."#,
        "u",
        1_000_000,
        r#""}}"#,
    ),
    ("braces", r#"{"id":"1","detail-type":"{{{{","detail":{"topicName":""#, "{", 1_000_000, r#""}}"#),
    (
        "escapes in a topic",
        r#"{"id":"1","detail-type":"v2.users.{id}.x","detail":{"topicName":"v2.users."#,
        "\\u0041",
        170_000,
        r#""}}"#,
    ),
    (
        "half surrogates",
        r#"{"id":"1","detail-type":"t","detail":{"eventBody":{"a":{"b":""#,
        "\\ud83d",
        170_000,
        r#""}}}}"#,
    ),
    (
        "a time of many digits",
        r#"{"id":"1","detail-type":"t","detail":{"eventBody":{"startTime":1."#,
        "0",
        900_000,
        "e3}}}",
    ),
    (
        "a long time",
        r#"{"id":"1","detail-type":"t","detail":{"eventBody":{"modifiedDate":"2026-03-19T22:04:48."#,
        "0",
        900_000,
        r#"Z"}}}"#,
    ),
];

fn written(inputs: &[Repeated]) -> Vec<(String, Vec<u8>)> {
    let write = |(name, head, unit, times, tail): &Repeated| {
        ((*name).to_owned(), format!("{head}{}{tail}", unit.repeat(*times)).into_bytes())
    };
    inputs.iter().map(write).collect()
}

/// Routing tables.
pub(crate) fn tables() -> Vec<(String, Vec<u8>)> {
    written(TABLES)
}

/// Envelopes of up to 1 MiB.
pub(crate) fn envelopes() -> Vec<(String, Vec<u8>)> {
    written(ENVELOPES)
}

/// Events of up to 1 MiB, which a relay reads.
pub(crate) fn events() -> Vec<(String, Vec<u8>)> {
    written(EVENTS)
}
