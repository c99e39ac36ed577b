//! The demo's producer: sample events at a steady rate, each in the account before it is in Kafka.

use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::account::EVENTS_MAX;
use super::sample;
use super::{Ledger, lock};
use crate::clock;
use crate::deliver::publish::{Outgoing, Publish as _, PublishError, Sink};
use crate::domain::headers;
use crate::settings::Demo;

/// Between two batches: short, so that events come evenly, but not one by one. For each request and partition this broker gives one batch of
/// those that producers sent, and looks for it from the oldest on, so a search takes longer the more batches there are.
const BATCH_EVERY: Duration = Duration::from_millis(200);
/// Events under way to Kafka at once. A rate that would need more is not reached.
const BATCH_MAX: u64 = 2_000;
/// Deliveries that may be without an end at once. A tier's partition may hold all of them, and the broker forgets what is
/// beyond 5 MiB there. A rate that would need more is not reached either.
const OPEN_MAX: u64 = 6_000;

/// Produces for the demo's duration, until `finish`, or until the account is full.
///
/// # Errors
/// Kafka does not take an event.
pub(crate) async fn produce(
    demo: Demo,
    topic: &str,
    sink: &Sink,
    ledger: &Ledger,
    finish: &CancellationToken,
) -> Result<(), PublishError> {
    let began = Instant::now();
    let mut ticks = interval(BATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            () = finish.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let elapsed = began.elapsed();
        let is_last = demo.duration.is_some_and(|duration| elapsed >= duration);
        let elapsed = demo.duration.map_or(elapsed, |duration| elapsed.min(duration));
        let (produced, open) = {
            let account = lock(ledger);
            (account.produced(), account.open())
        };
        // An event is for two webhooks at most.
        let room = OPEN_MAX.saturating_sub(open) / 2;
        let batch = due(elapsed, demo.rate).saturating_sub(produced).min(BATCH_MAX).min(room);
        try_join_all(
            (0..batch).filter_map(|_| next(topic, ledger)).map(|event| async move { sink.publish(&event).await }),
        )
        .await?;
        if produced + batch > EVENTS_MAX.into() {
            tracing::warn!(events = EVENTS_MAX, "the account is full: no more events");
            return Ok(());
        }
        if is_last {
            return Ok(());
        }
    }
}

/// How many events have to be produced after this time.
fn due(elapsed: Duration, rate: u32) -> u64 {
    u64::try_from(elapsed.as_millis() * u128::from(rate) / 1000).unwrap_or(u64::MAX)
}

/// The next event, entered into the account.
fn next(topic: &str, ledger: &Ledger) -> Option<Outgoing> {
    let mut account = lock(ledger);
    let upcoming = u32::try_from(account.produced()).ok()?;
    let number = account.produce(sample::webhooks(upcoming))?;
    drop(account);
    let at = jiff::Timestamp::from_millisecond(clock::now_ms()).unwrap_or_default();
    let event = sample::event(number, &at.to_string());
    Some(Outgoing {
        topic: topic.into(),
        key: Some(event.key.into()),
        payload: Some(event.value),
        headers: vec![(headers::WORKSPACE, event.workspace.to_owned())],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_events_is_the_duration_times_the_rate() {
        assert_eq!(due(Duration::from_secs(5), 50), 250);
        assert_eq!(due(Duration::from_millis(999), 1), 0);
        assert_eq!(due(Duration::from_hours(168), 1_000_000), 604_800_000_000);
    }
}
