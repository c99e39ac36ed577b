//! Records that no producer should write: each is handled as in the contract, and the partition goes on.

use std::collections::{BTreeMap, BTreeSet};

use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};

use crate::raw_produce::{produce_blanks, produce_raw};
use crate::stage::{Stage, WORKSPACE, event, event_id, events, integration, record};
use crate::support::cluster::Cluster;
use crate::support::receiver::{Answer, Receiver};
use crate::support::records::{Read, Record, admin, produce_compressed};
use crate::support::wait::PATIENCE;

fn poison() -> Vec<(Record, bool)> {
    let values: [&[u8]; 18] = [
        b"not JSON",
        b"",
        b"[]",
        b"\"text\"",
        b"7",
        b"null",
        b"{}",
        br#"{"type":"change","entityIds":{"companyId":"c"}}"#,
        br#"{"id":null,"type":"change","entityIds":{"companyId":"c"}}"#,
        br#"{"id":"e","entityIds":{"companyId":"c"}}"#,
        br#"{"id":"e","type":"change"}"#,
        br#"{"id":"e","type":"change","entityIds":{}}"#,
        br#"{"id":"e","type":"change","entityIds":null}"#,
        br#"{"id":"e","type":"change","entityIds":["c"]}"#,
        br#"{"id":"e","type":"change","entityIds":{"companyId":"c"}"#,
        br#"{"id":"e","type":"change","entityIds":{"companyId":"c"}} {}"#,
        b"{\"id\":\"e\",\"type\":\"change\",\"entityIds\":{\"companyId\":\"c\"},\"x\":\"\xff\"}",
        b"\xef\xbb\xbf{\"id\":\"e\",\"type\":\"change\",\"entityIds\":{\"companyId\":\"c\"}}",
    ];
    let mut poison: Vec<_> = values.into_iter().map(|value| (record("k", value), true)).collect();
    poison.push((Record::tombstone("k").header("workspace", WORKSPACE), true));
    let good = event("e", "c").value;
    // No workspace: neither header nor key, or nothing in them.
    poison.push((Record { value: good.clone(), ..Record::default() }, false));
    poison.push((Record { value: good.clone(), key: Some(Vec::new()), ..Record::default() }, false));
    poison.push((Record::new(b"\xff".to_vec(), good.unwrap()), false));
    poison
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_not_an_event_is_a_dead_letter_and_the_partition_goes_on() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "poison", "1h", 1).await;
    let receiver = Receiver::start(|_| Answer::ok());
    stage.put([&integration("i", &receiver.url(""))]);
    let worker = stage.worker(&[]).await;
    let poison = poison();
    let mut records: Vec<Record> = Vec::new();
    for (number, (bad, _)) in poison.iter().enumerate() {
        records.push(event(&format!("good-{number}"), "c"));
        records.push(bad.clone());
    }
    records.push(event("last", "c"));
    stage.send(records);
    stage.settled(PATIENCE).await;
    assert_eq!(receiver.count(), poison.len() + 1, "the good ones are delivered");

    let dead: BTreeMap<String, Read> = stage
        .dead()
        .into_iter()
        .map(|letter| (letter.header("hookstream-origin").unwrap().to_owned(), letter))
        .collect();
    assert_eq!(dead.len(), poison.len());
    for (number, (bad, has_workspace)) in poison.iter().enumerate() {
        let origin = format!("{}/0/{}", stage.names.events(), 2 * number + 1);
        let letter = dead.get(&origin).unwrap_or_else(|| panic!("{bad:?} is not a dead letter"));
        assert_eq!(letter.value, bad.value, "its bytes are untouched");
        let mut expected = BTreeMap::from([("hookstream-reason", "invalid-event"), ("hookstream-origin", &origin)]);
        if *has_workspace {
            expected.insert("workspace", WORKSPACE);
        }
        let found: BTreeMap<_, _> =
            letter.headers.iter().map(|(name, _)| (name.as_str(), letter.header(name).unwrap())).collect();
        assert_eq!(found, expected, "{bad:?}");
    }
    let count = f64::from(u32::try_from(poison.len()).unwrap());
    stage.knows(&worker, "hookstream_events_total", &[("outcome", "invalid")], count).await;
    stage.knows(&worker, "hookstream_dead_letters_total", &[("reason", "invalid-event")], count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_megabyte_is_delivered_and_retried() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "large", "200ms", 1).await;
    let receiver = Receiver::start(|request| Answer::status(if request.attempt() == 1 { 500 } else { 200 }));
    stage.put([&integration("i", &receiver.url(""))]);
    let _worker = stage.worker(&[]).await;
    // As large as the topic takes, with what Kafka adds to it.
    let head = r#"{"id":"large","type":"change","entityIds":{"companyId":"c"},"x":""#;
    let value = format!("{head}{}\"}}", "ё".repeat((1_048_000 - head.len()) / 2));
    stage.send([record("c", value.clone()), event("small", "c")]);
    let requests = receiver.wait_for(4, PATIENCE).await;
    for request in requests.iter().filter(|request| event_id(request) == "large") {
        assert!(request.body == value, "{} of {} bytes", request.body.len(), value.len());
    }
    stage.settled(PATIENCE).await;
    stage.tier_settled("200ms", PATIENCE).await;
    assert_eq!((receiver.count(), stage.dead().len()), (4, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_name_that_is_not_utf_8_does_not_end_the_worker() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "header-name", "300ms", 1).await;
    let receiver = Receiver::start(|_| Answer::ok());
    let mut of_key = integration("i", &receiver.url(""));
    of_key["id"] = "i".into();
    stage.put([&of_key]);
    let mut worker = stage.worker(&[]).await;
    let value = event("strange", "c").value.unwrap();
    let header: (&[u8], &[u8]) = (b"\xff\xfe\x00name", b"\xff");
    produce_raw(cluster.brokers(), &stage.names.events(), 0, WORKSPACE.as_bytes(), &value, header);
    produce_raw(cluster.brokers(), &stage.names.tier("300ms"), 0, b"k", &value, header);
    stage.send([event("after", "c")]);
    let requests = receiver.wait_for(2, PATIENCE).await;
    let ids: Vec<_> = requests.iter().map(event_id).collect();
    assert_eq!(ids, ["strange", "after"]);
    stage.settled(PATIENCE).await;
    stage.tier_settled("300ms", PATIENCE).await;
    stage.knows(&worker, "hookstream_dropped_total", &[("reason", "unreadable-retry")], 1.0).await;
    worker.stop();
    assert!(
        !worker.lines().all().iter().any(|line| line.contains("panicked")),
        "it is no news: {}",
        worker.lines().tail(9)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_record_in_a_tier_is_dropped_counted_and_holds_nothing_back() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "foreign", "300ms", 1).await;
    let receiver = Receiver::start(|request| Answer::status(if request.attempt() == 1 { 500 } else { 200 }));
    stage.put([&integration("i", &receiver.url(""))]);
    let worker = stage.worker(&[]).await;
    let value = event("foreign", "c").value.unwrap();
    let full = Record::new("w-i", value.clone())
        .header("workspace", WORKSPACE)
        .header("hookstream-integration-id", "i")
        .header("hookstream-webhook-id", "w-i")
        .header("hookstream-delivery-id", "msg_1")
        .header("hookstream-attempt", "1");
    let without = |name: &str| {
        let mut record = full.clone();
        record.headers.retain(|(header, _)| header != name);
        record
    };
    let with = |name: &str, header: &[u8]| without(name).header(name, header.to_vec());
    let foreign = [
        Record::new("k", value.clone()),
        Record::default(),
        without("workspace"),
        without("hookstream-integration-id"),
        without("hookstream-webhook-id"),
        without("hookstream-delivery-id"),
        without("hookstream-attempt"),
        with("hookstream-attempt", b"many"),
        with("hookstream-attempt", b"-1"),
        with("workspace", b"\xff"),
        // What can't be a header of a request can't be a delivery's id.
        with("hookstream-delivery-id", b"line\nbreak"),
        with("hookstream-delivery-id", b""),
        Record { value: None, ..full.clone() },
    ];
    let count = f64::from(u32::try_from(foreign.len()).unwrap());
    stage.send_to_tier("300ms", foreign);
    stage.send([event("e", "c")]);
    receiver.wait_for(2, PATIENCE).await;
    // The least that a retry needs.
    stage.send_to_tier("300ms", [full]);
    receiver.wait_for(3, PATIENCE).await;
    stage.tier_settled("300ms", PATIENCE).await;
    stage.knows(&worker, "hookstream_dropped_total", &[("reason", "unreadable-retry")], count).await;
    let attempts: Vec<_> = receiver.recorded().iter().map(|request| (event_id(request), request.attempt())).collect();
    assert_eq!(attempts, [("e".to_owned(), 1), ("e".to_owned(), 2), ("foreign".to_owned(), 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_events_too_large_for_their_tier_become_dead_letters_with_that_reason() {
    // Each webhook fails less often than what opens its circuit.
    const WEBHOOKS: usize = 30;
    const SMALL: usize = 12;
    const LARGE: usize = 2;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "too-large", "1h", 1).await;
    let receiver = Receiver::start(|_| Answer::status(500));
    let names = (0..WEBHOOKS).map(|number| format!("i-{number}"));
    let integrations: Vec<_> = names.map(|name| integration(&name, &receiver.url(&format!("/{name}")))).collect();
    stage.put(&integrations);
    let worker = stage.worker(&[]).await;
    // The tier's limit is lowered behind the worker's back.
    let topic = stage.names.tier("1h");
    let change = AlterConfig::new(ResourceSpecifier::Topic(&topic))
        .set("max.message.bytes", "3000")
        .set("message.timestamp.type", "LogAppendTime");
    for altered in admin(cluster.brokers()).alter_configs([&change], &AdminOptions::new()).await.unwrap() {
        altered.unwrap();
    }
    let large: Vec<_> = (0..LARGE)
        .map(|number| {
            // Random, so that compression does not make it small.
            let noise: String = (0..6000).map(|_| char::from(rand::random_range(b'a'..=b'z'))).collect();
            let head = format!(r#"{{"id":"large-{number}","type":"change","entityIds":{{"companyId":"l"}},"x":"#);
            record("l", format!("{head}\"{noise}\"}}"))
        })
        .collect();
    // Many small ones at once: together in a batch they are too large as well.
    let mut all: Vec<_> = events("small", SMALL).collect();
    all.splice(SMALL / 2..SMALL / 2, large.clone());
    stage.send(all);
    stage.settled(PATIENCE).await;
    let dead = stage.dead();
    let reasons: BTreeSet<_> = dead.iter().map(|letter| letter.header("hookstream-reason").unwrap()).collect();
    assert_eq!(reasons, BTreeSet::from(["too-large"]));
    let values = |records: &[Read]| -> BTreeSet<_> { records.iter().filter_map(|read| read.value.clone()).collect() };
    assert_eq!(values(&dead), large.iter().filter_map(|event| event.value.clone()).collect());
    assert_eq!(dead.len(), LARGE * WEBHOOKS);
    let tier = stage.tier("1h");
    assert_eq!((values(&tier).len(), tier.len()), (SMALL, SMALL * WEBHOOKS));
    #[expect(clippy::cast_precision_loss, reason = "it is small")]
    let counted = dead.len() as f64;
    stage.knows(&worker, "hookstream_dead_letters_total", &[("reason", "too-large")], counted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_zstd_makes_much_smaller_is_retried_and_becomes_a_dead_letter_unchanged() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "well-compressed", "200ms", 1).await;
    let receiver = Receiver::start(|_| Answer::status(500));
    stage.put([&integration("i", &receiver.url(""))]);
    let worker = stage.worker(&[]).await;
    // Digits in any order: lz4 makes two megabytes of two, zstd less than one.
    let digits: String = (0..2_000_000).map(|_| char::from(rand::random_range(b'0'..=b'9'))).collect();
    let large =
        record("c", format!(r#"{{"id":"large","type":"change","entityIds":{{"companyId":"c"}},"x":"{digits}"}}"#));
    produce_compressed(cluster.brokers(), &stage.names.events(), "zstd", [large.clone()]);
    let requests = receiver.wait_for(2, PATIENCE).await;
    assert_eq!(requests.iter().map(crate::support::receiver::Recorded::attempt).collect::<Vec<_>>(), [1, 2]);
    stage.knows(&worker, "hookstream_dead_letters_total", &[("reason", "exhausted")], 1.0).await;
    let dead = stage.dead();
    assert!(dead.len() == 1 && dead[0].value == large.value, "its bytes are untouched");
    stage.settled(PATIENCE).await;
    stage.tier_settled("200ms", PATIENCE).await;
}

/// The parts of an event around its blanks.
const AROUND: (&[u8], &[u8]) = (br#"{"id":"inflated","type":"change","entityIds":{"companyId":"c"},"x":""#, br#""}"#);

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_inflates_more_than_the_client_expects_is_delivered() {
    const BLANKS: usize = 40_000_000;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "inflated", "1h", 1).await;
    let receiver = Receiver::start(|_| Answer::ok());
    stage.put([&integration("i", &receiver.url(""))]);
    let _worker = stage.worker(&[]).await;
    // The client guesses twice the size and then thrice the guess before: 38 MB, and then more than its default bound.
    produce_blanks(cluster.brokers(), &stage.names.events(), WORKSPACE, (AROUND.0, BLANKS, AROUND.1), 2_900);
    stage.send([event("after", "c")]);
    let requests = receiver.wait_for(2, PATIENCE).await;
    assert_eq!(requests[0].body.len(), AROUND.0.len() + BLANKS + AROUND.1.len());
    stage.settled(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_with_an_unreadable_record_is_logged_and_the_others_go_on() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "unreadable", "1h", 2).await;
    let receiver = Receiver::start(|_| Answer::ok());
    stage.put([&integration("i", &receiver.url(""))]);
    let worker = stage.worker(&[]).await;
    let in_partition = |id: &str, partition| event(id, "c").in_partition(partition);
    stage.send([in_partition("before", 0)]);
    receiver.wait_for(1, PATIENCE).await;
    // More than the client ever takes.
    produce_blanks(cluster.brokers(), &stage.names.events(), WORKSPACE, (AROUND.0, 600_000_000, AROUND.1), 19_000);
    stage.send([in_partition("behind", 0), in_partition("beside", 1)]);
    let topic = stage.names.events();
    worker.logged(&["what comes next in it cannot be read", &topic, "\"partition\":0", "\"offset\":1"]).await;
    stage.knows(&worker, "hookstream_still_partitions", &[], 1.0).await;
    let arrived = receiver.wait_for(2, PATIENCE).await;
    assert_eq!(arrived.iter().map(event_id).collect::<Vec<_>>(), ["before", "beside"]);
}
