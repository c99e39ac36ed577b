//! What was settled beyond a committed offset, as text that fits into the metadata of the commit.
//!
//! Kafka keeps the text with the offset and gives it to the next owner of the partition, which then does not repeat what it
//! names. Nothing depends on it: text that is missing, foreign, of another version, of another cluster or of another offset
//! means that more is repeated.
//!
//! The text is `hs1.<cluster>.<offset>.<form>.<data>`. The cluster and the offset are those of the commit: tools that mirror a group to
//! another cluster copy the text and translate the offset, and the same number is another record there. The form `r` holds the lengths of
//! gaps and runs alternately. The form `b` holds one bit for each offset. The form that names more records is taken.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// How many bytes the text may have: what brokers take by default (`offset.metadata.max.bytes`).
pub(crate) const TEXT_MAX: usize = 4096;
/// How many runs are worth collecting: the most that a text of [`TEXT_MAX`] bytes can name, with one bit for each offset.
pub(crate) const RUNS_MAX: usize = TEXT_MAX * 6 / 2;

/// The version of the text that this program writes and reads.
const VERSION: &str = "hs1";

/// The cluster that a text belongs to: a short digest of the cluster's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClusterTag(u32);

impl ClusterTag {
    /// The tag of the cluster with this id.
    pub(crate) fn of(cluster_id: &str) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, cluster_id.as_bytes());
        let bytes = digest.as_ref().iter().take(4);
        Self(bytes.fold(0, |tag, byte| tag << 8 | u32::from(*byte)))
    }
}

impl std::fmt::Display for ClusterTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The text for `runs` beyond the commit of `base`, of at most `text_max` bytes. Runs are in offset order and begin at `base`
/// or later. What does not fit is left out from the end. Empty where nothing is settled beyond the prefix.
pub(crate) fn encode(cluster: ClusterTag, base: i64, runs: &[Range<i64>], text_max: usize) -> String {
    if runs.is_empty() {
        return String::new();
    }
    let head = format!("{VERSION}.{cluster}.{base}.");
    // Four characters hold three bytes; the form and its dot come before them.
    let bytes_max = text_max.saturating_sub(head.len() + 2) / 4 * 3;
    let (lengths, named_by_lengths) = as_lengths(base, runs, bytes_max);
    let (bits, named_by_bits) = as_bits(base, runs, bytes_max);
    let (form, data) =
        if (named_by_lengths, bits.len()) >= (named_by_bits, lengths.len()) { ('r', lengths) } else { ('b', bits) };
    if data.is_empty() {
        return String::new();
    }
    format!("{head}{form}.{}", URL_SAFE_NO_PAD.encode(data))
}

/// The runs that a text names beyond the commit of `base`, in offset order. Empty where the text is not of this version,
/// cluster and offset, or is damaged.
pub(crate) fn decode(cluster: ClusterTag, base: i64, text: &str) -> Vec<Range<i64>> {
    read(cluster, base, text).unwrap_or_default()
}

fn read(cluster: ClusterTag, base: i64, text: &str) -> Option<Vec<Range<i64>>> {
    let mut parts = text.splitn(5, '.');
    let is_ours = parts.next()? == VERSION
        && u32::from_str_radix(parts.next()?, 16).ok()? == cluster.0
        && parts.next()?.parse::<i64>().ok()? == base;
    if !is_ours {
        return None;
    }
    let form = parts.next()?;
    let data = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
    match form {
        "r" => from_lengths(base, &data),
        "b" => Some(from_bits(base, &data)),
        _ => None,
    }
}

/// Gap and length of each run, with seven bits in each byte, and how many offsets they name.
fn as_lengths(base: i64, runs: &[Range<i64>], bytes_max: usize) -> (Vec<u8>, i64) {
    let (mut bytes, mut settled, mut at) = (Vec::new(), 0, base);
    for run in runs {
        let before = bytes.len();
        for length in [run.start - at, run.end - run.start] {
            push_number(&mut bytes, length.unsigned_abs());
        }
        if bytes.len() > bytes_max {
            bytes.truncate(before);
            break;
        }
        settled += run.end - run.start;
        at = run.end;
    }
    (bytes, settled)
}

fn from_lengths(base: i64, data: &[u8]) -> Option<Vec<Range<i64>>> {
    let (mut runs, mut at, mut rest) = (Vec::new(), base, data);
    while !rest.is_empty() {
        let start = at.checked_add(take_number(&mut rest)?)?;
        let end = start.checked_add(take_number(&mut rest)?)?;
        // No run is written empty.
        if start == end {
            return None;
        }
        runs.push(start..end);
        at = end;
    }
    Some(runs)
}

