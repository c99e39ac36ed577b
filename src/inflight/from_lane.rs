//! What lanes say to the thread that reads events. How it is passed on is [`super::partition`]'s.

use std::sync::Arc;

use super::job::Event;
use super::lane_gauge::LaneGauge;

/// What shards report to the events thread about webhooks that are behind.
#[derive(Debug)]
pub(crate) enum FromLane {
    /// A delivery that a place covers is settled.
    Settled {
        gauge: Arc<LaneGauge>,
        /// The event's offset.
        offset: i64,
    },
    /// A delivery that waited in a lane is returned: the webhook gets it again later.
    Returned {
        gauge: Arc<LaneGauge>,
        event: Arc<Event>,
        /// The main reader gave it, and no place covers it yet: its record is unsettled.
        pinned: bool,
    },
}
