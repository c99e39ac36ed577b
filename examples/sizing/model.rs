//! The arithmetic: from what is expected to what is needed. Pure. Figures that are not arguments stand in `constants`.

use super::constants::{
    BOOTSTRAP_SECONDS, CIRCUIT_FAILURES, CONNECTION_BYTES, DELIVERY_SECONDS, DELIVERY_SECONDS_PER_KIB, EVENT_SECONDS,
    FAILOVER_SECONDS, HEADER_BYTES, PARTITIONS_MIN, PLACE_BYTES, PROBE_SECONDS, PROBES_SHARE, REPEATED_SECONDS,
    SCHEDULE, SUSPEND_SECONDS, TIER_RETENTION_SECONDS, WEBHOOK_BYTES, WORKER_BYTES, WORKERS_MIN,
};

/// What is expected. Shares are 0 to 1, times are seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    pub(crate) events_per_second: f64,
    pub(crate) event_bytes: f64,
    pub(crate) webhooks: f64,
    pub(crate) webhooks_per_host: f64,
    pub(crate) matches_per_event: f64,
    /// The share of deliveries to receivers that take requests and never answer.
    pub(crate) dead: f64,
    /// The share of deliveries to receivers that take `slow_answer`.
    pub(crate) slow: f64,
    /// The share of attempts at the other receivers that fail.
    pub(crate) failing: f64,
    pub(crate) answer: f64,
    pub(crate) slow_answer: f64,
    pub(crate) request_timeout: f64,
    pub(crate) retention: f64,
    pub(crate) replicas: f64,
    pub(crate) worker_cores: f64,
    /// The share of a worker's processors and places that may be used.
    pub(crate) utilisation: f64,
    pub(crate) max_in_flight: f64,
}

/// The cost of the dead receivers when all of them have just died: their worst hour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dying {
    /// Seconds until the circuit of a webhook is open in each worker, or its integration is suspended.
    pub(crate) opens_after: f64,
    /// Attempts a second until then, with retries.
    pub(crate) attempts: f64,
    /// Probes a second from then on, at most, until they are suspended.
    pub(crate) probes: f64,
}

/// A retry topic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tier {
    pub(crate) delay: f64,
    pub(crate) records_per_second: f64,
    pub(crate) bytes: f64,
}

/// What is needed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) deliveries_per_second: f64,
    /// Requests under way in all workers together.
    pub(crate) in_flight: f64,
    /// Cores that are busy in all workers together.
    pub(crate) cores: f64,
    pub(crate) workers_for_cores: usize,
    pub(crate) workers_for_places: usize,
    /// `--max-in-flight` with which places ask for no more workers than cores do.
    pub(crate) max_in_flight_enough: f64,
    /// The larger of the two, and one more for the loss of one.
    pub(crate) workers: usize,
    pub(crate) partitions: usize,
    /// Bytes of one worker.
    pub(crate) memory: f64,
    pub(crate) dying: Dying,
    pub(crate) tiers: Vec<Tier>,
    pub(crate) events_bytes: f64,
    pub(crate) backlog_bytes: f64,
    /// What all brokers together write, with copies.
    pub(crate) written_per_second: f64,
    /// What workers read, at most: once as it comes, and once more for webhooks that are behind.
    pub(crate) read_per_second: f64,
    /// Seconds until a crash of one worker is caught up with.
    pub(crate) failover: f64,
    /// Deliveries that a crash repeats, at most.
    pub(crate) repeated: f64,
    /// Seconds in which a worker reads its table at its start.
    pub(crate) bootstrap: f64,
}

/// Rounds before the number of workers and the time until circuits are open agree. Each round adds workers or is the last, and what
/// the dead cost is bounded.
const ROUNDS_MAX: usize = 64;

