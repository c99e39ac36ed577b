//! Kafka over TLS with a password: the options that the operator gives reach every client. And rights that a worker lacks.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::receiver::{Answer, Receiver};
use crate::support::records::{Record, produce};
use crate::support::wait::{PATIENCE, wait_until};
use crate::support::worker::{Names, Worker};

const PASSWORD: &str = "correct-horse-battery-staple";

/// An integration of workspace `w` whose webhook wants every event.
fn integration(receiver: &Receiver) -> Value {
    json!({ "id": "i", "baseUrl": receiver.url(""), "webHooks": [
        { "id": "w", "relativeUrl": "/hook", "triggerType": "entityEvent", "filter": { "items": [{}] } }] })
}

fn event() -> Record {
    let event = json!({ "id": "e", "type": "change", "entityIds": { "companyId": "c" } }).to_string();
    Record::new("c", event).header("workspace", "w")
}

/// A worker's options for the cluster's second listener.
fn secured(folder: &Path, password: &str) -> Vec<String> {
    let authority = format!("ssl.ca.location={}", folder.join("authority.pem").display());
    let password = format!("sasl.password={password}");
    let properties = [
        "security.protocol=SASL_SSL",
        "sasl.mechanism=SCRAM-SHA-512",
        "sasl.username=hookstream",
        &password,
        &authority,
    ];
    let all = properties.into_iter().flat_map(|property| ["--kafka-property", property]);
    all.chain(["--retry-schedule", "1s"]).map(str::to_owned).collect()
}

fn words(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

/// A cluster whose second listener speaks TLS and asks for a SCRAM password, and the PEM file of its authority.
async fn secure_cluster(folder: &Path) -> crate::support::cluster::OwnCluster {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    // A name of its own: with the same one on both, the broker's certificate looks signed by itself.
    authority.distinguished_name.push(rcgen::DnType::CommonName, "the tests' authority");
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    std::fs::write(folder.join("authority.pem"), authority_certificate.pem()).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let broker = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let store = folder.join("broker.pem");
    std::fs::write(&store, key.serialize_pem() + &broker.pem()).unwrap();
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let properties = [
        ("sasl.enabled.mechanisms", "SCRAM-SHA-512"),
        ("listener.name.second.scram-sha-512.sasl.jaas.config", scram),
        ("ssl.keystore.type", "PEM"),
        ("ssl.keystore.location", store.to_str().unwrap()),
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        // The tests themselves, by the first listener.
        ("super.users", "User:ANONYMOUS"),
        (concat!("allow.every", "one.if.no.acl.found"), "true"),
    ];
    let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Cluster::start_with(ClusterOptions {
        second_listener: Some("SASL_SSL".to_owned()),
        format_arguments: vec![
            "--add-scram".to_owned(),
            format!("SCRAM-SHA-512=[name=hookstream,password={PASSWORD}]"),
        ],
        properties,
        ..ClusterOptions::nodes(1)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_delivered_from_a_cluster_that_asks_for_tls_and_a_password() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = secure_cluster(folder.path()).await;
    let names = Names::of("security");
    names.create(cluster.brokers(), "1s", 2).await;
    let receiver = Receiver::start(|_| Answer::ok());
    produce(cluster.brokers(), &names.integrations(), [Record::new("w/i", integration(&receiver).to_string())]);
    produce(cluster.brokers(), &names.events(), [event()]);

    let options = secured(folder.path(), PASSWORD);
    let mut worker = Worker::start(cluster.second_brokers(), &names, &words(&options)).await;
    receiver.wait_for(1, PATIENCE).await;
    worker.stop();
    let log = worker.lines().all().join("\n");
    assert!(!log.contains(PASSWORD), "the password is in the log");

    let wrong = secured(folder.path(), "another");
    let mut refused = Worker::process(cluster.second_brokers(), &names, &words(&wrong));
    assert_eq!(refused.wait(PATIENCE), 1);
    let log = refused.lines().tail(20);
    assert!(log.contains("Authentication failed"), "{log}");
    assert!(!log.contains("another"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_may_not_read_a_topic_of_health_is_ready_delivers_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = secure_cluster(folder.path()).await;
    let names = Names::of("health-denied");
    names.create(cluster.brokers(), "1s", 2).await;
    let receiver = Receiver::start(|_| Answer::ok());
    produce(cluster.brokers(), &names.integrations(), [Record::new("w/i", integration(&receiver).to_string())]);
    let options = secured(folder.path(), PASSWORD);
    let topics = [names.health(), format!("{}.counts", names.health()), format!("{}.deltas", names.health())];
    for (number, topic) in topics.iter().enumerate() {
        cluster.deny_read("hookstream", topic);
        let mut worker = Worker::start(cluster.second_brokers(), &names, &words(&options)).await;
        produce(cluster.brokers(), &names.events(), [event()]);
        receiver.wait_for(number + 1, PATIENCE).await;
        // More than one session of the owner lasts until it is refused.
        wait_until("the alert's metric", PATIENCE, async || {
            let seconds = worker.metric("hookstream_health_unjudged_seconds", &[]).await;
            if seconds > 12.0 { Ok(()) } else { Err(seconds) }
        })
        .await;
        worker.logged(&["judged", "topic authorization failed"]).await;
        if *topic == names.health() {
            worker.logged(&["the health topic cannot be read"]).await;
        }
        worker.stop();
        cluster.allow_read("hookstream", topic);
    }
    let mut worker = Worker::start(cluster.second_brokers(), &names, &words(&options)).await;
    wait_until("it to judge", PATIENCE, async || {
        let seconds = worker.metric("hookstream_health_unjudged_seconds", &[]).await;
        if seconds.abs() < 1e-9 { Ok(()) } else { Err(seconds) }
    })
    .await;
    worker.stop();
}
