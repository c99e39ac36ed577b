//! Kafka over TLS with a password: the options that the operator gives reach every client.

use serde_json::json;

use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::receiver::{Answer, Receiver};
use crate::support::records::{Record, produce};
use crate::support::wait::PATIENCE;
use crate::support::worker::{Names, Worker};

const PASSWORD: &str = "correct-horse-battery-staple";

/// A cluster whose second listener speaks TLS and asks for a SCRAM password, and the PEM file of its authority.
async fn secure_cluster(folder: &std::path::Path) -> crate::support::cluster::OwnCluster {
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
    let integration = json!({ "id": "i", "baseUrl": receiver.url(""), "webHooks": [
        { "id": "w", "relativeUrl": "/hook", "triggerType": "entityEvent", "filter": { "items": [{}] } }] });
    produce(cluster.brokers(), &names.integrations(), [Record::new("w/i", integration.to_string())]);
    let event = json!({ "id": "e", "type": "change", "entityIds": { "companyId": "c" } }).to_string();
    produce(cluster.brokers(), &names.events(), [Record::new("c", event).header("workspace", "w")]);

    let authority = format!("ssl.ca.location={}", folder.path().join("authority.pem").display());
    let password = format!("sasl.password={PASSWORD}");
    let secured = |password| {
        let properties =
            ["security.protocol=SASL_SSL", "sasl.mechanism=SCRAM-SHA-512", "sasl.username=hookstream", password];
        let all = properties.into_iter().chain([authority.as_str()]);
        let mut options: Vec<&str> = all.flat_map(|property| ["--kafka-property", property]).collect();
        options.extend(["--retry-schedule", "1s"]);
        options
    };
    let mut worker = Worker::start(cluster.second_brokers(), &names, &secured(&password)).await;
    receiver.wait_for(1, PATIENCE).await;
    worker.stop();
    let log = worker.lines().all().join("\n");
    assert!(!log.contains(PASSWORD), "the password is in the log");

    let wrong = secured("sasl.password=another");
    let mut refused = Worker::process(cluster.second_brokers(), &names, &wrong);
    assert_eq!(refused.wait(PATIENCE), 1);
    let log = refused.lines().tail(20);
    assert!(log.contains("Authentication failed"), "{log}");
    assert!(!log.contains("another"), "{log}");
}