/// Plans for `load`.
pub(crate) fn plan(load: &Load) -> Plan {
    let mut workers = WORKERS_MIN;
    for _ in 0..ROUNDS_MAX {
        let needed = needed(load, workers).workers;
        if needed <= workers {
            break;
        }
        workers = needed;
    }
    needed(load, workers)
}

/// What is needed when this number of workers each has its own circuits.
fn needed(load: &Load, workers: usize) -> Plan {
    let deliveries = load.events_per_second * load.matches_per_event;
    let dying = dying(load, deliveries, count(workers));
    let good = deliveries * (1.0 - load.dead);
    // Attempts of those that fail now and then: a geometric series, cut where the schedule ends.
    let attempts = good * (0..=SCHEDULE.len()).map(|retry| power(load.failing, retry)).sum::<f64>();
    let slow_share = load.slow / (1.0 - load.dead).max(f64::EPSILON);
    let answer = load.answer * (1.0 - slow_share) + load.slow_answer.min(load.request_timeout) * slow_share;
    let in_flight = attempts * answer + dying.attempts.max(dying.probes) * load.request_timeout;
    let delivery = DELIVERY_SECONDS + DELIVERY_SECONDS_PER_KIB * load.event_bytes / 1024.0 - EVENT_SECONDS;
    let cores = load.events_per_second * EVENT_SECONDS + (attempts + dying.attempts.max(dying.probes)) * delivery;
    let workers_for_cores = whole(cores / (load.worker_cores * load.utilisation));
    let workers_for_places = whole(in_flight / (load.max_in_flight * load.utilisation));
    let workers = (workers_for_cores.max(workers_for_places) + 1).max(WORKERS_MIN);
    // Twice as many: workers can be added without moving keys, and the loss of one spreads over all others.
    let partitions = (2 * workers).max(PARTITIONS_MIN);
    let tiers = tiers(load, good, &dying);
    let record = load.event_bytes + HEADER_BYTES;
    let retried: f64 = tiers.iter().map(|tier| tier.records_per_second).sum();
    let each = |total: f64| total / count(workers);
    let hosts = (load.webhooks / load.webhooks_per_host).min(load.max_in_flight);
    // How many times the load the remaining workers can take.
    let by_cores = count(workers - 1) * load.worker_cores / cores;
    let by_places = count(workers - 1) * load.max_in_flight * (1.0 - PROBES_SHARE) / in_flight.max(f64::EPSILON);
    let left = load.events_per_second * by_cores.min(by_places);
    let missed = FAILOVER_SECONDS * each(load.events_per_second);
    Plan {
        deliveries_per_second: deliveries,
        in_flight,
        cores,
        workers_for_cores,
        workers_for_places,
        max_in_flight_enough: in_flight / (count(workers_for_cores.max(1)) * load.utilisation),
        workers,
        partitions,
        memory: WORKER_BYTES + WEBHOOK_BYTES * load.webhooks + CONNECTION_BYTES * hosts,
        dying,
        events_bytes: load.events_per_second * load.event_bytes * load.retention * load.replicas,
        backlog_bytes: load.webhooks * (load.dead + load.slow) * count(partitions) * PLACE_BYTES * load.replicas,
        written_per_second: (load.events_per_second * load.event_bytes + retried * record) * load.replicas,
        read_per_second: 2.0 * load.events_per_second * load.event_bytes + retried * record,
        failover: FAILOVER_SECONDS + missed / (left - load.events_per_second).max(f64::EPSILON),
        repeated: each(in_flight) + REPEATED_SECONDS * each(deliveries),
        bootstrap: BOOTSTRAP_SECONDS * load.webhooks,
        tiers,
    }
}

