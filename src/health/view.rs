//! The health of integrations as this worker knows it, and the requests to resume that follow from new records.
//!
//! Combines two feeds: the health topic (suspended integrations) and the integrations topic (integrations that were set
//! active again). Their order is not fixed, so each update checks the other's last state.

use std::collections::{HashMap, HashSet};

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::records::ResumeRequest;
use super::rules::Health;
use crate::domain::integration::{Integration, Status};

/// Requests to resume that wait to be published: more integrations than are resumed within a second.
const RESUME_REQUESTS_MAX: usize = 10_000;
/// Remembered times at which integrations were set active again. Only those matter for which the health topic is late.
const BROUGHT_BACK_MAX: usize = 10_000;

/// The state of an integration in the health topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HealthState {
    pub(crate) health: Health,
    /// Since when it has this state, ms since 1970.
    pub(crate) since_ms: i64,
}

/// The states of the health topic, and the integrations to resume.
#[derive(Debug, Default)]
pub(crate) struct HealthView {
    /// Only integrations that are not active.
    by_key: RwLock<HashMap<Box<str>, HealthState>>,
    /// When a change of an integration last set it active again, ms since 1970.
    brought_back: Mutex<HashMap<Box<str>, i64>>,
    resume_requests: Mutex<HashSet<ResumeRequest>>,
}

impl HealthView {
    /// The state of an integration. `None` if it is active.
    pub(crate) fn of(&self, key: &str) -> Option<HealthState> {
        self.by_key.read().get(key).copied()
    }

    /// The keys of the integrations that are not active.
    pub(crate) fn keys(&self) -> Vec<Box<str>> {
        self.by_key.read().keys().cloned().collect()
    }

    /// Applies a record of the health topic. `None` removes the state. `integration` is the one of that key, if it is registered.
    pub(crate) fn apply_health(&self, key: &str, state: Option<HealthState>, integration: Option<&Integration>) {
        {
            let mut by_key = self.by_key.write();
            match state.filter(|state| state.health != Health::Active) {
                Some(state) => by_key.insert(key.into(), state),
                None => by_key.remove(key),
            };
        }
        if let Some(integration) = integration {
            integration.set_health(state.map_or(Health::Active, |state| state.health));
        }
        if let Some(state) = state.filter(|state| state.health == Health::Failed) {
            let brought_back = lock(&self.brought_back).get(key).copied();
            let written = integration.and_then(Integration::status_written_ms);
            if brought_back.max(written).is_some_and(|at| at > state.since_ms) {
                self.request_resume(key, state);
            }
        }
    }

    /// Applies a record of the integrations topic, written at `written_ms`. It sets the integration's state to that of the health topic,
    /// and requests a resumption if the record sets the integration active again. A record from before this process (not `live`) must be
    /// later than the suspension by its own times.
    pub(crate) fn apply_integration(
        &self,
        before: Option<&Integration>,
        after: &Integration,
        written_ms: i64,
        live: bool,
    ) {
        let state = self.of(after.key());
        after.set_health(state.map_or(Health::Active, |state| state.health));
        let Some(at) = brought_back(before, after, written_ms, live) else { return };
        if live {
            let mut brought_back = lock(&self.brought_back);
            if brought_back.len() >= BROUGHT_BACK_MAX {
                brought_back.clear();
            }
            brought_back.insert(after.key().into(), at);
        }
        if let Some(state) = state.filter(|it| it.health == Health::Failed && (live || at > it.since_ms)) {
            self.request_resume(after.key(), state);
        }
    }

    fn request_resume(&self, key: &str, state: HealthState) {
        let mut resume_requests = lock(&self.resume_requests);
        if resume_requests.len() < RESUME_REQUESTS_MAX {
            resume_requests.insert(ResumeRequest { key: key.to_owned(), since_ms: Some(state.since_ms) });
        } else {
            tracing::warn!(key, "resume request dropped: queue full");
        }
    }

