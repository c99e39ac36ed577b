//! The rules as tables. Properties show that the state depends neither on the worker that counted nor on the order of reports.

use super::*;
use crate::domain::outcome::Reason;
use proptest::prelude::*;

const RULES: Rules =
    Rules { errors_window_s: 60, errors_min_attempts: 20, suspend_after_ms: 100_000, suspend_after_failures: 10 };

/// One attempt: when it ended, and the reason if it failed.
type Attempt = (i64, Option<Reason>);

/// The counts of attempts in their order, all in one second.
fn slot(attempts: &[Attempt]) -> SecondCounts {
    let mut slot = SecondCounts::of(second_of(attempts[0].0));
    for (at, reason) in attempts {
        assert_eq!(second_of(*at), slot.second);
        match reason {
            None => slot.acknowledge(*at),
            Some(reason) => slot.fail(*at, *reason, (*reason == Reason::Status).then_some(500)),
        }
    }
    slot
}

/// Each attempt reported by itself, in the order given.
fn counted(attempts: impl IntoIterator<Item = Attempt>, now_ms: i64) -> IntegrationHealth {
    let mut known = IntegrationHealth::default();
    for (number, attempt) in (1..).zip(attempts) {
        let reported = ReporterPosition { process_id: 7, sequence: number };
        assert!(known.apply(number.cast_signed(), reported, &[slot(&[attempt])], &RULES, now_ms));
    }
    known
}

fn failed(at: i64) -> Attempt {
    (at, Some(Reason::Timeout))
}

#[track_caller]
fn check(attempts: &[Attempt], now_ms: i64, expected: Health) {
    assert_eq!(counted(attempts.iter().copied(), now_ms).judge(&RULES, now_ms), expected);
}

#[test]
fn half_of_enough_attempts_in_the_window_are_errors() {
    let mix = |acknowledged: i64, failures: i64| -> Vec<Attempt> {
        // Failures first: the acknowledgements keep it from being dead.
        (0..failures).map(failed).chain((0..acknowledged).map(|at| (1_000 + at, None))).collect()
    };
    check(&mix(10, 10), 2_000, Health::HasErrors);
    check(&mix(11, 10), 2_000, Health::Active);
    check(&mix(9, 10), 2_000, Health::Active);
    check(&mix(0, 20), 2_000, Health::HasErrors);
    check(&mix(0, 19), 2_000, Health::Active);
    check(&mix(1, 49), 2_000, Health::HasErrors);
    check(&[], 2_000, Health::Active);
}

#[test]
fn errors_pass_with_the_window() {
    let mut known = counted((0..40).map(|n| failed(10_000 + n)), 11_000);
    assert_eq!(known.judge(&RULES, 11_000), Health::HasErrors);
    let mut known = known.changed(Health::HasErrors, 11_000);
    assert_eq!(known.judge(&RULES, 69_000), Health::HasErrors);
    // A part of the window is two seconds long.
    assert_eq!(known.judge(&RULES, 73_000), Health::Active);
}

#[test]
fn enough_failures_over_long_enough_without_an_acknowledgement_suspend() {
    let nine: Vec<Attempt> = (0..9).map(|n| failed(n * 10_000)).collect();
    check(&nine, 200_000, Health::Active);
    let ten = [&nine[..], &[failed(99_000)]].concat();
    check(&ten, 99_999, Health::Active);
    check(&ten, 100_000, Health::Failed);
    let acknowledged = [&ten[..], &[(99_500, None)]].concat();
    check(&acknowledged, 100_000, Health::Active);
    let later = ten.iter().map(|(at, reason)| (at + 10_000, *reason));
    let early: Vec<Attempt> = [(9_999, None)].into_iter().chain(later).collect();
    check(&early, 109_999, Health::Active);
    check(&early, 110_000, Health::Failed);
    let in_its_second = [&[(9_000, None)], &early[1..], &[(9_100, None)]].concat();
    check(&in_its_second, 110_000, Health::Failed);
    let between = [&ten[..], &[(50_500, None)]].concat();
    check(&between, 500_000, Health::Active);
}