/// The cost of receivers that have just died, all of them at once.
fn dying(load: &Load, deliveries: f64, workers: f64) -> Dying {
    let dead = deliveries * load.dead;
    if dead == 0.0 {
        return Dying { opens_after: 0.0, attempts: 0.0, probes: 0.0 };
    }
    // The circuit of a host opens by the failures of all its webhooks together.
    let to_host = deliveries / load.webhooks * load.webhooks_per_host / workers;
    let opens_after = (CIRCUIT_FAILURES / to_host + load.request_timeout).min(SUSPEND_SECONDS);
    let mut due = 0.0;
    let retries = SCHEDULE.iter().filter(|delay| {
        due += **delay + load.request_timeout;
        due < opens_after
    });
    let attempts = dead * (1.0 + count(retries.count()));
    let hosts = load.webhooks * load.dead / load.webhooks_per_host;
    Dying { opens_after, attempts, probes: (hosts * workers / PROBE_SECONDS).min(dead) }
}

/// The retry topics, shortest delay first: deliveries that fail now and then, and what a dying receiver has failed.
fn tiers(load: &Load, good: f64, dying: &Dying) -> Vec<Tier> {
    let mut tiers: Vec<Tier> = Vec::new();
    for (retry, delay) in SCHEDULE.into_iter().enumerate() {
        // An upper bound: each attempt at the dying counts as the first.
        let of_dying = if retry == 0 { dying.attempts.max(dying.probes) } else { 0.0 };
        let records = good * power(load.failing, retry + 1) + of_dying;
        let lasting = records - of_dying + dying.probes * f64::from(u8::from(retry == 0));
        // Those of an outage are kept for as long as others, but come for an hour at most.
        let kept = lasting * (delay + TIER_RETENTION_SECONDS) + of_dying * dying.opens_after;
        let bytes = kept * (load.event_bytes + HEADER_BYTES) * load.replicas;
        match tiers.iter_mut().find(|tier| tier.delay.to_bits() == delay.to_bits()) {
            Some(tier) => {
                tier.records_per_second += records;
                tier.bytes += bytes;
            }
            None => tiers.push(Tier { delay, records_per_second: records, bytes }),
        }
    }
    tiers
}

#[expect(clippy::cast_precision_loss, reason = "counts of workers and partitions are far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}

fn power(share: f64, times: usize) -> f64 {
    (0..times).fold(1.0, |product, _| product * share)
}

