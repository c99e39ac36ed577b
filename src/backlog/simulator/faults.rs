//! What goes wrong, and how owners of the partition follow each other. Reading and requests are in `work`.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;

use super::super::behind::{Behind, Standing};
use super::process::{Committed, Process};
use super::{FORMER_MAX, WEBHOOKS, World};

/// Owners that are frozen at once.
const FROZEN_MAX: usize = 2;
/// After so many steps without an answer of the coordinator nothing more is handed over.
const SILENT_STEPS_MAX: u64 = 5;
/// How far a clock jumps, in ms.
const CLOCK_JUMP_MS: i64 = 60_000;

/// Faults that a world may have besides crashes, handovers, and writes that fail or come late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The owner's clock jumps.
    Clock,
    /// The owner stands still past its session, and goes on when the partition has another owner.
    Freeze,
    /// The coordinator does not answer commits.
    Silence,
    /// An integration is paused, suspended, removed, or active again.
    Table,
    /// The log loses its last records, or is created again. Other records get their offsets.
    Truncation,
}

impl Fault {
    /// A random part of them.
    pub(super) fn some(fate: &mut StdRng) -> Vec<Self> {
        let mut all = vec![Self::Clock, Self::Freeze, Self::Silence, Self::Table, Self::Truncation];
        all.retain(|_| fate.random_bool(0.5));
        all
    }
}

impl World {
    /// Now and then one of the world's faults happens. They have random numbers of their own, so that the steps of a seed stay the same
    /// without them.
    pub(super) fn maybe_fail(&mut self) {
        self.steps += 1;
        if self.faults.is_empty() || !self.fate.random_bool(0.05) {
            return;
        }
        match self.faults[self.fate.random_range(0..self.faults.len())] {
            Fault::Clock => self.now_ms += self.fate.random_range(-CLOCK_JUMP_MS..CLOCK_JUMP_MS),
            Fault::Freeze if self.frozen.len() < FROZEN_MAX && self.fate.random_bool(0.3) => self.freeze(),
            Fault::Freeze => self.wake(),
            Fault::Silence => {
                self.is_silent ^= true;
                self.silent_since = self.steps;
            }
            Fault::Table if self.fate.random_bool(0.5) => {
                let webhook = self.fate.random_range(0..WEBHOOKS);
                let standings = [Standing::Delivered, Standing::Delivered, Standing::Dropped, Standing::Gone];
                self.table[webhook] = standings[self.fate.random_range(0..standings.len())];
            }
            Fault::Table => self.judge(),
            Fault::Truncation if !self.process.is_closing && self.fate.random_bool(0.3) => self.truncate(),
            Fault::Truncation => {}
        }
    }

    /// From now on no new fault happens.
    pub(super) fn calm(&mut self) {
        self.is_silent = false;
        self.table.fill(Standing::Delivered);
        self.judge();
        while !self.frozen.is_empty() {
            self.wake();
        }
    }

    /// Whether the owner hands over nothing more, because nothing can be committed.
    pub(super) fn is_out_of_touch(&self) -> bool {
        self.is_silent && self.steps > self.silent_since + SILENT_STEPS_MAX
    }

    /// The owner looks whether webhooks that are behind still get anything.
    fn judge(&mut self) {
        let webhooks: Vec<_> = self.process.gauges.iter().map(|gauge| gauge.id()).collect();
        let table = &self.table;
        let standing = |id| webhooks.iter().position(|webhook| *webhook == id).map_or(Standing::Gone, |at| table[at]);
        let removed = self.process.backlog.all().filter(|behind| behind.may_be_abandoned());
        for behind in removed.filter(|behind| standing(behind.gauge.id()) == Standing::Gone) {
            let (webhook, place) = (self.process.webhook(&behind.gauge), behind.place());
            // What the last owner's commit named as settled is not read again: only the place covered it.
            let read = self.process.backlog.settled_before.last().map_or(0, |run| run.end).max(self.process.main);
            self.receivers[webhook].dropped.extend((0..read).filter(|offset| place.covers(*offset)));
        }
        self.process.backlog.judge(|gauge| standing(gauge.id()));
    }

    fn freeze(&mut self) {
        let frozen = self.restart();
        self.frozen.push(frozen);
        self.receivers.iter_mut().for_each(|receiver| receiver.requested.clear());
    }

    /// A frozen owner goes on: it begins and ends requests and writes places until it hears that the partition has another owner.
    fn wake(&mut self) {
        let Some(mut woken) = self.frozen.pop() else { return };
        for (webhook, receiver) in self.receivers.iter_mut().enumerate() {
            woken.take_in(webhook, self.fate.random_range(0..20));
            let begun = woken.lanes[webhook].queue.pop_front().filter(|waiting| waiting.event.begin().is_ok());
            woken.lanes[webhook].under_way.extend(begun.map(|waiting| waiting.event));
            for _ in 0..self.fate.random_range(0..10) {
                Self::end(&mut woken, receiver, webhook, &mut self.fate);
            }
        }
        woken.listen(self.now_ms);
        let due = woken.backlog.writes_due(self.now_ms);
        self.late.extend(woken.writes.iter().map(|(webhook, _, place)| (woken.epoch, *webhook, place.clone())));
        self.late.extend(due.into_iter().map(|write| (woken.epoch, woken.webhook(&write.gauge), write.place)));
        woken.assignment.close();
        woken.assignment.end();
    }