#[test]
fn an_integration_has_errors_before_it_is_suspended() {
    let attempts: Vec<Attempt> = (0..20).map(|n| failed(n * 100)).collect();
    let known = counted(attempts.clone(), 40_000);
    assert_eq!(known.clone().judge(&RULES, 40_000), Health::HasErrors);
    let hurried = Rules { suspend_after_ms: 1_000, ..RULES };
    assert_eq!(known.clone().judge(&hurried, 40_000), Health::HasErrors);
    assert_eq!(known.changed(Health::HasErrors, 40_000).judge(&hurried, 40_000), Health::Failed);
    // Too few in the window for the first, and enough over all for the second.
    check(&(0..10).map(|n| failed(n * 20_000)).collect::<Vec<_>>(), 200_000, Health::Failed);
}

#[test]
fn failures_reported_together_count_when_all_of_them_follow_the_acknowledgement() {
    let streak = |reports: &[&[Attempt]]| {
        let mut known = IntegrationHealth::default();
        for (offset, attempts) in (0..).zip(reports) {
            assert!(known.apply(
                offset,
                ReporterPosition { process_id: 1, sequence: offset.cast_unsigned() },
                &[slot(attempts)],
                &RULES,
                9_000
            ));
        }
        (known.counts.streak.failures().total(), known.counts.streak.first_ms())
    };
    let (before, after, acknowledged) = (failed(1_100), failed(1_300), (1_200, None));
    assert_eq!(streak(&[&[before, acknowledged, after]]), (1, Some(1_300)));
    assert_eq!(streak(&[&[before, after], &[acknowledged]]), (0, None), "in doubt for the integration");
    assert_eq!(streak(&[&[acknowledged], &[before, after]]), (0, None), "in doubt for the integration");
    assert_eq!(streak(&[&[before], &[acknowledged], &[after]]), (1, Some(1_300)));
    assert_eq!(streak(&[&[after], &[acknowledged], &[before]]), (1, Some(1_300)));
    let mut merged = slot(&[before, acknowledged]);
    merged.merge(&slot(&[after]));
    assert_eq!((merged.unacknowledged.total(), merged.first_failure_ms), (1, Some(1_300)));
    let mut merged = slot(&[before]);
    merged.merge(&slot(&[acknowledged]));
    assert_eq!((merged.failures.total(), merged.unacknowledged.total(), merged.first_failure_ms), (1, 0, None));
}

#[test]
fn failed_stays_until_it_is_resumed_and_then_counting_begins_again() {
    let mut known = counted((0..10).map(|n| failed(n * 10_000)), 100_000);
    assert_eq!(known.judge(&RULES, 100_000), Health::Failed);
    let mut suspended = known.changed(Health::Failed, 100_000);
    suspended.first_dropped.insert(3, 77);
    assert_eq!(suspended.failures().iter().collect::<Vec<_>>(), [(Reason::Timeout, 10)]);
    let acknowledgement = slot(&[(150_000, None)]);
    suspended.apply(100, ReporterPosition { process_id: 8, sequence: 1 }, &[acknowledgement], &RULES, 150_000);
    assert_eq!(suspended.judge(&RULES, 900_000), Health::Failed);

    let mut resumed = suspended.resumed(200_000);
    assert_eq!((resumed.health, resumed.since_ms), (Health::Active, Some(200_000)));
    assert_eq!(resumed.first_dropped.get(&3), Some(&77), "a replay after the resume can still begin there");
    assert_eq!(resumed.counts.last_acknowledged_ms, Some(150_000));
    // What was under way when it was resumed is reported late.
    resumed.apply(101, ReporterPosition { process_id: 8, sequence: 2 }, &[slot(&[failed(199_000)])], &RULES, 201_000);
    assert!(resumed.failures().is_empty());
    resumed.apply(102, ReporterPosition { process_id: 8, sequence: 3 }, &[slot(&[failed(202_000)])], &RULES, 203_000);
    assert_eq!(resumed.failures().total(), 1);
    assert_eq!(resumed.judge(&RULES, 900_000), Health::Active);
}

