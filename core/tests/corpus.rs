//! Whatever a tenant writes, or a sender sends, is read or refused within bounds of time and memory: every input of the
//! kept corpora, and random ones that are made of the same parts. An input that was found costly is kept as a file of
//! `tests/corpus`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what was measured is for people")]

#[path = "corpus/repeated.rs"]
mod repeated;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use presenceroute_core::condition::{Budget, Condition, ConditionError, MAX_LENGTH, MAX_TABLE_LENGTH};
use presenceroute_core::event::{Event, envelope};
use presenceroute_core::routing::{Router, RoutingTable};

const MIB: usize = 1 << 20;

/// The CPU time that a whole table of one expression may take to compile, unoptimised; a release build takes a twentieth.
const TABLE_TIME: Duration = Duration::from_secs(60);
/// The same of one input.
const INPUT_TIME: Duration = Duration::from_secs(5);
/// What reading an input may take in memory while it lasts.
const WORKING_BYTES: usize = 64 * MIB;
/// How many routes of a table are tried; the time that the rest would take is reckoned.
const TRIED: usize = 24;

/// The files of one corpus, by their names.
fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let files = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} holds no file", directory.display());
    files
}

/// Runs a test by itself, so that what it measures of its process is its own. The process may not last longer than a
/// runner waits: an input on which it hangs is printed by the test before it is tried.
fn alone(test: &str) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&child.stdout);
    println!("{printed}");
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
    assert!(printed.contains("1 passed"), "there is no test {test}");
}

/// A line of this process's status, in bytes.
fn memory(line: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    value.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// The CPU time of this process, those of its threads that have ended too.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The program's name, in parentheses, may hold blanks. Times are in ticks of 10 ms.
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    Duration::from_millis(10 * (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()))
}

/// How much more memory than before `work` took at most, and how much CPU time.
fn measured<T>(work: impl FnOnce() -> T) -> (T, usize, Duration) {
    // Sets the peak to what is resident now (proc(5)).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, began) = (memory("VmRSS"), cpu_time());
    let result = work();
    (result, memory("VmHWM").saturating_sub(before), cpu_time() - began)
}

/// The first conditions of a table whose routes all have this one, and what ends it before.
fn table_of(expression: &str) -> (Vec<Condition>, Option<ConditionError>) {
    let (mut budget, mut conditions) = (Budget::default(), Vec::new());
    for _ in 0..TRIED {
        match Condition::compile_within(expression, &mut budget) {
            Ok(condition) => conditions.push(condition),
            Err(error) if error.is_over_budget() => return (conditions, Some(error)),
            // The table is refused, and its other conditions are compiled to be reported.
            Err(_) => {}
        }
    }
    (conditions, None)
}

#[test]
fn every_kept_condition_compiles_within_bounds() {
    alone("compile_the_kept_conditions");
}

#[test]
#[ignore = "every_kept_condition_compiles_within_bounds runs it"]
fn compile_the_kept_conditions() {
    for (name, content) in corpus("conditions") {
        let expression = String::from_utf8(content).unwrap();
        let expression = expression.trim_end();
        println!("{name}, {} bytes", expression.len());
        let ((conditions, error), taken, cpu) = measured(|| table_of(expression));
        let rest = MAX_TABLE_LENGTH / (TRIED * expression.len().max(MAX_TABLE_LENGTH / 1024));
        let whole = if error.is_some() { cpu } else { cpu * u32::try_from(rest.max(1)).unwrap() };
        let error = error.map_or("fits".to_owned(), |error| error.to_string());
        println!("    {} routes, {} MiB, {whole:?} for a table, {error:.60}", conditions.len(), taken / MIB);
        assert!(whole < TABLE_TIME, "{name}: {whole:?}");
        assert!(taken < WORKING_BYTES, "{name}: {taken} bytes");
    }
}

/// Parts of expressions and patterns, those that cost most among them.
const PARTS: &[&str] = &[
    "id",
    "source",
    "eventType",
    "timestamp",
    "attributes",
    "attributes.a",
    "attributes.?b",
    "x",
    "true",
    "null",
    "1",
    "2.5",
    "7u",
    "'a'",
    "b'a'",
    "''",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    ".",
    ",",
    ":",
    "?",
    "!",
    "-",
    "+",
    "*",
    "/",
    "%",
    "==",
    "!=",
    "<=",
    ">",
    "&&",
    "||",
    " in ",
    "has(",
    "size(",
    "type(",
    ".exists(x, ",
    ".all(x, ",
    ".map(x, ",
    ".filter(x, ",
    ".startsWith(",
    ".matches(",
    "id.matches(r'",
    "id.matches('",
    "')",
    " ",
    "\n",
    "\u{10ffff}",
    "é",
    "\\",
    "'",
    "\"",
    "[\\pL\\pN]",
    "\\w",
    "(?i)",
    "(?i:",
    "[^a]",
    "[!-\u{10ffff}]",
    "[a&&[^b]]",
    "{20}",
    "{0,999}",
    "{9}",
    "*?",
    "+",
    "|",
    "(?:",
    "(?P<n>",
    ".*",
    "\\b",
    "^",
    "$",
    "[[:alpha:]]",
    "\\x{1F600}",
    "\\p{Greek}",
    "\\pX",
    "&",
    "=",
];

