//! JSON strings and numbers as senders write them: strings borrowed where they have no escapes, and escapes of half a
//! surrogate pair read as U+FFFD.
//!
//! serde_json has checked the syntax of what comes here, but not that escapes make up whole characters.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer as _, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The text of a JSON string; `None` for any other value.
pub(crate) fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let json = raw.get();
    let inside = json.strip_prefix('"')?.strip_suffix('"')?;
    if !inside.contains('\\') {
        return Some(Cow::Borrowed(inside));
    }
    let decoded = serde_json::from_str::<String>(json);
    decoded.or_else(|_| serde_json::from_str(&with_whole_characters(json))).ok().map(Cow::Owned)
}

/// The values of these members of an object, without decoding the others; of a name that comes several times the last one,
/// as common readers take it. None of anything else than an object.
pub(crate) fn members<'a, const N: usize>(
    object: &'a RawValue,
    names: [&str; N],
) -> [Option<&'a RawValue>; N] {
    members_by(object, names, |name, wanted| name == wanted)
}

/// The same of names that `is_same` as these.
pub(crate) fn members_by<'a, const N: usize>(
    object: &'a RawValue,
    names: [&str; N],
    is_same: fn(&str, &str) -> bool,
) -> [Option<&'a RawValue>; N] {
    let members = Members { names, is_same, is_unique: false };
    serde_json::Deserializer::from_str(object.get()).deserialize_any(members).unwrap_or([None; N])
}

/// The same of a whole text that begins as an object does. A name that comes twice is an error: two readers could each take
/// another value. The error never holds the content.
pub(crate) fn unique_members<'a, const N: usize>(
    text: &'a str,
    names: [&str; N],
) -> Result<[Option<&'a RawValue>; N], serde_json::Error> {
    let members = Members { names, is_same: |name, wanted| name == wanted, is_unique: true };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let found = deserializer.deserialize_map(members)?;
    deserializer.end()?;
    Ok(found)
}

struct Members<'n, const N: usize> {
    names: [&'n str; N],
    is_same: fn(&str, &str) -> bool,
    is_unique: bool,
}

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut found = [None; N];
        // By its text and not as a `str`, in which a name with half a surrogate pair would be an error.
        while let Some(name) = map.next_key::<&RawValue>()? {
            let wanted = text(name)
                .and_then(|name| self.names.iter().position(|wanted| (self.is_same)(&name, wanted)));
            let Some(wanted) = wanted else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if self.is_unique && found[wanted].is_some() {
                return Err(M::Error::custom(format_args!("`{}` comes twice", self.names[wanted])));
            }
            found[wanted] = Some(map.next_value()?);
        }
        Ok(found)
    }
}

/// The JSON text with U+FFFD in place of every escape that is half a surrogate pair, which no string of Rust can hold.
pub(crate) fn with_whole_characters(json: &str) -> String {
    let mut whole = String::with_capacity(json.len());
    let mut rest = json;
    // A backslash is always inside a string, and begins an escape.
    while let Some(begin) = rest.find('\\') {
        let (before, escape) = rest.split_at(begin);
        whole.push_str(before);
        let (written, length) = match (surrogate(escape), escape.get(6..).and_then(surrogate)) {
            (Some(Half::High), Some(Half::Low)) => (&escape[..12], 12),
            (Some(_), _) => ("\\ufffd", 6),
            // The escaped character may be a backslash itself. All of them are of one byte.
            (None, _) => (escape.get(..2).unwrap_or(escape), 2.min(escape.len())),
        };
        whole.push_str(written);
        rest = &escape[length..];
    }
    whole.push_str(rest);
    whole
}

enum Half {
    High,
    Low,
}

/// Which half of a surrogate pair the escape at the beginning of `json` is.
fn surrogate(json: &str) -> Option<Half> {
    let digits = json.strip_prefix("\\u")?.get(..4)?;
    match u16::from_str_radix(digits, 16).ok()? {
        0xd800..=0xdbff => Some(Half::High),
        0xdc00..=0xdfff => Some(Half::Low),
        _ => None,
    }
}

/// A JSON number that is whole, in any spelling: `17`, `17.0`, `1.7e1`, `170e-1`. `None` for one with a fraction, and for
/// one that an `i64` does not hold, or what is no number.
pub(crate) fn whole_number(json: &str) -> Option<i64> {
    json.parse().ok().or_else(|| spelled_with_fraction_or_exponent(json))
}

