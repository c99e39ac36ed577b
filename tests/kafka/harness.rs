//! The harness itself, which the other tests of this suite need.

use std::path::Path;
use std::process::Command;

use crate::support::cluster::Cluster;
use crate::support::process::{Process, Signal};
use crate::support::records::{Record, create_replicated_topic, create_topic, ends, produce, read_all, unique};
use crate::support::wait::{PATIENCE, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn records_round_trip_with_key_headers_partition_and_tombstones() {
    let cluster = Cluster::shared().await;
    let topic = unique("harness-round-trip");
    create_topic(cluster.brokers(), &topic, 3, &[]).await;
    let first = Record::new("k", "v").header("workspace", "w").header("workspace", "again").in_partition(2);
    produce(cluster.brokers(), &topic, [first, Record::tombstone("gone").in_partition(0)]);
    let records = read_all(cluster.brokers(), &topic);
    assert_eq!(records.len(), 2, "{records:?}");
    assert_eq!((records[0].partition, records[0].key_text(), &records[0].value), (0, "gone", &None));
    assert_eq!(records[1].partition, 2);
    assert_eq!(records[1].value.as_deref(), Some(&b"v"[..]));
    assert_eq!(records[1].headers.len(), 2);
    assert_eq!(records[1].header("workspace"), Some("w"));
    assert_eq!(ends(cluster.brokers(), &topic).into_values().collect::<Vec<_>>(), [1, 0, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_stop_die_and_come_back_with_their_data() {
    let mut cluster = Cluster::start(3).await;
    let topic = unique("harness-nodes");
    create_replicated_topic(cluster.brokers(), &topic, 3, 3, &[("min.insync.replicas", "2")]).await;
    produce(cluster.brokers(), &topic, (0..100).map(|n| Record::new(format!("{n}"), "before")));
    cluster.kill(0);
    produce(cluster.brokers(), &topic, (0..100).map(|n| Record::new(format!("{n}"), "one is dead")));
    cluster.restart(0);
    cluster.stop(1);
    produce(cluster.brokers(), &topic, (0..100).map(|n| Record::new(format!("{n}"), "one is stopped")));
    cluster.restart(1);
    assert_eq!(read_all(cluster.brokers(), &topic).len(), 300);
}

#[test]
fn a_process_is_ended_by_its_own_id_and_its_exit_code_is_kept() {
    let patience = PATIENCE;
    let mut sleeper = Process::start("a sleeper", "sh", &["-c", "echo ready; exec sleep 600"], &[]);
    assert_eq!(sleeper.lines().find(patience, |line| (line == "ready").then_some(())), Some(()));
    let pid = sleeper.pid();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    sleeper.signal(Signal::Term);
    assert_eq!(sleeper.wait(patience), 128 + 15);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    let mut failing = Process::start("a failing one", "sh", &["-c", "echo why >&2; exit 7"], &[]);
    assert_eq!(failing.wait(patience), 7);
    assert_eq!(failing.lines().all(), ["why"]);
}

#[test]
fn a_dropped_process_is_gone() {
    let sleeper = Process::start("a sleeper", "sleep", &["600"], &[]);
    let pid = sleeper.pid();
    drop(sleeper);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

/// Runs itself in a second process, which starts a sleeper under the watchdog, prints the sleeper's id and aborts.
#[tokio::test]
async fn a_killed_test_process_leaves_no_process_behind() {
    const ROLE: &str = "HOOKSTREAM_TEST_LEAVE_BEHIND";
    if std::env::var_os(ROLE).is_some() {
        let sleeper = Process::start("a sleeper", "sleep", &["600"], &[]);
        println!("sleeper {}", sleeper.pid());
        std::process::abort();
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "harness::a_killed_test_process_leaves_no_process_behind"])
        .env(ROLE, "1")
        .output()
        .unwrap();
    assert!(!child.status.success(), "it was aborted");
    let output = String::from_utf8(child.stdout).unwrap();
    let pid = output.lines().find_map(|line| line.split("sleeper ").nth(1)).expect(&output).to_owned();
    let gone = || if Path::new(&format!("/proc/{pid}")).exists() { Err("alive") } else { Ok(()) };
    wait_until(&format!("process {pid} to be gone"), PATIENCE, async || gone()).await;
}
