//! Seeds that failed once, each with the fault that it found. Steps and invariants are the simulator's.

use super::simulate;

/// What was still on its way to a lane when the lane returned what waited came back after later events had been given.
#[test]
fn what_is_on_its_way_to_a_lane_that_returns_comes_before_what_is_given_next() {
    simulate(1);
}

/// A place that the former owner let go with nothing to give kept its webhook behind until the next event.
#[test]
fn a_webhook_that_is_let_go_with_nothing_to_give_is_level() {
    simulate(2_824);
}

/// What the main reader skipped for a webhook was committed as settled before its place was in Kafka: a crash lost it.
#[test]
fn nothing_is_committed_that_waits_for_a_place_which_is_not_in_kafka() {
    [0, 42, 53, 65].into_iter().for_each(simulate);
}

/// A former owner wrote a place that it had let go again and again, also after the next owner had removed it.
#[test]
fn a_place_that_a_former_owner_let_go_is_not_written_again() {
    simulate(3_873);
}

/// A webhook that was level bounded commits again by what it had been given long ago, when a place was to cover a delivery that took
/// long: the commit went back.
#[test]
fn a_commit_never_goes_back() {
    simulate(6_997);
}

/// An owner died after it had written a held place and before its last commit. The next one could commit nothing while it waited for
/// the release, and the one after that gave everything again.
#[test]
fn a_place_of_an_owner_that_never_handed_over_bounds_no_commit() {
    simulate(56_809);
}
