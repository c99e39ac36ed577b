//! The registration API held against its own description by schemathesis, on a real Kafka.

use std::process::Command;

use serde_json::json;

use crate::api::{Setting, TOKEN, hook};
use crate::support::cluster::Cluster;
use crate::support::worker::Names;

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_described_and_is_not_a_server_error() {
    let cluster = Cluster::shared().await;
    // Actions read and write topics, so all of them are there.
    let names = Names::of("schemathesis");
    names.create(cluster.brokers(), "1s", 1).await;
    let setting = Setting::of(cluster.brokers(), names.group(), names.integrations());
    let more = names.arguments_beside(cluster.brokers(), &["--brokers", "--group", "--integrations-topic"]);
    let api = setting.start("api", &more.iter().map(String::as_str).collect::<Vec<_>>());
    for id in ["one", "two"] {
        let instance = json!({"baseUrl": "https://a.example", "webHooks": [hook("w1"), hook("w2")]});
        assert_eq!(api.put(&format!("schemathesis/integrations/instances/{id}"), &instance).await.status, 200);
    }
    let url = format!("http://{}", api.address);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/schemathesis");
    let run = move || Command::new(script).args([&url, TOKEN, env!("CARGO_TARGET_TMPDIR")]).output();
    let output = tokio::task::spawn_blocking(run).await.unwrap().expect("the script starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{text}");
}
