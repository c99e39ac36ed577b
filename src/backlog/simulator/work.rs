//! What owners of the partition do while nothing goes wrong: they read, give, request. Faults are in `faults`.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::super::behind::Standing;
use super::super::partition::{CatchUpOffer, Look, MainOffer, Offered, Plan};
use super::process::{Process, Receiver, Waiting};
use super::{EVENT_BYTES, WEBHOOKS, World};
use crate::domain::outcome::DropReason;
use crate::inflight::job::{Event, Origin};

impl World {
    fn offered(offset: i64) -> Offered {
        Offered { offset, timestamp_ms: offset, bytes: EVENT_BYTES }
    }

    fn event(&self, offset: i64, sequence: Option<u64>) -> Event {
        let origin = Origin { topic: "events".into(), partition: 0, offset };
        let held = self.process.pressure.hold(EVENT_BYTES);
        let assignment = &self.process.assignment;
        match sequence {
            Some(sequence) => Event::new(Bytes::new(), origin, offset, Some((assignment, sequence)), held),
            None => Event::caught_up(Bytes::new(), origin, offset, assignment, held),
        }
    }

    /// The webhooks that an event matches as the table is now. What comes while one is gone, and it is not given later, is dropped.
    fn matched(&mut self, offset: i64) -> Vec<usize> {
        let matches = &self.matches[usize::try_from(offset).unwrap()];
        let (gone, there) = (0..WEBHOOKS)
            .filter(|webhook| matches[*webhook])
            .partition::<Vec<_>, _>(|webhook| self.table[*webhook] == Standing::Gone);
        for webhook in gone {
            self.receivers[webhook].dropped.insert(offset);
        }
        there
    }

    pub(super) fn read_main(&mut self) {
        let offset = self.process.main;
        if offset >= self.log_len || self.process.is_closing || self.is_out_of_touch() {
            return;
        }
        if self.process.assignment.admit_if_settled_before(offset) {
            self.process.backlog.main_passed(offset);
            self.process.main += 1;
            return;
        }
        let pressure = self.process.pressure;
        let look = Look { pressure, wait_max_ms: i64::MAX, now_ms: self.now_ms };
        let (mut given, mut fallen) = (Vec::new(), Vec::new());
        for webhook in self.matched(offset) {
            let gauge = Arc::clone(&self.process.gauges[webhook]);
            if self.table[webhook] == Standing::Dropped {
                if !self.process.backlog.is_given_later(gauge.id(), offset) {
                    self.receivers[webhook].dropped.insert(offset);
                }
                continue;
            }
            match self.process.backlog.offer_main(&gauge, Self::offered(offset), look) {
                MainOffer::Give(admitted) => given.push((webhook, admitted)),
                MainOffer::Behind => {}
                MainOffer::FallsBehind => fallen.push(gauge),
            }
        }
        if given.is_empty() && fallen.is_empty() {
            self.process.assignment.admit_settled(offset);
        } else {
            let sequence = self.process.assignment.admit(offset);
            let event = self.event(offset, Some(sequence));
            let gauges = given.iter().map(|(webhook, _)| &self.process.gauges[*webhook]);
            event.open_for(gauges, fallen.iter());
            let event = Arc::new(event);
            self.process.backlog.watch(&event, self.now_ms);
            self.process.assignment.set_commit_bound(self.process.backlog.commit_bound());
            for gauge in fallen {
                self.process.backlog.pin(&gauge, Arc::clone(&event));
            }
            for (webhook, admitted) in given {
                self.process.lanes[webhook].channel.push_back(Waiting { event: Arc::clone(&event), admitted });
            }
        }
        self.process.backlog.main_passed(offset);
        self.process.main += 1;
    }

    pub(super) fn catch_up(&mut self) {
        let pressure = self.process.pressure;
        let look = Look { pressure, wait_max_ms: i64::MAX, now_ms: self.now_ms };
        if self.process.backlog.is_empty() {
            self.process.catch_up = None;
        }
        if self.process.is_closing || self.is_out_of_touch() || self.process.backlog.is_empty() {
            return;
        }
        match self.process.backlog.plan(look) {
            Plan::Rest => return,
            Plan::Seek(offset) => self.process.catch_up = Some(offset),
            Plan::Read => {}
        }
        for _ in 0..self.rng.random_range(1..200) {
            let Some(offset) = self.process.catch_up else { return };
            if !self.process.backlog.is_reading() {
                return;
            }
            assert_eq!(self.process.backlog.pass_position(), Some(offset), "a pass and its reader have parted");
            assert!(self.process.backlog.is_next(offset), "a pass is ahead of the main reader");
            let (mut given, mut stalled) = (Vec::new(), false);
            for webhook in self.matched(offset) {
                let gauge = Arc::clone(&self.process.gauges[webhook]);
                let dropped = (self.table[webhook] == Standing::Dropped).then_some(DropReason::Suspended);
                match self.process.backlog.offer_catch_up(&gauge, Self::offered(offset), dropped, look) {
                    CatchUpOffer::Give(admitted) => given.push((webhook, admitted)),
                    CatchUpOffer::Skip => {}
                    CatchUpOffer::Stall => stalled = true,
                    CatchUpOffer::Drop(_) => {
                        self.receivers[webhook].dropped.insert(offset);
                    }
                    CatchUpOffer::Expire => panic!("nothing expires here"),
                }
            }
            let event = Arc::new(self.event(offset, None));
            for (webhook, admitted) in given {
                self.process.lanes[webhook].channel.push_back(Waiting { event: Arc::clone(&event), admitted });
            }
            if stalled {
                return;
            }
            self.process.backlog.catch_up_passed(offset);
            self.process.catch_up = Some(offset + 1);
            if self.process.backlog.is_level_at(offset + 1) {
                self.process.backlog.caught_up();
                return;
            }
        }
    }