#[test]
fn an_acknowledgement_that_is_not_counted_still_ends_the_streak() {
    let mut known = counted((0..10).map(|n| failed(n * 10_000)), 100_000);
    let uncounted = SecondCounts { second: 95, last_acknowledged_ms: Some(95_000), ..SecondCounts::default() };
    known.apply(100, ReporterPosition { process_id: 8, sequence: 1 }, &[uncounted], &RULES, 100_000);
    assert_eq!(known.judge(&RULES, 200_000), Health::Active);
    assert!(known.counts.acknowledged.is_empty());
}

#[test]
fn a_fast_clock_does_not_acknowledge_the_future() {
    let mut known = IntegrationHealth::default();
    known.apply(1, ReporterPosition { process_id: 1, sequence: 1 }, &[slot(&[(900_000, None)])], &RULES, 10_000);
    assert_eq!(known.counts.last_acknowledged_ms, Some(10_999));
}

#[test]
fn a_report_that_was_applied_is_not_counted_again() {
    let one = [slot(&[failed(1_000)])];
    let mut known = IntegrationHealth::default();
    let mut report = |offset, process_id, sequence| {
        known.apply(offset, ReporterPosition { process_id, sequence }, &one, &RULES, 2_000)
    };
    assert!(report(10, 1, 5));
    assert!(!report(10, 1, 5), "read again");
    assert!(!report(9, 1, 4), "read again from further back");
    assert!(!report(11, 1, 5), "published twice");
    assert!(report(12, 1, 6));
    assert!(report(13, 2, 1), "another process");
    assert!(report(14, 1, 9));
    assert_eq!(known.failures().total(), 4);
}

#[test]
fn only_idle_integrations_without_failures_are_forgotten() {
    let idle = counted([(1_000, None)], 100_000);
    assert!(!idle.is_forgettable(1_000));
    let mut idle = counted([(1_000, None)], 1_000);
    idle.judge(&RULES, 100_000);
    assert!(idle.is_forgettable(1_001));
    assert!(!counted([failed(1_000)], 1_000).is_forgettable(500_000));
    assert!(!idle.changed(Health::Failed, 2_000).is_forgettable(500_000));
    assert!(!idle.changed(Health::Active, 2_000).is_forgettable(2_000));
}

/// The contract's rule, over single attempts: how many failed since the last acknowledgement, and when the first of them did.
fn naive_streak(attempts: &[Attempt]) -> (u64, Option<i64>) {
    let last = attempts.iter().filter(|(_, reason)| reason.is_none()).map(|(at, _)| *at).max();
    let since: Vec<i64> = attempts
        .iter()
        .filter(|(at, reason)| reason.is_some() && last.is_none_or(|last| *at > last))
        .map(|(at, _)| *at)
        .collect();
    (since.len() as u64, since.iter().min().copied())
}

/// How many failed in a later second than that of the last acknowledgement.
fn beyond_doubt(attempts: &[Attempt]) -> u64 {
    let last = attempts.iter().filter(|(_, reason)| reason.is_none()).map(|(at, _)| second_of(*at)).max();
    let beyond = |at: i64| last.is_none_or(|last| second_of(at) > last);
    attempts.iter().filter(|(at, reason)| reason.is_some() && beyond(*at)).count() as u64
}

/// No two in one millisecond, in their order, and no more than are kept apart: beyond that only the latest
/// acknowledgements count in any order.
fn any_attempts() -> impl Strategy<Value = Vec<Attempt>> {
    let reason = prop::sample::select(vec![None, Some(Reason::Timeout), Some(Reason::Status), Some(Reason::Status)]);
    prop::collection::btree_map(0..12_000i64, reason, 0..32).prop_map(|attempts| attempts.into_iter().collect())
}

