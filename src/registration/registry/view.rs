//! The integrations topic in memory: the latest committed record of every key, with its place in the log as its version.
//! `reader` fills it and all requests read it. It knows neither Kafka nor HTTP.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::domain::guid::canonical_key;

/// A page ends after the record that makes it larger than this.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// The place of a record in the log: two versions of one key are the same record exactly when they are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// The partition.
    pub(crate) partition: i32,
    /// The offset in it.
    pub(crate) offset: i64,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.partition, self.offset)
    }
}

/// A record as it is in the topic. Without `Debug`, because it holds secrets.
#[derive(Clone)]
pub(crate) struct Stored {
    /// The value's bytes.
    pub(crate) bytes: Bytes,
    /// Its place in the log.
    pub(crate) version: Version,
    /// When it was written, ms since 1970.
    pub(crate) written_ms: i64,
    /// The record's key, if the GUID in it is not in small letters.
    pub(crate) spelling: Option<Arc<str>>,
}

/// One page of a workspace.
#[derive(Default)]
pub(crate) struct Page {
    /// Ids and records in the order of their ids.
    pub(crate) items: Vec<(String, Stored)>,
    /// Whether more follow the last.
    pub(crate) has_more: bool,
}

#[derive(Default)]
struct State {
    /// Workspace, then integration id: in order, for pages.
    workspaces: BTreeMap<String, BTreeMap<String, Stored>>,
    /// By partition, the highest offset applied.
    applied: BTreeMap<i32, i64>,
}

/// The view. Locks are held for a lookup or a page, never across a wait of any other kind.
#[derive(Default)]
pub(crate) struct View {
    state: Mutex<State>,
    advanced: Condvar,
}

impl View {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it; the state is whole after every statement anyway.
        self.state.lock()
    }

    /// Applies one record, written at that time; `None` is a tombstone. Returns whether the key is one of ours. A GUID in it may be
    /// in either case.
    pub(crate) fn apply(&self, key: Option<&str>, value: Option<Bytes>, version: Version, written_ms: i64) -> bool {
        let sent = key;
        let key = key.map(canonical_key);
        let spelling = sent.filter(|sent| key.as_deref() != Some(sent)).map(Into::into);
        let names = key.as_deref().and_then(|key| key.rsplit_once('/'));
        let names = names.filter(|(workspace, id)| !workspace.is_empty() && !id.is_empty());
        let mut state = self.lock();
        if let Some((workspace, id)) = names {
            state.put(workspace, id, value.map(|bytes| Stored { bytes, version, written_ms, spelling }));
        }
        state.applied.insert(version.partition, version.offset);
        drop(state);
        self.advanced.notify_all();
        names.is_some()
    }

    /// Skips a record that changes nothing.
    pub(crate) fn pass(&self, version: Version) {
        self.lock().applied.insert(version.partition, version.offset);
        self.advanced.notify_all();
    }

    /// The record of an integration.
    pub(crate) fn get(&self, workspace: &str, id: &str) -> Option<Stored> {
        self.lock().workspaces.get(workspace)?.get(id).cloned()
    }

    /// At most `limit` records of a workspace, in the order of their ids, after the id `after`; fewer if they are large.
    pub(crate) fn page(&self, workspace: &str, after: Option<&str>, limit: usize) -> Page {
        let state = self.lock();
        let Some(records) = state.workspaces.get(workspace) else { return Page::default() };
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = Page::default();
        let mut bytes = 0;
        for (id, stored) in records.range::<str, _>((start, Bound::Unbounded)) {
            if page.items.len() == limit || bytes > PAGE_BYTES_MAX {
                page.has_more = true;
                break;
            }
            bytes += stored.bytes.len();
            page.items.push((id.clone(), stored.clone()));
        }
        page
    }

    /// Every workspace that has a record, in order.
    pub(crate) fn workspaces(&self) -> Vec<String> {
        self.lock().workspaces.keys().cloned().collect()
    }

    /// How many integrations there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().workspaces.values().map(BTreeMap::len).sum()
    }

    /// Waits until the record at that place, or a later one, has been applied; returns `false` if the time is over first.
    /// Blocks: for threads of their own only.
    pub(crate) fn wait_for(&self, version: Version, at_most: Duration) -> bool {
        let behind = |state: &mut State| state.applied.get(&version.partition).is_none_or(|at| *at < version.offset);
        !self.advanced.wait_while_for(&mut self.lock(), behind, at_most).timed_out()
    }
}