    pub(super) fn lane(&mut self, webhook: usize) {
        if self.table[webhook] != Standing::Delivered {
            return self.follow_record(webhook);
        }
        match self.rng.random_range(0..10) {
            // The channel is emptied.
            0..4 => {
                let count = self.rng.random_range(0..300);
                self.process.take_in(webhook, count);
            }
            // Requests.
            4..9 => {
                self.process.recall(webhook);
                for _ in 0..self.rng.random_range(1..60) {
                    if self.rng.random_bool(0.5) {
                        self.begin(webhook);
                    } else if self.rng.random_bool(0.9) {
                        Self::end(&mut self.process, &mut self.receivers[webhook], webhook, &mut self.rng);
                    }
                }
            }
            // A circuit opens or closes.
            _ => {
                let gauge = Arc::clone(&self.process.gauges[webhook]);
                if gauge.is_blocked() {
                    if self.rng.random_bool(0.5) {
                        gauge.unblock();
                    } else {
                        gauge.want_any_as_probe();
                    }
                } else if self.receivers[webhook].is_down || self.rng.random_bool(0.05) {
                    gauge.block();
                    let waiting: Vec<_> = self.process.lanes[webhook].queue.drain(..).collect();
                    self.process.turn_back(webhook, waiting);
                }
            }
        }
    }

    /// A shard finds that a webhook is paused or gone: what waits goes back, or is dropped where it is counted.
    fn follow_record(&mut self, webhook: usize) {
        self.process.take_in(webhook, 1_000);
        let waiting: Vec<_> = self.process.lanes[webhook].queue.drain(..).collect();
        let is_gone = self.table[webhook] == Standing::Gone;
        let (dropped, returned) =
            waiting.into_iter().partition::<Vec<_>, _>(|waiting| is_gone && waiting.event.begin().is_ok());
        for waiting in dropped {
            self.receivers[webhook].dropped.insert(waiting.event.origin.offset);
            waiting.event.settle(Some(&self.process.gauges[webhook]));
        }
        self.process.turn_back(webhook, returned);
    }

    /// Begins the request of the first delivery whose entity has none under way.
    fn begin(&mut self, webhook: usize) {
        let lane = &mut self.process.lanes[webhook];
        let entity = |event: &Event| event.origin.offset % self.entities;
        let mut busy: BTreeSet<i64> = lane.under_way.iter().map(|event| entity(event)).collect();
        let next = lane.queue.iter().position(|waiting| busy.insert(entity(&waiting.event)));
        let Some(next) = next.filter(|_| lane.under_way.len() < self.lane_max) else { return };
        let Some(waiting) = lane.queue.remove(next) else { return };
        if waiting.event.begin().is_err() {
            return self.process.turn_back(webhook, vec![waiting]);
        }
        let (offset, entity) = (waiting.event.origin.offset, entity(&waiting.event));
        let Receiver { requested, known, .. } = &mut self.receivers[webhook];
        assert!(!known.contains(&offset), "webhook {webhook}: {offset} was known to be settled");
        let later = requested.range(offset + 1..).find(|later| *later % self.entities == entity);
        assert!(later.is_none(), "webhook {webhook}: {offset} after {later:?}");
        assert!(requested.insert(offset), "webhook {webhook}: {offset} is requested twice");
        lane.under_way.push(waiting.event);
    }

    /// A request ends: acknowledged, or put into a tier.
    pub(super) fn end(process: &mut Process, receiver: &mut Receiver, webhook: usize, rng: &mut StdRng) {
        let under_way = &mut process.lanes[webhook].under_way;
        if under_way.is_empty() {
            return;
        }
        let event = under_way.swap_remove(rng.random_range(0..under_way.len()));
        receiver.settled.insert(event.origin.offset);
        event.settle(Some(&process.gauges[webhook]));
    }
}
