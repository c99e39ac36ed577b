//! Equality of JSON values by their meaning: numbers of any size and spelling by value, members in any order. Values are compared
//! by digests, which take little memory and can be kept.

use std::borrow::Cow;
use std::collections::HashMap;

use ring::digest::{Context, SHA256};
use serde_json::value::RawValue;

/// Values nested deeper are compared letter by letter from there on, so that no document is read a thousand times.
const DEPTH_MAX: usize = 64;

/// The digest of a JSON value: equal for equal values, different for others, except with a chance of one in 2^64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest(u128);

impl Digest {
    fn of_bytes(kind: u8, bytes: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&[kind]);
        context.update(bytes);
        Self::end(context)
    }

    fn end(context: Context) -> Self {
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        Self(u128::from_be_bytes(bytes))
    }

    /// The digest of an array of values with these digests.
    pub(super) fn of_array(values: impl Iterator<Item = Self>) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(b"[");
        for value in values {
            context.update(&value.0.to_be_bytes());
        }
        Self::end(context)
    }

    /// The digest of an object with these members, each name once.
    pub(super) fn of_object(members: impl Iterator<Item = MemberDigest>) -> Self {
        // A sum: the order does not count, and nothing has to be sorted.
        let sum = members.fold(0u128, |sum, member| sum.wrapping_add(member.named.0));
        Self::of_bytes(b'{', &sum.to_be_bytes())
    }
}

/// The digests of a member of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemberDigest {
    /// The digest of its value.
    pub(super) value: Digest,
    /// The digest of its name and its value.
    named: Digest,
}

impl MemberDigest {
    /// The digests of a member with that name and a value with that digest.
    pub(super) fn new(name: &str, value: Digest) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(b":");
        context.update(&value.0.to_be_bytes());
        context.update(name.as_bytes());
        Self { value, named: Digest::end(context) }
    }
}

/// The digest of a value.
pub(super) fn digest(value: &RawValue) -> Digest {
    at_depth(value.get(), 0)
}

fn at_depth(text: &str, depth: usize) -> Digest {
    let first = text.bytes().next().unwrap_or_default();
    let by_letter = || Digest::of_bytes(b'?', text.as_bytes());
    if depth > DEPTH_MAX {
        return by_letter();
    }
    match first {
        b'{' => serde_json::from_str::<HashMap<String, &RawValue>>(text).map_or_else(
            |_unreadable| by_letter(),
            |members| {
                let member =
                    |(name, value): (&String, &&RawValue)| MemberDigest::new(name, at_depth(value.get(), depth + 1));
                Digest::of_object(members.iter().map(member))
            },
        ),
        b'[' => serde_json::from_str::<Vec<&RawValue>>(text).map_or_else(
            |_unreadable| by_letter(),
            |values| Digest::of_array(values.iter().map(|value| at_depth(value.get(), depth + 1))),
        ),
        b'"' => serde_json::from_str::<String>(text)
            .map_or_else(|_lone_surrogate| by_letter(), |text| Digest::of_bytes(b'"', text.as_bytes())),
        b'-' | b'0'..=b'9' => Digest::of_bytes(b'0', plain_number(text).as_bytes()),
        _ => Digest::of_bytes(b'w', text.as_bytes()),
    }
}

/// A number in one spelling: its sign, its digits without zeros at either end, and the power of ten of the last of them.
fn plain_number(text: &str) -> Cow<'_, str> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    // A document has no room for two numbers that are equal beyond this exponent but spelt differently.
    let Ok(exponent) = exponent.parse::<i64>() else { return Cow::Borrowed(text) };
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |mantissa| ("-", mantissa));
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{part}");
    let significant = digits.trim_end_matches('0');
    let zeros = digits.len() - significant.len();
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        return Cow::Borrowed("0");
    }
    let moved = i64::try_from(zeros).unwrap_or(i64::MAX).saturating_sub(i64::try_from(part.len()).unwrap_or(i64::MAX));
    Cow::Owned(format!("{sign}{significant}e{}", exponent.saturating_add(moved)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(one: &str, other: &str, equal: bool) {
        let of = |text: &str| digest(&RawValue::from_string(text.to_owned()).unwrap());
        assert_eq!(of(one) == of(other), equal, "{one} and {other}");
    }

    #[test]
    fn numbers_compare_by_value_however_large() {
        for (one, other) in [
            ("1", "1.0"),
            ("1", "10e-1"),
            ("100", "1E2"),
            ("0", "-0.000"),
            ("0", "0e9"),
            ("-1.50", "-15e-1"),
            ("1e400", "10e399"),
            ("9007199254740993", "9007199254740993.0"),
        ] {
            check(one, other, true);
        }
        for (one, other) in [
            ("1", "-1"),
            ("1", "10"),
            ("0.1", "0.01"),
            ("9007199254740992", "9007199254740993"),
            ("1e400", "1e401"),
            ("1", "\"1\""),
            ("123456789012345678901234567890", "123456789012345678901234567891"),
            ("1e99999999999999999999", "1e99999999999999999998"),
        ] {
            check(one, other, false);
        }
    }

    #[test]
    fn members_compare_in_any_order_and_arrays_in_theirs() {
        check(r#"{"a":1,"b":[2.0,{"c":null}]}"#, r#"{ "b": [2, {"c":null}], "a": 1.0 }"#, true);
        check(r#"{"a":1}"#, r#"{"a":1,"b":null}"#, false);
        check(r#"{"a":1,"b":2}"#, r#"{"a":2,"b":1}"#, false);
        check("[1,2]", "[2,1]", false);
        check("[[1],2]", "[1,[2]]", false);
        check("[]", "{}", false);
        check(r#""\u0061""#, r#""a""#, true);
        check("true", "false", false);
        check("null", "\"null\"", false);
    }

    #[test]
    fn deeply_nested_values_are_compared_too() {
        let nested = |depth: usize, inner: &str| format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth));
        check(&nested(100_000, "1"), &nested(100_000, "1"), true);
        check(&nested(100_000, "1"), &nested(100_000, "2"), false);
        check(&nested(DEPTH_MAX, "1"), &nested(DEPTH_MAX, "1.0"), true);
    }
}