fn random_expression(random: &mut fastrand::Rng) -> String {
    let mut expression = String::new();
    let length = random.usize(1..=MAX_LENGTH);
    // Few different parts, often repeated, are what costs.
    let parts: Vec<_> = (0..random.usize(1..12)).map(|_| random.choice(PARTS).unwrap()).collect();
    while expression.len() < length {
        expression.push_str(random.choice(&parts).unwrap());
    }
    // Mostly one that parses, at least in its outer form.
    match random.u8(0..4) {
        0 => expression,
        1 => format!("id.matches(r'{}')", expression.replace(['\'', '\n'], "")),
        2 => vec![
            format!("id.matches(r'{}')", cut(&expression.replace(['\'', '\n'], ""), 40));
            random.usize(1..40)
        ]
        .join(" || "),
        _ => vec![cut(&expression, 30).to_owned(); random.usize(1..60)].join(" && "),
    }
}

fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

#[test]
fn random_conditions_compile_within_bounds() {
    alone("compile_random_conditions");
}

/// `CORPUS_SEED` and `CORPUS_ROUNDS` repeat a run, or make it longer.
#[test]
#[ignore = "random_conditions_compile_within_bounds runs it"]
fn compile_random_conditions() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("CORPUS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let rounds = number("CORPUS_ROUNDS").unwrap_or(500);
    println!("CORPUS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut compiled, mut slowest) = (0, Duration::ZERO);
    for round in 0..rounds {
        let expression = random_expression(&mut random);
        let (result, taken, elapsed) =
            measured(|| Condition::compile_within(&expression, &mut Budget::default()).is_ok());
        compiled += usize::from(result);
        slowest = slowest.max(elapsed);
        let is_bounded = elapsed < INPUT_TIME && taken < WORKING_BYTES;
        assert!(is_bounded, "round {round}: {elapsed:?}, {taken} bytes: {expression:?}");
    }
    println!("{compiled} of {rounds} compiled, the slowest took {slowest:?}");
    assert!(compiled > 0);
}

#[test]
fn every_kept_table_is_read_within_bounds() {
    alone("read_the_kept_tables");
}

#[test]
#[ignore = "every_kept_table_is_read_within_bounds runs it"]
fn read_the_kept_tables() {
    for (name, content) in corpus("tables").into_iter().chain(repeated::tables()) {
        let text = String::from_utf8_lossy(&content);
        println!("{name}, {} bytes", text.len());
        let (table, taken, elapsed) = measured(|| RoutingTable::parse(&text).map(Router::new));
        let result = table.as_ref().map_or_else(ToString::to_string, |_| "a table".into());
        println!("    {} MiB, {elapsed:?}, {result:.80}", taken / MIB);
        assert!(elapsed < TABLE_TIME && taken < WORKING_BYTES, "{name}: {elapsed:?}, {taken} bytes");
        if let Ok(router) = table {
            let again = RoutingTable::parse(&router.table().to_yaml().unwrap()).unwrap();
            assert_eq!(&again, router.table(), "{name}");
        }
    }
}

#[test]
fn every_kept_event_is_read_within_bounds() {
    alone("read_the_kept_events");
}

#[test]
#[ignore = "every_kept_event_is_read_within_bounds runs it"]
fn read_the_kept_events() {
    let table = "{version: 1, routes: [{eventType: '*', topic: t, key: attributes.a.b, when: attributes.a.b == 'x'}]}";
    let router = Router::new(RoutingTable::parse(table).unwrap());
    for (name, content) in corpus("events").into_iter().chain(repeated::events()) {
        println!("{name}, {} bytes", content.len());
        let (result, taken, elapsed) = measured(|| match Event::parse(&content) {
            Ok(event) => format!("{:?}", router.route(&event).decision),
            Err(error) => error.to_string(),
        });
        println!("    {} MiB, {elapsed:?}, {result:.80}", taken / MIB);
        assert!(elapsed < INPUT_TIME && taken < WORKING_BYTES, "{name}: {elapsed:?}, {taken} bytes");
    }
}

#[test]
fn every_kept_envelope_is_read_within_bounds() {
    alone("read_the_kept_envelopes");
}

#[test]
#[ignore = "every_kept_envelope_is_read_within_bounds runs it"]
fn read_the_kept_envelopes() {
    let table = "{version: 1, routes: [{eventType: '*', topic: t, key: subject, when: attributes.a.b == 'x'}, {eventType: '*', topic: u, key: attributes.correlationId}]}";
    let router = Router::new(RoutingTable::parse(table).unwrap());
    for (name, content) in corpus("envelopes").into_iter().chain(repeated::envelopes()) {
        println!("{name}, {} bytes", content.len());
        let body = Bytes::from(content);
        let (result, taken, elapsed) = measured(|| match envelope::decode(&body) {
            Ok((event, value)) => format!("{} bytes to {:?}", value.len(), router.route(&event).decision),
            Err(error) => error.to_string(),
        });
        println!("    {} MiB, {elapsed:?}, {result:.80}", taken / MIB);
        assert!(elapsed < INPUT_TIME && taken < WORKING_BYTES, "{name}: {elapsed:?}, {taken} bytes");
    }
}