/// Reported by three processes, each the attempts of a second at once. Some reports come twice, which changes nothing.
fn reported(reports: &[(u64, Vec<Attempt>)], again: &[bool], now_ms: i64) -> IntegrationHealth {
    let mut known = IntegrationHealth::default();
    let mut offset = 0;
    let mut sequences = [0u64; 3];
    for ((process_id, attempts), again) in reports.iter().zip(again) {
        let sequence = &mut sequences[usize::try_from(*process_id).unwrap()];
        *sequence += 1;
        let reported = ReporterPosition { process_id: *process_id, sequence: *sequence };
        assert!(known.apply(offset, reported, &[slot(attempts)], &RULES, now_ms));
        if *again {
            // Read again, and published again.
            assert!(!known.apply(offset, reported, &[slot(attempts)], &RULES, now_ms));
            offset += 1;
            assert!(!known.apply(offset, reported, &[slot(attempts)], &RULES, now_ms));
        }
        offset += 1;
    }
    known
}

proptest! {
    #[test]
    fn the_state_does_not_depend_on_the_order_of_reports_and_is_exact_with_one_reporter(
        attempts in any_attempts(),
        shuffle in prop::collection::vec(any::<prop::sample::Index>(), 32),
        split in prop::collection::vec(0..3u64, 32),
        repeat in prop::collection::vec(any::<bool>(), 32),
    ) {
        let now = 40_000;
        let single = counted(attempts.clone(), now);
        let streak = |known: &IntegrationHealth| (known.counts.streak.failures().total(), known.counts.streak.first_ms());
        let exact = naive_streak(&attempts);
        prop_assert_eq!(streak(&single), exact);

        let by_second = |of: &dyn Fn(usize) -> u64| {
            let mut reports: Vec<(u64, Vec<Attempt>)> = Vec::new();
            for (number, attempt) in attempts.iter().enumerate() {
                let process_id = of(number);
                let same = |(b, reported): &&mut (u64, Vec<Attempt>)| *b == process_id && second_of(reported[0].0) == second_of(attempt.0);
                match reports.iter_mut().find(same) {
                    Some((_, reported)) => reported.push(*attempt),
                    None => reports.push((process_id, vec![*attempt])),
                }
            }
            reports
        };
        let alone = reported(&by_second(&|_| 0), &repeat, now);
        prop_assert_eq!(streak(&alone), exact);

        let mut reports = by_second(&|number| split[number]);
        let in_order = reported(&reports, &repeat, now);
        for (index, with) in shuffle.iter().enumerate().take(reports.len()) {
            let with = with.index(reports.len());
            reports.swap(index, with);
        }
        let known = reported(&reports, &repeat, now);
        prop_assert_eq!(&known.counts, &in_order.counts);
        prop_assert_eq!((&known.counts.acknowledged, &known.counts.failed), (&single.counts.acknowledged, &single.counts.failed));
        prop_assert_eq!(
            (known.counts.last_acknowledged_ms, known.counts.last_answer),
            (single.counts.last_acknowledged_ms, single.counts.last_answer)
        );
        let (count, first) = streak(&known);
        prop_assert!((beyond_doubt(&attempts)..=exact.0).contains(&count) && (count == 0 || first >= exact.1));
        for later in [now, 90_000, 130_000, 200_000] {
            prop_assert_eq!(known.clone().judge(&RULES, later), in_order.clone().judge(&RULES, later));
        }
    }

    #[test]
    fn the_kept_counts_are_bounded(attempts in prop::collection::vec((0..10_000_000i64, any::<bool>()), 0..400)) {
        let mut known = IntegrationHealth::default();
        let mut sorted = attempts;
        sorted.sort_unstable();
        sorted.dedup_by_key(|(at, _)| *at);
        for (number, (at, ok)) in (1u64..).zip(sorted.iter().copied()) {
            let reason = if ok { None } else { Some(Reason::Reset) };
            known.apply(number.cast_signed(), ReporterPosition { process_id: number, sequence: 1 }, &[slot(&[(at, reason)])], &RULES, at);
            prop_assert!(known.counts.streak.recent.len() <= 32 && known.reported.len() <= REPORTERS_MAX);
            prop_assert!(known.counts.acknowledged.len() <= 32 && known.counts.failed.len() <= 32);
        }
        let attempts: Vec<Attempt> =
            sorted.into_iter().map(|(at, ok)| (at, (!ok).then_some(Reason::Reset))).collect();
        let (count, first) = naive_streak(&attempts);
        prop_assert_eq!((known.counts.streak.failures().total(), known.counts.streak.first_ms()), (count, first));
    }
}