/// Rounded up.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and a float saturates")]
fn whole(number: f64) -> usize {
    number.ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Load = Load {
        events_per_second: 1_000.0,
        event_bytes: 1024.0,
        webhooks: 10_000.0,
        webhooks_per_host: 10.0,
        matches_per_event: 2.0,
        dead: 0.0,
        slow: 0.0,
        failing: 0.0,
        answer: 0.1,
        slow_answer: 2.0,
        request_timeout: 10.0,
        retention: 86_400.0,
        replicas: 3.0,
        worker_cores: 2.0,
        utilisation: 0.6,
        max_in_flight: 1_024.0,
    };

    #[track_caller]
    fn check(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{found}, not {expected}");
    }

    #[test]
    fn requests_under_way_are_rate_times_duration() {
        check(plan(&SMALL).in_flight, 200.0);
        check(plan(&Load { slow: 0.5, ..SMALL }).in_flight, 1_000.0 * 0.1 + 1_000.0 * 2.0);
        // A slow receiver is given up at the time-out.
        check(plan(&Load { slow: 0.5, slow_answer: 60.0, ..SMALL }).in_flight, 1_000.0 * 0.1 + 1_000.0 * 10.0);
    }

    #[test]
    fn processors_are_those_of_events_and_deliveries() {
        let deliveries = 2_000.0 * (14.8e-6 - 1.0 / 506_000.0);
        check(plan(&SMALL).cores, 1_000.0 / 506_000.0 + deliveries);
        let nothing = plan(&Load { matches_per_event: 0.0, ..SMALL });
        check(nothing.cores, 1_000.0 / 506_000.0);
        check(plan(&Load { failing: 1.0, ..SMALL }).cores, 1_000.0 / 506_000.0 + 8.0 * deliveries);
    }

    #[test]
    fn there_is_one_worker_more_than_the_load_needs_and_room_for_others() {
        let small = plan(&SMALL);
        assert_eq!((small.workers_for_cores, small.workers_for_places, small.workers, small.partitions), (1, 1, 2, 12));
        let large = plan(&Load { answer: 5.0, ..SMALL });
        assert_eq!((large.workers_for_places, large.workers, large.partitions), (17, 18, 36));
    }

    #[test]
    fn kafka_holds_each_event_and_each_retry_as_often_as_it_has_copies() {
        let plan = plan(&Load { failing: 0.1, ..SMALL });
        check(plan.events_bytes, 1_000.0 * 1024.0 * 86_400.0 * 3.0);
        assert_eq!(plan.tiers.len(), 5);
        check(plan.tiers[0].records_per_second, 200.0);
        check(plan.tiers[1].records_per_second, 20.0);
        // Three retries of the same delay are in one tier.
        check(plan.tiers[4].records_per_second, 2_000.0 * (1e-5 + 1e-6 + 1e-7));
        check(plan.tiers[0].bytes, 200.0 * (30.0 + 259_200.0) * 1_524.0 * 3.0);
        let retried: f64 = plan.tiers.iter().map(|tier| tier.records_per_second).sum();
        check(plan.written_per_second, (1_000.0 * 1024.0 + retried * 1_524.0) * 3.0);
    }

    #[test]
    fn the_cost_of_dead_receivers_ends_with_their_circuits() {
        // 2,000 deliveries a second to 1,000 hosts over 2 workers are one a second.
        let dying = plan(&Load { dead: 0.01, ..SMALL }).dying;
        check(dying.opens_after, 30.0);
        check(dying.attempts, 20.0);
        check(dying.probes, 2.0);
        // Receivers that get an event in a quarter of an hour are suspended before a circuit is open, and are asked again meanwhile.
        let rare = plan(&Load { dead: 0.01, webhooks: 1e7, ..SMALL }).dying;
        check(rare.opens_after, 3_600.0);
        check(rare.attempts, 20.0 * 5.0);
        assert!(rare.probes <= 20.0);
    }

    #[test]
    fn more_of_anything_never_needs_less() {
        let plans = |change: fn(&mut Load, f64)| {
            let of = |step: u8| {
                let mut load = Load { dead: 0.01, slow: 0.05, failing: 0.01, ..SMALL };
                change(&mut load, f64::from(step));
                plan(&load)
            };
            (1..20).map(of).collect::<Vec<_>>()
        };
        let changes: [fn(&mut Load, f64); 6] = [
            |load, step| load.events_per_second *= step * step,
            |load, step| load.event_bytes *= step,
            |load, step| load.matches_per_event *= step,
            |load, step| load.dead *= step,
            |load, step| load.slow_answer *= step,
            |load, step| load.failing *= step,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            for pair in plans(change).windows(2) {
                let [less, more] = pair else { continue };
                assert!(less.workers <= more.workers, "change {number}: {less:?} {more:?}");
                assert!(less.written_per_second <= more.written_per_second + 1e-6, "change {number}");
            }
        }
    }

    #[test]
    fn the_largest_installation_that_the_project_aims_at_has_a_plan() {
        let large = Load {
            events_per_second: 100_000.0,
            webhooks: 1_000_000.0,
            dead: 0.01,
            slow: 0.05,
            failing: 0.01,
            ..SMALL
        };
        // Places decide, not processors: as many as the defaults give need hundreds of workers.
        let places = plan(&large);
        assert!(places.workers_for_places > 10 * places.workers_for_cores, "{places:?}");
        let plan = plan(&Load { max_in_flight: 16_384.0, ..large });
        assert!((5..50).contains(&plan.workers), "{plan:?}");
        assert!(plan.partitions >= 2 * plan.workers && plan.memory < 1e9, "{plan:?}");
        assert!(plan.failover.is_finite() && plan.failover < 60.0, "{plan:?}");
    }
}