/// A bit for each offset from `base` on, and how many offsets they name.
fn as_bits(base: i64, runs: &[Range<i64>], bytes_max: usize) -> (Vec<u8>, i64) {
    let (mut bytes, mut settled) = (Vec::new(), 0);
    for run in runs {
        for offset in run.clone() {
            let Ok(bit) = usize::try_from(offset - base) else { continue };
            if bit / 8 >= bytes_max {
                return (bytes, settled);
            }
            if bytes.len() <= bit / 8 {
                bytes.resize(bit / 8 + 1, 0u8);
            }
            if let Some(byte) = bytes.get_mut(bit / 8) {
                *byte |= 1 << (bit % 8);
                settled += 1;
            }
        }
    }
    (bytes, settled)
}

fn from_bits(base: i64, data: &[u8]) -> Vec<Range<i64>> {
    let mut runs: Vec<Range<i64>> = Vec::new();
    let offsets = (base..).zip(data.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)));
    for (offset, _) in offsets.filter(|(_, is_settled)| *is_settled) {
        match runs.last_mut() {
            Some(run) if run.end == offset => run.end += 1,
            _ => runs.push(offset..offset + 1),
        }
    }
    runs
}

fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        if number == 0 {
            return bytes.push(low);
        }
        bytes.push(low | 0x80);
    }
}

fn take_number(bytes: &mut &[u8]) -> Option<i64> {
    let mut number = 0u64;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return i64::try_from(number).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cluster() -> ClusterTag {
        ClusterTag::of("5L6g3nShT-eMCtK--X86sw")
    }

    fn count(runs: &[Range<i64>]) -> i64 {
        runs.iter().map(|run| run.end - run.start).sum()
    }

    #[test]
    fn text_of_another_cluster_offset_or_version_names_nothing() {
        let runs = [12..15, 20..21];
        let text = encode(cluster(), 10, &runs, TEXT_MAX);
        assert_eq!(decode(cluster(), 10, &text), runs);
        assert_eq!(decode(ClusterTag::of("another"), 10, &text), []);
        assert_eq!(decode(cluster(), 11, &text), []);
        assert_eq!(decode(cluster(), 10, &text.replace("hs1", "hs2")), []);
        for foreign in ["", "hs1", "checkpoint by a tool", "hs1.00000000.10.r.AAAA", "hs1.x.10.r.", "{\"a\":1}"] {
            assert_eq!(decode(cluster(), 10, foreign), [], "{foreign}");
        }
    }

    #[test]
    fn damaged_text_names_nothing() {
        let text = encode(cluster(), 10, std::slice::from_ref(&(1_000_000..2_000_000)), TEXT_MAX);
        let (head, data) = text.rsplit_once('.').unwrap();
        for damaged in [data.get(1..).unwrap(), "!!!!", "_____w", "gICAgICAgICAgICA", "DBMA", "DAA"] {
            assert_eq!(decode(cluster(), 10, &format!("{head}.{damaged}")), [], "{damaged}");
        }
    }

    #[test]
    fn a_webhook_that_hangs_for_ten_seconds_at_two_thousand_events_a_second_leaves_nothing_untold() {
        // Of 20,000 records one in ten waits.
        let runs: Vec<_> = (0..2_000).map(|number| number * 10 + 1..number * 10 + 10).collect();
        let text = encode(cluster(), 0, &runs, TEXT_MAX);
        assert_eq!(count(&decode(cluster(), 0, &text)), 18_000);
    }

    proptest! {
        #[test]
        fn named_offsets_were_settled_and_all_are_named_if_they_fit(
            base in 0..i64::MAX / 2,
            lengths in prop::collection::vec((1i64..400, 1i64..400), 0..3000),
            text_max in prop_oneof![Just(TEXT_MAX), 0usize..TEXT_MAX],
        ) {
            let mut at = base;
            let runs: Vec<_> = lengths
                .iter()
                .map(|(gap, length)| {
                    let run = at + gap..at + gap + length;
                    at = run.end;
                    run
                })
                .collect();
            let text = encode(cluster(), base, &runs, text_max);
            prop_assert!(text.len() <= text_max);
            let settled = decode(cluster(), base, &text);
            let whole = settled.len().saturating_sub(1);
            prop_assert_eq!(settled.get(..whole), runs.get(..whole));
            if let (Some(last), Some(run)) = (settled.last(), runs.get(whole)) {
                prop_assert!(last.start == run.start && last.end <= run.end);
            }
            if text_max == TEXT_MAX && runs.len() <= 700 {
                prop_assert_eq!(settled, runs);
            }
        }

        #[test]
        fn no_text_makes_it_panic(base in 0..i64::MAX, rest in "[rbx]\\.[A-Za-z0-9_.-]{0,40}") {
            let text = format!("hs1.{:08x}.{base}.{rest}", cluster().0);
            let settled = decode(cluster(), base, &text);
            prop_assert!(settled.iter().all(|run| base <= run.start && run.start <= run.end));
        }
    }
}