impl State {
    fn put(&mut self, workspace: &str, id: &str, stored: Option<Stored>) {
        let Some(stored) = stored else {
            let Some(records) = self.workspaces.get_mut(workspace) else { return };
            records.remove(id);
            if records.is_empty() {
                self.workspaces.remove(workspace);
            }
            return;
        };
        if let Some(records) = self.workspaces.get_mut(workspace) {
            records.insert(id.to_owned(), stored);
        } else {
            self.workspaces.insert(workspace.to_owned(), BTreeMap::from([(id.to_owned(), stored)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(view: &View, key: &str, value: Option<&'static str>, offset: i64) -> bool {
        let version = Version { partition: 0, offset };
        view.apply(Some(key), value.map(|text| Bytes::from_static(text.as_bytes())), version, 0)
    }

    #[test]
    fn the_latest_record_counts_and_a_tombstone_removes() {
        let view = View::default();
        assert!(put(&view, "ws/a", Some("1"), 0));
        assert!(put(&view, "ws/a", Some("2"), 4));
        assert_eq!(view.get("ws", "a").unwrap().version, Version { partition: 0, offset: 4 });
        assert_eq!(view.len(), 1);
        put(&view, "ws/a", None, 5);
        assert!(view.get("ws", "a").is_none());
        assert_eq!(view.len(), 0);
    }

    #[test]
    fn a_guid_is_one_key_in_either_case_and_its_spelling_is_known() {
        let view = View::default();
        let (small, capitals) = ("ws/a5aad3c1-777b-4ae5-8ca1-60b94c0423e5", "ws/A5AAD3C1-777B-4AE5-8CA1-60B94C0423E5");
        put(&view, capitals, Some("1"), 0);
        let stored = || view.get("ws", "a5aad3c1-777b-4ae5-8ca1-60b94c0423e5").unwrap();
        assert_eq!(stored().spelling.as_deref(), Some(capitals));
        put(&view, small, Some("2"), 1);
        assert_eq!((stored().spelling, view.len()), (None, 1));
    }

    #[test]
    fn keys_of_another_form_are_reported_and_skipped() {
        let view = View::default();
        for key in [None, Some("plain"), Some("/a"), Some("a/")] {
            assert!(!view.apply(key, Some(Bytes::new()), Version { partition: 0, offset: 7 }, 0));
        }
        assert!(view.wait_for(Version { partition: 0, offset: 7 }, Duration::ZERO));
        assert!(!view.wait_for(Version { partition: 0, offset: 8 }, Duration::ZERO));
        assert!(!view.wait_for(Version { partition: 1, offset: 0 }, Duration::ZERO));
    }

    #[test]
    fn pages_continue_without_gap_or_repetition() {
        let view = View::default();
        for number in 0..25 {
            put(&view, &format!("ws/{number:02}"), Some("x"), number);
            put(&view, &format!("other/{number:02}"), Some("x"), number);
        }
        let (mut seen, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = view.page("ws", after.as_deref(), 10);
            seen.extend(page.items.iter().map(|(id, _)| id.clone()));
            after = seen.last().cloned();
            if !page.has_more {
                break;
            }
        }
        assert_eq!(seen, (0..25).map(|number| format!("{number:02}")).collect::<Vec<_>>());
        assert!(view.page("unknown", None, 10).items.is_empty());
        assert!(!view.page("ws", Some("14"), 10).has_more);
    }

    #[test]
    fn a_page_of_large_records_is_short_and_never_empty() {
        let view = View::default();
        for number in 0..9 {
            let version = Version { partition: 0, offset: number };
            view.apply(Some(&format!("ws/{number}")), Some(Bytes::from(vec![b' '; 1 << 20])), version, 0);
        }
        let page = view.page("ws", None, 100);
        assert_eq!((page.items.len(), page.has_more), (5, true));
        assert_eq!(view.page("ws", Some("4"), 100).items.len(), 4);
    }
}