    /// The log loses its records from some offset on, which is 0 where it is created again. The owner goes on where it was settled, or
    /// at the end that is left. What was in memory of it is lost here with the process: its outcome is not known.
    fn truncate(&mut self) {
        let end = if self.fate.random_bool(0.2) { 0 } else { self.fate.random_range(0..=self.process.main) };
        for is_matched in self.matches.iter_mut().skip(usize::try_from(end).unwrap()).flatten() {
            *is_matched = self.fate.random_bool(0.5);
        }
        let assignment = &self.process.assignment;
        let next = assignment.committable().or(assignment.start()).unwrap_or(0);
        let offset = next.min(assignment.commit_bound()).min(end);
        self.committed = Committed { offset, beyond: Vec::new() };
        self.former.clear();
        self.frozen.clear();
        for receiver in &mut self.receivers {
            receiver.settled.split_off(&end);
            receiver.dropped.split_off(&end);
        }
        drop(self.restart());
        self.receivers.iter_mut().for_each(|receiver| receiver.requested.clear());
    }

    fn restart(&mut self) -> Process {
        for (webhook, (epoch, _)) in &self.stored {
            let id = self.process.gauges[*webhook].id();
            let has_place = |behind: &Behind| behind.gauge.id() == id && !behind.is_over();
            if *epoch < self.epoch && !self.process.backlog.all().any(has_place) {
                // A former owner wrote it after this one had removed it, and this one has not seen it: it is given again. The removal may
                // have been acknowledged just now, so that the webhook is not forgotten yet.
                self.receivers[*webhook].requested.clear();
            }
        }
        for (webhook, receiver) in self.receivers.iter_mut().enumerate() {
            receiver.learn(&self.committed, self.stored.get(&webhook).map(|(_, place)| place));
        }
        self.epoch += 1;
        let next = Process::start(&self.committed, &self.stored, self.epoch);
        std::mem::replace(&mut self.process, next)
    }

    pub(super) fn crash(&mut self) {
        let crashed = self.restart();
        let writes = crashed.writes.iter().map(|(webhook, _, place)| (crashed.epoch, *webhook, place.clone()));
        self.late.extend(writes);
        self.receivers.iter_mut().for_each(|receiver| receiver.requested.clear());
    }

    /// The partition is given up, in steps: what waits comes back, places are held, the last commit, the next owner.
    pub(super) fn give_up(&mut self) {
        if !self.process.is_closing {
            if self.former.len() < FORMER_MAX {
                self.process.is_closing = true;
                self.process.assignment.close();
            }
            return;
        }
        for webhook in 0..WEBHOOKS {
            self.process.take_in(webhook, 1_000);
            self.process.recall(webhook);
        }
        self.process.listen(self.now_ms);
        if self.process.backlog.has_open() && self.rng.random_bool(0.5) {
            return;
        }
        self.process.backlog.hold(self.now_ms);
        self.process.backlog.write_soon();
        self.write();
        self.process.assignment.set_commit_bound(self.process.backlog.commit_bound());
        self.process.assignment.set_places_stored(self.process.backlog.is_stored());
        if self.process.assignment.wait_quiet(Duration::ZERO) {
            self.commit();
            self.process.assignment.hand_over();
            let former = self.restart();
            self.former.push(former);
            if self.is_silent {
                // The last commit did not come through: what was settled since the one before is given again.
                self.receivers.iter_mut().for_each(|receiver| receiver.requested.clear());
            }
        }
    }

    /// Former owners go on until the requests under way have ended. Some crash before that.
    pub(super) fn linger(&mut self) {
        for index in (0..self.former.len()).rev() {
            let process = &mut self.former[index];
            for (webhook, receiver) in self.receivers.iter_mut().enumerate() {
                if self.rng.random_bool(0.5) {
                    Self::end(process, receiver, webhook, &mut self.rng);
                }
            }
            process.listen(self.now_ms);
            process.backlog.release(false);
            process.backlog.write_soon();
            if !process.backlog.is_held_here() && process.backlog.is_stored() {
                process.assignment.end();
                self.former.remove(index);
            } else if self.rng.random_bool(0.01) {
                self.former.remove(index);
                self.receivers.iter_mut().for_each(|receiver| receiver.requested.clear());
            }
        }
    }

    /// The owner looks whether former owners have released places. A place whose holder crashed is released when its time has run out.
    pub(super) fn follow(&mut self) {
        let held: Vec<_> = self.process.backlog.held_elsewhere().map(Arc::clone).collect();
        for gauge in held {
            let webhook = self.process.webhook(&gauge);
            let place = self.stored.get(&webhook).map(|(_, place)| place.clone()).unwrap_or_default();
            let is_alive = self.former.iter().any(|former| former.backlog.is_held_here());
            if !place.is_held || (!is_alive && self.former.is_empty()) {
                self.process.backlog.released(&gauge, &place);
            }
        }
        if !self.process.is_closing {
            for (webhook, (epoch, place)) in &self.stored {
                if *epoch < self.process.epoch {
                    self.process.backlog.remove_late(&self.process.gauges[*webhook], place, self.now_ms);
                }
            }
        }
    }
}