    /// Takes the requests to resume that came since the last call.
    pub(crate) fn take_resume_requests(&self) -> Vec<ResumeRequest> {
        lock(&self.resume_requests).drain().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// When a change of an integration set it active again, ms since 1970. `None` if it did not. It did if the status became active from
/// another (or the integration was removed before), or if the API wrote the status.
fn brought_back(before: Option<&Integration>, after: &Integration, written_ms: i64, live: bool) -> Option<i64> {
    let active_before = match before {
        Some(before) => before.status() == Status::Active,
        // At start, the first record of a key does not show which status was before it.
        None => !live,
    };
    let activated = (after.status() == Status::Active && !active_before).then_some(written_ms);
    let status_written =
        after.status_written_ms().filter(|at| before.and_then(Integration::status_written_ms) != Some(*at));
    activated.max(status_written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integration(status: &str, status_written: Option<&str>) -> Integration {
        let info = status_written.map_or(String::new(), |at| format!(r#","updateInfo":{{"statusUpdatedAt":"{at}"}}"#));
        Integration::parse("ws/i", format!(r#"{{"status":"{status}"{info}}}"#).as_bytes()).unwrap()
    }

    fn failed(since_ms: i64) -> HealthState {
        HealthState { health: Health::Failed, since_ms }
    }

    /// Whether a change is a request to end the suspension that began at 1000.
    #[track_caller]
    fn check(before: Option<&Integration>, after: &Integration, written_ms: i64, live: bool, expected: bool) {
        let request = vec![ResumeRequest { key: "ws/i".to_owned(), since_ms: Some(1_000) }];
        let expected = if expected { request } else { vec![] };
        let view = HealthView::default();
        view.apply_health("ws/i", Some(failed(1_000)), before);
        view.apply_integration(before, after, written_ms, live);
        assert!(after.is_suspended(), "only the health topic ends it");
        assert_eq!(view.take_resume_requests(), expected, "the suspension is known first");
        assert!(view.take_resume_requests().is_empty());
        if written_ms > 1_000 {
            let view = HealthView::default();
            view.apply_integration(before, after, written_ms, live);
            view.apply_health("ws/i", Some(failed(1_000)), Some(after));
            assert_eq!(view.take_resume_requests(), expected, "the suspension is known later");
        }
    }

    #[test]
    fn a_status_that_becomes_active_is_a_request_to_resume() {
        let active = integration("active", None);
        for status in ["paused", "notConfigured", "failed", "hasErrors"] {
            check(Some(&integration(status, None)), &active, 2_000, true, true);
            check(Some(&active), &integration(status, None), 2_000, true, false);
        }
        check(None, &active, 2_000, true, true);
        check(Some(&active), &integration("active", None), 2_000, true, false);
    }

    #[test]
    fn a_record_read_at_start_must_be_later_than_the_suspension() {
        let (paused, active) = (integration("paused", None), integration("active", None));
        check(None, &active, 2_000, false, false);
        check(Some(&paused), &active, 500, false, false);
        let view = HealthView::default();
        view.apply_health("ws/i", Some(failed(1_000)), None);
        view.apply_integration(Some(&paused), &active, 2_000, false);
        assert_eq!(view.take_resume_requests().len(), 1);
        check(None, &integration("active", Some("1970-01-01T00:00:00.9Z")), 2_000, false, false);
        check(None, &integration("active", Some("1970-01-01T00:00:01.1Z")), 2_000, false, true);
    }

    #[test]
    fn a_status_that_the_api_wrote_is_a_request_to_resume_with_any_former_status() {
        let (first, second) = (Some("1970-01-01T00:00:00.5Z"), Some("1970-01-01T00:00:01.5Z"));
        let before = integration("active", first);
        check(Some(&before), &integration("active", second), 1_500, true, true);
        check(Some(&before), &integration("active", first), 1_500, true, false);
        check(Some(&integration("active", None)), &integration("active", second), 1_500, true, true);
    }

    #[test]
    fn a_suspension_after_the_integration_was_set_active_again_stays() {
        let view = HealthView::default();
        let (before, after) = (integration("paused", None), integration("active", None));
        view.apply_integration(Some(&before), &after, 2_000, true);
        view.apply_health("ws/i", Some(failed(3_000)), Some(&after));
        assert!(view.take_resume_requests().is_empty());
        assert!(after.is_suspended());
        view.apply_health("ws/i", Some(HealthState { health: Health::Active, since_ms: 4_000 }), Some(&after));
        assert!(!after.is_suspended());
        view.apply_health("ws/i", Some(failed(5_000)), Some(&after));
        view.apply_health("ws/i", None, Some(&after));
        assert!(!after.is_suspended());
        assert_eq!(view.of("ws/i"), None);
    }
}