fn spelled_with_fraction_or_exponent(json: &str) -> Option<i64> {
    let (mantissa, exponent) = json.split_once(['e', 'E']).unwrap_or((json, "0"));
    let (unsigned, sign) = mantissa.strip_prefix('-').map_or((mantissa, 1), |unsigned| (unsigned, -1));
    let (integer, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let fraction = fraction.trim_end_matches('0');
    // Without a fraction, trailing zeros of the integer are powers of ten.
    let digits = if fraction.is_empty() { integer.trim_end_matches('0') } else { integer };
    if digits.bytes().chain(fraction.bytes()).all(|digit| digit == b'0') {
        return Some(0);
    }
    let length = |digits: &str| i64::try_from(digits.len()).unwrap_or(i64::MAX);
    let shifted = length(integer) - length(digits) - length(fraction);
    // An exponent that an i64 does not hold is far beyond any whole number of an i64, unless all digits are zeros.
    let exponent = exponent.parse::<i64>().ok()?.checked_add(shifted)?;
    let mut number = 0_i64;
    for digit in digits.bytes().chain(fraction.bytes()) {
        let digit = i64::from(char::from(digit).to_digit(10)?);
        number = number.checked_mul(10)?.checked_add(sign * digit)?;
    }
    number.checked_mul(10_i64.checked_pow(u32::try_from(exponent).ok()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(json: &str) -> String {
        let raw: &RawValue = serde_json::from_str(json).unwrap();
        text(raw).unwrap().into_owned()
    }

    #[test]
    fn half_a_surrogate_pair_is_read_as_a_replacement_character() {
        for (json, expected) in [
            (r#""x\ud83d""#, "x\u{fffd}"),
            (r#""\udE00x""#, "\u{fffd}x"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}😀"),
            (r#""\ude00\ud83d\n""#, "\u{fffd}\u{fffd}\n"),
            (r#""\\ud83d\ud83d\\""#, "\\ud83d\u{fffd}\\"),
            (r#""\ud83d\u0041é""#, "\u{fffd}Aé"),
            (r#""\ud83d\ude00""#, "😀"),
        ] {
            assert_eq!(decoded(json), expected, "{json}");
        }
    }

    /// Pieces of strings, each with the text that it is.
    const PIECES: [(&str, &str); 9] = [
        ("a", "a"),
        ("é😀", "é😀"),
        (r"\u0041", "A"),
        (r"\\", "\\"),
        (r#"\""#, "\""),
        ("u", "u"),
        (r"\ud83d\ude00", "😀"),
        (r"\ude00", "\u{fffd}"),
        // Not in front of its other half, which would make it whole.
        (r"\ud83d-", "\u{fffd}-"),
    ];

    #[test]
    fn any_escapes_in_any_order_are_read() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let pieces: Vec<_> = (0..random.usize(..12)).map(|_| PIECES[random.usize(..9)]).collect();
            let json = format!("\"{}\"", pieces.iter().map(|(json, _)| *json).collect::<String>());
            let expected: String = pieces.iter().map(|(_, text)| *text).collect();
            assert_eq!(decoded(&json), expected, "{json}");
            let whole = with_whole_characters(&json);
            assert_eq!(serde_json::from_str::<String>(&whole).unwrap(), expected, "{json}");
        }
    }

    #[test]
    fn a_whole_number_is_read_in_any_spelling() {
        for (json, number) in [
            ("1.7e12", Some(1_700_000_000_000)),
            ("1700000000000.0", Some(1_700_000_000_000)),
            ("17E+11", Some(1_700_000_000_000)),
            ("1700000000000000e-3", Some(1_700_000_000_000)),
            ("-0", Some(0)),
            ("0.0e99999999999999999999", Some(0)),
            ("-9223372036854775808.0", Some(i64::MIN)),
            ("9223372036854775807e0", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("1e19", None),
            ("1e99999999999999999999", None),
            ("1.5", None),
            ("15e-1", None),
            ("1e-99999999999999999999", None),
            ("{}", None),
            ("true", None),
        ] {
            assert_eq!(whole_number(json), number, "{json}");
        }
    }

    #[test]
    fn every_spelling_of_a_number_is_the_same_number() {
        let mut random = fastrand::Rng::with_seed(2);
        for _ in 0..20_000 {
            let number = random.i64(..) >> random.u32(..64);
            let (sign, digits) = (if number < 0 { "-" } else { "" }, number.unsigned_abs().to_string());
            let zeros = "0".repeat(random.usize(..400));
            let point = random.usize(1..=digits.len());
            let (integer, fraction) = digits.split_at(point);
            let exponent = fraction.len();
            for spelling in [
                format!("{sign}{digits}.0{zeros}"),
                format!("{sign}{digits}{zeros}e-{}", zeros.len()),
                format!("{sign}{integer}.{fraction}{zeros}0E+{exponent}"),
                format!("{sign}0.{zeros}{digits}e{}", zeros.len() + digits.len()),
            ] {
                assert_eq!(whole_number(&spelling), Some(number), "{spelling}");
            }
            assert_eq!(whole_number(&format!("{sign}{digits}.{zeros}1")), None);
        }
    }
}
