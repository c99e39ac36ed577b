//! One record of the events topic or the dead-letter topic, with its value: for tokens that may see bodies.

use serde_json::{Value, json};

use super::{Missing, SourceError};
use crate::domain::headers::workspace_of;
use crate::kafka::span::Range;
use crate::kafka::windows::{Glance, Windows};
use crate::readers::scan::Watch;
use crate::readers::{ReadError, time};
use crate::registration::question::BadQuestion;
use crate::settings::Settings;

/// How much of a value is shown: a page of text, not a download.
const SHOWN_BYTES_MAX: usize = 1 << 20;

/// Shows the record at `place` (`topic/partition/offset`), if it belongs to the workspace. A record of another workspace gets the
/// answer of a missing one. Blocks for a bounded time.
pub(super) fn show(settings: &Settings, workspace: &str, place: &str, watch: &Watch<'_>) -> Result<Value, SourceError> {
    let missing = || Missing::Record { place: place.to_owned() };
    let (topic, partition, offset) = parts(place)?;
    if topic != settings.topics.events && topic != settings.topics.dead_letter {
        return Err(missing().into());
    }
    let log = Windows::open(&settings.kafka, topic, "record-reader").map_err(ReadError::from)?;
    let bounds = log.bounds().iter().find(|bounds| bounds.partition == partition).ok_or_else(missing)?;
    if !(bounds.start..bounds.end).contains(&offset) {
        return Err(missing().into());
    }
    let mut found = None;
    let range = Range { partition, start: offset, end: offset + 1 };
    let read = log.read(&[range], watch.wanted, &mut |glance| {
        // The key of an event may be its workspace; the key of a dead letter is a webhook.
        let key = glance.key.filter(|_| topic == settings.topics.events);
        found = shown(place, workspace, key, glance);
    });
    read.map_err(ReadError::from)?;
    Ok(found.ok_or_else(missing)?)
}

fn shown(place: &str, workspace: &str, key: Option<&[u8]>, glance: &Glance<'_>) -> Option<Value> {
    workspace_of((glance.headers)().into_iter(), key).filter(|of| *of == workspace)?;
    let value = glance.value.unwrap_or_default();
    let beginning = value.get(..SHOWN_BYTES_MAX.min(value.len())).unwrap_or_default();
    Some(json!({
        "record": place,
        "at": time(glance.timestamp_ms),
        "bytes": value.len(),
        "complete": value.len() <= SHOWN_BYTES_MAX,
        "value": String::from_utf8_lossy(beginning),
    }))
}

fn parts(place: &str) -> Result<(&str, i32, i64), BadQuestion> {
    let mut parts = place.rsplitn(3, '/');
    let (offset, partition, topic) = (parts.next(), parts.next(), parts.next());
    let parsed = topic.zip(partition.and_then(|text| text.parse().ok())).zip(offset.and_then(|text| text.parse().ok()));
    let ((topic, partition), offset) = parsed.ok_or(BadQuestion::Place)?;
    Ok((topic, partition, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_three_parts() {
        assert_eq!(parts("crm.object-events/3/1042").unwrap(), ("crm.object-events", 3, 1042));
        for bad in ["", "a/b", "a/1/x", "1/2"] {
            assert!(matches!(parts(bad), Err(BadQuestion::Place)), "{bad}");
        }
    }

    #[test]
    fn a_record_of_another_workspace_is_not_shown() {
        let glance = Glance {
            partition: 0,
            offset: 0,
            timestamp_ms: 0,
            key: Some(b"acme"),
            value: Some(b"<script>"),
            headers: &Vec::new,
        };
        assert_eq!(shown("t/0/0", "acme", glance.key, &glance).unwrap()["value"], "<script>");
        assert!(shown("t/0/0", "acm", glance.key, &glance).is_none());
        assert!(shown("t/0/0", "acme", None, &glance).is_none(), "a dead letter's key is not a workspace");
        let by_header = Glance { headers: &|| vec![("workspace", b"other".as_slice())], ..glance };
        assert!(shown("t/0/0", "acme", glance.key, &by_header).is_none());
    }
}
