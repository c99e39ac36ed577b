//! The headers of a record as Kafka's client has them. What their names mean is in `domain::headers`.

use rdkafka::message::Headers;

use crate::telemetry::panics::caught;

/// The headers of a record that have a value. See [`every_header`].
pub(crate) fn readable_headers<H: Headers>(headers: &H) -> impl Iterator<Item = (&str, &[u8])> {
    every_header(headers).filter_map(|(name, value)| Some((name, value?)))
}

/// The headers of a record. One whose name is not UTF-8 is left out: the client library panics on it, and one record of a
/// strange producer must not end the worker.
pub(crate) fn every_header<H: Headers>(headers: &H) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
    (0..headers.count()).filter_map(move |index| {
        let header = caught(|| headers.try_get(index)).flatten()?;
        Some((header.key, header.value))
    })
}
